"""JSON by a schema: documents in their one form. Events of a class go through `payload.py`."""

from __future__ import annotations

import msgspec

from ..errors import DecodeFailed
from ..schema.model import Document, Schema
from .bounds import check_json
from .convert import Converter, document_by


class JsonCodec:
    """Documents of a schema as JSON, and back: defaults filled in, unknown fields left out."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self._convert = Converter(schema).root()
        self._label = f"{schema.type} in JSON"

    def encode(self, document: Document) -> bytes:
        """Its bytes. Raises ValueError, with the path, for what its schema does not allow."""
        return msgspec.json.encode(self._convert(document))

    def decode(self, raw: bytes) -> Document:
        """The document. Raises DecodeFailed with the path of what could not be read."""
        check_json(self._label, raw)
        try:
            value = msgspec.json.decode(raw)
        except (msgspec.DecodeError, ValueError) as error:
            raise DecodeFailed(f"{self._label}: {error}", expected="UTF-8 JSON") from None
        return document_by(self._label, self._convert, value)
