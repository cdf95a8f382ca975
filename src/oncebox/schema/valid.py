"""Whether a document is one of its schema. Pure: no class, no library decides here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec import UNSET, json

from .leaves import LOOKS, in_unicode
from .model import Enum, List, Map, Named, Nullable, Record, Schema, Set, Type, Union


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
                expected = LOOKS[type.__class__].expected(type, value)
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
            if not in_unicode(name):
                yield Problem(path, "names that are strings")
            yield from self.value(type.of, part, f"{path}[{name!r}]")

    def named(self, name: str, value: Any, path: str) -> Iterator[Problem]:
        definition = self.schema.definitions[name]
        if isinstance(definition, Enum):
            known = [symbol.value for symbol in definition.symbols]
            takes_others = self.open and definition.default is not UNSET and in_unicode(value)
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
