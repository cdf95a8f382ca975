"""What sessions of all kinds share, and what a driver's error means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from ..errors import (
    BadEvent,
    CorruptStore,
    MissingRight,
    MissingTables,
    NoTransaction,
    OnceboxError,
    StoreUnavailable,
    Unreachable,
)
from ..session import Statement, Trouble


class SessionBase:
    """Defaults of a session. On asynchronous kinds, `run` and all that rests on it are awaited."""

    kind: str
    """How the connection is called in errors."""
    how_to_begin: str
    """What somebody who forgot the transaction has to write."""

    lost: Callable[[], bool] | None = None
    """Where it can be told at once: whether the transaction that we began is gone."""

    ask: Callable[[Sequence[Statement]], None] | None = None

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        raise NotImplementedError

    def in_transaction(self) -> bool:
        raise NotImplementedError

    def send(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        return self.run(sql, parameters)

    def require_transaction(self) -> Any:
        if not self.in_transaction():
            raise self.no_transaction()

    def no_transaction(self) -> NoTransaction:
        return NoTransaction(
            f"{self.kind} has no transaction open",
            expected="a transaction, so that the event exists if and only if it commits",
            hint=self.how_to_begin,
        )

    def role(self) -> str | None:
        """The database role, where there is one and it can be known without asking."""
        return None

    def savepoint(self) -> Any:
        return self.send("SAVEPOINT oncebox_event")

    def release(self) -> Any:
        return self.send("RELEASE SAVEPOINT oncebox_event")

    def rollback_to(self) -> Any:
        return self.send("ROLLBACK TO SAVEPOINT oncebox_event")

    def pipeline(self, on: bool) -> Any:  # noqa: ARG002
        return None


class StoreBase:
    """Defaults of a store."""

    asynchronous = False

    def trouble(self, error: BaseException) -> Trouble:
        return trouble(error)

    def close(self) -> None:
        return None


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


_RETRY = ("40001", "40P01", "55P03")
_UNAVAILABLE = ("08", "53", "57P", "58", "25006", "25P03", "25P04")
"""Connection lost, resources spent, shutdown, disk trouble; a standby; ended by a timeout that
closes the connection. Source: PostgreSQL, appendix A."""

_CANCELED = "57014"
"""By a timeout: of a handler's statement, its own fault; of ours, somebody's who holds a lock."""

_CORRUPT = ("XX001", "XX002", "SQLITE_CORRUPT", "SQLITE_NOTADB")

_GONE = ("OperationalError", "InterfaceError", "DisconnectionError", "PoolTimeout", "PoolClosed")


def trouble(error: BaseException) -> Trouble:
    """What kind of failure an exception of a driver is, also inside SQLAlchemy's or Django's.

    Known by what it carries, so that no driver has to be imported.
    """
    if isinstance(error, Unreachable):
        return "unavailable"
    for code in filter(None, map(_code, _causes(error))):
        return sqlite_trouble(code) if code.startswith("SQLITE_") else state_trouble(code)
    for cause in _causes(error):
        if getattr(cause, "connection_invalidated", False) or _is_gone(cause):
            return "unavailable"
    return "other"


def state_trouble(state: str) -> Trouble:
    """By SQLSTATE."""
    if state in _RETRY:
        return "retry"
    if state.startswith(_CORRUPT):
        return "corrupt"
    return "unavailable" if state.startswith(_UNAVAILABLE) else "other"


def sqlite_trouble(name: str) -> Trouble:
    """By SQLite's extended result code. BUSY_SNAPSHOT: a reader that became a writer too late."""
    if name.startswith(("SQLITE_BUSY_SNAPSHOT", "SQLITE_LOCKED")):
        return "retry"
    if name.startswith(_CORRUPT):
        return "corrupt"
    busy = ("SQLITE_BUSY", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")
    return "unavailable" if name.startswith(busy) else "other"


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
    ours = explained(error, session)
    if ours is not None:
        return ours
    return unusable(error) or error


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
        hint=hint or "it goes on by itself when the store is back",
    )


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
    if module in ("psycopg", "psycopg_pool"):
        return any(cls.__name__ == "OperationalError" for cls in type(error).__mro__)
    if module in ("asyncpg", "aiosqlite", "django", "sqlalchemy"):
        named = any(cls.__name__ in _GONE for cls in type(error).__mro__)
        closed = "closed" in str(error) or "no active connection" in str(error)
        pool_spent = module == "sqlalchemy" and type(error).__name__ == "TimeoutError"
        return pool_spent or (named and closed)
    return False
