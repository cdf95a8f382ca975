"""`concurrency` on what an application has already: each worker takes a connection of its own."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import sqlalchemy
from django.db.backends.base.base import BaseDatabaseWrapper
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from at_work import emit, make_tables, run_sql
from chains import Paid
from made_stores import STORES, Made
from oncebox import Service
from oncebox.service.running import running

KEYS, EACH, CONCURRENCY = 12, 4, 6
CONNECTIONS = CONCURRENCY + 3
"""The workers', the loop's, and one to look with."""

WAIT_S = 60.0
TICK_S = 0.2
NAMES = [name for name, (dialect, *_) in STORES.items() if dialect == "postgres"]


async def made_of(name: str, url: str) -> Made:
    if name == "psycopg-pool":
        plain = ConnectionPool(url, min_size=1, max_size=CONNECTIONS, open=True)
        return Made(plain, None, close=plain.close)
    if name == "psycopg-pool-async":
        pool = AsyncConnectionPool(url, min_size=1, max_size=CONNECTIONS, open=False)
        await pool.open()
        return Made(pool, None, asynchronous=True, close=pool.close)
    if name == "asyncpg-pool":
        apool = await asyncpg.create_pool(url, min_size=1, max_size=CONNECTIONS)
        return Made(apool, None, asynchronous=True, close=apool.close)
    made: Any = STORES[name][2](url)
    return await made if inspect.isawaitable(made) else made  # type: ignore[no-any-return]


def execute(tx: Any, sql: str) -> Any:
    """On whatever handlers receive; awaitable on what is asynchronous."""
    if isinstance(tx, BaseDatabaseWrapper):
        with tx.cursor() as cursor:
            return cursor.execute(sql)
    text = sqlalchemy.text(sql) if type(tx).__module__.startswith("sqlalchemy") else sql
    return tx.execute(text)


@pytest.mark.parametrize("name", NAMES)
def test_each_event_once_and_in_order(name: str, postgres_url: str, tmp_path: Path) -> None:
    make_tables(postgres_url)
    run_sql(postgres_url, "create table ledger (n bigserial, who text, what int)")
    log = f"sqlite:///{tmp_path}/events.db"
    shop = Service("shop", store=postgres_url, log=log)
    emit(shop, *(Paid(f"k{key}", n) for n in range(1, EACH + 1) for key in range(KEYS)))
    failing = {("k3", 2)}
    most = [0, 0]

    def insert(paid: Paid) -> str:
        return f"insert into ledger (who, what) values ('{paid.order}', {paid.cents})"

    def refuse(paid: Paid) -> None:
        if (paid.order, paid.cents) in failing:
            failing.clear()
            raise ValueError("once")

    async def main() -> None:
        made = await made_of(name, postgres_url)
        billing: Service[Any] = Service("billing", store=made.source, log=log)
        consumer = billing.consumer(concurrency=CONCURRENCY)
        if made.asynchronous:

            @consumer.on(Paid)
            async def pay(tx: Any, paid: Paid) -> None:
                most[0] += 1
                most[1] = max(most)
                await execute(tx, insert(paid))
                await execute(tx, "select pg_sleep(0.01)")
                most[0] -= 1
                refuse(paid)
        else:

            @consumer.on(Paid)
            def pay_plain(tx: Any, paid: Paid) -> None:
                execute(tx, insert(paid))
                refuse(paid)

        async with running([shop], consume=False), running([billing], relay=False):
            await until(lambda: len(rows()) == KEYS * EACH)
        closed = made.close()
        if inspect.isawaitable(closed):
            await closed

    def rows() -> list[tuple[Any, ...]]:
        return run_sql(postgres_url, "select who, what from ledger order by n")

    asyncio.run(main())
    found: dict[str, list[int]] = {}
    for who, what in rows():
        found.setdefault(who, []).append(what)
    assert found == {f"k{key}": list(range(1, EACH + 1)) for key in range(KEYS)}
    assert not failing
    if inspect.iscoroutinefunction(STORES[name][2]) or STORES[name][1]:
        assert most[1] > 1, "one after the other"


async def until(what: Callable[[], bool]) -> None:
    for _ in range(int(WAIT_S / TICK_S)):
        if await asyncio.to_thread(what):
            return
        await asyncio.sleep(TICK_S)
    raise AssertionError(f"not within {WAIT_S} s")
