"""Having events come again: replays, and rebuilds with what they leave out."""

from __future__ import annotations

from typing import Any

import pytest

from chains import TOPIC, Noted, Opened, Paid, World
from oncebox.consumer.reading import take_in
from oncebox.context import Context
from oncebox.errors import NotFound, Refused
from oncebox.operate.quarantine import TakenIn
from oncebox.operate.rewind import finish, prepare, rebuild, replay
from oncebox.operate.summary import summary
from oncebox.program import drive
from oncebox.service.service import Service
from operating import desk_of, only, rebuild_waiting, wait_list, world_record


def test_a_replay_changes_no_state(world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1, 2, 3))
    loop = world.settle()
    seen = drive(replay(desk_of(world), {(TOPIC, 0): 0}, "", dry_run=True))
    assert [(m.position, m.to) for m in seen] == [(3, 0)]
    world.settle(loop)
    assert world.count("duplicates") == 0
    drive(replay(desk_of(world), {(TOPIC, 0): 1}, "a check", dry_run=False))
    world.after(2, loop)
    assert world.of("a") == [1, 2, 3]
    assert world.count("duplicates") == 2
    assert world.rows("SELECT position FROM oncebox.cursor") == [("3",)]


def test_a_replay_never_goes_forward(world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1, 2))
    world.settle()
    assert drive(replay(desk_of(world), {(TOPIC, 0): 2}, "", dry_run=False)) == []
    assert drive(replay(desk_of(world), {(TOPIC, 0): 99}, "", dry_run=False)) == []


def test_a_replay_of_nobody(world: World) -> None:
    with pytest.raises(NotFound, match="no position"):
        drive(replay(desk_of(world), {}, "", dry_run=False))


def test_a_rebuild_applies_everything_anew_on_emptied_tables(world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1, 2, 3), *world.producer.paid("b", 9))
    loop = world.settle()
    ends = {(TOPIC, 0): 4}
    drive(rebuild(desk_of(world), ends, ["DELETE FROM ledger"], "new rules", perform=False))
    assert world.ledger() == []
    assert drive(summary(desk_of(world))).rebuilding == ends
    world.after(2, loop)
    assert world.of("a") == [1, 2, 3]
    assert world.of("b") == [9]
    assert world.rows("SELECT had FROM oncebox.key") == [(-1,), (-1,)]  # the fast way again
    assert drive(summary(desk_of(world))).rebuilding == {}
    assert drive(finish(desk_of(world), "")) == 1


def test_a_rebuild_that_cannot_clear_changes_nothing(world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1))
    loop = world.settle()
    with pytest.raises(Refused, match="DELETE FROM nowhere: .*nowhere"):
        drive(rebuild(desk_of(world), {}, ["DELETE FROM nowhere"], "", perform=False))
    world.after(2, loop)
    assert world.of("a") == [1]
    assert world.count("duplicates") == 0


def test_a_new_consumer_may_begin_like_a_rebuild(world: World) -> None:
    world.handles_paid()
    drive(prepare(desk_of(world), 0, 9, {(TOPIC, 0): 7}, ""))
    assert drive(summary(desk_of(world))).rebuilding == {(TOPIC, 0): 7}
    world.deliver(*world.producer.paid("a", 1))
    world.settle()
    with pytest.raises(Refused, match="has begun"):
        drive(prepare(desk_of(world), 0, 9, {(TOPIC, 0): 7}, ""))


class Charging:
    """A handler that emits, and has an effect outside the database, for each event."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.service = Service("billing")
        self.charged: list[int] = []
        self.broken: set[int] = set()
        world.consumer.on(Paid)(self.pay)

    def pay(self, tx: Any, paid: Paid, context: Context[None]) -> None:
        if paid.cents in self.broken:
            raise ValueError("no account")
        receipt = context.once("charge", lambda _: self.charge(paid.cents))
        self.service.emit(tx, Noted(paid.order, f"paid {paid.cents}"))
        self.service.emit_many(tx, [Noted(paid.order, f"receipt {receipt}")])
        self.world.record(tx, f"{paid.order} {receipt}", paid.cents)

    def charge(self, cents: int) -> int:
        self.charged.append(cents)
        return cents * 10

    def emitted(self) -> int:
        return int(self.world.rows("SELECT count(*) FROM oncebox.event")[0][0])


@pytest.mark.parametrize("perform", [False, True])
def test_a_rebuild_has_effects_and_emits_again_only_if_asked(world: World, perform: bool) -> None:
    charging = Charging(world)
    world.deliver(*world.producer.paid("a", 1, 2))
    loop = world.settle()
    before = world.ledger()
    assert (before, charging.charged) == ([("a 10", 1), ("a 20", 2)], [1, 2])
    assert charging.emitted() == 4
    drive(rebuild(desk_of(world), {}, ["DELETE FROM ledger"], "", perform=perform))
    world.after(2, loop)
    assert world.ledger() == before
    assert charging.charged == [1, 2]  # results are known: nobody is called twice
    assert charging.emitted() == (8 if perform else 4)
    world.deliver(*world.producer.paid("a", 3))
    world.settle(loop)
    assert world.ledger() == [*before, ("a 30", 3)]
    assert charging.charged == [1, 2, 3]
    assert charging.emitted() == (10 if perform else 6)
    assert world.rows("SELECT had FROM oncebox.key") == [(-1,)]  # the fast way again


@only("postgres")
@pytest.mark.parametrize("careful", [False, True])
def test_a_rebuild_does_not_repeat_what_sql_itself_emits(world: World, careful: bool) -> None:
    """By `oncebox.emit`, called in a handler's SQL and by a trigger on a table that it writes."""
    emit = "oncebox.emit('/billing/notes', 'billing.noted', {}, '1')"
    world.rows(
        "CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $b$ BEGIN PERFORM "
        + emit.format("'by trigger'") + "; RETURN NULL; END $b$"
    )  # fmt: skip
    world.rows("CREATE TRIGGER noted AFTER INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION noted()")
    failures = {"b": 2 if careful else 0}

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        tx.execute("SELECT " + emit.format("'by sql'"))
        if failures.get(paid.order):
            failures[paid.order] -= 1
            raise ValueError("together, and then alone")
        world.record(tx, paid.order, paid.cents)

    def emitted() -> int:
        return int(world.rows("SELECT count(*) FROM oncebox.event")[0][0])

    world.deliver(*world.producer.paid("a", 1), *world.producer.paid("b", 1))
    loop = world.settle()
    world.after(10, loop)
    assert emitted() == 4
    failures["b"] = 2 if careful else 0
    drive(rebuild(desk_of(world), {}, ["DELETE FROM ledger"], "", perform=False))
    world.deliver(*world.producer.paid("b", 2), *world.producer.paid("c", 1))
    world.after(10, loop)
    world.after(10, loop)
    assert sorted(world.ledger()) == [("a", 1), ("b", 1), ("b", 2), ("c", 1)]
    assert emitted() == 8, "what is new emits, what was had does not"


def test_what_was_not_done_before_a_rebuild_is_done_in_full(world: World) -> None:
    charging = Charging(world)
    charging.broken.add(2)
    world.deliver(*world.producer.paid("a", 1, 2, 3))
    loop = world.settle()
    assert [one.kind for one in wait_list(world)] == ["poison"]
    drive(rebuild(desk_of(world), {}, ["DELETE FROM ledger"], "", perform=False))
    charging.broken.clear()
    world.after(2, loop)
    assert world.ledger() == [("a 10", 1), ("a 20", 2), ("a 30", 3)]
    assert charging.charged == [1, 2, 3]
    assert charging.emitted() == 6


def test_what_is_known_by_its_id_is_not_emitted_again_in_a_rebuild(world: World) -> None:
    service = Service("billing")

    @world.consumer.on(Opened)
    def opened(tx: Any, event: Opened) -> None:
        service.emit(tx, Noted("shop", "opened"))
        world.record(tx, "shop", event.cents)

    one = world.producer.commit(Opened(1))
    world.deliver(one.altered(time_ms=one.outgoing.time_ms - 5000), one)
    loop = world.settle()
    drive(rebuild(desk_of(world), {}, ["DELETE FROM ledger"], "", perform=False))
    world.log.truncate(TOPIC, 0, 1)  # type: ignore[attr-defined]  # only the later copy is left
    world.after(2, loop)
    assert world.of("shop") == [1]
    assert world.rows("SELECT count(*) FROM oncebox.event") == [(1,)]


def test_a_new_consumer_calls_nobody_for_what_came_before_it(world: World) -> None:
    charging = Charging(world)
    old = world.producer.paid("a", 1, 2)
    assert old[-1].chain is not None
    drive(prepare(desk_of(world), 0, old[-1].chain.stamp, {(TOPIC, 0): 2}, ""))
    world.deliver(*old, *world.producer.paid("a", 3))
    world.settle()
    assert world.ledger() == [("a None", 1), ("a None", 2), ("a 30", 3)]
    assert charging.charged == [3]
    assert charging.emitted() == 2
    assert world.rows("SELECT count(*) FROM oncebox.effect") == [(1,)]


def test_a_rebuild_that_is_finished_performs_everything(world: World) -> None:
    charging = Charging(world)
    world.deliver(*world.producer.paid("a", 1))
    loop = world.settle()
    drive(rebuild(desk_of(world), {}, ["DELETE FROM ledger"], "", perform=False))
    drive(finish(desk_of(world), ""))
    world.after(2, loop)
    assert charging.emitted() == 4


@only("postgres")
def test_a_rebuild_waits_for_an_operator_who_takes_an_event_in(world: World) -> None:
    """It stayed kept behind a key that knew nothing of it, and looked like a fork later."""
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3)
    world.deliver(a[0])
    world.settle()
    session: Any = world.store.open()
    reading = drive(desk_of(world, session).reading())
    (item,), _ = take_in(reading, [world_record(a[2])])
    session.begin()
    batch = TakenIn(reading, [item], {}, {}, careful=True)
    drive(batch.keys.load([item], {}))
    drive(batch.settle_item(batch.keys.entries[item.place], item))
    drive(batch.keys.write())
    with rebuild_waiting(world):
        session.commit()
    assert world.kept() == 0
    session.close()
