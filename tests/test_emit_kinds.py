"""Emit and claim on every kind of connection: what they write exists if its commit does.

The contract is written once; `kinds.py` says how each kind begins, sets a savepoint and ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from engines.postgres import Postgres
from kinds import KINDS, Kind
from oncebox.emit import Emitted, Emitter
from oncebox.errors import MissingTables, NoTransaction
from oncebox.event import event
from oncebox.inbox import claim
from oncebox.program import Program, call
from tables import Tables


@event("order.placed", stream="orders", key="order_id", version=3)
@dataclass(frozen=True)
class OrderPlaced:
    order_id: str
    cents: int = 0


@event("refund.made", stream="refunds", key="refund_id")
@dataclass(frozen=True)
class RefundMade:
    refund_id: str


@event("site.visited", stream="visits", key=None)
@dataclass(frozen=True)
class SiteVisited:
    page: str


class Shop(Emitter):
    name, instance, schema = "shop", None, "oncebox"


shop = Shop()


@pytest.fixture(scope="module")
def postgres_tables(postgres_server: Postgres) -> Iterator[Tables]:
    with postgres_server.database() as url:
        made = Tables("postgres", url)
        yield made
        made.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    made = KINDS[request.param]
    if made.dialect == "sqlite":
        return made(str(tmp_path / "shop.db"))
    return made(request.getfixturevalue("postgres_tables").place)


@pytest.fixture
def tables(kind: Kind, request: pytest.FixtureRequest) -> Iterator[Tables]:
    if kind.dialect == "sqlite":
        made = Tables("sqlite", kind.place)
        yield made
        made.close()
    else:
        made = request.getfixturevalue("postgres_tables")
        made.clear()
        yield made


def emitting(kind: Kind, event: object, after: Emitted | None = None) -> Program[Emitted]:
    """Emit as a user of this kind would."""
    emitted: Emitted = yield from call(lambda: shop.emit(kind.tx, event, after=after))
    return emitted


def test_committed_with_the_users_rows(kind: Kind, tables: Tables) -> None:
    def body() -> Program[None]:
        yield from call(kind.begin)
        yield from call(kind.run, "insert into shop values (1, null)")
        first = yield from emitting(kind, OrderPlaced("a", 1))
        yield from emitting(kind, OrderPlaced("b", 2))
        yield from emitting(kind, SiteVisited("/"))
        assert tables.events() == []
        yield from call(kind.commit)
        assert first.source == "/shop/orders"
        assert first.key == "a"
        assert first.id.version == 7
        yield from call(kind.begin)
        yield from emitting(kind, OrderPlaced("a", 3))
        yield from call(kind.commit)
        ids = tables.run("select id from oncebox.event order by n")
        assert str(ids[0][0]) == str(first.id)

    kind.go(body)
    assert tables.events() == [("a", 1), ("b", 1), (None, None), ("a", 2)]
    assert tables.counters() == {"a": 2, "b": 1}
    assert tables.shop() == [1]


def test_rollback_leaves_neither_event_nor_number(kind: Kind, tables: Tables) -> None:
    def body() -> Program[None]:
        yield from call(kind.begin)
        yield from call(kind.run, "insert into shop values (1, null)")
        yield from emitting(kind, OrderPlaced("a"))
        yield from call(kind.rollback)
        assert tables.events() == []
        assert tables.counters() == {}
        yield from call(kind.begin)
        yield from emitting(kind, OrderPlaced("a"))
        yield from call(kind.commit)

    kind.go(body)
    assert tables.events() == [("a", 1)]
    assert tables.shop() == []


def test_a_savepoint_undone_leaves_neither(kind: Kind, tables: Tables) -> None:
    def body() -> Program[None]:
        yield from call(kind.begin)
        yield from emitting(kind, OrderPlaced("a"))
        yield from call(kind.savepoint)
        yield from emitting(kind, OrderPlaced("a"))
        yield from emitting(kind, OrderPlaced("b"))
        yield from call(kind.undo)
        yield from emitting(kind, OrderPlaced("a"))
        yield from call(kind.commit)

    kind.go(body)
    assert tables.events() == [("a", 1), ("a", 2)]
    assert tables.counters() == {"a": 2}


def test_a_failed_commit_leaves_neither(kind: Kind, tables: Tables) -> None:
    def body() -> Program[None]:
        yield from call(kind.begin)
        yield from emitting(kind, OrderPlaced("a"))
        yield from call(kind.run, "insert into shop values (1, 99)")
        with pytest.raises(Exception, match=r"(?i)foreign key"):
            yield from call(kind.commit)
        yield from call(kind.rollback)
        assert tables.events() == []
        yield from call(kind.begin)
        yield from emitting(kind, OrderPlaced("a"))
        yield from call(kind.commit)

    kind.go(body)
    assert tables.events() == [("a", 1)]
    assert tables.shop() == []


def test_outside_a_transaction_it_says_how_to_open_one(kind: Kind, tables: Tables) -> None:
    def body() -> Program[None]:
        outside = kind.outside()
        if outside is None:  # this kind begins one by itself
            return
        with pytest.raises(NoTransaction) as refused:
            yield from call(lambda: shop.emit(outside, OrderPlaced("a")))
        with pytest.raises(NoTransaction):
            yield from call(lambda: claim(outside, "billing", source="stripe", id="evt_1"))
        with pytest.raises(NoTransaction):
            yield from call(lambda: shop.emit_many(outside, [OrderPlaced("a")]))
        if outside is not kind.tx:
            yield from call(outside.close)
        assert kind.hint in str(refused.value)

    kind.go(body)
    assert tables.events() == []


def test_many_in_one_statement_keep_their_order(kind: Kind, tables: Tables) -> None:
    events: list[object] = [OrderPlaced(key, n) for n in range(5) for key in "ba"]
    events.append(SiteVisited("/"))

    def body() -> Program[None]:
        yield from call(kind.begin)
        emitted = yield from call(lambda: shop.emit_many(kind.tx, events))
        assert [e.key for e in emitted] == [*("ba" * 5), None]
        assert (yield from call(lambda: shop.emit_many(kind.tx, []))) == []
        yield from call(kind.commit)

    kind.go(body)
    assert tables.counters() == {"a": 5, "b": 5}
    assert sorted(tables.events(), key=str) == sorted(
        [(key, n) for n in range(1, 6) for key in "ba"] + [(None, None)], key=str
    )
    numbers = tables.events()
    assert [n for key, n in numbers if key == "a"] == [1, 2, 3, 4, 5]


def test_after_names_an_event_of_the_same_transaction(kind: Kind, tables: Tables) -> None:
    def body() -> Program[None]:
        yield from call(kind.begin)
        payment = yield from emitting(kind, OrderPlaced("a"))
        yield from emitting(kind, RefundMade("r"), after=payment)
        yield from call(
            lambda: shop.emit_many(kind.tx, [RefundMade("s"), OrderPlaced("a")], after=payment)
        )
        yield from call(kind.commit)

    kind.go(body)
    (first, none), (_, also_none) = tables.stamps("a")
    assert none is None
    assert also_none is None  # its own key is in order anyway
    assert [after for _, after in tables.stamps("r") + tables.stamps("s")] == [first, first]


def test_missing_tables_say_so(kind: Kind, tables: Tables) -> None:
    class Elsewhere(Emitter):
        name, instance, schema = "shop", None, "elsewhere"

    def attempt() -> Program[None]:
        yield from call(lambda: Elsewhere().emit(kind.tx, OrderPlaced("a")))
        assert kind.late
        yield from call(kind.commit)

    def body() -> Program[None]:
        yield from call(kind.begin)
        with pytest.raises((MissingTables, psycopg.errors.UndefinedTable)) as failed:
            yield from attempt()
        assert kind.late or "oncebox db migrate" in str(failed.value)
        yield from call(kind.rollback)

    kind.go(body)


def test_the_users_cursors_and_settings_stay_as_they_are(kind: Kind, tables: Tables) -> None:
    def body() -> Program[None]:
        yield from call(kind.begin)
        yield from call(kind.run, "insert into shop values (1, null), (2, null), (3, null)")
        before = settings_of(kind.tx)
        yield from emitting(kind, OrderPlaced("a"))
        assert settings_of(kind.tx) == before
        yield from call(kind.rollback)

    kind.go(body)


def settings_of(tx: object) -> dict[str, object]:
    names = (
        "row_factory",
        "cursor_factory",
        "isolation_level",
        "prepare_threshold",
        "autocommit",
        "text_factory",
    )
    return {name: getattr(tx, name) for name in names if hasattr(tx, name)}


# ---- claim


def claiming(kind: Kind, id: str) -> Program[bool]:
    """Claim as a user of this kind would."""
    answer: bool = yield from call(lambda: claim(kind.tx, "billing", source="stripe", id=id))
    return answer


def test_claims_are_made_once(kind: Kind, tables: Tables) -> None:
    def body() -> Program[None]:
        yield from call(kind.begin)
        assert (yield from claiming(kind, "evt_1")) is True
        assert (yield from claiming(kind, "evt_1")) is False
        assert (yield from claiming(kind, "evt_2")) is True
        yield from call(kind.commit)
        yield from call(kind.begin)
        assert (yield from claiming(kind, "evt_2")) is False
        yield from call(kind.commit)

    kind.go(body)
    assert tables.claims() == ["evt_1", "evt_2"]


def test_a_claim_rolled_back_was_never_made(kind: Kind, tables: Tables) -> None:
    def body() -> Program[None]:
        yield from call(kind.begin)
        yield from call(kind.run, "insert into shop values (1, null)")
        assert (yield from claiming(kind, "evt_1")) is True
        yield from call(kind.rollback)
        assert tables.claims() == []
        yield from call(kind.begin)
        assert (yield from claiming(kind, "evt_1")) is True
        yield from call(kind.run, "insert into shop values (2, 99)")
        with pytest.raises(Exception, match=r"(?i)foreign key"):
            yield from call(kind.commit)
        yield from call(kind.rollback)

    kind.go(body)
    assert tables.claims() == []
    assert tables.shop() == []
