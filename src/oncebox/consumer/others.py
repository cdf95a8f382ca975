"""Topics that others write: where an event's id and key are in a record, by expressions.

Pure. `key` is the record's key, `header:NAME` a header, `$.field.field` a field of a JSON value,
`offset` the record's own place. What such a topic cannot tell is not known here either: whether
anything is missing, and the order in which its writer committed. Order is the log's order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Generic, TypeVar

from msgspec import MsgspecError, json

from ..codecs.framed import FramedReader, Schemas
from ..codecs.payload import codec_of
from ..codecs.payload import decode as decode_json
from ..envelope import JSON, TIME_MS_MAX, VALUE_BYTES_MAX, Envelope, Reference, bad_record
from ..errors import BadEvent, ConfigurationError
from ..event import EventType, key_text
from ..ports import LOST_HEADERS, Record

E = TypeVar("E")

Part = Callable[[Record], str | None]

IN_LINE = -1
"""As the stamp of `after`: the event takes its place behind all that came of that key before."""

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}\Z")


@dataclass(frozen=True)
class Foreign(Generic[E]):
    """A topic that others write, see `foreign`."""

    topic: str
    cls: type[E]
    read: Callable[[bytes], E] = field(repr=False, compare=False)
    """The event from a record's value."""
    id: str
    key: str | None
    _id: Part = field(repr=False, compare=False)
    _key: Part | None = field(repr=False, compare=False)
    framed: FramedReader[E] | None = field(default=None, repr=False, compare=False)
    """What reads it, if its records name their schemas."""

    @property
    def content(self) -> str:
        """The content type of its records."""
        return JSON if self.framed is None else "framed"

    @property
    def type(self) -> EventType:
        """As handlers are registered: by a name that no type of ours has."""
        return EventType(f"foreign:{self.topic}", self.topic, None, 1, self.cls)

    def envelope(self, record: Record) -> Envelope:
        """What an event's headers would say. Raises BadRecord where an expression finds nothing."""
        if record.headers and record.headers[0][0] == LOST_HEADERS:
            raise bad_record(record, "headers that the log's client cannot give", "names in UTF-8")
        if record.value is not None and len(record.value) > VALUE_BYTES_MAX:
            what = f"a value of {len(record.value)} bytes"
            raise bad_record(record, what, f"at most {VALUE_BYTES_MAX}")
        id = _found(record, "id", self.id, self._id)
        key = None if self.key is None else _found(record, "key", self.key, self._key)
        raw_trace = next((value for name, value in record.headers if name == "traceparent"), None)
        trace = None if raw_trace is None else raw_trace.decode("latin-1")[:100]
        return Envelope(
            id, self.topic, self.type.type, None, key, None,
            min(max(record.time_ms, 0), TIME_MS_MAX) * 1000, JSON,
            None if key is None else Reference(self.topic, key, IN_LINE), False, trace,
        )  # fmt: skip


def foreign(
    topic: str,
    cls: type[E],
    *,
    key: str | None = None,
    id: str = "offset",
    decode: Callable[[bytes], E] | None = None,
    schemas: Schemas | None = None,
) -> Foreign[E]:
    """A topic that oncebox does not write: `@service.on(foreign("legacy.payments", Payment, …))`.

    `id` says where a record has its event's id, `key` where the key that orders events (None: they
    have no order): `key` (the record's key), `header:NAME`, `$.field.field` of a JSON value, or
    `offset`. `cls` is any class that JSON can be read into, or whatever `decode` makes of a value.
    `schemas`: records name their schema by an id (Confluent's prefix or header, Avro's
    fingerprint), and this tells it: `oncebox.registry.client.RegistryClient(url)`, or a mapping or
    function from id to (format, text); while it cannot, the event waits.

    Each id takes effect once; of each key, events take effect in the order in which they came, and
    what is behind one that fails waits. By `offset` (partition, offset and the record's time) what
    the log redelivers is dropped, but not what its writer sends twice; of a topic that was deleted
    and made again, all records are new. Raises ConfigurationError.
    """
    if not _TOPIC.match(topic):
        raise ConfigurationError(f"topic {topic[:60]!r}", expected="letters, digits, '.', '_', '-'")
    if decode is None:
        codec_of(cls)
        decode = partial(decode_json, cls)
    framed = None
    if schemas is not None:
        if any(one is not None and one.startswith("$.") for one in (id, key)):
            raise ConfigurationError(
                f"topic {topic}: records with a schema id are no JSON to look into",
                expected="key, header:NAME or offset",
            )
        framed = FramedReader(topic, cls, schemas)
    find_key = None if key is None else part(key)
    return Foreign(topic, cls, decode, id, key, part(id), find_key, framed)


def is_foreign(source: str) -> bool:
    """Whether it is the source of such a topic's events: its name, where ours begin with "/"."""
    return source[:1] not in {"", "/"} and not source.endswith("#claim")


def part(expression: str) -> Part:
    """What takes one text from a record. It raises ValueError where the value is no JSON, or the
    field no text or number. Raises ConfigurationError.
    """
    kind, _, name = expression.partition(":")
    if expression == "key":
        return lambda record: None if record.key is None else record.key.decode()
    if expression == "offset":  # with the time, since a topic that is made anew counts from 0
        return lambda record: f"{record.partition}@{record.offset}:{record.time_ms}"
    if kind == "header" and name:
        return lambda record: next((v.decode() for n, v in record.headers if n == name and v), None)
    if not expression.startswith("$.") or not all(names := expression[2:].split(".")):
        raise ConfigurationError(
            f"expression {expression!r}", expected="key, offset, header:NAME or $.field.field"
        )

    def field(record: Record) -> str | None:
        try:
            value = reduce(lambda at, name: at[name], names, json.decode(record.value or b""))
        except (KeyError, TypeError):
            return None
        except (MsgspecError, RecursionError) as error:
            raise ValueError(f"its value is no JSON: {error}") from error
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        raise ValueError(f"{expression} is neither text nor a whole number")

    return field


def _found(record: Record, what: str, expression: str, read: Part | None) -> str:
    try:
        text = None if read is None else read(record)
        if text is not None:
            return key_text(text)
        why = "finds nothing"
    except (ValueError, BadEvent) as error:
        why = error.what if isinstance(error, BadEvent) else str(error)
    raise bad_record(record, f"no {what}: {expression} {why}", f"an {what} in every record")
