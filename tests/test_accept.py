"""Accepting a source that forgot what it had published, on both stores."""

from __future__ import annotations

import pytest

from chains import SOURCE, World
from oncebox.errors import NotFound, Refused
from oncebox.operate.actions import accept, consider
from oncebox.program import drive
from operating import ask_producer, desk_of, fork, one_waiting, wait_list


def test_accept_goes_on_with_the_present_history(world: World) -> None:
    world.handles_paid()
    fork(world, "a")
    low = drive(consider(desk_of(world), SOURCE, "a", ask_producer(world), None))
    assert low > 0
    assert one_waiting(world).kind == "fork"
    done = drive(accept(desk_of(world), SOURCE, "a", ask_producer(world), None, "restored"))
    assert (done.sequence, done.kept) == (1, 2)
    world.after(2, world.loops[0])
    assert world.of("a") == [1, 2, 3, 20, 30]
    assert wait_list(world) == []
    whats = [what for (what,) in world.rows("SELECT what FROM oncebox.journal ORDER BY n")]
    assert whats == ["fork", "accept"]


def test_accept_lists_what_it_gives_up(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3, 4)
    world.deliver(a[0], a[3])
    world.settle()
    world.producer.restore("a", 1)
    other = world.producer.paid("a", 20)
    world.deliver(*other)
    world.settle()
    one = one_waiting(world)
    assert one.kind == "fork"
    done = drive(accept(desk_of(world), SOURCE, "a", ask_producer(world), None, ""))
    assert done.orphans == [a[3].id]
    world.after(2, world.loops[0])
    assert world.of("a") == [1, 20]
    world.deliver(a[3], a[1])
    world.settle(world.loops[0])
    assert world.of("a") == [1, 20]
    assert world.count("orphans") >= 1
    assert world.rows("SELECT id FROM oncebox.journal WHERE what = 'orphaned'") == [(a[3].id,)]


def test_accept_refuses_to_guess_and_takes_the_answer(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2)
    world.deliver(*a)
    world.settle()
    world.producer.restore("a", 0)
    world.producer.clock -= 10_000_000  # the clock of the restored database is behind
    other = world.producer.paid("a", 10, 20, 30)
    world.deliver(*other)
    world.settle()
    ask = ask_producer(world)
    with pytest.raises(Refused) as refused:
        drive(accept(desk_of(world), SOURCE, "a", ask, None, ""))
    assert "--after NUMBER" in str(refused.value)
    assert "0 to 3" in str(refused.value.expected)
    assert one_waiting(world).kind == "fork"
    done = drive(accept(desk_of(world), SOURCE, "a", ask, 0, "none of it is here"))
    assert done.kept == 3
    world.after(2, world.loops[0])
    assert world.of("a") == [1, 2, 10, 20, 30]


def test_accept_of_a_number_that_is_not_there(world: World) -> None:
    world.handles_paid()
    fork(world, "a")
    with pytest.raises(Refused, match="not one of the source's events"):
        drive(accept(desk_of(world), SOURCE, "a", ask_producer(world), 9, ""))


def test_accept_names_what_it_does_not_know(world: World) -> None:
    world.handles_paid()
    fork(world, "a")
    ask = ask_producer(world)
    with pytest.raises(NotFound, match="no source"):
        drive(accept(desk_of(world), "/other/orders", "a", ask, None, ""))
    with pytest.raises(NotFound, match="no key"):
        drive(accept(desk_of(world), SOURCE, "zzz", ask, None, ""))


def test_an_orphan_that_is_in_the_history_again_is_a_fork_until_accepted(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3, 4)
    world.deliver(a[0], a[3])
    world.settle()
    old = list(world.producer.history["a"])
    world.producer.restore("a", 1)
    other = world.producer.paid("a", 20)
    world.deliver(*other)
    world.settle()
    ask = ask_producer(world)
    drive(accept(desk_of(world), SOURCE, "a", ask, None, ""))
    world.after(2, world.loops[0])
    world.producer.history["a"] = old  # restored once more: onto the branch that was given up
    with pytest.raises(Refused, match="again"):
        drive(accept(desk_of(world), SOURCE, "a", ask, None, ""))
    done = drive(accept(desk_of(world), SOURCE, "a", ask, 1, ""))
    assert done.kept == 3
    world.after(2, world.loops[0])
    assert world.of("a") == [1, 20, 2, 3, 4]
    assert wait_list(world) == []
