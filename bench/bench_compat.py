"""The checkers: a pair of schemas with 500 fields, and a new version against 99 earlier ones.

Each run has texts that were not met before, so that parsing counts (for Protobuf, protoc's process
too). The pair differs in three fields: one added, one removed, one wider; what breaks is proved.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from typing import Any

from bench.measure import Figure, figure, stopwatch
from oncebox.schema.compat.compat import check
from oncebox.schema.compat.finding import Format, Mode

ROUNDS = 7
FIELDS = 500
VERSIONS = 100
FRESH = count()

Fields = list[tuple[str, str]]
"""Names and types: int, long or string."""


def avro(fields: Fields) -> str:
    optional = [{"name": n, "type": ["null", kind], "default": None} for n, kind in fields]
    return json.dumps({"type": "record", "name": "Event", "doc": next(FRESH), "fields": optional})


def protobuf(fields: Fields) -> str:
    types = {"int": "int32", "long": "int64", "string": "string"}
    lines = [f"{types[kind]} {name} = {int(name[1:]) + 1};" for name, kind in fields]
    return f'edition = "2023"; message Event {{ {" ".join(lines)} }} // {next(FRESH)}'


def json_schema(fields: Fields) -> str:
    types = {"int": "integer", "long": "number", "string": "string"}
    properties = {name: {"type": types[kind]} for name, kind in fields}
    draft = "https://json-schema.org/draft/2020-12/schema"
    made = {"$schema": draft, "$comment": str(next(FRESH)), "type": "object"}
    return json.dumps({**made, "properties": properties})


FORMATS: dict[Format, Callable[[Fields], str]] = {
    "avro": avro,
    "protobuf": protobuf,
    "json": json_schema,
}


def run(engines: Any | None) -> list[Figure]:
    if engines is not None:
        return []
    return [
        one for format, text in FORMATS.items() for one in (pair(format, text), row(format, text))
    ]


def fields(number: int) -> Fields:
    return [(f"f{n}", ("int", "long", "string")[n % 3]) for n in range(number)]


def timed(earlier: list[str], new: str, format: Format) -> tuple[float, int]:
    with stopwatch() as passed:
        report = check(format, earlier, new, Mode.FULL_TRANSITIVE)
        return passed() * 1000, len(report.found)


def pair(format: Format, text: Callable[[Fields], str]) -> Figure:
    """Milliseconds of a pair."""
    old = fields(FIELDS)
    new = [*old[:-1], (f"f{FIELDS}", "string")]
    new[0] = ("f0", "long")
    runs = [timed([text(old)], text(new), format) for _ in range(ROUNDS)]
    notes = f"{runs[0][1]} findings"
    name = f"compatibility, {format}, a pair of {FIELDS} fields"
    return figure(name, "ms", [ms for ms, _ in runs], "below 50", notes)


def row(format: Format, text: Callable[[Fields], str]) -> Figure:
    """Milliseconds of a new version against those before it, each with a field more."""
    runs = []
    for _ in range(ROUNDS):
        texts = [text(fields(20 + n)) for n in range(VERSIONS)]
        runs.append(timed(texts[:-1], texts[-1], format))
    name = f"compatibility, {format}, {VERSIONS} versions transitively"
    return figure(name, "ms", [ms for ms, _ in runs], "below 1,000", f"{runs[0][1]} findings")
