"""What telemetry costs a consumer: handlers timed and counted, its store looked at and metrics read
once a second, against the same without; on SQLite files, where everything shares one process.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench.bench_end_to_end import Place, fill, prepare
from bench.measure import Figure, paired
from oncebox.metrics import Collector
from oncebox.program import drive
from oncebox.relay import Relay, RelaySettings
from oncebox.service.connect import open_log
from oncebox.service.running import consumer_loop
from oncebox.service.work import Part
from oncebox.stores.adapt import open_store

COUNT = 40_000
ROUNDS = 5
SCRAPE_S = 1.0


class Work:
    """What a collector reads of services at work."""

    def __init__(self, parts: dict[str, Part]) -> None:
        self.parts = parts
        self.seen: dict[str, Any] = {}


def consume(folder: Path, log_url: str, *, telemetry: bool) -> float:
    """Events a second of a new consumer over the log that is there."""
    place = Place(f"sqlite:///{folder}/shop.db", f"sqlite:///{folder}/{time.time_ns()}.db",
                  log_url, "orders")  # fmt: skip
    prepare(place)
    _, billing = place.services()
    store, log = open_store(place.billing), open_log(log_url)
    part = Part(billing, "billing")
    program = consumer_loop(
        billing, billing.consumer(), store, log, "one", None, part if telemetry else None,
        stopping=lambda: False, sleep=time.sleep,
    )  # fmt: skip
    loop: Any = drive(program)
    part.loop = loop
    done = threading.Event()
    collector = Collector(Work({"consumer:billing": part}))  # type: ignore[arg-type]

    def scrape() -> None:
        while not done.wait(SCRAPE_S):
            list(collector.collect())

    reader = threading.Thread(target=scrape)
    if telemetry:
        reader.start()
    began = time.process_time()
    while sum(loop.reading.done.counts[:1]) < COUNT:
        drive(loop.turn())
    seconds = time.process_time() - began
    done.set()
    if telemetry:
        reader.join()
    drive(loop.leave())
    log.close()
    return COUNT / seconds


def run(engines: Any = None) -> list[Figure]:
    del engines  # what telemetry costs is the process's own time, whatever the engine
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log_url = f"sqlite:///{folder}/log.db"
        place = Place(f"sqlite:///{folder}/shop.db", f"sqlite:///{folder}/b.db", log_url, "orders")
        prepare(place)
        fill(place, COUNT)
        store, log = open_store(place.shop), open_log(log_url)
        relay = Relay(store, log, "shop", "one", RelaySettings(), time.time, time.sleep)
        while drive(relay.turn()):
            pass
        relay.session.close()
        log.close()
        return paired(
            "consumer with telemetry, by process time",
            lambda: consume(folder, log_url, telemetry=True),
            lambda: consume(folder, log_url, telemetry=False),
            rounds=ROUNDS,
            target="0.95",
            against="without",
        )
