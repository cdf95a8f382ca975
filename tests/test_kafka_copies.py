"""A cluster of two real brokers: topics with two copies, and a broker that is away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from at_work import Place, at_work, emit, make_tables, until
from conftest import hint_if_missing
from engines.kafka import ANSWER_TIMEOUT_S, OwnKafka, kafka
from oncebox.service.config import SOURCES, Sources
from oncebox.service.connect import open_log
from oncebox.service.doctor import examine

pytestmark = pytest.mark.long

WEEK_MS = str(7 * 24 * 3600 * 1000)


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[OwnKafka, OwnKafka]]:
    with hint_if_missing(), kafka() as first, kafka(beside=first) as second:
        until(lambda: len(first.admin.list_topics(timeout=ANSWER_TIMEOUT_S).brokers) == 2)
        yield first, second


@pytest.fixture
def place(pair: tuple[OwnKafka, OwnKafka], tmp_path: Path) -> Iterator[Place]:
    token = SOURCES.set(Sources({}))
    base, log = f"sqlite:///{tmp_path}", f"{pair[0].url},{pair[1].bootstrap}"
    made = Place(f"{base}/shop.db", f"{base}/billing.db", log, f"copies-{token_hex(4)}")
    make_tables(made.shop, made.billing)
    yield made
    SOURCES.reset(token)


def make(pair: tuple[OwnKafka, OwnKafka], topic: str, **settings: str) -> None:
    """A topic of two partitions, each with a copy on both brokers, led by the second."""
    config = {"retention.ms": WEEK_MS} | {k.replace("_", "."): v for k, v in settings.items()}
    made = NewTopic(topic, 2, replica_assignment=[[2, 1], [2, 1]], config=config)
    pair[0].admin.create_topics([made])[topic].result(ANSWER_TIMEOUT_S)
    for one in pair:  # each broker hears of it from the controller
        until(partial(knows, one, topic))


def knows(broker: OwnKafka, topic: str) -> bool:
    return topic in broker.topics()


@pytest.mark.parametrize(
    ("settings", "name", "says"),
    [
        ({}, "acks", "acknowledges what one broker has"),
        ({"min_insync_replicas": "2"}, "acks", "takes nothing while one of its 2 brokers"),
        (
            {"min_insync_replicas": "1", "unclean_leader_election_enable": "true"},
            "election",
            "may be led by a broker that lacks acknowledged records",
        ),
    ],
    ids=["one in sync", "all in sync", "unclean"],
)
def test_copies_that_keep_too_little_are_named(
    pair: tuple[OwnKafka, OwnKafka], place: Place, settings: Any, name: str, says: str
) -> None:
    make(pair, place.stream, **settings)
    with closing(open_log(place.log)) as log:
        assert any(says in one for one in log.check(place.stream))
    findings = list(examine(place.services(lambda tx, paid: None)[:2]))
    assert [one for one in findings if says in one.what and one.name == name and one.hint], findings


@pytest.mark.timeout(300)
def test_while_too_few_copies_are_in_sync_events_wait_and_none_is_lost(
    pair: tuple[OwnKafka, OwnKafka], place: Place
) -> None:
    make(pair, place.stream, min_insync_replicas="2")
    seen: list[tuple[str, int]] = []
    shop, billing, paid = place.services(lambda tx, paid: seen.append((paid.order, paid.cents)))
    sent = [(f"o-{n % 7}", n) for n in range(150)]
    with at_work(shop, billing) as work:
        emit(shop, *(paid(*one) for one in sent[:50]))
        until(lambda: len(seen) == 50, lambda: seen)
        pair[1].stop(immediate=True)
        emit(shop, *(paid(*one) for one in sent[50:]))
        until(lambda: "insync" in work.get("/ready")[1].lower() or not work.fine("/ready"))
        assert len(seen) == 50
        pair[1].start()
        until(lambda: len(seen) >= 150, lambda: (len(seen), work.get("/ready")))
    assert sorted(seen, key=lambda one: one[1]) == sent
    for key in {key for key, _ in sent}:
        assert [n for k, n in seen if k == key] == [n for k, n in sent if k == key]
