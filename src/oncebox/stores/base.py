"""What engines share, and what a driver's error means."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from ..errors import (
    BadEvent,
    CorruptStore,
    MissingRight,
    MissingTables,
    OnceboxError,
    StoreUnavailable,
    TransactionEnded,
    Unreachable,
)
from ..session import Session, Trouble


class Forwarded(Session):
    """A session whose work another one does, where only `forward` can reach it: in a thread, in a
    greenlet, over a connection that is lent.
    """

    def forward(self, method: str, *arguments: Any) -> Any:
        """That method of the other session; on asynchronous kinds it is awaited."""
        raise NotImplementedError

    def begin(self) -> Any:
        return self.forward("begin")

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        return self.forward("run", sql, parameters)

    def send(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        return self.forward("send", sql, parameters)

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> Any:
        return self.forward("run_many", sql, rows)

    def commit(self) -> Any:
        return self.forward("commit")

    def rollback(self) -> Any:
        return self.forward("rollback")

    def savepoint(self) -> Any:
        return self.forward("savepoint")

    def release(self) -> Any:
        return self.forward("release")

    def rollback_to(self) -> Any:
        return self.forward("rollback_to")


def ended(handler: str = "a handler", **event: str | None) -> TransactionEnded:
    """For a handler that goes on behind the end of its batch's transaction: what it wrote then
    would be committed without what says that it was done.
    """
    return TransactionEnded(
        f"{handler} ended the transaction of its batch",
        expected="a handler that neither commits nor rolls back",
        hint="remove its commit() or rollback(); oncebox commits for it",
        **event,
    )


def refused(error: BaseException | None) -> bool:
    """Whether a handler's COMMIT or ROLLBACK was refused: by us, or by SQLite for us."""
    return error is not None and any(
        isinstance(cause, TransactionEnded) or _code(cause) == "SQLITE_AUTH"
        for cause in _causes(error)
    )


_ENDS = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*"
    r"(?:commit|end|abort|prepare\s+transaction|rollback(?!\s+(?:work\s+|transaction\s+)?to\b))\b",
    re.IGNORECASE | re.DOTALL,
)


def refuse_end(sql: str | bytes) -> None:
    """Raises TransactionEnded for SQL that ends the transaction."""
    if _ENDS.match(sql.decode() if isinstance(sql, bytes) else sql):
        raise ended()


def begins_by_itself(connection: Any) -> bool:
    """Whether Python opens a transaction on a `sqlite3` connection before any change.

    It does in its old mode, unless the isolation level is None; since 3.12 there is an attribute
    `autocommit` (-1: the old mode).
    """
    mode = getattr(connection, "autocommit", -1)
    return mode is False or (mode is not True and connection.isolation_level is not None)


def outside_transaction(connection: Any) -> bool:
    """Whether a driver's connection (sqlite3, asyncpg, psycopg) stands between transactions now."""
    if hasattr(connection, "is_in_transaction"):
        inside = connection.is_in_transaction()
    elif hasattr(connection, "in_transaction"):
        inside = connection.in_transaction
    else:
        inside = connection.info.transaction_status != 0  # IDLE
    return not inside


_TROUBLE: tuple[tuple[Trouble, tuple[str, ...]], ...] = (
    ("retry", ("40001", "40P01", "55P03", "SQLITE_BUSY_SNAPSHOT", "SQLITE_LOCKED")),
    ("corrupt", ("XX001", "XX002", "SQLITE_CORRUPT", "SQLITE_NOTADB")),
    ("unavailable", ("08", "53", "57P", "58", "25006", "25P03", "25P04")),
    ("unavailable", (
        "SQLITE_BUSY", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN",
    )),
)  # fmt: skip
"""How codes begin: SQLSTATE, and SQLite's extended result codes. BUSY_SNAPSHOT is a reader that
became a writer too late. Unavailable on PostgreSQL: connection lost, resources spent, shutdown,
disk trouble; a standby; ended by a timeout that closes the connection. Source: its appendix A.
"""

_CANCELED = "57014"
"""By a timeout: of a handler's statement, its own fault; of ours, somebody's who holds a lock."""

_GONE = ("OperationalError", "InterfaceError", "DisconnectionError", "PoolTimeout", "PoolClosed")


def trouble(error: BaseException) -> Trouble:
    """What kind of failure an exception of a driver is, also inside SQLAlchemy's or Django's.

    Known by what it carries, so that no driver has to be imported.
    """
    if isinstance(error, Unreachable):
        return "unavailable"
    code = next(filter(None, map(_code, _causes(error))), None)
    if code is not None:
        for kind, starts in _TROUBLE:
            if code.startswith(starts):
                return kind
        return "other"
    gone = any(
        getattr(cause, "connection_invalidated", False) or _is_gone(cause)
        for cause in _causes(error)
    )
    return "unavailable" if gone else "other"


def explained(error: Exception, session: Any) -> OnceboxError | None:
    """A driver's error from a statement of ours as our own; None where it says enough itself."""
    if isinstance(error, OnceboxError):
        return None
    for cause in _causes(error):
        state = getattr(cause, "sqlstate", None)
        text = str(cause).strip().split("\n")[0]
        if state in ("42P01", "3F000", "42883", "42703") or "no such table: " in text:
            return MissingTables(text, hint="run: oncebox db migrate")
        if state == "42501":
            role = session.role() if hasattr(session, "role") else None
            return MissingRight(
                text + (f" (role {role})" if role else ""),
                expected="usage on oncebox's schema; select, insert, update, delete on its tables",
                hint="oncebox db check lists what is missing, and how to grant it",
            )
        if text.startswith("oncebox: "):
            return BadEvent(text.removeprefix("oncebox: "))
    return None


def raise_explained(error: Exception, session: Any) -> NoReturn:
    """Raise what `explained` makes of a driver's error, else the error as it is."""
    ours = explained(error, session)
    if ours is None:
        raise error
    raise ours from error


def typed(error: Exception, session: Any) -> Exception:
    """A driver's error in a loop of ours as our own, where it has a name; else the same."""
    if isinstance(error, OnceboxError):
        return error
    return explained(error, session) or unusable(error) or error


def unusable(error: BaseException, where: str = "") -> CorruptStore | StoreUnavailable | None:
    """What a driver's error says of a store that is damaged or cannot be used now; else None."""
    kind = trouble(error)
    cause = next((c for c in _causes(error) if _code(c)), error)
    code = _code(cause) or ""
    if kind not in ("corrupt", "unavailable") and code != _CANCELED:
        return None
    text = str(cause).strip().split("\n")[0]
    if kind == "corrupt":
        return CorruptStore(
            f"{where or 'the store'} is damaged: {text}",
            hint="restore it from a copy; chains show what the copy does not have",
        )
    hint = next((hint for start, hint in _HINTS.items() if code.startswith(start)), None)
    return StoreUnavailable(
        f"{where}: {text}" if where else text,
        hint=hint or _hint(text) or "it goes on by itself when the store is back",
    )


def unreachable(error: BaseException) -> Unreachable:
    """A failure to connect to PostgreSQL as ours. libpq's text names host, port and user, never
    the password.
    """
    text = " ".join(str(error).split()).removesuffix(
        " Is the server running on that host and accepting TCP/IP connections?"
    )
    text = text or type(error).__name__  # a timeout has no words
    return Unreachable(f"PostgreSQL: {text}", hint=_hint(text) or _HINT_AWAY)


def cannot_connect(error: BaseException) -> bool:
    """Whether asking for a connection failed in a way that has no other name: the system's own
    error, or that the server knows no such user, password or database.
    """
    code = next(filter(None, map(_code, _causes(error))), "")
    return isinstance(error, OSError) or code.startswith(("28", "3D000"))


_HINT_AWAY = "is the server running, and the URL's host and port right?"


def _hint(text: str) -> str | None:
    """What to do where somebody was not let in, or found nobody."""
    if "authentication failed" in text or "no password supplied" in text:
        return "check user and password in the URL"
    if "does not exist" in text:
        return "check the names of database and user in the URL"
    if "pg_hba.conf" in text:
        return "the server's pg_hba.conf does not let this user in from here"
    away = "connection failed" in text or "failed to resolve" in text
    return _HINT_AWAY if away else None


def blocked(error: BaseException) -> StoreUnavailable | None:
    """What it means that a statement of ours, before any handler ran, waited too long: somebody
    has the rows locked, and that is the fault of no event.
    """
    found = unusable(error) if trouble(error) == "other" else None
    return found if isinstance(found, StoreUnavailable) else None


_HINTS = {
    "SQLITE_CANTOPEN": "check that the folder exists and can be written",
    "SQLITE_READONLY": "the file or its folder is read-only",
    "SQLITE_BUSY": "another process holds the file locked",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_IOERR": "the disk is full or failing",
    "25006": "the database is read-only: a standby, or default_transaction_read_only is set",
    "53100": "the server's disk is full",
    "53300": "the server has no connection left: raise max_connections or use a pool",
    "57014": "a statement of ours waited too long: who holds oncebox's tables locked?",
    "57P": "the server is shutting down or starting",
}


def of_database(error: BaseException) -> bool:
    """Whether a database said it."""
    return any(map(_code, _causes(error)))


def _code(error: BaseException) -> str | None:
    code = getattr(error, "sqlstate", None) or getattr(error, "sqlite_errorname", None)
    return code if isinstance(code, str) else None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception, what it wraps, and so on; SQLAlchemy keeps the driver's in `orig`."""
    current: BaseException | None = error
    for _ in range(6):
        if current is None:
            return
        yield current
        current = getattr(current, "orig", None) or current.__cause__


def _is_gone(error: BaseException) -> bool:
    """Whether a driver says, without a code, that the connection or the pool's turn is over."""
    module = type(error).__module__.partition(".")[0]
    if module in ("psycopg", "psycopg_pool"):  # InternalError: answers that it did not expect, as
        # when the server says why it goes and then is gone; the server's own have a code
        names = ("OperationalError", "InternalError")
        return any(cls.__name__ in names for cls in type(error).__mro__)
    if module in ("asyncpg", "aiosqlite", "django", "sqlalchemy"):
        named = any(cls.__name__ in _GONE for cls in type(error).__mro__)
        closed = "closed" in str(error) or "no active connection" in str(error)
        pool_spent = module == "sqlalchemy" and type(error).__name__ == "TimeoutError"
        return pool_spent or (named and closed)
    return False
