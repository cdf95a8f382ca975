"""What applications have already, as a service's store: one of each kind."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiosqlite
import asyncpg
import psycopg
import sqlalchemy
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import orm
from sqlalchemy.event import listen
from sqlalchemy.ext import asyncio as sqlalchemy_asyncio

from kinds import django_alias, foreign_keys_on, sqlalchemy_url


@dataclass
class Made:
    """A store of some kind: what the application passes, and how it closes it."""

    source: Any
    handle: Any  # a class
    asynchronous: bool = False
    close: Callable[[], Any] = lambda: None


def engine(driver: str, place: str, *, bare: bool = False) -> sqlalchemy.Engine:
    """`bare`: as SQLAlchemy makes it, without SQLite's foreign keys, which fail a COMMIT."""
    made = sqlalchemy.create_engine(sqlalchemy_url(driver, place))
    if driver == "sqlite" and not bare:
        listen(made, "connect", foreign_keys_on)
    return made


def async_engine(driver: str, place: str) -> sqlalchemy_asyncio.AsyncEngine:
    made = sqlalchemy_asyncio.create_async_engine(sqlalchemy_url(driver, place))
    if "sqlite" in driver:
        listen(made.sync_engine, "connect", foreign_keys_on)
    return made


def of_engine(driver: str, *, bare: bool = False) -> Callable[[str], Made]:
    def make(place: str) -> Made:
        made = engine(driver, place, bare=bare)
        return Made(made, sqlalchemy.Connection, close=made.dispose)

    return make


def of_sessionmaker(driver: str, *, bare: bool = False) -> Callable[[str], Made]:
    def make(place: str) -> Made:
        made = engine(driver, place, bare=bare)
        return Made(orm.sessionmaker(made), orm.Session, close=made.dispose)

    return make


def of_async_engine(driver: str) -> Callable[[str], Made]:
    def make(place: str) -> Made:
        made = async_engine(driver, place)
        return Made(made, sqlalchemy_asyncio.AsyncConnection, asynchronous=True, close=made.dispose)

    return make


def of_async_sessionmaker(driver: str) -> Callable[[str], Made]:
    def make(place: str) -> Made:
        made = async_engine(driver, place)
        factory = sqlalchemy_asyncio.async_sessionmaker(made)
        return Made(factory, sqlalchemy_asyncio.AsyncSession, asynchronous=True, close=made.dispose)

    return make


def of_pool(place: str) -> Made:
    pool = ConnectionPool(place, min_size=1, max_size=2, open=True)
    return Made(pool, psycopg.Connection, close=pool.close)


async def of_async_pool(place: str) -> Made:
    pool = AsyncConnectionPool(place, min_size=1, max_size=2, open=False)
    await pool.open()
    return Made(pool, psycopg.AsyncConnection, asynchronous=True, close=pool.close)


async def of_asyncpg_pool(place: str) -> Made:
    pool = await asyncpg.create_pool(place, min_size=1, max_size=2)
    return Made(pool, asyncpg.pool.PoolConnectionProxy, asynchronous=True, close=pool.close)


def of_django(dialect: str) -> Callable[[str], Made]:
    def make(place: str) -> Made:
        return Made(f"django://{django_alias(dialect, place)}", BaseDatabaseWrapper)

    return make


STORES: dict[str, tuple[str, bool, Callable[[str], Any]]] = {
    # name: dialect, asynchronous, what makes it
    "sqlite-url": ("sqlite", False, lambda place: Made(f"sqlite:///{place}", sqlite3.Connection)),
    "sqlite-url-async": (
        "sqlite", True, lambda place: Made(f"sqlite:///{place}", aiosqlite.Connection, True)),
    "postgres-url": ("postgres", False, lambda place: Made(place, psycopg.Connection)),
    "postgres-url-async": (
        "postgres", True, lambda place: Made(place, psycopg.AsyncConnection, True)),
    "psycopg-pool": ("postgres", False, of_pool),
    "psycopg-pool-async": ("postgres", True, of_async_pool),
    "asyncpg-pool": ("postgres", True, of_asyncpg_pool),
    "Engine-psycopg": ("postgres", False, of_engine("postgresql+psycopg")),
    "Engine-sqlite3": ("sqlite", False, of_engine("sqlite")),
    "sessionmaker-psycopg": ("postgres", False, of_sessionmaker("postgresql+psycopg")),
    "sessionmaker-sqlite3": ("sqlite", False, of_sessionmaker("sqlite")),
    "AsyncEngine-psycopg": ("postgres", True, of_async_engine("postgresql+psycopg")),
    "AsyncEngine-asyncpg": ("postgres", True, of_async_engine("postgresql+asyncpg")),
    "AsyncEngine-aiosqlite": ("sqlite", True, of_async_engine("sqlite+aiosqlite")),
    "async_sessionmaker-psycopg": ("postgres", True, of_async_sessionmaker("postgresql+psycopg")),
    "async_sessionmaker-asyncpg": ("postgres", True, of_async_sessionmaker("postgresql+asyncpg")),
    "async_sessionmaker-aiosqlite": ("sqlite", True, of_async_sessionmaker("sqlite+aiosqlite")),
    "django-postgres": ("postgres", False, of_django("postgres")),
    "django-sqlite": ("sqlite", False, of_django("sqlite")),
}  # fmt: skip

BARE: dict[str, tuple[str, bool, Callable[[str], Any]]] = {
    "Engine-sqlite3-bare": ("sqlite", False, of_engine("sqlite", bare=True)),
    "sessionmaker-sqlite3-bare": ("sqlite", False, of_sessionmaker("sqlite", bare=True)),
}
