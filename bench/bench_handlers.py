"""Handlers that wait, side by side; and lists of events by set-based SQL against a bare loop.

Kafka to PostgreSQL, 4 partitions, 1,000 keys. The bare loop has the same batches and the offsets in
the same transaction, and keeps nothing by key.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg
from msgspec import json

from bench.bench_consumer import KAFKA_KEYS, Placed, backlog, postgres_tables
from bench.measure import Figure, figure, paired
from oncebox.codecs.payload import decode
from oncebox.consumer.abreast import AbreastLoop
from oncebox.consumer.loop import ConsumerLoop
from oncebox.consumer.reading import Handler, Reading, Settings
from oncebox.event import event_type, new_id
from oncebox.program import drive, drive_async
from oncebox.service.connect import open_log
from oncebox.statements import statements
from oncebox.stores.adapt import open_store

WAIT_S = 0.05
CONCURRENCY = 64
WAITING_COUNT = 6_000
LIST_COUNT = 200_000
BATCH = 2_000
LEDGER = "INSERT INTO ledger (key, amount) VALUES (%s, %s)"
PROJECT = "INSERT INTO ledger (key, amount) SELECT * FROM unnest(%s::text[], %s::bigint[])"
OWE = """UPDATE balance SET v = v + n.cents
    FROM unnest(%s::text[], %s::bigint[]) AS n (key, cents) WHERE balance.key = n.key"""


def reading_of(session: Any, function: Any, topic: str, **settings: Any) -> Reading:
    handler = Handler(
        function, event_type(Placed), partial(decode, Placed), with_context=False,
        listed=function.__name__ == "project",
    )  # fmt: skip
    return Reading(
        consumer=f"billing-{new_id()}",  # its log knows who has read it before
        session=session,
        sql=statements("postgres"),
        handlers={"order.placed": handler},
        topics=(topic,),
        settings=replace(Settings(), **settings),
        now_ms=lambda: time.time_ns() // 1_000_000,
    )


# ---- handlers that wait


def waiting(log: Any, topic: str, url: str) -> float:
    """Events per second of plain handlers, each of which waits and writes a row."""
    store, done = open_store(url), []

    def pay(tx: Any, placed: Placed) -> None:
        time.sleep(WAIT_S)
        tx.execute(LEDGER, (placed.order_id, placed.cents))
        done.append(time.perf_counter())

    reading = reading_of(store.open(), pay, topic, concurrency=CONCURRENCY)
    loop = AbreastLoop(
        reading, store, log, "me",
        stopping=lambda: len(done) >= WAITING_COUNT, sleep=time.sleep,
    )  # fmt: skip
    drive(loop.run())
    return rate(done)


def waiting_async(log: Any, topic: str, url: str) -> float:
    """The same for coroutines."""
    return asyncio.run(_waiting_async(log, topic, url))


async def _waiting_async(log: Any, topic: str, url: str) -> float:
    store, done = open_store(url, asynchronous=True), []

    async def pay(tx: Any, placed: Placed) -> None:
        await asyncio.sleep(WAIT_S)
        await tx.execute(LEDGER, (placed.order_id, placed.cents))
        done.append(time.perf_counter())

    session: Any = store.open()
    reading = reading_of(await session, pay, topic, concurrency=CONCURRENCY)
    loop = AbreastLoop(
        reading, store, log, "me",
        stopping=lambda: len(done) >= WAITING_COUNT, sleep=asyncio.sleep,
        fetch=lambda reader: partial(asyncio.to_thread, reader.fetch),
    )  # fmt: skip
    await drive_async(loop.run())
    return rate(done)


def rate(done: list[float]) -> float:
    """Between the first tenth, while connections open, and the end."""
    first = len(done) // 10
    return (len(done) - 1 - first) / (done[-1] - done[first])


# ---- lists


def project_all(tx: Any, events: list[Placed]) -> None:
    """What the consumer's benchmark does for each event, by two statements for all of them."""
    tx.execute(PROJECT, ([e.order_id for e in events], [e.cents for e in events]))
    owed: dict[str, int] = {}
    for placed in events:
        owed[placed.order_id] = owed.get(placed.order_id, 0) + placed.cents
    tx.execute(OWE, (list(owed), list(owed.values())))


def lists(log: Any, topic: str, url: str) -> float:
    store, done = open_store(url), [0]
    began = list[
        float
    ]()  # with the first list: before it, a new consumer asks its log about itself

    def project(tx: Any, events: list[Placed]) -> None:
        if not began:
            began.append(time.perf_counter())
        project_all(tx, events)
        done[0] += len(events)

    reading = reading_of(store.open(), project, topic, batch_max=BATCH, list_max=BATCH)
    loop = ConsumerLoop(
        reading, store, log, "me", stopping=lambda: done[0] >= LIST_COUNT, sleep=time.sleep
    )
    drive(loop.run())
    return LIST_COUNT / (time.perf_counter() - began[0])


def bare_lists(log: Any, topic: str, url: str) -> float:
    connection: Any = psycopg.connect(url, autocommit=True)
    connection.execute("create table place (partition int primary key, position bigint)")
    connection.execute("insert into place select p, 0 from generate_series(0, 3) p")
    move = """update place set position = v.position
        from unnest(%s::int[], %s::bigint[]) as v (partition, position)
        where place.partition = v.partition"""
    reader = log.reader("bare")
    reader.assign({(topic, p): 0 for p in range(4)})
    read, done = json.Decoder(Placed).decode, 0
    began = time.perf_counter()
    while done < LIST_COUNT:
        records = reader.fetch(BATCH, 8_000_000, 1.0)
        events = [read(record.value or b"") for record in records]
        reached = {record.partition: record.offset + 1 for record in records}
        with connection.transaction():
            project_all(connection, events)
            connection.execute(move, (list(reached), list(reached.values())))
        done += len(records)
    seconds = time.perf_counter() - began
    reader.close()
    connection.close()
    return LIST_COUNT / seconds


def run(engines: Any = None, rounds: int = 5) -> list[Figure]:
    if engines is None:
        return []
    log = open_log(engines.kafka.url)
    topics = {count: f"orders-{new_id()}" for count in (WAITING_COUNT, LIST_COUNT)}
    for count, topic in topics.items():
        log.create(topic, 4)
        backlog(log, count, KAFKA_KEYS, topic)

    def on_fresh_database(what: Any, count: int) -> float:
        with engines.postgres.database() as url:
            postgres_tables(url)
            return float(what(log, topics[count], url))

    figures = []
    for kind, what in (("plain", waiting), ("coroutines", waiting_async)):
        rates = [on_fresh_database(what, WAITING_COUNT) for _ in range(min(rounds, 3))]
        name = f"handlers that wait 50 ms, concurrency 64, {kind}"
        figures.append(figure(name, "events/s", rates, "1,000", "ideal 1,280"))
    compared = paired(
        "batch handler, Kafka to PostgreSQL by set-based SQL",
        lambda: on_fresh_database(lists, LIST_COUNT),
        lambda: on_fresh_database(bare_lists, LIST_COUNT),
        rounds=rounds,
        target="0.7",
    )
    compared[0].target = "35,000"
    log.close()
    return figures + compared
