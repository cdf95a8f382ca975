"""Faults, and the evidence of each one that fired.

A fault fires once in a run, whichever process meets it: it leaves a file of its own, made
exclusively, before anything happens. A process that dies of a fault dies by SIGKILL.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from oncebox.ports import Extent, Log, Outgoing, Reader, Record, Refusal, Topic, TopicPartition

from .customers import Faults, Line

FOLDER = Path("faults")
FAIL_S = 0.25
"""How long a failing handler fails: longer than the first retries of both halves."""
STALL_S = 0.4
AGAIN_MAX = 40
"""Records that the log delivers once more."""


class Failed(Exception):
    """What a handler calls did not work. Injected."""


class Injector:
    """Faults as one process meets them."""

    def __init__(self, faults: Faults, service: str) -> None:
        self.faults = faults
        self.service = service
        self.failing: dict[Line, float] = {}

    def die(self, kind: str, name: str) -> None:
        """Die now, if nobody has died of this yet."""
        if self.fired(kind, name):
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()  # never goes on

    def fired(self, kind: str, name: str, detail: int = 0) -> bool:
        """Leave the fault's file; False: it fired before."""
        path = FOLDER / f"{kind}.{self.service}.{name.replace('/', '_')}"
        try:
            with path.open("x") as file:
                json.dump({"pid": os.getpid(), "at": time.time(), "detail": detail}, file)
        except FileExistsError:
            return False
        return True

    def around(
        self, handler: Callable[[Any, Any], None], name_of: Callable[[Any], Line]
    ) -> Callable[[Any, Any], None]:
        """A handler that fails for a while, or kills its process when its work is done."""
        doomed = self.faults.handled.get(self.service, frozenset())
        failing = self.faults.failing.get(self.service, frozenset())

        def wrapped(tx: Any, event: Any) -> None:
            line = name_of(event)
            if line in failing:
                self.fail(line)
            handler(tx, event)
            if line in doomed:
                self.die("handled", f"{line[0]}.{line[1]}")

        return wrapped

    def fail(self, line: Line) -> None:
        """Raise Failed from the first time on, for a while."""
        path = FOLDER / f"failed.{self.service}.{line[0]}.{line[1]}"
        if line not in self.failing:
            self.fired("failed", f"{line[0]}.{line[1]}")
            self.failing[line] = json.loads(path.read_text() or "{}").get("at", time.time())
        if time.time() < self.failing[line] + FAIL_S:
            raise Failed("the service that this handler needs does not answer")


def line_of(record: Outgoing | Record) -> Line:
    """The line that a record is about: both halves write JSON."""
    fields = json.loads(record.value or b"{}")
    return fields["order_id"], fields["line"]


class FaultyLog:
    """A log with faults, around a real one. With a prefix, topics have other names there."""

    def __init__(self, log: Log, injector: Injector, prefix: str = "", *, by_hand: bool) -> None:
        self.inner = log
        self.injector = injector
        self.prefix = prefix
        self.by_hand = by_hand

    def describe(self, topic: str) -> Topic | None:
        return self.inner.describe(self.prefix + topic)

    def create(self, topic: str, partitions: int) -> None:
        self.inner.create(self.prefix + topic, partitions)

    def home(self, key: bytes, partitions: int) -> int:
        return self.inner.home(key, partitions)

    def extents(self, topic: str) -> list[Extent]:
        return self.inner.extents(self.prefix + topic)

    def offsets_at(self, topic: str, time_ms: int) -> list[int]:
        return self.inner.offsets_at(self.prefix + topic, time_ms)

    def check(self, topic: str) -> list[str]:
        return self.inner.check(self.prefix + topic)

    def reader(self, group: str) -> Reader:
        return FaultyReader(self.inner.reader(self.prefix + group), self.injector, self.prefix)

    def close(self) -> None:
        self.inner.close()

    def publish(self, records: Sequence[Outgoing], timeout_s: float) -> list[Refusal]:
        """Publish; perhaps die before or after it."""
        faults, service = self.injector.faults, self.injector.service
        if self.by_hand and service == "web" and records[0].topic == "returns":
            line = line_of(records[0])  # the return is committed, and not yet published
            if line in faults.between_returned:
                self.injector.die("between", f"returned.{line[0]}.{line[1]}")
        sent = (
            [r._replace(topic=self.prefix + r.topic) for r in records] if self.prefix else records
        )
        refused = self.inner.publish(sent, timeout_s)
        if self.by_hand and service == "web" and records[0].topic == "orders":
            line = line_of(records[0])  # the order is published, and not yet committed
            if line in faults.between:
                self.injector.die("between", f"{line[0]}.{line[1]}")
        for record in records:
            if record.topic == "payments" and (record.key or b"").decode() in faults.published:
                self.injector.die("published", (record.key or b"").decode())
        return refused


class FaultyReader:
    """A reader to whom the log delivers records again, and one of whose partitions may stall."""

    def __init__(self, reader: Reader, injector: Injector, prefix: str) -> None:
        self.inner = reader
        self.injector = injector
        self.prefix = prefix
        service = injector.service
        self.again = {o.encode() for o in injector.faults.again.get(service, ())}
        self.slow = {o.encode() for o in injector.faults.slow.get(service, ())}
        self.next: dict[TopicPartition, int] = {}  # where we are
        self.told: dict[TopicPartition, int] = {}  # where the consumer thinks that it is
        self.first: dict[TopicPartition, int] = {}
        self.reached: dict[TopicPartition, int] = {}
        self.stalled: dict[TopicPartition, float] = {}

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        before, self.next = self.next, dict(positions)
        for place, offset in positions.items():
            if self.told.get(place) == offset and place in before:
                self.next[place] = before[place]
            else:
                self.first[place] = self.reached[place] = offset
        self.told = dict(positions)
        self._place()

    def _place(self) -> None:
        flowing = {p: offset for p, offset in self.next.items() if p not in self.stalled}
        self.inner.assign({(self.prefix + t, n): offset for (t, n), offset in flowing.items()})

    def fetch(self, count_max: int, bytes_max: int, wait_s: float) -> list[Record]:
        now = time.monotonic()
        over = [place for place, until in self.stalled.items() if until <= now]
        if over:
            for place in over:
                del self.stalled[place]
            self._place()
        for until in self.stalled.values():
            wait_s = min(wait_s, until - now)
        records = self.inner.fetch(count_max, bytes_max, max(wait_s, 0.0))
        if self.prefix:
            records = [r._replace(topic=r.topic.removeprefix(self.prefix)) for r in records]
        return self._deliver(records)

    def _deliver(self, records: list[Record]) -> list[Record]:
        delivered, back = [], []
        repeated = 0
        for record in records:
            place = (record.topic, record.partition)
            if place in self.stalled:
                continue
            if record.topic == "orders" and record.key in self.slow and self._stalls(record):
                continue
            delivered.append(record)
            self.next[place] = self.told[place] = record.offset + 1
            if record.offset < self.reached.get(place, 0):
                repeated += 1
            else:
                self.reached[place] = record.offset + 1
                if record.key in self.again:
                    back.append(record)
        if repeated:
            self.injector.fired("again", str(time.time_ns()), repeated)
        if self.stalled or back:
            self._go_back(back)
            self._place()
        return delivered

    def _stalls(self, record: Record) -> bool:
        order_id = (record.key or b"").decode()
        if not self.injector.fired("stalled", order_id):
            return False
        self.stalled[record.topic, record.partition] = time.monotonic() + STALL_S
        return True

    def _go_back(self, records: list[Record]) -> None:
        for record in records:
            place = (record.topic, record.partition)
            order_id = (record.key or b"").decode()
            if self.injector.fired("rewound", f"{record.topic}.{order_id}"):
                self.next[place] = max(self.first[place], record.offset + 1 - AGAIN_MAX)

    def wake(self) -> None:
        self.inner.wake()

    def acknowledge(self, positions: Mapping[TopicPartition, int]) -> None:
        self.inner.acknowledge({(self.prefix + t, n): at for (t, n), at in positions.items()})

    def acknowledged(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        found = self.inner.acknowledged([(self.prefix + t, n) for t, n in places])
        return {(t.removeprefix(self.prefix), n): at for (t, n), at in found.items()}

    def close(self) -> None:
        self.inner.close()
