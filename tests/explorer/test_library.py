"""The explorer itself: it tries everything within its bounds, once, and nothing that is not legal."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from oncebox.explorer import (
    Actor,
    Blocked,
    Bounds,
    Broken,
    Program,
    Run,
    Tape,
    Unsteady,
    World,
    arrivals,
    explore,
    read_tape,
    replay,
    tape_text,
)
from oncebox.explorer.run import Crash
from oncebox.explorer.tape import Choices

from . import zoo


class Letters(World):
    """Actors that write their letter, so many times each; `seen` counts what came out."""

    def __init__(self, letters: str, times: int) -> None:
        self.letters = letters
        self.times = times
        self.seen: Counter[str] = Counter()
        self.text = ""

    def begin(self, run: Run) -> None:
        self.text = ""
        for letter in self.letters:
            run.start(letter, self.write)

    def write(self, actor: Actor) -> Program:
        for _ in range(self.times):
            yield self.put, (actor.name,)

    def put(self, letter: str) -> None:
        self.text += letter

    def check(self) -> object:
        self.seen[self.text] += 1
        return sorted(self.text)


def runs_of(text: str) -> int:
    return len(list(itertools.groupby(text)))


def preemptions(text: str, times: int) -> int:
    """How often an actor was interrupted before it had ended; to begin with another is one."""
    left = Counter(dict.fromkeys(text, times))
    count = int(text[0] != min(text))
    for here, behind in itertools.pairwise(text):
        left[here] -= 1
        count += here != behind and left[here] > 0
    return count


@pytest.mark.parametrize(("letters", "times"), [("ab", 5), ("ab", 3), ("abc", 3)])
def test_every_interleaving_up_to_two_preemptions_once(letters: str, times: int) -> None:
    world = Letters(letters, times)
    report = explore(world, Bounds(2, {"crash": 0, "stall": 0}))
    report.expect_clean("preemption")
    every = {"".join(p) for p in itertools.permutations(letters * times)} if times == 3 else {
        "".join("b" if at in chosen else "a" for at in range(2 * times))
        for chosen in itertools.combinations(range(2 * times), times)
    }  # fmt: skip
    if letters == "ab":
        expected = {text for text in every if preemptions(text, times) <= 2}
        assert set(world.seen) == expected
    assert set(world.seen) <= every
    world.seen["".join(letter * times for letter in letters)] -= 2  # tried before the others
    assert set(world.seen.values()) == {1}, "a schedule was tried twice"


def test_a_crash_before_every_step() -> None:
    world = Letters("a", 5)
    report = explore(Forgiving(world), Bounds(1))
    assert report.failure is None
    assert world.seen == Counter({"aaaaa": 3, "": 1, "a": 1, "aa": 1, "aaa": 1, "aaaa": 1})


class Forgiving(World):
    """A world whose end does not matter."""

    def __init__(self, world: Letters) -> None:
        self.world = world

    def begin(self, run: Run) -> None:
        self.world.begin(run)

    def check(self) -> object:
        self.world.check()
        return None


class Cleaning(World):
    """A program that cleans up: by calls, which a dead process does not make."""

    def begin(self, run: Run) -> None:
        self.done: list[str] = []
        run.start("a", self.program)

    def program(self, actor: Actor) -> Program:
        try:
            yield self.done.append, ("work",)
        except BaseException:
            yield self.done.append, ("undo",)
            raise
        finally:
            yield self.done.append, ("leave",)

    def check(self) -> object:
        return None


def test_a_crashed_program_has_no_effect_any_more() -> None:
    world = Cleaning()
    run = Run(world, Choices((1,)))
    run.go()
    assert world.done == []
    assert run.choices.fired == ["crash"]


class Deadly(Cleaning):
    def program(self, actor: Actor) -> Program:
        yield self.die, ()

    def die(self) -> None:
        raise Crash

    def crashed(self, actor: Actor) -> None:
        self.done.append("crashed")


def test_a_call_can_kill_its_process() -> None:
    world = Deadly()
    Run(world, Choices(())).go()
    assert world.done == ["crashed"]


class Locks(World):
    """Two actors, two locks, in opposite orders."""

    def begin(self, run: Run) -> None:
        self.owner: dict[str, str] = {}
        run.start("a", lambda actor: self.take(actor, "xy"))
        run.start("b", lambda actor: self.take(actor, "yx"))

    def take(self, actor: Actor, locks: str) -> Program:
        for lock in locks:
            yield self.lock, (lock, actor.name)
        for lock in locks:
            yield self.owner.pop, (lock,)

    def lock(self, lock: str, name: str) -> None:
        if self.owner.setdefault(lock, name) != name:
            raise Blocked

    def check(self) -> object:
        return None


def test_a_deadlock_is_found_by_its_shortest_schedule() -> None:
    failure = explore(Locks(), Bounds(2, {"crash": 0, "stall": 0})).failure
    assert failure is not None
    assert failure.what == "a, b: each waits for another"
    assert failure.fired == ["preemption"]


class Sleepers(World):
    """Whoever rests wakes when nobody else can go on; a stall is longer than any rest."""

    def begin(self, run: Run) -> None:
        self.run = run
        self.log: list[tuple[str, int]] = []
        self.start = run.now_ms
        run.start("a", self.program)
        run.start("b", self.program)

    def program(self, actor: Actor) -> Program:
        for pause_s in (3.0, 1.0):
            yield self.log.append, ((actor.name, self.run.now_ms - self.start),)
            yield actor.rest, (pause_s if actor.name == "a" else pause_s / 2,)

    def settled(self) -> bool:
        return False

    def check(self) -> object:
        return None


def test_time_passes_only_when_all_rest() -> None:
    world = Sleepers()
    Run(world, Choices(())).go()
    assert world.log == [("a", 0), ("b", 0), ("b", 1500), ("a", 3000)]
    Run(world, Choices((2,))).go()
    assert world.log == [("b", 0), ("b", 1500), ("a", 0), ("a", 13_000)], "a stalled for 10 s"


class Chance(Letters):
    def put(self, letter: str) -> None:
        super().put(letter if random.random() < 0.5 else "?")

    def describe(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
        return f"put {self.text}"


def test_a_run_that_cannot_be_repeated_is_refused() -> None:
    with pytest.raises(Unsteady, match="the same schedule twice"):
        explore(Chance("a", 64))


def test_a_tape_of_another_world_is_refused() -> None:
    with pytest.raises(Unsteady):
        replay(Letters("a", 2), (0, 0, 0, 0, 0, 1))
    with pytest.raises(Unsteady):
        replay(Letters("a", 2), (9,))


def test_tapes_as_text() -> None:
    tape: Tape = (0, 0, 1, 0, 12)
    assert tape_text(tape) == "2:1 4:12"
    assert read_tape("2:1 4:12") == tape
    assert read_tape("") == ()
    for wrong in ("a", "1", "1:2:3", "-1:2"):
        with pytest.raises(ValueError, match="tape|invalid"):
            read_tape(wrong)


def test_a_program_that_fails_is_a_failure_with_its_timeline() -> None:
    class Failing(Letters):
        def put(self, letter: str) -> None:
            if self.text == "a":
                raise KeyError("no such letter")
            super().put(letter)

    failure = replay(Failing("a", 3), ())
    assert failure is not None
    assert failure.what == "a ended with KeyError: 'no such letter'"
    assert [moment.what for moment in failure.timeline] == [
        "put a",
        "put a",
        "  raises KeyError: 'no such letter'",
    ]


def test_nothing_is_proved_where_nothing_went_wrong() -> None:
    report = explore(Letters("a", 2), Bounds(1, {"crash": 0}))
    with pytest.raises(AssertionError, match="no crash ever happened"):
        report.expect_clean("crash")
    with pytest.raises(AssertionError, match="there are more"):
        explore(Forgiving(Letters("a", 9)), schedules_max=3).expect_clean()


# ---- what a log may do


LANES = {"a1": "a", "a2": "a", "a3": "a", "b1": "b", "b2": "b"}


class Orders(World):
    """Notes every order in which records may arrive."""

    def __init__(self, *, duplicates: bool) -> None:
        self.duplicates = duplicates
        self.orders: set[tuple[str, ...]] = set()

    def begin(self, run: Run) -> None:
        order = arrivals(run.choose, LANES, LANES.__getitem__, duplicates=self.duplicates)
        self.orders.add(tuple(order))

    def check(self) -> object:
        return None


def is_legal(order: tuple[str, ...]) -> bool:
    firsts = list(dict.fromkeys(order))
    return all(
        [r for r in firsts if LANES[r] == lane] == [r for r in LANES if LANES[r] == lane]
        for lane in "ab"
    )


def test_all_legal_orders_and_no_other() -> None:
    world = Orders(duplicates=False)
    explore(world, Bounds(5)).expect_clean("reordering")
    legal = {order for order in itertools.permutations(LANES) if is_legal(order)}
    assert len(legal) == 10
    assert world.orders == legal


def test_duplicates_come_behind_their_first_time() -> None:
    world = Orders(duplicates=True)
    explore(world, Bounds(2)).expect_clean("reordering", "duplicate")
    assert all(is_legal(order) for order in world.orders)
    once = {o for o in world.orders if len(o) == 6 and tuple(dict.fromkeys(o)) == tuple(LANES)}
    assert len(once) == len({o[:at] + (r,) + o[at:] for o in [tuple(LANES)]
                             for at in range(1, 6) for r in o[:at]})  # fmt: skip


# ---- consumers as teams write them


def test_a_right_consumer_passes_every_schedule() -> None:
    report = explore(zoo.Bazaar(zoo.right))
    report.expect_clean("crash", "duplicate", "reordering")
    assert report.schedules > 1000


@pytest.mark.parametrize(
    ("consume", "fired"),
    [
        (zoo.no_inbox, ["duplicate"]),
        (zoo.mark_after, ["crash"]),
        (zoo.mark_before, ["crash"]),
        (zoo.last_id_only, ["duplicate"]),
        (zoo.in_two_transactions, ["crash"]),
        (zoo.key_too_narrow, []),
    ],
)
def test_every_wrong_one_fails_by_a_smallest_schedule(
    consume: zoo.Consume, fired: list[str]
) -> None:
    failure = explore(zoo.Bazaar(consume)).failure
    assert failure is not None
    assert failure.fired == fired
    again = replay(zoo.Bazaar(consume), read_tape(tape_text(failure.tape)))
    assert again == failure, "a tape is the whole schedule"


class Forgetful(zoo.Bazaar):
    """Does not say what outlives a process, so every schedule is run to its end."""

    def state(self) -> None:
        return None


@pytest.mark.parametrize("consume", [zoo.right, zoo.mark_before, zoo.in_two_transactions])
def test_what_a_crash_leaves_is_followed_once_and_nothing_is_missed(consume: zoo.Consume) -> None:
    each, once = explore(Forgetful(consume)), explore(zoo.Bazaar(consume))
    assert once.failure == each.failure
    assert once.schedules == each.schedules
    assert once.merged > each.merged == 0


def test_acknowledging_before_the_commit_fails() -> None:
    failure = explore(zoo.Bazaar(zoo.right, ack=False)).failure
    assert failure is not None
    assert failure.fired == ["crash"]


def test_a_failure_reads_as_a_timeline() -> None:
    text = str(explore(zoo.Bazaar(zoo.mark_before)).failure)
    assert text.splitlines()[0] == "FAILED with 1 crash: a1 took effect 0 times"
    assert (
        "shop     sql INSERT INTO inbox VALUES (?) ON CONFLICT DO NOTHING RETURNING 1, a1" in text
    )
    assert "✗     0.000  shop     crashes before: pay" in text


def test_broken_is_an_assertion() -> None:
    assert issubclass(Broken, AssertionError)
