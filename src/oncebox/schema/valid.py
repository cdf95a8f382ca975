"""Whether a document is one of its schema. Pure: no class, no library decides here."""

from __future__ import annotations

import math
import re
from base64 import b64decode
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from typing import Any, NamedTuple

from msgspec import UNSET, json

from .model import (
    Bool,
    Bytes,
    Date,
    Decimal,
    Duration,
    Enum,
    Float,
    Int,
    List,
    Map,
    Named,
    Nullable,
    Record,
    Schema,
    Set,
    Str,
    Time,
    Timestamp,
    Type,
    Union,
    Uuid,
)  # fmt: skip


class Problem(NamedTuple):
    """A place in a document (`$.lines[2].cents`) and what was expected there."""

    path: str
    expected: str


def problems(schema: Schema, document: Any, *, open: bool = False) -> Iterator[Problem]:
    """What keeps a document from being one of this schema; nothing if it is one.

    As writers write it, closed: without fields or symbols that the schema does not know. With
    `open`, as readers read it: unknown fields are left out, and an enum with a default takes
    unknown symbols. A field with a default may be missing in both.
    """
    return _Check(schema, open).named(schema.root, document, "$")


def type_problems(
    schema: Schema, type: Type, value: Any, *, path: str = "$", open: bool = False
) -> Iterator[Problem]:
    """The same for a value of one type within a schema, such as a field's default."""
    return _Check(schema, open).value(type, value, path)


def wrong_defaults(schema: Schema) -> Iterator[tuple[str, str]]:
    """Defaults that do not fit their types: the place, `OrderPlaced.lines[0]`, and what fits."""
    for name, definition in schema.definitions.items():
        for field in definition.fields if isinstance(definition, Record) else ():
            if field.default is not UNSET:
                path = f"{name}.{field.name}"
                yield from type_problems(schema, field.type, field.default, path=path)


class _Check(NamedTuple):
    schema: Schema
    open: bool

    def value(self, type: Type, value: Any, path: str) -> Iterator[Problem]:
        match type:
            case Nullable():
                if value is not None:
                    yield from self.value(type.of, value, path)
            case List() | Set():
                yield from self.elements(type, value, path)
            case Map():
                yield from self.entries(type, value, path)
            case Named():
                yield from self.named(type.name, value, path)
            case _:
                expected = _SCALARS[type.__class__](type, value)
                if expected:
                    yield Problem(path, expected)

    def elements(self, type: List | Set, value: Any, path: str) -> Iterator[Problem]:
        if not isinstance(value, list):
            yield Problem(path, "an array")
            return
        for index, part in enumerate(value):
            yield from self.value(type.of, part, f"{path}[{index}]")
        if isinstance(type, Set):
            different = {json.encode(part, order="sorted") for part in value}
            if len(different) < len(value):
                yield Problem(path, "elements that differ")

    def entries(self, type: Map, value: Any, path: str) -> Iterator[Problem]:
        if not isinstance(value, dict):
            yield Problem(path, "an object")
            return
        for name, part in value.items():
            if _str(None, name):
                yield Problem(path, "names that are strings")
            yield from self.value(type.of, part, f"{path}[{name!r}]")

    def named(self, name: str, value: Any, path: str) -> Iterator[Problem]:
        definition = self.schema.definitions[name]
        if isinstance(definition, Enum):
            known = [symbol.value for symbol in definition.symbols]
            takes_others = self.open and definition.default is not UNSET and not _str(None, value)
            if value not in known and not takes_others:
                yield Problem(path, f"one of {', '.join(map(repr, known))}")
        elif not isinstance(value, dict):
            yield Problem(path, "an object")
        elif isinstance(definition, Union):
            yield from self.union(definition, value, path)
        else:
            yield from self.record(definition, value, path)

    def union(self, union: Union, value: dict[str, Any], path: str) -> Iterator[Problem]:
        tag = value.get(union.tag_field)
        for member in union.members:
            if member.tag == tag:
                rest = {n: v for n, v in value.items() if n != union.tag_field}
                yield from self.named(member.name, rest, path)
                return
        tags = ", ".join(repr(member.tag) for member in union.members)
        yield Problem(f"{path}.{union.tag_field}", f"one of {tags}")

    def record(self, record: Record, value: dict[str, Any], path: str) -> Iterator[Problem]:
        for field in record.fields:
            if field.name in value:
                yield from self.value(field.type, value[field.name], f"{path}.{field.name}")
            elif field.default is UNSET and not field.absent:
                yield Problem(f"{path}.{field.name}", "a value: the field is required")
        if not self.open:
            known = {field.name for field in record.fields}
            for name in value:
                if name not in known:
                    yield Problem(f"{path}.{name}", "no such field")


# ---- values without parts: what was expected, or ""


def _bool(_: Any, value: Any) -> str:
    return "" if isinstance(value, bool) else "true or false"


def _int(type: Int, value: Any) -> str:
    fits = isinstance(value, int) and not isinstance(value, bool)
    fits = fits and type.low <= value <= type.high
    return "" if fits else f"a whole number, {type.low} to {type.high}"


def _float(_: Any, value: Any) -> str:
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        fits = fits and math.isfinite(value)
    except OverflowError:
        fits = False
    return "" if fits else "a finite number of 64 bits"


def _str(_: Any, value: Any) -> str:
    if isinstance(value, str) and (value.isascii() or value.isprintable() or _is_unicode(value)):
        return ""
    return "a string of Unicode"


def _is_unicode(value: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _bytes(_: Any, value: Any) -> str:
    try:
        if isinstance(value, str):
            b64decode(value, validate=True)
            return ""
    except ValueError:
        pass
    return "a string in base64"


_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)(?:\.([0-9]+))?")


def _decimal(type: Decimal, value: Any) -> str:
    found = _DECIMAL.fullmatch(value) if isinstance(value, str) else None
    if found is not None:
        whole, fraction = len(found[1].lstrip("0")), len(found[2] or "")
        if whole <= type.precision - type.scale and fraction <= type.scale:
            return ""
    return (
        f"a string with a decimal number: at most {type.precision - type.scale} digits before "
        f"the point and {type.scale} behind it"
    )


def _by(pattern: str, read: Callable[[str], Any], expected: str) -> Callable[[Any, Any], str]:
    compiled = re.compile(pattern, re.ASCII)

    def check(_: Any, value: Any) -> str:
        if isinstance(value, str) and compiled.fullmatch(value):
            try:
                read(value)
            except ValueError:
                return expected
            return ""
        return expected

    return check


_FULL_DATE = r"\d{4}-\d\d-\d\d"
_PARTIAL_TIME = r"\d\d:\d\d:\d\d(\.\d{1,6})?"
_ISO_DURATION = (
    r"-?P(?=[0-9T])(\d{1,9}D)?(T(?=\d)(\d{1,15}H)?(\d{1,15}M)?(\d{1,15}(\.\d{1,6})?S)?)?"
)

_SCALARS: dict[type, Callable[[Any, Any], str]] = {
    Bool: _bool,
    Int: _int,
    Float: _float,
    Str: _str,
    Bytes: _bytes,
    Decimal: _decimal,
    Uuid: _by(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", str, "a UUID, lower case with hyphens"),
    Date: _by(_FULL_DATE, date.fromisoformat, 'a date: "2026-01-31"'),
    Time: _by(_PARTIAL_TIME, time.fromisoformat, 'a time without a zone: "12:30:00"'),
    Timestamp: _by(
        _FULL_DATE + "T" + _PARTIAL_TIME + r"(Z|[+-]\d\d:\d\d)",
        datetime.fromisoformat,
        'a time with a zone: "2026-01-31T12:30:00Z"',
    ),
    Duration: _by(_ISO_DURATION, str, 'a duration of ISO 8601: "P1DT2.5S"'),
}
