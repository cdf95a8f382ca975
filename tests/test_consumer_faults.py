"""What happens to a consumer at the worst moment: each of these once lost or doubled an effect."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from chains import TOPIC, Opened, Paid, Producer, World, plain_handler
from oncebox.consumer.loop import ConsumerLoop
from oncebox.consumer.timeouts import Watch, _interrupt, watch
from oncebox.context import Context
from oncebox.errors import HandlerTimeout, StoreUnavailable
from oncebox.logs.embedded import EmbeddedLog
from oncebox.ports import Extent, Topic
from oncebox.program import call, drive, drive_async
from oncebox.service.service import Consumer
from oncebox.session import COMMIT, Statement
from oncebox.stores.adapt import open_store
from operating import failing, only, rebuild_waiting
from producing import await_true

TURNS_MAX = 200


def run(world: World, loop: ConsumerLoop, done: Any) -> None:
    """The loop as a process runs it, until `done()`; time passes with each turn."""
    turns = iter(range(TURNS_MAX))

    def stopping() -> bool:
        world.now_ms += 1000
        return bool(done()) or next(turns, None) is None

    loop.stopping = stopping
    drive(loop.run())
    assert done(), f"not within {TURNS_MAX} turns"


@only("postgres")
def test_a_rebuild_waits_for_a_retry_that_is_about_to_commit(world: World) -> None:
    """Its effects, not committed yet, would survive the clearing and be had again."""
    broken = {"a"}
    ready, gate = threading.Event(), threading.Event()
    failing(world, broken)
    world.deliver(*world.producer.paid("a", 1))
    loop = world.settle()
    broken.clear()
    session = loop.reading.session
    ask = session.ask
    assert ask is not None

    def stopped(statements: Sequence[Statement]) -> Any:
        if statements == [COMMIT] and session.run("select 1 from ledger"):
            ready.set()
            assert gate.wait(30)
        return ask(statements)

    session.ask = stopped
    world.now_ms += 5000
    turn = threading.Thread(target=lambda: drive(loop.turn()))
    turn.start()
    assert ready.wait(30)
    session.ask = ask
    with rebuild_waiting(world):
        gate.set()
        turn.join()
    world.after(5.0, world.settle(loop))
    assert world.of("a") == [1]


def test_what_a_retry_does_is_counted(world: World) -> None:
    broken = {"a"}
    failing(world, broken)
    world.deliver(*world.producer.paid("a", 1, 2), *world.producer.paid("b", 10))
    loop = world.settle()
    broken.clear()
    world.after(5.0, loop)
    assert world.of("a") == [1, 2]
    assert world.count("applied") == 3


def test_a_retry_does_not_forget_how_many_owners_died(world: World) -> None:
    broken = {"a"}
    failing(world, broken)
    world.deliver(*world.producer.paid("a", 1))
    loop = world.settle()
    broken.clear()
    world.rows("UPDATE oncebox.cursor SET takeovers = 2, suspect = '7' RETURNING 1")
    world.after(5.0, loop)
    assert world.of("a") == [1]
    assert world.rows("SELECT takeovers, suspect FROM oncebox.cursor") == [(2, "7")]
    world.deliver(*world.producer.paid("a", 2))
    world.settle(loop)
    assert world.rows("SELECT takeovers, suspect FROM oncebox.cursor") == [(0, None)]


def test_a_commit_that_succeeds_and_raises_is_found_out(world: World) -> None:
    """As hooks that run after a commit do. The position is then another than it was."""
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1))
    loop = world.settle()
    session = loop.reading.session
    commit = session.commit

    def raising_commit() -> None:
        commit()
        if len(world.ledger()) == 2:
            session.commit = commit  # type: ignore[method-assign]
            raise RuntimeError("a hook after the commit")

    session.commit = raising_commit  # type: ignore[method-assign]
    world.deliver(*world.producer.paid("a", 2, 3))
    loop.reading.settings = world.loop(batch_max=1).reading.settings
    run(world, loop, lambda: len(world.ledger()) >= 3)
    assert world.of("a") == [1, 2, 3]


def test_a_topic_made_anew_under_a_running_consumer_is_read_from_its_start(world: World) -> None:
    """Its position was in the new topic's range, and what came before that was never read."""
    seen: list[int] = []

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        world.record(tx, paid.order, paid.cents)

    @world.consumer.on(Opened)
    def note(tx: Any, opened: Opened) -> None:
        seen.append(opened.cents)

    world.deliver(*world.producer.paid("a", 1, 2))
    loop = world.settle()
    world.log.drop(TOPIC)  # type: ignore[attr-defined]
    world.after(5.0, loop)
    assert loop.held == {}
    world.log.create(TOPIC, 1)
    world.deliver(*(world.producer.commit(Opened(cents)) for cents in range(5)))
    world.deliver(*world.producer.paid("a", 3))
    world.after(20.0, loop)
    assert seen == [0, 1, 2, 3, 4]
    assert world.of("a") == [1, 2, 3]


def test_an_event_kept_before_the_source_that_it_waits_for_was_read(world: World) -> None:
    """The consumer got a handler for that source meanwhile: there was no row to wait at."""
    world.handles_paid()
    bank = Producer("/bank/transfers")
    sent = bank.commit(Paid("t", 100))
    transfer = sent.altered(topic="transfers")
    first = world.producer.paid("a", 1)
    awaited = sent.reference._replace(source=bank.source)
    second = world.producer.commit(Paid("a", 2), after=awaited)
    world.deliver(second)
    loop = world.settle()
    drive(loop.leave())
    world.log.create("transfers", 1)
    loop = world.loop("two")
    loop.reading.topics = (TOPIC, "transfers")
    world.deliver(*first)
    world.settle(loop)
    assert world.of("a") == [1]
    world.deliver(transfer)
    world.settle(loop)
    assert world.ledger() == [("a", 1), ("t", 100), ("a", 2)]
    assert world.kept() == 0


def hangs() -> None:
    while True:
        time.sleep(0.01)


def test_a_handler_that_hangs_is_parked(world: World) -> None:
    """It runs no statement meanwhile, and no database may take that for a dead client first."""

    def pay(tx: Any, paid: Paid) -> None:
        world.record(tx, paid.order, paid.cents)
        if paid.order == "a":
            hangs()

    world.consumer.on(Paid)(watch.limited(pay, 0.2))
    a, b = world.producer.paid("a", 1, 2), world.producer.paid("b", 10, 20)
    world.deliver(b[0], a[0], b[1], a[1])
    world.settle(world.loop(handler_timeout_s=0.2, batch_time_s=0.2))
    assert world.of("b") == [10, 20]
    assert world.of("a") == []
    assert "HandlerTimeout" in world.parked()["a"][1]


def test_what_came_before_a_failing_event_is_committed_first(world: World) -> None:
    """All of it ran again, once more for each 50 events before the one that fails."""
    runs: Counter[int] = Counter()

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        runs[paid.cents] += 1
        if paid.cents == 120:
            raise ValueError("no account")
        world.record(tx, paid.order, paid.cents)

    sent = [one for n in range(200) for one in world.producer.paid(f"k{n}", n)]
    world.deliver(*sent)
    world.settle()
    assert set(runs.values()) <= {1, 2, 3}
    assert {runs[n] for n in range(120)} == {2}
    assert [n for _, n in world.ledger()] == [n for n in range(200) if n != 120]
    assert list(world.parked()) == ["k120"]


def test_a_plain_handler_that_gives_a_coroutine_has_failed(world: World) -> None:
    """Nobody would await it: its event was done, and its effects never came."""

    async def late(tx: Any, paid: Paid) -> None:
        world.record(tx, paid.order, paid.cents)

    world.consumer.on(Paid)(watch.limited(late, 10.0))
    world.deliver(*world.producer.paid("a", 1))
    world.settle()
    assert world.count("applied") == 0
    assert "which nobody awaits" in world.parked()["a"][1]


def test_an_object_that_is_called_like_a_coroutine_function_is_one() -> None:
    class Pay:
        async def __call__(self, tx: Any, paid: Paid) -> None:
            pass

    consumer = Consumer("billing")
    consumer.on(Paid)(Pay())
    assert consumer.asynchronous


def test_a_handler_that_ends_while_it_is_interrupted_has_ended() -> None:
    """The interruption was on its way: outside the handler it would end whatever runs then."""
    watching = Watch()
    handler = watching.limited(lambda: None, 1e6)
    outcome: list[object] = []

    def consume() -> None:
        try:
            outcome.append(handler())
            for _ in range(10_000):
                str(outcome)
        except HandlerTimeout as error:
            outcome.append(error)

    def is_ending() -> bool:
        frame = sys._current_frames().get(thread.ident or 0)
        return frame is not None and frame.f_code.co_name == "_end"

    thread = threading.Thread(target=consume)
    with watching._lock:
        thread.start()
        await_true(is_ending, "the handler to end")
        _interrupt(thread.ident or 0, HandlerTimeout)
    thread.join()
    assert outcome == [None]


def test_an_unkeyed_event_that_comes_again_with_another_time_is_a_duplicate(world: World) -> None:
    """Others' events have no time of their own: it is the log's, which differs for each copy."""
    broken = {1}

    @world.consumer.on(Opened)
    def opened(tx: Any, shop: Opened) -> None:
        if shop.cents in broken:
            raise ValueError("not yet")
        world.record(tx, "shop", shop.cents)

    again = world.producer.commit(Opened(1))
    one = again.altered(time_ms=again.outgoing.time_ms - 5000)
    world.deliver(one, again)
    loop = world.settle()
    broken.clear()
    world.after(5.0, loop)
    world.deliver(again)
    world.settle(loop)
    assert world.of("shop") == [1]
    assert (world.count("duplicates"), world.count("orphans"), world.count("forks")) == (2, 0, 0)


@pytest.mark.parametrize("later_ms", [-5000, 0, 5000])
def test_each_copy_of_an_unkeyed_event_behind_a_fork_is_counted(
    world: World, later_ms: int
) -> None:
    """Of the two that were kept, only one was looked at where the third had another time."""

    @world.consumer.on(Opened)
    def opened(tx: Any, shop: Opened) -> None:
        raise ValueError("not yet")

    one = world.producer.commit(Opened(1))
    world.deliver(one)
    loop = world.settle()
    other = one.altered(value=b'{"cents":2}')
    world.deliver(other)
    world.settle(loop)
    assert (world.count("forks"), world.kept()) == (1, 2)
    for copy in (one, other):
        world.deliver(copy.altered(time_ms=copy.outgoing.time_ms + later_ms))
        world.settle(loop)
    assert (world.count("duplicates"), world.count("forks"), world.kept()) == (2, 1, 2)


def test_of_two_owners_that_had_an_effect_the_first_result_holds(world: World) -> None:
    """The slow one's result took the place of the one that the handler had seen."""
    results = [11, 22]

    def charge(_: str) -> int:
        result = results.pop(0)
        if results:  # meanwhile, somebody else finds that the event is overdue
            world.rows("UPDATE oncebox.cursor SET lease_until = 0 RETURNING 1")
            world.rows("DELETE FROM oncebox.member RETURNING 1")
            world.after(60.0, world.loop("quick"))
        return result

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid, context: Context[None]) -> None:
        world.record(tx, paid.order, context.once("charge", charge))

    world.deliver(*world.producer.paid("a", 1))
    world.settle(world.loop("slow"))
    assert world.of("a") == [22]
    assert [bytes(result) for (result,) in world.rows("SELECT result FROM oncebox.effect")] == [
        b"22"
    ]


def test_an_outage_that_one_event_meets_holds_its_key_and_no_other(world: World) -> None:
    """One customer's server is away for good: everything waited for it."""
    away = {"a"}

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if paid.order in away:
            raise ConnectionError("no route to a's server")
        world.record(tx, paid.order, paid.cents)

    a, b = world.producer.paid("a", 1, 2), world.producer.paid("b", 10, 20)
    world.deliver(b[0], a[0], b[1])
    loop = world.settle()
    assert world.of("b") == [10, 20]
    assert world.parked() == {"a": ("poison", "ConnectionError: no route to a's server", 0)}
    for _ in range(20):  # more than a failing event may be tried
        loop = world.after(400.0, loop)
    world.deliver(a[1], *world.producer.paid("b", 30))
    world.settle(loop)
    assert world.of("b") == [10, 20, 30]
    away.clear()
    world.after(400.0, loop)
    assert world.of("a") == [1, 2]


def test_an_outage_that_one_effect_meets_holds_its_key_and_no_other(world: World) -> None:
    away = {"a"}

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid, context: Context[None]) -> None:
        def charge(_: str) -> int:
            if paid.order in away:
                raise TimeoutError("no answer from a's bank")
            return paid.cents

        world.record(tx, paid.order, context.once("charge", charge))

    world.deliver(*world.producer.paid("a", 1, 2), *world.producer.paid("b", 10, 20))
    loop = world.settle()
    assert world.of("b") == [10, 20]
    assert world.of("a") == []
    away.clear()
    world.after(400.0, loop)
    assert world.of("a") == [1, 2]


def test_a_retry_that_meets_an_outage_spends_no_attempt(world: World) -> None:
    """It did, and a key that had failed once stayed parked when the outage was over."""
    trouble: list[Exception] = [ValueError("no such account")]

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if paid.order == "a" and trouble:
            raise trouble[0]
        world.record(tx, paid.order, paid.cents)

    world.deliver(*world.producer.paid("a", 1, 2), *world.producer.paid("b", 10))
    loop = world.settle()
    trouble[0] = ConnectionError("the bank does not answer")
    for _ in range(15):
        world.after(400.0, loop)
        assert world.parked()["a"][2] == 1
    trouble.clear()
    world.after(400.0, loop)
    assert world.of("a") == [1, 2]


@only("sqlite")
def test_a_handler_that_waits_for_its_own_batch_holds_its_key_and_no_other(
    world: World, tmp_path: Path
) -> None:
    """By a connection of its own, to a store that has one writer."""

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        world.record(tx, paid.order, paid.cents)
        if paid.order == "a":
            with closing(sqlite3.connect(tmp_path / "store.db", timeout=0)) as other:
                other.execute(world.insert, ("a", 0))

    world.deliver(*world.producer.paid("a", 1), *world.producer.paid("b", 10))
    world.settle()
    assert world.ledger() == [("b", 10)]
    assert world.parked()["a"][1] == "OperationalError: database is locked"


@only("postgres")
@pytest.mark.parametrize("carefully", [False, True])
def test_a_connection_that_is_lost_in_a_batch_costs_nothing(
    world: World, *, carefully: bool
) -> None:
    cuts = [2]

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        world.record(tx, paid.order, paid.cents)
        if paid.order == "broken":
            raise ValueError("no such account")
        if (paid.order, paid.cents) == ("a", 2) and cuts[0]:
            cuts[0] -= 1
            world.rows(f"select pg_terminate_backend({tx.info.backend_pid}, 10000)")

    a, b = world.producer.paid("a", 1, 2, 3), world.producer.paid("b", 2, 3)
    broken = world.producer.paid("broken", 0) if carefully else []
    world.deliver(a[0], *broken, b[0], a[1], a[2], b[1])
    world.settle()
    assert cuts == [0]
    assert len(world.slept) >= 2
    assert (world.of("a"), world.of("b")) == ([1, 2, 3], [2, 3])
    assert world.count("applied") == 5
    assert world.rows("select max(attempts) from oncebox.key where park is null") == [(0,)]
    assert {key: tries for key, (_, _, tries) in world.parked().items()} == (
        {"broken": 1} if carefully else {}
    )


@only("postgres")
def test_a_serialization_failure_spends_no_attempt(world: World) -> None:
    fails = [3]

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        world.record(tx, paid.order, paid.cents)
        if paid.cents == 2 and fails[0]:
            fails[0] -= 1
            tx.execute("do $$ begin raise sqlstate '40001'; end $$").fetchall()

    world.deliver(*world.producer.paid("a", 1, 2, 3))
    world.settle()
    assert fails == [0]
    assert world.of("a") == [1, 2, 3]
    assert world.parked() == {}
    assert world.rows("select max(attempts) from oncebox.key") == [(0,)]


@only("postgres")
@pytest.mark.parametrize("carefully", [False, True])
def test_two_consumers_whose_handlers_deadlock_both_go_on(world: World, *, carefully: bool) -> None:
    """One has to give way; it tries again, and spends no attempt."""
    world.rows("create table account (name text primary key, owed int not null)")
    world.rows("insert into account values ('x', 0), ('y', 0)")
    meet, deadlocks = threading.Barrier(2), list[str]()

    def pay(names: str) -> Any:
        first = [True]

        def pay(tx: Any, paid: Paid) -> None:
            if paid.order == "broken":
                raise ValueError("no such account")
            for at, name in enumerate(names):
                try:
                    update = "update account set owed = owed + %s where name = %s returning 1"
                    tx.execute(update, (paid.cents, name)).fetchall()
                except psycopg.errors.DeadlockDetected:
                    deadlocks.append(names)
                    raise
                if at == 0 and first:
                    first.clear()
                    meet.wait(30)
            world.record(tx, names, paid.cents)

        return pay

    broken = world.producer.paid("broken", 0) if carefully else []
    world.deliver(*broken, *world.producer.paid("a", 1, 2, 3))
    threads = []
    for consumer, names in (("billing", "xy"), ("mail", "yx")):
        loop = world.loop(consumer)
        loop.reading.consumer = consumer
        handler = plain_handler(pay(names), Paid, with_context=False)
        loop.reading.handlers = {"order.paid": handler}
        threads.append(threading.Thread(target=world.settle, args=(loop,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert deadlocks  # more, where the one that went on is slower than the other comes again
    assert (world.of("xy"), world.of("yx")) == ([1, 2, 3], [1, 2, 3])
    assert world.rows("select owed from account") == [(12,), (12,)]
    tries = "select attempts, count(*) from oncebox.key where key = 'a' and park is null group by 1"
    assert world.rows(tries) == [(0, 2)]


class SlowLog(EmbeddedLog):
    """A log that looks, when it is asked, who would have to wait for its answer."""

    waiting: Callable[[], object] = bool

    def describe(self, topic: str) -> Topic | None:
        assert not self.waiting()
        return super().describe(topic)

    def extents(self, topic: str) -> list[Extent]:
        assert not self.waiting()
        return super().extents(topic)

    def offsets_at(self, topic: str, time_ms: int) -> list[int]:
        assert not self.waiting()
        return super().offsets_at(topic, time_ms)


@only("sqlite")
@pytest.mark.parametrize("start", [None, datetime(2020, 1, 1, tzinfo=UTC)])
def test_no_lock_is_held_while_the_log_is_asked(
    world: World, tmp_path: Path, start: datetime | None
) -> None:
    """With the log away, nobody else could write to the store."""
    world.log.close()
    log = world.log = SlowLog(tmp_path / "log.db")
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1, 2))
    loop = world.loop(start=start)
    log.waiting = lambda: loop.reading.session.handle.in_transaction
    world.settle(loop)
    log.truncate(TOPIC, 0, 2)
    world.deliver(*world.producer.paid("a", 3))
    world.after(3600.0, loop)
    assert world.of("a") == [1, 2, 3]


@only("sqlite")
async def test_an_event_loop_does_not_wait_for_the_log(world: World, tmp_path: Path) -> None:
    """A web application would stand still while its log is away."""
    world.log.close()
    log = world.log = SlowLog(tmp_path / "log.db")
    log.waiting = lambda: threading.current_thread() is threading.main_thread()
    store = open_store(f"sqlite:///{tmp_path}/store.db", asynchronous=True)

    @world.consumer.on(Paid)
    async def pay(tx: Any, paid: Paid) -> None:
        await tx.execute(world.insert, (paid.order, paid.cents))

    world.deliver(*world.producer.paid("a", 1, 2))
    reading = replace(world.loop().reading, session=await drive_async(call(store.open)))
    loop = ConsumerLoop(
        reading, store, log, "one", stopping=lambda: len(world.ledger()) == 2, sleep=asyncio.sleep,
        fetch=lambda reader: lambda *bounds: asyncio.to_thread(reader.fetch, *bounds),
    )  # fmt: skip
    await drive_async(loop.run())
    assert world.of("a") == [1, 2]


@only("postgres")
def test_a_key_that_somebody_has_locked_for_long_is_nobodys_poison(world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1))
    loop = world.settle(world.loop(handler_timeout_s=0.2))
    other: Any = world.store.open()
    other.begin()
    other.run("select from oncebox.key for update")
    world.deliver(*world.producer.paid("a", 2))
    with pytest.raises(StoreUnavailable, match="statement timeout") as caught:
        assert not [drive(loop.turn()) for _ in range(TURNS_MAX)]
    drive(loop.outage(caught.value))
    assert world.parked() == {}
    other.rollback()
    other.close()
    world.settle(loop)
    assert world.of("a") == [1, 2]
