"""What type checkers know of emit and claim: checked by mypy and pyright, never run."""

from __future__ import annotations

import sqlite3
from collections.abc import Coroutine
from typing import Any, assert_type

import aiosqlite
import asyncpg
import psycopg
from django.db import connection, connections
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

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
