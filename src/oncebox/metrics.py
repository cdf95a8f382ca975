"""Metrics of services at work, for Prometheus: what this process did, and what its stores tell.

Counters and histograms are of this process: add them up. Gauges of a consumer or outbox come from
its store, so every process that runs it tells the same: take the maximum. `FAMILIES` is the whole
list. Labels are few by nature: services, consumers, event types, topics, partitions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from .consumer.batch import COUNTS
from .consumer.loop import ConsumerLoop
from .errors import MissingDependency
from .operate.summary import Relay, Summary
from .relay import Relay as RelayLoop
from .service.watching import Seen, watch
from .service.work import Part, Running
from .telemetry.tally import Histogram

try:
    import prometheus_client
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
    from prometheus_client.registry import Collector as _Collector
except ImportError as missing:  # pragma: no cover
    raise MissingDependency(
        "prometheus-client is not installed", hint="pip install 'oncebox[metrics]'"
    ) from missing


class Family(NamedTuple):
    """A metric: its kind, what it says, its labels."""

    kind: str
    help: str
    labels: tuple[str, ...]


CONSUMER, SERVICE = ("consumer",), ("service",)

FAMILIES: dict[str, Family] = {
    # ---- the outbox and its relay
    "oncebox_outbox_pending": Family("gauge", "Events not published yet.", SERVICE),
    "oncebox_outbox_oldest_age_seconds": Family(
        "gauge", "Age of the first event that is not published yet; 0 if there is none.", SERVICE),
    "oncebox_outbox_refused_keys": Family(
        "gauge", "Keys that wait since the log refuses their next event.", SERVICE),
    "oncebox_relay_published": Family(
        "counter", "Events given to the log, by result: published, refused.",
        ("service", "dest", "result")),
    "oncebox_relay_batch_events": Family("histogram", "Events published at once.", SERVICE),
    "oncebox_relay_publish_duration_seconds": Family(
        "histogram", "How long the log took to acknowledge a batch.", SERVICE),
    "oncebox_relay_active": Family(
        "gauge", "1 in the process that relays, 0 where it stands by.", SERVICE),
    # ---- the consumer
    **{
        f"oncebox_inbox_{name}": Family("counter", f"Events: {what}.", CONSUMER)
        for name, what in zip(COUNTS, (
            "applied", "without a handler, passed over", "erased or skipped at their source",
            "known already, dropped", "come after their number was skipped",
            "of a history that was given up", "older than this consumer's start",
            "that contradict their key's chain", "unreadable, kept in quarantine",
        ), strict=True)
    },
    "oncebox_inbox_batches": Family("counter", "Transactions of events committed.", CONSUMER),
    "oncebox_inbox_kept": Family("gauge", "Events that wait behind a key.", CONSUMER),
    "oncebox_gap_open": Family("gauge", "Keys with an event missing.", CONSUMER),
    "oncebox_gap_oldest_age_seconds": Family(
        "gauge", "Since when the oldest gap is open; 0 if there is none.", CONSUMER),
    "oncebox_keys_retrying": Family(
        "gauge", "Parked keys that are tried again by themselves.", CONSUMER),
    "oncebox_keys_dead": Family(
        "gauge", "Parked keys that wait for somebody, by reason: failed, forked.",
        ("consumer", "reason")),
    "oncebox_quarantine_records": Family("gauge", "Unreadable records in quarantine.", CONSUMER),
    "oncebox_effects_open": Family(
        "gauge", "Effects outside the database, begun and not known to be done.", CONSUMER),
    "oncebox_consumer_lag_events": Family(
        "gauge", "Records between position and end.", ("consumer", "topic", "partition")),
    "oncebox_consumer_lag_seconds": Family(
        "gauge", "Age of the next record; 0 where nothing waits.",
        ("consumer", "topic", "partition")),
    "oncebox_consumer_lost_records": Family(
        "gauge", "Records that expired before they were read.",
        ("consumer", "topic", "partition")),
    "oncebox_consumer_partitions": Family(
        "gauge", "Partitions whose lease this process holds.", CONSUMER),
    "oncebox_consumer_paused": Family(
        "gauge", "1 while too much waits to take in more.", CONSUMER),
    "oncebox_handler_duration_seconds": Family(
        "histogram", "How long handlers took, with those that failed.", ("consumer", "type")),
    "oncebox_handler_failures": Family(
        "counter", "Handler calls that raised an error.", ("consumer", "type")),
    # ---- the process
    "oncebox_loop_outages": Family(
        "counter", "Times that a loop waited for its store or log.", ("loop",)),
    "oncebox_loop_turn_age_seconds": Family(
        "gauge", "Time since a loop turned.", ("loop",)),
    "oncebox_store_up": Family("gauge", "1 if the store answered when it was looked at.", SERVICE),
    "oncebox_log_up": Family("gauge", "1 if the log answered when it was looked at.", SERVICE),
    "oncebox_build": Family("gauge", "1; the version is its label.", ("version",)),
}  # fmt: skip

Sample = tuple[str, tuple[str, ...], float | Histogram]


class Collector(_Collector):
    """What prometheus-client asks at each scrape. It asks nobody: it tells what is known."""

    def __init__(self, work: Running) -> None:
        self._work = work
        try:
            self._version = version("oncebox")
        except PackageNotFoundError:  # run from a folder
            self._version = "unknown"

    def describe(self) -> list[Any]:
        return [_family(name, family) for name, family in FAMILIES.items()]

    def collect(self) -> Iterator[Any]:
        found = {name: _family(name, family) for name, family in FAMILIES.items()}
        for name, labels, value in self._samples():
            if isinstance(value, Histogram):
                found[name].add_metric(labels, _buckets(value), value.sum)
            else:
                found[name].add_metric(labels, value)
        yield from found.values()

    def _samples(self) -> Iterator[Sample]:
        work, now_s, now = self._work, time.monotonic(), time.time()
        yield "oncebox_build", (self._version,), 1
        for name, part in list(work.parts.items()):
            yield "oncebox_loop_turn_age_seconds", (name,), max(now_s - part.turned, 0.0)
            yield from _of_part(name, part)
        for seen in list(work.seen.values()):
            yield from _of_seen(seen, now)


def collector(work: Running) -> Collector:
    """A collector to register, for services that run inside an application.

        async with billing.running() as work:
            registry.register(collector(work))

    Call it in the event loop that entered the block. From then on the services' stores and logs
    are looked at once a second, in a session of their own.
    """
    watch(work, work.services, lag=True)
    return Collector(work)


def exposition(work: Running) -> Callable[[], tuple[int, str, bytes]]:
    """The answer to a scrape: status, content type, text."""
    registry = prometheus_client.CollectorRegistry(auto_describe=False)
    registry.register(Collector(work))
    prometheus_client.ProcessCollector(registry=registry)
    prometheus_client.PlatformCollector(registry=registry)
    kind = prometheus_client.CONTENT_TYPE_LATEST
    return lambda: (200, kind, prometheus_client.generate_latest(registry))


# ---- from what is known to samples


def _of_part(name: str, part: Part) -> Iterator[Sample]:
    loop, whose = part.loop, (part.name,)
    if part.log is not None:
        for (dest, result), count in list(part.log.published.items()):
            yield "oncebox_relay_published", (part.name, dest, result), count
        yield "oncebox_relay_batch_events", whose, part.log.events
        yield "oncebox_relay_publish_duration_seconds", whose, part.log.seconds
    if isinstance(loop, RelayLoop):
        yield "oncebox_relay_active", whose, loop.held is not None
        yield "oncebox_loop_outages", (name,), loop.outages
    if isinstance(loop, ConsumerLoop):
        done = loop.reading.done
        counts = done.counts or [0] * len(COUNTS)
        for count_name, number in zip(COUNTS, counts, strict=True):
            yield f"oncebox_inbox_{count_name}", whose, number
        yield "oncebox_inbox_batches", whose, done.batches
        yield "oncebox_consumer_partitions", whose, len(loop.held)
        yield "oncebox_consumer_paused", whose, loop.paused
        yield "oncebox_loop_outages", (name,), done.outages
    for type, seconds in list(part.handlers.items()):
        yield "oncebox_handler_duration_seconds", (part.name, type), seconds
        yield "oncebox_handler_failures", (part.name, type), seconds.failed


def _of_seen(seen: Seen, now: float) -> Iterator[Sample]:
    yield "oncebox_store_up", (seen.service,), seen.store is None and seen.looked > 0
    yield "oncebox_log_up", (seen.service,), seen.log is None
    if seen.relay is not None:
        yield from _of_outbox(seen.relay, now)
    for one in list(seen.consumers.values()):
        yield from _of_consumer(one, now)
    for one in list(seen.measured.values()):
        for at in one.partitions:
            labels = (one.name, at.topic, str(at.partition))
            for name, value in (
                ("oncebox_consumer_lag_events", at.lag),
                ("oncebox_consumer_lag_seconds", at.lag_s),
                ("oncebox_consumer_lost_records", at.lost),
            ):
                if value is not None:
                    yield name, labels, value


def _of_outbox(relay: Relay, now: float) -> Iterator[Sample]:
    whose = (relay.service,)
    yield "oncebox_outbox_pending", whose, relay.backlog
    yield "oncebox_outbox_oldest_age_seconds", whose, _age_s(relay.oldest_ms, now)
    yield "oncebox_outbox_refused_keys", whose, len(relay.refused)


def _of_consumer(one: Summary, now: float) -> Iterator[Sample]:
    whose = (one.name,)
    yield "oncebox_inbox_kept", whose, one.kept
    yield "oncebox_gap_open", whose, one.gaps.open
    yield "oncebox_gap_oldest_age_seconds", whose, _age_s(one.gaps.since_ms, now)
    yield "oncebox_keys_retrying", whose, one.parked.retrying
    yield "oncebox_keys_dead", (one.name, "failed"), one.parked.failed
    yield "oncebox_keys_dead", (one.name, "forked"), one.parked.forked
    yield "oncebox_quarantine_records", whose, one.quarantine
    yield "oncebox_effects_open", whose, one.effects.open


def _age_s(since_ms: int | None, now: float) -> float:
    return 0.0 if since_ms is None else max(now - since_ms / 1000, 0.0)


_KINDS: dict[str, Any] = {
    "counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily,
}  # fmt: skip


def _family(name: str, family: Family) -> Any:
    return _KINDS[family.kind](name, family.help, labels=family.labels)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulated, as Prometheus wants them."""
    total, found = 0, []
    bounds: Iterable[float] = (*histogram.bounds, float("inf"))
    for bound, count in zip(bounds, histogram.counts, strict=True):
        total += count
        found.append(("+Inf" if bound == float("inf") else f"{float(bound)}", float(total)))
    return found
