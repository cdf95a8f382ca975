"""What does not grow: a consumer's cost per event with what it has handled, and its memory.

Events without key are the hard case: each leaves a row. The rows of those that were handled already
are made by SQL, so that five million of them take a minute and not an hour.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.bench_consumer import Placed, backlog, loop_of
from bench.measure import Figure, figure, peak_mb
from oncebox.event import new_id
from oncebox.ports import Outgoing
from oncebox.program import drive
from oncebox.service.connect import open_log
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate

HANDLED = (10_000, 5_000_000)
COUNT = 20_000
MEMORY_COUNT = 1_000_000
MEMORY_KEYS = 100_000

ROWS = {
    "sqlite": "INSERT INTO oncebox_key (subscription, key, sequence, stamp, id) "
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {0}) "
    "SELECT {1}, 'done-' || i, 1, i, 'done-' || i FROM n",
    "postgres": "insert into oncebox.key (subscription, key, sequence, stamp, id) "
    "select {1}, 'done-' || i, 1, i, 'done-' || i from generate_series(1, {0}) i",
}


def unkeyed(log: Any, topic: str, count: int) -> None:
    """Events without key in a log, as a relay publishes them."""
    value = b'{"order_id":"o","cents":1,"note":"' + b"n" * 250 + b'"}'
    for start in range(0, count, 5000):
        batch = []
        for _ in range(start, min(start + 5000, count)):
            headers = [
                ("ce_specversion", "1.0"), ("ce_id", str(new_id())), ("ce_source", "/shop/orders"),
                ("ce_type", "order.placed"), ("ce_dataschema", "oncebox:order.placed/1"),
            ]  # fmt: skip
            batch.append(Outgoing(topic, None, value, headers, time.time_ns() // 1_000_000))
        assert log.publish(batch, 60.0) == []


def cost_us(store_url: str, log: Any, topic: str, handled: int) -> float:
    """Microseconds of wall time per event, when so many were handled before."""
    store: Any = open_store(store_url)
    session = store.open()
    drive(migrate(session))
    dot = "." if store.dialect == "postgres" else "_"
    ((subscription,),) = session.run(
        f"insert into oncebox{dot}subscription (consumer, source)"
        " values ('billing', '/shop/orders#id') returning id"
    )
    session.run(ROWS[store.dialect].format(handled, subscription))
    if store.dialect == "postgres":
        session.run("vacuum analyze oncebox.key")
    session.close()
    done = [0]

    def handler(_tx: Any, _placed: Placed) -> None:
        done[0] += 1

    loop = loop_of(store, log, handler, lambda: done[0] >= COUNT, topic)
    began = time.perf_counter()
    drive(loop.run())
    return (time.perf_counter() - began) / COUNT * 1e6


def consume(store_url: str, log_url: str, topic: str, count: int, peaks: Any) -> None:
    """In a process of its own: its peak memory after a quarter, and at the end."""
    done = [0]

    def handler(_tx: Any, _placed: Placed) -> None:
        done[0] += 1
        if done[0] == count // 4:
            peaks[0] = peak_mb()

    store, log = open_store(store_url), open_log(log_url)
    drive(loop_of(store, log, handler, lambda: done[0] >= count, topic).run())
    peaks[1] = peak_mb()


def memory(store_url: str, log_url: str, topic: str) -> list[Figure]:
    log, store = open_log(log_url), open_store(store_url)
    log.create(topic, 4)
    backlog(log, MEMORY_COUNT, MEMORY_KEYS, topic)
    log.close()
    session: Any = store.open()
    drive(migrate(session))
    session.close()
    context = multiprocessing.get_context("spawn")
    peaks = context.Array("d", 2)
    process = context.Process(target=consume, args=(store_url, log_url, topic, MEMORY_COUNT, peaks))
    process.start()
    process.join()
    assert process.exitcode == 0
    name = f"consumer, {MEMORY_COUNT:,} events over {MEMORY_KEYS:,} keys: memory"
    return [
        figure(name, "MB", [peaks[1]], "120"),
        figure(f"{name} at the end against a quarter", "ratio", [peaks[1] / peaks[0]]),
    ]


def run(engines: Any = None, rounds: int = 3) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        log_url = f"sqlite:///{Path(folder)}/log.db"
        log = open_log(log_url)
        log.create("ids", 4)
        unkeyed(log, "ids", COUNT)
        costs: dict[int, list[float]] = {handled: [] for handled in HANDLED}
        for _ in range(rounds):
            for handled, found in costs.items():
                if engines is None:
                    url = f"sqlite:///{Path(folder)}/{new_id()}.db"
                    found.append(cost_us(url, log, "ids", handled))
                    Path(url.removeprefix("sqlite:///")).unlink()
                else:
                    with engines.postgres.database() as url:
                        found.append(cost_us(url, log, "ids", handled))
        log.close()
        kind = "SQLite" if engines is None else "PostgreSQL"
        name = f"consumer on {kind}, cost per event without key"
        low, high = HANDLED
        ratios = [b / a for a, b in zip(costs[low], costs[high], strict=True)]
        figures = [figure(f"{name}, {n:,} handled", "us", costs[n]) for n in HANDLED]
        figures.append(figure(f"{name}: {high:,} against {low:,}", "ratio", ratios, "1.25"))
        if engines is None:
            figures += memory(f"sqlite:///{Path(folder)}/memory.db", log_url, "orders")
        return figures
