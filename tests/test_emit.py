"""Emit itself: what is written, how much it costs on the wire, and what it refuses."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pydantic
import pytest
from opentelemetry import trace

from oncebox import emit as emit_module
from oncebox.emit import Emitted, Emitter
from oncebox.envelope import VALUE_BYTES_MAX, Reference
from oncebox.errors import BadEvent, ConfigurationError, MissingTables, NoTransaction
from oncebox.event import KEY_BYTES_MAX, event
from tables import Tables


@event("order.placed", stream="orders", key="order_id", version=3)
@dataclass(frozen=True)
class OrderPlaced:
    order_id: Any
    cents: Any = 0


@event("stock.moved", stream="stock", key=("house", "item"))
class StockMoved(pydantic.BaseModel):
    house: UUID
    item: int


@event("site.visited", stream="visits", key=None)
@dataclass(frozen=True)
class SiteVisited:
    page: str


class Shop(Emitter):
    name, instance, schema = "shop", None, "oncebox"


class Shard(Emitter):
    name, instance, schema = "shop", "eu-1", "oncebox"


shop = Shop()


@pytest.fixture(params=["sqlite", "postgres"])
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tables]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    made = Tables(request.param, url or str(tmp_path / "shop.db"))
    yield made
    made.close()


@pytest.fixture
def tx(tables: Tables) -> Iterator[Any]:
    if tables.dialect == "sqlite":
        connection: Any = sqlite3.connect(tables.place, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
    else:
        connection = psycopg.connect(tables.place)
    yield connection
    connection.close()


def test_what_is_written(tables: Tables, tx: Any) -> None:
    emitted = shop.emit(tx, OrderPlaced("o-1", 1250))
    moved = Shard().emit(tx, StockMoved(house=UUID(int=1), item=7))
    visited = shop.emit(tx, SiteVisited("/"))
    tx.commit()
    rows = tables.run(
        "select e.id, e.source, e.type, e.version, e.key, e.data, e.content_type, e.attributes"
        " from oncebox.event e order by e.n"
    )
    house = "00000000-0000-0000-0000-000000000001"
    assert [(str(row[0]), *row[1:5], json.loads(row[5]), *row[6:]) for row in rows] == [
        (str(emitted.id), "/shop/orders", "order.placed", 3, "o-1",
         {"order_id": "o-1", "cents": 1250}, None, None),
        (str(moved.id), "/shop/eu-1/stock", "stock.moved", 1, f"{house}/7",
         {"house": house, "item": 7}, None, None),
        (str(visited.id), "/shop/visits", "site.visited", 1, None, {"page": "/"}, None, None),
    ]  # fmt: skip
    assert moved == Emitted(moved.id, "/shop/eu-1/stock", f"{house}/7")
    assert emitted.id.version == 7
    assert emitted.id < moved.id < visited.id


def test_the_current_trace_travels_along(tables: Tables, tx: Any) -> None:
    context = trace.SpanContext(
        trace_id=0x4BF92F3577B34DA6A3CE929D0E0E4736,
        span_id=0x00F067AA0BA902B7,
        is_remote=False,
        trace_flags=trace.TraceFlags(1),
    )
    with trace.use_span(trace.NonRecordingSpan(context)):
        shop.emit(tx, OrderPlaced("a"))
        shop.emit_many(tx, [OrderPlaced("b")])
    shop.emit(tx, OrderPlaced("c"))
    tx.commit()
    found = tables.run("select attributes from oncebox.event order by n")
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    told = [row if row is None or isinstance(row, dict) else json.loads(row) for (row,) in found]
    assert told == [{"traceparent": parent}, {"traceparent": parent}, None]


def test_after_a_reference_of_another_service(tables: Tables, tx: Any) -> None:
    """It carries its stamp, so nothing of it has to be here."""
    elsewhere = Reference("/bank/payments", "p-1", 2**60)
    shop.emit(tx, OrderPlaced("a"), after=elsewhere)
    tx.commit()
    assert [after for _, after in tables.stamps("a")] == [2**60]


def test_after_an_event_that_is_not_here(tables: Tables, tx: Any) -> None:
    gone = Emitted(UUID(int=1), "/shop/payments", "p-1")
    if tables.dialect == "sqlite":
        with pytest.raises(BadEvent, match="after= names"):
            shop.emit(tx, OrderPlaced("a"), after=gone)
    else:
        shop.emit(tx, OrderPlaced("a"), after=gone)
        with pytest.raises(psycopg.errors.ForeignKeyViolation, match="after= names"):
            tx.commit()
    tx.rollback()
    assert tables.events() == []


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: "no event", "str is not an event class"),
    (lambda: OrderPlaced("o", object()), r"OrderPlaced at \$\.cents: a object"),
    (lambda: OrderPlaced("o", float("inf")), r"OrderPlaced at \$\.cents: inf"),
    (lambda: OrderPlaced("o", "x" * VALUE_BYTES_MAX), f"at most {VALUE_BYTES_MAX}"),
    (lambda: OrderPlaced(""), "order.placed, field order_id: key '' is empty"),
    (lambda: OrderPlaced(1.5), "order.placed, field order_id: key 1.5 is a float"),
    (lambda: OrderPlaced(None), "order.placed, field order_id: key None is a NoneType"),
    (lambda: OrderPlaced("a\0b"), "field order_id: key 'a\\\\x00b' holds NUL"),
    (lambda: OrderPlaced("\ud800"), "is not UTF-8"),
    (lambda: OrderPlaced("x" * (KEY_BYTES_MAX + 1)), f"1 to {KEY_BYTES_MAX} bytes"),
    (lambda: OrderPlaced("ü" * (KEY_BYTES_MAX // 2 + 1)), f"1 to {KEY_BYTES_MAX} bytes"),
]


@pytest.mark.parametrize(("make", "says"), BAD)
def test_what_is_no_event_is_refused_by_name(tmp_path: Path, make: Any, says: str) -> None:
    tables = Tables("sqlite", str(tmp_path / "shop.db"))
    tables.connection.execute("BEGIN")
    with pytest.raises(BadEvent, match=says):
        shop.emit(tables.connection, make())
    with pytest.raises(BadEvent, match=says):
        shop.emit_many(tables.connection, [OrderPlaced("fine"), make()])
    assert tables.events() == []  # of the many, none
    tables.close()


def test_keys_at_their_bounds(tables: Tables, tx: Any) -> None:
    keys = ["x" * KEY_BYTES_MAX, "ü" * (KEY_BYTES_MAX // 2), "quote ' \" \\ %s $1 ?", " ", "\t\n"]
    for key in keys:
        shop.emit(tx, OrderPlaced(key))
    shop.emit(tx, OrderPlaced(12))
    tx.commit()
    assert sorted(tables.counters()) == sorted([*keys, "12"])


def test_only_keyed_events_can_be_waited_for(tables: Tables, tx: Any) -> None:
    visited = shop.emit(tx, SiteVisited("/"))
    with pytest.raises(BadEvent, match="without a key"):
        shop.emit(tx, OrderPlaced("a"), after=visited)


@pytest.mark.parametrize("tx", [None, "sqlite:///shop.db", object(), sqlite3])
def test_what_is_no_connection(tx: Any) -> None:
    with pytest.raises(ConfigurationError, match="is no database connection") as refused:
        shop.emit(tx, OrderPlaced("a"))
    assert "psycopg" in str(refused.value.expected)


def test_missing_tables_say_so(postgres_url: str) -> None:
    with sqlite3.connect(":memory:") as empty:
        with pytest.raises(MissingTables, match="oncebox db migrate"):
            shop.emit(empty, OrderPlaced("a"))
        with pytest.raises(MissingTables, match="oncebox db migrate"):
            shop.emit_many(empty, [OrderPlaced("a")])
    empty.close()
    with psycopg.connect(postgres_url) as nothing:
        with pytest.raises(MissingTables, match="oncebox db migrate"):
            shop.emit(nothing, OrderPlaced("a"))
        nothing.rollback()


def test_a_schema_of_another_name(tmp_path: Path) -> None:
    class Other(Emitter):
        name, instance, schema = "shop", None, "events_of_shop"

    connection = sqlite3.connect(tmp_path / "shop.db")
    with pytest.raises(MissingTables, match="events_of_shop_event"):
        Other().emit(connection, OrderPlaced("a"))
    connection.close()


def test_large_batches_go_in_several_statements(
    tables: Tables, tx: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emit_module, "EMIT_COUNT_MAX", 7)
    monkeypatch.setattr(emit_module, "EMIT_BYTES_MAX", 2_000)
    events = [OrderPlaced("a", "x" * 800 if n == 10 else n) for n in range(20)]
    events += [OrderPlaced("b", "y" * 3_000), OrderPlaced("b", "z" * 3_000)]
    assert len(shop.emit_many(tx, events)) == 22
    tx.commit()
    found = tables.run("select data from oncebox.event order by n")
    assert [json.loads(data)["cents"] for (data,) in found] == [e.cents for e in events]
    assert tables.counters() == {"a": 20, "b": 2}


# ---- what goes over the wire


class Wire:
    """What libpq sends on a connection, by message name."""

    def __init__(self, connection: psycopg.Connection[Any], path: Path) -> None:
        self.connection = connection
        self.path = path

    def sent(self, work: Callable[[], object]) -> list[str]:
        with self.path.open("w+b") as file:
            self.connection.pgconn.trace(file.fileno())
            work()
            self.connection.pgconn.untrace()
        return re.findall(r"\tF\t\d+\t(\w+)", self.path.read_text())


def test_one_round_trip_on_postgres(postgres_url: str, tmp_path: Path) -> None:
    tables = Tables("postgres", postgres_url)
    with psycopg.connect(postgres_url) as tx:
        tx.execute("select 1")
        wire = Wire(tx, tmp_path / "wire")
        for work in (
            lambda: shop.emit(tx, OrderPlaced("a")),
            lambda: shop.emit_many(tx, [OrderPlaced("a"), OrderPlaced("b")]),
        ):
            assert wire.sent(work).count("Sync") == 1
        with tx.pipeline() as pipeline:
            pipeline.sync()
            assert "Sync" not in wire.sent(lambda: shop.emit(tx, OrderPlaced("a")))
            assert "Sync" not in wire.sent(lambda: shop.emit_many(tx, [OrderPlaced("b")]))
        tx.rollback()
        with tx.pipeline(), tx.transaction():
            shop.emit(tx, OrderPlaced("a"))
            tx.execute("insert into shop values (1, null)")
            shop.emit(tx, OrderPlaced("a"))
    assert tables.events() == [("a", 1), ("a", 2)]
    tables.close()


def test_a_pipeline_is_no_transaction(postgres_url: str) -> None:
    """On an autocommit connection, each sync commits what was sent before it."""
    tables = Tables("postgres", postgres_url)
    with psycopg.connect(postgres_url, autocommit=True) as tx, tx.pipeline():
        with pytest.raises(NoTransaction):
            shop.emit(tx, OrderPlaced("a"))
        tx.execute("select 1")
        with pytest.raises(NoTransaction, match=r"with connection\.transaction"):
            shop.emit(tx, OrderPlaced("a"))
    assert tables.events() == []
    tables.close()


def test_an_open_cursor_of_the_users_goes_on(tables: Tables, tx: Any) -> None:
    tx.execute("insert into shop values (1, null), (2, null), (3, null)")
    cursor = tx.execute("select id from shop order by id")
    assert cursor.fetchone() == (1,)
    shop.emit(tx, OrderPlaced("a"))
    assert cursor.fetchall() == [(2,), (3,)]


def test_prepared_statements_follow_the_connections_setting(postgres_url: str) -> None:
    tables = Tables("postgres", postgres_url)
    with psycopg.connect(postgres_url, prepare_threshold=None) as tx:
        for _ in range(10):
            shop.emit(tx, OrderPlaced("a"))
        assert tx.execute("select count(*) from pg_prepared_statements").fetchone() == (0,)
        assert tx.prepare_threshold is None
    tables.close()


def test_importing_emit_loads_no_engine_and_no_event_loop() -> None:
    program = (
        "import sys, oncebox.emit, oncebox.inbox\n"
        "heavy = {'sqlite3', 'aiosqlite', 'psycopg', 'asyncpg', 'sqlalchemy', 'django',"
        " 'pydantic', 'opentelemetry', 'asyncio'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
