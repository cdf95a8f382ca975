"""Events in Avro and Protobuf, from emit to the handler: the real outbox, relay and consumer."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import psycopg
import pytest
from pydantic import BaseModel

from oncebox import BadEvent, Service, event, evolve, rename
from oncebox.codecs.events import event_codec, fingerprint, format_of
from oncebox.envelope import read_envelope
from oncebox.errors import MissingDependency
from oncebox.event import EventType, event_type
from oncebox.lens.chain import declared
from oncebox.program import drive
from oncebox.schema import Digits
from oncebox.schema.derive import schema_of
from oncebox.service.connect import open_log
from oncebox.service.running import check_versions
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate
from oncebox.testing import deliver, drain, emitted
from oncebox.testing.log_tools import everything

Format = Literal["json", "avro", "protobuf"]


@dataclass(frozen=True)
class Line:
    sku: str
    count: int = 1


def order_class(format: Format, version: int = 1) -> Any:
    @event("codecs.placed", stream="codecs", key="order_id", version=version, format=format)
    @dataclass(frozen=True)
    class Placed:
        order_id: str
        at: Annotated[datetime, msgspec.Meta(tz=True)]
        total: Annotated[Decimal, Digits(10, 2)]
        lines: list[Line]
        note: str | None = None

    return Placed


def order(cls: Any, id: str = "o-1") -> Any:
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    return cls(id, at, Decimal("12.50"), [Line("a"), Line("b", 2)])


class Shop:
    """A producer and a consumer on SQLite, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.store, self.log = f"sqlite:///{folder}/store.db", f"sqlite:///{folder}/log.db"
        self.path = folder / "store.db"
        self.shop = Service("shop", store=self.store, log=self.log)
        self.billing = Service("billing", store=self.store, log=self.log)
        session = drive(_open(open_store(self.store)))
        drive(migrate(session))
        session.close()
        self.seen: list[Any] = []

    def emit(self, *events: object) -> None:
        with closing(sqlite3.connect(self.path)) as tx:
            tx.execute("BEGIN")
            self.shop.emit_many(tx, events)
            tx.commit()

    def on(self, cls: Any) -> None:
        self.billing.on(cls)(self.handle)

    def handle(self, tx: Any, placed: Any) -> None:
        self.seen.append(placed)

    def waits(self) -> list[str]:
        """Why keys wait, when all that can be done is done."""
        return [str(one.reason) for one in drain(self.shop, self.billing)]

    def records(self) -> list[Any]:
        """What stands in the log."""
        log = open_log(self.log)
        try:
            return everything(log, "codecs")
        finally:
            log.close()


def _open(store: Any) -> Any:
    session = yield store.open, ()
    return session


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_an_event_comes_to_its_handler_in_any_format(shop: Shop, format: Format) -> None:
    cls = order_class(format)
    shop.on(cls)
    shop.emit(order(cls), order(cls, "o-2"))
    assert drain(shop.shop, shop.billing) == []
    assert shop.seen == [order(cls), order(cls, "o-2")]


@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_a_pydantic_model_too(shop: Shop, format: Format) -> None:
    @event("codecs.placed", stream="codecs", key="order_id", format=format)
    class Placed(BaseModel):
        order_id: str
        total: Annotated[Decimal, Digits(10, 2)]
        note: str | None = None

    shop.on(Placed)
    placed = Placed(order_id="o-1", total=Decimal("12.50"))
    shop.emit(placed)
    assert drain(shop.shop, shop.billing) == []
    assert shop.seen == [placed]


@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_the_envelope_says_format_and_version(shop: Shop, format: Format) -> None:
    cls = order_class(format)
    shop.on(cls)
    shop.emit(order(cls))
    drain(shop.shop, shop.billing)
    (record,) = shop.records()
    headers = dict(record.headers)
    said = f"application/{format}; schema={fingerprint(schema_of(cls))}"
    assert headers["content-type"] == said.encode()
    assert headers["ce_dataschema"] == b"oncebox:codecs.placed/1"
    assert read_envelope(record).content_type == said
    assert b"{" not in record.value


def test_json_is_as_it_was(shop: Shop) -> None:
    cls = order_class("json")
    shop.on(cls)
    shop.emit(order(cls))
    drain(shop.shop, shop.billing)
    (record,) = shop.records()
    assert dict(record.headers)["content-type"] == b"application/json"
    assert record.value.startswith(b'{"order_id":"o-1"')


def test_who_handles_need_not_write_what_is_read(shop: Shop) -> None:
    shop.on(order_class("json"))
    avro, protobuf = order_class("avro"), order_class("protobuf")
    shop.emit(order(avro), order(protobuf), order(order_class("json")))
    assert drain(shop.shop, shop.billing) == []
    assert len(shop.seen) == 3
    assert len({repr(one) for one in shop.seen}) == 1


@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_another_version_is_read_by_its_own_schema(shop: Shop, format: Format) -> None:
    before = dict(declared.edges)
    try:
        evolve("codecs.moved", 1, 2, rename("cust", "customer"))

        @event("codecs.moved", stream="codecs", key="id", version=1, format=format)
        @dataclass(frozen=True)
        class Moved1:
            id: str
            cust: str

        @event("codecs.moved", stream="codecs", key="id", version=2)
        @dataclass(frozen=True)
        class Moved2:
            id: str
            customer: str

        shop.on(Moved2)
        shop.emit(Moved1("m-1", "ada"))
        assert drain(shop.shop, shop.billing) == []
        assert shop.seen == [Moved2("m-1", "ada")]
    finally:
        declared.edges.clear()
        declared.edges.update(before)
        declared.forget()


@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_two_schemas_of_one_version_are_found_out(shop: Shop, format: Format) -> None:
    theirs = order_class(format)

    @event("codecs.placed", stream="codecs", key="order_id")
    @dataclass(frozen=True)
    class Mine:
        order_id: str
        total: Annotated[Decimal, Digits(10, 3)]

    shop.emit(order(theirs))
    shop.on(Mine)
    (why,) = shop.waits()
    assert "by another schema of that version" in why
    assert shop.seen == []


def test_what_a_schema_does_not_allow_is_not_emitted(shop: Shop) -> None:
    cls = order_class("avro")
    bad = cls("o-1", datetime(2026, 1, 31, tzinfo=UTC), Decimal("12.505"), [])
    with pytest.raises(BadEvent, match=r"\$\.total: .* 2 behind the point"):
        shop.emit(bad)


@pytest.mark.parametrize("format", ["avro", "protobuf"])
def test_the_helpers_for_tests_know_formats(shop: Shop, format: Format) -> None:
    cls = order_class(format)
    shop.on(cls)
    deliver(shop.billing, order(cls))
    assert shop.seen == [order(cls)]
    shop.emit(order(cls))
    with closing(sqlite3.connect(shop.path)) as tx:
        (one,) = emitted(tx)
    assert one.data["total"] == "12.50"
    assert one.data["lines"][1] == {"sku": "b", "count": 2}


def test_content_types() -> None:
    assert format_of("application/json; charset=utf-8") == ("json", "")
    assert format_of("Application/Avro; schema=00ff") == ("avro", "00ff")
    assert format_of("application/x-protobuf") == ("protobuf", "")
    assert format_of("text/plain") == ("json", "")


def test_a_fingerprint_is_of_what_is_written() -> None:
    one, other = order_class("avro"), order_class("protobuf")
    assert fingerprint(schema_of(one)) == fingerprint(schema_of(other))
    assert event_codec(event_type(one)).content.endswith(fingerprint(schema_of(one)))
    assert isinstance(event_type(one), EventType)


def test_formats_in_one_transaction_on_postgres(postgres_url: str, tmp_path: Path) -> None:
    session = drive(_open(open_store(postgres_url)))
    drive(migrate(session))
    session.close()
    log = f"sqlite:///{tmp_path}/log.db"
    shop: Service[Any] = Service("shop", store=postgres_url, log=log)
    classes = [order_class("json"), order_class("avro"), order_class("protobuf")]
    seen: list[Any] = []

    @shop.on(classes[0])
    def handle(tx: Any, placed: Any) -> None:
        seen.append(placed)

    with psycopg.connect(postgres_url) as tx:
        shop.emit_many(tx, [order(cls, f"o-{n}") for n, cls in enumerate(classes)])
        shop.emit(tx, order(classes[1], "o-9"))
        assert [one.data["total"] for one in emitted(tx)] == ["12.50"] * 4
    assert drain(shop) == []
    assert sorted(one.order_id for one in seen) == ["o-0", "o-1", "o-2", "o-9"]
    assert len({one.total for one in seen}) == 1


def test_a_consumer_does_not_start_without_its_formats_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It did, and parked each event."""

    @event("codecs.bare", stream="codecs", key="id", format="avro")
    @dataclass(frozen=True)
    class Bare:
        id: str

    shop = Service("shop", store="sqlite:///x", log="sqlite:///x")

    @shop.on(Bare)
    def take(tx: Any, bare: Bare) -> None: ...

    monkeypatch.setitem(sys.modules, "fastavro", None)
    with pytest.raises(MissingDependency, match=r"oncebox\[avro\]"):
        check_versions(shop)
