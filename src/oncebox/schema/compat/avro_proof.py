"""Proofs by fastavro: a document written with the writer's schema, read with the reader's."""

from __future__ import annotations

import base64
import io
import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.validation import validate

from .avro_types import NOTHING, Field, Type, bare, smallest
from .finding import Witness
from .outcome import refused, shown

if TYPE_CHECKING:
    from .avro import Problem, Trail


ALONE = "one_value_for_a_proof_of_oncebox"
"""A name that no schema has."""


class Proof:
    """What fastavro makes of a writer's documents for a reader."""

    def __init__(self, writer: Type, reader: Type) -> None:
        self._writer, self._reader = writer, reader

    @cached_property
    def written(self) -> Any:
        return parse_schema(_alone(bare(self._writer, defaults=False)))

    @cached_property
    def read(self) -> Any:
        return parse_schema(_alone(bare(self._reader, defaults=True)))

    def of(self, problem: Problem) -> Witness | None:
        """A witness, if readers refuse the problem's value or read it differently. The value alone
        is tried, as the rest of a document may have problems of its own; but of a type that moved,
        the whole.
        """
        moved = problem.rule == "type-moved"
        outcome = None if moved else _outcome(problem)
        if outcome is None and not moved:
            return None
        document = built(problem.at.trail, problem.value)
        encoded = encode(self.written, {"value": document})  # the same bytes as without a record
        if moved:
            try:
                decode(encoded, self.written, self.read)
            except Exception as error:
                outcome = refused(error)
        return None if outcome is None else Witness(plain(document), outcome, encoded)


def _outcome(problem: Problem) -> str | None:
    w, r, *_ = problem.at
    if problem.rule == "two-read-as-one":
        return _merged(problem)
    if problem.field is not None:
        return _lacking(problem.field, problem)
    taken = any(step == "branch" for step, *_ in problem.at.trail[-1:])
    writer = parse_schema(_alone([bare(w, defaults=False)] if taken else bare(w, defaults=False)))
    reader = parse_schema(_alone(bare(r, defaults=True)))
    encoded = encode(writer, {"value": (w.tag, problem.value) if taken else problem.value})
    try:
        was_read = decode(encoded, writer, reader)["value"]
    except Exception as error:
        return refused(error)
    if problem.logical:
        return understood(w, r, problem.value, was_read)
    if r.kind == "float":  # what a float can hold: fastavro gives back more
        was_read = decode(encode("float", was_read), "float", None)
    return None if same(problem.value, was_read) else f"read as {shown(was_read)}"


def _alone(type: Any) -> dict[str, Any]:
    """A record around a type: of a union at the root, fastavro tells each branch all the others,
    and in what it says of an error shows the square of them.
    """
    return {"type": "record", "name": ALONE, "fields": [{"name": "value", "type": type}]}


def _lacking(one: Field, problem: Problem) -> str | None:
    """What readers do that lack a field: with no default for it, or one of another type. If they
    lack it nowhere, it is only asked whether they take the schema.
    """
    name, type, default = problem.at.r.name, "int", {}
    if one.default is not NOTHING:
        name, type, default = ALONE, bare(one.type, defaults=True), {"default": one.default}
    field = {"name": one.name, "type": type, **default}
    empty = {"type": "record", "name": name, "fields": []}
    try:
        reader = parse_schema({**empty, "fields": [field]})
        if one in problem.at.r.fields:
            was_read = decode(b"", parse_schema(empty), reader)
            validate(was_read[one.name], field["type"])
    except Exception as error:
        return refused(error)
    return None


def _merged(problem: Problem) -> str | None:
    """What becomes of two fields that one of the reader's stands for: numbers, in their order."""
    one, told = problem.field, problem.told
    assert one is not None and told is not None
    names: list[str] = told[0]
    writer, reader = (
        parse_schema(
            {
                "type": "record",
                "name": ALONE,
                "fields": [{"type": "int", **each} for each in fields],
            }
        )
        for fields in (
            [{"name": name} for name in names],
            [{"name": one.name, "aliases": list(one.aliases)}],
        )
    )
    document = {name: n for n, name in enumerate(names)}
    try:
        was_read = decode(encode(writer, document), writer, reader)
    except Exception as error:
        return refused(error)
    return f"{shown(document)} would be read as {shown(was_read)}"


def understood(w: Type, r: Type, value: Any, was_read: Any) -> str | None:
    """How a raw value is understood by the writer's logical type and by the reader's: readers in
    other languages take the reader's, fastavro the writer's.
    """
    meant = _by(w, value)
    try:
        got = _by(r, was_read)
    except Exception as error:
        return refused(error)
    return None if same(meant, got) else f"read as {shown(got)} instead of {shown(meant)}"


def _by(kind: Type, raw: Any) -> Any:
    schema = bare(kind, defaults=False)
    if not isinstance(schema, dict):
        schema = {"type": schema}
    plain_schema, full = parse_schema(dict(schema)), parse_schema({**schema, **kind.logical})
    return decode(encode(plain_schema, raw), full, None)


def encode(schema: Any, document: Any) -> bytes:
    """As fastavro writes it, without a frame."""
    out = io.BytesIO()
    schemaless_writer(out, schema, document)
    return out.getvalue()


def decode(data: bytes, writer: Any, reader: Any) -> Any:
    """As fastavro reads it."""
    return schemaless_reader(io.BytesIO(data), writer, reader)


def same(a: Any, b: Any) -> bool:
    """Whether a value was kept. Text counts as its UTF-8."""
    if isinstance(a, str) and isinstance(b, bytes):
        return a.encode() == b
    if isinstance(a, bytes) and isinstance(b, str):
        return a == b.encode()
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return bool(a == b) and (type(a) is not int or not isinstance(b, float) or int(b) == a)


def built(trail: Trail, value: Any) -> Any:
    """The smallest document that has the value at the end of the trail."""
    for step, record, name in reversed(trail):
        if step == "field":
            value = {**smallest(record), name[0]: value}
        elif step == "item":
            value = [value]
        elif step == "value":
            value = {"k": value}
        else:
            value = (name, value)
    return value


def plain(value: Any) -> Any:
    """As JSON values: branches without their names, bytes as base64."""
    if isinstance(value, tuple):
        return plain(value[1])
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
