"""Explore a world: every schedule within bounds, those with the fewest deviations first.

So the first one that fails is a smallest one. Two judges look at the end of each: the world's own
account (each thing once, in order, nothing left over), and the state, which has to be that of the
schedule without any deviation. Either alone is blind: a mistake that is there without deviations
shows in the account only; a wrong value under right accounts in the state only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from .run import BEGIN_MS, Broken, Moment, Run, World
from .tape import Bounds, Choices, Kinds, Points, Tape, Unsteady, in_words, tape_text

SCHEDULES_MAX = 1_000_000
LINES_MAX = 120
"""Lines of a timeline that are shown: most of them the first ones, where it went wrong."""


@dataclass(frozen=True)
class Failure:
    """The first schedule that breaks a promise, with what happened step by step."""

    what: str
    tape: Tape
    fired: list[str]
    timeline: list[Moment]

    def __str__(self) -> str:
        head = f"FAILED with {in_words(self.fired) or 'no deviation'}: {self.what}"
        lines = list(map(_line, self.timeline))
        if len(lines) > LINES_MAX:
            left_out = f"  … {len(lines) - LINES_MAX} steps …"
            lines[LINES_MAX - 20 : -20] = [left_out]
        return "\n".join([head, f"tape: {tape_text(self.tape)}", *lines])


@dataclass
class Report:
    """What was tried. `complete`: every schedule within the bounds was, or one failed. `merged`:
    schedules that were not run to their end, since a crash left what another one had left. `fired`
    counts what happened in those that were.
    """

    schedules: int = 0
    merged: int = 0
    steps: int = 0
    fired: Counter[str] = field(default_factory=Counter)
    complete: bool = True
    failure: Failure | None = None

    def __str__(self) -> str:
        fired = ", ".join(f"{kind} {n:,}" for kind, n in self.fired.most_common())
        run = self.schedules - self.merged
        head = f"{self.schedules:,} schedules tried, {run:,} of them to the end ({fired})"
        return head if self.failure is None else f"{head}\n{self.failure}"

    def expect_clean(self, *kinds: str) -> None:
        """Raises AssertionError, with the timeline, unless all went well; and unless each of
        these kinds of deviation really happened: where no fault fired, nothing was proved.
        """
        if self.failure is not None:
            raise AssertionError(str(self))
        if not self.complete:
            raise AssertionError(f"{self}: there are more")
        missing = [kind for kind in kinds if not self.fired[kind]]
        if missing:
            raise AssertionError(f"{self}: no {', no '.join(missing)} ever happened")


def explore(
    world: World, bounds: Bounds | None = None, *, schedules_max: int = SCHEDULES_MAX
) -> Report:
    """Try all schedules within the bounds until one fails. Raises Unsteady when a run cannot be
    repeated: then something (a clock, an id, a hash order) is not under the world's control.
    """
    return _Exploration(world, bounds or Bounds(), schedules_max).all()


def replay(world: World, tape: Tape) -> Failure | None:
    """Run one schedule and write its timeline; None if it breaks no promise by itself."""
    timeline: list[Moment] = []
    choices = Choices(tape)
    try:
        Run(world, choices, timeline).go()
        world.check()
    except Broken as broken:
        return Failure(str(broken), tape, choices.fired, timeline)
    return None


class _Enough(Exception):
    """As many schedules as there may be were tried."""


class _Exploration:
    def __init__(self, world: World, bounds: Bounds, schedules_max: int) -> None:
        self.world = world
        self.bounds = bounds
        self.schedules_max = schedules_max
        self.report = Report()
        self.tape: Tape = ()
        self.expected: object = None
        self.known: dict[tuple[object, ...] | None, int] = {}
        """Schedules by what a crash has left, and how far they may deviate from there."""

    def all(self) -> Report:
        try:
            self.begin()
            for count in range(self.bounds.total + 1):
                self.follow((), (), count)
        except _Enough:
            self.report.complete = False
        except Broken as broken:
            self.report.failure = self.explain(broken)
        return self.report

    def begin(self) -> None:
        """The schedule without deviations, twice: its state is expected of all others."""
        runs = []
        for _ in range(2):
            timeline: list[Moment] = []
            Run(self.world, Choices(()), timeline).go()
            self.expected = self.world.check()
            runs.append((timeline, self.expected))
        (first, one), (second, other) = runs
        for a, b in zip_longest(first, second):
            if a != b:
                raise Unsteady(f"the same schedule twice: once {a}, once {b}")
        if one != other:
            raise Unsteady(f"the same schedule twice ends with {one} and with {other}")

    def follow(self, tape: Tape, spent: Kinds, left: int) -> int:
        """Run every schedule with `left` deviations more behind this tape; how many there are.

        The tape itself was tried before. It is run again for its points: such runs are few against
        those that they lead to, and nothing has to be kept.
        """
        points: Points | None = [] if left else None
        same: tuple[object, ...] | None = None

        def was_left(behind: object) -> bool:
            nonlocal same
            same = behind, left, *sorted(spent)
            return same in self.known

        meaningful = self.run(tape, points, was_left)
        if same in self.known:
            self.report.merged += self.known[same]
            return self.count(self.known[same])
        if not meaningful:
            return 0
        total = self.count(1) if points is None else 0
        for at, kinds in points or ():
            for number, kind in enumerate(kinds, 1):
                if self.bounds.allow(kind, spent):
                    longer = (*tape, *(0,) * (at - len(tape)), number)
                    total += self.follow(longer, (*spent, kind), left - 1)
        if same is not None:
            self.known[same] = total
        return total

    def count(self, schedules: int) -> int:
        self.report.schedules += schedules
        if self.report.schedules >= self.schedules_max:
            raise _Enough
        return schedules

    def run(self, tape: Tape, points: Points | None, was_left: Callable[[object], bool]) -> bool:
        self.tape = tape
        choices = Choices(tape, points)
        run = Run(self.world, choices, was_left=was_left)
        meaningful = run.go()
        self.report.steps += run.moves
        if meaningful and points is None:
            self.report.fired.update(choices.fired)
            state = self.world.check()
            if state != self.expected:
                raise Broken(f"the state is {state}, and without deviations {self.expected}")
        return meaningful

    def explain(self, broken: Broken) -> Failure:
        """The failure with its timeline, from one more run of its schedule."""
        again = replay(self.world, self.tape)
        if again is None:  # the account was right, the state was not
            timeline: list[Moment] = []
            choices = Choices(self.tape)
            Run(self.world, choices, timeline).go()
            again = Failure("", self.tape, choices.fired, timeline)
        return replace(again, what=str(broken))


def _line(moment: Moment) -> str:
    mark = "✗" if moment.deviation else " "
    at_s = (moment.at_ms - BEGIN_MS) / 1000
    return f"{mark} {at_s:9.3f}  {moment.actor:<8} {moment.what}"
