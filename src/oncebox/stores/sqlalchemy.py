"""SQLAlchemy 2: sessions over its Session, Connection and their asynchronous forms.

Stores over an application's engine or session factory, too; whichever driver is below. Statements
go through `exec_driver_sql`, so SQLAlchemy begins its transaction as ever and its
logging and events see them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.event import listen
from sqlalchemy.exc import InvalidRequestError, UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from ..errors import ConfigurationError, NoTransaction
from ..session import Dialect, Rows
from ..session import Session as OurSession
from .base import Forwarded, begins_by_itself, ended, outside_transaction, refuse_end
from .placeholders import prepared
from .pooled import PooledStore

_DIALECTS: dict[str, Dialect] = {"sqlite": "sqlite", "postgresql": "postgres"}
_STYLES = {
    "psycopg": "pyformat", "psycopg_async": "pyformat", "asyncpg": "numeric_dollar",
    "pysqlite": "qmark", "aiosqlite": "qmark",
}  # fmt: skip


class SqlalchemySession(OurSession):
    """A SQLAlchemy `Session` or `Connection`.

    Both begin a transaction by themselves, unless the engine's isolation level is AUTOCOMMIT or
    the session was made with `autobegin=False`.
    """

    kind = "this SQLAlchemy connection"
    how_to_begin = "Open one: with session.begin(): …, and not on an AUTOCOMMIT engine"
    asynchronous = False

    def __init__(self, handle: Session | Connection) -> None:
        self.handle = handle
        self.dialect = dialect_of(bind_of(handle) if isinstance(handle, Session) else handle)
        self._root: Any = None
        self._closing = False
        self._ran = False  # the driver begins with the first statement
        self._nested: Any = None
        self.lost = self.is_lost

    def _connection(self) -> Connection:
        if not isinstance(self.handle, Session):
            return self.handle
        try:
            return self.handle.connection()
        except InvalidRequestError as error:
            if "autobegin" in str(error).lower():
                raise self.no_transaction() from error
            raise

    def begin(self) -> None:
        if not self.handle.in_transaction():
            self.handle.begin()
        self._root = self.handle.get_transaction()
        self._ran = False
        connection = self._connection()
        self.require_transaction()
        self._closing = False
        listen(connection, "before_cursor_execute", self._refuse_behind_the_end)
        if isinstance(self.handle, Session):
            listen(self.handle, "after_begin", self._refuse_another)
        if self.dialect == "sqlite":
            listen(connection, "commit", self._refuse)
            if not _driver(connection).in_transaction:
                connection.exec_driver_sql("BEGIN IMMEDIATE")

    def _refuse(self, _: Connection) -> None:
        """Where an engine leaves SQLite's foreign keys off, only this fails a handler's commit."""
        if not self._closing:
            raise ended()

    def _refuse_another(self, *_: Any) -> None:
        if not self._closing and self.handle.get_transaction() is not self._root:
            raise ended()

    def _refuse_behind_the_end(self, connection: Connection, _: Any, sql: str, *more: Any) -> None:  # noqa: ARG002
        """What a handler writes behind a COMMIT or ROLLBACK of its own would be in another
        transaction, which nothing keeps from being committed.
        """
        if self._closing:
            return
        self._refuse_another()
        refuse_end(sql)
        if self._ran and outside_transaction(_driver(connection)):
            raise ended()

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> Rows:
        connection = self._connection()
        statement = prepared(sql, style_of(connection))
        result = connection.exec_driver_sql(statement.sql, statement.arguments(parameters))
        self._ran = True
        return [tuple(row) for row in result] if result.returns_rows else []

    def run_many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        connection = self._connection()
        statement = prepared(sql, style_of(connection))
        connection.exec_driver_sql(statement.sql, [statement.arguments(row) for row in rows])

    def is_lost(self) -> bool:
        """Whether somebody has ended the transaction that `begin` opened."""
        if self.handle.get_transaction() is not self._root:
            return True
        return self._ran and outside_transaction(_driver(self._connection()))

    def commit(self) -> None:
        self._closing = True
        self.handle.commit()

    def rollback(self) -> None:
        self.handle.rollback()

    def savepoint(self) -> None:
        self._nested = self.handle.begin_nested()

    def release(self) -> None:
        self._nested.commit()  # of a Session: flushes first, so a failure belongs to this event

    def rollback_to(self) -> None:
        self._nested.rollback()

    def in_transaction(self) -> bool:
        connection = self._connection()
        if self.dialect == "sqlite":
            inner = _driver(connection)
            return inner.in_transaction or begins_by_itself(inner)
        return not getattr(connection.connection.dbapi_connection, "autocommit", False)

    def role(self) -> str | None:
        return self._connection().engine.url.username

    def close(self) -> None:
        self.handle.close()


class AsyncSqlalchemySession(Forwarded):
    """A SQLAlchemy `AsyncSession` or `AsyncConnection`: the same, inside SQLAlchemy's greenlet."""

    kind = "this SQLAlchemy connection"
    how_to_begin = "Open one: async with session.begin(): …, and not on an AUTOCOMMIT engine"
    asynchronous = True

    def __init__(self, handle: AsyncSession | AsyncConnection) -> None:
        self.handle = handle
        bind = bind_of(handle.sync_session) if isinstance(handle, AsyncSession) else handle
        self.dialect = dialect_of(bind)
        self._inner: SqlalchemySession | None = None
        self.lost = lambda: self._inner is not None and self._inner.is_lost()

    def forward(self, method: str, *arguments: Any) -> Any:
        def inside(handle: Any) -> Any:
            if self._inner is None:
                self._inner = SqlalchemySession(handle)
            return getattr(self._inner, method)(*arguments)

        return self.handle.run_sync(inside)

    def rollback(self) -> Any:
        return self.handle.rollback()

    def in_transaction(self) -> bool:
        return self.handle.in_transaction()

    async def require_transaction(self) -> None:
        try:
            await self.forward("require_transaction")
        except NoTransaction as error:
            raise self.no_transaction() from error

    def role(self) -> str | None:
        return None if self._inner is None else self._inner.role()

    def close(self) -> Any:
        return self.handle.close()


def bind_of(session: Session) -> Any:
    """The engine or connection of a session. Raises ConfigurationError when there are several."""
    try:
        return session.get_bind()
    except UnboundExecutionError as error:
        raise ConfigurationError(
            "this SQLAlchemy session has no one database",
            hint='pass the connection: emit(session.connection(bind_arguments={"bind": …}), …)',
        ) from error


def dialect_of(bind: Any) -> Dialect:
    """Which of our dialects an engine or connection speaks. Raises ConfigurationError: none."""
    name = bind.dialect.name
    if name not in _DIALECTS:
        raise ConfigurationError(f"SQLAlchemy on {name}", expected="postgresql or sqlite")
    return _DIALECTS[name]


def style_of(connection: Connection) -> str:
    """How the driver writes parameters, whatever `paramstyle` the engine was made with."""
    dialect = connection.dialect
    return _STYLES.get(dialect.driver) or dialect.paramstyle


def _driver(connection: Connection) -> Any:
    """The driver's connection at the bottom; below aiosqlite, that of `sqlite3`."""
    driver: Any = connection.connection.driver_connection
    return getattr(driver, "_conn", driver)


# ---- stores

Factory = Engine | AsyncEngine | sessionmaker[Any] | async_sessionmaker[Any]


def store(factory: Factory, schema: str) -> PooledStore:
    """A store over an engine (handlers receive a connection) or a session factory (a session)."""
    asynchronous = isinstance(factory, AsyncEngine | async_sessionmaker)
    bind: Any
    take: Callable[[], Any]
    if isinstance(factory, Engine | AsyncEngine):
        bind, take = factory, factory.connect
    else:
        bind, take = factory.kw.get("bind"), factory
    if bind is None:
        raise ConfigurationError(
            "this session factory has no engine",
            hint="make it with sessionmaker(engine), or pass the engine of oncebox's tables",
        )
    return PooledStore(
        dialect_of(bind),
        schema,
        take,
        AsyncSqlalchemySession if asynchronous else SqlalchemySession,
        lambda handle: handle.close(),
        asynchronous=asynchronous,
    )
