"""PostgreSQL through psycopg 3: sessions over its connections, and the stores `postgresql://…` and
those over its pools. Plain and asynchronous are one text: programs.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Literal, NoReturn

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row
from psycopg.sql import Composable

from ..program import Program, call, perform
from ..session import COMMIT, START, Dialect, Rows, Session, Statement, Store
from ..turns import Turn
from .arrays import OwnListDumper, QuickListDumper
from .base import ended, refuse_end, unreachable
from .gathering import gather
from .pooled import PooledStore

logger = logging.getLogger("oncebox")

CONNECT_TIMEOUT_S = 10

LOOPBACK = ("localhost", "127.0.0.1", "::1", "")
_warned: set[str] = set()

BACKEND = "select pg_backend_pid()"
"""Another answer than at connecting: a pooler is between, and may give each transaction another
server connection, which does not know the statements that were prepared on the one before."""

Connection = psycopg.Connection[Any]
AsyncConnection = psycopg.AsyncConnection[Any]


BEGIN = "_get_tx_start_command"
"""A method of psycopg's connections, without a public name: the SQL that begins a transaction."""

ADAPTERS = AdaptersMap(psycopg.adapters)
"""How our statements' values travel, whatever the caller's connection is set to."""
ADAPTERS.register_dumper(list, OwnListDumper)


_execute: Any = psycopg.Cursor.execute
_CHANGES = frozenset("IiUuDdWw")
"""How INSERT, UPDATE, DELETE and WITH begin, which are not waited for in a pipeline. WITH mostly
leads to a change there: who asks by it reads its rows.
"""

_HARMLESS = _CHANGES | {"S", "s"}
"""How those and SELECT begin: nothing that ends a transaction."""


def _text(query: Any) -> str:
    """SQL that is no `str`: composed, bytes, or a template string."""
    if isinstance(query, Composable):
        return query.as_string()
    return query.decode() if isinstance(query, bytes) else "".join(query.strings)


class OwnCursor(psycopg.RawCursor[tuple[Any, ...]]):
    """A cursor for our statements on any connection."""

    @property
    def adapters(self) -> AdaptersMap:
        return ADAPTERS


class AsyncOwnCursor(psycopg.AsyncRawCursor[tuple[Any, ...]]):
    """The same, asynchronous."""

    @property
    def adapters(self) -> AdaptersMap:
        return ADAPTERS


class ExactCursor(psycopg.Cursor[Any]):
    """What handlers on our own connections get: what tells of the answer waits for it in a
    pipeline, where the driver alone would say -1 for `rowcount`, or count what is answered of many,
    and a handler that compares it would go wrong silently.
    There, too, the driver learns too late that SQL has ended our transaction: that is refused. And
    whoever asks has his answer, and its lock, when `execute` returns.
    """

    def execute(
        self, query: Any, params: Any = None, *, prepare: Any = None, binary: Any = None
    ) -> Any:
        text = query if query.__class__ is str else _text(query)
        begins = text[:1]
        # Nearly every statement shows by its first letter that it ends nothing.
        if begins not in _HARMLESS:
            begins = text.lstrip()[:1]
            if BEGIN in vars(self.connection):
                refuse_end(text)
        _execute(self, query, params, prepare=prepare, binary=binary)
        if begins not in _CHANGES:
            self._wait()
        return self

    def executemany(self, query: Any, params_seq: Any, *, returning: bool = False) -> None:
        super().executemany(query, params_seq, returning=returning)
        self._wait()

    @property
    def rowcount(self) -> int:
        self._wait()
        return super().rowcount

    @property
    def description(self) -> Any:
        self._wait()
        return super().description

    @property
    def statusmessage(self) -> str | None:
        self._wait()
        return super().statusmessage

    def _wait(self) -> None:
        if self.pgresult is None and in_pipeline(self.connection):
            with self.connection.pipeline():  # leaving an inner one waits for the answers
                pass


class OwnConnection(psycopg.Connection[Any]):
    """A connection of ours that is not asynchronous: `turn`, see `Session.take_turns`."""

    turn: Turn | None = None

    def wait(self, gen: Any, *arguments: Any, **more: Any) -> Any:
        """Where the driver waits for the network."""
        if self.turn is None or not self.turn.mine:  # a handler's statement
            return super().wait(gen, *arguments, **more)
        steps = self.turn.waits(gen)
        try:
            return super().wait(steps, *arguments, **more)
        finally:
            steps.close()  # the turn is ours again, also where it was interrupted


class PsycopgSession(Session):
    """A `psycopg.Connection` or `AsyncConnection` of ours or the caller's, of any row and cursor
    factory.

    `send` in a pipeline waits for nothing; `run` waits for all that was sent, to have its rows.
    `own`: the connection is one of ours, so nobody minds a pipeline.
    """

    kind = "this psycopg connection"
    dialect: Dialect = "postgres"

    def __init__(self, connection: Connection | AsyncConnection, *, own: bool = False) -> None:
        self.handle: Any = connection
        self.asynchronous = isinstance(connection, psycopg.AsyncConnection)
        word = "async with" if self.asynchronous else "with"
        self.how_to_begin = f"Open one: {word} connection.transaction(): …"
        self._cursor = self._own_cursor()
        self._own = own
        self._pipeline: Any = None
        self._gathering: Any = None
        self._asked: list[Any] | None = None
        self._autocommit = connection.autocommit
        self.ask = self._ask if own else None

    def _own_cursor(self) -> Any:
        kind = AsyncOwnCursor if self.asynchronous else OwnCursor
        return kind(self.handle, row_factory=tuple_row)

    def _perform(self, program: Program[Any]) -> Any:
        return perform(program, asynchronous=self.asynchronous)

    def begin(self) -> Any:
        return self._perform(self._begin())

    def _begin(self) -> Program[None]:
        """The driver sends BEGIN before the first statement, and would again behind the end of the
        transaction; that is refused, since a handler's own COMMIT would then have nothing in its
        way. Its methods are refused before they send anything: in a pipeline, what the handler
        writes next would be sent before the answer is there.
        """
        yield from call(self.handle.set_autocommit, False)
        self._free()
        begin = iter([getattr(self.handle, BEGIN)()])

        def once() -> Any:
            for sql in begin:
                return sql
            raise ended()

        vars(self.handle).update({BEGIN: once, "commit": _refused, "rollback": _refused})

    def _free(self) -> None:
        for name in (BEGIN, "commit", "rollback"):
            vars(self.handle).pop(name, None)

    def send(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        return self._cursor.execute(sql.encode(), parameters)

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        return self._perform(self._run(sql, parameters))

    def _run(self, sql: str, parameters: Sequence[Any]) -> Program[Rows]:
        # What was sent before on the same cursor may still be answered: another one.
        piped = in_pipeline(self.handle)
        cursor = self._own_cursor() if piped else self._cursor
        # Binary, but where several statements may come at once: a payload is half as long.
        yield from call(partial(cursor.execute, binary=bool(parameters)), sql.encode(), parameters)
        if not piped and not cursor.description:
            return []
        try:
            rows: Rows = yield from call(cursor.fetchall)
        except psycopg.ProgrammingError as error:
            if error.sqlstate is None:  # the driver's own: this statement has no rows
                return []
            raise
        return rows

    def _ask(self, statements: Sequence[Statement]) -> Any:
        return self._perform(self._send_all(statements))

    def _send_all(self, statements: Sequence[Statement]) -> Program[None]:
        asked = self._asked = list[Any]()
        yield from self._piped(on=True)
        self._gathering.asks = True
        for statement in statements:
            cursor = self._own_cursor()  # binary: see `_run`
            execute: Any = partial(cursor.execute, binary=bool(statement[1]))
            yield from call(execute, statement[0].encode(), statement[1])
            if statement not in (START, COMMIT):
                asked.append(cursor)
        self._gathering.asks = False
        self.handle.pgconn.flush()

    def answers(self) -> Any:
        return self._perform(self._answers())

    def _answers(self) -> Program[list[Rows]]:
        asked, self._asked = self._asked, None
        yield from self._piped(on=False)
        answers = list[Rows]()
        for cursor in asked or ():
            known = cursor.pgresult and cursor.pgresult.nfields
            answers.append((yield from call(cursor.fetchall)) if known else [])
        return answers

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> Any:
        return self._cursor.executemany(sql.encode(), rows)

    def commit(self) -> Any:
        return self._perform(self._end("commit"))

    def rollback(self) -> Any:
        return self._perform(self._end("rollback"))

    def _end(self, how: Literal["commit", "rollback"]) -> Program[None]:
        if self._asked is not None:
            with suppress(psycopg.Error):  # what became of it is of no interest any more
                yield from self._answers()
        self._free()
        yield from call(getattr(self.handle, how))
        yield from call(self.handle.set_autocommit, self._autocommit)

    def pipeline(self, on: bool) -> Any:
        return self._perform(self._piped(on=on))

    def _piped(self, *, on: bool) -> Program[None]:
        if on and self._pipeline is None and self._own:
            self._pipeline = self.handle.pipeline()
            self._gathering = yield from self._enter(self._pipeline)
            gather(self._gathering)
        elif not on and self._pipeline is not None:
            pipeline, self._pipeline = self._pipeline, None
            yield from self._leave(pipeline)

    def _enter(self, pipeline: Any) -> Program[Any]:
        return (yield from call(pipeline.__aenter__ if self.asynchronous else pipeline.__enter__))

    def _leave(self, pipeline: Any) -> Program[None]:
        leave = pipeline.__aexit__ if self.asynchronous else pipeline.__exit__
        yield from call(leave, None, None, None)

    def take_turns(self, turn: Turn) -> None:
        if isinstance(self.handle, OwnConnection):
            self.handle.turn, self.in_turn = turn, True

    def push(self) -> None:
        if self._pipeline is not None:
            self.handle.pgconn.flush()

    def in_transaction(self) -> bool:
        return in_transaction(self.handle) is True

    def require_transaction(self) -> Any:
        known = in_transaction(self.handle)
        if known is None:
            return self._perform(self._require_transaction())
        if not known:
            raise self.no_transaction()
        return None

    def _require_transaction(self) -> Program[None]:
        yield from self._answered()
        if not in_transaction(self.handle):
            raise self.no_transaction()

    def _answered(self) -> Program[None]:
        """Wait for the answers to all that was sent: leaving an inner pipeline does."""
        inner = self.handle.pipeline()
        yield from self._enter(inner)
        yield from self._leave(inner)

    def role(self) -> str:
        name: str = self.handle.info.user
        return name

    def close(self) -> Any:
        return self.handle.close()


def _refused() -> NoReturn:
    raise ended()


def in_pipeline(connection: Connection | AsyncConnection) -> bool:
    """Whether statements are sent without waiting for each."""
    return connection.pgconn.pipeline_status != PipelineStatus.OFF


def in_transaction(connection: Connection | AsyncConnection) -> bool | None:
    """Whether a statement would be part of a transaction; None: only the server knows now."""
    if not connection.autocommit:
        return True  # psycopg opens one before any statement
    status = connection.info.transaction_status
    if status == TransactionStatus.ACTIVE and in_pipeline(connection):
        # The counter of open `transaction()` blocks saves a round trip; nothing rests on it.
        if getattr(connection, "_num_transactions", None):
            return True
        return None
    return status in (TransactionStatus.INTRANS, TransactionStatus.INERROR)


class PostgresStore(Store):
    """A database named by a URL; handlers receive `psycopg.Connection`, or `AsyncConnection`."""

    dialect: Dialect = "postgres"

    def __init__(self, url: str, schema: str = "oncebox", *, asynchronous: bool = False) -> None:
        self.url = url
        self.schema = schema
        self.asynchronous = asynchronous

    def open(self) -> Any:
        return perform(self._open(), asynchronous=self.asynchronous)

    def _open(self) -> Program[PsycopgSession]:
        kind = psycopg.AsyncConnection if self.asynchronous else OwnConnection
        connect: Any = partial(kind.connect, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S)
        try:
            connection = yield from call(connect, self.url)
        except psycopg.Error as error:
            raise unreachable(error) from error
        warn_of_plain_text(connection)
        connection.adapters.register_dumper(list, QuickListDumper)
        if not self.asynchronous:
            connection.cursor_factory = ExactCursor
        session = PsycopgSession(connection, own=True)
        try:
            backend = yield from call(session.run, BACKEND)
        except psycopg.Error as error:  # of a pooler: the server behind it is away
            yield from call(session.close)
            raise unreachable(error) from error
        if backend != [(connection.info.backend_pid,)]:
            connection.prepare_threshold = None
        return session


AsyncPostgresStore = partial(PostgresStore, asynchronous=True)


def pool_store(pool: Any, schema: str) -> PooledStore:
    """A store over a pool of psycopg's; handlers receive the pool's kind of connection."""
    asynchronous = iscoroutinefunction(pool.getconn)

    def take() -> Program[Any]:
        if pool.closed:  # made with open=False: on the command line, nobody else opens it
            yield from call(pool.open)
        return (yield from call(pool.getconn))

    return PooledStore(
        "postgres", schema, lambda: perform(take(), asynchronous=asynchronous), PsycopgSession,
        pool.putconn, asynchronous=asynchronous,
    )  # fmt: skip


def warn_of_plain_text(connection: Connection | AsyncConnection) -> None:
    """Once for each host that is not this machine."""
    host = connection.info.host
    if connection.pgconn.ssl_in_use or host.startswith("/") or host in (*LOOPBACK, *_warned):
        return
    _warned.add(host)
    logger.warning("events travel unencrypted to %s: add ?sslmode=verify-full to its URL", host)
