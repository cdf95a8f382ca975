"""Gaps that a consumer closes by itself: it asks the source's own outbox, on both stores."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from chains import SOURCE, TOPIC, Paid, World, make_store
from oncebox.consumer.batch import Batch
from oncebox.consumer.gaps import AGAIN_S, Gaps, asker
from oncebox.consumer.loop import ConsumerLoop
from oncebox.consumer.reading import know_subscriptions, take_in
from oncebox.errors import NotFound
from oncebox.operate.actions import accept, skip
from oncebox.operate.rewind import republish
from oncebox.outbox import PAGE_MAX, Envelopes, history
from oncebox.ports import Outgoing, Record
from oncebox.program import drive
from oncebox.service.service import Service
from oncebox.session import Session, Store
from oncebox.statements import statements
from oncebox.stores.postgres import PostgresStore
from oncebox.stores.sqlite import SqliteStore
from operating import desk_of, only, wait_list


class Shop:
    """A producer with a real outbox, in a store of its own (PostgreSQL: in the consumer's)."""

    def __init__(self, world: World, store: Store) -> None:
        self.world = world
        self.store = store
        self.service = Service("shop")
        self.session = cast("Session", store.open())
        self.sql = statements(store.dialect)

    def emit(self, key: str, *cents: int) -> list[Outgoing]:
        """Commit an event each; all of the key's records, as a relay would make them."""
        for one in cents:
            self.session.begin()
            self.service.emit(self.session.handle, Paid(key, one))
            self.session.commit()
        return self.records(key)

    def records(self, key: str) -> list[Outgoing]:
        found = drive(history(self.session, self.sql, SOURCE, key))
        return [as_outgoing(found.records[link[:2]]) for link in found.links]

    def deliver(self, *records: Outgoing) -> None:
        assert self.world.log.publish(records, 10.0) == []

    def run(self, sql: str) -> None:
        if self.store.dialect == "sqlite":
            sql = sql.replace("oncebox.", "oncebox_")
        self.session.run(sql)

    def forget_all(self) -> None:
        """As a restore to the state before the first event does."""
        if self.store.dialect == "sqlite":
            self.run("DROP TRIGGER oncebox_newest")  # so that nobody can do it by hand
        tables = ("event", "counter") if self.store.dialect == "sqlite" else (
            "event", "chain", "counter")  # fmt: skip
        for table in tables:
            self.run(f"DELETE FROM oncebox.{table}")


def as_outgoing(record: Record) -> Outgoing:
    return Outgoing(record.topic, record.key, record.value, record.headers, record.time_ms)


@pytest.fixture(autouse=True)
def pays(world: World) -> None:
    world.handles_paid()


@pytest.fixture
def shop(world: World, tmp_path: Path) -> Iterator[Shop]:
    store = world.store
    if world.store.dialect == "sqlite":
        (tmp_path / "shop").mkdir()
        store = make_store("sqlite", tmp_path / "shop", None)
    made = Shop(world, store)
    yield made
    made.session.close()


def gaps_of(loop: ConsumerLoop, shop: Shop) -> Gaps:
    return Gaps(loop.reading, {SOURCE: shop.store})


def fill(loop: ConsumerLoop, records: list[Record]) -> None:
    """What the consumer's loop does with what it got."""
    items, _ = take_in(loop.reading, records)
    outcome = drive(Batch(loop.reading, items, {}, {}, careful=True).run())
    loop.follow(outcome)


def late(world: World, seconds: float = 1.0) -> int:
    world.now_ms += int(seconds * 1000)
    return world.now_ms


def kinds(world: World) -> list[tuple[str, str]]:
    return [(one.key, one.kind) for one in wait_list(world)]


def test_missing_events_come_from_the_outbox(world: World, shop: Shop) -> None:
    a, b = shop.emit("a", 1, 2, 3, 4), shop.emit("b", 1, 2)
    shop.deliver(a[0], a[3], b[1])
    loop = world.settle()
    gaps = gaps_of(loop, shop)
    records = drive(gaps.close(late(world)))
    assert len(records) == 3
    fill(loop, records)
    assert world.of("a") == [1, 2, 3, 4]
    assert world.of("b") == [1, 2]
    assert kinds(world) == []
    assert drive(gaps.close(late(world))) == []
    shop.deliver(a[1], a[2], b[0])
    world.settle(loop)
    assert world.of("a") == [1, 2, 3, 4]
    drive(gaps.leave())


def test_an_event_that_kills_when_its_source_sends_it_is_found(world: World, shop: Shop) -> None:
    handler = world.consumer.handlers["order.paid"]

    def pay(tx: Any, paid: Paid) -> None:
        if paid.cents == 2:
            raise SystemExit(137)
        handler.function(tx, paid)

    world.consumer.handlers["order.paid"] = handler._replace(function=pay)
    a, b = shop.emit("a", 1, 2, 3), shop.emit("b", 1, 2, 3)
    shop.deliver(a[0], a[2], b[0], b[2])
    b_missing = b[1]

    asked: list[Gaps] = []

    def ask(loop: ConsumerLoop) -> None:
        loop.gaps = gaps_of(loop, shop)
        asked.append(loop.gaps)

    drive(world.settle().leave())
    shop.deliver(b_missing)
    world.lives(ask)
    for gaps in asked:
        drive(gaps.leave())
    assert world.of("a") == [1]
    assert "died" in world.parked()["a"][1]
    assert "died" in world.parked()["b"][1]


def test_an_event_that_is_a_little_late_is_not_asked_for(world: World, shop: Shop) -> None:
    a = shop.emit("a", 1, 2)
    shop.deliver(a[1])
    loop = world.settle()
    assert drive(gaps_of(loop, shop).close(world.now_ms)) == []


def test_a_source_with_another_history_is_a_fork(world: World, shop: Shop) -> None:
    a = shop.emit("a", 1, 2, 3)
    shop.deliver(a[0], a[2])
    loop = world.settle()
    shop.forget_all()
    shop.emit("a", 10, 20)
    gaps = gaps_of(loop, shop)
    assert drive(gaps.close(late(world))) == []
    assert kinds(world) == [("a", "fork")]
    assert world.of("a") == [1]
    done = drive(accept(desk_of(world), SOURCE, "a", asker(shop.session, shop.sql), None, ""))
    assert len(done.orphans) == 1
    world.after(2, loop)
    assert world.of("a") == [1, 10, 20]
    drive(gaps.leave())


def test_a_source_that_lost_the_key_is_a_fork(world: World, shop: Shop) -> None:
    a = shop.emit("a", 1, 2, 3)
    shop.deliver(a[0], a[2])
    loop = world.settle()
    shop.forget_all()
    gaps = gaps_of(loop, shop)
    assert drive(gaps.close(late(world))) == []
    assert kinds(world) == [("a", "fork")]
    drive(gaps.leave())


def test_what_retention_dropped_is_said_once_and_asked_for_again_later(
    world: World, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    a = shop.emit("a", 1, 2, 3, 4)
    shop.deliver(a[0], a[3])
    loop = world.settle()
    shop.run("DELETE FROM oncebox.event WHERE n <= 3")
    gaps = gaps_of(loop, shop)
    with caplog.at_level(logging.ERROR, "oncebox.gaps"):
        assert drive(gaps.close(late(world))) == []
        assert drive(gaps.close(late(world, 0.1))) == []
        assert drive(gaps.close(late(world, AGAIN_S))) == []
    assert len([r for r in caplog.records if "does not have them" in r.getMessage()]) == 1
    assert kinds(world) == [("a", "gap")]
    (late_one,) = gaps.late.values()
    assert late_one.tries == 2
    (one,) = wait_list(world)
    given = drive(skip(desk_of(world), one, asker(shop.session, shop.sql), ""))
    assert given == ("missing", 2, 3)
    world.after(2, loop)
    assert world.of("a") == [1, 4]
    drive(gaps.close(late(world)))
    assert gaps.late == {}
    drive(gaps.leave())


def test_a_key_of_which_everything_was_dropped_is_no_fork(world: World, shop: Shop) -> None:
    a = shop.emit("a", 1, 2, 3)
    shop.deliver(a[0], a[2])
    loop = world.settle()
    shop.emit("b", 1)  # the newest one of all stays
    shop.run("DELETE FROM oncebox.event WHERE key = 'a'")
    gaps = gaps_of(loop, shop)
    assert drive(gaps.close(late(world))) == []
    assert kinds(world) == [("a", "gap")]
    drive(gaps.leave())


def test_a_row_that_is_no_event_keeps_its_own_gap_open_only(
    world: World, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = shop.emit("a", 1, 2, 3), shop.emit("b", 1, 2, 3)
    shop.deliver(a[0], a[2], b[0], b[2])
    loop = world.settle()
    shop.run("""UPDATE oncebox.event SET attributes = '{"no": 5}' WHERE n = 2""")
    gaps = gaps_of(loop, shop)
    with caplog.at_level(logging.WARNING, "oncebox.gaps"):
        fill(loop, drive(gaps.close(late(world))))
    assert (world.of("a"), world.of("b")) == ([1], [1, 2, 3])
    assert kinds(world) == [("a", "gap")]
    assert "a row of the outbox is no event" in caplog.text
    drive(gaps.leave())


def test_a_source_that_is_down_disturbs_nobody(
    world: World, shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a = shop.emit("a", 1, 2, 3)
    shop.deliver(a[0], a[2])
    loop = world.settle()
    down: Any = SqliteStore(str(tmp_path / "no" / "such.db"))
    if world.store.dialect == "postgres":
        down = PostgresStore("postgresql://nobody@127.0.0.1:1/none")
    gaps = Gaps(loop.reading, {SOURCE: down})
    with caplog.at_level(logging.WARNING, "oncebox.gaps"):
        assert drive(gaps.close(late(world))) == []
        assert drive(gaps.close(late(world, 0.1))) == []
    assert len([r for r in caplog.records if "cannot ask" in r.getMessage()]) == 1
    gaps.stores = {SOURCE: shop.store}
    assert drive(gaps.close(late(world, 0.1))) == []
    records = drive(gaps.close(late(world, AGAIN_S)))
    fill(loop, records)
    assert world.of("a") == [1, 2, 3]
    drive(gaps.leave())


@only("postgres")
def test_a_source_that_somebody_has_locked_disturbs_nobody(world: World, shop: Shop) -> None:
    """The consumer waited for that lock, with all its partitions, for as long as it was held."""
    a = shop.emit("a", 1, 2, 3)
    shop.deliver(a[0], a[2])
    loop = world.settle(world.loop(handler_timeout_s=0.2))
    gaps = gaps_of(loop, shop)
    shop.session.begin()
    shop.run("lock table oncebox.chain")
    assert drive(gaps.close(late(world))) == []
    shop.session.rollback()
    drive(know_subscriptions(loop.reading))
    fill(loop, drive(gaps.close(late(world, AGAIN_S))))
    assert world.of("a") == [1, 2, 3]
    drive(gaps.leave())


def test_a_store_that_is_not_the_sources_is_never_believed(
    world: World, shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It knows nothing of the key, as a source that forgot everything: that would be a fork."""
    a = shop.emit("a", 1, 2, 3)
    shop.deliver(a[0], a[2])
    loop = world.settle()
    (tmp_path / "other").mkdir()
    other = make_store("sqlite", tmp_path / "other", None)
    gaps = Gaps(loop.reading, {SOURCE: other})
    with caplog.at_level(logging.WARNING, "oncebox.gaps"):
        assert drive(gaps.close(late(world))) == []
    assert "no such source" in caplog.text
    assert kinds(world) == [("a", "gap")]
    session = cast("Session", other.open())
    ask = asker(session, statements("sqlite"))
    with pytest.raises(NotFound, match="no such source"):
        drive(skip(desk_of(world), wait_list(world)[0], ask, ""))
    with pytest.raises(NotFound, match="no such source"):
        drive(accept(desk_of(world), SOURCE, "a", ask, None, ""))
    assert kinds(world) == [("a", "gap")]
    session.close()
    drive(gaps.leave())


def test_events_that_come_while_the_source_is_asked_are_no_fork(world: World, shop: Shop) -> None:
    """The source is read while the key's row is locked, so it has whatever is kept."""
    a = shop.emit("a", 1, 2, 3)
    shop.deliver(a[0], a[2])
    loop = world.settle()
    more = shop.emit("a", 4, 5)
    shop.deliver(more[4])
    world.settle(loop)
    gaps = gaps_of(loop, shop)
    records = drive(gaps.close(late(world)))
    fill(loop, records)
    assert world.of("a") == [1, 2, 3]
    records = drive(gaps.close(late(world)))
    fill(loop, records)
    assert world.of("a") == [1, 2, 3, 4, 5]
    drive(gaps.leave())


# ---- republish


def test_republish_fills_a_gap(world: World, shop: Shop) -> None:
    a = shop.emit("a", 1, 2, 3, 4)
    shop.deliver(a[0], a[3])
    loop = world.settle()
    again = republish(shop.session, shop.sql, world.log, SOURCE, "a", (2, 3), dry_run=True)
    assert drive(again) == [2, 3]
    world.settle(loop)
    assert world.of("a") == [1]
    drive(republish(shop.session, shop.sql, world.log, SOURCE, "a", (2, 3), dry_run=False))
    world.settle(loop)
    assert world.of("a") == [1, 2, 3, 4]
    done = republish(shop.session, shop.sql, world.log, SOURCE, "a", (1, None), dry_run=False)
    assert drive(done) == [1, 2, 3, 4]
    world.settle(loop)
    assert world.of("a") == [1, 2, 3, 4]
    assert world.count("duplicates") == 4


def test_republish_of_what_is_not_there(world: World, shop: Shop) -> None:
    shop.emit("a", 1)
    args = (shop.session, shop.sql, world.log, SOURCE)
    assert drive(republish(*args, "b", (1, None), dry_run=False)) == []
    assert drive(republish(*args, "a", (2, None), dry_run=False)) == []
    with pytest.raises(NotFound, match=f"no source /other/orders; expected {SOURCE}"):
        drive(republish(*args[:3], "/other/orders", "a", (1, None), dry_run=False))


def test_republish_tells_how_far_it_is(world: World, shop: Shop) -> None:
    count = PAGE_MAX + 3
    shop.session.begin()
    for n in range(count):
        shop.service.emit(shop.session.handle, Paid("a", n))
    shop.session.commit()
    told: list[tuple[int, int]] = []
    args = (shop.session, shop.sql, world.log, SOURCE, "a", (1, None))
    drive(republish(*args, dry_run=False, told=lambda done, total: told.append((done, total))))
    assert told[-1] == (count, count)
    assert [total for _, total in told] == [count] * len(told)
    assert len(told) > 1


def test_records_of_the_outbox_are_those_of_the_relay(shop: Shop) -> None:
    """What is asked for, republished and relayed is one and the same record."""
    (record,) = shop.emit("a", 1)
    located = drive(history(shop.session, shop.sql, SOURCE, "a"))
    assert record.topic == TOPIC
    assert Envelopes({}).topic(SOURCE) == TOPIC
    assert [link.sequence for link in located.links] == [1]
