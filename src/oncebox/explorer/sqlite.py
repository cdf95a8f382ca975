"""A SQLite database in memory with real connections, and back to its beginning in microseconds.

Each actor has a connection of its own, so isolation and the one writer are SQLite's, not ours. A
connection that would have to wait raises `Blocked`. Restoring deletes and inserts rows, because
loading a copy would make every connection read the schema and prepare its statements again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from functools import wraps
from itertools import count
from typing import Any, ParamSpec, TypeVar

from .run import Blocked

T = TypeVar("T")
P = ParamSpec("P")

STATEMENTS_MAX = 512
SETTINGS = ("page_size = 512", "journal_mode = MEMORY", "synchronous = OFF", "temp_store = MEMORY")
"""For speed: tables are tiny, every run changes most pages, and nothing is to outlive a run."""

_numbers = count()


def waiting(function: Callable[P, T]) -> Callable[P, T]:
    """A function on a `MemoryDatabase`: where another connection is in its way, it is Blocked."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise Blocked from None
            raise

    return call


class MemoryDatabase:
    """`prepare` is run on each new connection: functions, pragmas.

    `owner` is the connection for making tables and looking on; it holds no foreign keys up.
    """

    def __init__(self, prepare: Callable[[sqlite3.Connection], object] | None = None) -> None:
        self._url = f"file:/oncebox-explorer-{next(_numbers)}?vfs=memdb"
        self._prepare = prepare
        self._free: list[sqlite3.Connection] = []
        self._used: list[sqlite3.Connection] = []
        self._tables: list[str] = []
        self._restore: list[tuple[str, list[tuple[Any, ...]]]] = []
        self._states: dict[object, int] = {}
        self.owner = self._connect()

    def connect(self) -> sqlite3.Connection:
        """A connection in autocommit mode, for one actor, until `release` or `restore`."""
        if self._free:
            connection = self._free.pop()
        else:
            connection = self._connect()
            connection.execute("PRAGMA foreign_keys = ON")
        self._used.append(connection)
        return connection

    def release(self, connection: sqlite3.Connection) -> None:
        """Take a connection back; its open transaction is undone, as when a process dies."""
        self._undo(connection)
        self._used.remove(connection)
        self._free.append(connection)

    def remember(self) -> None:
        """Make what is there now the beginning."""
        tables = self.owner.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table'"
            " AND (name = 'sqlite_sequence' OR name NOT LIKE 'sqlite_%')"
        ).fetchall()
        self._tables = ['"' + name.replace('"', '""') + '"' for (name,) in tables]
        self._restore = []
        for table in self._tables:
            rows = self.owner.execute(f"SELECT * FROM {table}").fetchall()
            self._restore.append((f"DELETE FROM {table}", []))
            if rows:
                places = ", ".join("?" * len(rows[0]))
                self._restore.append((f"INSERT INTO {table} VALUES ({places})", rows))

    @waiting
    def state(self) -> int:
        """A number for all that is committed in the tables remembered: equal for equal rows."""
        execute = self.owner.execute
        rows = tuple(tuple(execute(f"SELECT * FROM {table}")) for table in self._tables)
        return self._states.setdefault(rows, len(self._states))

    def restore(self) -> None:
        """Back to what was remembered, whatever connections were in the middle of."""
        for connection in self._used:
            self._undo(connection)
        self._free += self._used
        self._used.clear()
        execute = self.owner.execute
        execute("BEGIN IMMEDIATE")
        for sql, rows in self._restore:
            if rows:
                self.owner.executemany(sql, rows)
            else:
                execute(sql)
        execute("COMMIT")

    def close(self) -> None:
        for connection in (*self._used, *self._free, self.owner):
            connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._url,
            uri=True,
            timeout=0,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=STATEMENTS_MAX,
        )
        for setting in SETTINGS:
            connection.execute(f"PRAGMA {setting}")
        if self._prepare is not None:
            self._prepare(connection)
        return connection

    def _undo(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            connection.rollback()
        connection.isolation_level = None
