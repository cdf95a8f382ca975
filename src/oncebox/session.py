"""A session: one database connection as programs see it, whatever the driver.

`stores/` has one file per engine with its sessions; `adapt` there finds the session for a
connection that the caller has open.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, Protocol

from msgspec.json import encode as json_encode

from .errors import NoTransaction
from .program import Program, T, call
from .turns import Turn

Dialect = Literal["sqlite", "postgres"]
Rows = list[tuple[Any, ...]]
Statement = tuple[str, Sequence[Any]]
"""SQL and its parameters."""

START: Statement = ("BEGIN", ())
COMMIT: Statement = ("COMMIT", ())


class Session(Protocol):
    """What `stores/` derives its sessions from. Methods of an asynchronous one return awaitables;
    programs do not see the difference.

    SQL is written in the dialect's native form: `$1`, `$2` … on PostgreSQL (each may repeat),
    `?` on SQLite. Rows are tuples of plain Python values.
    """

    dialect: Dialect
    asynchronous: bool
    kind: str
    """How the connection is called in errors."""
    how_to_begin: str
    """What somebody who forgot the transaction has to write."""
    handle: Any
    """What handlers receive as `tx`: the driver's connection, or the application's session."""
    lost: Callable[[], bool] | None = None
    """Where a driver can tell at once: whether the transaction that we began is gone."""
    ask: Callable[[Sequence[Statement]], Awaitable[None] | None] | None = None
    """Where a driver can: send statements and wait for nothing. After it, nothing but `answers`, or
    `rollback`, until they are there."""

    in_turn: bool = False
    """Whether it gives up its thread's turn by itself, see `take_turns`."""

    def begin(self) -> Awaitable[None] | None:
        """Open a transaction that may write (SQLite: BEGIN IMMEDIATE; PostgreSQL: the default
        isolation, read committed).
        """
        ...

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Awaitable[Rows] | Rows:
        """Run one statement; its rows, or an empty list. Opens no transaction by itself."""
        ...

    def send(self, sql: str, parameters: Sequence[Any] = ()) -> Awaitable[Any] | Any:
        """Run one statement whose rows nobody reads: in a pipeline it is not waited for."""
        return self.run(sql, parameters)

    def answers(self) -> Awaitable[list[Rows]] | list[Rows]:
        """The rows of each statement of `ask` but BEGIN and COMMIT, once all have been run."""
        return []

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> Awaitable[None] | None:
        """Run one statement once per row of parameters."""
        ...

    def commit(self) -> Awaitable[None] | None: ...

    def rollback(self) -> Awaitable[None] | None:
        """Give up the transaction; harmless when there is none."""
        ...

    def in_transaction(self) -> bool:
        """Whether a statement that runs now would be part of a transaction."""
        ...

    def require_transaction(self) -> Awaitable[None] | None:
        """Raises NoTransaction, with how to open one, unless a transaction is open."""
        if not self.in_transaction():
            raise self.no_transaction()
        return None

    def no_transaction(self) -> NoTransaction:
        return NoTransaction(
            f"{self.kind} has no transaction open",
            expected="a transaction, so that the event exists if and only if it commits",
            hint=self.how_to_begin,
        )

    def savepoint(self) -> Awaitable[Any] | Any:
        """Mark a place in the transaction. At most one at a time."""
        return self.send("SAVEPOINT oncebox_event")

    def release(self) -> Awaitable[Any] | Any:
        """Forget the savepoint. Raises when it is gone: somebody committed or rolled back."""
        return self.send("RELEASE SAVEPOINT oncebox_event")

    def rollback_to(self) -> Awaitable[Any] | Any:
        """Undo what came after the savepoint. Raises when it is gone."""
        return self.send("ROLLBACK TO SAVEPOINT oncebox_event")

    def pipeline(self, on: bool) -> Awaitable[None] | None:  # noqa: ARG002
        """Begin or end sending statements without waiting for each; ending raises the first
        failure. Nothing happens on drivers that cannot.
        """
        return None

    def take_turns(self, turn: Turn) -> Awaitable[None] | None:  # noqa: ARG002
        """Where the driver can: be `in_turn`, and give up this thread's turn while it waits."""
        return None

    def push(self) -> Awaitable[None] | None:
        """Put on the network what was sent, so that the database works on it meanwhile."""
        return None

    def role(self) -> str | None:
        """The database role, where there is one and it can be known without asking."""
        return None

    def close(self) -> Awaitable[None] | None: ...


class Store(Protocol):
    """Where a service's tables live, and how to get a session of its own there."""

    dialect: Dialect
    asynchronous: bool = False
    schema: str

    def open(self) -> Awaitable[Session] | Session:
        """A new session. Raises Unreachable, MissingDependency."""
        ...


Trouble = Literal["retry", "unavailable", "corrupt", "other"]
"""`retry`: deadlock or serialization failure, run the transaction again. `unavailable`: the
connection or server is gone, locked, full. `corrupt`: what is stored is damaged. `other`: the
statement's own fault."""


def nothing() -> Program[None]:
    """What there is to do meanwhile, for most."""
    yield from ()


def asked(
    session: Session,
    statements: Sequence[Statement],
    meanwhile: Callable[[], Program[None]] = nothing,
) -> Program[list[Rows]]:
    """The rows of statements, in the transaction that is open. Where the driver can, they are sent
    at once, and `meanwhile` is done until they are answered.
    """
    if session.ask is not None:
        yield from call(session.ask, statements)
        yield from meanwhile()
        return (yield from call(session.answers))
    answers = []
    for sql, parameters in statements:
        answers.append((yield from call(session.run, sql, parameters)))
    return answers


def ask(session: Session, statements: Sequence[Statement]) -> Program[list[Rows] | None]:
    """Run statements as one transaction; their rows. None: `session.answers` will have them."""
    if session.ask is not None:
        yield from call(session.ask, [START, *statements, COMMIT])
        return None
    yield from call(session.begin)
    answers = yield from asked(session, statements)
    yield from call(session.commit)
    return answers


def commit(session: Session, meanwhile: Callable[[], Program[None]]) -> Program[None]:
    """Commit, and end the pipeline; where the driver can, `meanwhile` is done until the answer is
    there.
    """
    if session.ask is not None:
        yield from asked(session, [COMMIT], meanwhile)
    else:
        yield session.pipeline, (False,)
    yield from call(session.commit)


def in_transaction(session: Session, work: Program[T]) -> Program[T]:
    """Work in a transaction of its own; none of it where it fails."""
    yield from call(session.begin)
    try:
        result = yield from work
        yield from call(session.commit)
    except BaseException:
        yield from call(session.rollback)
        raise
    return result


def bulk(
    session: Session, sql: str, rows: Sequence[Sequence[Any]], one: str | None = None
) -> Program[None]:
    """One statement for many rows: arrays by column on PostgreSQL, once per row on SQLite. `one`:
    see `query`.
    """
    if not rows:
        return
    if session.dialect == "postgres":
        yield from call(session.send, *query(session, sql, rows, one=one))
    else:
        yield from call(session.run_many, sql, rows)


def lookup(
    session: Session, sql: str, rows: Sequence[Sequence[Any]], head: Sequence[Any] = ()
) -> Program[Rows]:
    """The rows of one query for many rows."""
    if not rows:
        return []
    found: Rows = yield from call(session.run, *query(session, sql, rows, head))
    return found


def query(
    session: Session,
    sql: str,
    rows: Sequence[Sequence[Any]],
    head: Sequence[Any] = (),
    one: str | None = None,
) -> Statement:
    """One statement for many rows: arrays by column on PostgreSQL, one JSON array on SQLite. `one`:
    the statement for a single row: PostgreSQL plans an array of one anew each time, since its plan
    for any array seems dearer.
    """
    if one is not None and len(rows) == 1:
        return one, (*head, *rows[0])
    if session.dialect == "postgres":
        return sql, (*head, *(list(column) for column in zip(*rows, strict=True)))
    return sql, (*head, _json(rows))


def keys_value(session: Session, keys: Sequence[str]) -> Any:
    """Keys as one parameter of a statement: an array on PostgreSQL, a JSON array on SQLite."""
    return keys if session.dialect == "postgres" else _json(keys)


def _json(rows: Sequence[Any]) -> str:
    return json_encode(rows).decode()
