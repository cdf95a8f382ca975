"""The lenses of event types: which steps lead from one version to another, and their functions.

Between two neighbouring versions there is one declaration, so there is one way and no choice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from ..errors import DecodeFailed, SchemaError
from ..event import check_type, event_class, event_classes, event_type
from ..schema.model import Schema
from .additive import derived_steps
from .compile import Stage, compile_stages
from .fills import NO_FILLS, Fills, fills, may_leave_out
from .fit import check_steps, misfits
from .residue import Residue
from .shape import shape_of
from .steps import STEPS_MAX, Step, inverse

logger = logging.getLogger("oncebox")

VERSION_MAX = 9999

BAD = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
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
        self, type: str, was: int, now: int, stages: Sequence[Stage], fills: Fills
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
        except BAD as error:
            raise self.failed(error) from error

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
        except BAD as error:
            raise self.failed(error) from error

    def failed(self, error: Exception) -> DecodeFailed:
        """What is raised of a document that is none of its version."""
        return DecodeFailed(
            f"{self.type} cannot go from version {self.was} to {self.now}:"
            f" {error.__class__.__name__}: {error}",
            expected=f"an event as version {self.was} has it",
        )


Edges = dict[str, dict[int, Edge]]
"""By type, and the older version."""
Schemas = dict[str, dict[int, Schema]]


class Lenses:
    """Steps and schemas by type and version. Where nothing is declared between two versions whose
    schemas are known, and these say the steps, nothing needs to be.

    What is said in the code counts before what a lock says, and that before the classes that were
    imported, if `imported` says so.
    """

    def __init__(self, *, imported: bool = False) -> None:
        self.edges: Edges = {}
        self.schemas: Schemas = {}
        self.locked_edges: Edges = {}
        self.locked: Schemas = {}
        self.look_again: Callable[[], bool] = lambda: False
        """Look whether the lock has changed, and learn it again if it has."""
        self.changes = 0
        self._imported = imported
        self._made: dict[tuple[str, int, int], Translation | None] = {}

    # ---- what is known

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
        self.schemas.setdefault(schema.type, {})[schema.version] = schema
        self.forget()

    def learn(self, schemas: Iterable[Schema], edges: Iterable[tuple[str, Edge]]) -> None:
        """Know all that a lock says, and nothing that it said before."""
        self.locked, self.locked_edges = {}, {}
        for schema in schemas:
            self.locked.setdefault(schema.type, {})[schema.version] = schema
        for type, edge in edges:
            self.locked_edges.setdefault(type, {})[edge.older] = edge
        self.forget()

    def forget(self) -> None:
        """Drop the functions that were made: edges have changed."""
        self._made.clear()
        self.changes += 1

    def schema(self, type: str, version: int) -> Schema | None:
        """What documents of a version are, if that is known."""
        found = self.said(type, version)
        if found is None and self._imported and (cls := event_class(type, version)) is not None:
            found = schema_of_class(cls)
        return found

    def said(self, type: str, version: int) -> Schema | None:
        """The same, if more than a class tells it."""
        known = self.schemas.get(type, {}).get(version)
        return known or self.locked.get(type, {}).get(version)

    def versions(self, type: str, *, imported: bool = True) -> list[int]:
        """All versions that are known, in order; or those that more than a class tells of."""
        edges = [*self.edges.get(type, {}).values(), *self.locked_edges.get(type, {}).values()]
        found = {version for edge in edges for version in edge[:2]}
        found |= self.schemas.get(type, {}).keys() | self.locked.get(type, {}).keys()
        if imported and self._imported:
            found |= {version for name, version in event_classes() if name == type}
        return sorted(found)

    # ---- what follows from it

    def edge(self, type: str, older: int) -> Edge | None:
        """What leads from a version to the next that is known; None where nothing does."""
        for known in (self.edges, self.locked_edges):
            if older in known.get(type, {}):
                return known[type][older]
        newer = min((v for v in self.versions(type) if v > older), default=None)
        if newer is None:
            return None
        old, new = self.schema(type, older), self.schema(type, newer)
        steps = None if old is None or new is None else derived_steps(old, new)
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
        """The function from one version to another, made once; None where there is no way, also
        in what is known when it is looked again.
        """
        name = (type, was, now)
        if name not in self._made:
            self._made[name] = self._translation(type, was, now)
        if self._made[name] is None and self.look_again():
            self._made[name] = self._translation(type, was, now)
        return self._made[name]

    def _translation(self, type: str, was: int, now: int) -> Translation | None:
        edges, up = self.way(type, was, now), was < now
        if edges is None:
            return None
        stages = [
            self._whole(type, edge.stage(up=up)) for edge in (edges if up else reversed(edges))
        ]
        schema = self.schema(type, was)
        return Translation(type, was, now, stages, NO_FILLS if schema is None else fills(schema))

    def _whole(self, type: str, stage: Stage) -> Stage:
        """A stage with what fills its result: so that two stages are what one by one would be."""
        old, new = self.schema(type, stage.was), self.schema(type, stage.now)
        if new is None or not may_leave_out(stage.steps, old):
            return stage
        return stage._replace(fills=fills(new))

    def check(self, type: str) -> None:
        """Raises SchemaError where nothing joins two versions, and where steps do not make the
        documents of one version from those of the other, in both directions.
        """
        for older, newer in pairwise(self.versions(type, imported=False)):
            edge = self.edge(type, older)
            if edge is None or edge.newer != newer:
                raise SchemaError(
                    f"{type}: nothing leads from version {older} to {newer}",
                    expected="a version that only adds fields with defaults, or a declaration",
                    hint=f'evolve("{type}", {older}, {newer}, …)',
                )
            old, new = self.said(type, older), self.said(type, newer)
            if old is not None and new is not None:
                check_steps(old, new, edge.steps)
                check_steps(new, old, edge.stage(up=False).steps)

    def check_class(self, cls: type) -> None:
        """Raises SchemaError for a class that cannot read what the lock says of its version, and
        for lenses of its type that cannot work.
        """
        declared = event_type(cls)
        locked = self.locked.get(declared.type, {}).get(declared.version)
        mine = None if locked is None else schema_of_class(cls)
        if locked is not None and mine is not None:
            problem = next(misfits(shape_of(locked), mine, open=True), None)
            if problem is not None:
                raise SchemaError(
                    f"{cls.__name__} is not what the lock has as {declared.type}"
                    f" {declared.version}: {problem}",
                    expected="a version that stays as it is",
                    hint="a change is a new version: oncebox schema check",
                )
        self.check(declared.type)


_of_classes: WeakKeyDictionary[type, Schema | None] = WeakKeyDictionary()


def schema_of_class(cls: type) -> Schema | None:
    """What the documents of a class are; None where its types have no image in a schema."""
    from ..schema.derive import schema_of

    if cls not in _of_classes:
        try:
            _of_classes[cls] = schema_of(cls)
        except SchemaError as error:
            logger.debug("%s: %s", cls.__name__, error)
            _of_classes[cls] = None
    return _of_classes[cls]


declared = Lenses(imported=True)
"""What `evolve` has declared in this process."""


def known_to(classes: Iterable[type]) -> Lenses:
    """What is declared, with the schemas of these event classes and of all other versions of their
    types that were imported. Raises SchemaError.
    """
    from ..schema.derive import schema_of

    lenses = Lenses()
    given = {(event_type(cls).type, event_type(cls).version): cls for cls in classes}
    for name in {type for type, _ in given}:
        lenses.edges[name] = declared.locked_edges.get(name, {}) | declared.edges.get(name, {})
        lenses.schemas[name] = dict(declared.locked.get(name, {}))
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
