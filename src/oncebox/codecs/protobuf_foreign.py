"""Protobuf that oncebox did not describe: documents by any .proto file.

A field that has presence and is not there is left out of the document; enums are their names,
moments and durations texts, bytes base64, whole numbers numbers, and keys of maps texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DecodeFailed
from ..schema import leaves
from .convert import Conversion, document_by, each, made_once, nothing
from .protobuf import GOOGLE, parsed_message, read_fields, read_map
from .wire import layout_of

_STRING, _BYTES, _ENUM, _MESSAGE, _GROUP = 9, 12, 14, 11, 10
_FLOATS = (1, 2)


class ForeignProtobuf:
    """The records of a file, by their place in it. Raises SchemaError for a text that is none."""

    def __init__(self, text: str, references: Mapping[str, str], label: str) -> None:
        from ..schema.compat.proto_types import parsed_all, source

        proto = parsed_all([source(text, references, label)])[0]
        self._records = [record.descriptor for record in proto.messages.values()]
        self._label = label
        self._known: dict[str, Conversion] = {}
        self._places: dict[tuple[int, ...], tuple[Any, Any, Conversion]] = {}

    def decode(self, place: Sequence[int], raw: bytes) -> Any:
        """The document of the record at this place. Raises DecodeFailed."""
        found = self._places.get(tuple(place))
        if found is None:
            found = self._places[tuple(place)] = self._at(tuple(place))
        cls, layout, read = found
        message = parsed_message(self._label, cls, layout, raw)
        return document_by(self._label, read, message)

    def _at(self, place: tuple[int, ...]) -> tuple[Any, Any, Conversion]:
        from google.protobuf import message_factory

        try:
            message = self._records[place[0]]
            for index in place[1:]:
                message = message.nested_types[index]
        except IndexError:
            raise DecodeFailed(f"{self._label} has no record at {place}") from None
        cls = message_factory.GetMessageClass(message)
        return cls, layout_of(message), self._message(message)

    def _message(self, message: Any) -> Conversion:
        name = message.full_name
        if name in GOOGLE:
            return GOOGLE[name]
        return made_once(self._known, name, lambda: self._fields(message))

    def _fields(self, message: Any) -> Conversion:
        return read_fields(
            [(f.name, self._field(f), f.has_presence, nothing) for f in message.fields]
        )

    def _field(self, field: Any) -> Conversion:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name
            read = read_map(self._single(entry["value"]))
            return read if entry["key"].type == _STRING else lambda value: _by_text(read(value))
        convert = self._single(field)
        return each(convert) if _is_repeated(field) else convert

    def _single(self, field: Any) -> Conversion:
        if field.type in (_MESSAGE, _GROUP):
            return self._message(field.message_type)
        if field.type == _ENUM:
            names = {n: value.name for n, value in field.enum_type.values_by_number.items()}
            return lambda number: names.get(number, number)
        if field.type == _BYTES:
            return leaves.bytes_text
        return leaves.finite if field.type in _FLOATS else _same


def _is_repeated(field: Any) -> bool:
    found = getattr(field, "is_repeated", None)  # since protobuf 6; `label` warns there
    return bool(field.label == field.LABEL_REPEATED if found is None else found)


def _by_text(found: dict[Any, Any]) -> dict[str, Any]:
    """A map with its numbers or booleans as the texts that they are in JSON."""
    return {str(key).lower(): value for key, value in found.items()}


def _same(value: Any) -> Any:
    return value
