"""Names in other formats: a rule each, or a clear refusal. Nothing is renamed by guessing.

An event type's dotted words become a namespace (`-` is written `_`, and a word that begins with a
digit gets `_` before it), and the record of the event is named by them in CamelCase, so that it
keeps its name whatever the class is called. Fields and records keep their names; an enum's
symbols may hold anything, and what a format does not allow in them is written `_`.
"""

from __future__ import annotations

import re

from ...errors import SchemaError
from ..model import Schema

NAME_CHARACTERS_MAX = 512
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_NO_NAME = re.compile(r"[^A-Za-z0-9_]")


def namespace(type: str) -> str:
    """The namespace or package of an event type."""
    return ".".join(identifier(word) for word in type.split("."))


def event_name(type: str) -> str:
    """The name of an event's record: "order.placed" is OrderPlaced."""
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"[._-]", type))


def names_of(schema: Schema, format: str) -> dict[str, str]:
    """What each definition is called. Raises SchemaError for names outside the rules."""
    names = {
        name: event_name(schema.type) if name == schema.root else checked(name, name, format)
        for name in schema.definitions
    }
    if len(set(names.values())) < len(names):
        raise SchemaError(
            f"{schema.type}: two definitions are called {names[schema.root]}",
            expected=f"no other record or enum with the name of the event's own in {format}",
            hint="rename the other class",
        )
    return names


def checked(name: str, path: str, format: str) -> str:
    """A name that is one in Avro and Protobuf, too. Raises SchemaError."""
    if len(name) > NAME_CHARACTERS_MAX or not _NAME.match(name):
        raise SchemaError(
            f"{path}: {name[:80]!r} is no name in {format}",
            expected="a letter or _, then letters, digits and _ (ASCII)",
            hint="rename it, or stay with JSON",
        )
    return name


def identifier(text: str) -> str:
    """A text with what is not allowed in names written `_`."""
    text = _NO_NAME.sub("_", text) or "_"
    return "_" + text if text[0].isdigit() else text


def camel(name: str) -> str:
    """The JSON name that Protobuf gives a field by itself (protobuf.dev, ProtoJSON)."""
    return re.sub(r"_+([^_])", lambda m: m[1].upper(), name).replace("_", "")
