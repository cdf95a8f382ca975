"""The smallest document of a schema: for witnesses, and to see that there is one at all."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from msgspec import UNSET

from ..errors import SchemaError
from .leaves import LOOKS
from .model import Enum, Int, Map, Named, Nullable, Record, Schema, Type, Union


def smallest(schema: Schema, type: Type | None = None) -> Any:
    """A document of the schema, or a value of a type in it, with as little in it as can be: null,
    empty, the first symbol, the default; it is written as its writers write.

    Raises SchemaError for a record that has to hold itself: no document could end.
    """
    return _smallest(schema, Named(schema.root) if type is None else type, ())


def _smallest(schema: Schema, type: Type, inside: tuple[str, ...]) -> Any:
    match type:
        case Nullable():
            return None
        case Int():
            return min(max(0, type.low), type.high)
        case Map():
            return {}
        case Named():
            return _of_definition(schema, type.name, inside)
        case _:
            looks = LOOKS.get(type.__class__)
            return [] if looks is None else looks.smallest


def _of_definition(schema: Schema, name: str, inside: tuple[str, ...]) -> Any:
    definition = schema.definitions[name]
    if isinstance(definition, Enum):
        return definition.symbols[0].value
    if name in inside:
        raise SchemaError(
            f"{schema.type} {schema.version}: {name} has to hold itself without end",
            expected="a way out: an optional field, a list, or another member of the union",
        )
    inside = (*inside, name)
    if isinstance(definition, Record):
        return {
            field.name: _smallest(schema, field.type, inside)
            if field.default is UNSET
            else deepcopy(field.default)
            for field in definition.fields
            if not (field.absent or (definition.omits and field.default is not UNSET))
        }
    return _of_union(schema, definition, inside)


def _of_union(schema: Schema, union: Union, inside: tuple[str, ...]) -> Any:
    for place, member in enumerate(union.members, 1):
        try:
            value = _of_definition(schema, member.name, inside)
        except SchemaError:
            if place == len(union.members):
                raise
        else:
            return {union.tag_field: member.tag, **value}
    raise AssertionError("a union has members")
