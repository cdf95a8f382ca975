"""Does every document of one JSON Schema satisfy another: findings, each with its document.

`compare` answers for both directions. Where it finds nothing, that is proved; where it finds an
error, a document that the real validator takes on one side and refuses on the other is its proof.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from random import Random
from typing import Any, Final

from .finding import Broken, Finding, Witness, both_ways, found
from .jsonschema_cases import Cases
from .jsonschema_keywords import keywords
from .jsonschema_make import MISSING, Maker
from .jsonschema_prove import OPEN, Failure, Prover, merged
from .jsonschema_read import Pool, engine, gave_up, read_one, read_pair

FINDINGS_MAX: Final = 100
"""Failures of a direction that are reported; a schema with more is another schema."""
TRIES_MAX: Final = 200
"""Documents that are tried for a failure."""
SAMPLES_MAX: Final = 100
"""Documents that are tried anywhere, if no failure of a direction is proved then."""
ALL_TRIES_MAX: Final = 2_000
"""Documents that are tried for all failures of a direction."""
VALUES_MAX: Final = 10_000
"""Values of a document that is tried."""
EFFORT_MAX: Final = 1_000_000
"""Subschemas that a validator may ask of a document and its parts."""


def compare(
    old: str,
    new: str,
    *,
    references: Mapping[str, str] | None = None,
    old_references: Mapping[str, str] | None = None,
    producers_closed: bool = True,
) -> list[Finding]:
    """Every difference that breaks old or new readers, sorted by path and rule.

    `references`: texts that the schemas refer to, by name; `old_references`: those of the old
    schema, where they are others.

    With `producers_closed`, a writer whose schema lists properties and says nothing of others is
    taken to write only those that it lists: so adding an optional property breaks nobody. Without,
    whatever a schema admits may have been written. Raises SchemaError, MissingDependency.
    """
    earlier, later = read_pair(old, new, references, old_references)
    if old == new and old_references in (None, references):
        return []
    return both_ways(earlier, later, partial(_direction, closed=producers_closed))


def read(text: str, references: Mapping[str, str] | None = None, which: str = "schema") -> None:
    """Raises SchemaError if the text is no schema of draft 7 or 2020-12; as `compare`."""
    _ = read_one(text, references, which).validator


def _direction(writer: Pool, reader: Pool, breaks: Broken, *, closed: bool) -> Iterator[Finding]:
    cases = Cases(writer if closed else None)
    prover = Prover(cases, keywords)
    try:
        failures = prover.prove((writer.root,), reader.root)
    except RecursionError:  # the caller stands deep itself
        whole = cases.of((writer.root,))
        failures = [prover.fail("undecided", case, reader.root) for case in whole]
    kept = merged(failures)[:FINDINGS_MAX]
    proofs: dict[int, Witness] = {}
    _prove_by_documents(writer, reader, cases, kept, proofs)
    for failure in kept:
        yield _finding(failure, breaks, proofs.get(id(failure)))
    notes = {note.path: note for note in prover.notes}
    for note in list(notes.values())[:FINDINGS_MAX]:
        yield _finding(note, breaks, None)


def _prove_by_documents(
    writer: Pool, reader: Pool, cases: Cases, failures: list[Failure], proofs: dict[int, Witness]
) -> None:
    """Look for documents: at the place of each failure, with chance around it, then anywhere."""
    left = ALL_TRIES_MAX
    for rng in (None, Random(0)):
        maker = Maker(cases, rng)
        for failure in failures:
            if id(failure) in proofs:
                continue
            for document in islice(maker.documents(failure), min(left, TRIES_MAX)):
                left -= 1
                if (witness := judged(writer, reader, document)) is not None:
                    proofs[id(failure)] = witness
                    break
    maker = Maker(cases, Random(1))
    for _ in range(SAMPLES_MAX if failures and not proofs else 0):  # somebody breaks, somewhere
        document = maker.value((writer.root,))
        if document is not MISSING and (witness := judged(writer, reader, document)):
            proofs[id(failures[0])] = witness
            return


def judged(writer: Pool, reader: Pool, document: Any) -> Witness | None:
    """The document as a witness, if the validator takes it on one side and not on the other."""
    values, depth = _size(document, {})
    for pool in (reader, writer):
        much = pool.ways**depth > EFFORT_MAX and pool.effort(document) > EFFORT_MAX
        if much or values > VALUES_MAX:
            return None
    if reader.validator.is_valid(document) or not writer.validator.is_valid(document):
        return None
    error = _refusal(reader, document)
    if gave_up([error]):
        return None
    where = "".join(f"/{step}" for step in error.instance_path) or "/"
    return Witness(document, f"refused: {error.message[:200]} (at {where})")


def _size(document: Any, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values a document has, and on how many levels; its parts may be shared."""
    if not isinstance(document, dict | list):
        return 1, 1
    if id(document) not in known:
        parts = document.values() if isinstance(document, dict) else document
        sizes = [_size(part, known) for part in parts]
        levels = 1 + max((levels for _, levels in sizes), default=0)
        known[id(document)] = 1 + sum(values for values, _ in sizes), levels
    return known[id(document)]


def _refusal(reader: Pool, document: Any) -> Any:
    try:
        reader.validator.validate(document)
    except engine().ValidationError as error:  # the first: to list all is slow
        return error
    raise AssertionError("not refused")


def _finding(failure: Failure, breaks: Broken, witness: Witness | None) -> Finding:
    rule, instead = failure.rule, INSTEAD[failure.rule]
    if breaks == "old readers" and instead in (_ANEW, _STAY, _OPTIONAL):
        instead = _KEEP if instead == _OPTIONAL else _FIRST
    return found(breaks, rule, failure.path or "/", (failure.written, failure.read), instead,
                 witness)  # fmt: skip


_FIRST = "Let all readers take what is new first, and write it then; or add another property."
_OPTIONAL = "Leave it optional: readers do not fill in a `default` by themselves."
_KEEP = "Keep writing it for as long as a reader requires it."
_ANEW = "Add a property of another name with the new meaning, and keep this one as it is."
_STAY = "Leave readers as wide as they were, and check the narrower rule where events are made."
INSTEAD: dict[str, str] = {
    **dict.fromkeys(("type-narrowed", "const-changed"), _ANEW),
    **dict.fromkeys((
        "minimum-raised", "maximum-lowered", "multiple-narrowed", "min-length-raised",
        "max-length-lowered", "pattern-changed", "min-properties-raised",
        "max-properties-lowered", "min-items-raised", "max-items-lowered", "unique-added",
        "contains-narrowed", "max-contains-lowered", "not-widened", "additional-narrowed",
        "items-narrowed", "enum-narrowed", "alternatives-narrowed",
    ), _STAY),
    **dict.fromkeys(("required-added", "dependent-required-added"), _OPTIONAL),
    "property-removed": "Keep the property, deprecated, or let readers take others than they know.",
    "object-closed": "Let readers take properties that they do not know.",
    "items-closed": "Let readers take items that they do not know.",
    OPEN: "Close the writer's schema with `additionalProperties: false`, or let readers take "
          "any value there.",
    "alternatives-overlap": "Use anyOf, or tell the alternatives apart by a constant in each.",
    "refused": "Let readers take it; nothing satisfies `false`.",
    "format-changed": "Readers that assert formats may refuse: see that none does, or check the "
                      "format where events are made.",
    "not-understood": "Use `$ref`, `dependentRequired`, `dependentSchemas`: what this word means "
                      "depends on who refers to the schema, or on the validator.",
    "undecided": "Compare smaller schemas: this pair is beyond what is looked at.",
}  # fmt: skip
"""What to do instead, by rule."""
