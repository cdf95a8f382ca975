"""Both logs keep the contract of `oncebox.testing.log_contract`, check by check."""

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]

from conftest import hint_if_missing
from engines.kafka import OwnKafka, kafka
from oncebox.logs import embedded
from oncebox.logs import kafka as kafka_log
from oncebox.logs.embedded import EmbeddedLog
from oncebox.logs.kafka import KafkaLog
from oncebox.ports import Extent, Outgoing
from oncebox.testing.log_contract import LOG_CHECKS, LogEngine
from oncebox.testing.log_tools import everything

ANSWER_TIMEOUT_S = 20.0

Check = Callable[[LogEngine], None]
each_check = pytest.mark.parametrize("check", LOG_CHECKS, ids=lambda check: check.__name__)


@each_check
def test_embedded_log(check: Check, tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with contextlib.closing(EmbeddedLog(path)) as log:
        check(
            LogEngine(
                open=partial(EmbeddedLog, path),
                drop=log.drop,
                grow=log.grow,
                truncate=log.truncate,
                crash=lambda: None,
                record_bytes_max=embedded.RECORD_BYTES_MAX,
                calls_are_atomic=True,
            )
        )


@pytest.fixture(scope="module")
def broker() -> Iterator[OwnKafka]:
    """A broker of these tests' own: one of them kills it."""
    with hint_if_missing(), kafka() as own:
        yield own


@each_check
def test_kafka_log(check: Check, broker: OwnKafka) -> None:
    check(kafka_engine(broker))


def test_a_clock_far_ahead_holds_nothing_for_long(
    broker: OwnKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brokers refuse times that are an hour ahead; then records go with their own."""
    topic, real, day_ns = "far-ahead", time.time_ns, 86_400 * 10**9
    two_hours_ago_ms = real() // 10**6 - 2 * 3600 * 1000
    records = [Outgoing(topic, key, b"1", [], two_hours_ago_ms) for key in (b"a", b"b", b"a")]
    with contextlib.closing(KafkaLog(broker.url)) as log:
        log.create(topic, 1)
        monkeypatch.setattr(time, "time_ns", lambda: real() + day_ns)
        refusals = log.publish(records, ANSWER_TIMEOUT_S)
        assert [one.at for one in refusals] == [0, 1, 2]
        assert not any(one.permanent for one in refusals)
        assert log.publish(records, ANSWER_TIMEOUT_S) == []


def test_who_looks_at_a_topic_that_has_grown_publishes_as_others_do(broker: OwnKafka) -> None:
    """Kafka's client knows partitions for minutes; keys would go to and fro between two relays."""
    topic, engine = "grows", kafka_engine(broker)
    keys = [str(number).encode() for number in range(20)]
    with (
        contextlib.closing(KafkaLog(broker.url)) as slept,
        contextlib.closing(KafkaLog(broker.url)) as other,
    ):
        slept.create(topic, 1)
        for log, value in ((slept, b"1"), (other, b"2"), (slept, b"3")):
            slept.describe(topic)
            records = [Outgoing(topic, key, value, [], time.time_ns() // 10**6) for key in keys]
            assert log.publish(records, ANSWER_TIMEOUT_S) == []
            if value == b"1":
                engine.grow(topic, 8)
        found = everything(other, topic)
    places = {(r.key, r.value): r.partition for r in found}
    assert len(places) == 3 * len(keys)
    assert [places[key, b"3"] for key in keys] == [places[key, b"2"] for key in keys]


def kafka_engine(broker: OwnKafka) -> LogEngine:
    admin = broker.admin
    log = KafkaLog(broker.url)

    def drop(topic: str) -> None:
        admin.delete_topics([topic])[topic].result(ANSWER_TIMEOUT_S)
        until(lambda: log.describe(topic) is None)

    def grow(topic: str, partitions: int) -> None:
        wish = NewPartitions(topic, partitions)
        admin.create_partitions([wish])[topic].result(ANSWER_TIMEOUT_S)
        until(lambda: len(log.extents(topic)) == partitions)

    def truncate(topic: str, partition: int, before: int) -> None:
        place = TopicPartition(topic, partition, before)
        admin.delete_records([place])[place].result(ANSWER_TIMEOUT_S)

    return LogEngine(
        open=partial(KafkaLog, broker.url),
        drop=drop,
        grow=grow,
        truncate=truncate,
        crash=partial(broker.restart, immediate=True),
        record_bytes_max=kafka_log.RECORD_BYTES_MAX,
        calls_are_atomic=False,
    )


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + ANSWER_TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_topic_of_kafka_that_several_create_at_once(kafka_url: str, topic: str) -> None:
    """Nothing happens where it exists, also if it came into being a moment ago."""
    logs = [KafkaLog(kafka_url) for _ in range(4)]
    with ThreadPoolExecutor(len(logs)) as pool:
        for round in range(5):
            list(pool.map(lambda log: log.create(f"{topic}-{round}", 2), logs))  # noqa: B023
    for log in logs:
        log.close()


def test_a_topic_of_kafka_that_grows_while_it_is_asked(
    kafka_url: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(KafkaLog(kafka_url)) as log:
        log.create(topic, 2)
        real, count = log._offsets, [2]

        def offsets(name: str, at: object) -> list[int]:
            found = real(name, at)
            count[0] += 1
            log._admin.create_partitions([NewPartitions(name, count[0])])[name].result(30)
            until(
                lambda: (known := log.describe(name)) is not None and known.partitions == count[0]
            )
            return found

        monkeypatch.setattr(log, "_offsets", offsets)
        assert log.extents(topic) == [Extent(0, 0)] * 2
        assert log.offsets_at(topic, 0) == [0] * 4
