"""SQLite through aiosqlite: the asynchronous form, one thread per connection."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import aiosqlite

from ..session import Dialect, Rows, Trouble
from .base import SessionBase, begins_by_itself, trouble
from .sqlite import (
    BUSY_TIMEOUT_S,
    PRAGMAS,
    begin,
    checked_path,
    commit,
    rollback,
    run,
    translated,
)


class AiosqliteSession(SessionBase):
    """An `aiosqlite.Connection` of ours or the caller's.

    A statement with its rows is one hop to the connection's thread; aiosqlite's public calls
    would take four, and give rows in the form of the caller's row factory.
    """

    kind = "this aiosqlite connection"
    how_to_begin = 'Open one: await connection.execute("BEGIN IMMEDIATE"), emit, await commit()'
    dialect: Dialect = "sqlite"
    asynchronous = True

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self.handle = connection
        self.lost = lambda: not connection.in_transaction

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        execute: Any = self.handle._execute  # noqa: SLF001 - see above
        return await execute(function, *arguments)

    @property
    def _inner(self) -> sqlite3.Connection:
        return self.handle._conn  # noqa: SLF001 - see above

    async def begin(self) -> None:
        await self._in_thread(begin, self._inner)

    async def run(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        rows: Rows = await self._in_thread(run, self._inner, sql, parameters)
        return rows

    async def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        async with self.handle.executemany(sql, rows):
            pass

    async def commit(self) -> None:
        await self._in_thread(commit, self._inner)

    async def rollback(self) -> None:
        await self._in_thread(rollback, self._inner)

    def in_transaction(self) -> bool:
        return self.handle.in_transaction or begins_by_itself(self._inner)

    async def close(self) -> None:
        await self.handle.close()


class AiosqliteStore:
    """A database file; handlers receive `aiosqlite.Connection`."""

    dialect: Dialect = "sqlite"
    asynchronous = True

    def __init__(self, path: str, schema: str = "oncebox") -> None:
        self.path = checked_path(path)
        self.schema = schema

    async def open(self) -> AiosqliteSession:
        """A session. Raises StoreUnavailable (locked, read-only, no such folder), CorruptStore."""
        connection = aiosqlite.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        try:
            await connection
            for pragma in PRAGMAS:
                await connection.execute_fetchall(f"PRAGMA {pragma}")
        except sqlite3.DatabaseError as error:
            await connection.close()
            # aiosqlite does not wait for its thread after a failure; it is the connection itself
            # in older versions.
            thread: Any = getattr(connection, "_thread", connection)
            await asyncio.to_thread(thread.join)
            raise translated(error, self.path) from error
        return AiosqliteSession(connection)

    def trouble(self, error: BaseException) -> Trouble:
        return trouble(error)

    def close(self) -> None:
        return None
