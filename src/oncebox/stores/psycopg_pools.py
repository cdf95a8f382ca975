"""PostgreSQL through psycopg's pools: stores over a pool of the application's."""

from __future__ import annotations

from typing import Any

from psycopg_pool import AsyncConnectionPool, ConnectionPool

from .pooled import PooledStore
from .postgres import AsyncPsycopgSession, PsycopgSession


def store(pool: ConnectionPool[Any], schema: str) -> PooledStore:
    """A store over a pool; handlers receive the pool's kind of connection."""

    def give(session: PsycopgSession) -> None:
        pool.putconn(session.handle)

    return PooledStore(
        "postgres", schema, lambda: PsycopgSession(pool.getconn()), give, asynchronous=False
    )


def async_store(pool: AsyncConnectionPool[Any], schema: str) -> PooledStore:
    """The same over an asynchronous pool."""

    async def take() -> AsyncPsycopgSession:
        return AsyncPsycopgSession(await pool.getconn())

    async def give(session: AsyncPsycopgSession) -> None:
        await pool.putconn(session.handle)

    return PooledStore("postgres", schema, take, give, asynchronous=True)
