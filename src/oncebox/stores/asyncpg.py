"""PostgreSQL through asyncpg: sessions over its connections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from ..errors import ConfigurationError
from ..session import Dialect, Rows, Session
from .base import outside_transaction
from .pooled import PooledStore


class AsyncpgSession(Session):
    """An `asyncpg.Connection`, or what its pool lends, with any record class."""

    kind = "this asyncpg connection"
    how_to_begin = "Open one: async with connection.transaction(): …"
    dialect: Dialect = "postgres"
    asynchronous = True

    def __init__(self, connection: Any) -> None:
        self.handle = connection
        self._transaction: Any = None
        self.lost = lambda: outside_transaction(connection)

    async def begin(self) -> None:
        self._transaction = self.handle.transaction()
        await self._transaction.start()

    async def run(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        rows = await self.handle.fetch(sql, *parameters, record_class=asyncpg.Record)
        return [tuple(row) for row in rows]

    async def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        await self.handle.executemany(sql, rows)

    async def commit(self) -> None:
        transaction, self._transaction = self._transaction, None
        await transaction.commit()

    async def rollback(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None and not self.handle.is_closed():
            await transaction.rollback()

    def in_transaction(self) -> bool:
        found: bool = self.handle.is_in_transaction()
        return found

    def role(self) -> str | None:
        parameters = getattr(self.handle, "_params", None)  # there is no public name
        return getattr(parameters, "user", None)

    async def close(self) -> None:
        await self.handle.close()


def store(pool: Any, schema: str) -> PooledStore:
    """A store over an asyncpg pool; handlers receive what it lends."""

    async def take() -> Any:
        try:
            return await pool.acquire()
        except asyncpg.InterfaceError as error:
            if "not initialized" not in str(error):
                raise
            raise ConfigurationError(
                f"asyncpg: {error}",
                expected="a pool that was awaited, in the event loop that runs oncebox",
                hint="make it in the application's lifespan; `oncebox run` takes a URL instead",
            ) from error

    return PooledStore("postgres", schema, take, AsyncpgSession, pool.release, asynchronous=True)
