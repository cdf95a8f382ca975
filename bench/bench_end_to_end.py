"""A backlog through relay, log and consumer, each in a process of its own; and what they use.

Without engines: SQLite files and the embedded log. With them: PostgreSQL and Kafka. Then latency:
commit to effect at 200 events a second, with everything idle in between.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import Figure, figure, peak_mb, percentile
from oncebox import Service, event
from oncebox.program import drive
from oncebox.service.connect import open_log
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate

COUNT = 500_000
KEYS = 2_000
RATE = 200
LATENCY_COUNT = 2_000
WARM_COUNT = 600
LOOK_S = 0.001


@event("order.placed", stream="orders", key="order_id")
@dataclass(frozen=True)
class Placed:
    order_id: str
    cents: int
    note: str


@dataclass
class Place:
    """Where a run happens: two stores and a log."""

    shop: str
    billing: str
    log: str
    stream: str

    def services(self) -> tuple[Service, Service]:
        """Shop and billing on these URLs; the handler is one statement."""
        shop = Service("shop", store=self.shop, log=self.log)
        billing = Service("billing", store=self.billing, log=self.log)
        mark = "%s" if self.billing.startswith("postgres") else "?"
        update = f"UPDATE account SET owed = owed + {mark}, at = {mark} WHERE id = {mark}"

        @billing.on(Placed)
        def owe(tx: Any, placed: Placed) -> None:
            tx.execute(update, (placed.cents, time.time(), placed.order_id))

        return shop, billing


def work(place: Place, what: str, ready: Any, memory: Any) -> None:
    """A process that relays or consumes until it is told to stop, as `oncebox run`."""
    import asyncio
    import gc

    from oncebox.cli.run import GARBAGE_MIN
    from oncebox.service.running import running

    gc.set_threshold(GARBAGE_MIN)
    shop, billing = place.services()

    async def main() -> None:
        ours = [shop] if what == "relay" else [billing]
        async with running(ours, relay=what == "relay", consume=what == "consume"):
            ready.set()
            while memory.value == 0:
                await asyncio.sleep(0.05)
        memory.value = peak_mb()

    asyncio.run(main())


class Workers:
    """A relay and a consumer, each a process."""

    def __init__(self, place: Place) -> None:
        context = multiprocessing.get_context("spawn")
        self.ready = {w: context.Event() for w in ("relay", "consume")}
        self.memory = {w: context.Value("d", 0.0) for w in self.ready}
        self.processes = [
            context.Process(target=work, args=(place, w, self.ready[w], self.memory[w]))
            for w in self.ready
        ]
        for process in self.processes:
            process.start()
        for event_ in self.ready.values():
            assert event_.wait(60)

    def stop(self) -> dict[str, float]:
        """Peak memory in MB of each."""
        for value in self.memory.values():
            value.value = 1.0
        for process in self.processes:
            process.join(60)
        return {name: value.value for name, value in self.memory.items()}


def prepare(place: Place) -> None:
    for url in {place.shop, place.billing}:
        session: Any = open_store(url).open()
        drive(migrate(session))
        if url == place.billing:
            session.handle.execute(
                "CREATE TABLE account (id text primary key, owed bigint, at float8)"
            )
            session.begin()
            rows = [(f"o-{i}", 0, 0.0) for i in range(KEYS)]
            mark = "$1, $2, $3" if session.dialect == "postgres" else "?, ?, ?"
            session.run_many(f"INSERT INTO account VALUES ({mark})", rows)
            session.commit()
        session.close()


def fill(place: Place, count: int) -> None:
    shop, _ = place.services()
    session: Any = open_store(place.shop).open()
    for start in range(0, count, 1000):
        session.begin()
        shop.emit_many(
            session.handle,
            [Placed(f"o-{i * 7919 % KEYS}", 1, "n" * 200) for i in range(start, start + 1000)],
        )
        session.commit()
    session.close()


def owed(place: Place) -> int:
    session: Any = open_store(place.billing).open()
    ((total,),) = session.run("SELECT sum(owed) FROM account")
    session.close()
    return int(total)


def wait_for(place: Place, total: int) -> None:
    while owed(place) < total:
        time.sleep(0.1)


def backlog(place: Place, name: str, target: str) -> list[Figure]:
    prepare(place)
    fill(place, COUNT)
    began = time.perf_counter()
    workers = Workers(place)
    wait_for(place, COUNT)
    seconds = time.perf_counter() - began
    memory = workers.stop()
    return [
        figure(f"{name}: backlog of {COUNT:,}, start of processes included", "events/s",
               [COUNT / seconds], target),
        figure(f"{name}: memory of the relay", "MB", [memory["relay"]], "120"),
        figure(f"{name}: memory of the consumer", "MB", [memory["consume"]], "120"),
    ]  # fmt: skip


def latency(place: Place, name: str) -> list[Figure]:
    """Commit to effect committed, as another connection sees it; each event has its own key."""
    workers = Workers(place)
    shop, _ = place.services()
    session: Any = open_store(place.shop).open()
    time.sleep(2)
    began = time.time()
    committed: dict[str, float] = {}
    late: list[float] = []
    watcher = threading.Thread(target=watch, args=(place.billing, began, committed, late))
    watcher.start()
    start = time.perf_counter()
    for i in range(LATENCY_COUNT):
        time.sleep(max(0.0, start + i / RATE - time.perf_counter()))
        session.begin()
        shop.emit(session.handle, Placed(f"o-{i}", 1, "n" * 200))
        session.commit()
        committed[f"o-{i}"] = time.perf_counter()
    watcher.join()
    workers.stop()
    session.close()
    return [
        figure(f"{name}: commit to effect, p50", "ms", [percentile(late, 0.5)], "10"),
        figure(f"{name}: commit to effect, p99", "ms", [percentile(late, 0.99)], "30",
               f"{len(late)} events at {RATE} events/s, looked for every {LOOK_S * 1000:g} ms"),
    ]  # fmt: skip


def watch(url: str, began: float, committed: dict[str, float], late: list[float]) -> None:
    """Wait for one effect after the other; milliseconds since its event's commit."""
    reader: Any = open_store(url).open()
    sql = "SELECT at FROM account WHERE id = " + ("$1" if reader.dialect == "postgres" else "?")
    for i in range(LATENCY_COUNT):
        key = f"o-{i}"
        while key not in committed or reader.run(sql, (key,))[0][0] < began:
            time.sleep(LOOK_S)
        if i >= WARM_COUNT:
            late.append((time.perf_counter() - committed[key]) * 1000)
    reader.close()


def run(engines: Any = None) -> list[Figure]:
    stream = "orders"
    with tempfile.TemporaryDirectory() as folder:
        if engines is None:
            base = f"sqlite:///{Path(folder)}"
            place = Place(f"{base}/shop.db", f"{base}/billing.db", f"{base}/log.db", stream)
            return on(place, "embedded, end to end", "25,000")
        with engines.postgres.database() as shop, engines.postgres.database() as billing:
            log = open_log(engines.kafka.url)
            log.create(stream, 4)
            log.close()
            return on(Place(shop, billing, engines.kafka.url, stream), "PostgreSQL and Kafka", "")


def on(place: Place, name: str, target: str) -> list[Figure]:
    figures: list[Figure] = []
    steps: list[Callable[[], list[Figure]]] = [
        lambda: backlog(place, name, target),
        lambda: latency(place, name),
    ]
    for step in steps:
        figures += step()
    return figures
