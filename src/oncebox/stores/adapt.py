"""From what an application has to what programs use.

`adapt` takes a connection, `open_store` a URL, engine, pool or session factory. Kinds are known
by the modules of their classes, so no engine is imported before somebody brings one.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

from ..errors import ConfigurationError, MissingDependency
from ..session import Session, Store
from ..statements import check_schema

_SESSIONS = {
    "sqlite3.Connection": "sqlite:SqliteSession",
    "aiosqlite.Connection": "aiosqlite:AiosqliteSession",
    "psycopg.Connection": "postgres:PsycopgSession",
    "psycopg.AsyncConnection": "postgres:PsycopgSession",
    "asyncpg.Connection": "asyncpg:AsyncpgSession",
    "asyncpg.PoolConnectionProxy": "asyncpg:AsyncpgSession",
    "sqlalchemy.Session": "sqlalchemy:SqlalchemySession",
    "sqlalchemy.Connection": "sqlalchemy:SqlalchemySession",
    "sqlalchemy.AsyncSession": "sqlalchemy:AsyncSqlalchemySession",
    "sqlalchemy.AsyncConnection": "sqlalchemy:AsyncSqlalchemySession",
    "django.BaseDatabaseWrapper": "django:DjangoSession",
}

_INNER: dict[str, Callable[[Any], Any]] = {
    "sqlite3.Cursor": lambda tx: tx.connection,
    "aiosqlite.Cursor": lambda tx: tx._conn,  # noqa: SLF001 - it has no public name
    "psycopg.BaseCursor": lambda tx: tx.connection,
    "sqlalchemy.scoped_session": lambda tx: tx(),
    "sqlalchemy.async_scoped_session": lambda tx: tx(),
    "django.CursorWrapper": lambda tx: tx.db,
    "django.ConnectionProxy": lambda tx: tx._connections[tx._alias],  # noqa: SLF001 - likewise
}
"""What stands for a connection, and how to get at it."""

_STORES = {
    "psycopg_pool.ConnectionPool": "postgres:pool_store",
    "psycopg_pool.AsyncConnectionPool": "postgres:pool_store",
    "asyncpg.Pool": "asyncpg:store",
    "sqlalchemy.Engine": "sqlalchemy:store",
    "sqlalchemy.AsyncEngine": "sqlalchemy:store",
    "sqlalchemy.sessionmaker": "sqlalchemy:store",
    "sqlalchemy.async_sessionmaker": "sqlalchemy:store",
}

_URLS = {
    ("sqlite", False): "sqlite:SqliteStore",
    ("sqlite", True): "aiosqlite:AiosqliteStore",
    ("postgresql", False): "postgres:PostgresStore",
    ("postgresql", True): "postgres:AsyncPostgresStore",
    ("django", False): "django:DjangoStore",
}

_EXTRAS = {"psycopg": "postgres", "confluent_kafka": "kafka"}
"""Of libraries that are called otherwise than their extra."""

_makers: dict[type, Callable[[Any], Session]] = {}


def adapt(tx: Any) -> Session:
    """The session for a connection, session or cursor of the caller's.

    Raises ConfigurationError for anything else, which names what can be passed.
    """
    make = _makers.get(type(tx))
    if make is None:
        make = _makers[type(tx)] = _maker(type(tx))
    return make(tx)


def open_store(source: Any, schema: str = "oncebox", *, asynchronous: bool = False) -> Store:
    """The store behind a URL, or behind an application's engine, pool or session factory.

    URLs: `sqlite:///file.db`, `postgresql://…`, `django://alias`; `asynchronous` chooses their
    asynchronous driver. An object's own kind decides that. Nothing is connected yet.
    Raises ConfigurationError, and MissingDependency when the client library is not installed.
    """
    check_schema(schema)
    if isinstance(source, str):
        return _url_store(source, schema, asynchronous=asynchronous)
    name = _known(type(source), _STORES)
    if name is None:
        raise ConfigurationError(
            f"store={type(source).__module__}.{type(source).__name__}",
            expected="a URL, or a SQLAlchemy engine or sessionmaker, a psycopg or asyncpg pool",
        )
    return cast("Store", load(f"stores.{_STORES[name]}")(source, schema))


def _url_store(url: str, schema: str, *, asynchronous: bool) -> Store:
    scheme, colon, rest = url.partition("://")
    scheme = {"postgres": "postgresql", "sqlite3": "sqlite"}.get(scheme, scheme)
    target = _URLS.get((scheme, asynchronous))
    if not colon or target is None:
        shown = scheme if colon else "what is not a URL"
        kind = "asynchronous " if asynchronous else ""
        raise ConfigurationError(
            f"no {kind}store for {shown}",
            expected="sqlite:///file.db, postgresql://…, or django://alias (synchronous)",
        )
    if scheme == "postgresql":
        rest = f"postgresql://{rest}"
    elif scheme == "sqlite":
        if not rest.startswith("/"):
            raise ConfigurationError(
                f"SQLite URL {url!r}", expected="three slashes: sqlite:///file.db"
            )
        rest = rest[1:]
    return cast("Store", load(f"stores.{target}")(rest, schema))


def _maker(cls: type) -> Callable[[Any], Session]:
    inner = _known(cls, _INNER)
    if inner is not None:
        unwrap = _INNER[inner]
        return lambda tx: adapt(unwrap(tx))
    name = _known(cls, _SESSIONS)
    if name is not None:
        return cast("Callable[[Any], Session]", load(f"stores.{_SESSIONS[name]}"))
    raise ConfigurationError(
        f"{cls.__module__}.{cls.__qualname__} is no database connection that oncebox knows",
        expected="one of sqlite3, aiosqlite, psycopg, asyncpg, SQLAlchemy (Session, Connection, "
        "AsyncSession, AsyncConnection) or Django",
    )


def _known(cls: type, names: Any) -> str | None:
    """The first `package.Class` of a class and its bases that is among `names`."""
    for base in cls.__mro__:
        name = f"{base.__module__.partition('.')[0]}.{base.__name__}"
        if name in names:
            return name
    return None


def load(target: str) -> Any:
    """What an engine's file, `folder.file:name`, has to offer; it imports its client library.

    Raises MissingDependency, with the extra that installs it.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(import_module(f"oncebox.{module}"), attribute)
    except ModuleNotFoundError as error:
        library = str(error.name).partition(".")[0]
        if library == "oncebox":
            raise
        extra = _EXTRAS.get(library, library)
        raise MissingDependency(
            f"{library} is not installed", hint=f"pip install 'oncebox[{extra}]'"
        ) from error
