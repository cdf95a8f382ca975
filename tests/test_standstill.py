"""A partition of which Kafka's client brings nothing more is read on with another client."""

from __future__ import annotations

import logging
import time
from contextlib import closing

import pytest
from confluent_kafka import Producer, TopicPartition

from oncebox.logs import kafka_probes
from oncebox.logs.kafka import KafkaLog
from oncebox.logs.kafka_probes import LOOKS_LONGEST, LOOKS_MAX, Standstill
from oncebox.ports import Outgoing, Reader, Record

WAIT_S = 20.0
PLACE = ("orders", 0)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_probes, "LOOK_S", 0.1)


def one(topic: str, value: bytes) -> Outgoing:
    return Outgoing(topic, b"k", value, [], int(time.time() * 1000))


def read(reader: Reader, count: int) -> list[Record]:
    records: list[Record] = []
    end = time.monotonic() + WAIT_S
    while len(records) < count and time.monotonic() < end:
        records += reader.fetch(100, 1_000_000, 0.2)
    return records


def test_another_client_reads_on(
    kafka_url: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(KafkaLog(kafka_url)) as log:
        log.create(topic, 2)
        log.publish([one(topic, b"first")], 10)
        with closing(log.reader(f"{topic}-group")) as reader:
            reader.assign({(topic, 0): 0, (topic, 1): 0})
            (first,) = read(reader, 1)
            # behind its reader's back the client brings nothing of it
            place = TopicPartition(first.topic, first.partition)
            reader._consumer.pause([place])
            log.publish([one(topic, b"second"), one(topic, b"third")], 10)
            with caplog.at_level(logging.WARNING, logger="oncebox.kafka"):
                records = read(reader, 2)
    assert [(r.value, r.offset) for r in records] == [(b"second", 1), (b"third", 2)]
    assert f"nothing comes of {topic}/{first.partition}@1 of 3" in caplog.text


def test_the_mark_of_a_transaction_is_no_standstill_for_long(
    kafka_url: str, topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind the last record is what nobody reads: it is tried again, less and less often."""
    with closing(KafkaLog(kafka_url)) as log:
        log.create(topic, 1)
        producer = Producer(
            {"bootstrap.servers": kafka_url.removeprefix("kafka://"), "transactional.id": topic}
        )
        producer.init_transactions()
        producer.begin_transaction()
        producer.produce(topic, b"of others")
        producer.commit_transaction()
        with closing(log.reader(f"{topic}-group")) as reader:
            reader.assign({(topic, 0): 0})
            assert [r.value for r in read(reader, 1)] == [b"of others"]
            with caplog.at_level(logging.WARNING, logger="oncebox.kafka"):
                end = time.monotonic() + WAIT_S
                while "another client" not in caplog.text and time.monotonic() < end:
                    assert reader.fetch(100, 1_000_000, 0.2) == []
            log.publish([one(topic, b"next")], 10)
            assert [r.value for r in read(reader, 1)] == [b"next"]
    assert caplog.text.count("another client") >= 1


def test_looks_are_counted_where_nothing_moves() -> None:
    standstill = Standstill(admin=None)

    def looks(count: int, at: int, end: int) -> int:
        """How many of these looks found a standstill."""
        found = 0
        for _ in range(count):
            standstill._asked_from = {PLACE: at}
            found += len(standstill.judge({PLACE: at}, {PLACE: end}))
        return found

    assert looks(100, 5, 5) == 0, "it has what there is"
    assert looks(LOOKS_MAX - 1, 5, 6) == 0
    assert looks(1, 5, 5) == 0, "begins anew"
    assert looks(LOOKS_MAX - 1, 5, 6) == 0
    assert looks(1, 5, 6) == 1
    assert looks(2 * LOOKS_MAX - 1, 5, 6) == 0, "another client did not help: twice as patient"
    assert looks(1, 5, 6) == 1
    assert looks(LOOKS_MAX, 6, 7) == 1, "it moved: as at first"
    assert looks(20 * LOOKS_LONGEST, 8, 9) >= 20, "with a bound"


def test_one_that_moved_in_between_does_not_stand_still() -> None:
    standstill = Standstill(admin=None)
    for at in range(10 * LOOKS_MAX):
        standstill._asked_from = {PLACE: at}
        assert standstill.judge({PLACE: at + 1}, {PLACE: at + 5}) == []
        standstill._asked_from = {PLACE: at}
        assert standstill.judge({}, {PLACE: at + 5}) == []
