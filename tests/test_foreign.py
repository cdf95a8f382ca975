"""Topics that others write: effect once by id or place, in order per key, nothing silent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from chains import Paid, World, make_store
from engines.kafka import Kafka
from oncebox import Context, Service, foreign
from oncebox.consumer.others import part
from oncebox.errors import ConfigurationError
from oncebox.logs.kafka import KafkaLog
from oncebox.operate.rewind import rebuild
from oncebox.ports import Outgoing, Record
from oncebox.program import drive
from oncebox.service.service import Consumer
from oncebox.testing import drain
from operating import Run, at, desk_of, wait_list

THEIRS = "legacy.payments"
HOUR_S = 3600.0


@dataclass(frozen=True)
class Payment:
    order: str
    cents: int


@dataclass
class Others:
    """A consumer of a topic that somebody else writes. `broken`: what its handler refuses."""

    world: World
    broken: set[int]
    seen: list[tuple[str, str | None, int]]

    def read(self, **places: Any) -> None:
        consumer: Consumer[Any] = Consumer("billing")

        @consumer.on(foreign(THEIRS, Payment, **places))
        def settle(tx: Any, payment: Payment, context: Context[Any]) -> None:
            if payment.cents in self.broken:
                raise ValueError(f"no account for {payment.cents}")
            self.seen.append((context.id, context.key, context.attempt))
            self.world.record(tx, payment.order, payment.cents)

        self.world.consumer = consumer

    def send(self, *texts: str, time_ms: int | None = None) -> None:
        """Records `id order cents`, keyed by the order; a fourth word is the value itself."""
        at = time.time_ns() // 1_000_000 if time_ms is None else time_ms
        records = []
        for text in texts:
            id, order, cents, *value = text.split(maxsplit=3)
            said = value[0] if value else f'{{"order": "{order}", "cents": {cents}}}'
            headers = [] if id == "-" else [("x-id", id)]
            key = None if order == "-" else order.encode()
            records.append(Outgoing(THEIRS, key, said.encode(), headers, at))
        assert self.world.log.publish(records, 10.0) == []

    def again(self) -> None:
        """The log brings all of it again, as after a position that was not stored."""
        self.world.rows("UPDATE oncebox.cursor SET position = '0' RETURNING 1")


@pytest.fixture(params=["sqlite", "postgres"])
def others(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Others]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    world = World(make_store(request.param, tmp_path, url), tmp_path, topics=(THEIRS,))
    world.url = url or f"sqlite:///{tmp_path}/store.db"  # type: ignore[attr-defined]
    yield Others(world, set(), [])
    world.close()


BY_HEADER = {"id": "header:x-id", "key": "$.order"}


@pytest.mark.parametrize(
    "places",
    [BY_HEADER, {"id": "header:x-id"}, {"id": "header:x-id", "key": "key"}, {}, {"key": "key"}],
    ids=str,
)
def test_each_takes_effect_once_whatever_comes_again(
    others: Others, places: dict[str, str]
) -> None:
    others.read(**places)
    sent = [f"i{n} {'ab'[n % 2]} {n}" for n in range(40)]
    others.send(*sent)
    loop = others.world.settle()
    others.again()
    others.world.lives()
    assert others.world.of("a") == list(range(0, 40, 2))
    assert others.world.of("b") == list(range(1, 40, 2))
    assert others.world.count("duplicates") == 40
    if "id" in places:  # sent again by its writer: only an id can tell
        others.send(*sent)
        others.world.settle(loop)
        assert len(others.world.ledger()) == 40
    assert others.world.parked() == {}


def test_what_is_behind_a_failing_one_of_its_key_waits(others: Others) -> None:
    others.read(**BY_HEADER)
    others.broken = {2}
    others.send("i1 a 1", "i2 a 2", "i3 a 3", "i4 b 4", "i5 a 5")
    loop = others.world.settle()
    assert others.world.ledger() == [("a", 1), ("b", 4)]
    assert [why for why, *_ in others.world.parked().values()] == ["poison"]
    others.send("i3 a 3", "i6 a 6", "i7 b 7")  # one of them again, while it waits
    others.world.settle(loop)
    others.broken = set()
    others.world.after(5.0, loop)
    assert others.world.of("a") == [1, 2, 3, 5, 6]
    assert others.world.of("b") == [4, 7]
    others.again()
    others.world.lives()
    assert len(others.world.ledger()) == 7


def test_a_line_that_is_longer_than_a_batch_reads(others: Others) -> None:
    others.read(**BY_HEADER)
    others.broken = {0}
    others.send(*[f"i{n} a {n}" for n in range(30)])
    loop = others.world.settle(others.world.loop(batch_max=7))
    others.send(*[f"i{n} a {n}" for n in range(30, 45)])
    others.world.settle(loop)
    assert (others.world.ledger(), others.world.kept()) == ([], 45)
    others.broken = set()
    others.world.after(5.0, loop)
    assert others.world.of("a") == list(range(45))


def test_one_that_ends_the_transaction_holds_its_key(others: Others) -> None:
    others.read(**BY_HEADER)

    consumer: Consumer[Any] = Consumer("billing")

    @consumer.on(foreign(THEIRS, Payment, id="header:x-id", key="$.order"))
    def settle(tx: Any, payment: Payment) -> None:
        others.world.record(tx, payment.order, payment.cents)
        if payment.cents == 2:
            tx.execute("COMMIT")

    others.world.consumer = consumer
    others.send("i1 a 1", "i2 a 2", "i3 a 3", "i4 b 4")
    others.world.settle()
    assert others.world.ledger() == [("a", 1), ("b", 4)]
    assert "a" in others.world.parked()


def test_one_that_kills_its_process_is_found_and_holds_its_key(others: Others) -> None:
    consumer: Consumer[Any] = Consumer("billing")

    @consumer.on(foreign(THEIRS, Payment, id="header:x-id", key="$.order"))
    def settle(tx: Any, payment: Payment) -> None:
        if payment.cents == 2:
            raise SystemExit
        others.world.record(tx, payment.order, payment.cents)

    others.world.consumer = consumer
    others.send("i1 a 1", "i2 a 2", "i3 a 3", "i4 b 4")
    others.world.lives()
    assert sorted(others.world.ledger()) == [("a", 1), ("b", 4)]
    assert list(others.world.parked()) == ["a"]


def test_records_that_say_too_little_go_to_quarantine(others: Others) -> None:
    others.read(**BY_HEADER)
    others.send("i1 a 1", "- a 2", "i3 a 3 {", "i4 a 4 {}", 'i5 a 5 {"order": 1.5}', "i6 b 6")
    others.world.settle()
    assert others.world.ledger() == [("a", 1), ("b", 6)]
    reasons = [r for (r,) in others.world.rows("SELECT reason FROM oncebox.quarantine ORDER BY n")]
    said = ["header:x-id finds nothing", "no JSON", "$.order finds nothing", "neither text nor"]
    assert len(reasons) == 4
    assert all(part in reason for part, reason in zip(said, reasons, strict=True)), reasons
    assert others.world.count("quarantined") == 4


def test_a_value_of_another_shape_holds_its_key(others: Others) -> None:
    others.read(**BY_HEADER)
    others.send('i1 a 1 {"order": "a"}', "i2 a 2", "i3 b 3")
    others.world.settle()
    assert others.world.ledger() == [("b", 3)]
    assert "cents" in others.world.parked()["a"][1]


def test_a_tombstone_holds_its_key(others: Others) -> None:
    others.read(id="header:x-id", key="key")
    others.send("i1 a 1")
    gone = Outgoing(THEIRS, b"a", None, [("x-id", "i2")], time.time_ns() // 1_000_000)
    assert others.world.log.publish([gone], 10.0) == []
    others.world.settle()
    assert others.world.ledger() == [("a", 1)]
    assert others.world.parked()["a"][0] == "poison"


def test_one_id_with_other_bytes_is_seen(others: Others) -> None:
    others.read(**BY_HEADER)
    others.send("i1 a 1", "i1 a 2", "i3 a 3")
    others.world.settle()
    assert others.world.ledger() == [("a", 1), ("a", 3)]
    assert others.world.parked()["i1"][0] == "fork"


def test_of_a_topic_made_anew_all_is_new_by_offset(others: Others) -> None:
    """Offsets begin again; the record's time tells them apart from those that are gone."""
    others.read(key="key")
    now = time.time_ns() // 1_000_000
    others.send("- a 1", "- a 2", time_ms=now)
    loop = others.world.settle()
    log: Any = others.world.log
    log.drop(THEIRS)
    others.world.log.create(THEIRS, 1)
    others.send("- a 1", "- a 3", "- a 4", time_ms=now + 1000)
    others.world.settle(loop)
    assert others.world.of("a") == [1, 2, 1, 3, 4]
    assert [row[0] for row in others.world.rows("SELECT what FROM oncebox.journal")] == [
        "truncated"
    ]


def test_a_rebuild_gives_the_same_state(others: Others) -> None:
    others.read(**BY_HEADER)
    others.broken = {4}
    others.send(*[f"i{n} {'ab'[n % 2]} {n}" for n in range(10)])
    others.world.settle()
    others.broken = set()
    drive(rebuild(desk_of(others.world), {}, ["DELETE FROM ledger"], "a test", perform=False))
    others.world.settle()
    assert others.world.of("a") == [0, 2, 4, 6, 8]
    assert others.world.of("b") == [1, 3, 5, 7, 9]


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    make_store(request.param, tmp_path, url)
    return url or f"sqlite:///{tmp_path}/store.db"


def test_a_topic_of_kafka_also_when_it_is_made_anew(
    store_url: str, kafka_server: Kafka, topic: str
) -> None:
    """By offset, which begins again: the record's time tells the new ones from the old."""
    billing: Service[Any] = Service("billing", store=store_url, log=kafka_server.url)
    seen: list[int] = []

    @billing.on(foreign(topic, Payment, key="key"))
    def settle(tx: Any, payment: Payment) -> None:
        seen.append(payment.cents)

    def send(*cents: int) -> None:
        producer = Producer({"bootstrap.servers": kafka_server.bootstrap})
        for each in cents:
            producer.produce(topic, f'{{"order": "a", "cents": {each}}}', key="a")
        assert producer.flush(20.0) == 0

    kafka_server.create_topic(topic, 2)
    send(1, 2, 3)
    assert drain(billing) == []
    log = KafkaLog(kafka_server.url)
    kafka_server.delete_topics(topic)
    while log.describe(topic) is not None:
        time.sleep(0.02)
    log.close()
    kafka_server.create_topic(topic, 2)
    send(1, 4)
    assert drain(billing) == []
    assert seen == [1, 2, 3, 1, 4]


def test_operators_see_and_decide(others: Others, oncebox: Run) -> None:
    others.read(**BY_HEADER)
    others.broken = {2}
    others.send("i1 a 1", "i2 a 2", "i3 a 3", "i4 b 4", "i5 b 5 {")
    loop = others.world.settle()
    (waiting,) = wait_list(others.world)
    assert (waiting.source, waiting.key, waiting.kept) == (THEIRS, "a", 2)
    done = oncebox("parked", "billing", *at(others.world))
    assert "no account for 2" in done.out, done
    done = oncebox("skip", "billing", "--key", "a", *at(others.world))
    assert done.code == 0, done
    others.world.after(HOUR_S, loop)  # an operator's clock is the real one
    assert others.world.of("a") == [1, 3]
    done = oncebox("quarantine", "retry", "billing", "1", *at(others.world))
    assert (done.code, "which others write" in done.err) == (1, True), done
    done = oncebox("audit", *at(others.world))
    assert done.code == 0, done
    assert THEIRS in done.out + done.err, done


def nothing(tx: Any, event: object) -> None:
    pass


def test_declarations_that_cannot_work_are_refused() -> None:
    for wrong in ("x", "header:", "$.", "$.a..b"):
        with pytest.raises(ConfigurationError, match="expression"):
            foreign(THEIRS, Payment, key=wrong)
    with pytest.raises(ConfigurationError, match="topic"):
        foreign("a/b", Payment)
    consumer: Consumer[Any] = Consumer("billing")
    consumer.on(Paid)(nothing)
    with pytest.raises(ConfigurationError, match="in another way"):
        consumer.on(foreign("orders", Payment))(nothing)
    consumer.on(foreign(THEIRS, Payment))(nothing)
    with pytest.raises(ConfigurationError, match="in another way"):
        consumer.on(foreign(THEIRS, Payment, key="key"))(nothing)
    with pytest.raises(ConfigurationError, match="has a handler"):
        consumer.on(foreign(THEIRS, Payment))(print)


def test_expressions() -> None:
    record = Record("t", 3, 7, b"k", b'{"a": {"b": 5}, "t": true}', [("x", b"h")], 1000)
    assert part("key")(record) == "k"
    assert part("offset")(record) == "3@7:1000"
    assert part("header:x")(record) == "h"
    assert part("header:y")(record) is None
    assert part("$.a.b")(record) == "5"
    assert part("$.a.c")(record) is None
    with pytest.raises(ValueError, match="neither text"):
        part("$.t")(record)
