"""The lenses of event types: which steps lead from one version to another, and their functions.

Between two neighbouring versions there is one declaration, so there is one way and no choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from ..errors import DecodeFailed, SchemaError
from ..event import check_type
from .compile import Stage, compile_stages
from .residue import Residue
from .steps import STEPS_MAX, Step, inverse

VERSION_MAX = 9999

_BAD = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What steps raise of a document that is none of its version."""


class Edge(NamedTuple):
    """What leads from one version to the next, and back."""

    older: int
    newer: int
    steps: tuple[Step, ...]

    def stage(self, *, up: bool) -> Stage:
        """Its steps in one direction; a step has one name in both."""
        ids = [f"{self.older}.{at}" for at in range(len(self.steps))]
        if up:
            return Stage(self.older, self.newer, self.steps, ids)
        back = [inverse(step) for step in reversed(self.steps)]
        return Stage(self.newer, self.older, back, ids[::-1])


class Translation:
    """Documents of one version as those of another."""

    def __init__(self, type: str, was: int, now: int, stages: Sequence[Stage]) -> None:
        self.type = type
        self.was = was
        self.now = now
        self.stages = stages
        stem = "".join(c if c.isascii() and c.isalnum() else "_" for c in type)
        name = f"{stem}_{was}_to_{now}"
        self.plain, self.tracked, self.source = compile_stages(name, stages)
        self._mine = {f"{min(stage.was, stage.now)}." for stage in stages}

    def __call__(self, document: Any) -> Any:
        """The document in the other version; the one that is given may be changed. Raises
        DecodeFailed.
        """
        try:
            return self.plain(document)
        except _BAD as error:
            raise self._failed(error) from error

    def with_residue(self, document: Any, given: Residue) -> tuple[Any, Residue]:
        """The same with what was lost on the way here, and what is lost now. Raises DecodeFailed.

        Entries of steps that are not on this way travel on.
        """
        lost = {id: entry for id, entry in given.items() if not self._is_mine(id)}
        mine = {id: entry for id, entry in given.items() if self._is_mine(id)}
        try:
            return self.tracked(document, mine, lost), lost
        except _BAD as error:
            raise self._failed(error) from error

    def _is_mine(self, id: str) -> bool:
        return id.partition(".")[0] + "." in self._mine

    def _failed(self, error: Exception) -> DecodeFailed:
        return DecodeFailed(
            f"{self.type} cannot go from version {self.was} to {self.now}:"
            f" {error.__class__.__name__}: {error}",
            expected=f"an event as version {self.was} has it",
        )


class Lenses:
    """Declared steps by type."""

    def __init__(self) -> None:
        self.edges: dict[str, dict[int, Edge]] = {}
        self._made: dict[tuple[str, int, int], Translation | None] = {}

    def add(self, type: str, edge: Edge) -> None:
        """Know an edge. Raises SchemaError for one that makes a second way between two versions."""
        known = self.edges.setdefault(check_type(type), {})
        if known.get(edge.older) == edge:
            return
        for other in known.values():
            if other.older < edge.newer and edge.older < other.newer:
                raise SchemaError(
                    f"{type} {edge.older} to {edge.newer} is declared twice: there is"
                    f" {other.older} to {other.newer}",
                    expected="one declaration between two neighbouring versions",
                )
        known[edge.older] = edge
        self.forget()

    def forget(self) -> None:
        """Drop the functions that were made: edges have changed."""
        self._made.clear()

    def way(self, type: str, was: int, now: int) -> list[Stage] | None:
        """The stages from one version to another; None where there is no way."""
        known, low, high = self.edges.get(type, {}), *sorted((was, now))
        edges: list[Edge] = []
        while low < high:
            edge = known.get(low)
            if edge is None or edge.newer > high:
                return None
            edges.append(edge)
            low = edge.newer
        up = was < now
        return [edge.stage(up=up) for edge in (edges if up else reversed(edges))]

    def translation(self, type: str, was: int, now: int) -> Translation | None:
        """The function from one version to another, made once; None where there is no way."""
        name = (type, was, now)
        if name not in self._made:
            stages = self.way(*name)
            self._made[name] = None if stages is None else Translation(*name, stages)
        return self._made[name]

    def versions(self, type: str) -> list[int]:
        """All versions that a declaration names, in order."""
        edges = self.edges.get(type, {}).values()
        return sorted({version for edge in edges for version in edge[:2]})

    def check(self, type: str) -> None:
        """Raises SchemaError where versions are declared that nothing joins."""
        edges = sorted(self.edges.get(type, {}).values())
        for one, other in pairwise(edges):
            if one.newer != other.older:
                raise SchemaError(
                    f"{type}: nothing leads from version {one.newer} to {other.older}",
                    hint=f'evolve("{type}", {one.newer}, {other.older}, …)',
                )


declared = Lenses()
"""What `evolve` has declared in this process."""


def evolve(type: str, older: int, newer: int, *steps: Step) -> None:
    """Declare what a newer version of an event has otherwise than the version before it.

        evolve("order.placed", 1, 2, rename("cust", "customer"), add("channel", default="web"))

    One declaration serves both directions. Steps are gone through in this order on the way up. It
    goes by type and version, so the class of an old version may be removed. Raises SchemaError for
    a second declaration between these versions, and for what is no step.
    """
    if not 1 <= older < newer <= VERSION_MAX:
        raise SchemaError(
            f"evolve({type!r}, {older!r}, {newer!r})",
            expected="an older and a newer version, 1 to 9999",
        )
    if len(steps) > STEPS_MAX or not all(isinstance(step, Step) for step in steps):
        raise SchemaError(
            f"evolve({type!r}, {older}, {newer}): {len(steps)} steps, or what is no step",
            expected=f"at most {STEPS_MAX} of rename(…), add(…), remove(…), …",
        )
    declared.add(type, Edge(older, newer, steps))
