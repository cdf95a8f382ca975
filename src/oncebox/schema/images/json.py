"""A schema as JSON Schema 2020-12. Closed or open: a reader leaves out what it does not know, so
nothing is said against further fields. A field with a default is not required, and says it.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, json

from ..leaves import LOOKS
from ..model import (
    Decimal,
    Enum,
    Field,
    Int,
    List,
    Map,
    Named,
    Nullable,
    Record,
    Schema,
    Set,
    Type,
    Union,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_image(schema: Schema) -> dict[str, Any]:
    """The JSON Schema, as an object."""
    image: dict[str, Any] = {
        "$schema": DIALECT,
        "$id": f"oncebox:{schema.type}/{schema.version}",
        "title": schema.root,
        "$ref": f"#/$defs/{_pointer(schema.root)}",
        "$defs": {name: _definition(d) for name, d in schema.definitions.items()},
    }
    return image


def json_text(schema: Schema) -> str:
    """The text of a .json file."""
    return json.format(json.encode(json_image(schema)), indent=2).decode() + "\n"


def _pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{_pointer(name)}"}


def _definition(definition: Record | Enum | Union) -> dict[str, Any]:
    image: dict[str, Any] = {"description": definition.doc} if definition.doc else {}
    if isinstance(definition, Enum):
        image["enum"] = [symbol.value for symbol in definition.symbols]
        if definition.default is not UNSET:
            image["default"] = definition.default
    elif isinstance(definition, Union):
        image["oneOf"] = [
            {
                **_ref(member.name),
                "properties": {definition.tag_field: {"const": member.tag}},
                "required": [definition.tag_field],
            }
            for member in definition.members
        ]
    else:
        image["type"] = "object"
        image["properties"] = {field.name: _field(field) for field in definition.fields}
        image["required"] = [
            field.name for field in definition.fields if not field.absent and field.default is UNSET
        ]
    return image


def _field(field: Field) -> dict[str, Any]:
    image = dict(type_image(field.type))
    if field.doc:
        image["description"] = field.doc
    if field.default is not UNSET:
        image["default"] = field.default
    if field.deprecated:
        image["deprecated"] = True
        image["x-deprecated"] = field.deprecated
    if field.pii:
        image["x-pii"] = True
    return image


def type_image(type: Type) -> dict[str, Any]:  # noqa: PLR0911
    """The JSON Schema of a type."""
    match type:
        case Nullable(of):
            return {"anyOf": [type_image(of), {"type": "null"}]}
        case List(of):
            return {"type": "array", "items": type_image(of)}
        case Set(of):
            return {"type": "array", "items": type_image(of), "uniqueItems": True}
        case Map(of):
            return {"type": "object", "additionalProperties": type_image(of)}
        case Named(name):
            return _ref(name)
        case Int(low, high):
            return {"type": "integer", "minimum": low, "maximum": high}
        case Decimal(precision, scale):
            whole = precision - scale
            pattern = rf"^-?\d{{1,{max(whole, 1)}}}(\.\d{{1,{scale}}})?$"
            return {"type": "string", "pattern": pattern if scale else rf"^-?\d{{1,{whole}}}$"}
    return LOOKS[type.__class__].json
