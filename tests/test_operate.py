"""Redrive and skip, on both stores, with a consumer that runs."""

from __future__ import annotations

import random
import threading
from typing import Any, cast

import pytest

from chains import SOURCE, Opened, Paid, World
from oncebox.envelope import Reference
from oncebox.errors import Refused
from oncebox.operate.actions import redrive, skip
from oncebox.operate.waiting import waiting
from oncebox.program import drive
from oncebox.session import Session
from operating import ALL, ask_producer, desk_of, failing, fork, one_waiting, wait_list

# ---- redrive


def test_redrive_tries_again_and_applies_in_order(world: World) -> None:
    broken = {"a"}
    failing(world, broken)
    world.deliver(*world.producer.paid("a", 1, 2, 3))
    loop = world.settle(world.loop(attempts_max=1))
    broken.clear()
    world.after(600, loop)
    assert world.of("a") == []
    places = drive(redrive(desk_of(world), wait_list(world)))
    assert len(places) == 1
    world.after(2, loop)
    assert world.of("a") == [1, 2, 3]
    assert wait_list(world) == []


def test_redrive_leaves_alone_what_is_no_failure(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3)
    world.deliver(a[0], a[2])
    fork(world, "b")
    assert {w.kind for w in wait_list(world)} == {"gap", "fork"}
    assert drive(redrive(desk_of(world), wait_list(world))) == []


def test_redrive_of_what_went_on_meanwhile_does_nothing(world: World) -> None:
    broken = {"a"}
    failing(world, broken)
    world.deliver(*world.producer.paid("a", 1))
    loop = world.settle()
    listed = wait_list(world)
    broken.clear()
    world.after(2, loop)
    assert drive(redrive(desk_of(world), listed)) == []
    world.after(2, loop)
    assert world.of("a") == [1]


def test_redrive_counts_attempts_anew(world: World) -> None:
    failing(world, {"a"})
    world.deliver(*world.producer.paid("a", 1))
    loop = world.settle(world.loop(attempts_max=2))
    world.after(60, loop)
    assert one_waiting(world).attempts == 2
    drive(redrive(desk_of(world), wait_list(world)))
    world.after(1, loop)
    one = one_waiting(world)
    assert one.attempts == 1
    assert one.due_ms is not None


@pytest.mark.parametrize("done", [False, True])
def test_an_id_older_than_the_floor_waits_for_an_answer(world: World, done: bool) -> None:
    """Nobody knows whether it was done: redrive says that it was not, skip that it was."""

    @world.consumer.on(Opened)
    def opened(tx: Any, event: Opened) -> None:
        world.record(tx, "opened", event.cents)

    sent = world.producer.commit(Opened(5))
    world.deliver(world.producer.commit(Opened(9)))
    loop = world.settle()
    later = (world.now_ms + 60_000) * 1_024_000  # as pruning raises it
    world.rows(f"UPDATE oncebox.subscription SET floor = {later} WHERE source <> '' RETURNING 1")
    world.deliver(sent)
    world.settle(loop)
    one = one_waiting(world)
    assert (one.kind, one.key) == ("poison", sent.id)
    assert "older than the floor" in (one.reason or "")
    if done:
        drive(skip(desk_of(world), one, None, "it was done"))
    else:
        drive(redrive(desk_of(world), [one]))
    world.after(2, loop)
    assert world.of("opened") == ([9] if done else [9, 5])
    assert wait_list(world) == []
    world.deliver(sent)
    world.settle(loop)
    assert world.of("opened") == ([9] if done else [9, 5])


# ---- skip


def test_skip_gives_up_the_failing_event_only(world: World) -> None:
    failing(world, {"a2"})
    world.deliver(*world.producer.paid("a", 1, 2, 3))
    loop = world.settle()
    given = drive(skip(desk_of(world), one_waiting(world), None, "a test order"))
    assert given == ("event", 2, 2)
    world.after(2, loop)
    assert world.of("a") == [1, 3]
    assert wait_list(world) == []
    (noted,) = world.rows("SELECT what, key, sequence, detail FROM oncebox.journal")
    assert noted[:3] == ("skip", "a", 2)
    assert "a test order" in noted[3]
    assert "(by a test)" in noted[3]


def test_a_skipped_event_that_comes_again_is_late(world: World) -> None:
    failing(world, {"a2"})
    a = world.producer.paid("a", 1, 2, 3)
    world.deliver(*a)
    loop = world.settle()
    drive(skip(desk_of(world), one_waiting(world), None, ""))
    world.after(2, loop)
    world.deliver(a[1])
    world.settle(loop)
    assert world.of("a") == [1, 3]
    assert world.count("late") == 1


def test_skip_gives_up_what_is_missing_after_asking(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3, 4)
    world.deliver(a[0], a[3])
    loop = world.settle()
    given = drive(skip(desk_of(world), one_waiting(world), ask_producer(world), "lost"))
    assert given == ("missing", 2, 3)
    world.after(2, loop)
    assert world.of("a") == [1, 4]


@pytest.mark.parametrize("done", [0, 1])
def test_skip_of_missing_events_without_anybody_to_ask(world: World, done: int) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3, 4, 5)
    world.deliver(*a[:done], a[3], a[4])
    loop = world.settle()
    assert drive(skip(desk_of(world), one_waiting(world), None, "")) == ("missing", done + 1, 3)
    world.after(2, loop)
    assert world.of("a") == [*[1][:done], 4, 5]
    world.deliver(a[2])
    world.settle(loop)
    assert world.count("late") == 1


def test_skip_asks_first_and_finds_a_fork(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3)
    world.deliver(a[0], a[2])
    world.settle()
    world.producer.restore("a", 1)
    world.producer.paid("a", 20)
    given = drive(skip(desk_of(world), one_waiting(world), ask_producer(world), ""))
    assert given.what == "fork"
    assert one_waiting(world).kind == "fork"
    assert world.of("a") == [1]


def test_skip_drops_a_wait_for_an_event_that_was_lost(world: World) -> None:
    world.handles_paid()
    lost = Reference(SOURCE, "x", world.producer.clock * 1024)
    y = world.producer.commit(Paid("y", 2), after=lost)
    z = world.producer.paid("y", 3)
    world.deliver(y, *z)
    loop = world.settle()
    given = drive(skip(desk_of(world), one_waiting(world), None, "x is gone"))
    assert given.what == "wait"
    world.after(2, loop)
    assert world.of("y") == [2, 3]
    world.deliver(y)
    world.settle(loop)
    assert world.of("y") == [2, 3]


def test_skip_gives_up_only_what_was_listed(world: World) -> None:
    broken = {"a1", "a2"}
    failing(world, broken)
    world.deliver(*world.producer.paid("a", 1, 2))
    loop = world.settle()
    listed = one_waiting(world)
    broken.remove("a1")
    world.after(2, loop)
    assert one_waiting(world).head != listed.head
    assert drive(skip(desk_of(world), listed, None, "")).what == "changed"
    broken.clear()
    world.after(60, loop)
    assert world.of("a") == [1, 2]


def test_a_fork_is_not_skipped(world: World) -> None:
    world.handles_paid()
    fork(world, "a")
    with pytest.raises(Refused, match="not skipped"):
        drive(skip(desk_of(world), one_waiting(world), None, ""))


def test_an_unkeyed_event_that_fails_can_be_skipped(world: World) -> None:
    @world.consumer.on(Opened)
    def opened(tx: Any, event: Opened) -> None:
        raise ValueError("closed")

    sent = world.producer.commit(Opened(1))
    world.deliver(sent)
    loop = world.settle()
    assert drive(skip(desk_of(world), one_waiting(world), None, "")).what == "event"
    world.after(2, loop)
    world.deliver(sent)
    world.settle(loop)
    assert wait_list(world) == []


# ---- against live traffic


class Race:
    """Real threads: consumer loops, and operators who act on whatever they see."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world = world
        self.rng = rng
        self.keys = [f"k{i}" for i in range(12)]
        self.broken = set(self.keys)
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.failures: list[BaseException] = []
        self.skipped: list[tuple[str, int | None]] = []
        self.threads: list[threading.Thread] = []

    def pay(self, tx: Any, paid: Paid) -> None:
        with self.lock:
            bad = paid.order in self.broken and paid.cents % 3 == 1
        if bad:
            raise ValueError("not yet")
        self.world.record(tx, paid.order, paid.cents)

    def mend(self) -> None:
        with self.lock:
            self.broken.clear()

    def start(self, work: Any, *arguments: Any) -> None:
        def guarded() -> None:
            try:
                work(*arguments)
            except BaseException as error:
                self.failures.append(error)

        self.threads.append(threading.Thread(target=guarded))
        self.threads[-1].start()

    def consume(self, name: str) -> None:
        loop = self.world.loop(name, backoff_s=0.001, attempts_max=2)
        while not self.stop.is_set():
            try:
                drive(loop.turn())
            except Exception as error:
                drive(loop.outage(error))

    def operate(self, seed: float) -> None:
        session = self.world.store.open()
        desk, mine = desk_of(self.world, session), random.Random(seed)
        while not self.stop.is_set():
            for one in drive(waiting(desk, ALL)).found:
                if one.kind == "poison" and mine.random() < 0.2:
                    given = drive(skip(desk, one, None, "race"))
                    if given.what == "event":
                        self.skipped.append((one.key, given.first))
                elif mine.random() < 0.7:
                    drive(redrive(desk, [one]))
            self.world.now_ms += 50
        cast("Session", session).close()

    def until_parked_once(self) -> None:
        """Until operators had something to do."""
        pause = threading.Event()
        for _ in range(3000):
            if self.skipped or self.failures:
                return
            pause.wait(0.02)
        raise AssertionError("nothing was skipped")

    def until_done(self, last: int) -> None:
        """Until every key stands at its last event."""
        pause = threading.Event()
        sql = f"SELECT key FROM oncebox.key WHERE sequence = {last} AND kept = 0"
        for _ in range(3000):
            if len(self.world.rows(sql)) == len(self.keys) or self.failures:
                return
            pause.wait(0.02)
        raise AssertionError(f"still waiting: {wait_list(self.world)}")


def test_redrive_and_skip_race_with_running_consumers(world: World, rng: random.Random) -> None:
    """In the end each event took effect once, in order, or was skipped, and nothing waits."""
    race = Race(world, rng)
    world.consumer.on(Paid)(race.pay)
    sent = {key: world.producer.paid(key, *range(1, 9)) for key in race.keys}
    for name in ("one", "two"):
        race.start(race.consume, name)
    for _ in range(2):
        race.start(race.operate, rng.random())
    try:
        for step in range(8):
            world.deliver(*(events[step] for events in sent.values()))
        race.until_parked_once()
        race.mend()
        race.until_done(last=8)
    finally:
        race.stop.set()
        for thread in race.threads:
            thread.join(60)
    assert race.failures == []
    for key in race.keys:
        gone = [n for k, n in race.skipped if k == key]
        assert len(gone) == len(set(gone))
        assert world.of(key) == [n for n in range(1, 9) if n not in gone]
