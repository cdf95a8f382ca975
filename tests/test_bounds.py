"""The consumer's bounds: how much is in one batch, how long a handler runs, how much may wait."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from chains import Paid, World, make_store
from oncebox.consumer.timeouts import watch
from oncebox.operate.actions import skip
from oncebox.program import drive
from oncebox.statements import statements
from operating import desk_of, failing, only, wait_list


def sizes(world: World, **bounds: Any) -> list[int]:
    """How many of forty events each turn applies."""
    world.handles_paid()
    world.deliver(*(world.producer.paid(f"k{i}", i)[0] for i in range(40)))
    loop, done, found = world.loop(**bounds), 0, []
    while done < 40:
        drive(loop.turn())
        found.append(len(world.ledger()) - done)
        done += found[-1]
    return [count for count in found if count]


def test_a_batch_has_a_count(world: World) -> None:
    assert sizes(world, batch_max=15) == [15, 15, 10]


def test_a_batch_has_a_size(world: World) -> None:
    found = sizes(world, batch_bytes_max=2_000)
    assert len(found) > 3
    assert max(found) < 15


def test_a_batch_has_a_time(world: World) -> None:
    """What was done when time is up is committed, whatever the events behind it do."""

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        world.now_ms += 100
        if paid.cents == 39:
            raise SystemExit("the process dies")
        world.record(tx, paid.order, paid.cents)

    world.deliver(*(world.producer.paid(f"k{i}", i)[0] for i in range(40)))
    with pytest.raises(SystemExit):
        world.settle(world.loop(batch_time_s=1.0))
    assert len(world.ledger()) == 33  # three batches of eleven: each ends at the first one too late


def test_a_plain_handler_that_runs_too_long_is_interrupted(world: World) -> None:
    world.handles_paid()
    handler = world.consumer.handlers["order.paid"]

    def slow(tx: Any, paid: Paid) -> None:
        handler.function(tx, paid)
        while paid.order == "a":
            time.sleep(0.01)

    limited = watch.limited(slow, 0.1)
    world.consumer.handlers["order.paid"] = handler._replace(function=limited)
    world.deliver(*world.producer.paid("a", 1), *world.producer.paid("b", 10))
    world.settle()
    assert world.ledger() == [("b", 10)]
    assert "HandlerTimeout" in world.parked()["a"][1]


@only("postgres")
def test_a_statement_that_runs_too_long_is_ended_by_the_database(world: World) -> None:
    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        world.record(tx, paid.order, paid.cents)
        if paid.order == "a":
            tx.execute("select pg_sleep(600)")

    world.deliver(*world.producer.paid("a", 1), *world.producer.paid("b", 10))
    world.settle(world.loop(handler_timeout_s=0.2))
    assert world.ledger() == [("b", 10)]
    assert "timeout" in world.parked()["a"][1]


def test_too_many_bytes_behind_parked_keys_pause_the_consumer(world: World) -> None:
    broken = {"a"}
    failing(world, broken)
    world.deliver(*world.producer.paid("a", *range(30)), *world.producer.paid("b", 10))
    loop = world.settle(world.loop(batch_max=5, kept_bytes_max=2_000))

    def paused() -> bool:
        return loop.paused

    assert paused()
    assert 5 <= world.kept() < 30
    assert world.of("b") == []
    while wait_list(world):  # somebody gives up one after the other: it goes on
        for one in wait_list(world):
            drive(skip(desk_of(world), one, None, ""))
        world.after(2.0, loop)
    assert not paused()
    assert world.of("b") == [10]


@pytest.mark.parametrize(
    "name", ["take_due", "held", "raise_floors", "held_summary", "held_keys", "gap_source"]
)
def test_what_is_asked_again_and_again_reads_no_key_that_does_not_wait(
    tmp_path: Path, name: str
) -> None:
    """A million keys were read each second, with the file locked."""
    session: Any = make_store("sqlite", tmp_path, None).open()
    sql = statements("sqlite")[name]
    count = max(int(number) for number in re.findall(r"\?(\d+)", sql))
    plan = [row[-1] for row in session.run(f"EXPLAIN QUERY PLAN {sql}", [1] * count)]
    reads = [step for step in plan if step.startswith(("SEARCH k ", "SCAN k"))]
    assert reads
    assert all("INDEX oncebox_key_" in step for step in reads), plan
    session.close()


@pytest.mark.parametrize(
    ("bound", "step_ms", "most"),
    [({"batch_max": 20}, 0, 50), ({"batch_bytes_max": 8_000}, 0, 40), ({"batch_time_s": 1.0}, 100, 12)],
)  # fmt: skip
def test_what_was_kept_is_done_in_bounded_batches(
    world: World, bound: dict[str, Any], step_ms: int, most: int
) -> None:
    """A filled gap let all that waited behind it go on in one transaction."""
    done, commits = [0], list[int]()

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        world.record(tx, paid.order, paid.cents)
        done[0] += 1
        world.now_ms += step_ms

    sent = world.producer.paid("a", *range(300))
    world.deliver(*sent[1:])
    drive(world.settle().leave())
    loop = world.loop("two", **bound)
    session = loop.reading.session
    commit = session.commit

    def counting() -> None:
        commit()
        commits.append(done[0])
        done[0] = 0

    session.commit = counting  # type: ignore[method-assign]
    world.deliver(sent[0])
    world.settle(loop)
    assert world.of("a") == list(range(300))
    assert max(commits) <= most
    assert world.kept() == 0


def test_a_key_that_keeps_much_costs_a_batch_little(world: World) -> None:
    """Each batch read all that was kept behind a parked key, for one more event of it."""

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        raise ValueError("no account")

    sent = world.producer.paid("a", *range(400))
    world.deliver(*sent[:300])
    loop = world.settle()
    session, read = loop.reading.session, [0]
    run: Any = session.run

    def counting(sql: str, parameters: Any = ()) -> Any:
        rows = run(sql, parameters)
        read[0] += len(rows) if sql.lstrip().lower().startswith("select") else 0
        return rows

    session.run = counting  # type: ignore[method-assign]
    world.deliver(*sent[300:310], sent[200], sent[310])
    world.settle(loop)
    assert world.kept() == 311
    assert world.count("duplicates") == 1
    assert read[0] < 100


def test_a_pause_for_what_is_kept_behind_a_gap_ends_when_the_gap_is_filled(world: World) -> None:
    """`republish` writes behind all that the consumer does not read while it is paused."""
    world.handles_paid()
    a, b = world.producer.paid("a", *range(30)), world.producer.paid("b", *range(20))
    world.deliver(*a[1:], *b)
    loop = world.settle(world.loop(batch_max=5, kept_bytes_max=2_000))

    def paused() -> bool:
        return loop.paused

    assert paused()
    assert world.ledger() == []
    assert 5 <= world.kept() < 29
    world.deliver(a[0])
    world.after(2.0, world.after(2.0, loop))
    assert not paused()
    assert world.of("a") == list(range(30))
    assert world.of("b") == list(range(20))


def test_a_pause_for_what_waits_for_another_key_ends_when_that_one_comes(world: World) -> None:
    """It is behind all that the consumer does not read while it is paused."""
    world.handles_paid()
    a = world.producer.paid("a", 1, 2)
    b = [world.producer.commit(Paid("b", cents), after=a[1].reference) for cents in range(30)]
    world.deliver(*b, *world.producer.paid("c", *range(20)), *a)
    loop = world.settle(world.loop(batch_max=5, kept_bytes_max=2_000))
    world.after(2.0, world.after(2.0, loop))
    assert not loop.paused
    assert world.ledger()[:3] == [("a", 1), ("a", 2), ("b", 0)]
    assert world.of("b") == list(range(30))
    assert world.of("c") == list(range(20))
