"""SQLite through aiosqlite: the asynchronous form, one thread per connection."""

from __future__ import annotations

import asyncio
from functools import cached_property, partial
from typing import Any

import aiosqlite

from ..session import Dialect
from .base import Forwarded
from .sqlite import SqliteSession, SqliteStore, connect


class AiosqliteSession(Forwarded):
    """An `aiosqlite.Connection` of ours or the caller's.

    Each method is that of the plain session in the connection's thread, one hop; aiosqlite's
    public calls would take four for a statement with its rows.
    """

    kind = "this aiosqlite connection"
    how_to_begin = 'Open one: await connection.execute("BEGIN IMMEDIATE"), emit, await commit()'
    dialect: Dialect = "sqlite"
    asynchronous = True

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self.handle = connection
        self.lost = lambda: not connection.in_transaction

    @cached_property
    def _plain(self) -> SqliteSession:
        inner: Any = self.handle._conn  # noqa: SLF001 - it has no public name
        return SqliteSession(inner)

    def forward(self, method: str, *arguments: Any) -> Any:
        execute: Any = self.handle._execute  # noqa: SLF001 - likewise
        return execute(getattr(self._plain, method), *arguments)

    def in_transaction(self) -> bool:
        return self._plain.in_transaction()

    def close(self) -> Any:
        return self.handle.close()


class AiosqliteStore(SqliteStore):
    """A database file; handlers receive `aiosqlite.Connection`."""

    asynchronous = True

    async def open(self) -> AiosqliteSession:
        """A session. Raises StoreUnavailable (locked, read-only, no such folder), CorruptStore."""
        connection = aiosqlite.Connection(partial(connect, self.path), iter_chunk_size=64)
        try:
            await connection
        except BaseException:
            # aiosqlite does not wait for its thread after a failure; it is the connection itself
            # in older versions.
            thread: Any = getattr(connection, "_thread", connection)
            await asyncio.to_thread(thread.join)
            raise
        return AiosqliteSession(connection)
