"""Documents made to order: that satisfy a writer's schema and may offend a reader's. Pure.

These are guesses, small ones first; the real validator judges them. A part is made so as to fail
where the proof failed, and then put into the smallest document around it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from random import Random
from typing import Any, Final

from .jsonschema_cases import Cases
from .jsonschema_prove import Failure, ItsName, Place
from .jsonschema_read import Node, matches
from .jsonschema_shapes import Arrays, Case, Numbers, Objects, Strings, fraction, number
from .jsonschema_strings import guesses

DEPTH_MAX: Final = 40
"""Parts inside each other of a document."""
SIZE_MAX: Final = 300
"""Items, properties or repeated characters that a bound in a schema can make us write."""
EACH_MAX: Final = 40
"""Documents tried for a part."""
HINTS_MAX: Final = 200
"""Subschemas whose constants are tried."""
WORK_MAX: Final = 20_000
"""Values that one maker makes, parts of others included."""
CHANCE_DEPTH_MAX: Final = 2
"""Down to where chance chooses; below, the smallest is taken."""
MISSING: Final = object()


@dataclass
class Hints:
    """Constants near which schemas differ."""

    numbers: set[Fraction] = field(default_factory=set)
    lengths: set[int] = field(default_factory=set)
    strings: dict[str, None] = field(default_factory=dict)
    patterns: dict[str, None] = field(default_factory=dict)
    names: dict[str, None] = field(default_factory=dict)
    values: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, nodes: Iterable[Node]) -> Hints:
        """What these say, and what they are made of."""
        hints, todo, seen = cls(), list(nodes), set[Node]()
        while todo and len(seen) < HINTS_MAX:
            node = todo.pop(0)
            if node not in seen:
                seen.add(node)
                hints.add(node.plain)
                todo += [*node.in_place(), *node.below()]
        return hints

    def add(self, plain: dict[str, Any]) -> None:
        """What a schema says."""
        for word, value in plain.items():
            if "imum" in word or word == "multipleOf":
                self.numbers.add(fraction(value))
            elif word.startswith(("min", "max")):
                self.lengths.add(int(value))
            elif word in ("const", "enum"):
                for each in [value] if word == "const" else value[:50]:
                    self.constant(each)
            elif word in ("properties", "dependentRequired", "dependentSchemas", "required"):
                self.names.update(dict.fromkeys(value))
            elif word == "pattern":
                self.patterns[value] = None
            elif word == "patternProperties":
                self.patterns.update(dict.fromkeys(value))

    def constant(self, value: Any) -> None:
        """A value that a schema names."""
        if isinstance(value, str):
            self.strings[value] = None
        elif isinstance(value, int | float) and not isinstance(value, bool):
            self.numbers.add(fraction(value))
        elif isinstance(value, dict | list):
            self.values.append(value)


_NO_HINTS = Hints()


@dataclass
class Maker:
    """Makes documents. With `rng` it chooses at random, else what is smallest comes first."""

    cases: Cases
    rng: Random | None = None
    work: int = 0
    _smallest: dict[Any, Any] = field(default_factory=dict)

    def documents(self, failure: Failure) -> Iterator[Any]:
        """Whole documents that may prove the failure."""
        for one in (failure, *failure.others):
            for sample in one.samples[:8]:
                hints = Hints.of((one.goal, *sample.nodes, *sample.nots))
                for value in islice(self.values(sample, hints), EACH_MAX):
                    whole = value
                    for case, place in reversed(one.trail):
                        whole = self.around(case, place, whole)
                        if whole is MISSING:
                            break
                    else:
                        yield whole

    def around(self, case: Case, place: Place, part: Any) -> Any:
        """The smallest document of the case with this part in it."""
        kind = "array" if isinstance(place, int) else "object"
        if kind not in case.types:
            return MISSING
        if isinstance(place, int):
            return self.array(case.shapes[kind], {place: part}, place + 1)
        of: Objects = case.shapes[kind]
        if isinstance(place, ItsName):
            value = self.property(of, part) if isinstance(part, str) else MISSING
            return MISSING if value is MISSING else self.object(of, {part: value})
        name = place if isinstance(place, str) else self.name(of, place.pattern)
        return MISSING if name is None else self.object(of, {name: part})

    def name(self, of: Objects, pattern: str | None, taken: Iterable[str] = ()) -> str | None:
        """A name that nobody speaks of, and that matches."""
        used = {*of.known, *taken}
        if pattern is not None:
            tries: Iterable[str] = guesses(pattern, self.rng, 8)
        else:
            tries = (f"other{n or ''}" for n in range(SIZE_MAX))
        if of.names:
            like = [] if pattern is None else [{"type": "string", "pattern": pattern}]
            nodes = [self.cases.synthetic(each) for each in (*like, {"type": "string"})]
            found = self.cases.of([*nodes, *of.names])
            tries = [str(s) for case in found for s in islice(self.values(case), 20)]
        others = list(of.patterns) if pattern is None else []
        for name in tries:
            if name in used or any(matches(p, name) for p in others):
                continue
            if pattern is None or matches(pattern, name):
                return name
        return None

    # ---- values of a case

    def value(self, nodes: Iterable[Node], depth: int = 0) -> Any:
        """One value that satisfies the nodes, or MISSING."""
        nodes = tuple(nodes)
        self.work += 1
        if depth >= DEPTH_MAX or self.work > WORK_MAX:
            return MISSING
        if self.rng is not None and depth <= CHANCE_DEPTH_MAX:
            return self._by_chance(nodes, depth, self.rng)
        if len(nodes) == 1 and nodes[0].inhabited and (plain := _plainest(nodes[0])) is not None:
            return plain
        key = frozenset(nodes)
        if key not in self._smallest:
            rng, self.rng = self.rng, None
            found = MISSING
            for case in self.cases.of(nodes)[:8]:
                hints = Hints.of((*case.nodes, *case.nots)) if case.nots else _NO_HINTS
                found = next(self.values(case, hints, depth), MISSING)
                if found is not MISSING:
                    break
            self._smallest[key] = found
            self.rng = rng
        return self._smallest[key]

    def _by_chance(self, nodes: tuple[Node, ...], depth: int, rng: Random) -> Any:
        cases = list(self.cases.of(nodes))
        rng.shuffle(cases)
        for case in cases[:8]:
            hints = Hints.of((*case.nodes, *case.nots))
            some = list(islice(self.values(case, hints, depth), 6))
            if some:
                return rng.choice(some)
        return MISSING

    def values(self, case: Case, hints: Hints = _NO_HINTS, depth: int = 0) -> Iterator[Any]:
        """Different values of a case."""
        kinds = list(case.types)
        if self.rng is not None:
            self.rng.shuffle(kinds)
        makers: list[Iterator[Any]] = []
        for kind in kinds:
            of = case.shapes[kind]
            if isinstance(of, Numbers):
                makers.append(map(number, self.numbers(of, hints)))
            elif isinstance(of, Strings):
                makers.append(self.strings(of, hints))
            elif isinstance(of, Arrays):
                makers.append(self.arrays(of, hints, depth))
            elif isinstance(of, Objects):
                makers.append(self.objects(of, hints, depth))
            else:
                makers.append(iter(sorted(of.few)))
        while makers:  # a turn for each type
            for each in list(makers):
                value = next(each, MISSING)
                if value is MISSING:
                    makers.remove(each)
                else:
                    yield value

    def numbers(self, of: Numbers, hints: Hints) -> Iterator[Fraction]:
        """At the bounds, at the constants, and beside them."""
        tight = of.tight
        if tight.values is not None:
            yield from self._mixed(sorted(tight.values))
            return
        near = [b for b in (tight.low, tight.high) if b is not None]
        near += sorted(hints.numbers)
        tries = [Fraction(0), Fraction(1)]
        for at in near:
            tries += [at, at + 1, at - 1, at + Fraction(1, 2), at - Fraction(1, 2)]
        tries += [Fraction(1, 2), Fraction(-1), Fraction(100), Fraction(-1000), Fraction(7)]
        if of.step is not None:
            tries += [math.ceil(at / of.step) * of.step for at in [*near, *tries]]
            tries += [(math.ceil(at / of.step) - 1) * of.step for at in near]
        yield from filter(of.holds, self._mixed(list(dict.fromkeys(tries))))

    def strings(self, of: Strings, hints: Hints) -> Iterator[str]:
        """Of the lengths where schemas differ, of the patterns, and the constants."""
        if of.few is not None:
            yield from self._mixed(sorted(of.few))
            return
        sizes = {of.low, *([] if of.high is None else [of.high])}
        sizes |= {at + by for at in hints.lengths for by in (-1, 0, 1)}
        tries = ["", "a", "0", "A", " "] if not of.low else []
        tries += ["a" * size for size in sorted(sizes) if 0 <= size <= SIZE_MAX]
        tries += hints.strings
        for pattern in (*sorted(of.patterns), *hints.patterns):
            found = list(guesses(pattern, self.rng))
            tries += found
            tries += [text + text[-1:] * (size - len(text)) for text in found for size in sizes
                      if len(text) < size <= SIZE_MAX]  # fmt: skip
        tries += ["Z9", "\U0001f600", "a b", "0" * min(of.low, SIZE_MAX)]
        yield from filter(of.holds, self._mixed(list(dict.fromkeys(tries))))

    def _mixed(self, some: list[Any]) -> list[Any]:
        if self.rng is not None:
            self.rng.shuffle(some)
        return some

    # ---- arrays and objects

    def arrays(self, of: Arrays, hints: Hints, depth: int) -> Iterator[list[Any]]:
        """Of the lengths where schemas differ, of equal and of different items."""
        sizes = [of.low, of.low + 1, of.low + 2, *([] if of.high is None else [of.high])]
        sizes += [at + by for at in sorted(hints.lengths) for by in (-1, 0, 1)]
        most = SIZE_MAX if of.high is None else min(SIZE_MAX, of.high)
        sizes = [size for size in dict.fromkeys(sizes) if of.low <= size <= most]
        for size in self._mixed(sizes):
            if (made := self.array(of, {}, size, depth)) is not MISSING:
                yield made
        if depth > 2:
            return
        rest = of.at(of.places)
        for case in self.cases.of(rest)[:8]:
            for item in islice(self.values(case, hints, depth + 1), 12):
                for size in (of.low, of.places + 1, of.places + 2):
                    if of.places < size <= SIZE_MAX and self._fits(of, size):
                        given = dict.fromkeys(range(of.places, size), item)
                        made = self.array(of, given, size, depth)
                        if made is not MISSING:
                            yield made

    def array(self, of: Arrays, given: dict[int, Any], size: int, depth: int = 0) -> Any:
        """An array with these items at their places."""
        size = max(size, of.low)
        if size > 10 * SIZE_MAX:
            return MISSING
        made: list[Any] = []
        wanted = [node for node, least, _ in of.contains for _ in range(min(least, SIZE_MAX))]
        for at in range(max(size, len(given) + len(wanted) if of.contains else 0)):
            if at in given:
                made.append(given[at])
                continue
            nodes = of.at(at)
            if wanted:
                item = self.value((*nodes, wanted[0]), depth + 1)
                if item is not MISSING:
                    wanted.pop(0)
                    made.append(item)
                    continue
            item = (
                self.another(nodes, made, depth + 1) if of.unique else self.value(nodes, depth + 1)
            )
            if item is MISSING:
                return MISSING
            made.append(item)
        return made

    def another(self, nodes: tuple[Node, ...], others: list[Any], depth: int) -> Any:
        """A value that is not there yet."""
        if depth > DEPTH_MAX:
            return MISSING
        hints = Hints(numbers={Fraction(n) for n in range(len(others) + 1)},
                      lengths=set(range(len(others) + 2)))  # fmt: skip
        for case in self.cases.of(nodes):
            for value in islice(self.values(case, hints, depth), 4 * len(others) + 8):
                if value not in others:
                    return value
        return MISSING

    def objects(self, of: Objects, hints: Hints, depth: int) -> Iterator[dict[str, Any]]:
        """The smallest, and with each property that may matter; of several sizes."""
        base = self.object(of, {}, depth)
        if base is MISSING:
            return
        yield base
        known = [name for name in of.known if name not in base]
        matter = list(dict.fromkeys([*(n for n in hints.names if n not in base), *known]))
        for name in self._mixed(matter)[:EACH_MAX]:
            if (made := self.with_names(of, [name], depth)) is not MISSING:
                yield made
        if (made := self.with_names(of, known, depth)) is not MISSING:
            yield made
        if self.rng is not None:
            for _ in range(4):
                some = [name for name in matter if self.rng.random() < 0.5]
                if (made := self.with_names(of, some, depth)) is not MISSING:
                    yield made
        for size in sorted({at + by for at in {*hints.lengths, len(base)} for by in (0, 1)}):
            if len(base) < size <= SIZE_MAX and (of.high is None or size <= of.high):
                made = self.filled(of, base, size, depth)
                if made is not MISSING:
                    yield made
        for value in hints.values:
            if isinstance(value, dict):
                yield value

    def property(self, of: Objects, name: str, depth: int = 0) -> Any:
        """A value of a property, or MISSING."""
        nodes = of.at(name, self.cases.writer)
        return MISSING if nodes is None else self.value(nodes, depth)

    def with_names(self, of: Objects, names: list[str], depth: int) -> Any:
        """The smallest object that has these properties, as far as they may be there."""
        given: dict[str, Any] = {}
        for name in names[:SIZE_MAX]:
            value = self.property(of, name, depth + 1)
            if value is not MISSING:
                given[name] = value
        return self.object(of, given, depth) if given else MISSING

    def object(self, of: Objects, given: dict[str, Any], depth: int = 0) -> Any:
        """The smallest object with these properties."""
        if given and self.rng is None and not of.dependents:
            base = self._smallest_of(of, depth)
            if base is not MISSING:
                return {**base, **given}
        made = dict(given)
        for name in sorted(of.needed_with({*of.required, *given}) - made.keys()):
            value = self.property(of, name, depth + 1)
            if value is MISSING:
                return MISSING
            made[name] = value
        return self.filled(of, made, of.low, depth)

    def _smallest_of(self, of: Objects, depth: int) -> Any:
        if id(of) not in self._smallest:
            self._smallest[id(of)] = self.object(of, {}, depth)
        return self._smallest[id(of)]

    def filled(self, of: Objects, made: dict[str, Any], size: int, depth: int) -> Any:
        """The object with further properties, until there are so many."""
        if size > SIZE_MAX:
            return MISSING
        made = dict(made)
        names = [name for name in of.known if name not in made]
        while len(made) < size:
            known = bool(names)
            name = names.pop(0) if names else self._further(of, made)
            if name is None:
                return MISSING
            value = self.property(of, name, depth + 1)
            if value is not MISSING:
                made[name] = value
            elif not known:
                return MISSING
        return made

    def _further(self, of: Objects, made: dict[str, Any]) -> str | None:
        """A name for one more property."""
        name = self.name(of, None, made)
        if name is not None and of.at(name, self.cases.writer) is not None:
            return name
        return next((n for p in of.patterns if (n := self.name(of, p, made))), None)

    def _fits(self, of: Arrays, size: int) -> bool:
        return of.low <= size and (of.high is None or size <= of.high)


def _plainest(node: Node) -> Any:
    """A value of a node that says next to nothing; None where it says more."""
    kind, plain = node.plain.get("type"), node.plain
    if kind == "string" and plain.get("minLength", 0) <= SIZE_MAX:
        return "a" * int(plain.get("minLength", 0))
    if kind in ("integer", "number"):
        return max(0, math.ceil(plain.get("minimum", 0)))
    return (
        {"boolean": False, "array": [], "object": {}}.get(kind) if isinstance(kind, str) else None
    )
