"""The laws of lenses, tried with documents at random: one line in an application's tests.

    def test_versions() -> None:
        check_laws(OrderPlaced)

For each two versions whose schemas are known: what goes up and comes down again, or down and up, is
what it was (with its residue); what comes out is a document of its version; over two versions it is
the same as one by one; and who changes the other form keeps the change. Needs hypothesis.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from itertools import pairwise, permutations
from typing import Any

from ..errors import MissingDependency, NotFound
from ..event import event_type
from ..lens.chain import Lenses, Translation, declared, known_to
from ..lens.file import use_lock
from ..lens.residue import same
from ..schema.model import Schema
from ..schema.valid import problems

EXAMPLES = 100
"""Documents that are tried for each two versions."""


def check_laws(*classes: type, examples: int = EXAMPLES) -> None:
    """Raises AssertionError with the smallest document that breaks a law, and SchemaError for
    lenses that cannot work. `classes`: an event class, or several versions of it; others that were
    imported, or that the lock has, are found by their type.
    """
    if not declared.locked:
        use_lock()
    for name in sorted({event_type(cls).type for cls in classes}):
        lenses = known_to(classes)
        lenses.check(name)
        schemas = lenses.schemas[name]
        if len(schemas) < 2:
            raise NotFound(
                f"only version {max(schemas)} of {name} is known",
                hint="give the classes of its versions, or have them in oncebox.lock",
            )
        for was, now in permutations(schemas, 2):
            try_laws(lenses, schemas[was], schemas[now], examples=examples)


def try_laws(lenses: Lenses, old: Schema, new: Schema, *, examples: int = EXAMPLES) -> None:
    """The laws of the way from one version to another and back."""
    try:
        from hypothesis import HealthCheck, given, settings
    except ImportError as error:
        what = "check_laws needs hypothesis"
        raise MissingDependency(what, hint="pip install hypothesis") from error
    from .documents import documents

    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=slow)
    @given(documents(old), documents(old))
    def laws(document: dict[str, Any], other: dict[str, Any]) -> None:
        broken = next(broken_laws(lenses, old, new, document, other), None)
        assert broken is None, f"{old.type} from version {old.version} to {new.version}: {broken}"

    laws()


def broken_laws(
    lenses: Lenses, old: Schema, new: Schema, document: dict[str, Any], other: dict[str, Any]
) -> Iterator[str]:
    """The laws that a document breaks, in words. `other`: a second one, to change the result."""
    there = _way(lenses, old, new)
    back = _way(lenses, new, old)
    whole = _way(lenses, old, old)(deepcopy(document))  # with what its writer may have left out
    result, residue = there.with_residue(deepcopy(document), {})
    for problem in problems(new, result):
        yield f"{document} becomes {result}: {problem.path} is not {problem.expected}"
    again, _ = back.with_residue(deepcopy(result), deepcopy(residue))
    if not same(again, whole):
        yield f"{document} becomes {result} and comes back as {again}, residue {residue}"
    plain = there(deepcopy(document))
    if plain != result:
        yield f"{document} becomes {result}, but without residue {plain}"
    yield from _one_by_one(lenses, old, new, document, (result, residue))
    # Whoever changes the other form: the change stays, whatever was lost on the way there.
    changed, _ = there.with_residue(deepcopy(other), {})
    returned, lost = back.with_residue(deepcopy(changed), deepcopy(residue))
    kept, _ = there.with_residue(returned, deepcopy(lost))
    if kept != changed:
        yield f"{changed}, put in the place of {result}, becomes {kept} with residue {residue}"


def _one_by_one(
    lenses: Lenses,
    old: Schema,
    new: Schema,
    document: dict[str, Any],
    expected: tuple[dict[str, Any], dict[str, Any]],
) -> Iterator[str]:
    """Over each version between the two, it is the same as at once."""
    low, high = sorted((old.version, new.version))
    between = [v for v in lenses.versions(old.type) if low <= v <= high]
    if old.version > new.version:
        between.reverse()
    at, residue = deepcopy(document), dict[str, Any]()
    for was, now in pairwise(between):
        step = lenses.translation(old.type, was, now)
        assert step is not None
        at, residue = step.with_residue(at, residue)
    if (at, residue) != expected:
        yield f"{document} becomes {expected}, but one version after the other {(at, residue)}"


def _way(lenses: Lenses, old: Schema, new: Schema) -> Translation:
    found = lenses.translation(old.type, old.version, new.version)
    assert found is not None
    return found
