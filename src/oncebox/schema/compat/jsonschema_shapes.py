"""What values of each type may look like, where nothing is left to choose. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import combinations
from typing import Any, Final, TypeVar

from .jsonschema_read import Node, apart, matches

FINITE_MAX: Final = 256
"""Numbers of a range that are looked at one by one."""


def fraction(value: float) -> Fraction:
    """The number as it is written: 0.1 is a tenth."""
    return Fraction(value) if isinstance(value, int) else Fraction(repr(value))


def number(value: Fraction) -> int | float:
    """As JSON; a whole one near it, where it is too far for a float."""
    try:
        return value.numerator if value.denominator == 1 else float(value)
    except OverflowError:
        return round(value)


def as_json(value: Any) -> Any:
    """One of a few values, as it stands in a document."""
    return number(value) if isinstance(value, Fraction) else value


@dataclass(frozen=True)
class Numbers:
    """Multiples of `step` between the bounds, or of `values` if these are known."""

    step: Fraction | None = None
    low: Fraction | None = None
    high: Fraction | None = None
    low_open: bool = False
    high_open: bool = False
    values: frozenset[Fraction] | None = None

    def holds(self, value: Fraction) -> bool:
        """Whether it is one of them."""
        if self.low is not None and (value < self.low or (self.low_open and value == self.low)):
            return False
        if self.high is not None and (value > self.high or (self.high_open and value == self.high)):
            return False
        if self.step is not None and (value / self.step).denominator != 1:
            return False
        return self.values is None or value in self.values

    @cached_property
    def tight(self) -> Numbers:
        """The same numbers with the closest bounds, and one by one where they are few."""
        if self.values is not None:
            kept = frozenset(filter(self.holds, self.values))
            return replace(self, values=kept, low=min(kept, default=Fraction(1)), low_open=False,
                           high=max(kept, default=Fraction(0)), high_open=False)  # fmt: skip
        if self.step is None:
            return self
        low, high, step = self.low, self.high, self.step
        if low is not None:
            low = math.ceil(low / step) * step
            low += step if self.low_open and low == self.low else 0
        if high is not None:
            high = math.floor(high / step) * step
            high -= step if self.high_open and high == self.high else 0
        tight = replace(self, low=low, high=high, low_open=False, high_open=False)
        if low is not None and high is not None and (high - low) / step < FINITE_MAX:
            count = max(0, int((high - low) / step) + 1)
            values = frozenset(low + at * step for at in range(count))
            return replace(tight, values=values)
        return tight

    @property
    def few(self) -> frozenset[Fraction] | None:
        """The values that there are, if they are known one by one."""
        return self.tight.values

    def __bool__(self) -> bool:
        """Whether there may be any."""
        at = self.tight
        if at.values is not None:
            return bool(at.values)
        if at.low is None or at.high is None:
            return True
        return at.low < at.high or (at.low == at.high and not (at.low_open or at.high_open))

    def __and__(self, other: Numbers) -> Numbers:
        low, low_open = _bound((self.low, self.low_open), (other.low, other.low_open), max)
        high, high_open = _bound((self.high, self.high_open), (other.high, other.high_open), min)
        step = self.step or other.step
        if self.step is not None and other.step is not None:
            a, b = self.step, other.step
            step = Fraction(
                math.lcm(a.numerator * b.denominator, b.numerator * a.denominator),
                a.denominator * b.denominator,
            )
        return Numbers(step, low, high, low_open, high_open, _common(self.values, other.values))


Bound = tuple[Fraction | None, bool]


def _bound(a: Bound, b: Bound, closest: Callable[[Any, Any], Any]) -> Bound:
    if a[0] is None or b[0] is None:
        return b if a[0] is None else a
    return (closest(a[0], b[0]), a[1] or b[1]) if a[0] == b[0] else closest(a, b)


_T = TypeVar("_T")


def _common(a: frozenset[_T] | None, b: frozenset[_T] | None) -> frozenset[_T] | None:
    return b if a is None else a if b is None else a & b


def _least(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


@dataclass(frozen=True)
class Strings:
    """Lengths in characters."""

    low: int = 0
    high: int | None = None
    patterns: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset()
    values: frozenset[str] | None = None

    def holds(self, value: str) -> bool:
        """Whether it is one of them, as far as can be told."""
        return (
            self.low <= len(value)
            and (self.high is None or len(value) <= self.high)
            and (self.values is None or value in self.values)
            and all(matches(pattern, value) is not False for pattern in self.patterns)
        )

    @cached_property
    def few(self) -> frozenset[str] | None:
        """The values that there are, if they are known one by one."""
        if self.values is None:
            return frozenset({""}) if self.high == 0 else None
        return frozenset(filter(self.holds, self.values))

    def __bool__(self) -> bool:
        """Whether there may be any."""
        if (self.high is not None and self.low > self.high) or self.few == frozenset():
            return False
        return not any(apart(a, b) for a, b in combinations(sorted(self.patterns), 2))

    def __and__(self, other: Strings) -> Strings:
        return Strings(
            max(self.low, other.low), _least(self.high, other.high),
            self.patterns | other.patterns, self.formats | other.formats,
            _common(self.values, other.values),
        )  # fmt: skip


@dataclass(frozen=True)
class Arrays:
    """`parts`: what items are, by place and then for the rest; all of them hold."""

    few = None
    low: int = 0
    high: int | None = None
    unique: bool = False
    parts: tuple[tuple[tuple[Node, ...], Node | None], ...] = ()
    contains: tuple[tuple[Node, int, int | None], ...] = ()

    @property
    def places(self) -> int:
        """Up to which place items differ by place."""
        return max((len(prefix) for prefix, _ in self.parts), default=0)

    def at(self, place: int) -> tuple[Node, ...]:
        """What holds for the item there."""
        nodes = (p[place] if place < len(p) else rest for p, rest in self.parts)
        return tuple(node for node in nodes if node is not None)

    def __and__(self, other: Arrays) -> Arrays:
        return Arrays(
            max(self.low, other.low), _least(self.high, other.high), self.unique or other.unique,
            self.parts + other.parts, self.contains + other.contains,
        )  # fmt: skip


@dataclass(frozen=True)
class Part:
    """What one schema says of properties; `rest`: of those that it does not name."""

    properties: Mapping[str, Node]
    patterns: Mapping[str, Node]
    rest: Node | None = None


@dataclass(frozen=True)
class Objects:
    """What objects may look like."""

    few = None
    low: int = 0
    high: int | None = None
    required: frozenset[str] = frozenset()
    parts: tuple[Part, ...] = ()
    names: tuple[Node, ...] = ()
    dependents: tuple[tuple[str, frozenset[str]], ...] = ()

    @cached_property
    def known(self) -> dict[str, None]:
        """Names that are spoken of, in order."""
        names = {name: None for part in self.parts for name in part.properties}
        return {**names, **dict.fromkeys(sorted(self.wanted - names.keys()))}

    @cached_property
    def wanted(self) -> frozenset[str]:
        """Names that are to be there, or where others are."""
        return self.required.union(*(needs for _, needs in self.dependents))

    def needed_with(self, present: Iterable[str]) -> set[str]:
        """Names that are there if these are."""
        found = set(present)
        while more := {n for name, need in self.dependents if name in found for n in need} - found:
            found |= more
        return found

    @cached_property
    def patterns(self) -> dict[str, tuple[Node, ...]]:
        """What holds for names that match, besides other things."""
        found: dict[str, tuple[Node, ...]] = {}
        for part in self.parts:
            for pattern, node in part.patterns.items():
                found[pattern] = (*found.get(pattern, ()), node)
        return found

    def closed(self, writer: object) -> bool:
        """Whether its writer (a Pool) lists the properties and says nothing of others."""
        own = [
            part for part in self.parts
            if any(n.pool is writer for n in (*part.properties.values(), *part.patterns.values()))
        ]  # fmt: skip
        return bool(own) and all(part.rest is None for part in self.parts)

    def rest(self, writer: object | None) -> tuple[Node, ...] | None:
        """What holds for a name that nobody speaks of; None if there is no such property."""
        if writer is not None and self.closed(writer):
            return None
        nodes = tuple(part.rest for part in self.parts if part.rest is not None)
        return None if any(node.false for node in nodes) else nodes

    def at(self, name: str, writer: object | None) -> tuple[Node, ...] | None:
        """What holds for the property; None if there is no such."""
        nodes: list[Node] = []
        spoken = name in self.wanted
        for part in self.parts:
            own = [part.properties[name]] if name in part.properties else []
            unsure = False
            for pattern, node in part.patterns.items():
                verdict = matches(pattern, name)
                own += [node] if verdict else []
                unsure |= verdict is None
            spoken |= bool(own) or unsure
            if not own and not unsure and part.rest is not None:
                own = [part.rest]
            nodes += own
        if not spoken and writer is not None and self.closed(writer):
            return None
        return None if any(node.false for node in nodes) else tuple(nodes)

    def __and__(self, other: Objects) -> Objects:
        return Objects(
            max(self.low, other.low), _least(self.high, other.high),
            self.required | other.required, self.parts + other.parts,
            self.names + other.names, self.dependents + other.dependents,
        )  # fmt: skip


@dataclass(frozen=True)
class Values:
    """Null, or booleans: these."""

    few: frozenset[Any]

    def __bool__(self) -> bool:
        return bool(self.few)

    def __and__(self, other: Values) -> Values:
        return Values(self.few & other.few)


ANYTHING: Mapping[str, Any] = {
    "null": Values(frozenset({None})), "boolean": Values(frozenset({False, True})),
    "number": Numbers(), "string": Strings(), "array": Arrays(), "object": Objects(),
}  # fmt: skip
"""All values, by type."""


@dataclass(frozen=True)
class Case:
    """What values of each type may look like; of a type that is not there, there are none.
    `nodes`, `nots`: what it was made of.
    """

    shapes: Mapping[str, Any] = field(default_factory=lambda: ANYTHING)
    nodes: tuple[Node, ...] = ()
    nots: tuple[Node, ...] = ()

    @cached_property
    def types(self) -> tuple[str, ...]:
        """The types that values may have."""
        return tuple(kind for kind, of in self.shapes.items() if of)

    @cached_property
    def key(self) -> tuple[frozenset[Node], frozenset[Node]]:
        """Equal for equal cases."""
        return frozenset(self.nodes), frozenset(self.nots)

    def __and__(self, other: Case) -> Case:
        theirs = other.shapes
        both = {kind: of & theirs[kind] for kind, of in self.shapes.items() if kind in theirs}
        return Case(both, self.nodes + other.nodes, self.nots + other.nots)
