"""Tapes: a schedule as a row of small integers, and all of them within bounds.

A run asks its tape whenever something could go one way or another. 0 is what happens when nothing
goes wrong; every other number is a deviation of some kind. Behind its end a tape is all zeros. So
the tape is the whole schedule: it can be printed, kept and run again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

Tape = tuple[int, ...]
"""Ends with a deviation, or is empty: no two tapes are the same schedule."""

Kinds = tuple[str, ...]
"""What the numbers 1, 2 … of one choice would be."""

Points = list[tuple[int, Kinds]]
"""The choices behind a tape's end: (place on the tape, kinds)."""


class Unsteady(Exception):
    """A run that went another way on the same tape: something in it is not under control."""


class Bounds(NamedTuple):
    """How far schedules may deviate: in all, and by kind. A kind that is not named may happen
    `total` times; 0 rules it out.
    """

    total: int = 2
    kinds: Mapping[str, int] = MappingProxyType({})

    def allow(self, kind: str, spent: Kinds) -> bool:
        """Whether one more deviation of this kind fits behind those spent."""
        return len(spent) < self.total and spent.count(kind) < self.kinds.get(kind, self.total)


class Choices:
    """Reads a tape. Counts what deviated; notes, if asked to, where it could have."""

    __slots__ = ("at", "fired", "points", "tape")

    def __init__(self, tape: Tape, points: Points | None = None) -> None:
        self.tape = tape
        self.at = 0
        self.points = points
        self.fired: list[str] = []

    def choose(self, kinds: Kinds) -> int:
        """The tape's next number: 0, or the place of a kind in `kinds`, from 1."""
        at = self.at
        self.at = at + 1
        if at >= len(self.tape):
            if self.points is not None:
                self.points.append((at, kinds))
            return 0
        picked = self.tape[at]
        if picked:
            if picked > len(kinds):
                raise Unsteady(f"number {picked} at place {at} of the tape, of {len(kinds)}")
            self.fired.append(kinds[picked - 1])
        return picked

    def finish(self) -> None:
        """Raises Unsteady when the run ended before its tape did."""
        if self.at < len(self.tape):
            raise Unsteady(f"the run ended at place {self.at} of a tape of {len(self.tape)}")


def without_last(tape: Tape) -> Tape:
    """The tape that a tape goes on from by its last deviation."""
    end = len(tape) - 1
    while end > 0 and not tape[end - 1]:
        end -= 1
    return tape[:end]


def tape_text(tape: Tape) -> str:
    """A tape for people and command lines: `14:1 32:2` is 1 at place 14, 2 at place 32."""
    return " ".join(f"{at}:{number}" for at, number in enumerate(tape) if number)


def read_tape(text: str) -> Tape:
    """The tape of a `tape_text`. Raises ValueError for any other text."""
    pairs = [tuple(map(int, part.split(":"))) for part in text.split()]
    if any(len(pair) != 2 or min(pair) < 0 for pair in pairs):
        raise ValueError(f"tape {text!r}: expected place:number, place:number …")
    numbers = {pair[0]: pair[1] for pair in pairs}
    return tuple(numbers.get(at, 0) for at in range(max(numbers, default=-1) + 1))


def in_words(fired: list[str]) -> str:
    """`2 preemptions, 1 crash`, most first."""
    counts = Counter(fired).most_common()
    return ", ".join(f"{n} {kind}" + ("" if n == 1 else _plural(kind)) for kind, n in counts)


def _plural(kind: str) -> str:
    return "es" if kind.endswith(("s", "sh", "ch")) else "s"
