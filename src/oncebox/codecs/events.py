"""Events of a class in Avro or Protobuf: written by its schema, read by that of the version which
the record says. The document between is the class's JSON: what holds of JSON holds here, too.

`datacontenttype` is `application/avro` or `application/protobuf`, and says in `schema=` by which
schema: two that call themselves one version are found out, not read wrongly.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from msgspec import UNSET, json

from ..envelope import JSON
from ..errors import BadEvent, DecodeFailed
from ..event import EventType
from ..lens import chain
from ..lens.file import use_lock
from ..ports import Record as LogRecord
from ..schema.compat.finding import Format
from ..schema.model import Enum, Record, Schema, Union
from .codec import FORMATS, SchemaCodec, codec_for
from .convert import FAILURES, at
from .framing import GUID, prefixed, read_framing
from .payload import codec_of, decode, document_of, encode, event_of

CONTENT_TYPES: dict[str, str] = {
    "json": JSON,
    "avro": "application/avro",
    "protobuf": "application/protobuf",
}
FRAMED = "framing=confluent"
"""In a content type: the payload stands behind a schema's id."""


class EventCodec(NamedTuple):
    """How events of a class become bytes of a format: its content type, and the function."""

    content: str
    encode: Callable[[object], bytes]


def event_codec(declared: EventType) -> EventCodec:
    """The codec of an event class in the format that it names. Raises SchemaError where its schema
    has no image there, MissingDependency without the format's library. Its fields have the numbers
    of `oncebox.lock` where the process runs; without one, those of their order.
    """
    from ..schema.derive import schema_of

    codec_of(declared.cls)
    format, known = declared.format, chain.declared
    if not known.locked:
        use_lock()  # the numbers of its fields are there
    schema = known.said(declared.type, declared.version) or schema_of(declared.cls)
    codec = codec_for(schema, format)
    id, at_first = declared.schema_id, (0,) if format == "protobuf" else None

    def write(event: object) -> bytes:
        try:
            payload = encode(event)
            if format != "json":
                payload = codec.encode(json.decode(payload))
            return prefixed(payload, id, at_first) if isinstance(id, int) else payload
        except FAILURES as error:
            unfit = at("", error)
            raise BadEvent(
                f"{declared.cls.__name__} at ${unfit.path}: {unfit.what}",
                expected=f"what its schema says, since it is written in {format}",
                hint="nothing was written: mend it and emit again",
            ) from None

    content = f"{CONTENT_TYPES[format]}; schema={fingerprint(schema)}"
    if id is not None:
        content += f"; {FRAMED}" if isinstance(id, int) else f"; {GUID}{id}"
    return EventCodec(content, write)


class EventReader:
    """Reads events of a class's own version in any format; `content`: their content type."""

    def __init__(self, declared: EventType) -> None:
        self.declared = declared

    def __call__(self, content: str, record: LogRecord) -> Any:
        """The event of a record. Raises DecodeFailed."""
        declared, raw = self.declared, record.value or b""
        if format_of(content)[0] == "json":
            return decode(declared.cls, _unframed(content, raw))
        document = document_in(content, raw, declared.type, declared.version, declared.cls)
        return event_of(declared.cls, document)


def document_in(content: str, raw: bytes, type: str, version: int, cls: type | None = None) -> Any:
    """The document of a payload that says its content type and version. `cls`: where that version
    is known from, if it is not declared. Raises DecodeFailed.
    """
    format, said = format_of(content)
    raw = _unframed(content, raw)
    if format == "json":
        return document_of(type, raw)
    codec, fingerprint = _codec_of_version(type, version, format, cls)
    if said and said != fingerprint:
        raise DecodeFailed(
            f"{type} version {version} was written by another schema of that version ({said})",
            expected=f"the one that is known here ({fingerprint})",
            hint="a version never changes: oncebox schema check tells who changed it",
        )
    return codec.decode(raw)


def _unframed(content: str, raw: bytes) -> bytes:
    """The payload without what may stand before it. Raises DecodeFailed."""
    if FRAMED not in content:
        return raw
    framed = read_framing(raw)
    if framed is None:
        raise DecodeFailed("no schema id before the payload", expected="as its content type says")
    return framed.protobuf()[1] if format_of(content)[0] == "protobuf" else framed.payload


def written(content: str, document: Any, type: str, version: int) -> tuple[str, bytes]:
    """A document of a version, in the format of a content type: its own content type, and the
    payload. Raises DecodeFailed where it is none of that version.
    """
    format, _ = format_of(content)
    try:
        if format == "json":
            return content.partition("; schema=")[0], json.encode(document)
        codec, said = _codec_of_version(type, version, format, None)
        return f"{CONTENT_TYPES[format]}; schema={said}", codec.encode(document)
    except FAILURES as error:
        unfit = at("", error)
        raise DecodeFailed(
            f"{type} at ${unfit.path}: {unfit.what}", expected=f"an event of version {version}"
        ) from None


def _codec_of_version(
    type: str, version: int, format: Format, cls: type | None
) -> tuple[SchemaCodec, str]:
    schema = chain.declared.schema(type, version)
    if schema is None and cls is not None:
        schema = chain.schema_of_class(cls)
    if schema is None:
        raise DecodeFailed(
            f"{type} came in version {version} in {format}, and its schema is not known here",
            expected="its class, or the lock that has it",
            hint="the event is kept: deploy what knows that version, then oncebox redrive",
        )
    key = (type, version, format)
    known = _codecs.get(key)
    if known is None or known[0] is not schema:
        known = _codecs[key] = schema, codec_for(schema, format), fingerprint(schema)
    return known[1], known[2]


_codecs: dict[tuple[str, int, str], tuple[Schema, SchemaCodec, str]] = {}


@lru_cache(1000)
def format_of(content: str) -> tuple[Format, str]:
    """The format of a content type, and the fingerprint in it ("" if none)."""
    kind, *parameters = (part.strip() for part in content.split(";"))
    said = next((p[7:] for p in parameters if p.startswith("schema=")), "")
    return FORMATS.get(kind.lower(), "json"), said


def fingerprint(schema: Schema) -> str:
    """What a schema writes, as 16 hexadecimal digits: of names, numbers, types and defaults, not of
    documentation or what the event's own class is called. BLAKE2b (RFC 7693).
    """
    said = []
    for name, definition in sorted(schema.definitions.items()):
        if isinstance(definition, Record):
            parts: list[Any] = [
                (f.name, f.number, f.type, f.absent, [] if f.default is UNSET else [f.default])
                for f in definition.fields
            ]
        elif isinstance(definition, Enum):
            parts = [*definition.symbols]
        else:
            assert isinstance(definition, Union)
            parts = [definition.tag_field, *definition.members]
        said.append(
            json.encode(
                (name if name != schema.root else "", definition.__class__.__name__, parts)
            ).decode()
        )
    return blake2b("\n".join(said).encode(), digest_size=8).hexdigest()
