"""Logs that are not as they were, from the issue's list: nothing is skipped without a word."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka import admin as _untyped_admin

from bad_input.site import Place, Site, until
from bad_input.test_records import header, noted
from conftest import hint_if_missing
from engines.kafka import Kafka, OwnKafka, kafka
from engines.raw_kafka import produce
from oncebox.errors import Unreachable
from oncebox.ports import LOST_HEADERS, Outgoing

ANSWER_TIMEOUT_S = 20.0

admin: Any = _untyped_admin


class Topics:
    """What whoever administers a log does to a site's topic."""

    def __init__(self, site: Site, kafka: Kafka | None) -> None:
        self.log: Any = site.log
        self.name = site.place.topic
        self.kafka = kafka

    def drop(self) -> None:
        if self.kafka is None:
            self.log.drop(self.name)
        else:
            self.kafka.admin.delete_topics([self.name])[self.name].result(ANSWER_TIMEOUT_S)
        until(lambda: self.log.describe(self.name) is None, "the topic is gone")

    def make(self, partitions: int) -> None:
        self.log.create(self.name, partitions)

    def grow(self, partitions: int) -> None:
        if self.kafka is None:
            self.log.grow(self.name, partitions)
        else:
            wish = admin.NewPartitions(self.name, partitions)
            self.kafka.admin.create_partitions([wish])[self.name].result(ANSWER_TIMEOUT_S)
        until(lambda: len(self.log.extents(self.name)) == partitions, "the topic has grown")

    def truncate(self) -> None:
        """Everything expires that is there now."""
        for number, extent in enumerate(self.log.extents(self.name)):
            if self.kafka is None:
                self.log.truncate(self.name, number, extent.end)
            elif extent.end > extent.start:
                place = TopicPartition(self.name, number, extent.end)
                self.kafka.admin.delete_records([place])[place].result(ANSWER_TIMEOUT_S)


@pytest.fixture
def topics(request: pytest.FixtureRequest, site: Site) -> Topics:
    kafka = request.getfixturevalue("kafka_server") if site.place.on_kafka else None
    return Topics(site, kafka)


KEYS = [f"k{n}" for n in range(8)]
"""Enough for every partition."""


def pay_all(site: Site, cents: int) -> None:
    site.emit(*(site.Paid(key, cents) for key in KEYS), site.Opened(cents))


def effects(site: Site) -> list[list[int]]:
    return [site.of(key) for key in KEYS]


def journal(site: Site, what: str) -> list[str]:
    """Details of the journal."""
    rows = site.rows("SELECT what, detail FROM oncebox.journal ORDER BY n")
    return [detail for name, detail in rows if name == what]


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_a_log_truncated_behind_the_position(
    site: Site, topics: Topics, caplog: pytest.LogCaptureFixture, running: bool
) -> None:
    """Records expired before they were read: an error names the place, keys wait for what is
    missing, and the source's outbox still has it.
    """
    pay_all(site, 1)
    site.flow()
    if running:
        site.loops[-1].reader.assign(
            {}
        )  # it stands still: what it has fetched is no longer missing
    else:
        site.leave()
    pay_all(site, 2)
    site.relay()
    topics.truncate()
    pay_all(site, 3)
    site.clock.now += 60.0
    with caplog.at_level(logging.ERROR, "oncebox"):
        site.flow()

    assert effects(site) == [[1]] * len(KEYS), "nothing overtakes what is missing"
    assert {one.kind for one in site.waiting().values()} == {"gap"}
    assert {one.missing for one in site.waiting().values()} == {(2, 2)}
    details = journal(site, "truncated")
    assert details
    for detail in details:
        assert f"{site.place.topic}/" in detail
        assert detail in caplog.text
    for key in KEYS:
        site.republish(key)
    site.consume()
    assert effects(site) == [[1, 2, 3]] * len(KEYS)
    assert site.waiting() == {}


def test_what_expired_comes_from_the_sources_store(site: Site, topics: Topics) -> None:
    """The same for a consumer that may read the source: nobody has to do anything."""
    site.consume(ask=True)
    pay_all(site, 1)
    site.relay()
    topics.truncate()
    pay_all(site, 2)
    site.flow()
    site.later(1.0)
    until(lambda: site.turn(site.loops[-1]) or site.waiting() == {}, "the gaps are filled")
    assert effects(site) == [[1, 2]] * len(KEYS)


@pytest.mark.parametrize("consumer", ["waiting", "unaware", "stopped"])
def test_a_topic_deleted_and_made_again(site: Site, topics: Topics, consumer: str) -> None:
    """It is read from its start, whatever position was reached in the other one; also by a
    consumer that did not see it go.
    """
    spoilt: list[Outgoing] = []
    bad = header("ce_specversion", "2.0")
    site.hurt("bad", noted(bad, spoilt))
    site.paid("bad", 1)
    pay_all(site, 1)
    pay_all(site, 2)
    site.flow()
    if consumer == "stopped":
        site.leave()
    topics.drop()
    if consumer == "waiting":
        drive_until_noticed(site)
    topics.make(2)
    another = spoilt[0]._replace(value=b"another record, at the place of the other")
    assert site.log.publish([another], 10.0) == []
    for cents in (3, 4, 5):
        pay_all(site, cents)
    for key in KEYS:
        site.republish(key, 1, 2)
    site.relay()

    loop = site.loops[-1] if site.loops else site.loop()
    done = [[1, 2, 3, 4, 5]] * len(KEYS)
    until(lambda: not site.turn(loop) and site.at_end() and effects(site) == done, "all is done")
    assert sorted(site.of("shop")) == [1, 2, 3, 4, 5], "events without a key too"
    assert site.waiting() == {}
    assert len(site.quarantined()) == 2, "two records of one place in two topics"
    assert any("made anew" in detail for detail in journal(site, "truncated"))


def drive_until_noticed(site: Site) -> None:
    """The topic is away: the consumer waits for it, and does not end."""
    loop = site.loops[-1]

    def away() -> bool:
        site.turn(loop)
        site.clock.now += 1.0
        return loop.partitions.get(site.place.topic) == 0 and not loop.held

    until(away, "the consumer knows that its topic is gone")


def test_too_few_partitions(site: Site, topics: Topics, caplog: pytest.LogCaptureFixture) -> None:
    """Fewer than before: those that are gone are nobody's, those that are there are read."""
    topics.grow(4)
    pay_all(site, 1)
    site.flow()
    topics.drop()
    drive_until_noticed(site)
    topics.make(1)
    pay_all(site, 2)
    done = [[1, 2]] * len(KEYS)
    while effects(site) != done:  # a producer may not know of it yet: what is refused comes again
        site.later(1.0)
    assert site.loops[-1].held.keys() == {(site.place.topic, 0)}
    site.leave()
    pay_all(site, 3)
    site.flow()
    assert effects(site) == [[1, 2, 3]] * len(KEYS), "and whoever comes new reads on too"


def test_fewer_partitions_than_processes(site: Site) -> None:
    """Too few for all: some have nothing to read, and nobody disturbs the others."""
    loops = [site.loop() for _ in range(4)]
    pay_all(site, 1)
    site.relay()

    def shared() -> bool:
        for loop in loops:
            site.turn(loop)
        site.clock.now += 1.0
        return site.at_end()

    until(shared, "all is read")
    until(lambda: shared() and sorted(len(one.held) for one in loops) == [0, 0, 1, 1], "two read")
    pay_all(site, 2)
    site.relay()
    until(shared, "all is read")
    assert effects(site) == [[1, 2]] * len(KEYS)
    assert site.count("forks") == 0


def test_more_partitions_than_before(site: Site, topics: Topics) -> None:
    """Keys move to other partitions: their order stays, whichever is read first."""
    pay_all(site, 1)
    site.flow()
    pay_all(site, 2)
    site.relay()
    topics.grow(7)
    site.wire.log = site.reopened()  # one that is open may learn of it much later
    site.clock.now += 60.0
    for cents in (3, 4):
        pay_all(site, cents)
        site.flow()
    site.later(60.0)
    assert effects(site) == [[1, 2, 3, 4]] * len(KEYS)
    assert site.waiting() == {}
    ends = [extent.end for extent in site.log.extents(site.place.topic)]
    assert any(ends[2:]), "no key moved"


# ---- a record over the broker's limit


@pytest.fixture
def narrow(on_servers: Place) -> Iterator[Site]:
    """On Kafka, with a topic as brokers make it: about 1 MB a record."""
    made = Site(on_servers)
    yield made
    made.close()


def test_a_record_over_the_brokers_limit(
    narrow: Site, kafka_server: Kafka, caplog: pytest.LogCaptureFixture
) -> None:
    """Its key waits in the outbox, all others go on; with a higher limit it goes on by itself."""
    site, topic, size = narrow, narrow.place.topic, 2_000_000
    site.paid("good", 1)
    site.emit(site.Noted("big", "x" * size), site.Paid("big", 2))
    site.paid("good", 2)
    with caplog.at_level(logging.ERROR, "oncebox"):
        site.flow()
    assert site.of("good") == [1, 2]
    assert site.of("big") == []
    ((key, permanent, reason),) = site.rows("SELECT key, permanent, reason FROM oncebox.refused")
    assert (key, bool(permanent)) == ("big", True)
    assert f"topic {topic} takes 1048588" in reason
    assert "max.message.bytes" in reason
    assert f"{site.source} big waits: event " in caplog.text

    wish = admin.ConfigResource(admin.ConfigResource.Type.TOPIC, topic)
    wish.add_incremental_config(
        admin.ConfigEntry(
            "max.message.bytes", "4000000", incremental_operation=admin.AlterConfigOpType.SET
        )
    )
    kafka_server.admin.incremental_alter_configs([wish])[wish].result(ANSWER_TIMEOUT_S)
    site.later(61.0)
    assert site.of("big") == [size, 2]
    assert site.rows("SELECT 1 FROM oncebox.refused") == []


# ---- headers that the client library cannot give


def test_a_header_name_that_is_not_utf8(narrow: Site, kafka_server: Kafka) -> None:
    """Non-ASCII headers, of which confluent-kafka gives none at all: key, value and position are
    kept, and the reason says what is not, and where it still is.
    """
    site, topic = narrow, narrow.place.topic
    site.paid("good", 1)
    site.flow()
    host, _, port = kafka_server.bootstrap.split(",")[0].rpartition(":")
    headers = [(b"ce_id", b"1"), (b"gr\xf6\xdfe", b"x"), (b"ce_type", b"order.paid")]
    now_ms = int(site.clock.now * 1000)
    assert produce(host, int(port), topic, b"spoilt", b"{}", headers, now_ms) == 0
    site.paid("good", 2)
    site.flow()
    assert site.of("good") == [1, 2]
    ((reason, record),) = site.quarantined()
    assert (record.key, record.value) == (b"spoilt", b"{}")
    assert [name for name, _ in record.headers] == [LOST_HEADERS]
    for part in ("a name among them is not UTF-8", "key spoilt", f"position {topic}/0@",
                 "its headers are in the log only", "oncebox quarantine"):  # fmt: skip
        assert part in reason


# ---- full disk


@pytest.fixture
def own_broker() -> Iterator[OwnKafka]:
    """A broker whose disk may fill. Its index files are small, so that records are what grows."""
    with hint_if_missing(), kafka({"log.index.size.max.bytes": "4096"}) as own:
        yield own


def test_a_full_disk_under_kafka(on_files: Place, own_broker: OwnKafka, topic: str) -> None:
    """Full disk: a broker that cannot write ends itself. What is in the outbox waits there, and is
    published when there is room.
    """
    broker, size = own_broker, 400_000
    site = Site(on_files._replace(log=broker.url, topic=f"{topic}-orders"), partitions=1)
    site.relay(publish_timeout_s=2.0)
    pay_all(site, 1)
    site.flow()
    with room_for(broker, size):
        pay_all(site, 2)
        site.emit(*(site.Noted(f"big{number}", "x" * size) for number in range(5)))
        pay_all(site, 3)
        until(lambda: site.relay_turn() and bool(site.waited), "the relay waits for the log")
        until(lambda: not broker.is_running(), "the broker gives its disk up")
    assert all(isinstance(error, Unreachable) for error in site.waited), site.waited
    assert "No space" in broker_log(broker) or "File too large" in broker_log(broker)
    broker.stop()
    broker.start()

    def published() -> bool:
        site.clock.now += 1.0
        return not site.relay_turn() and not site.relays[0].refused

    until(published, "all is published")
    site.consume()
    assert effects(site) == [[1, 2, 3]] * len(KEYS)
    assert [site.of(f"big{number}") for number in range(5)] == [[size]] * 5
    assert site.waiting() == {}
    site.close()


@contextmanager
def room_for(broker: OwnKafka, size: int) -> Iterator[None]:
    """The broker's files take so much more, and then the kernel refuses: as on a disk that is full.
    One that ends meanwhile begins without that limit again.
    """
    grown = max(path.stat().st_size for path in broker.data.rglob("*.log"))
    _, hard = resource.prlimit(broker.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (grown + size, hard))
    yield


def broker_log(broker: OwnKafka) -> str:
    return broker.log.read_text(errors="replace")
