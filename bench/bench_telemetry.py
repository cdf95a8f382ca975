"""What telemetry costs a consumer: handlers timed and counted, its store looked at and metrics read
once a second, against the same without; on SQLite files, where everything shares one process. And
what it costs to be traced by OpenTelemetry's SDK, of which all that is exported is thrown away.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from bench.bench_end_to_end import KEYS, Place, Placed, fill, prepare
from bench.measure import Figure, paired
from oncebox.metrics import Collector
from oncebox.program import drive
from oncebox.relay import Relay, RelaySettings
from oncebox.service.connect import open_log
from oncebox.service.running import consumer_loop
from oncebox.service.work import Part
from oncebox.stores.adapt import open_store

COUNT = 40_000
ROUNDS = 9
SCRAPE_S = 1.0

SHARE = 0.01
"""Of traces that are kept, as services that handle thousands of events a second do."""

IN_TRACE = 10
"""Events that are emitted in one trace."""


class Nowhere(SpanExporter):
    """Exports nothing; all else is the SDK's own."""

    def export(self, spans: Any) -> SpanExportResult:
        del spans
        return SpanExportResult.SUCCESS


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


def fill_traced(place: Place, count: int) -> None:
    """Like `fill`, a few at a time: in traces, if somebody traces."""
    shop, _ = place.services()
    tracer = trace.get_tracer("bench")
    session: Any = open_store(place.shop).open()
    session.begin()
    for start in range(0, count, IN_TRACE):
        with tracer.start_as_current_span("request"):
            shop.emit_many(
                session.handle,
                [
                    Placed(f"o-{i * 7919 % KEYS}", 1, "n" * 200)
                    for i in range(start, start + IN_TRACE)
                ],
            )
    session.commit()
    session.close()


def relay_all(place: Place) -> None:
    store, log = open_store(place.shop), open_log(place.log)
    relay = Relay(store, log, "shop", "one", RelaySettings(), time.time, time.sleep)
    while drive(relay.turn()):
        pass
    relay.session.close()
    log.close()


def made(folder: Path, filled: Any) -> str:
    """A log with events."""
    folder.mkdir()
    url = f"sqlite:///{folder}/log.db"
    place = Place(f"sqlite:///{folder}/shop.db", f"sqlite:///{folder}/b.db", url, "orders")
    prepare(place)
    filled(place, COUNT)
    relay_all(place)
    return url


def untraced(folder: Path, log_url: str) -> float:
    """Where nobody traces."""
    with patch("oncebox.service.running.tracing", lambda: False):
        return consume(folder, log_url, telemetry=False)


def run(engines: Any = None) -> list[Figure]:
    del engines  # what telemetry costs is the process's own time, whatever the engine
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log_url = made(folder / "plain", fill)
        figures = paired(
            "consumer with telemetry, by process time",
            lambda: consume(folder, log_url, telemetry=True),
            lambda: consume(folder, log_url, telemetry=False),
            rounds=ROUNDS,
            target="0.95",
            against="without",
        )
        plain_url = made(folder / "untraced", fill_traced)
        provider = TracerProvider(sampler=ParentBasedTraceIdRatio(SHARE))
        provider.add_span_processor(BatchSpanProcessor(Nowhere()))
        trace.set_tracer_provider(provider)
        traced_url = made(folder / "traced", fill_traced)
        figures += paired(
            f"consumer traced by OpenTelemetry, {SHARE:.0%} kept, by process time",
            lambda: consume(folder, traced_url, telemetry=False),
            lambda: untraced(folder, plain_url),
            rounds=ROUNDS,
            target="0.95",
            against="without",
        )
        provider.shutdown()
        return figures
