"""What a consumer forgets, and that it does nothing twice for it, loses nothing, overtakes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from chains import TOPIC, Opened, Paid, Sent, World
from oncebox.consumer import prune
from oncebox.consumer.loop import ConsumerLoop
from oncebox.context import Context
from oncebox.event import new_id
from oncebox.inbox import claim
from oncebox.operate.actions import redrive, skip
from oncebox.operate.rewind import rebuild, replay
from oncebox.program import drive
from operating import desk_of, one_waiting, wait_list

DAY_S = 86_400.0
BEGAN_DAYS = 300.0


@pytest.fixture(autouse=True)
def long_ago(world: World) -> None:
    """Everything begins a while ago, since a log takes no time of the future."""
    pass_days(world, -BEGAN_DAYS)
    producer = world.producer
    producer.new_id = lambda: UUID(
        int=(producer.clock // 1000 << 80) | (new_id().int & (1 << 80) - 1)
    )


def keys(world: World) -> list[str]:
    return [key for (key,) in world.rows("SELECT key FROM oncebox.key ORDER BY key")]


def pass_days(world: World, days: float) -> None:
    world.now_ms += int(days * DAY_S * 1000)
    world.producer.clock += int(days * DAY_S * 1_000_000)


def drop_log(world: World) -> None:
    """As retention does in the end."""
    end = world.log.extents(TOPIC)[0].end
    world.log.truncate(TOPIC, 0, end)  # type: ignore[attr-defined]


def prune_all(world: World, loop: ConsumerLoop) -> None:
    """One whole round."""
    loop.pruning.next_ms = 0
    loop.pruning.left.clear()
    drive(loop.pruning.step(world.now_ms))
    while loop.pruning.left:
        drive(loop.pruning.step(world.now_ms))


def forget(world: World, *sent: Sent, days: float = 31) -> ConsumerLoop:
    """Deliver, let the log's retention and more pass, and prune."""
    world.deliver(*sent)
    loop = world.settle()
    pass_days(world, days)
    drop_log(world)
    prune_all(world, loop)
    return loop


def test_an_idle_key_is_forgotten_and_goes_on(world: World) -> None:
    world.handles_paid()
    loop = forget(world, *world.producer.paid("a", 1, 2))
    assert keys(world) == []
    world.deliver(*world.producer.paid("a", 3), *world.producer.paid("b", 10))
    world.settle(loop)
    assert world.of("a") == [1, 2, 3]
    assert world.of("b") == [10]
    assert world.parked() == {}


@pytest.mark.parametrize("done", [False, True])
def test_what_comes_again_below_the_floor_is_parked_not_run(world: World, done: bool) -> None:
    """Somebody publishes old events again: nobody knows any more whether they were done."""
    world.handles_paid()
    a = world.producer.paid("a", 1, 2)
    loop = forget(world, *a)
    new = world.producer.paid("a", 3)
    world.deliver(*a, *new)
    world.settle(loop)
    assert world.of("a") == [1, 2]
    park, reason, _ = world.parked()["a"]
    assert (park, reason.partition(":")[0]) == ("poison", "older than the floor")
    if done:
        assert drive(skip(desk_of(world), one_waiting(world), None, "")) == ("event", 1, 2)
    else:
        drive(redrive(desk_of(world), wait_list(world)))
    world.after(2, loop)
    assert wait_list(world) == []
    assert world.of("a") == ([1, 2, 3] if done else [1, 2, 1, 2, 3])


def test_a_clock_that_jumps_ahead_for_a_moment_forgets_nothing_that_is_new(world: World) -> None:
    """Floors never fall, so all that was emitted until then would have been parked."""
    world.handles_paid()
    pass_days(world, BEGAN_DAYS - 1)
    world.deliver(*world.producer.paid("a", 1))
    loop = world.settle()
    drop_log(world)
    world.now_ms += int(100 * DAY_S * 1000)
    prune_all(world, loop)
    world.now_ms -= int(100 * DAY_S * 1000)
    world.deliver(*world.producer.paid("a", 2), *world.producer.paid("b", 1))
    world.settle(loop)
    assert world.ledger() == [("a", 1), ("a", 2), ("b", 1)]


def test_what_the_log_still_holds_is_not_forgotten(world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1, 2), world.producer.commit(Opened(5)))
    loop = world.settle()
    pass_days(world, 100)
    prune_all(world, loop)
    assert len(keys(world)) == 2
    drive(replay(desk_of(world), {(TOPIC, 0): 0}, "", dry_run=False))
    world.after(2, loop)
    assert world.of("a") == [1, 2]
    assert world.count("duplicates") == 3
    assert wait_list(world) == []


def test_recent_keys_stay_whatever_the_log_holds(world: World) -> None:
    world.handles_paid()
    loop = forget(world, *world.producer.paid("a", 1), days=29)
    assert keys(world) == ["a"]
    pass_days(world, 2)
    prune_all(world, loop)
    assert keys(world) == []


def test_ids_of_events_without_key_are_forgotten(world: World) -> None:
    @world.consumer.on(Opened)
    def opened(tx: Any, event: Opened) -> None:
        world.record(tx, "shop", event.cents)

    sent = world.producer.commit(Opened(1))
    loop = forget(world, sent)
    assert keys(world) == []
    world.deliver(sent, world.producer.commit(Opened(2)))
    world.settle(loop)
    assert world.of("shop") == [1, 2]
    assert one_waiting(world).key == sent.id


def test_another_process_that_knows_the_old_floor_does_nothing_twice(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1)
    world.deliver(*a)
    loop = world.settle()
    assert loop.reading.subscriptions
    pass_days(world, 31)
    drop_log(world)
    prune_all(world, world.loop("two"))
    assert keys(world) == []
    world.deliver(*a)
    loop.next_upkeep_ms = world.now_ms + 10_000
    drive(loop.turn())
    assert world.of("a") == [1]
    assert world.parked()["a"][0] == "poison"


def test_a_floor_does_not_pass_what_is_missing(world: World) -> None:
    """Else the event behind the gap would count as the first, and overtake."""
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3)
    loop = forget(world, a[2], *world.producer.paid("b", 1))
    world.settle(loop)
    assert world.of("a") == []
    world.deliver(a[0], a[1])
    world.settle(loop)
    assert world.of("a") == [1, 2, 3]


def test_a_floor_does_not_pass_what_another_key_waits_for(world: World) -> None:
    """Else the wait would count as over."""
    world.handles_paid()
    (a,) = world.producer.paid("a", 1)
    first = world.producer.paid("b", 10)
    waits = world.producer.commit(Paid("b", 20), after=a.reference)
    loop = forget(world, *first, waits)
    world.after(10, loop)
    assert world.of("b") == [10]
    world.deliver(a)
    world.settle(loop)
    assert world.ledger() == [("b", 10), ("a", 1), ("b", 20)]


def test_keys_that_wait_are_not_forgotten(world: World) -> None:
    broken = {2, 20}

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if paid.cents in broken:
            raise ValueError("no account")
        world.record(tx, paid.order, paid.cents)

    g = world.producer.paid("g", 1, 2, 3)
    sent = [*world.producer.paid("a", 1, 2, 3), *world.producer.paid("b", 20), g[0], g[2]]
    loop = forget(world, *sent, *world.producer.paid("idle", 1))
    assert keys(world) == ["a", "b", "g"]
    broken.clear()
    world.deliver(g[1])
    drive(redrive(desk_of(world), wait_list(world)))
    world.after(2, loop)
    assert (world.of("a"), world.of("b"), world.of("g")) == ([1, 2, 3], [20], [1, 2, 3])


@pytest.mark.parametrize("lost", [True, False])
def test_nothing_is_forgotten_soon_after_a_loss_or_a_rebuild(world: World, lost: bool) -> None:
    """Rows show what is missing, when the next event of their key comes."""
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3)
    world.deliver(a[0])
    loop = world.settle()
    pass_days(world, 40)
    if lost:
        world.deliver(a[1])
        drop_log(world)
        world.after(2, loop)
    else:
        drive(rebuild(desk_of(world), {}, ["DELETE FROM ledger"], "", perform=False))
        world.after(2, loop)
        drop_log(world)
    pass_days(world, 20)
    prune_all(world, loop)
    assert keys(world) == ["a"]
    if lost:
        world.deliver(a[2])
        world.settle(loop)
        assert (one_waiting(world).kind, one_waiting(world).missing) == ("gap", (2, 2))
    else:
        pass_days(world, 11)
        prune_all(world, loop)
        assert keys(world) == []


def test_effects_and_notes_are_forgotten_but_not_those_of_what_waits(world: World) -> None:
    broken: set[int] = set()

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid, context: Context[None]) -> None:
        context.once("charge", lambda _: charged.append(paid.cents))
        if paid.cents in broken:
            raise ValueError("after the charge")
        world.record(tx, paid.order, paid.cents)

    charged: list[int] = []
    broken.add(2)
    world.deliver(*world.producer.paid("a", 1), *world.producer.paid("b", 2))
    loop = world.settle()
    drive(desk_of(world).note("late", "/shop/orders", "a", None, "a note"))
    drive(desk_of(world).note("orphaned", "/shop/orders", "a", None, "[]"))
    pass_days(world, 91)
    drop_log(world)
    prune_all(world, loop)
    assert world.rows("SELECT count(*) FROM oncebox.effect") == [(1,)]
    assert world.rows("SELECT what FROM oncebox.journal") == [("orphaned",)]
    broken.clear()
    world.after(2, loop)
    assert (charged, world.of("b")) == ([1, 2], [2])


def test_claims_are_forgotten_when_a_time_is_set(world: World) -> None:
    world.handles_paid()

    def claims(id: str) -> bool:
        world.session.begin()
        try:
            return bool(claim(world.session.handle, "billing", source="stripe", id=id))
        finally:
            world.session.commit()

    pass_days(world, BEGAN_DAYS)
    assert claims("evt_1")
    world.rows("UPDATE oncebox.inbox SET stamp = stamp - 86400000000 * 1024 RETURNING 1")
    world.deliver(*world.producer.paid("a", 1))
    loop = world.settle()
    prune_all(world, loop)
    assert not claims("evt_1")  # kept for ever, unless somebody says otherwise
    loop.reading.settings = replace(loop.reading.settings, claims_s=3600.0)
    prune_all(world, loop)
    assert world.rows("SELECT count(*) FROM oncebox.inbox") == [(0,)]
    drive(rebuild(desk_of(world), {}, [], "", perform=False))
    with pytest.raises(Exception, match="does not show its age"):
        claims("evt_1")


def test_size_stays_flat(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and ids that come once, for two hundred days; pages that are smaller than a day."""
    monkeypatch.setattr(prune, "PRUNE_MAX", 7)
    world.handles_paid()
    loop, sizes = world.loop(), []
    for day in range(0, 200, 5):
        sent = [world.producer.paid(f"order-{day}-{i}", i)[0] for i in range(10)]
        world.deliver(*sent, *(world.producer.commit(Opened(i)) for i in range(10)))
        world.settle(loop)
        pass_days(world, 5)
        if day >= 10:
            world.log.truncate(TOPIC, 0, (day // 5 - 1) * 20)  # type: ignore[attr-defined]
        prune_all(world, loop)
        sizes.append(len(keys(world)))
    assert set(sizes[8:]) == {6 * 20}
    assert len(world.ledger()) == 400
    assert wait_list(world) == []
