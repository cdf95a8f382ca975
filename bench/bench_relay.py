"""The relay: PostgreSQL to Kafka against a bare select-and-produce loop; latency; idle cost."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, cast

import psycopg
from confluent_kafka import Producer

from bench.measure import Figure, figure, paired, percentile
from oncebox.event import new_id
from oncebox.ports import Log
from oncebox.program import drive
from oncebox.relay import Relay, RelaySettings
from oncebox.service.connect import open_log
from oncebox.statements import statements
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate

COUNT = 500_000
KEYS = 1_000
DATA = b'{"order_id":"' + b"x" * 285 + b'"}'
RATE = 200
WARM = 600
BULK = 1_000

PRODUCER = {
    "enable.idempotence": True,
    "acks": "all",
    "linger.ms": 20,
    "batch.size": 1_000_000,
    "queue.buffering.max.messages": 1_000_000,
    "queue.buffering.max.kbytes": 1_000_000,
    "partitioner": "murmur2_random",
}


# ---- a backlog


def fill_events(url: str, many: int) -> None:
    """Events by `append_many`, a thousand in a transaction."""
    store = open_store(url)
    session = store.open()
    drive(migrate(session))
    sql = statements(store.dialect)
    for start in range(0, many, BULK):
        rows = [
            ("/shop/orders", str(new_id()), f"order-{i % KEYS:06d}", "order.placed", 1, DATA)
            for i in range(start, min(start + BULK, many))
        ]
        session.begin()
        if store.dialect == "postgres":
            session.run(sql["append_many"], [list(column) for column in zip(*rows, strict=True)])
        else:
            session.run_many(sql["append"], rows)
        session.commit()
    session.close()


def fill_plain(url: str, many: int) -> None:
    """The same payloads in one plain table, for the bare loop."""
    with psycopg.connect(url, autocommit=True) as c:
        c.execute(
            "create table plain (n bigint primary key, id uuid not null, source text not null,"
            " key text not null, type text not null, version int not null,"
            " at timestamptz not null default now(), data bytea not null)"
        )
        c.execute(
            "insert into plain select n, gen_random_uuid(), '/shop/orders',"
            " 'order-' || lpad((n %% %s)::text, 6, '0'), 'order.placed', 1, now(), %s"
            " from generate_series(1, %s) n",
            (KEYS, DATA, many),
        )
        c.execute("vacuum analyze plain")


# ---- throughput


class Counting:
    """A log that counts what it has taken."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.taken = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)

    def publish(self, records: Any, timeout_s: float) -> Any:
        refusals = self.log.publish(records, timeout_s)
        self.taken += len(records) - len(refusals)
        return refusals


def relay_backlog(url: str, log: Log, topic: str, many: int) -> float:
    """Events per second of a relay that begins at the beginning."""
    store, counting = open_store(url), Counting(log)
    session: Any = store.open()
    session.run(f"delete from oncebox{'.' if store.dialect == 'postgres' else '_'}cursor")
    session.close()
    settings = RelaySettings(topics={"orders": topic})
    relay = Relay(store, counting, "shop", "bench", settings, time.time, time.sleep)
    began = time.perf_counter()
    drive(relay.run(lambda: counting.taken >= many))
    return many / (time.perf_counter() - began)


def bare_kafka(url: str, bootstrap: str, topic: str, many: int) -> float:
    """Select 5,000 rows, produce them with seven headers; no marks, no order of commits."""
    producer = Producer({"bootstrap.servers": bootstrap, **PRODUCER})
    select = (
        "select id::text, key, type, version::text, source, at::text, data, n from plain"
        " where n > %s order by n limit 5000"
    )
    began = time.perf_counter()
    with psycopg.connect(url, autocommit=True) as c:
        cursor, last, sent = c.cursor(binary=True), 0, 0
        while rows := cursor.execute(select, [last], prepare=True).fetchall():
            for id, key, type, version, source, at, data, _ in rows:
                headers = [
                    ("ce_id", id), ("ce_type", type), ("ce_dataschema", version),
                    ("ce_source", source), ("ce_time", at), ("ce_specversion", "1.0"),
                    ("content-type", "application/json"),
                ]  # fmt: skip
                producer.produce(topic, data, key, headers=headers)
            producer.poll(0)
            last, sent = rows[-1][7], sent + len(rows)
    assert producer.flush(60) == 0
    assert sent == many
    return many / (time.perf_counter() - began)


def select_only(url: str) -> Callable[[], float]:
    """What reading alone does: the same reads, and a log that takes everything."""

    class Nowhere:
        def describe(self, topic: str) -> Any:
            return topic

        def publish(self, *_: Any) -> Any:
            return []

    return lambda: relay_backlog(url, cast("Any", Nowhere()), "orders", COUNT)


# ---- latency and idle cost


def relay_process(store_url: str, log_url: str, stop: Any) -> None:
    store, log = open_store(store_url), open_log(log_url)
    relay = Relay(store, log, "shop", "bench", RelaySettings(), time.time, time.sleep)
    drive(relay.run(stop.is_set))


@contextmanager
def relaying(store_url: str, log_url: str) -> Iterator[int]:
    """A relay in a process of its own; its process id."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    process = context.Process(target=relay_process, args=(store_url, log_url, stop))
    process.start()
    try:
        yield process.pid or 0
    finally:
        stop.set()
        process.join(10)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def latency(name: str, store_url: str, log_url: str, seconds: float = 10.0) -> list[Figure]:
    """Commit to fetched by a reader, at RATE events per second; then the cost of being idle."""
    store, log = open_store(store_url), open_log(log_url)
    log.create("orders", 4)
    session: Any = store.open()
    drive(migrate(session))
    append = statements(store.dialect)["append"]
    committed: dict[str, float] = {}
    fetched: dict[str, float] = {}
    stop = threading.Event()
    reader = log.reader("bench")
    reader.assign({("orders", p): extent.end for p, extent in enumerate(log.extents("orders"))})

    def fetch() -> None:
        while not stop.is_set():
            for record in reader.fetch(1000, 8_000_000, 0.1):
                fetched[(dict(record.headers)["ce_id"] or b"").decode()] = time.perf_counter()

    with relaying(store_url, log_url) as pid:
        thread = threading.Thread(target=fetch)
        thread.start()
        began = time.perf_counter()
        for i in range(int(RATE * seconds)):
            time.sleep(max(0.0, began + i / RATE - time.perf_counter()))
            id = str(new_id())
            session.begin()
            session.run(append, ("/shop/orders", id, f"order-{i % KEYS}", "order.placed", 1, DATA))
            session.commit()
            committed[id] = time.perf_counter()
        while len(fetched) < len(committed) and time.perf_counter() - began < seconds + 30:
            time.sleep(0.05)
        time.sleep(2.0)
        busy = cpu_s(pid)
        time.sleep(3.0)
        idle = (cpu_s(pid) - busy) / 3.0
        stop.set()
        thread.join()
    late = [(fetched[id] - at) * 1000 for id, at in list(committed.items())[WARM:]]
    log.close()
    return [
        figure(f"{name}: commit to fetched, p50", "ms", [percentile(late, 0.5)], "5"),
        figure(f"{name}: commit to fetched, p99", "ms", [percentile(late, 0.99)], "15"),
        figure(f"{name}: idle relay process", "of a core", [idle]),
    ]


def on_engines(engines: Any, rounds: int) -> list[Figure]:
    bootstrap, kafka_url = engines.kafka.bootstrap, engines.kafka.url
    log = open_log(kafka_url)
    numbers = count()
    figures: list[Figure] = []

    def topic() -> str:
        name = f"bench-relay-{next(numbers)}"
        log.create(name, 4)
        return name

    with engines.postgres.database() as url:
        figures += latency("PostgreSQL to Kafka", url, kafka_url)
    with engines.postgres.database() as url:
        fill_events(url, COUNT)
        fill_plain(url, COUNT)
        figures += paired(
            "relay, PostgreSQL to Kafka",
            lambda: relay_backlog(url, log, topic(), COUNT),
            lambda: bare_kafka(url, bootstrap, topic(), COUNT),
            rounds=rounds,
            target="0.65",
            against="bare select and produce",
        )
        figures.append(figure("relay, reading alone", "events/s", [select_only(url)()]))
    engines.kafka.delete_topics("bench-relay-")
    log.close()
    return figures


def on_sqlite(rounds: int) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        url = f"sqlite:///{name}/shop.db"
        fill_events(url, COUNT // 5)
        rates = []
        for _ in range(rounds):
            log_name = f"{name}/{new_id()}.db"
            log = open_log(f"sqlite:///{log_name}")
            rates.append(relay_backlog(url, log, "orders", COUNT // 5))
            log.close()
            Path(log_name).unlink()
        figures = [figure("relay, SQLite to embedded log", "events/s", rates)]
        return figures + latency(
            "SQLite to embedded log", f"sqlite:///{name}/b.db", f"sqlite:///{name}/c.db"
        )


def run(engines: Any = None, rounds: int = 3) -> list[Figure]:
    return on_sqlite(rounds) if engines is None else on_engines(engines, rounds)
