"""What one process counts and times while it works: plain numbers, which others read meanwhile.

Each belongs to one loop, so adding takes no lock. Nothing here is labelled by key or id: what is
counted is counted by consumer, event type, topic, all of which are few.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from inspect import iscoroutinefunction
from operator import attrgetter
from typing import Any

from ..ports import Log, Outgoing, Refusal
from .spans import sending

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds of what takes time."""

EVENTS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000)
"""Bounds of how many events a batch has."""

_topic = attrgetter("topic")


class Histogram:
    """How often a value was at most each of `bounds`; above the last, in one place more."""

    __slots__ = ("bounds", "counts", "failed", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.failed = 0
        """How many of the calls that were timed raised an error."""

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Done:
    """What a consumer's loop did: committed batches, counts as in `batch.COUNTS`, outages met."""

    def __init__(self) -> None:
        self.batches = self.outages = 0
        self.counts: list[int] = []

    def add(self, counts: Sequence[int]) -> None:
        self.batches += 1
        before = self.counts or [0] * len(counts)
        self.counts = [a + b for a, b in zip(before, counts, strict=True)]


def timed(function: Callable[..., Any], seconds: Histogram) -> Callable[..., Any]:
    """The handler, timed; where it is awaited, until it is done."""
    clock, counts, bounds = time.perf_counter, seconds.counts, seconds.bounds

    def call(*arguments: Any) -> Any:
        began = clock()
        try:
            return function(*arguments)
        except Exception:
            seconds.failed += 1
            raise
        finally:
            took = clock() - began
            counts[bisect_left(bounds, took)] += 1
            seconds.sum += took

    async def call_async(*arguments: Any) -> Any:
        began = clock()
        try:
            return await function(*arguments)
        except Exception:
            seconds.failed += 1
            raise
        finally:
            seconds.add(clock() - began)

    made = call_async if iscoroutinefunction(function) else call
    made.__qualname__ = getattr(function, "__qualname__", "handler")
    return made


class CountedLog:
    """A log whose `publish` is counted: events by topic and result, batches by size and time; and
    traced, where somebody traces. `system`: what OpenTelemetry calls this kind of log.
    """

    def __init__(self, log: Log, system: str) -> None:
        self._system = system
        self._publish = log.publish
        self.describe, self.create, self.extents = log.describe, log.create, log.extents
        self.offsets_at, self.reader, self.check = log.offsets_at, log.reader, log.check
        self.home, self.close = log.home, log.close
        self.published: Counter[tuple[str, str]] = Counter()
        self.events = Histogram(EVENTS)
        self.seconds = Histogram(SECONDS)

    def publish(self, records: Sequence[Outgoing], timeout_s: float) -> list[Refusal]:
        began = time.perf_counter()
        try:
            with sending(self._system, records):
                refusals = self._publish(records, timeout_s)
        except Exception:
            self.seconds.failed += 1
            raise
        self.seconds.add(time.perf_counter() - began)
        self.events.add(len(records))
        for topic, count in Counter(map(_topic, records)).items():
            self.published[topic, "published"] += count
        for refusal in refusals:
            topic = records[refusal.at].topic
            self.published[topic, "refused"] += 1
            self.published[topic, "published"] -= 1
        return refusals
