"""Kafka, by confluent-kafka's synchronous client: topics and publishing.

The producer is idempotent with `acks=all`; keys land where Java's clients put them (murmur2). No
transactions, no `AIOProducer`, no `produce_batch` (it loses headers). A topic's identity is
Kafka's topic id.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar
from uuid import uuid4

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import admin as _untyped_admin

from ..errors import ConfigurationError, MissingRight, NotFound, OnceboxError
from ..ports import Extent, Outgoing, Refusal, Topic
from .kafka_reader import KafkaReader
from .kafka_settings import KafkaSettings
from .murmur2 import murmur2

T = TypeVar("T")

PARTITIONS = 4
REQUEST_TIMEOUT_S = 10.0
"""How long a question to the brokers may take."""

POLL_S = 0.02
BATCH_BYTES = 1_000_000
LINGER_MS = 5
"""Batches gather this long while a call hands records over; its end sends them at once."""

RECORD_BYTES_MAX = 10 * 1024 * 1024
QUEUE_KBYTES = 32 * 1024
SERVE_EVERY = 256
"""Records between two looks for refusals, within a call."""

ABANDON_TIMEOUT_S = 5.0
"""How long the client may take to tell what became of records that were given up."""

FATAL_MAX = 3
"""How often a client that is given up may say why."""

NEVER_MS = 2**62
PAST_MAX_S = 3600.0
"""A record's time further back is taken as now: retention goes by it, so an event of last month
that is published again would be deleted within minutes."""

DOUBT_S = 60.0
"""How long this machine's clock is not gone by, after brokers refused a time that it gave."""

ANSWER_S = 10.0

RETENTION_ADVISED_S = 24 * 3600.0

_admin: Any = _untyped_admin

_NO_RIGHT = {
    "TOPIC_AUTHORIZATION_FAILED",
    "GROUP_AUTHORIZATION_FAILED",
    "CLUSTER_AUTHORIZATION_FAILED",
}
_NO_TOPIC = {"UNKNOWN_TOPIC_OR_PART", "UNKNOWN_TOPIC_ID", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION"}
_BAD_WISH = {
    "TOPIC_EXCEPTION",
    "POLICY_VIOLATION",
    "INVALID_PARTITIONS",
    "INVALID_REPLICATION_FACTOR",
    "INVALID_CONFIG",
    "_INVALID_ARG",
}
_PASSING = {
    "NOT_LEADER_FOR_PARTITION",
    "LEADER_NOT_AVAILABLE",
    "OFFSET_NOT_AVAILABLE",
    "FENCED_LEADER_EPOCH",
    "UNKNOWN_LEADER_EPOCH",
    "NOT_CONTROLLER",
    "_NOENT",
}
"""A leader is being elected: the question is asked again."""

_BAD_TIME = {"INVALID_TIMESTAMP", "INVALID_RECORD"}
"""How brokers refuse a time that is far ahead of theirs: the second, where a batch has several."""

_BAD_RECORD = {"INVALID_RECORD", "INVALID_TIMESTAMP", "POLICY_VIOLATION", "TOPIC_EXCEPTION"}


class KafkaLog:
    """The log behind `kafka://host:port[,host:port]?setting=value`.

    Settings are librdkafka's, but for those that the promises rest on. `user:password@` before
    the hosts means SASL (PLAIN over TLS, unless settings say otherwise). Connects when used;
    safe for threads. Raises ConfigurationError here, Unreachable and MissingRight everywhere.
    """

    def __init__(self, url: str) -> None:
        self._settings = KafkaSettings(url)
        self._admin = self._settings.client(_admin.AdminClient)
        self._publishing = threading.Lock()
        self._producer: Producer | None = None
        self._fatal = False
        self._doubted_until = 0.0
        self._batch_bytes = BATCH_BYTES
        self._limits: dict[str, int] = {}
        self._partitions: dict[str, int] = {}
        self._grown = False

    def __repr__(self) -> str:
        return f"KafkaLog('kafka://{self._settings.hosts}')"

    # ---- topics

    def describe(self, topic: str) -> Topic | None:
        """The topic, or None when it does not exist. What is published next goes by it."""
        found = self._described(topic)
        if found is None:
            return None
        count = len(found.partitions)
        if self._partitions.setdefault(topic, count) != count:
            self._partitions[topic] = count
            self._grown = True
        return Topic(str(found.topic_id), count)

    def create(self, topic: str, partitions: int = PARTITIONS) -> None:
        """Make the topic, replicated as the brokers' default says; nothing if it exists.

        Raises ConfigurationError for a name or number that Kafka does not take.
        """
        self._create(topic, partitions, {"cleanup.policy": "delete"})

    def _create(self, topic: str, partitions: int, config: dict[str, str]) -> None:
        if self._described(topic) is None:
            self._ask(
                f"create topic {topic}",
                self._admin.create_topics,
                lambda: [_admin.NewTopic(topic, partitions, -1, config=config)],
            )
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while self._described(topic) is None and time.monotonic() < deadline:
            time.sleep(POLL_S)  # brokers learn of it one after the other
        self.extents(topic)

    def home(self, key: bytes, partitions: int) -> int:
        """The partition of a key, while its topic has so many."""
        return murmur2(key) % partitions

    def extents(self, topic: str) -> list[Extent]:
        """What can be read now, by partition number. Raises NotFound."""
        starts = self._offsets(topic, _admin.OffsetSpec.earliest())
        ends = self._offsets(topic, _admin.OffsetSpec.latest())
        # Not strict: the topic may have grown in between.
        return [Extent(start, end) for start, end in zip(starts, ends, strict=False)]

    def offsets_at(self, topic: str, time_ms: int) -> list[int]:
        """By partition, the first offset whose log time is `time_ms` or later, else the end.

        Raises NotFound.
        """
        found = self._offsets(topic, _admin.OffsetSpec.for_timestamp(max(time_ms, 0)))
        ends = self._offsets(topic, _admin.OffsetSpec.latest())
        return [end if at < 0 else at for at, end in zip(found, ends, strict=False)]

    def check(self, topic: str) -> list[str]:
        """Settings that cannot keep the promises, as sentences. Raises NotFound."""
        found = self._described(topic)
        if found is None:
            raise _not_found(topic)
        copies = min(len(partition.replicas) for partition in found.partitions)
        return list(_weaknesses(topic, copies, self._config(topic)))

    def retention_s(self, topic: str) -> float | None:
        """How long a topic keeps records; None: for ever. Raises NotFound."""
        if self._described(topic) is None:
            raise _not_found(topic)
        kept_ms = int(self._config(topic)["retention.ms"])
        return None if kept_ms < 0 else kept_ms / 1000

    def clock_ms(self) -> int:
        """A broker's clock, Unix ms: by a record in a topic that is made for it, and deleted."""
        topic = f"oncebox-clock-{uuid4().hex[:12]}"
        answers: list[Any] = []
        try:
            self._create(topic, 1, {"message.timestamp.type": "LogAppendTime"})
            producer = self._settings.client(Producer, {"acks": "all"})
            producer.produce(topic, b"", on_delivery=lambda *answer: answers.append(answer))
            producer.flush(ANSWER_S)
        finally:
            self._ask(f"delete topic {topic}", self._admin.delete_topics, lambda: [topic])
        if not answers or answers[0][0] is not None:
            why = str(answers[0][0]) if answers else f"no answer within {ANSWER_S:g} s"
            raise self._settings.unreachable("tell its clock", why)
        time_ms: int = answers[0][1].timestamp()[1]
        return time_ms

    def _described(self, topic: str) -> Any:
        try:
            (found,) = self._ask(
                f"describe topic {topic!r}",
                self._admin.describe_topics,
                lambda: confluent_kafka.TopicCollection([topic]),
            )
        except NotFound:
            return None
        return found

    def _config(self, topic: str) -> dict[str, str]:
        (found,) = self._ask(
            f"read the settings of topic {topic}",
            self._admin.describe_configs,
            lambda: [_admin.ConfigResource(_admin.ConfigResource.Type.TOPIC, topic)],
        )
        return {name: entry.value for name, entry in found.items()}

    def _offsets(self, topic: str, at: Any) -> list[int]:
        found = self.describe(topic)
        if found is None:
            raise _not_found(topic)
        numbers = range(found.partitions)
        answers = self._ask(
            f"tell offsets of topic {topic}",
            self._admin.list_offsets,
            lambda: {confluent_kafka.TopicPartition(topic, number): at for number in numbers},
        )
        return [answer.offset for answer in answers]

    def _ask(
        self,
        doing: str,
        question: Callable[..., Mapping[Any, Future[T]]],
        about: Callable[[], Any],
    ) -> list[T]:
        failed: OnceboxError
        deadline = time.monotonic() + REQUEST_TIMEOUT_S
        while True:
            try:
                answers = question(about(), request_timeout=REQUEST_TIMEOUT_S)
                return [answer.result(2 * REQUEST_TIMEOUT_S) for answer in answers.values()]
            except KafkaException as error:
                if error.args[0].name() == "TOPIC_ALREADY_EXISTS":
                    return []  # somebody else was quicker
                if error.args[0].name() in _PASSING and time.monotonic() < deadline:
                    time.sleep(POLL_S)
                    continue
                failed = self._typed(error.args[0], doing)
            except (ValueError, TypeError) as error:
                failed = ConfigurationError(f"Kafka cannot {doing}: {error}")
            break
        raise failed  # outside: what librdkafka said may name a secret, so it is not chained

    def _typed(self, error: KafkaError, doing: str) -> OnceboxError:
        name, text = error.name(), self._settings.masked(error.str())
        if name in _NO_RIGHT:
            return self._no_right(doing, text)
        if name in _NO_TOPIC:
            return NotFound(f"Kafka cannot {doing}: {text}", hint="make it: oncebox topics create")
        if name in _BAD_WISH:
            return ConfigurationError(f"Kafka will not {doing}: {text}")
        self._admin.poll(0)  # only so the client says what is wrong: the credentials, perhaps
        return self._settings.unreachable(doing, text)

    def _no_right(self, doing: str, why: str) -> MissingRight:
        user = self._settings.user
        return MissingRight(
            f"Kafka does not let {user} {doing}: {why}",
            expected=f"User:{user} may READ, WRITE, DESCRIBE, DESCRIBE_CONFIGS topics that it uses",
            hint=f"grant it: kafka-acls.sh --add --allow-principal User:{user} --topic …",
        )

    # ---- records

    def publish(self, records: Sequence[Outgoing], timeout_s: float) -> list[Refusal]:
        """Append, in order per key; returns when each record is acknowledged or refused.

        A record that was refused because no answer came in time may be in the log all the same;
        it will not be sent again. Times ahead of this machine's clock, or more than an hour
        behind, are taken as now, until brokers refuse what this clock says. Raises Unreachable
        when nothing was acknowledged for want of an answer.
        """
        deadline = time.monotonic() + timeout_s
        with self._publishing:
            if self._grown:  # a client asks of itself every few minutes only
                self._grown, self._producer = False, None
            problems = self._learn({record[0] for record in records} - self._limits.keys())
            producer = self._producer or self._new_producer()
            doubted = time.monotonic() < self._doubted_until
            call = _Call(records, deadline, problems, self._limits, self._no_right, doubted=doubted)
            try:
                call.hand_over(producer)
                left = producer.flush(max(deadline - time.monotonic(), 0))
            except KafkaException as error:  # the client can send nothing any more
                left = 1
                call.broken(error.args[0])
            except BaseException as error:
                self._abandon(producer)
                if isinstance(error, SystemError) and isinstance(error.__cause__, KafkaException):
                    # It gave up in the midst of its reports, whose functions cannot run then.
                    raise self._typed(error.__cause__.args[0], "take records") from error
                raise
            if left or self._fatal:
                self._abandon(producer)
            for topic in call.changed:
                self._limits.pop(topic, None)
            if call.bad_times:
                self._doubted_until = time.monotonic() + DOUBT_S
        final = any(refusal.permanent for refusal in call.refused.values())
        if call.unanswered and len(call.refused) == len(records) and not final:
            raise self._settings.unreachable(f"take records within {timeout_s:g} s", call.reason)
        return sorted(call.refused.values())

    def reader(self, group: str) -> KafkaReader:
        """A new reading end; `group` is the consumer group under which Kafka's tools show it."""
        return KafkaReader(self._settings, self._admin, self._typed, group)

    def close(self) -> None:
        """Give up the producer's connections; readers stay open."""
        with self._publishing:
            self._producer = None

    def _learn(self, topics: Iterable[str]) -> dict[str, Refusal]:
        """Look at topics before their first record.

        So no broker makes one by itself, with settings of its own; and batches are made no larger
        than the topic takes, else a batch would be refused with all that is in it.
        """
        problems = {}
        for topic in topics:
            try:
                if self._described(topic) is None:
                    problems[topic] = Refusal(0, f"topic {topic} does not exist", permanent=False)
                    continue
            except (MissingRight, ConfigurationError) as error:
                problems[topic] = Refusal(0, str(error), permanent=True)
                continue
            try:
                limit = int(self._config(topic)["max.message.bytes"])
            except MissingRight:
                limit = BATCH_BYTES
            self._limits[topic] = limit
            if limit < self._batch_bytes:
                self._batch_bytes = limit
                self._producer = None
        return problems

    def _new_producer(self) -> Producer:
        def note(error: KafkaError) -> None:
            self._fatal = self._fatal or error.fatal()

        self._fatal = False
        self._producer = self._settings.client(
            Producer,
            {
                "enable.idempotence": True,
                "acks": "all",
                "partitioner": "murmur2_random",
                "message.timeout.ms": 0,  # the call's deadline decides, for all together
                "delivery.report.only.error": True,
                "batch.size": self._batch_bytes,
                "linger.ms": LINGER_MS,
                "message.max.bytes": RECORD_BYTES_MAX,
                "queue.buffering.max.kbytes": QUEUE_KBYTES,
            },
            note,
        )
        return self._producer

    def _abandon(self, producer: Producer) -> None:
        """Give up what is not acknowledged, and the producer: its numbering may have a hole."""
        self._producer = None
        producer.purge()
        left = 1
        for _ in range(FATAL_MAX):
            with suppress(KafkaException):  # a fatal error, said again
                left = producer.flush(ABANDON_TIMEOUT_S)
                break
        if left:
            raise self._settings.unreachable("publish", "what became of some records is open")


class _Call:
    """One call of `publish`: what was refused, and which keys wait because of it."""

    def __init__(
        self,
        records: Sequence[Outgoing],
        deadline: float,
        problems: Mapping[str, Refusal],
        limits: Mapping[str, int],
        no_right: Callable[[str, str], MissingRight],
        *,
        doubted: bool,
    ) -> None:
        self.records = records
        self.deadline = deadline
        self.problems = problems
        self.limits = limits
        self.no_right = no_right
        self.refused: dict[int, Refusal] = {}
        self.blocked: set[tuple[str, bytes | None]] = set()
        self.changed: set[str] = set()
        self.doubted = doubted
        self.bad_times = False
        self.unanswered = 0
        self.reason = ""
        self.handed = 0

    def broken(self, error: KafkaError) -> None:
        """The client gave up for good: what it was not handed is refused as well."""
        for index in range(self.handed, len(self.records)):
            self.failed(index, error, None)

    def hand_over(self, producer: Producer) -> None:
        """Give the records to the client; by positional arguments, which is the cheapest way."""
        now_ms = time.time_ns() // 1_000_000
        past_ms = now_ms - int(PAST_MAX_S * 1000)
        if self.doubted:  # each record's own time, which is of the clock of its source
            past_ms, now_ms = -1, NEVER_MS
        produce, failed, blocked = producer.produce, self.failed, self.blocked
        for index, (topic, key, value, headers, time_ms) in enumerate(self.records):
            if (self.problems or blocked) and self.held_back(index):
                continue
            stamp_ms = time_ms if past_ms < time_ms < now_ms else now_ms
            fields: Any = headers if headers.__class__ is list else list(headers)
            report = partial(failed, index)
            self.handed = index + 1
            try:
                produce(topic, value, key, -1, report, None, stamp_ms, fields)
            except BufferError:
                again = partial(produce, topic, value, key, -1, report, None, stamp_ms, fields)
                self.wait_for_room(producer, again, index)
            except (KafkaException, ValueError) as error:
                self.rejected(index, error)
            if not index % SERVE_EVERY:
                producer.poll(0)

    def wait_for_room(self, producer: Producer, again: Callable[[], None], index: int) -> None:
        """The client's queue is full: it empties as brokers answer."""
        while time.monotonic() < self.deadline:
            producer.poll(POLL_S)
            try:
                again()
            except BufferError:
                continue
            except (KafkaException, ValueError) as error:
                self.rejected(index, error)
            return
        self.unanswered += 1
        self.reason = "the client's queue stayed full"
        self.refuse(index, self.reason, permanent=False)

    def held_back(self, index: int) -> bool:
        """Refuse a record whose topic has a problem, or an earlier one of whose key was refused."""
        topic, key = self.records[index][:2]
        problem = self.problems.get(topic)
        if problem is not None:
            self.refuse(index, problem.reason, permanent=problem.permanent)
        elif (topic, key) in self.blocked:
            self.refuse(index, "an earlier record of its key was refused", permanent=False)
        else:
            return False
        return True

    def rejected(self, index: int, error: Exception) -> None:
        """The client itself did not take a record."""
        if isinstance(error, KafkaException):
            self.failed(index, error.args[0], None)
        else:
            self.refuse(index, f"it cannot be sent: {error}", permanent=True)

    def failed(self, index: int, error: KafkaError | None, _: object) -> None:
        """The client's report about one record; it comes for failures only."""
        if error is None:
            return
        name, topic, permanent = error.name(), self.records[index].topic, False
        reason = error.str()
        if name == "MSG_SIZE_TOO_LARGE":
            # The bound is on batches: what fits by itself was in company, and goes another time.
            size, limit = _size(self.records[index]), min(self.limits[topic], RECORD_BYTES_MAX)
            permanent = size > limit
            reason = f"{size} bytes; topic {topic} takes {limit}: raise its max.message.bytes"
            self.changed.add(topic)
        elif name in _NO_TOPIC:
            self.changed.add(topic)
        elif name in _NO_RIGHT:
            permanent, reason = True, str(self.no_right(f"write to topic {topic}", reason))
        elif name in _BAD_TIME and not self.doubted:
            self.bad_times = True  # our clock may be wrong: the next call goes by the records' own
        elif name in _BAD_RECORD:
            permanent = True
        else:
            self.unanswered += 1
            self.reason = reason
        self.refuse(index, reason, permanent=permanent)

    def refuse(self, index: int, reason: str, *, permanent: bool) -> None:
        """Note a refusal; the records of its key that follow in this call wait."""
        topic, key = self.records[index][:2]
        self.refused[index] = Refusal(index, reason, permanent)
        if key is not None:
            self.blocked.add((topic, key))


def _not_found(topic: str) -> NotFound:
    return NotFound(f"topic {topic} does not exist", hint="make it: oncebox topics create")


def _size(record: Outgoing) -> int:
    """About the bytes of a record in a batch of its own."""
    parts = [record.key, record.value]
    for name, value in record.headers:
        parts += [name.encode(), value.encode() if isinstance(value, str) else value]
    return sum(len(part) + 2 for part in parts if part is not None) + 61


def _weaknesses(topic: str, copies: int, config: Mapping[str, str]) -> Iterator[str]:
    """What of a topic's settings, with `copies` replicas, cannot keep the promises."""
    retention_ms, in_sync = int(config["retention.ms"]), int(config["min.insync.replicas"])
    if "compact" in config["cleanup.policy"]:
        yield f"topic {topic} is compacted: earlier events of a key go; set cleanup.policy=delete"
    if 0 <= retention_ms < RETENTION_ADVISED_S * 1000:
        yield (
            f"topic {topic} keeps records for {retention_ms / 1000:g} s only: a consumer that"
            " stands still for longer loses them; raise retention.ms"
        )
    if int(config["retention.bytes"]) >= 0:
        yield (
            f"topic {topic} keeps {config['retention.bytes']} bytes per partition, however far its"
            " consumers are; set retention.bytes=-1"
        )
    if copies < 2:
        yield (
            f"topic {topic} has one copy: what was acknowledged is lost with one disk; let it have"
            " three"
        )
    elif in_sync < 2:
        yield f"topic {topic} acknowledges what one broker has; set min.insync.replicas=2"
    elif in_sync >= copies:
        yield (
            f"topic {topic} takes nothing while one of its {copies} brokers is away; let it have"
            " more copies"
        )
    if config["unclean.leader.election.enable"] == "true":
        yield (
            f"topic {topic} may be led by a broker that lacks acknowledged records; set"
            " unclean.leader.election.enable=false"
        )
    oldest_ms = int(config.get("message.timestamp.before.max.ms", 2**63))
    if config["message.timestamp.type"] == "CreateTime" and oldest_ms < PAST_MAX_S * 1000:
        yield (
            f"topic {topic} refuses records that are {oldest_ms / 1000:g} s old; raise"
            " message.timestamp.before.max.ms"
        )
