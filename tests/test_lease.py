"""Who reads what: partitions are shared evenly, and move only when they have to."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains import World
from oncebox.consumer.loop import ConsumerLoop
from oncebox.lease import acquire, add_cursor, fair_share
from oncebox.ports import TopicPartition
from oncebox.program import drive
from oncebox.statements import statements
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate
from producing import await_true

NAMES = ("a", "b", "c", "d", "e")
ROUNDS_MAX = 12


def settle(holders: dict[TopicPartition, str | None], members: list[str]) -> int:
    """Let members decide in turn until nothing moves; how many partitions moved."""
    moved = 0
    for _ in range(ROUNDS_MAX):
        before = dict(holders)
        for me in members:
            take, back = fair_share(holders, me, members)
            for place in back:
                holders[place] = None
            for place in take:
                assert holders[place] is None or holders[place] not in members
                holders[place] = me
                moved += 1
        if holders == before:
            return moved
    raise AssertionError(f"still moving after {ROUNDS_MAX} rounds: {holders}")


@given(
    total=st.integers(0, 13),
    members=st.lists(st.sampled_from(NAMES), min_size=1, unique=True),
    data=st.data(),
)
def test_every_partition_has_a_reader_and_nobody_two_above_another(
    total: int, members: list[str], data: st.DataObject
) -> None:
    holder = st.sampled_from([None, "gone", *members])
    holders = {("t", i): data.draw(holder) for i in range(total)}
    settle(holders, members)
    counts = [sum(1 for h in holders.values() if h == name) for name in members]
    assert sum(counts) == total
    assert max(counts) - min(counts) <= 1


@given(total=st.integers(1, 13), members=st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
def test_what_is_shared_evenly_stays(total: int, members: list[str]) -> None:
    holders: dict[TopicPartition, str | None] = {("t", i): None for i in range(total)}
    settle(holders, members)
    assert settle(dict(holders), members) == 0


def test_a_member_that_leaves_moves_only_its_own() -> None:
    holders: dict[TopicPartition, str | None] = {("t", i): None for i in range(6)}
    settle(holders, ["a", "b", "c"])
    before = dict(holders)
    settle(holders, ["a", "b"])
    assert all(holders[p] == h for p, h in before.items() if h != "c")


def share(loops: Sequence[ConsumerLoop], world: World) -> None:
    """Each process looks after its leases, in turn, until all have seen what the others did."""
    for _ in range(ROUNDS_MAX):
        world.now_ms += 1000
        for loop in loops:
            drive(loop.turn())


@pytest.mark.parametrize("forgetful", [["a"], ["b"], ["a", "b"]])
@pytest.mark.parametrize("partitions", [2, 3, 5])
def test_after_an_outage_no_partition_is_kept_without_being_read(
    world: World, partitions: int, forgetful: list[str]
) -> None:
    """One that had two of three went on with one of them: to itself it had as many as the other,
    whose name came first, and to the other, two. The second was renewed for ever, and not read.
    """
    world.topics = ("many",)
    world.log.create("many", partitions)
    loops = {holder: world.loop(holder) for holder in ("b", "a")}
    share([*loops.values()], world)
    for holder in forgetful:
        loops[holder].begin_anew()
    share([*loops.values()], world)
    rows = world.rows("SELECT partition, holder FROM oncebox.cursor")
    kept = {(partition, holder) for partition, holder in rows}
    read = {(place[1], holder) for holder, loop in loops.items() for place in loop.held}
    counts = [len(loop.held) for loop in loops.values()]
    assert kept == read
    assert sum(counts) == partitions
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("pipelined", [True, False])
def test_an_owner_that_stands_still_in_its_transaction_is_ended(
    postgres_url: str, pipelined: bool
) -> None:
    """As one that was stopped, or whose host is gone; in a pipeline no limit of idle time holds."""
    store, sql, place = open_store(postgres_url), statements("postgres"), ("t", 0)
    still: Any = store.open()
    next_one: Any = store.open()
    drive(migrate(still))
    drive(add_cursor(still, sql, "billing", place))
    first = drive(acquire(still, sql, "billing", place, "still", 0.0))
    assert first is not None
    still.begin()
    still.send(sql["limits"], ("1s", "1h"))
    if pipelined:
        still.pipeline(True)
    assert still.run("update oncebox.cursor set open_batch = 1 returning 1") == [(1,)]

    next_one.run("set statement_timeout = '5s'")
    drive(add_cursor(next_one, sql, "billing", place))  # does not wait for the one that has it
    assert drive(acquire(next_one, sql, "billing", place, "next", 4.0, 3600.0)) is None
    took = partial(acquire, next_one, sql, "billing", place, "next", 4.0, 0.0)
    await_true(lambda: drive(took()) is not None, "the next one has it")
    assert next_one.run("select term, holder from oncebox.cursor") == [(first.term + 1, "next")]
    with suppress(psycopg.OperationalError):
        still.pipeline(False)
    with pytest.raises(psycopg.OperationalError):
        still.commit()
    still.close()
    next_one.close()


def test_one_that_works_for_long_is_not_ended(postgres_url: str) -> None:
    """A rebuild that emptied a large table for longer than a batch may take was ended each time."""
    store, sql, place = open_store(postgres_url), statements("postgres"), ("t", 0)
    works: Any = store.open()
    next_one: Any = store.open()
    drive(migrate(works))
    drive(add_cursor(works, sql, "billing", place))
    works.begin()
    works.run(sql["lock_cursors"], ("billing",))
    (pid,) = works.run("select pg_backend_pid()")[0]
    ended: list[type[Exception]] = []

    def clear() -> None:
        try:
            works.run("select pg_sleep(600)")
        except psycopg.Error as error:
            ended.append(type(error))

    clearing = threading.Thread(target=clear)
    clearing.start()
    does = f"select wait_event from pg_stat_activity where pid = {pid}"
    await_true(lambda: next_one.run(does) == [("PgSleep",)], "it works")
    assert drive(acquire(next_one, sql, "billing", place, "next", 4.0, 0.0)) is None
    next_one.run(f"select pg_cancel_backend({pid})")
    clearing.join()
    assert ended == [psycopg.errors.QueryCanceled]
    works.close()
    next_one.close()
