"""Coroutine handlers: the same loop, driven asynchronously, on each kind of asynchronous store."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import psycopg_pool
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from chains import TOPIC, Noted, Paid, World, make_store
from oncebox.consumer.loop import ConsumerLoop
from oncebox.consumer.reading import Reading
from oncebox.consumer.timeouts import limited_async
from oncebox.context import Context
from oncebox.operate.actions import redrive
from oncebox.operate.rewind import rebuild
from oncebox.program import drive, drive_async
from oncebox.service.service import Service
from oncebox.statements import statements
from oncebox.stores.adapt import open_store
from operating import desk_of, wait_list

KINDS = ("aiosqlite", "psycopg", "psycopg pool", "asyncpg pool", "sqlalchemy session")


class AsyncWorld:
    """A `World` whose consumer runs on an asynchronous store over the same database."""

    def __init__(self, world: World, store: Any, placeholders: str) -> None:
        self.world = world
        self.store = store
        self.insert = f"INSERT INTO ledger (who, what) VALUES ({placeholders})"
        self.loop: ConsumerLoop | None = None

    async def record(self, tx: Any, who: str, what: int) -> None:
        if isinstance(tx, AsyncSession):
            values = {"a": who, "b": what}
            await tx.execute(sqlalchemy.text(self.insert), values)
        elif isinstance(tx, asyncpg.Connection | asyncpg.pool.PoolConnectionProxy):
            await tx.execute(self.insert, who, what)
        else:
            await tx.execute(self.insert, (who, what))

    async def settle(self) -> None:
        world = self.world
        if self.loop is None:
            session = self.store.open()
            reading = Reading(
                consumer="billing",
                session=await session if asyncio.iscoroutine(session) else session,
                sql=statements(self.store.dialect),
                handlers=world.consumer.handlers,
                topics=(TOPIC,),
                settings=world.settings,
                now_ms=lambda: world.now_ms,
            )
            self.loop = ConsumerLoop(
                reading,
                self.store,
                world.log,
                "one",
                stopping=lambda: False,
                sleep=world.slept.append,
            )
        quiet = 0
        for _ in range(500):
            try:
                busy = await drive_async(self.loop.turn())
            except Exception as error:
                await drive_async(self.loop.outage(error))
                busy = True
            quiet = 0 if busy else quiet + 1
            if quiet == 3:
                return
        pytest.fail("not quiet after 500 turns")


@pytest.fixture(params=KINDS)
async def world(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_url: str
) -> AsyncIterator[AsyncWorld]:
    kind = request.param
    sync = World(
        make_store("sqlite" if kind == "aiosqlite" else "postgres", tmp_path, postgres_url),
        tmp_path,
    )
    closing: Any = None
    if kind == "aiosqlite":
        made = AsyncWorld(
            sync, open_store(f"sqlite:///{tmp_path}/store.db", asynchronous=True), "?, ?"
        )
    elif kind == "psycopg":
        made = AsyncWorld(sync, open_store(postgres_url, asynchronous=True), "%s, %s")
    elif kind == "psycopg pool":
        pool = psycopg_pool.AsyncConnectionPool(postgres_url, open=False, max_size=4)
        await pool.open()
        made, closing = AsyncWorld(sync, open_store(pool), "%s, %s"), pool.close
    elif kind == "asyncpg pool":
        apool = await asyncpg.create_pool(postgres_url, min_size=1, max_size=4)
        made, closing = AsyncWorld(sync, open_store(apool), "$1, $2"), apool.close
    else:
        engine = create_async_engine(postgres_url.replace("postgresql://", "postgresql+asyncpg://"))
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        made, closing = AsyncWorld(sync, open_store(sessions), ":a, :b"), engine.dispose
    yield made
    if made.loop is not None:
        made.loop.reader.close()
        closed = made.loop.reading.session.close()
        if closed is not None:
            await closed
    if closing is not None:
        await closing()
    sync.close()


async def test_lists_take_effect_once_and_a_failing_event_parks_alone(world: AsyncWorld) -> None:
    lists: list[list[int]] = []

    @world.world.consumer.on_batch(Paid)
    async def pay(tx: Any, events: list[Paid], contexts: list[Context[None]]) -> None:
        lists.append([paid.cents for paid in events])
        for paid in events:
            await world.record(tx, paid.order, paid.cents)
        if any(context.key == "b" for context in contexts):
            raise ValueError("no account")

    producer = world.world.producer
    a, b, c = producer.paid("a", 1, 2, 3), producer.paid("b", 10), producer.paid("c", 5, 6)
    world.world.deliver(a[0], c[0], a[0], a[2], b[0], a[1], c[1])
    await world.settle()
    assert lists[0] == [1, 5, 10, 2, 3, 6]
    assert world.world.of("a") == [1, 2, 3]
    assert world.world.of("c") == [5, 6]
    assert world.world.parked() == {"b": ("poison", "ValueError: no account", 1)}


async def test_events_take_effect_once_and_in_order(world: AsyncWorld) -> None:
    @world.world.consumer.on(Paid)
    async def pay(tx: Any, paid: Paid) -> None:
        await world.record(tx, paid.order, paid.cents)

    a, b = world.world.producer.paid("a", 1, 2, 3), world.world.producer.paid("b", 10)
    world.world.deliver(a[0], a[2], b[0], a[0], a[1])
    await world.settle()
    assert world.world.of("a") == [1, 2, 3]
    assert world.world.of("b") == [10]


async def test_a_failing_handler_parks_its_key(world: AsyncWorld) -> None:
    broken = {"a"}

    @world.world.consumer.on(Paid)
    async def pay(tx: Any, paid: Paid) -> None:
        await world.record(tx, paid.order, paid.cents)
        if paid.order in broken:
            raise ValueError("no")

    a, b = world.world.producer.paid("a", 1, 2), world.world.producer.paid("b", 10)
    world.world.deliver(*a, *b)
    await world.settle()
    assert world.world.ledger() == [("b", 10)]
    assert world.world.parked()["a"] == ("poison", "ValueError: no", 1)
    broken.clear()
    world.world.now_ms += 10_000
    await world.settle()
    assert world.world.of("a") == [1, 2]


async def test_a_handler_that_ends_the_transaction_is_parked(world: AsyncWorld) -> None:
    @world.world.consumer.on(Paid)
    async def pay(tx: Any, paid: Paid) -> None:
        await world.record(tx, paid.order, paid.cents)
        if paid.order == "a":
            if isinstance(tx, asyncpg.Connection | asyncpg.pool.PoolConnectionProxy):
                await tx.execute("ROLLBACK")
            else:
                await tx.rollback()

    a, b = world.world.producer.paid("a", 1), world.world.producer.paid("b", 10, 20)
    world.world.deliver(b[0], a[0], b[1])
    await world.settle()
    assert world.world.of("b") == [10, 20]
    assert world.world.of("a") == []
    assert world.world.parked()["a"][0] == "poison"


async def test_what_a_handler_does_behind_its_own_rollback_is_not_committed(
    world: AsyncWorld,
) -> None:
    @world.world.consumer.on(Paid)
    async def pay(tx: Any, paid: Paid) -> None:
        is_asyncpg = isinstance(tx, asyncpg.Connection | asyncpg.pool.PoolConnectionProxy)
        if paid.order != "a" or is_asyncpg:  # asyncpg has no commit() and no rollback()
            await world.record(tx, paid.order, paid.cents)
            return
        for step in (tx.rollback, partial(world.record, tx, "a", 1), tx.commit):
            with contextlib.suppress(Exception):
                await step()

    a, b = world.world.producer.paid("a", 1), world.world.producer.paid("b", 10, 20)
    world.world.deliver(b[0], a[0], b[1])
    for _ in range(3):
        await world.settle()
        world.world.now_ms += 60_000
        drive(redrive(desk_of(world.world), wait_list(world.world)))
    await world.settle()
    assert world.world.of("b") == [10, 20]
    assert world.world.of("a") == ([] if "a" in world.world.parked() else [1])


async def test_once_awaits_a_coroutine(world: AsyncWorld) -> None:
    keys = []

    @world.world.consumer.on(Paid)
    async def pay(tx: Any, paid: Paid, context: Context[None]) -> None:
        async def charge(key: str) -> int:
            await asyncio.sleep(0)
            keys.append(key)
            return paid.cents * 2

        charged = context.once("charge", charge)
        await world.record(tx, paid.order, charged)  # type: ignore[arg-type]

    world.world.deliver(*world.world.producer.paid("a", 7))
    await world.settle()
    assert world.world.of("a") == [14]
    assert len(keys) == 1


async def test_a_rebuild_emits_nothing_again(world: AsyncWorld) -> None:
    service, charged = Service("billing"), []

    @world.world.consumer.on(Paid)
    async def pay(tx: Any, paid: Paid, context: Context[None]) -> None:
        async def charge(key: str) -> int:
            charged.append(key)
            return paid.cents * 2

        receipt = context.once("charge", charge)
        await asyncio.create_task(service.emit(tx, Noted(paid.order, "paid")))
        await service.emit_many(tx, [Noted(paid.order, "again")])
        await world.record(tx, paid.order, receipt)  # type: ignore[arg-type]

    world.world.deliver(*world.world.producer.paid("a", 1, 2))
    await world.settle()
    drive(rebuild(desk_of(world.world), {}, ["DELETE FROM ledger"], "", perform=False))
    world.world.deliver(*world.world.producer.paid("a", 3))
    world.world.now_ms += 2000
    await world.settle()
    assert world.world.of("a") == [2, 4, 6]
    assert len(charged) == 3
    assert world.world.rows("SELECT count(*) FROM oncebox.event") == [(6,)]


async def test_a_coroutine_that_runs_too_long_is_cancelled(world: AsyncWorld) -> None:
    @world.world.consumer.on(Paid)
    async def pay(tx: Any, paid: Paid) -> None:
        await world.record(tx, paid.order, paid.cents)
        if paid.order == "a":
            await asyncio.sleep(60)

    handlers = world.world.consumer.handlers
    handlers["order.paid"] = replace_function(handlers["order.paid"])
    a, b = world.world.producer.paid("a", 1), world.world.producer.paid("b", 10)
    world.world.deliver(*a, *b)
    began = time.monotonic()
    await world.settle()
    assert world.world.ledger() == [("b", 10)]
    assert "HandlerTimeout" in world.world.parked()["a"][1]
    assert time.monotonic() - began < 30


def replace_function(handler: Any) -> Any:
    return handler._replace(function=limited_async(handler.function, 0.1))


def test_settings_are_values(tmp_path: Path) -> None:
    world = World(make_store("sqlite", tmp_path, None), tmp_path)
    assert replace(world.settings, batch_max=1).batch_max == 1
    world.close()
