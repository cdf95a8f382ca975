"""The consumer against a bare loop with the same batches and no guarantee.

Without engines: embedded log to SQLite, one statement per event. With them: Kafka to PostgreSQL,
two statements per event, pipelined on both sides.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import json

from bench.measure import Figure, paired
from oncebox.codecs.payload import decode
from oncebox.consumer.loop import ConsumerLoop
from oncebox.consumer.reading import Handler, Reading, Settings
from oncebox.envelope import chain_text, event_headers
from oncebox.event import event, event_type, new_id
from oncebox.logs.embedded import EmbeddedLog
from oncebox.ports import Outgoing
from oncebox.program import drive
from oncebox.service.connect import open_log
from oncebox.statements import statements
from oncebox.stores.postgres import PostgresStore
from oncebox.stores.sqlite import SqliteStore
from oncebox.tables.migrate import migrate

COUNT = 50_000
KEYS = 2_000
BATCH = 500
KAFKA_COUNT = 60_000
KAFKA_KEYS = 1_000


@event("order.placed", stream="orders", key="order_id")
@dataclass(frozen=True)
class Placed:
    order_id: str
    cents: int
    note: str


UPDATE = "UPDATE account SET owed = owed + ? WHERE id = ?"


def owe(tx: Any, placed: Placed) -> None:
    tx.execute(UPDATE, (placed.cents, placed.order_id))


def backlog(log: Any, count: int, keys: int, topic: str = "orders") -> None:
    """Chained events of 300 bytes in a log, as a relay publishes them."""
    last: dict[str, tuple[int, int | None]] = {}
    base, batch = time.time_ns() // 1000 * 1024, []
    for i in range(count):
        key = f"order-{i * 7919 % keys:06d}"
        sequence, previous = last.get(key, (0, None))
        stamp = base + i * 1024
        last[key] = (sequence + 1, stamp)
        value = json.encode(Placed(key, i % 100, "n" * 250))
        headers = event_headers(
            str(new_id()),
            "/shop/orders",
            "order.placed",
            1,
            chain_text(sequence + 1, stamp, previous),
        )
        batch.append(Outgoing(topic, key.encode(), value, headers, stamp // 1024 // 1000))
        if len(batch) == 5000:
            assert log.publish(batch, 60.0) == []
            batch.clear()
    assert log.publish(batch, 60.0) == []


def fresh_store(folder: Path) -> SqliteStore:
    store = SqliteStore(str(folder / f"{new_id()}.db"))
    session = store.open()
    drive(migrate(session))
    session.handle.execute("CREATE TABLE account (id TEXT PRIMARY KEY, owed INTEGER) WITHOUT ROWID")
    rows = [(f"order-{i:06d}",) for i in range(KEYS)]
    session.handle.execute("BEGIN")
    session.handle.executemany("INSERT INTO account VALUES (?, 0)", rows)
    session.handle.execute("COMMIT")
    session.close()
    return store


def ours(log: EmbeddedLog, folder: Path) -> float:
    store = fresh_store(folder)
    done = [0]

    def counted(tx: Any, placed: Placed) -> None:
        tx.execute(UPDATE, (placed.cents, placed.order_id))
        done[0] += 1

    loop = loop_of(store, log, counted, lambda: done[0] >= COUNT, "orders")
    began = time.perf_counter()
    drive(loop.run())
    seconds = time.perf_counter() - began
    loop.reading.session.close()
    return COUNT / seconds


def bare(log: EmbeddedLog, folder: Path) -> float:
    connection = fresh_store(folder).open().handle
    reader = log.reader("bare")
    reader.assign({("orders", p): 0 for p in range(4)})
    read, done = json.Decoder(Placed).decode, 0
    began = time.perf_counter()
    while done < COUNT:
        records = reader.fetch(BATCH, 8_000_000, 1.0)
        connection.execute("BEGIN IMMEDIATE")
        for record in records:
            placed = read(record.value or b"")
            connection.execute(UPDATE, (placed.cents, placed.order_id))
        connection.execute("COMMIT")
        done += len(records)
    seconds = time.perf_counter() - began
    reader.close()
    connection.close()
    return COUNT / seconds


def loop_of(
    store: Any, log: Any, handler: Any, stopping: Any, topic: str, session: Any = None
) -> ConsumerLoop:
    handlers = {
        "order.placed": Handler(
            handler, event_type(Placed), partial(decode, Placed), with_context=False
        )
    }
    reading = Reading(
        consumer=f"billing-{new_id()}",  # its log knows who has read it before
        session=session or store.open(),
        sql=statements(store.dialect),
        handlers=handlers,
        topics=(topic,),
        settings=Settings(batch_max=BATCH),
        now_ms=lambda: time.time_ns() // 1_000_000,
    )
    return ConsumerLoop(reading, store, log, "me", stopping=stopping, sleep=time.sleep)


LEDGER = "INSERT INTO ledger (key, amount) VALUES (%s, %s)"
BALANCE = "UPDATE balance SET v = v + %s WHERE key = %s"


def postgres_tables(url: str) -> PostgresStore:
    store = PostgresStore(url)
    session = store.open()
    drive(migrate(session))
    session.handle.execute(
        "create table ledger (id bigserial primary key, key text not null, amount bigint not null,"
        " at timestamptz not null default now())"
    )
    session.handle.execute("create table balance (key text primary key, v bigint not null)")
    session.handle.execute(
        "insert into balance select 'order-' || lpad(i::text, 6, '0'), 0"
        f" from generate_series(0, {KAFKA_KEYS - 1}) i"
    )
    session.handle.execute("vacuum analyze balance")
    session.close()
    return store


def kafka_ours(log: Any, topic: str, store: Any, session: Any, *, statements: bool = True) -> float:
    done = [0]

    def pay(tx: Any, placed: Placed) -> None:
        if statements:
            tx.execute(LEDGER, (placed.order_id, placed.cents))
            tx.execute(BALANCE, (placed.cents, placed.order_id))
        done[0] += 1

    loop = loop_of(store, log, pay, lambda: done[0] >= KAFKA_COUNT, topic, session)
    began = time.perf_counter()
    drive(loop.run())
    seconds = time.perf_counter() - began
    loop.reading.session.close()
    return KAFKA_COUNT / seconds


def kafka_bare(log: Any, topic: str, _store: Any, session: Any) -> float:
    connection = session.handle
    reader = log.reader("bare")
    reader.assign({(topic, p): 0 for p in range(4)})
    read, done = json.Decoder(Placed).decode, 0
    began = time.perf_counter()
    while done < KAFKA_COUNT:
        records = reader.fetch(BATCH, 8_000_000, 1.0)
        with connection.transaction(), connection.pipeline():
            for record in records:
                placed = read(record.value or b"")
                connection.execute(LEDGER, (placed.order_id, placed.cents))
                connection.execute(BALANCE, (placed.cents, placed.order_id))
        done += len(records)
    seconds = time.perf_counter() - began
    reader.close()
    connection.close()
    return KAFKA_COUNT / seconds


def run_engines(engines: Any, rounds: int) -> list[Figure]:
    log, topic = open_log(engines.kafka.url), f"orders-{new_id()}"
    log.create(topic, 4)
    backlog(log, KAFKA_COUNT, KAFKA_KEYS, topic)

    def on_fresh_database(what: Any) -> float:
        with engines.postgres.database() as url:
            store = postgres_tables(url)
            return float(what(log, topic, store, store.open()))

    figures = paired(
        "consumer Kafka to PostgreSQL, two statements, one event at a time",
        lambda: on_fresh_database(kafka_ours),
        lambda: on_fresh_database(kafka_bare),
        rounds=rounds,
        target="0.75",
    )
    figures[0].target = "15,000"
    log.close()
    return figures


def run(engines: object = None, rounds: int = 5) -> list[Figure]:
    if engines is not None:
        return run_engines(engines, rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = EmbeddedLog(folder / "log.db")
        log.create("orders", 4)
        backlog(log, COUNT, KEYS)
        figures = paired(
            "consumer embedded, batches of 500 over 2,000 keys",
            lambda: ours(log, folder),
            lambda: bare(log, folder),
            rounds=rounds,
            target="0.4",
        )
        log.close()
        return figures
