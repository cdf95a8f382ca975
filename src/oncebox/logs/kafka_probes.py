"""What a reader asks brokers beside reading, since its client keeps silent about much.

librdkafka says nothing of brokers that are away, of partitions without a leader, of topics that
were deleted or made anew under its feet (it then goes on in the other topic), and of a partition of
which it brings nothing more, as was seen once behind a broker's restart.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import (
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka import admin as _untyped_admin

from ..errors import NotFound, OnceboxError, Unreachable
from ..ports import TopicPartition as Place
from .kafka_settings import KafkaSettings

PROBE_S = 5.0
PROBE_TIMEOUT_S = 8.0
"""How often a reader asks for its topics, and how long brokers may take to answer."""

UNKNOWN_S = 3.0
UNKNOWN_PROBE_S = 0.5
"""How long a topic may be unknown at first, and how often it is asked for then: brokers learn of
a new one at different times."""

LOOK_S = 5.0
LOOKS_MAX = 3
"""How often a reader that waits asks where its partitions end, and how many times in a row one may
have more than comes. Looks count, not seconds: one that was suspended has not looked."""

LOOKS_LONGEST = 720
"""The same at most where new clients did not help: behind the last record may be what nobody reads,
as the marks of transactions are."""

_admin: Any = _untyped_admin

Typed = Callable[[KafkaError, str], OnceboxError]


class Probes:
    """Questions about a reader's topics, asked in the background and again and again."""

    def __init__(self, settings: KafkaSettings, admin: Any, typed: Typed) -> None:
        self._settings = settings
        self._admin = admin
        self._typed = typed
        self._identities: dict[str, str] = {}
        self._unknown_since: dict[str, float] = {}
        self._answers: dict[str, Future[Any]] = {}
        self._asked_from: dict[Place, int] = {}
        self._due = 0.0

    def watch(self, topics: set[str], anew: set[str]) -> None:
        """From now on these topics; those in `anew` may be others than before."""
        known = self._identities
        self._identities = {t: i for t, i in known.items() if t in topics and t not in anew}
        if topics - self._identities.keys():
            self._answers, self._due = {}, 0.0

    def look(self, positions: Mapping[Place, int]) -> list[tuple[Place, str]]:
        """Ask when it is time. Partitions that are gone, with what was expected.

        Raises Unreachable, unless records came since it asked, and MissingRight.
        """
        now = time.monotonic()
        if not self._answers:
            if positions and now >= self._due:
                self._asked_from = dict(positions)
                topics = TopicCollection(sorted({topic for topic, _ in positions}))
                self._answers = self._admin.describe_topics(topics, request_timeout=PROBE_TIMEOUT_S)
            return []
        if not all(answer.done() for answer in self._answers.values()):
            return []
        answers, self._answers = self._answers, {}
        self._due = now + PROBE_S
        gone = []
        for topic, answer in answers.items():
            numbers = [number for name, number in positions if name == topic]
            try:
                lost = self._judge(topic, answer, numbers, now)
            except Unreachable:
                if positions == self._asked_from:
                    raise
                continue
            gone += [((topic, number), expected) for number, expected in lost]
        return gone

    def _judge(
        self, topic: str, answer: Future[Any], numbers: list[int], now: float
    ) -> list[tuple[int, str]]:
        error = answer.exception()
        if isinstance(error, KafkaException):
            problem = self._typed(error.args[0], f"describe topic {topic}")
            if not isinstance(problem, NotFound):
                raise problem
            since = self._unknown_since.setdefault(topic, now)
            if topic in self._identities or now - since >= UNKNOWN_S:
                return [(number, "a topic that exists") for number in numbers]
            self._due = now + UNKNOWN_PROBE_S
            return []
        found = answer.result()
        self._unknown_since.pop(topic, None)
        identity = str(found.topic_id)
        if self._identities.setdefault(topic, identity) != identity:
            return [(number, "a topic that was not made anew") for number in numbers]
        for partition in found.partitions:
            if partition.leader is None and partition.id in numbers:
                raise self._settings.unreachable(
                    f"serve topic {topic}", f"partition {partition.id} has no leader"
                )
        return [(n, "a partition that exists") for n in numbers if n >= len(found.partitions)]


class Standstill:
    """Whether the client brings nothing of a partition though the log has more."""

    def __init__(self, admin: Any) -> None:
        self._admin = admin
        self._asked: Mapping[Place, Future[Any]] = {}
        self._asked_from: dict[Place, int] = {}
        self._due = 0.0
        self._looks: dict[Place, tuple[int, int]] = {}
        self._patience: dict[Place, tuple[int, int]] = {}

    def look(self, positions: Mapping[Place, int]) -> list[tuple[Place, int]]:
        """To be called by one that waits and has nothing. Partitions that stand still, with their
        ends; for each it is twice as patient from then on, until it moves.
        """
        now = time.monotonic()
        if not self._asked:
            if positions and now >= self._due:
                self._asked_from = dict(positions)
                about = {TopicPartition(*place): _admin.OffsetSpec.latest() for place in positions}
                answers = self._admin.list_offsets(
                    about,
                    isolation_level=IsolationLevel.READ_COMMITTED,
                    request_timeout=PROBE_TIMEOUT_S,
                )
                self._asked = {(p.topic, p.partition): answer for p, answer in answers.items()}
            return []
        if not all(answer.done() for answer in self._asked.values()):
            return []
        answered, self._asked = self._asked, {}
        self._due = now + LOOK_S
        known = {p: a.result().offset for p, a in answered.items() if a.exception() is None}
        return self.judge(positions, {p: end for p, end in known.items() if p in self._asked_from})

    def judge(
        self, positions: Mapping[Place, int], ends: Mapping[Place, int]
    ) -> list[tuple[Place, int]]:
        """One more look: where each partition stood when its end was asked for, and stands now."""
        looks, still = {}, []
        for place, end in ends.items():
            at = positions.get(place)
            if at is None or at != self._asked_from.get(place) or end <= at:
                continue
            before, count = self._looks.get(place, (at, 0))
            count = count + 1 if before == at else 1
            moved_from, limit = self._patience.get(place, (at, LOOKS_MAX))
            limit = limit if moved_from == at else LOOKS_MAX
            if count >= limit:
                still.append((place, end))
                self._patience[place] = (at, min(limit * 2, LOOKS_LONGEST))
                count = 0
            looks[place] = (at, count)
        self._looks = looks
        return still
