"""What type checkers know of emit, claim and handlers: checked by mypy and pyright, never run."""

from __future__ import annotations

import sqlite3
from collections.abc import Coroutine
from typing import Any, assert_type

import aiosqlite
import asyncpg
import psycopg
from django.db import connection, connections
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from oncebox import Context, Foreign, Service, foreign
from oncebox.emit import Emitted, Emitter
from oncebox.inbox import claim


class Shop(Emitter):
    name, instance, schema = "shop", None, "oncebox"


shop = Shop()


def synchronous(
    one: sqlite3.Connection,
    two: sqlite3.Cursor,
    three: psycopg.Connection[Any],
    four: psycopg.Cursor[Any],
    five: Session,
    six: scoped_session[Session],
    seven: Connection,
) -> None:
    assert_type(shop.emit(one, "event"), Emitted)
    assert_type(shop.emit(two, "event"), Emitted)
    assert_type(shop.emit(three, "event"), Emitted)
    assert_type(shop.emit(four, "event"), Emitted)
    assert_type(shop.emit(five, "event"), Emitted)
    assert_type(shop.emit(six, "event"), Emitted)
    assert_type(shop.emit(seven, "event"), Emitted)
    assert_type(shop.emit(connections["default"], "event"), Emitted)
    assert_type(shop.emit(connection, "event"), Emitted)
    assert_type(shop.emit_many(five, ["event"], after=shop.emit(five, "one")), list[Emitted])
    assert_type(claim(five, "billing", source="stripe", id="1"), bool)


async def asynchronous(
    one: aiosqlite.Connection,
    two: psycopg.AsyncConnection[Any],
    three: psycopg.AsyncCursor[Any],
    four: AsyncSession,
    five: async_scoped_session[AsyncSession],
    six: AsyncConnection,
    seven: asyncpg.Connection[asyncpg.Record],
    eight: asyncpg.pool.PoolConnectionProxy[asyncpg.Record],
) -> None:
    assert_type(await shop.emit(one, "event"), Emitted)
    assert_type(await shop.emit(two, "event"), Emitted)
    assert_type(await shop.emit(three, "event"), Emitted)
    assert_type(await shop.emit(four, "event"), Emitted)
    assert_type(await shop.emit(five, "event"), Emitted)
    assert_type(await shop.emit(six, "event"), Emitted)
    assert_type(await shop.emit(seven, "event"), Emitted)
    assert_type(await shop.emit(eight, "event"), Emitted)
    assert_type(await shop.emit_many(four, ["event"]), list[Emitted])
    assert_type(await claim(four, "billing", source="stripe", id="1"), bool)
    later: Coroutine[Any, Any, Emitted] = shop.emit(four, "event")
    await later


class Paid:
    """An event class."""


def handlers_receive_what_their_store_opens(
    one: Engine,
    two: sessionmaker[Session],
    three: AsyncEngine,
    four: async_sessionmaker[AsyncSession],
    five: ConnectionPool[psycopg.Connection[Any]],
    six: AsyncConnectionPool[psycopg.AsyncConnection[Any]],
    seven: asyncpg.Pool[asyncpg.Record],
) -> None:
    assert_type(Service("a", store=one), Service[Connection])
    assert_type(Service("a", store=two), Service[Session])
    assert_type(Service("a", store=three), Service[AsyncConnection])
    assert_type(Service("a", store=four), Service[AsyncSession])
    assert_type(Service("a", store=five), Service[psycopg.Connection[Any]])
    assert_type(Service("a", store=six), Service[psycopg.AsyncConnection[Any]])
    assert_type(
        Service("a", store=seven), Service[asyncpg.pool.PoolConnectionProxy[asyncpg.Record]]
    )
    assert_type(Service("a", store="sqlite:///a.db"), Service[Any])
    assert_type(Service("a"), Service[Any])

    @Service("a", store=two).on(Paid)
    def pay(tx: Session, paid: Paid) -> int:
        return 1

    assert_type(pay(two(), Paid()), int)

    @Service("a", store=four).consumer("mail").on(Paid)
    async def write(tx: AsyncSession, paid: Paid, context: Context[str]) -> None:
        assert_type(context.state, str)

    @Service("a", store="sqlite:///a.db").on(Paid)
    def owe(tx: sqlite3.Connection, paid: Paid) -> None: ...

    @Service("a", store=two).on_batch(Paid)
    def project(tx: Session, events: list[Paid]) -> int:
        return len(events)

    assert_type(project(two(), [Paid()]), int)

    @Service("a", store=four).consumer("mail").on_batch(Paid)
    async def index(tx: AsyncSession, events: list[Paid], contexts: list[Context[str]]) -> None:
        assert_type(contexts[0].state, str)


def topics_of_others_give_their_class(store: sessionmaker[Session]) -> None:
    payments = foreign("legacy.payments", Paid, key="$.order", id="header:x-id")
    assert_type(payments, Foreign[Paid])
    assert_type(foreign("raw", bytes, decode=bytes), Foreign[bytes])

    @Service("a", store=store).on(payments)
    def settle(tx: Session, paid: Paid) -> int:
        return 1

    assert_type(settle(store(), Paid()), int)

    @Service("a", store=store).on(payments)  # type: ignore[arg-type]
    def wrong(tx: Session, paid: int) -> None: ...
