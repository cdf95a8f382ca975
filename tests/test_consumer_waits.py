"""What waits in a consumer, and what must not wait for it: on both stores."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from chains import Paid, Sent, World
from oncebox.consumer.effects import DEATHS_MAX
from oncebox.consumer.loop import ConsumerLoop
from oncebox.consumer.suspects import DEADLY
from oncebox.context import Context
from oncebox.operate.actions import redrive
from oncebox.program import drive
from operating import desk_of, failing, one_waiting, only, wait_list

# ---- what fails at the commit


def accounts(world: World, *known: int) -> list[int]:
    """A handler whose failure shows only at the commit, for all sums but these; its calls."""
    world.session.run("CREATE TABLE account (id INTEGER PRIMARY KEY)")
    world.session.run(
        "CREATE TABLE payment"
        " (account INTEGER REFERENCES account (id) DEFERRABLE INITIALLY DEFERRED)"
    )
    for one in known:
        world.session.run(f"INSERT INTO account (id) VALUES ({one})")
    calls: list[int] = []

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        calls.append(paid.cents)
        world.record(tx, paid.order, paid.cents)
        tx.execute(f"INSERT INTO payment (account) VALUES ({paid.cents})")

    return calls


def test_behind_a_gap_the_event_that_fails_at_the_commit_is_parked_and_no_other(
    world: World,
) -> None:
    """The one that filled the gap was parked in its place: who skipped it lost a good event."""
    accounts(world, 1, 2)
    a = world.producer.paid("a", 1, 2, 3)
    world.deliver(a[0], a[2])
    loop = world.settle()
    world.deliver(a[1])
    world.settle(loop)
    assert world.of("a") == [1, 2]
    one = one_waiting(world)
    assert one.kind == "poison"
    assert one.head is not None and one.head.sequence == 3
    assert "at its end" in str(one.reason)


def woken(world: World) -> tuple[Sent, Sent]:
    """An event that waits for the other one."""
    (x,) = world.producer.paid("x", 1)
    return world.producer.commit(Paid("a", 3), after=x.reference), x


def test_a_woken_event_that_fails_at_the_commit_is_parked(world: World) -> None:
    """Its handler ran every five seconds, for ever, and nobody was told."""
    calls = accounts(world, 1)
    waits, x = woken(world)
    world.deliver(waits)
    loop = world.settle(world.loop(attempts_max=2))
    world.deliver(x)
    world.settle(loop)
    assert "at its end" in world.parked()["a"][1]
    for _ in range(4):
        world.after(60.0, loop)
    assert calls.count(3) <= 4  # twice each: for the second time to know that it is this one
    assert world.parked()["a"][2] == 2


def test_an_event_behind_one_that_fails_at_the_commit_does_not_end_the_consumer(
    world: World,
) -> None:
    accounts(world, 1, 2)
    waits, x = woken(world)
    world.deliver(waits)
    loop = world.settle()
    world.deliver(x)
    while not world.of("x"):
        drive(loop.turn())
    loop.drains.clear()  # as after a crash
    world.deliver(*world.producer.paid("a", 2))
    world.settle(loop)
    one = one_waiting(world)
    assert (one.kind, one.kept) == ("poison", 2)
    assert one.head is not None and one.head.sequence == 1


# ---- leases and retries, while handlers are slow


def between_upkeeps(loop: ConsumerLoop, done: Callable[[], int]) -> list[int]:
    """How much is done whenever the loop looks after its leases."""
    seen: list[int] = []
    upkeep = loop.upkeep

    def noted(now_ms: int) -> Any:
        seen.append(done())
        return upkeep(now_ms)

    loop.upkeep = noted  # type: ignore[method-assign]
    return seen


def test_slow_handlers_do_not_keep_the_consumer_from_its_leases(world: World) -> None:
    """All that one fetch had brought was done first."""

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        world.now_ms += 1000
        world.record(tx, paid.order, paid.cents)

    world.deliver(*world.producer.paid("a", *range(20)))
    loop = world.loop()
    seen = between_upkeeps(loop, lambda: len(world.ledger()))
    world.settle(loop)
    assert world.of("a") == list(range(20))
    assert max(b - a for a, b in pairwise(seen)) <= 4
    assert world.count("duplicates") == 0


def test_slow_effects_do_not_keep_the_consumer_from_its_leases(world: World) -> None:
    called: list[str] = []

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid, context: Context[None]) -> None:
        def charge(key: str) -> None:
            called.append(key)
            world.now_ms += 1000

        context.once("charge", charge)
        world.record(tx, paid.order, paid.cents)

    for number in range(10):
        world.deliver(*world.producer.paid(f"a{number}", 1))
    loop = world.loop()
    seen = between_upkeeps(loop, lambda: len(called))
    world.settle(loop)
    assert len(world.ledger()) == len(set(called)) == len(called) == 10
    assert max(b - a for a, b in pairwise(seen)) <= 1


def test_an_effect_that_kills_its_process_parks_its_event(world: World) -> None:
    """Its key, alone, waits for somebody, also while others move the position."""
    called: list[str] = []

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid, context: Context[None]) -> None:
        def charge(key: str) -> None:
            called.append(key)
            raise SystemExit("the process dies")

        if paid.order == "a":
            context.once("charge", charge)
        world.record(tx, paid.order, paid.cents)

    world.deliver(*world.producer.paid("a", 1))
    loop = world.lives(lambda _: world.deliver(*world.producer.paid("b", 1)))
    assert DEADLY in world.parked()["a"][1]
    assert (len(called), len(set(called))) == (DEATHS_MAX, 1)
    world.after(600.0, loop)
    assert len(called) == DEATHS_MAX
    assert len(world.of("b")) == DEATHS_MAX + 1
    drive(redrive(desk_of(world), wait_list(world)))
    world.lives()
    assert len(called) == 2 * DEATHS_MAX


@pytest.mark.parametrize("step", ["s" * 5000, "a\0b"])
def test_an_effect_with_a_name_that_no_store_takes_holds_its_key(world: World, step: str) -> None:
    """The journal refused it, which ended each owner in turn."""

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid, context: Context[None]) -> None:
        context.once(step, lambda key: None)

    world.deliver(*world.producer.paid("a", 1))
    world.settle()
    assert "printable letters" in world.parked()["a"][1]


@only("postgres")
def test_an_outage_spends_no_last_try(world: World) -> None:
    """The store goes away when the try is counted, and its handler has not run."""
    broken = {"a"}
    failing(world, broken)

    world.deliver(*world.producer.paid("a", 1))
    loop = world.settle(world.loop(attempts_max=2))
    broken.clear()
    drain = loop.drain

    def goes_away(*arguments: Any, **more: Any) -> Any:
        loop.drain = drain  # type: ignore[method-assign]
        world.rows(
            f"select pg_terminate_backend({loop.reading.session.handle.info.backend_pid}, 10000)"
        )
        return drain(*arguments, **more)

    loop.drain = goes_away  # type: ignore[method-assign]
    world.after(600.0, loop)
    assert loop.reading.done.outages == 1
    assert world.of("a") == [1]


# ---- keys that others wait for


@only("postgres")
def test_a_kept_event_does_not_lock_the_key_that_it_waits_for(world: World) -> None:
    """Two consumers that did so, each behind a key of its own, locked each other out."""
    world.handles_paid()
    waits, x = woken(world)
    world.deliver(waits)
    loop = world.settle(world.loop(handler_timeout_s=0.2))
    other: Any = world.store.open()
    other.begin()
    other.run("select from oncebox.key where key = 'x' for update")
    world.deliver(*world.producer.paid("a", 4))
    world.settle(loop)
    assert loop.reading.done.outages == 0
    assert world.kept() == 2
    other.rollback()
    other.close()
    world.deliver(x)
    world.settle(loop)
    assert world.ledger() == [("x", 1), ("a", 3), ("a", 4)]


def test_a_key_is_woken_once_by_the_event_that_it_waited_for(world: World) -> None:
    """Each later event of that key woke all who had ever waited for it, and could not go on."""
    drained: list[str] = []

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if paid.cents == 13:
            raise ValueError("no account")
        world.record(tx, paid.order, paid.cents)

    x = world.producer.paid("x", 1, 2, 3)
    world.deliver(world.producer.commit(Paid("a", 13), after=x[0].reference))
    loop = world.settle()
    drain = loop.drain

    def noted(drains: Any, *rest: Any, **more: Any) -> Any:
        drained.extend(key for _, key in drains)
        return drain(drains, *rest, **more)

    loop.drain = noted  # type: ignore[method-assign]
    for one in x:
        world.deliver(one)
        world.settle(loop)
    assert drained == ["a"]
    assert [one.kind for one in wait_list(world)] == ["poison"]
