"""The face of the checkers: two schemas compared, or a new one against those before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from msgspec import Struct

from ...errors import SchemaError
from .bounds import pairs, read_json
from .finding import Finding, Format, Mode

_CHECKERS = {"avro": ".avro", "protobuf": ".protobuf", "json": ".jsonschema"}

References = Mapping[str, str]


class Against(Struct, frozen=True):
    """What was found against one of the earlier schemas: `version` counts them from 1."""

    version: int
    finding: Finding


class Report(Struct, frozen=True):
    """What a new schema breaks. A mode that asks nothing finds nothing."""

    mode: Mode
    found: tuple[Against, ...]

    @property
    def compatible(self) -> bool:
        """Whether nobody is proved to break; warnings remain to be read."""
        return not self.errors

    @property
    def errors(self) -> list[Against]:
        """What is proved."""
        return [one for one in self.found if one.finding.error]

    @property
    def warnings(self) -> list[Against]:
        """What could not be proved."""
        return [one for one in self.found if not one.finding.error]


def compare(
    format: Format,
    old: str,
    new: str,
    references: References | None = None,
    old_references: References | None = None,
) -> list[Finding]:
    """Every difference that breaks old or new readers, sorted by path and rule.

    `references`: texts of what the schemas refer to, by the name that they use; `old_references`:
    those of the old schema, where they are others. Nothing is fetched. Raises SchemaError for a
    text that cannot be read, MissingDependency if the format's library is not installed.
    """
    found: list[Finding] = _checker(format).compare(
        old, new, references=references, old_references=old_references
    )
    return found


def read(
    format: Format, text: str, references: References | None = None, which: str = "schema"
) -> None:
    """Raises SchemaError if the text is no schema of its format; `which`: what errors call it."""
    _checker(format).read(text, references, which)


def guess(name: str, text: str) -> Format:
    """The format of a file, by its name's end or, where that says nothing, by its text."""
    ends: dict[str, Format] = {".avsc": "avro", ".proto": "protobuf"}
    for end, format in ends.items():
        if name.endswith(end):
            return format
    try:
        found = read_json(text, name)
    except SchemaError:
        return "json" if name.endswith(".json") else "protobuf"
    types = ("record", "enum", "fixed")
    avro = isinstance(found, list) or (isinstance(found, dict) and found.get("type") in types)
    return "avro" if avro or isinstance(found, str) else "json"


def check(
    format: Format,
    earlier: Sequence[str],
    new: str,
    mode: Mode,
    references: References | None = None,
    earlier_references: Sequence[References] | None = None,
) -> Report:
    """What a new schema breaks of those before it (oldest first): of the last, or of each in a
    transitive mode. `earlier_references` has one mapping for each earlier schema, where they
    are not all the same. Raises as `compare` does.
    """
    if mode is Mode.NONE or not earlier:
        read(format, new, references, "the new schema")
        return Report(mode, ())
    theirs: Sequence[References | None] = earlier_references or [references] * len(earlier)
    first = 0 if mode.transitive else len(earlier) - 1
    met: dict[object, int] = {}  # the latest version with the same text stands for all
    for n in range(first, len(earlier)):
        met[earlier[n], pairs(theirs[n])] = n
    prepare = getattr(_checker(format), "prepare", None)
    if prepare is not None:  # what is dear to parse is parsed at once
        mine = (new, references, "the new schema")
        prepare([mine, *((earlier[n], theirs[n], f"version {n + 1}") for n in met.values())])
    found = []
    for n in sorted(met.values()):
        for one in compare(format, earlier[n], new, references, theirs[n]):
            if one.breaks in mode.asks:
                found.append(Against(n + 1, one))
    return Report(mode, tuple(found))


def _checker(format: Format) -> Any:
    if format not in _CHECKERS:
        raise SchemaError(f"the format {format!r}", expected="avro, protobuf or json")
    return import_module(_CHECKERS[format], __package__)
