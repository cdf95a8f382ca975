"""The lenses of event types: which steps lead from one version to another, and their functions.

Between two neighbouring versions there is one declaration, so there is one way and no choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from ..errors import DecodeFailed, SchemaError
from ..event import check_type, event_classes, event_type
from ..schema.model import Schema
from .additive import derived_steps, fills
from .compile import Stage, compile_stages
from .fit import check_steps
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

    def __init__(
        self, type: str, was: int, now: int, stages: Sequence[Stage], fills: Sequence[Step]
    ) -> None:
        self.type = type
        self.was = was
        self.now = now
        stem = "".join(c if c.isascii() and c.isalnum() else "_" for c in type)
        name = f"{stem}_{was}_to_{now}"
        self.plain, self.tracked, self.source = compile_stages(name, stages, fills)
        self._mine = {str(min(stage.was, stage.now)) for stage in stages}

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
        mine: Residue = {}
        lost: Residue = {}
        for id, entry in given.items():
            (mine if id.partition(".")[0] in self._mine else lost)[id] = entry
        try:
            return self.tracked(document, mine, lost), lost
        except _BAD as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> DecodeFailed:
        return DecodeFailed(
            f"{self.type} cannot go from version {self.was} to {self.now}:"
            f" {error.__class__.__name__}: {error}",
            expected=f"an event as version {self.was} has it",
        )


class Lenses:
    """Steps and schemas by type and version. Where nothing is declared between two versions whose
    schemas are known, and these say the steps, nothing needs to be.
    """

    def __init__(self) -> None:
        self.edges: dict[str, dict[int, Edge]] = {}
        self.schemas: dict[str, dict[int, Schema]] = {}
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

    def know(self, schema: Schema) -> None:
        """Know what a version's documents are."""
        known = self.schemas.setdefault(schema.type, {})
        if known.get(schema.version) != schema:
            known[schema.version] = schema
            self.forget()

    def forget(self) -> None:
        """Drop the functions that were made: edges have changed."""
        self._made.clear()

    def edge(self, type: str, older: int) -> Edge | None:
        """What leads from a version to the next that is known; None where nothing does."""
        found = self.edges.get(type, {}).get(older)
        if found is not None:
            return found
        schemas = self.schemas.get(type, {})
        newer = min((v for v in self.versions(type) if v > older), default=None)
        if newer is None or older not in schemas or newer not in schemas:
            return None
        steps = derived_steps(schemas[older], schemas[newer])
        return None if steps is None else Edge(older, newer, steps)

    def way(self, type: str, was: int, now: int) -> list[Edge] | None:
        """The edges between two versions, the oldest first; None where there is no way."""
        low, high = sorted((was, now))
        edges: list[Edge] = []
        while low < high:
            edge = self.edge(type, low)
            if edge is None or edge.newer > high:
                return None
            edges.append(edge)
            low = edge.newer
        return edges

    def translation(self, type: str, was: int, now: int) -> Translation | None:
        """The function from one version to another, made once; None where there is no way."""
        name = (type, was, now)
        if name not in self._made:
            self._made[name] = self._translation(type, was, now)
        return self._made[name]

    def _translation(self, type: str, was: int, now: int) -> Translation | None:
        edges, up = self.way(type, was, now), was < now
        if edges is None:
            return None
        stages = [edge.stage(up=up) for edge in (edges if up else reversed(edges))]
        schema = self.schemas.get(type, {}).get(was)
        return Translation(type, was, now, stages, () if schema is None else fills(schema))

    def versions(self, type: str) -> list[int]:
        """All versions that are known, in order."""
        named = {version for edge in self.edges.get(type, {}).values() for version in edge[:2]}
        return sorted(named | self.schemas.get(type, {}).keys())

    def check(self, type: str) -> None:
        """Raises SchemaError where nothing joins two versions, and where steps do not make the
        documents of one version from those of the other, in both directions.
        """
        schemas = self.schemas.get(type, {})
        for older, newer in pairwise(self.versions(type)):
            edge = self.edge(type, older)
            if edge is None or edge.newer != newer:
                raise SchemaError(
                    f"{type}: nothing leads from version {older} to {newer}",
                    expected="a version that only adds fields with defaults, or a declaration",
                    hint=f'evolve("{type}", {older}, {newer}, …)',
                )
            if older in schemas and newer in schemas:
                check_steps(schemas[older], schemas[newer], edge.steps)
                check_steps(schemas[newer], schemas[older], edge.stage(up=False).steps)


declared = Lenses()
"""What `evolve` has declared in this process."""


def known_to(classes: Iterable[type]) -> Lenses:
    """What is declared, with the schemas of these event classes and of all other versions of their
    types that were imported. Raises SchemaError.
    """
    from ..schema.derive import schema_of

    lenses = Lenses()
    given = {(event_type(cls).type, event_type(cls).version): cls for cls in classes}
    for name in {type for type, _ in given}:
        lenses.edges[name] = dict(declared.edges.get(name, {}))
        lenses.schemas[name] = dict(declared.schemas.get(name, {}))
        imported = {known: cls for known, cls in event_classes().items() if known[0] == name}
        for cls in (imported | given).values():
            if event_type(cls).type == name:
                lenses.know(schema_of(cls))
    return lenses


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
