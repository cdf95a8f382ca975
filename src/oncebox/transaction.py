"""What emit and claim take as `tx`, and what handlers receive, for type checkers: by shape, so
that no engine is imported. What is really passed, `stores/adapt.py` finds out.

A connection whose `commit` is a plain function is synchronous; one whose `commit` is a coroutine
function, or asyncpg's, is asynchronous. What an engine, sessionmaker or pool opens is what the
handlers of a service on it receive.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar


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

if TYPE_CHECKING:  # known to type checkers, and in Python from 3.13 on
    from typing_extensions import TypeVar as TypeVarWithDefault

    Tx = TypeVarWithDefault("Tx", default=Any)
else:
    Tx = TypeVar("Tx")

Tx_co = TypeVar("Tx_co", covariant=True)
_Manager = AbstractContextManager[Tx_co, Any] | AbstractAsyncContextManager[Tx_co, Any]


class _Begins(Protocol[Tx_co]):
    def begin(self) -> _Manager[Tx_co]: ...


class _Connects(Protocol[Tx_co]):
    def connection(self) -> _Manager[Tx_co]: ...


class _Acquires(Protocol[Tx_co]):
    def acquire(self) -> _Manager[Tx_co]: ...


StoreOf = _Begins[Tx] | _Connects[Tx] | _Acquires[Tx]
"""A SQLAlchemy engine or sessionmaker, a psycopg pool, an asyncpg pool, each plain or
asynchronous, whose connections or sessions are a `Tx`."""
