"""SQLite: sessions over `sqlite3` connections, and the store behind `sqlite:///file.db`.

One writer at a time, so AUTOINCREMENT order is commit order. WAL, `synchronous=FULL`.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError, CorruptStore, StoreUnavailable
from ..session import Dialect, Rows, Session, Store
from .base import begins_by_itself, unusable

BUSY_TIMEOUT_S = 5.0
PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")
"""As every connection of ours is set: commits survive power loss."""


class SqliteSession(Session):
    """A `sqlite3` connection of ours or the caller's: its row factory does not matter."""

    kind = "this sqlite3 connection"
    how_to_begin = 'Open one: connection.execute("BEGIN IMMEDIATE"), then emit, then commit()'
    dialect: Dialect = "sqlite"
    asynchronous = False

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.handle = connection
        self.lost = lambda: not connection.in_transaction
        self._ours: list[bool] = getattr(connection, "ours", [])  # a caller's: nobody reads it

    def begin(self) -> None:
        """If SQLite itself ends the transaction (an ON CONFLICT ROLLBACK), Python opens another for
        what comes after, which is refused: for so long the connection has an isolation level.
        """
        self.handle.execute("BEGIN IMMEDIATE")
        self.handle.isolation_level = "IMMEDIATE"
        self._ours.append(True)

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        # A cursor that is made like this gives tuples, whatever the factory.
        return sqlite3.Cursor(self.handle).execute(sql, parameters).fetchall()

    def send(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        self.handle.execute(sql, parameters)

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self.handle.executemany(sql, rows)

    def commit(self) -> None:
        self._ours.clear()
        self.handle.commit()
        self.handle.isolation_level = None

    def rollback(self) -> None:
        self._ours.clear()
        self.handle.rollback()
        self.handle.isolation_level = None

    def in_transaction(self) -> bool:
        return self.handle.in_transaction or begins_by_itself(self.handle)

    def close(self) -> None:
        self.handle.close()


class OwnConnection(sqlite3.Connection):
    """A connection of ours: while the transaction is `ours`, nobody else may end it, or begin one,
    whether by a method or by SQL.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        ours = self.ours = list[bool]()

        def allow(action: int, *_: str | None) -> int:
            refused = action == sqlite3.SQLITE_TRANSACTION and ours
            return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK

        self.set_authorizer(allow)


class SqliteStore(Store):
    """A database file. `path` is relative to the working folder unless it starts with `/`."""

    dialect: Dialect = "sqlite"

    def __init__(self, path: str, schema: str = "oncebox") -> None:
        self.path = checked_path(path)
        self.schema = schema

    def open(self) -> Any:
        return SqliteSession(connect(self.path))


def checked_path(path: str) -> Path:
    """A database's path. Raises ConfigurationError when it cannot be one."""
    if not path or "\0" in path:
        raise ConfigurationError(f"SQLite path {path!r}", expected="sqlite:///file.db")
    return Path(path)


def connect(path: Path) -> sqlite3.Connection:
    """Open a database file as oncebox uses it: autocommit mode, WAL, foreign keys on.

    Raises StoreUnavailable (locked, read-only, no such folder) and CorruptStore.
    """
    connection = None
    try:
        connection = OwnConnection(path, timeout=0, isolation_level=None, check_same_thread=False)
        for pragma in PRAGMAS:
            _patiently(connection, f"PRAGMA {pragma}")
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
    except sqlite3.DatabaseError as error:
        if connection is not None:
            connection.close()
        raise translated(error, path) from error
    return connection


def _patiently(connection: sqlite3.Connection, sql: str) -> None:
    """Processes that turn a new file to WAL at once wait for each other: all must step back."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute(sql)
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorname.startswith("SQLITE_BUSY")
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.001, 0.02))
        else:
            return


def translated(error: sqlite3.Error, path: Path) -> CorruptStore | StoreUnavailable:
    """A driver's error as ours, with what to do."""
    return unusable(error, str(path)) or StoreUnavailable(f"{path}: {error}")
