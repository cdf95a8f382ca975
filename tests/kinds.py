"""Every kind of connection that emit and claim take, with one face: what its user would write.

A kind opens a connection, begins, runs the user's own SQL, sets and undoes a savepoint, commits,
rolls back. Tests are programs over these steps, so one text runs on all, synchronous or not.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
import sys
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import aiosqlite
import asyncpg
import django
import psycopg
import sqlalchemy
from django.conf import settings
from django.db import connections, transaction
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool
from sqlalchemy import orm
from sqlalchemy.event import listen
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from oncebox.program import Program, drive, drive_async


class Kind:
    """A kind of connection. `tx` is what its user passes to emit and claim."""

    dialect: ClassVar[str]
    asynchronous: ClassVar[bool] = False
    hint: ClassVar[str]
    """A word that the error outside a transaction has to say."""

    late: ClassVar[bool] = False
    """Inside a pipeline, where a statement's failure shows at the end."""

    tx: Any

    def __init__(self, place: str) -> None:
        self.place = place

    def go(self, body: Callable[[], Program[None]]) -> None:
        """Run a test's program with the connection open."""
        if self.asynchronous:
            asyncio.run(drive_async(self._opened(body)))
        else:
            drive(self._opened(body))

    def _opened(self, body: Callable[[], Program[None]]) -> Program[None]:
        yield self.open, ()
        try:
            yield from body()
        finally:
            yield self.close, ()

    def open(self) -> Any: ...
    def begin(self) -> Any: ...
    def run(self, sql: str) -> Any:
        return self.tx.execute(sql)

    def savepoint(self) -> Any:
        return self.run("SAVEPOINT s")

    def undo(self) -> Any:
        return self.run("ROLLBACK TO SAVEPOINT s")

    def commit(self) -> Any:
        return self.tx.commit()

    def rollback(self) -> Any:
        return self.tx.rollback()

    def close(self) -> Any:
        return self.tx.close()

    def outside(self) -> Any:
        """Something to pass that has no transaction; None: this kind always begins one."""
        return None


class Sqlite3Implicit(Kind):
    """Python's old way: an INSERT begins a transaction by itself."""

    dialect = "sqlite"

    def open(self) -> None:
        self.tx = sqlite3.connect(self.place)
        self.tx.row_factory = sqlite3.Row
        self.tx.execute("PRAGMA foreign_keys = ON")


class Sqlite3Explicit(Sqlite3Implicit):
    hint = 'connection.execute("BEGIN'

    def open(self) -> None:
        super().open()
        self.tx.isolation_level = None

    def begin(self) -> None:
        self.tx.execute("BEGIN IMMEDIATE")

    def outside(self) -> Any:
        return self.tx


class Sqlite3Attribute(Sqlite3Implicit):
    """`autocommit=False`, from Python 3.12 on: a transaction is always open."""

    def open(self) -> None:
        super().open()
        self.tx.autocommit = False


class Sqlite3Cursor(Sqlite3Explicit):
    def open(self) -> None:
        super().open()
        self.connection, self.tx = self.tx, self.tx.cursor()

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()

    def close(self) -> None:
        self.connection.close()


class AiosqliteImplicit(Kind):
    dialect, asynchronous = "sqlite", True

    isolation_level: ClassVar[Literal["IMMEDIATE"] | None] = "IMMEDIATE"

    async def open(self) -> None:
        self.tx = await aiosqlite.connect(self.place, isolation_level=self.isolation_level)
        self.tx.row_factory = sqlite3.Row
        await self.tx.execute("PRAGMA foreign_keys = ON")

    async def run(self, sql: str) -> None:
        await self.tx.execute(sql)


class AiosqliteExplicit(AiosqliteImplicit):
    hint = 'await connection.execute("BEGIN'

    isolation_level = None

    async def begin(self) -> None:
        await self.tx.execute("BEGIN IMMEDIATE")

    def outside(self) -> Any:
        return self.tx


class Psycopg(Kind):
    """As psycopg comes: it begins by itself. With row and cursor factories of the user's."""

    dialect = "postgres"

    def open(self) -> None:
        self.tx = psycopg.connect(self.place, cursor_factory=psycopg.ClientCursor)
        self.tx.row_factory = dict_row


class PsycopgBlock(Kind):
    """An autocommit connection with `transaction()` blocks."""

    dialect, hint = "postgres", "with connection.transaction()"

    def open(self) -> None:
        self.tx = psycopg.connect(self.place, autocommit=True)
        self.blocks: list[Any] = []

    def begin(self) -> None:
        self.blocks.append(self.tx.transaction())
        self.blocks[-1].__enter__()

    savepoint = begin

    def undo(self) -> None:
        self.blocks.pop().__exit__(psycopg.Rollback, psycopg.Rollback(), None)

    def commit(self) -> None:
        self.blocks.pop().__exit__(None, None, None)

    def rollback(self) -> None:
        while self.blocks:
            self.undo()

    def outside(self) -> Any:
        return self.tx


class PsycopgPipeline(PsycopgBlock):
    """The same, inside one pipeline that begins before the transaction."""

    late = True

    def begin(self) -> None:
        self.pipeline = self.tx.pipeline()
        self.pipeline.__enter__()
        super().begin()

    savepoint = PsycopgBlock.begin

    def _leave(self) -> None:
        if self.pipeline is not None:
            pipeline, self.pipeline = self.pipeline, None
            pipeline.__exit__(None, None, None)

    def commit(self) -> None:
        try:
            super().commit()
        finally:
            self._leave()

    def rollback(self) -> None:
        super().rollback()
        self._leave()


class PsycopgBegin(Kind):
    """An autocommit connection in a pipeline with a BEGIN of the user's own: nothing tells."""

    dialect, hint, late = "postgres", "with connection.transaction()", True

    def open(self) -> None:
        self.tx = psycopg.connect(self.place, autocommit=True)

    def begin(self) -> None:
        self.pipeline = self.tx.pipeline()
        self.pipeline.__enter__()
        self.tx.execute("BEGIN")

    def commit(self) -> None:
        self.tx.execute("COMMIT")
        self.pipeline.__exit__(None, None, None)

    def rollback(self) -> None:
        if self.tx.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
            self.tx.execute("ROLLBACK")
            # Whether the error of an earlier statement has come by now is a matter of timing.
            with contextlib.suppress(psycopg.errors.PipelineAborted, psycopg.errors.Error):
                self.pipeline.__exit__(None, None, None)

    def outside(self) -> Any:
        return self.tx


class PsycopgPooled(Psycopg):
    """What a pool lends, and a cursor of it."""

    def open(self) -> None:
        self.pool = ConnectionPool(self.place, min_size=1, max_size=2, open=True)
        self.connection = self.pool.getconn()
        self.tx = self.connection.cursor()

    def commit(self) -> None:
        self.connection.commit()

    def rollback(self) -> None:
        self.connection.rollback()

    def close(self) -> None:
        self.pool.putconn(self.connection)
        self.pool.close()


class AsyncPsycopg(Kind):
    dialect, asynchronous = "postgres", True

    async def open(self) -> None:
        self.tx = await psycopg.AsyncConnection.connect(self.place)
        self.tx.row_factory = dict_row


class AsyncPsycopgBlock(Kind):
    dialect, asynchronous, hint = "postgres", True, "async with connection.transaction()"

    async def open(self) -> None:
        self.tx = await psycopg.AsyncConnection.connect(self.place, autocommit=True)
        self.blocks: list[Any] = []

    async def begin(self) -> None:
        self.blocks.append(self.tx.transaction())
        await self.blocks[-1].__aenter__()

    savepoint = begin

    async def undo(self) -> None:
        await self.blocks.pop().__aexit__(psycopg.Rollback, psycopg.Rollback(), None)

    async def commit(self) -> None:
        await self.blocks.pop().__aexit__(None, None, None)

    async def rollback(self) -> None:
        while self.blocks:
            await self.undo()

    def outside(self) -> Any:
        return self.tx


class AsyncPsycopgPipeline(AsyncPsycopgBlock):
    late = True

    async def begin(self) -> None:
        self.pipeline = self.tx.pipeline()
        await self.pipeline.__aenter__()
        await super().begin()

    savepoint = AsyncPsycopgBlock.begin

    async def _leave(self) -> None:
        if self.pipeline is not None:
            pipeline, self.pipeline = self.pipeline, None
            await pipeline.__aexit__(None, None, None)

    async def commit(self) -> None:
        try:
            await super().commit()
        finally:
            await self._leave()

    async def rollback(self) -> None:
        await super().rollback()
        await self._leave()


class Asyncpg(Kind):
    dialect, asynchronous, hint = "postgres", True, "async with connection.transaction()"

    async def open(self) -> None:
        self.tx = await asyncpg.connect(self.place)

    async def begin(self) -> None:
        self.block = self.tx.transaction()
        await self.block.start()

    async def commit(self) -> None:
        await self.block.commit()

    async def rollback(self) -> None:
        if self.tx.is_in_transaction():
            await self.block.rollback()

    def outside(self) -> Any:
        return self.tx


class AsyncpgPooled(Asyncpg):
    async def open(self) -> None:
        self.pool = await asyncpg.create_pool(self.place, min_size=1, max_size=2)
        self.tx = await self.pool.acquire()

    async def close(self) -> None:
        await self.pool.release(self.tx)
        await self.pool.close()


class Sqlalchemy(Kind):
    """A SQLAlchemy `Session`; subclasses change the driver and what is passed."""

    driver: ClassVar[str]
    hint = "with session.begin()"

    def engine(self, **options: Any) -> Any:
        return sqlalchemy.create_engine(sqlalchemy_url(self.driver, self.place), **options)

    def open(self) -> Any:
        self.made = self.engine()
        if self.dialect == "sqlite":
            listen(self.made, "connect", foreign_keys_on)
        self.tx = self.user = self.begun()

    def begun(self) -> Any:
        return orm.Session(self.made)

    def run(self, sql: str) -> Any:
        self.user.execute(sqlalchemy.text(sql))

    def savepoint(self) -> Any:
        self.nested = self.user.begin_nested()

    def undo(self) -> Any:
        self.nested.rollback()

    def close(self) -> Any:
        self.user.close()
        self.made.dispose()

    def outside(self) -> Any:
        return orm.Session(self.engine(isolation_level="AUTOCOMMIT", poolclass=one_use()))


class SqlalchemyConnection(Sqlalchemy):
    def begun(self) -> Any:
        return self.made.connect()

    def rollback(self) -> Any:
        super().rollback()
        self.tx.connection.rollback()  # after a failed COMMIT SQLAlchemy thinks it is done


class SqlalchemyScoped(Sqlalchemy):
    def begun(self) -> Any:
        return orm.scoped_session(orm.sessionmaker(self.made))


class AsyncSqlalchemy(Sqlalchemy):
    asynchronous = True
    hint = "async with session.begin()"

    def engine(self, **options: Any) -> Any:
        url = sqlalchemy_url(self.driver, self.place)
        return sqlalchemy_asyncio.create_async_engine(url, **options)

    async def open(self) -> None:
        self.made = self.engine()
        if self.dialect == "sqlite":
            listen(self.made.sync_engine, "connect", foreign_keys_on)
        self.tx = self.user = await self.begun()

    async def begun(self) -> Any:
        return sqlalchemy_asyncio.AsyncSession(self.made)

    async def run(self, sql: str) -> None:
        await self.user.execute(sqlalchemy.text(sql))

    async def savepoint(self) -> None:
        self.nested = await self.user.begin_nested()

    async def undo(self) -> None:
        await self.nested.rollback()

    async def close(self) -> None:
        await self.user.close()
        await self.made.dispose()

    def outside(self) -> Any:
        engine = self.engine(isolation_level="AUTOCOMMIT", poolclass=one_use())
        return sqlalchemy_asyncio.AsyncSession(engine)


class AsyncSqlalchemyConnection(AsyncSqlalchemy):
    async def begun(self) -> Any:
        return await self.made.connect()

    async def rollback(self) -> None:
        await self.tx.rollback()
        await self.tx.run_sync(lambda tx: tx.connection.rollback())  # likewise


class AsyncSqlalchemyScoped(AsyncSqlalchemy):
    async def begun(self) -> Any:
        factory = sqlalchemy_asyncio.async_sessionmaker(self.made)
        return sqlalchemy_asyncio.async_scoped_session(factory, asyncio.current_task)


class Django(Kind):
    """`connections[alias]` inside `atomic()`."""

    hint = "with transaction.atomic(using="

    def open(self) -> None:
        self.alias = django_alias(self.dialect, self.place)
        self.tx = connections[self.alias]
        self.blocks: list[Any] = []

    def begin(self) -> None:
        self.blocks.append(transaction.atomic(using=self.alias))
        self.blocks[-1].__enter__()

    savepoint = begin

    def run(self, sql: str) -> None:
        with self.tx.cursor() as cursor:
            cursor.execute(sql)

    def undo(self) -> None:
        self.blocks.pop().__exit__(ValueError, ValueError(), None)

    def commit(self) -> None:
        self.blocks.pop().__exit__(None, None, None)

    def rollback(self) -> None:
        while self.blocks:
            self.undo()

    def outside(self) -> Any:
        return self.tx


def of(base: type[Kind], **attributes: Any) -> type[Kind]:
    """A kind like another, over another driver."""
    return type(base.__name__, (base,), attributes)


PSYCOPG = {"dialect": "postgres", "driver": "postgresql+psycopg"}
ASYNCPG = {"dialect": "postgres", "driver": "postgresql+asyncpg"}
SQLITE = {"dialect": "sqlite", "driver": "sqlite"}
AIOSQLITE = {"dialect": "sqlite", "driver": "sqlite+aiosqlite"}

KINDS: dict[str, type[Kind]] = {
    "sqlite3-implicit": Sqlite3Implicit,
    "sqlite3": Sqlite3Explicit,
    "sqlite3-cursor": Sqlite3Cursor,
    "aiosqlite-implicit": AiosqliteImplicit,
    "aiosqlite": AiosqliteExplicit,
    "psycopg": Psycopg,
    "psycopg-block": PsycopgBlock,
    "psycopg-pipeline": PsycopgPipeline,
    "psycopg-pipeline-begin": PsycopgBegin,
    "psycopg-pool-cursor": PsycopgPooled,
    "psycopg-async": AsyncPsycopg,
    "psycopg-async-block": AsyncPsycopgBlock,
    "psycopg-async-pipeline": AsyncPsycopgPipeline,
    "asyncpg": Asyncpg,
    "asyncpg-pool": AsyncpgPooled,
    "Session-psycopg": of(Sqlalchemy, **PSYCOPG),
    "Session-sqlite3": of(Sqlalchemy, **SQLITE),
    "Connection-psycopg": of(SqlalchemyConnection, **PSYCOPG),
    "Connection-sqlite3": of(SqlalchemyConnection, **SQLITE),
    "scoped_session-psycopg": of(SqlalchemyScoped, **PSYCOPG),
    "AsyncSession-psycopg": of(AsyncSqlalchemy, **PSYCOPG),
    "AsyncSession-asyncpg": of(AsyncSqlalchemy, **ASYNCPG),
    "AsyncSession-aiosqlite": of(AsyncSqlalchemy, **AIOSQLITE),
    "AsyncConnection-psycopg": of(AsyncSqlalchemyConnection, **PSYCOPG),
    "AsyncConnection-asyncpg": of(AsyncSqlalchemyConnection, **ASYNCPG),
    "AsyncConnection-aiosqlite": of(AsyncSqlalchemyConnection, **AIOSQLITE),
    "async_scoped_session-asyncpg": of(AsyncSqlalchemyScoped, **ASYNCPG),
    "django-postgres": of(Django, dialect="postgres"),
    "django-sqlite": of(Django, dialect="sqlite"),
}
if sys.version_info >= (3, 12):
    KINDS["sqlite3-attribute"] = Sqlite3Attribute


def sqlalchemy_url(driver: str, place: str) -> str:
    """The URL of a place for SQLAlchemy: a file's path, or a `postgresql://` URL."""
    if driver.startswith("sqlite"):
        return f"{driver}:///{place}"
    return place.replace("postgresql", driver, 1)


def foreign_keys_on(connection: Any, record: object) -> None:
    connection.execute("PRAGMA foreign_keys = ON")


def one_use() -> type[sqlalchemy.pool.Pool]:
    return sqlalchemy.pool.NullPool


def django_alias(dialect: str, place: str) -> str:
    """A database of Django's under a new alias."""
    if not settings.configured:
        settings.configure(DATABASES={})
        django.setup()
    if dialect == "sqlite":
        database: dict[str, Any] = {"ENGINE": "django.db.backends.sqlite3", "NAME": place}
    else:
        parts = conninfo_to_dict(place)
        names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host"}
        database = {name: parts[part] for name, part in names.items()}
        database |= {"ENGINE": "django.db.backends.postgresql", "PORT": parts["port"]}
    alias = f"shop_{secrets.token_hex(4)}"
    connections.settings[alias] = database
    connections.configure_settings(connections.settings)
    return alias
