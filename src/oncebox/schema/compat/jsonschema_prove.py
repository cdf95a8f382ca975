"""Whether every document of one JSON Schema satisfies another: a proof, or where it fails. Pure.

The writer's schema is taken apart into cases (which may say too little, never too much); each
keyword of the reader's schema must follow from each case. What is not understood does not follow.
So no failure is a proof, and a failure is a place to look for a document.

Recursive schemas: a pair that is met again is taken to hold, since documents end; should the pair
fail, all that was proved meanwhile is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Final

from .jsonschema_cases import Cases, constants, listed
from .jsonschema_read import Node, escape
from .jsonschema_shapes import Arrays, Case, Objects

STEPS_MAX: Final = 12_000
"""Pairs of a case and a subschema that a proof may look at."""
DEPTH_MAX: Final = 50
"""Subschemas inside each other that a proof may go down."""
OPEN: Final = "property-added-open"
ALTERNATIVES_MAX: Final = 8
"""Failures of other alternatives that are kept, to look for documents there."""


@dataclass(frozen=True)
class AnyName:
    """Some property: that matches the pattern, or that nobody speaks of."""

    pattern: str | None = None


@dataclass(frozen=True)
class ItsName:
    """Not a property's value: its name."""


Place = str | int | AnyName | ItsName


Hop = tuple[Case, Place]
"""A part of a document of the case, at that place."""


@dataclass(frozen=True)
class Failure:
    """What does not follow. Documents for `samples`, put where `trail` leads, may prove it."""

    rule: str
    path: str
    written: Any
    read: Any
    goal: Node
    samples: tuple[Case, ...]
    others: tuple[Failure, ...] = ()
    """What fails with other alternatives."""
    trail: tuple[Hop, ...] = ()
    """From the whole document down to here."""

    def under(self, hop: Hop) -> Failure:
        """The same, a level further down."""
        others = tuple(other.under(hop) for other in self.others)
        return replace(self, trail=(hop, *self.trail), others=others)


@dataclass
class Prover:
    """Proofs between the schema of a writer, of which `cases` knows, and one of a reader."""

    cases: Cases
    keywords: Callable[[Prover, Case, Node], Iterator[Failure]]
    """What fails of each keyword: `jsonschema_keywords.keywords`."""
    notes: list[Failure] = field(default_factory=list)
    """What only some readers refuse: formats."""
    steps: int = 0
    _depth: int = 0
    _level: int = 0
    _trying: int = 0
    _asking: int = 0
    _open: dict[Any, int] = field(default_factory=dict)
    _proved: dict[Any, None] = field(default_factory=dict)
    _failed: dict[Any, list[Failure]] = field(default_factory=dict)
    _refuted: dict[Any, list[Failure]] = field(default_factory=dict)
    _inhabited: set[Any] = field(default_factory=set)
    _emptying: set[Any] = field(default_factory=set)
    _same: dict[tuple[Node, Node], bool] = field(default_factory=dict)

    def prove(self, nodes: Iterable[Node], goal: Node) -> list[Failure]:
        """What of `goal` does not follow from all of `nodes`."""
        nodes = tuple(nodes)
        if goal.value is True or any(self.equal(node, goal) for node in nodes):
            return []
        found: list[Failure] = []
        for case in self.cases.of(nodes):
            found += self.follows(case, goal)
            if found and self.quick:
                break
        return found

    def follows(self, case: Case, goal: Node) -> list[Failure]:
        """What of `goal` does not follow from the case."""
        if goal.value is True or any(self.equal(node, goal) for node in case.nodes):
            return []
        key = case.key, goal
        if key in self._proved or self._open.get(key, self._level) < self._level:
            return []
        if key in self._failed:
            return self._failed[key]
        if self.quick and key in self._refuted:
            return self._refuted[key]
        self.steps += 1
        if self.spent or self._depth >= DEPTH_MAX or key in self._open:
            return [self.fail("undecided", case, goal)]
        mark = len(self._proved)
        self._open[key] = self._level
        self._depth += 1
        try:
            every = self.keywords(self, case, goal)
            found = merged(islice(every, 1) if self.quick else every)
            failures = [] if found and self.empty(case) else found
        finally:
            self._depth -= 1
            del self._open[key]
        if failures:
            while len(self._proved) > mark:  # they may rest on this one
                self._proved.popitem()
            (self._refuted if self.quick else self._failed)[key] = failures
        else:
            self._proved[key] = None
        return failures

    @property
    def spent(self) -> bool:
        """Whether the proof has looked at as much as it may."""
        return self.steps > STEPS_MAX

    @property
    def quick(self) -> bool:
        """Whether one failure is as good as all."""
        return self._asking > 0

    def takes(self, case: Case, goal: Node) -> bool:
        """Whether the goal follows."""
        if self.told_apart(case, goal):
            return False
        self._asking += 1
        try:
            return not self.follows(case, goal)
        finally:
            self._asking -= 1

    def fail(
        self, rule: str, case: Case, goal: Node, word: str = "", *, samples: Iterable[Case] = ()
    ) -> Failure:
        """A failure at a keyword of the goal."""
        return Failure(
            rule, goal.pointer + (f"/{word}" if word else ""),
            said(case, word) if word else None, goal.plain.get(word), goal,
            tuple(samples) or (case,),
        )  # fmt: skip

    def note(self, failure: Failure) -> None:
        """Something that only some readers refuse."""
        if not (self._trying or self.quick):
            self.notes.append(failure)

    def empty(self, case: Case) -> bool:
        """Whether surely no document satisfies the case."""
        if not case.types:
            return True
        if case.key in self._emptying or case.key in self._inhabited or self.spent:
            return False
        self._emptying.add(case.key)
        self._asking += 1
        none = False
        try:
            none = all(
                (kind == "object" and self._no_object(case.shapes[kind]))
                or (kind == "array" and self._no_array(case.shapes[kind]))
                for kind in case.types
            ) or any(self.takes(case, excluded) for excluded in case.nots)
        finally:
            self._asking -= 1
            self._emptying.discard(case.key)
        if not none:
            self._inhabited.add(case.key)  # at least not shown to be empty: else 2**levels to ask
        return none

    def nothing(self, nodes: Iterable[Node], nots: Iterable[Node] = ()) -> bool:
        """Whether surely no document satisfies the nodes and none of `nots`."""
        return all(self.empty(case) for case in self.cases.of(nodes, nots))

    def _no_object(self, of: Objects) -> bool:
        if of.high is not None and max(of.low, len(of.required)) > of.high:
            return True
        most = self.most(of)
        if most is not None and of.low > most:
            return True
        return any(
            (nodes := self.at(of, name)) is None or (nodes and self._no_part(nodes))
            for name in of.required
        )

    def _no_array(self, of: Arrays) -> bool:
        high = self.longest(of)
        if high is not None and of.low > high:
            return True
        return any(self._no_part(of.at(at)) for at in range(min(of.low, of.places + 1)))

    def _no_part(self, nodes: tuple[Node, ...]) -> bool:
        if len(nodes) == 1 and nodes[0].inhabited:
            return False
        self._level += 1
        try:
            return self.nothing(nodes)
        finally:
            self._level -= 1

    def apart(self, case: Case, node: Node) -> bool:
        """Whether surely no document of the case satisfies the node, too."""
        return self.told_apart(case, node) or self.nothing((*case.nodes, node), case.nots)

    def told_apart(self, case: Case, node: Node) -> bool:
        """Whether a constant property tells them apart, at a glance."""
        if case.types != ("object",):
            return False
        of: Objects = case.shapes["object"]
        for name, values in self.cases.tags(node).items():
            if name in of.required:
                for own in of.at(name, self.cases.writer) or ():
                    if (mine := listed(own.plain)[0]) and not constants(mine) & values:
                        return True
        return False

    def only(self, case: Case, kind: str) -> Case:
        """Its values of one type."""
        marker = self.cases.synthetic({"type": kind})
        return replace(case, shapes={kind: case.shapes[kind]}, nodes=(*case.nodes, marker))

    def at(self, of: Objects, name: str) -> tuple[Node, ...] | None:
        """What holds for a property; None if there is none of this name."""
        nodes = of.at(name, self.cases.writer)
        if nodes is None:
            return None
        if of.names and not self.cases.of((self.cases.exactly(name), *of.names)):
            return None
        return nodes

    def finite(self, of: Objects) -> list[str] | None:
        """All names that properties may have, if `propertyNames` lists them."""
        if not of.names:
            return None
        found: set[str] = set()
        for case in self.cases.of((self.cases.synthetic({"type": "string"}), *of.names)):
            few = case.shapes["string"].few
            if few is None:
                return None
            found |= few
        return sorted(found)

    def classes(self, of: Objects) -> tuple[list[str], tuple[Node, ...] | None]:
        """Names that are looked at one by one; what holds beyond these and patterns."""
        finite = self.finite(of)
        if finite is not None:
            return finite, None
        return list(of.known), of.rest(self.cases.writer)

    def most(self, of: Objects) -> int | None:
        """How many properties an object may have."""
        names, rest = self.classes(of)
        if rest is None and (not of.patterns or self.finite(of) is not None):
            count = sum(self.at(of, name) is not None for name in names)
            return count if of.high is None else min(count, of.high)
        return of.high

    def longest(self, of: Arrays) -> int | None:
        """How many items an array may have."""
        high = of.high
        for at in range(of.places + 1):
            if (high is None or high > at) and any(node.false for node in of.at(at)):
                high = at
        return high

    def down(
        self, nodes: tuple[Node, ...], sub: Node, hop: Hop, silent: str = "",
        refused: str = "refused",
    ) -> list[Failure]:  # fmt: skip
        """A part: `silent` names what fails where the writer says nothing of it at all."""
        self._level += 1
        failures = [failure.under(hop) for failure in self.prove(nodes, sub)]
        self._level -= 1
        name = hop[1] if isinstance(hop[1], str) else None
        if failures and sub.false:
            path = sub.pointer
            if name is not None:
                path = f"{path.rpartition('/')[0]}/properties/{escape(name)}"
            return [replace(f, rule=refused, path=path) for f in failures]
        anything = not any(node.plain or node.false for node in nodes)
        if failures and silent and anything:
            first = failures[0]
            others = (*failures[1:ALTERNATIVES_MAX], *first.others)
            return [replace(first, rule=silent, path=sub.pointer, written=None, read=sub.value,
                            others=others)]  # fmt: skip
        return failures

    def attempt(self, nodes: tuple[Node, ...], goal: Node) -> bool:
        """Whether `goal` follows for a part of which `nodes` hold."""
        self._asking += 1
        self._level += 1
        try:
            return not self.prove(nodes, goal)
        finally:
            self._level -= 1
            self._asking -= 1

    def why_not(self, case: Case, goal: Node) -> list[Failure]:
        """As `follows`, where another goal may follow instead."""
        self._trying += 1
        try:
            return self.follows(case, goal)
        finally:
            self._trying -= 1

    def equal(self, a: Node, b: Node) -> bool:
        """Whether two subschemas say the same because they are written the same."""
        if a is b:
            return True
        if a.pool.draft != b.pool.draft or a.pool.dynamic or b.pool.dynamic or a.text != b.text:
            return False
        if b'"$ref"' not in a.text:
            return True
        if (a, b) in self._same:
            return self._same[a, b]
        self._same[a, b] = True  # until shown otherwise: documents end
        here = _references(a), _references(b)
        if len(here[0]) != len(here[1]) or b'"$id"' in a.text:
            same = False
        else:
            same = all(self.equal(x, y) for x, y in zip(*here, strict=True))
        if not same:
            self._same.clear()  # others may rest on it
            self._same[a, b] = False
        return same


def merged(failures: Iterable[Failure]) -> list[Failure]:
    """One for each rule and place; where others lead there, documents are looked for, too."""
    found: dict[tuple[str, str], Failure] = {}
    for failure in failures:
        key = failure.rule, failure.path
        first = found.setdefault(key, failure)
        if first is not failure and len(first.others) < ALTERNATIVES_MAX:
            others = (*first.others, replace(failure, others=()))
            found[key] = replace(first, others=others)
    return list(found.values())


def _references(node: Node) -> list[Node]:
    """What is referred to from below, in order."""
    found, todo = list[Node](), [node]
    while todo:
        at = todo.pop()
        found += [at.target] if at.target is not None else []
        todo += at.below()
    return found


def said(case: Case, word: str) -> Any:
    """What the writer says under a keyword, somewhere for the same value."""
    todo, seen = list(case.nodes), set[Node]()
    while todo:
        node = todo.pop(0)
        if node in seen:
            continue
        seen.add(node)
        if word in node.plain and not node.pointer.startswith("\0"):
            return node.plain[word]
        todo += [*node.subs("allOf"), *([node.target] if node.target else [])]
    return None
