"""The concurrent consumer on PostgreSQL: keys side by side, each in order, each event once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from chains import TOPIC, Noted, Opened, Paid, World
from oncebox.consumer.abreast import AHEAD_MAX, AbreastLoop
from oncebox.consumer.others import foreign
from oncebox.consumer.reading import Reading
from oncebox.context import Context
from oncebox.operate.actions import redrive
from oncebox.program import drive
from oncebox.statements import statements
from operating import desk_of, failing, failing_for_all, only, rebuild_waiting, wait_list
from producing import await_true

pytestmark = only("postgres")


class Running:
    """A concurrent loop in a thread, by the real clock, until `stop`."""

    def __init__(self, world: World, holder: str, concurrency: int, **changes: Any) -> None:
        settings = replace(
            world.settings, concurrency=concurrency, fetch_wait_s=0.02, backoff_s=0.05, lease_s=0.4
        )
        session: Any = world.store.open()
        reading = Reading(
            consumer="billing",
            session=session,
            sql=statements(world.store.dialect),
            handlers=world.consumer.handlers,
            topics=(TOPIC,),
            settings=replace(settings, **changes),
            now_ms=lambda: time.time_ns() // 1_000_000,
            foreign=world.consumer.foreign,
        )
        self.stopped = threading.Event()
        self.loop = AbreastLoop(
            reading, world.store, world.log, holder,
            stopping=self.stopped.is_set, sleep=self.stopped.wait,
        )  # fmt: skip
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        try:
            drive(self.loop.run())
        except BaseException as error:
            self.failure = error

    def stop(self) -> None:
        self.stopped.set()
        self.loop.reader.wake()
        self.thread.join()
        assert self.failure is None


@contextmanager
def running(
    world: World, concurrency: int = 8, holder: str = "one", **changes: Any
) -> Iterator[AbreastLoop]:
    work = Running(world, holder, concurrency, **changes)
    try:
        yield work.loop
    finally:
        work.stop()


def read_up_to(world: World, offset: int) -> Callable[[], bool]:
    """Whether all before this offset of the only partition is decided, and stored as such."""
    return lambda: world.rows("SELECT position FROM oncebox.cursor") == [(str(offset),)]


def more_than(world: World, count: int) -> bool:
    return len(world.ledger()) > count


def held_up(world: World) -> tuple[threading.Event, threading.Event]:
    """A handler that runs until the first event is set; the second says that it has begun."""
    gate, began = threading.Event(), threading.Event()

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        began.set()
        assert gate.wait(30)
        world.record(tx, paid.order, paid.cents)

    return gate, began


def test_keys_side_by_side_each_in_order_each_event_once(world: World) -> None:
    barrier = threading.Barrier(8)  # nobody passes before eight events are at work

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if paid.cents == 0:
            barrier.wait(30)
        world.record(tx, paid.order, paid.cents)

    sent = [world.producer.paid(f"k{key}", *range(5)) for key in range(8)]
    world.deliver(*(one[n] for n in range(5) for one in sent))
    world.deliver(*sent[3])
    with running(world):
        await_true(read_up_to(world, 45), "all to be read")
    for key in range(8):
        assert world.of(f"k{key}") == [0, 1, 2, 3, 4]
    assert (world.count("applied"), world.count("duplicates"), world.kept()) == (40, 5, 0)


def test_a_gap_holds_its_key_only_and_closes_when_the_event_comes(world: World) -> None:
    world.handles_paid()
    a, b = world.producer.paid("a", 1, 2, 3, 4), world.producer.paid("b", 10, 20)
    world.deliver(a[0], a[2], a[3], b[0], b[1])
    with running(world):
        await_true(read_up_to(world, 5), "all to be read")
        assert world.of("a") == [1]
        assert world.of("b") == [10, 20]
        assert world.kept() == 2
        world.deliver(a[1])
        await_true(lambda: world.of("a") == [1, 2, 3, 4], "the gap to close")
        await_true(lambda: world.kept() == 0, "nothing to be kept")
    assert world.count("applied") == 6


def test_a_failing_handler_runs_once_for_each_try_and_parks_its_key(world: World) -> None:
    tries: list[int] = []

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        world.record(tx, paid.order, paid.cents)
        if paid.order == "a" and paid.cents == 1:
            tries.append(1)
            if len(tries) < 3:
                raise ValueError("no account a")

    world.deliver(*world.producer.paid("a", 1, 2), *world.producer.paid("b", 10, 20))
    with running(world):
        await_true(lambda: world.of("a") == [1, 2], "the third try")
        assert world.parked() == {}
    assert len(tries) == 3
    assert world.of("b") == [10, 20]
    assert world.count("applied") == 4


def test_what_is_redriven_goes_on(world: World) -> None:
    broken = {"a"}
    failing(world, broken)
    world.deliver(*world.producer.paid("a", 1, 2))
    with running(world, attempts_max=1):
        await_true(lambda: bool(world.parked()), "the key to be parked")
        broken.clear()
        drive(redrive(desk_of(world), wait_list(world)))
        await_true(lambda: world.of("a") == [1, 2], "the key to go on")


def test_a_position_stays_behind_the_lowest_event_that_is_not_decided(world: World) -> None:
    gate = threading.Event()

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if paid.order == "slow":
            assert gate.wait(30)
        world.record(tx, paid.order, paid.cents)

    (a,), (slow,), b = (
        world.producer.paid("a", 1),
        world.producer.paid("slow", 5),
        world.producer.paid("b", *range(20)),
    )
    world.deliver(a, slow, *b)
    with running(world):
        await_true(lambda: len(world.of("b")) == 20, "the others to be done")
        await_true(lambda: world.count("applied") == 21, "them to be counted")
        assert read_up_to(world, 1)()
        gate.set()
        await_true(read_up_to(world, 22), "the position to move")
    assert world.of("slow") == [5]


def test_what_is_read_ahead_is_bounded(world: World) -> None:
    gate = threading.Event()

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        assert gate.wait(30)
        world.record(tx, paid.order, paid.cents)

    world.deliver(*world.producer.paid("a", *range(500)))
    with running(world, 2) as loop:
        await_true(lambda: loop.lanes.jobs == 2 * AHEAD_MAX, "the lanes to be full")
        seen = {loop.lanes.jobs for _ in range(1000)}
        gate.set()
        await_true(read_up_to(world, 500), "all to be read")
    assert max(seen) == 2 * AHEAD_MAX
    assert world.of("a") == list(range(500))


def test_a_handler_that_runs_longer_than_the_lease_keeps_its_partition(world: World) -> None:
    gate, began = held_up(world)

    def lease() -> tuple[Any, ...]:
        return world.rows("SELECT lease_until, holder, term FROM oncebox.cursor")[0]

    world.deliver(*world.producer.paid("a", 1))
    with running(world, holder="one"):
        assert began.wait(30)
        until, *owner = lease()
        with running(world, holder="two"):
            await_true(lambda: lease()[0] > until + 2000, "five leases to go by")
            assert list(lease()[1:]) == owner == ["one", 1]
            gate.set()
            await_true(read_up_to(world, 1), "the event to be done")
    assert world.of("a") == [1]


def test_an_owner_that_lost_its_partition_does_nothing_twice(world: World) -> None:
    """Its handler runs while another owner comes to the same event, and to the next of that key."""
    gate, began = held_up(world)
    gate.set()
    world.deliver(*world.producer.paid("a", 0))
    with running(world):  # the key is known from now on
        await_true(read_up_to(world, 1), "the first")
    gate.clear()
    began.clear()

    def taken_by_two() -> bool:
        world.rows("UPDATE oncebox.cursor SET lease_until = 0 WHERE holder = 'one' RETURNING 1")
        world.rows("DELETE FROM oncebox.member WHERE holder = 'one' RETURNING 1")
        return world.rows("SELECT holder FROM oncebox.cursor") == [("two",)]

    world.deliver(*world.producer.paid("a", 1, 2, 3))
    waits = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with running(world, holder="one") as one:
        assert began.wait(30)
        asleep: Any = one
        asleep.upkeep = lambda now_ms: iter(())
        with running(world, holder="two"):
            await_true(taken_by_two, "the lease to run out")
            await_true(lambda: world.rows(waits) == [(1,)], "the second to wait at the key")
            gate.set()
            await_true(read_up_to(world, 4), "all to be read")
        del asleep.upkeep
    assert world.of("a") == [0, 1, 2, 3]


def test_a_rebuild_waits_for_handlers_that_run_and_then_all_comes_anew(world: World) -> None:
    gate, began = threading.Event(), threading.Event()

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        world.record(tx, paid.order, paid.cents)
        if paid.order == "a" and not gate.is_set():
            began.set()
            assert gate.wait(30)

    world.deliver(*world.producer.paid("a", 1, 2), *world.producer.paid("b", 10))
    with running(world):
        assert began.wait(30)
        with rebuild_waiting(world):
            gate.set()
        await_true(read_up_to(world, 3), "all to be read again")
    assert world.of("a") == [1, 2]
    assert world.of("b") == [10]
    assert world.count("applied") == 3


def test_once_has_an_effect_outside_exactly_once(world: World) -> None:
    charges: list[int] = []
    fail = [True]

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid, context: Context[None]) -> None:
        def charge(key: str) -> int:
            charges.append(paid.cents)
            return paid.cents

        receipt = context.once("charge", charge)
        if paid.cents == 1 and fail:
            fail.pop()
            raise ValueError("after the charge")
        world.record(tx, paid.order, receipt)

    world.deliver(*world.producer.paid("a", 1, 2), *world.producer.paid("b", 10))
    with running(world):
        await_true(lambda: world.of("a") == [1, 2], "both")
        await_true(read_up_to(world, 3), "all to be read")
    assert sorted(charges) == [1, 2, 10]
    assert world.of("b") == [10]


def test_an_event_waits_for_one_of_another_key(world: World) -> None:
    gate = threading.Event()

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if paid.order == "a":
            assert gate.wait(30)
        world.record(tx, paid.order, paid.cents)

    a, (first,) = world.producer.paid("a", 1, 2), world.producer.paid("b", 10)
    waits = world.producer.commit(Paid("b", 20), after=a[1].reference)
    world.deliver(waits.altered(), first, *a, *world.producer.paid("c", 5))
    with running(world):
        await_true(lambda: world.of("c") == [5], "what waits for nobody")
        assert 20 not in world.of("b")
        world.deliver(first)
        gate.set()
        await_true(lambda: world.of("b") == [10, 20], "the wake-up")
    assert [row for row in world.ledger() if row[0] != "c"][-1] == ("b", 20)


def test_who_commits_is_named_and_parked_and_a_late_constraint_finds_its_event(
    world: World,
) -> None:
    world.session.run("CREATE TABLE payment (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        world.record(tx, paid.order, paid.cents)
        if paid.order == "a":
            tx.commit()
        if paid.order == "b":
            tx.execute("INSERT INTO payment VALUES (1), (1)")

    producer = world.producer
    world.deliver(*producer.paid("a", 1), *producer.paid("b", 10), *producer.paid("c", 5, 6))
    with running(world, attempts_max=2):
        await_true(read_up_to(world, 4), "all to be read")
        await_true(
            lambda: world.rows("SELECT due_ms FROM oncebox.key WHERE key = 'b'") == [(None,)],
            "the last try",
        )
    assert world.ledger() == [("c", 5), ("c", 6)]
    parked = world.parked()
    assert "pay ended the transaction" in parked["a"][1]
    assert "at its end" in parked["b"][1]


def test_an_outage_spends_no_attempts_and_others_go_on(world: World) -> None:
    away, met = {"a"}, list[int]()

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if paid.order in away:
            met.append(1)
            raise ConnectionError("no route to a's server")
        world.record(tx, paid.order, paid.cents)

    world.deliver(*world.producer.paid("a", 1, 2), *world.producer.paid("b", *range(30)))
    with running(world, 2, outage_tries_max=2, attempts_max=2, backoff_max_s=0.2):
        await_true(lambda: len(world.of("b")) == 30, "the others")
        await_true(lambda: bool(world.parked()) and len(met) > 8, "its key to wait alone")
        away.clear()
        await_true(lambda: world.of("a") == [1, 2], "the outage to end")


def test_connections_that_are_cut_cost_no_effect(world: World) -> None:
    world.handles_paid()
    sent = [world.producer.paid(f"k{key}", *range(40)) for key in range(10)]
    cut = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with running(world):
        for n in range(40):
            world.deliver(*(one[n] for one in sent))
            if n % 8 == 4:
                done = len(world.ledger())
                await_true(partial(more_than, world, done), "something to be done")
                world.rows(cut)
        await_true(read_up_to(world, 400), "all to be read")
    for key in range(10):
        assert world.of(f"k{key}") == list(range(40))


def test_who_stops_ends_what_runs_and_leaves_the_rest(world: World) -> None:
    gate, began = held_up(world)
    world.deliver(*world.producer.paid("a", 1, 2, 3))
    work = Running(world, "one", 4)
    assert began.wait(30)
    work.stopped.set()
    crew: Any = work.loop.crew
    await_true(lambda: crew._stopped, "no worker to take another event")
    gate.set()
    work.stop()
    assert world.of("a") == [1]
    assert read_up_to(world, 1)()
    assert world.rows("SELECT holder FROM oncebox.cursor") == [(None,)]
    with running(world):
        await_true(lambda: world.of("a") == [1, 2, 3], "the rest")
    assert world.count("duplicates") == 0


def test_too_many_parked_keys_pause_the_consumer(world: World) -> None:
    missing_column = failing_for_all(world)
    world.deliver(*(world.producer.paid(f"k{n}", n)[0] for n in range(600)))
    with running(world, 2, parked_max=10, batch_max=5, backoff_s=0.5) as loop:
        await_true(lambda: loop.paused, "the pause")
        assert 10 < len(world.parked()) < 300
        missing_column.clear()
        await_true(lambda: len(world.ledger()) == 600, "all to be done")
        await_true(lambda: not loop.paused, "the pause to end")


def test_events_of_others_and_without_key(world: World) -> None:
    paid = foreign(TOPIC, Paid, key="$.order", id="header:ce_id")

    @world.consumer.on(paid)
    def pay(tx: Any, one: Paid) -> None:
        world.record(tx, one.order, one.cents)

    sent = [world.producer.paid(f"k{key}", *range(20)) for key in range(5)]
    world.deliver(*(one[n] for n in range(20) for one in sent), *sent[2])
    with running(world):
        await_true(lambda: len(world.ledger()) == 100, "all to be done")
        await_true(read_up_to(world, 120), "all to be read")
    for key in range(5):
        assert world.of(f"k{key}") == list(range(20))


def test_unkeyed_events_and_other_types(world: World) -> None:
    @world.consumer.on(Opened)
    def opened(tx: Any, event: Opened) -> None:
        world.record(tx, "shop", event.cents)

    one, two = world.producer.commit(Opened(1)), world.producer.commit(Opened(2))
    world.deliver(one, two, one, world.producer.commit(Noted("a", "")), two)
    with running(world):
        await_true(read_up_to(world, 5), "all to be read")
    assert sorted(world.of("shop")) == [1, 2]
    assert (world.count("duplicates"), world.count("ignored")) == (2, 1)
