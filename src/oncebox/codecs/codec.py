"""The codec of a schema in a format; made once for each."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from msgspec import json

from ..errors import SchemaError
from ..schema.compat.finding import Format
from ..schema.model import Document, Schema

AVRO, PROTOBUF = "application/avro", "application/protobuf"

FORMATS: dict[str, Format] = {
    AVRO: "avro",
    "avro/binary": "avro",
    "application/x-avro": "avro",
    "application/vnd.apache.avro": "avro",
    PROTOBUF: "protobuf",
    "application/x-protobuf": "protobuf",
    "application/vnd.google.protobuf": "protobuf",
}
"""Formats by `datacontenttype`; whatever else there is, is read as JSON."""

CODECS_MAX = 1_000
"""Codecs that are kept; each belongs to an event version."""


class SchemaCodec(Protocol):
    """Documents as bytes of a format, and back."""

    def encode(self, document: Document) -> bytes:
        """Its bytes. Raises ValueError, with the path, for what its schema does not allow."""
        ...

    def decode(self, raw: bytes, /) -> Document:
        """The document. Raises DecodeFailed: which path, what was expected."""
        ...


def codec_for(schema: Schema, format: Format) -> SchemaCodec:
    """The codec of a schema. Raises SchemaError where the format has no image of it, and
    MissingDependency where its library is not installed.
    """
    return _made(json.encode(schema), format)


@lru_cache(CODECS_MAX)
def _made(written: bytes, format: Format) -> SchemaCodec:
    schema = json.decode(written, type=Schema)  # schemas hold dicts, so they are no keys
    if format == "json":
        from .json import JsonCodec

        return JsonCodec(schema)
    if format == "avro":
        from .avro import AvroCodec

        return AvroCodec(schema)
    if format == "protobuf":
        from .protobuf import ProtobufCodec

        return ProtobufCodec(schema)
    raise SchemaError(f"format {format!r}", expected="json, avro or protobuf")
