"""A relay's legacy topic, and the process that translates from topic to topic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import make_dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from msgspec import json

from lensing import (
    Amount,
    On1,
    Other,
    Placed1,
    Placed2,
    Shop,
    lenses,
    note,
    placed3,
    shop,
)
from oncebox import Service, event, evolve, rename, split
from oncebox.audit.survey import Side, audit
from oncebox.cli import main
from oncebox.codecs.framing import HEADER
from oncebox.envelope import digest, read_envelope
from oncebox.errors import ConfigurationError
from oncebox.lens.copies import Copies
from oncebox.ports import Outgoing, Record
from oncebox.service.connect import open_log
from oncebox.service.places import Place
from oncebox.service.translate import translator
from oncebox.testing import drain

__all__ = ["lenses", "shop"]


def records(shop: Shop, topic: str) -> list[Record]:
    """All records of a topic, in the order of each partition."""
    log = open_log(shop.log)
    try:
        if log.describe(topic) is None:
            return []
        reader = log.reader("test")
        reader.assign({(topic, n): 0 for n in range(len(log.extents(topic)))})
        found: list[Record] = []
        while batch := reader.fetch(1000, 10**7, 0.0):
            found += batch
        reader.close()
        return found
    finally:
        log.close()


def said(record: Record) -> dict[str, Any]:
    envelope = read_envelope(record)
    assert envelope.chain is not None
    return {
        "id": envelope.id, "key": envelope.key, "number": envelope.chain.sequence,
        "version": envelope.version, "data": json.decode(record.value or b"null"),
    }  # fmt: skip


def test_a_legacy_topic_has_all_events_of_the_stream_in_the_older_version(shop: Shop) -> None:
    shop.shop.legacy("orders.v1", of="orders", versions={"order.placed": 1})
    shop.emit(
        Placed2("o-1", Amount(5, "USD"), "ada"), Other("o-1", 7), Placed1("o-1", 6, "bob"),
    )  # fmt: skip
    assert drain(shop.shop) == []
    news, olds = records(shop, "orders"), records(shop, "orders.v1")
    assert [said(r)["number"] for r in olds] == [1, 2, 3] == [said(r)["number"] for r in news]
    assert [said(r)["id"] for r in olds] == [said(r)["id"] for r in news]
    assert [said(r)["version"] for r in olds] == [1, 1, 1]
    assert said(olds[0])["data"] == {"order_id": "o-1", "cents": 5, "cust": "ada"}
    assert olds[1].value == news[1].value and olds[2].value == news[2].value
    first = read_envelope(olds[0])
    assert first.digest == digest("order.placed", void=False, value=news[0].value)
    assert dict(olds[0].headers)["ce_residue"] == b'[["1.1",null,"USD"]]'


def test_without_residue_the_legacy_topic_tells_no_more_than_its_version(shop: Shop) -> None:
    shop.shop.legacy("orders.v1", of="orders", versions={"order.placed": 1}, residue=False)
    shop.emit(Placed2("o-1", Amount(5, "USD"), "ada"))
    assert drain(shop.shop) == []
    (copy,) = records(shop, "orders.v1")
    assert b"USD" not in repr(copy).encode()


def test_an_event_that_has_no_older_version_holds_its_key_in_all_topics(shop: Shop) -> None:
    shop.shop.legacy("orders.v1", of="orders", versions={"order.placed": 1})
    shop.emit(
        Placed1("o-1", 1, "ada"), placed3("o-1", 5, "a", "b"),
        Placed1("o-1", 3, "ada"), Placed1("o-2", 4, "bob"),
    )  # fmt: skip
    drain(shop.shop)
    for topic in ("orders", "orders.v1"):
        assert [said(r)["data"]["cents"] for r in by_key(shop, topic, "o-1")] == [1]
        assert [said(r)["data"]["cents"] for r in by_key(shop, topic, "o-2")] == [4]
    evolve("order.placed", 2, 3, split("customer", into=("first", "last")))
    shop.retry_refused()
    drain(shop.shop)
    assert [said(r)["number"] for r in by_key(shop, "orders.v1", "o-1")] == [1, 2, 3]
    assert said(by_key(shop, "orders.v1", "o-1")[1])["data"]["cust"] == "a b"


def by_key(shop: Shop, topic: str, key: str) -> list[Record]:
    return [r for r in records(shop, topic) if r.key == key.encode()]


def test_a_reader_of_both_topics_has_each_event_once(shop: Shop) -> None:
    shop.shop.legacy("orders.v1", of="orders", versions={"order.placed": 1})
    billing = shop.billing()
    billing.on(Placed2)(note)
    shop.emit(Placed2("o-1", Amount(5, "USD"), "ada"))
    assert drain(shop.shop, billing) == []
    (copy,) = records(shop, "orders.v1")
    log = open_log(shop.log)
    headers = [(name, value) for name, value in copy.headers]
    log.publish([Outgoing("orders", copy.key, copy.value, headers, copy.time_ms)], 5.0)
    log.close()
    assert drain(billing) == []  # a duplicate: not a fork, though its bytes are others
    assert shop.seen == [repr(Placed2("o-1", Amount(5, "USD"), "ada"))]


def test_copies_are_no_second_place_of_a_key_to_the_audit(shop: Shop) -> None:
    shop.shop.legacy("orders.v1", of="orders", versions={"order.placed": 1})
    billing = shop.billing()
    billing.on(event("order.placed", stream="orders.v1", key="order_id", version=1)(make_dataclass(
        "Old", [("order_id", str), ("cents", int), ("cust", str)],
    )))(note)  # fmt: skip
    shop.emit(*(Placed2("o-1", Amount(cents, "USD"), "ada") for cents in (5, 6)))
    assert (drain(shop.shop, billing), len(shop.seen)) == ([], 2)
    place, log = Place(shop.store, None, "oncebox", {}), open_log(shop.log)
    report = audit([Side(lambda work: place.at_desk("", work), log)], younger_s=-60.0)
    log.close()
    assert (report.clean, report.findings, report.records) == (True, [], 2)


def test_what_was_lost_comes_back_on_the_way_up(shop: Shop) -> None:
    shop.shop.legacy("orders.v1", of="orders", versions={"order.placed": 1})
    shop.emit(Placed2("o-1", Amount(5, "USD"), "ada"))
    assert drain(shop.shop) == []
    elsewhere = Service("elsewhere", store=shop.store, log=shop.log)
    elsewhere.on(On1)(note)
    assert drain(elsewhere) == []
    assert shop.seen == [repr(On1("o-1", Amount(5, "USD"), "ada"))]


# ---- the process


@pytest.fixture
def translating(shop: Shop, tmp_path: Path) -> Iterator[Service]:
    service = Service("translate", store=f"sqlite:///{tmp_path}/translate.db", log=shop.log)
    shop.migrate(service.store)
    log = open_log(shop.log)
    translator(service, Copies("orders", "orders.v1", {"order.placed": 1}), log)
    log.create("orders", 4)
    log.create("orders.v1", 4)
    yield service
    log.close()


def test_translate_copies_each_event_once_and_in_order(shop: Shop, translating: Service) -> None:
    sent = [Placed2(f"o-{n % 3}", Amount(n, "EUR"), "ada") for n in range(30)]
    shop.emit(*sent[:20], Other("o-1", 7))
    assert drain(shop.shop, translating) == []
    shop.emit(*sent[20:])
    assert drain(shop.shop, translating) == []
    for key in ("o-0", "o-1", "o-2"):
        news, olds = by_key(shop, "orders", key), by_key(shop, "orders.v1", key)
        assert [said(r)["id"] for r in olds] == [said(r)["id"] for r in news]
        assert {said(r)["version"] for r in olds} == {1}


def test_what_cannot_be_translated_waits_and_only_its_key(shop: Shop, translating: Service) -> None:
    shop.emit(
        Placed1("o-1", 1, "ada"), placed3("o-1", 5, "a", "b"),
        Placed1("o-1", 3, "ada"), Placed1("o-2", 4, "bob"),
    )  # fmt: skip
    (waiting,) = drain(shop.shop, translating)
    assert waiting.key == "o-1" and "deploy me" in str(waiting.reason)
    assert [said(r)["number"] for r in by_key(shop, "orders.v1", "o-1")] == [1]
    assert [said(r)["number"] for r in by_key(shop, "orders.v1", "o-2")] == [1]
    evolve("order.placed", 2, 3, split("customer", into=("first", "last")))
    assert main(["redrive", "translate.orders.v1", "--all", "--store", str(translating.store)]) == 0
    assert drain(shop.shop, translating) == []
    assert [said(r)["number"] for r in by_key(shop, "orders.v1", "o-1")] == [1, 2, 3]


def test_an_erased_event_is_erased_in_the_copy_too(shop: Shop, translating: Service) -> None:
    shop.emit(Placed2("o-1", Amount(5, "USD"), "ada"), Placed2("o-1", Amount(6, "USD"), "bob"))
    shop.erase("o-1", 1)
    assert drain(shop.shop, translating) == []
    first, second = by_key(shop, "orders.v1", "o-1")
    assert first.value is None and read_envelope(first).void
    assert said(second)["data"]["cents"] == 6


def test_a_store_that_is_the_log_is_refused(shop: Shop) -> None:
    service = Service("translate", store=shop.log, log=shop.log)
    log = open_log(shop.log)
    with pytest.raises(ConfigurationError, match="store of its own"):
        translator(service, Copies("orders", "orders.v1", {}), log)
    log.close()
    with pytest.raises(ConfigurationError, match="another topic"):
        Copies("orders", "orders", {})


def test_a_version_nobody_leads_to(shop: Shop) -> None:
    evolve("order.placed", 2, 3, rename("customer", "who"))
    shop.shop.legacy("old", of="orders", versions={"order.placed": 9})
    shop.emit(Placed1("o-1", 1, "ada"))
    drain(shop.shop)
    assert records(shop, "orders") == records(shop, "old") == []


@pytest.mark.parametrize("schema_id", [None, 7, UUID(int=7)], ids=["bare", "prefix", "header"])
@pytest.mark.parametrize("form", ["json", "avro", "protobuf"])
def test_a_copy_is_in_the_format_of_its_event(shop: Shop, form: Any, schema_id: Any) -> None:
    declare = partial(event, "order.weighed", stream="orders", key="order_id", format=form)
    older = declare(version=1)(make_dataclass("Weighed1", [("order_id", str), ("grams", int)]))
    newer = declare(version=2, schema_id=schema_id)(
        make_dataclass("Weighed2", [("order_id", str), ("weight", int)])
    )
    evolve("order.weighed", 1, 2, rename("grams", "weight"))
    shop.shop.legacy("orders.v1", of="orders", versions={"order.weighed": 1})
    shop.emit(newer("o-1", 7))
    billing = shop.billing()
    billing.on(older)(note)
    elsewhere = Service("elsewhere", store=shop.store, log=shop.log)
    declare_there = partial(event, "order.weighed", stream="orders.v1", key="order_id", format=form)
    elsewhere.on(
        declare_there(version=1)(make_dataclass("There", [*older.__annotations__.items()]))
    )(note)
    assert drain(shop.shop, billing) == [] == drain(elsewhere)
    (copy,) = records(shop, "orders.v1")
    content = dict(copy.headers)["content-type"] or b""
    assert content.decode().startswith(f"application/{form}")
    assert b"framing" not in content and b"guid" not in content and content.count(b";") <= 1
    assert HEADER not in dict(copy.headers)  # what a registry calls the newer version's schema
    if schema_id is not None and not isinstance(schema_id, int):
        assert HEADER in dict(records(shop, "orders")[0].headers)
    assert shop.seen == ["Weighed1(order_id='o-1', grams=7)", "There(order_id='o-1', grams=7)"]
