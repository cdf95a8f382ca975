"""Where the time goes that bounds the other figures: processor time per event, part by part.

Processor time of a process, the least of some runs, so that it says the same on a busy machine.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from msgspec import json

from bench import bench_consumer as consuming
from bench import bench_emit as emitting
from bench.bench_pgbench import PLAIN
from bench.bench_relay import cpu_s
from bench.measure import Figure, figure
from oncebox.codecs.payload import decode
from oncebox.consumer.reading import Subscription, take_in
from oncebox.envelope import digest, read_core
from oncebox.event import new_id
from oncebox.logs.embedded import EmbeddedLog
from oncebox.program import drive
from oncebox.service.connect import open_log
from oncebox.statements import statements
from oncebox.stores.adapt import adapt, open_store
from oncebox.tables.migrate import migrate

COUNT = 2_000
BULK_COUNT = 50_000
LOOK_S = 0.02


def least(name: str, run: Callable[[], Any], count: int, rounds: int) -> Figure:
    """Microseconds of this process's time for each of `count`."""
    spent = []
    for _ in range(rounds):
        began = time.process_time()
        run()
        spent.append((time.process_time() - began) / count * 1e6)
    return Figure(name, "us", min(spent), min(spent), max(spent), rounds)


# ---- emit on SQLite


def emit_parts(folder: Path, rounds: int) -> list[Figure]:
    """A transaction without an event, with a plain insert, …, with all that emit does."""
    session: Any = open_store(f"sqlite:///{folder}/emit.db").open()
    drive(migrate(session))
    connection = session.handle
    emitting.tables(
        connection.execute, serial="integer primary key", uuid="text", bytes="blob", half_full=""
    )
    connection.execute(
        "create table counter (source text, key text, sequence integer, stamp integer, n integer,"
        " primary key (source, key)) without rowid"
    )
    connection.execute("pragma synchronous = NORMAL")
    keys, append = random.Random(1), statements("sqlite")["append"]
    insert = "insert into plain (id, source, type, version, key, data) values (?, ?, ?, ?, ?, ?)"

    def plain(key: str) -> None:
        data = json.encode(emitting.Placed(key, "x" * 265))
        connection.execute(insert, (str(uuid4()), "/shop/orders", "order.placed", 1, key, data))

    def counted(key: str) -> None:
        plain(key)
        count = "insert or replace into counter values ('/shop/orders', ?, 1, 1, 1)"
        connection.execute(count, (key,))

    def appended(key: str) -> None:
        data = json.encode(emitting.Placed(key, "x" * 265))
        connection.execute(append, ("/shop/orders", str(uuid4()), key, "order.placed", 1, data))

    def emitted(key: str) -> None:
        emitting.shop.emit(connection, emitting.Placed(key, "x" * 265))

    def transactions(last: Callable[[str], object]) -> None:
        for _ in range(COUNT):
            key = f"order-{keys.randrange(emitting.KEYS):06d}"
            connection.execute("begin immediate")
            connection.execute("update account set owed = owed + 1 where id = ?", (key,))
            connection.execute("insert into entry (account, cents) values (?, 5)", (key,))
            last(key)
            connection.execute("commit")

    parts: dict[str, Callable[[str], object]] = {
        "no event": len,
        "a plain insert": plain,
        "that and a row of a counter": counted,
        "the statement of emit": appended,
        "emit": emitted,
    }
    made = [
        least(f"transaction on SQLite with {name}", partial(transactions, last), COUNT, rounds)
        for name, last in parts.items()
    ]
    session.close()
    return made


# ---- what a consumer does with a record before its handler runs


def reading_parts(folder: Path, rounds: int) -> list[Figure]:
    log = EmbeddedLog(folder / "log.db")
    log.create("orders", 4)
    consuming.backlog(log, consuming.COUNT, consuming.KEYS)
    reader = log.reader("parts")
    reader.assign({("orders", partition): 0 for partition in range(4)})
    records: list[Any] = []
    while len(records) < consuming.COUNT:
        records += reader.fetch(consuming.BATCH, 8_000_000, 1.0)
    store = consuming.fresh_store(folder)
    loop = consuming.loop_of(store, log, lambda *_: None, lambda: True, "orders")
    loop.reading.subscriptions["/shop/orders"] = Subscription(1, 0)
    many = len(records)
    values = [record.value or b"" for record in records]
    bare = json.Decoder(consuming.Placed).decode
    made = [
        least(
            "record: headers read and checked", lambda: list(map(read_core, records)), many, rounds
        ),
        least(
            "record: digest of its bytes",
            lambda: [digest("order.placed", False, value) for value in values],
            many,
            rounds,
        ),
        least("record: all of it taken in", lambda: take_in(loop.reading, records), many, rounds),
        least(
            "record: payload decoded within bounds",
            lambda: [decode(consuming.Placed, value) for value in values],
            many,
            rounds,
        ),
        least("record: payload decoded", lambda: list(map(bare, values)), many, rounds),
    ]
    reader.close()
    log.close()
    return made


# ---- client and server


@contextmanager
def server_time(pid: int) -> Iterator[list[float]]:
    """Seconds of a server process's time, for as long as it lives; the last look counts."""
    began, spent, stop = cpu_s(pid), [0.0], threading.Event()

    def look() -> None:
        while not stop.wait(LOOK_S):
            try:
                spent[0] = cpu_s(pid) - began
            except FileNotFoundError:
                return

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield spent
    finally:
        stop.set()
        watch.join()


def both(name: str, pid: int, run: Callable[[], Any], count: int) -> list[Figure]:
    began = time.process_time()
    with server_time(pid) as spent:
        run()
    client = (time.process_time() - began) / count * 1e6
    return [
        figure(f"{name}: client", "us", [client]),
        figure(f"{name}: server", "us", [spent[0] / count * 1e6]),
    ]


def bulk_parts(url: str) -> list[Figure]:
    with psycopg.connect(url, autocommit=True) as connection:
        drive(migrate(adapt(connection)))
    keys = random.Random(1)
    with psycopg.connect(url) as connection:

        def emit() -> None:
            for _ in range(0, BULK_COUNT, emitting.BULK):
                events = [
                    emitting.Placed(f"order-{keys.randrange(emitting.KEYS):06d}", "x" * 265)
                    for _ in range(emitting.BULK)
                ]
                emitting.shop.emit_many(connection, events)
                connection.commit()

        emit()
        name = "event of emit_many on PostgreSQL"
        return both(name, connection.info.backend_pid, emit, BULK_COUNT)


LOOPED = """create procedure {name}(times int) language plpgsql as $$
begin
  for i in 1..times loop
    {body}
    commit;
  end loop;
end $$"""
SAYS = "jsonb_build_object('id', i, 'cents', 5)"
ROW = "gen_random_uuid(), '/shop/orders', 'order.placed', 1, (i % 1000 + {key})::text"
INTO = "insert into {table} (id, source, type, version, key, data) select {row}, {data};"
COUNTER = """insert into oncebox.counter as c (source_id, key, sequence, stamp, position)
  values (1, (i % 1000 + {key})::text, 1, 1, 0)
  on conflict on constraint counter_pkey do update set sequence = c.sequence + 1,
    previous = c.stamp, before = c.position, stamp = c.stamp + 1,
    position = nextval('oncebox.chain_position');"""
CHAIN = """insert into oncebox.chain
    (position, n, stamp, source_id, size, sequence, previous, before)
  values (nextval('oncebox.chain_position'), i, 1, 1, 5, 1, 1, 1);"""


def transaction_parts(url: str, rounds: int) -> list[Figure]:
    """Transactions of three events in a loop inside the server, which nobody waits for."""
    data = f"convert_to({SAYS}::text, 'UTF8')"

    def inserts(table: str) -> str:
        rows = (ROW.format(key=key) for key in range(3))
        return "".join(INTO.format(table=table, row=row, data=data) for row in rows)

    def thrice(statement: str) -> str:
        return "".join(statement.format(key=key) for key in range(3))

    emit = "perform oncebox.emit('/shop/orders', 'order.placed', (i % 1000 + {key})::text, "
    bodies = {
        "three emits": thrice(emit + SAYS + ");"),
        "three plain inserts": inserts("plain"),
        "three rows of events that nobody numbers": inserts("oncebox.event"),
        "three rows of counters": thrice(COUNTER),
        "three rows of the chain": thrice(CHAIN),
        "nothing": "perform 1;",
    }
    figures = []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop table if exists plain")
        connection.execute(PLAIN.encode())
        connection.execute("set synchronous_commit = off")
        for at, (name, body) in enumerate(bodies.items()):
            if at == 1:
                connection.execute("alter table oncebox.event disable trigger number")
            connection.execute(LOOPED.format(name=f"part_{at}", body=body).encode())
            spent = []
            for _ in range(rounds):
                began = time.perf_counter()
                connection.execute(f"call part_{at}({COUNT})".encode())
                spent.append((time.perf_counter() - began) / COUNT * 1e6)
            what = f"transaction on PostgreSQL with {name}"
            figures.append(Figure(what, "us", min(spent), min(spent), max(spent), rounds))
    return figures


def consumer_parts(engines: Any) -> list[Figure]:
    log, topic = open_log(engines.kafka.url), f"parts-{new_id()}"
    log.create(topic, 4)
    consuming.backlog(log, consuming.KAFKA_COUNT, consuming.KAFKA_KEYS, topic)
    figures = []
    runs = {
        "ours": consuming.kafka_ours,
        "ours, a handler that does nothing": partial(consuming.kafka_ours, statements=False),
        "bare": consuming.kafka_bare,
    }
    for name, run in runs.items():
        with engines.postgres.database() as url:
            store = consuming.postgres_tables(url)
            session: Any = store.open()
            figures += both(
                f"event from Kafka to PostgreSQL, {name}",
                session.handle.info.backend_pid,
                partial(run, log, topic, store, session),
                consuming.KAFKA_COUNT,
            )
    engines.kafka.delete_topics("parts-")
    log.close()
    return figures


def run(engines: Any = None, rounds: int = 9) -> list[Figure]:
    if engines is not None:
        with engines.postgres.database() as url:
            return bulk_parts(url) + transaction_parts(url, rounds) + consumer_parts(engines)
    with tempfile.TemporaryDirectory() as name:
        return emit_parts(Path(name), rounds) + reading_parts(Path(name), rounds)
