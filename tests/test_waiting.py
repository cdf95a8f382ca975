"""What operators see of a consumer: keys that wait, and its state in numbers, on both stores."""

from __future__ import annotations

import re
from typing import Any

import pytest

from chains import SOURCE, TOPIC, Opened, Paid, World
from oncebox.errors import ConfigurationError
from oncebox.operate.summary import summary, with_lag
from oncebox.operate.waiting import PAGE_MAX, START, Where, conditions, waiting
from oncebox.program import drive
from operating import ALL, desk_of, failing, fork, one_waiting, wait_list

# ---- what waits


def test_a_failed_key_is_listed_with_what_releases_it(world: World) -> None:
    failing(world, {"a"})
    world.deliver(*world.producer.paid("a", 1, 2), *world.producer.paid("b", 1))
    world.settle(world.loop(attempts_max=1))
    one = one_waiting(world)
    assert (one.source, one.key, one.kind) == (SOURCE, "a", "poison")
    assert re.fullmatch(r"ValueError: no account a \(operating:\d+\)", str(one.reason))
    assert one.head is not None
    assert (one.head.sequence, one.head.type) == (1, "order.paid")
    assert (one.attempts, one.due_ms, one.kept) == (1, None, 2)
    assert one.since_ms == world.now_ms
    assert one.release()[0] == "oncebox redrive billing --source /shop/orders --key a"


def test_a_gap_says_which_numbers_are_missing(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3, 4)
    world.deliver(a[0], a[3])
    world.settle()
    one = one_waiting(world)
    assert (one.kind, one.missing, one.sequence) == ("gap", (2, 3), 1)
    assert "oncebox republish --source /shop/orders --key a --from 2 --to 3" in one.release()


def test_a_gap_at_the_beginning_begins_with_one(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3)
    world.deliver(a[2])
    world.settle()
    assert one_waiting(world).missing == (1, 2)


def test_a_fork_is_released_by_accept(world: World) -> None:
    world.handles_paid()
    fork(world, "a")
    one = one_waiting(world)
    assert one.kind == "fork"
    assert one.release() == ["oncebox accept billing --source /shop/orders --key a"]


def test_an_event_that_waits_for_another_key_names_it(world: World) -> None:
    world.handles_paid()
    (x,) = world.producer.paid("x", 1)
    y = world.producer.commit(Paid("y", 2), after=x.reference)
    world.deliver(y)
    world.settle()
    one = one_waiting(world)
    assert one.kind == "waits"
    assert one.after is not None
    assert (one.after.source, one.after.key) == (SOURCE, "x")


def test_an_unkeyed_event_that_fails_is_listed_by_its_id(world: World) -> None:
    @world.consumer.on(Opened)
    def opened(tx: Any, event: Opened) -> None:
        raise ValueError("closed")

    sent = world.producer.commit(Opened(1))
    world.deliver(sent)
    world.settle()
    one = one_waiting(world)
    assert (one.kind, one.key, one.source) == ("poison", sent.id, SOURCE + "#id")


def test_conditions_choose_keys(world: World) -> None:
    failing(world, {"a", "b", "o'c", "d"})
    for key in ("a", "b", "o'c", "d"):
        world.deliver(*world.producer.paid(key, 1))
    world.settle()
    assert len(wait_list(world)) == 4
    assert [w.key for w in wait_list(world, Where(None, "b"))] == ["b"]
    found = wait_list(world, Where(None, None, conditions(["reason~o'c", "kind=poison"])))
    assert [w.key for w in found] == ["o'c"]
    assert found[0].release()[0].endswith("--key 'o'\"'\"'c'")
    assert wait_list(world, Where(None, None, conditions(["type=order.noted"]))) == []
    assert len(wait_list(world, Where(SOURCE))) == 4
    assert wait_list(world, Where("/other/orders")) == []


@pytest.mark.parametrize("text", ["", "reason", "colour=red", "=x", "reason=", "~x"])
def test_a_condition_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="condition"):
        conditions([text])


def test_pages_cover_everything_once(world: World) -> None:
    failing(world, {f"k{i}" for i in range(PAGE_MAX * 2 + 3)})
    for i in range(PAGE_MAX * 2 + 3):
        world.deliver(*world.producer.paid(f"k{i}", 1))
    world.settle(world.loop(parked_max=10_000))
    seen: list[str] = []
    behind = START
    pages = 0
    while True:
        page = drive(waiting(desk_of(world), ALL, behind))
        seen += [w.key for w in page.found]
        pages += 1
        if page.behind is None:
            break
        behind = page.behind
    assert pages == 3
    assert len(seen) == len(set(seen)) == PAGE_MAX * 2 + 3


def test_a_large_record_is_listed_too(world: World) -> None:
    failing(world, {"a"})
    (sent,) = world.producer.paid("a", 1)
    padded = sent.altered(value=b'{"order":"a","cents":1,"note":"' + b"x" * 200_000 + b'"}')
    world.deliver(padded)
    world.settle()
    one = one_waiting(world)
    assert one.head is not None
    assert one.head.type == "order.paid"


# ---- at a glance


def test_the_summary_counts_what_waits_and_what_was_done(world: World) -> None:
    failing(world, {"a"})
    a = world.producer.paid("g", 1, 2, 3)
    world.deliver(*world.producer.paid("a", 1, 2), a[0], a[2], a[0], *world.producer.paid("b", 1))
    world.settle()
    one = drive(summary(desk_of(world)))
    assert one.parked == (1, 0, 0)
    assert (one.gaps.open, one.behind, one.kept) == (1, 1, 3)
    assert one.gaps.since_ms == world.now_ms
    assert one.counts["applied"] == 2
    assert one.counts["duplicates"] == 1
    (partition,) = one.partitions
    assert (partition.topic, partition.partition, partition.position) == (TOPIC, 0, 6)
    assert partition.holder == "one"
    assert one.holders == ["one"]


def test_lag_is_told_in_records_and_seconds(world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1, 2))
    world.settle()
    late = world.producer.paid("a", 3, 4, 5)
    world.deliver(*late)
    now_ms = late[0].outgoing.time_ms + 5000
    one = with_lag(drive(summary(desk_of(world))), world.log, now_ms)
    assert (one.lag, one.lag_s) == one.partitions[0][-3:-1] == (3, 5.0)
    assert one.partitions[0].lost == 0
    world.settle()
    one = with_lag(drive(summary(desk_of(world))), world.log, now_ms)
    assert (one.lag, one.lag_s, one.partitions[0].lost) == (0, 0.0, 0)
