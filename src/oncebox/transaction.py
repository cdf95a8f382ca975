"""What emit and claim take as `tx`, for type checkers: by shape, so that no engine is imported.

A connection whose `commit` is a plain function is synchronous; one whose `commit` is a coroutine
function, or asyncpg's, is asynchronous. What is really passed, `stores/adapt.py` finds out.
"""

from __future__ import annotations

from typing import Any, Protocol


class _Connection(Protocol):
    def commit(self) -> None: ...


class _Cursor(Protocol):
    @property
    def connection(self) -> _Connection: ...

    def fetchone(self) -> Any: ...


class _AsyncConnection(Protocol):
    async def commit(self) -> None: ...


class _AsyncCursor(Protocol):
    @property
    def connection(self) -> _AsyncConnection: ...

    async def fetchone(self) -> Any: ...


class _AsyncpgConnection(Protocol):
    def is_in_transaction(self) -> bool: ...

    async def fetch(self, query: str, /, *args: Any) -> Any: ...


SyncTransaction = _Connection | _Cursor
"""sqlite3, psycopg, SQLAlchemy's Session and Connection, Django's connections; their cursors."""

AsyncTransaction = _AsyncConnection | _AsyncCursor | _AsyncpgConnection
"""aiosqlite, psycopg's AsyncConnection, asyncpg, SQLAlchemy's AsyncSession and AsyncConnection."""
