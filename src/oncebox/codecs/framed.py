"""Records of others that name their schema by an id: Confluent's prefix and header, Avro's
fingerprint. The schema is asked for once; what it describes becomes a document, then the class.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from ..errors import DecodeFailed, SchemaError, UnknownSchema
from ..ports import Record
from .framing import Framed, SchemaId, read_framing
from .payload import document_of, event_of

E = TypeVar("E")

Schemas = Mapping[Any, Any] | Callable[[Any], Any]
"""By a schema's id (a number, a UUID, a fingerprint of eight bytes): its format ("avro",
"protobuf", "json"), its text, and by name the texts that it refers to. A function may raise
UnknownSchema or Unreachable: then the event waits, and is tried again. `RegistryClient` is one.
"""

READERS_MAX = 1_000

Reader = Callable[[Framed], Any]


class FramedReader(Generic[E]):
    """Reads events of `cls` from records whose schemas `schemas` knows."""

    def __init__(self, topic: str, cls: type[E], schemas: Schemas) -> None:
        self.topic = topic
        self.cls = cls
        self.schemas = schemas
        self._readers: dict[SchemaId, Reader] = {}

    def __call__(self, _content: str, record: Record) -> E:
        """The event of a record. Raises DecodeFailed, and what `schemas` raises."""
        framed = read_framing(record.value or b"", record.headers)
        if framed is None:
            raise DecodeFailed(
                f"{self.topic}: a record that names no schema",
                expected="Confluent's prefix or header, or Avro's single-object encoding",
            )
        read = self._readers.get(framed.id)
        if read is None:
            if len(self._readers) >= READERS_MAX:
                self._readers.clear()
            read = self._readers[framed.id] = self._reader(framed.id)
        return event_of(self.cls, read(framed))

    def _reader(self, id: SchemaId) -> Reader:
        format, text, *more = self._schema(id)
        references: Mapping[str, str] = more[0] if more else {}
        label = f"{self.topic}, schema {id.hex() if isinstance(id, bytes) else id}"
        try:
            return reader_of(format, text, references, label)
        except SchemaError as error:
            raise DecodeFailed(f"{label}: {error.what}", expected=error.expected) from error

    def _schema(self, id: SchemaId) -> Any:
        if callable(self.schemas):
            return self.schemas(id)
        try:
            return self.schemas[id]
        except KeyError:
            raise UnknownSchema(
                f"{self.topic}: schema {id!r} is not known", expected="a schema in schemas="
            ) from None


def reader_of(format: str, text: str, references: Mapping[str, str], label: str) -> Reader:
    """What makes documents of payloads that a schema describes. Raises SchemaError."""
    if format == "avro":
        from .avro import foreign_reader

        avro = foreign_reader(text, references=references, label=label)
        return lambda framed: avro(framed.payload)
    if format == "protobuf":
        from .protobuf_foreign import ForeignProtobuf

        protobuf = ForeignProtobuf(text, references, label)
        return lambda framed: protobuf.decode(*framed.protobuf())
    if format == "json":
        return lambda framed: document_of(label, framed.payload)
    raise SchemaError(f"{label} is in {format!r}", expected="avro, protobuf or json")
