"""Replay and rebuild, on both stores, with a consumer that runs."""

from __future__ import annotations

import pytest

from chains import TOPIC, World
from oncebox.errors import NotFound, Refused
from oncebox.program import drive
from oncebox.rewind import finish, prepare, rebuild, replay
from oncebox.summary import summary
from operating import desk_of


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
    assert drive(summary(desk_of(world))).rebuilding == {}
    assert drive(finish(desk_of(world), "")) == 1


def test_a_rebuild_that_cannot_clear_changes_nothing(world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1))
    loop = world.settle()
    with pytest.raises(Exception, match="nowhere"):
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
