"""Reading from Kafka: partitions assigned one by one, without a consumer group's protocol.

Leases in our store say who reads what; a group's offsets are written for Kafka's own tools, and
for a consumer whose database has forgotten it (see beginning.py).
What librdkafka keeps silent about, the reader's probes ask.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_right
from collections.abc import Collection, Mapping
from itertools import accumulate
from operator import methodcaller
from typing import Any

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from ..errors import MissingRight, OnceboxError
from ..ports import LOST_HEADERS, Record, truncated
from ..ports import TopicPartition as Place
from .kafka_group import Group
from .kafka_probes import Probes, Standstill, Typed
from .kafka_settings import KafkaSettings

logger = logging.getLogger("oncebox.kafka")

QUEUE_KBYTES = 4 * 1024
PARTITION_FETCH_BYTES = 512 * 1024
FETCH_BYTES = 8 * 1024 * 1024
"""With the queue's size they bound a reader's memory."""

FETCH_WAIT_MS = 100
"""How long brokers hold a request when there is nothing new; an assignment waits as long."""

QUEUE_BACKOFF_MS = 2
"""A full queue is looked at again after this: short, so that a small queue is fast."""

SLICE_S = 0.02
"""A waiting fetch looks this often whether it was woken; records end the wait at once."""

COMMITTED_TIMEOUT_S = 10.0

headers_of = methodcaller("headers")
"""A record's headers. Where a name is not UTF-8 the client returns a broken list and leaves an
exception behind: Python's own call of a method may not see it, and it is raised anywhere later.
This one looks. (Show such a record to nobody: its list has holes, and printing it ends Python.)"""


class KafkaReader:
    """A reading end; `typed` makes our errors of librdkafka's."""

    def __init__(self, settings: KafkaSettings, admin: Any, typed: Typed, group: str) -> None:
        self._settings = settings
        self._admin = admin
        self._group = Group(settings, group)
        self._typed = typed
        self._next: dict[Place, int] = {}
        self._lost: dict[Place, OnceboxError] = {}
        self._held: list[Any] = []
        self._woken = threading.Event()
        self._probes = Probes(settings, admin, typed)
        self._standstill = Standstill(admin)
        self._consumer = self._client()

    def _client(self) -> Any:
        return self._settings.client(
            Consumer,
            {
                "group.id": self._group.name,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "check.crcs": True,
                "queued.max.messages.kbytes": QUEUE_KBYTES,
                "fetch.message.max.bytes": PARTITION_FETCH_BYTES,
                "fetch.max.bytes": FETCH_BYTES,
                "message.max.bytes": FETCH_BYTES,
                "fetch.wait.max.ms": FETCH_WAIT_MS,
                "fetch.queue.backoff.ms": QUEUE_BACKOFF_MS,
            },
        )

    def assign(self, positions: Mapping[Place, int]) -> None:
        kept = {
            place
            for place, offset in positions.items()
            if self._next.get(place) == offset and place not in self._lost
        }
        gone = [TopicPartition(*place) for place in self._next if place not in kept]
        new = [TopicPartition(*p, offset) for p, offset in positions.items() if p not in kept]
        if gone:
            self._consumer.incremental_unassign(gone)
        if new:
            self._consumer.incremental_assign(new)
        self._held = [m for m in self._held if (m.topic(), m.partition()) in kept]
        self._probes.watch({topic for topic, _ in positions}, {topic for topic, _ in self._lost})
        self._lost = {}
        self._next = dict(positions)

    def fetch(self, count_max: int, bytes_max: int, wait_s: float) -> list[Record]:
        """`bytes_max` bounds the values. Raises MissingRight, too; Unreachable when the brokers
        gave no answer for about 13 s: fetching goes on by itself when they are back.
        """
        deadline = time.monotonic() + wait_s
        while True:
            self._look()
            left_s = deadline - time.monotonic()
            records = self._take(count_max, bytes_max)
            if records or left_s <= 0 or self._woken.is_set():
                self._woken.clear()
                return records
            if not self._held and not self._lost:
                self._held = self._consumer.consume(1, min(SLICE_S, left_s))
                if not self._held:
                    self._look_for_standstill()

    def wake(self) -> None:
        self._woken.set()

    def acknowledge(self, positions: Mapping[Place, int]) -> None:
        """Commit offsets for the group; nobody waits."""
        self._group.write(positions)

    def acknowledged(self, places: Collection[Place]) -> dict[Place, int]:
        """The offsets that are committed for the group; none where this user may not ask.

        A consumer that may not ask tries until its time is over: so see first whether it may.
        (`list_consumer_group_offsets` of the administrator ends the process by a segmentation fault
        while brokers load the group: librdkafka 2.16, `rd_kafka_handle_OffsetFetch`.)
        """
        asked = [TopicPartition(*place) for place in places]
        try:
            self._group.find()
            for topic in sorted({topic for topic, _ in places}):
                # Without this the client begins to read a topic a second after it was asked about
                # the offsets there: it meets it for the first time, and looks once a second.
                self._consumer.list_topics(topic, timeout=COMMITTED_TIMEOUT_S)
            answers = self._consumer.committed(asked, timeout=COMMITTED_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].name() == "GROUP_ID_NOT_FOUND":
                return {}
            failed = self._typed(error.args[0], "say what was acknowledged")
            if isinstance(failed, MissingRight):
                logger.info("%s", failed)
                return {}
            raise failed from error
        return {(one.topic, one.partition): one.offset for one in answers if one.offset >= 0}

    def close(self) -> None:
        """Waits a moment until what was acknowledged is committed."""
        self._group.close()
        self._consumer.close()

    def _take(self, count_max: int, bytes_max: int) -> list[Record]:
        arrivals, self._held = self._held, []
        if len(arrivals) < count_max:
            arrivals += self._consumer.consume(count_max - len(arrivals), 0)
        if sum(map(len, arrivals)) > bytes_max:
            fit = max(1, bisect_right(list(accumulate(map(len, arrivals))), bytes_max))
            arrivals, self._held = arrivals[:fit], arrivals[fit:]
        return self._records(arrivals)

    def _records(self, arrivals: list[Any]) -> list[Record]:
        records: list[Record] = []
        expected, never = self._next, 2**63
        for arrival in arrivals:
            error = arrival.error()
            if error is not None:
                self._failed((arrival.topic(), arrival.partition()), error)
                continue
            topic, partition, offset = arrival.topic(), arrival.partition(), arrival.offset()
            place = (topic, partition)
            if offset < expected.get(place, never):
                continue  # of an assignment that was given up
            expected[place] = offset + 1
            key, value, time_ms = arrival.key(), arrival.value(), arrival.timestamp()[1]
            try:
                headers = headers_of(arrival) or []
            except (UnicodeDecodeError, SystemError):  # it gives all headers or none
                headers = [(LOST_HEADERS, None)]
            records.append(Record(topic, partition, offset, key, value, headers, time_ms))
        return records

    def _failed(self, place: Place, error: KafkaError) -> None:
        if place in self._next:
            if error.name() in ("_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE"):
                self._lose(place, "an offset between its start and its end")
            else:
                self._lost[place] = self._typed(error, f"read topic {place[0]}")

    def _look(self) -> None:
        """Raise what has to be said."""
        for place, expected in self._probes.look(self._next):
            self._lose(place, expected)
        if self._lost:
            raise next(iter(self._lost.values()))

    def _look_for_standstill(self) -> None:
        """Where the log has more than the client brings, another client reads on."""
        still = self._standstill.look(self._next)
        if still:
            logger.warning(
                "%s: nothing comes of %s: another client reads on",
                self._group.name,
                ", ".join(f"{t}/{n}@{self._next[t, n]} of {end}" for (t, n), end in still),
            )
            self._consumer.close()
            self._consumer = self._client()
            self._consumer.assign([TopicPartition(*p, at) for p, at in self._next.items()])

    def _lose(self, place: Place, expected: str) -> None:
        self._lost[place] = truncated(
            f"Kafka at {self._settings.hosts}", place, self._next[place], expected
        )
