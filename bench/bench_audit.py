"""The audit of a system that agrees: time and memory, for a million events over many keys.

Events go through the real outbox and the real relay; the consumer's rows are made by SQL.
"""

from __future__ import annotations

import gc
import multiprocessing
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Any

from bench.measure import Figure, figure, peak_mb
from oncebox.audit.survey import Side, audit
from oncebox.cli.run import GARBAGE_MIN
from oncebox.event import new_id
from oncebox.program import drive
from oncebox.relay import Relay, RelaySettings
from oncebox.service.connect import open_log
from oncebox.service.places import Place
from oncebox.statements import statements
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate

COUNT, KEYS = 1_000_000, 100_000
BATCH = 10_000
DATA = b'{"order_id":"o","cents":1,"note":"' + b"n" * 250 + b'"}'

ROWS = {
    "sqlite": "INSERT INTO oncebox_key (subscription, key, sequence, stamp, id) "
    "SELECT {0}, k.key, k.sequence, k.stamp, e.id FROM oncebox_counter k "
    "JOIN oncebox_event e ON e.n = k.n",
    "postgres": "insert into oncebox.key (subscription, key, sequence, stamp, id) "
    "select {0}, k.key, k.sequence, k.stamp, e.id::text from oncebox.counter k "
    "join oncebox.chain c on c.position = k.position join oncebox.event e on e.n = c.n",
}


def fill(session: Any, sql: Any, stream: str) -> None:
    """Events of all keys in turn."""
    source = f"/shop/{stream}"
    for start in range(0, COUNT, BATCH):
        rows = [
            (source, str(new_id()), f"o-{n % KEYS}", "order.placed", 1, DATA)
            for n in range(start, start + BATCH)
        ]
        session.begin()
        if session.dialect == "postgres":
            session.run(sql["append_many"], [list(column) for column in zip(*rows, strict=True)])
        else:
            session.run_many(sql["append_many"], rows)
        session.commit()


def done(session: Any, log: Any, stream: str) -> None:
    """The rows of a consumer that has read and done everything."""
    dot = "." if session.dialect == "postgres" else "_"
    ((subscription,),) = session.run(
        f"insert into oncebox{dot}subscription (consumer, source)"
        f" values ('billing', '/shop/{stream}') returning id"
    )
    session.run(ROWS[session.dialect].format(subscription))
    for number, extent in enumerate(log.extents(stream)):
        values = f"'billing', '{stream}', {number}, '{extent.end}'"
        columns = "reader, topic, partition, position"
        session.run(f"insert into oncebox{dot}cursor ({columns}) values ({values})")
    if session.dialect == "postgres":
        session.run("vacuum analyze")


def measured(store: str, log_url: str, found: Any) -> None:
    """In a process of its own: seconds and peak memory of an audit, which has to be clean."""
    place, log = Place(store, None, "oncebox", {}), open_log(log_url)
    gc.set_threshold(GARBAGE_MIN)  # as the command does
    began = time.perf_counter()
    report = audit([Side(lambda work: place.at_desk("", work), log)])
    found[0], found[1] = time.perf_counter() - began, peak_mb()
    assert (report.clean, report.rows, report.records) == (True, COUNT, COUNT), report
    log.close()


def one(store_url: str, log_url: str, stream: str, kind: str) -> list[Figure]:
    store: Any = open_store(store_url)
    log, session, sql = open_log(log_url), store.open(), statements(store.dialect)
    log.create(stream, 4)
    drive(migrate(session))
    fill(session, sql, stream)
    turns = count()
    relay = Relay(store, log, "shop", "bench", RelaySettings(), time.time, lambda _: None)
    drive(relay.run(
        lambda: next(turns) % 50 == 49
        and sum(extent.end for extent in log.extents(stream)) >= COUNT
    ))  # fmt: skip
    done(session, log, stream)
    session.close()
    log.close()
    context = multiprocessing.get_context("spawn")
    found = context.Array("d", 2)
    process = context.Process(target=measured, args=(store_url, log_url, found))
    process.start()
    process.join()
    assert process.exitcode == 0
    name = f"audit on {kind}, {COUNT:,} events over {KEYS:,} keys"
    return [
        figure(f"{name}: time", "s", [found[0]], "15"),
        figure(f"{name}: memory", "MB", [found[1]], "200"),
    ]


def run(engines: Any = None) -> list[Figure]:
    if engines is not None:
        with engines.postgres.database() as url:
            return one(url, engines.kafka.url, f"audit-{new_id()}", "PostgreSQL and Kafka")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        return one(f"sqlite:///{path}/a.db", f"sqlite:///{path}/log.db", "orders", "SQLite")
