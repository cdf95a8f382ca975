"""The envelope: CloudEvents 1.0 in binary mode, and our extensions, as headers.

Pure. Attributes: `id`, `source`, `type`, `time`, `datacontenttype`, `dataschema`. Extensions:
`chain` (sequence, stamp and previous in one value, since each header costs time), `after`,
`void`, `residue`, `translated`, `traceparent`. The key is the record's key. `time` is left out of
keyed events: their stamp tells it. Source: CloudEvents 1.0.2, section 3, and its Kafka protocol
binding.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple

from msgspec import MsgspecError, json

from .errors import BadRecord
from .event import KEY_BYTES_MAX
from .order import Chain, is_sound
from .ports import LOST_HEADERS, Record

STAMP_UNITS_PER_US = 1024
"""A stamp is microseconds since 1970 times 1024, plus ten random bits that make it unique."""

NUMBER_MAX = 2**63 - 1
VALUE_BYTES_MAX = 8 * 1024 * 1024
HEADERS_MAX = 64
HEADER_BYTES_MAX = 16 * 1024
"""All headers of a record, names and values."""
ATTRIBUTE_BYTES_MAX = 2048
SOURCE_BYTES_MAX = 1024
"""With a consumer's name and a key, what PostgreSQL's indexes take: 2,704 bytes."""
ID_CHARACTERS_MAX = 200
LABELS_MAX = 4096
CHAIN_BYTES_MAX = 3 * 19 + 2

JSON = "application/json"

_AFTER = re.compile(r"(0|[1-9][0-9]{0,18}):([^:]+):(.+)\Z", re.DOTALL)
_SCHEMA = re.compile(r"oncebox:([^/]+)/([1-9][0-9]{0,3})\Z")
_ORIGIN = re.compile(rb"[1-9][0-9]{0,3}:(-?[0-9]{1,19})\Z")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TIME_MS_MAX = NUMBER_MAX // STAMP_UNITS_PER_US // 1000


class Names(NamedTuple):
    """How a binding calls the attributes in its headers."""

    specversion: str
    id: str
    source: str
    type: str
    dataschema: str
    chain: str
    time: str
    after: str
    void: str
    residue: str
    translated: str


def names_of(prefix: str) -> Names:
    """The names of a binding that puts a prefix before each attribute."""
    return Names(*(prefix + name for name in Names._fields))


KAFKA = names_of("ce_")


ATTRIBUTES_MAX = 32
ATTRIBUTES_BYTES_MAX = 8192
"""Further attributes of an event, such as traceparent, as JSON: its headers stay in bounds."""

_ATTRIBUTE = re.compile(r"[a-z0-9]{1,20}\Z")
_OURS = {*Names._fields, "datacontenttype", "data"}


def read_attributes(text: str | bytes) -> dict[str, str]:
    """Further attributes from their JSON. Raises ValueError for what could not travel: names that
    CloudEvents does not allow, or that are oncebox's own. `oncebox.are_attributes` is the same.
    """
    try:
        found = json.decode(text, type=dict[str, str])
    except MsgspecError as error:
        raise ValueError(f"attributes: {error}") from None
    if len(found) > ATTRIBUTES_MAX or len(text) > ATTRIBUTES_BYTES_MAX:
        raise ValueError(f"{len(found)} attributes of {len(text)} bytes")
    for name in found:
        if name in _OURS or not _ATTRIBUTE.match(name):
            raise ValueError(f"attribute {name[:40]!r}")
    return found


class Reference(NamedTuple):
    """An event of another key that has to take effect first: its source, key and stamp."""

    source: str
    key: str
    stamp: int


class Envelope(NamedTuple):
    """A record's headers, read. `version` is the event's version; None in records of others."""

    id: str
    source: str
    type: str
    version: int | None
    key: str | None
    chain: Chain | None
    time_us: int
    content_type: str
    after: Reference | None
    void: bool
    traceparent: str | None
    digest: int | None = None
    """Of what was emitted, where this is a translation of it."""

    @property
    def time(self) -> datetime:
        """When the event was committed (keyed) or emitted (un-keyed), UTC."""
        return _EPOCH + timedelta(microseconds=self.time_us)


def chain_text(sequence: int, stamp: int, previous: int | None) -> str:
    """The value of the `chain` header: `sequence:stamp:previous`, the last empty for the first."""
    return f"{sequence}:{stamp}:{'' if previous is None else previous}"


def after_text(reference: Reference) -> str:
    """The value of the `after` header: `stamp:source:key`."""
    return f"{reference.stamp}:{reference.source}:{reference.key}"


def event_headers(
    id: str,
    source: str,
    type: str,
    version: int | None,
    chain: str | None,
    extra: Sequence[tuple[str, str]] = (),
    content_type: str = JSON,
    prefix: str = "ce_",
) -> list[tuple[str, str]]:
    """The headers of a record, as few as the binding allows: first what events of a kind share.

    `extra` holds further attributes without prefix (`time`, `after`, `void`, `traceparent`).
    """
    headers = [
        (prefix + "specversion", "1.0"),
        (prefix + "source", source),
        (prefix + "type", type),
        ("content-type", content_type),
    ]
    if version is not None:
        headers.append((prefix + "dataschema", f"oncebox:{type}/{version}"))
    headers.append((prefix + "id", id))
    if chain is not None:
        headers.append((prefix + "chain", chain))
    for name, value in extra:
        headers.append((name if name == "traceparent" else prefix + name, value))
    return headers


class Labels(NamedTuple):
    """What many records share: they are few, so they are checked once and looked up after."""

    source: str
    type: str
    version: int | None
    content_type: str


Numbers = tuple[int, int, int | None]
"""A chain that is not named: sequence, stamp, previous."""

Core = tuple[Labels, str, str | None, Numbers | None, bytes | None, bool]
"""Labels, id, key, chain, traceparent, and whether the record has any of the rarer attributes."""

_RawLabels = tuple[bytes | None, ...]
_Found = tuple[_RawLabels, bytes | None, bytes | None, bytes | None, bool]
"""The headers that make labels, id, chain, traceparent, and whether there are others."""

USUAL = (
    KAFKA.specversion, KAFKA.source, KAFKA.type, "content-type", KAFKA.dataschema, KAFKA.id,
    KAFKA.chain,
)  # fmt: skip
"""What a relay writes for nearly every event, in this order, and perhaps a traceparent behind it:
looked at first, which is quick."""

TRACE_CHARACTERS = 55
"""Of a traceparent: `00-`, 32, `-`, 16, `-`, and 2 of flags, of which the last bit is: sampled (W3C
Trace Context, section 3.2)."""

TRACE_CHARACTERS_MAX = 100


def is_sampled(traceparent: bytes) -> bool:
    """Whether the trace is kept; not, where it is malformed."""
    return len(traceparent) == TRACE_CHARACTERS and traceparent[54] in b"13579bdf"


def read_core(record: Record, names: Names = KAFKA) -> Core:
    """Read what nearly every record is made of. Raises BadRecord: which header, what it needs."""
    headers, value = record.headers, record.value
    if value is not None and len(value) > VALUE_BYTES_MAX:
        raise bad_record(record, f"a value of {len(value)} bytes", f"at most {VALUE_BYTES_MAX}")
    found: _Found | None = None
    trace: bytes | None = None
    if len(headers) == len(USUAL) + 1 and headers[-1][0] == "traceparent":
        *headers, (_, trace) = headers
    if len(headers) == len(USUAL) and len(trace or b"") <= TRACE_CHARACTERS_MAX:
        (a, said), (b, source), (c, type), (d, format), (e, schema), (f, id_), (g, chain_) = headers
        if (a, b, c, d, e, f, g) == USUAL:
            found = (said, source, type, format, schema), id_, chain_, trace, False
    raw, raw_id, raw_chain, trace, more = found or _find(record, names)
    labels = _labels.get(raw)
    if labels is None:
        labels = _read_labels(record, raw, names)
    try:
        id = raw_id.decode("ascii")  # type: ignore[union-attr]
    except (AttributeError, UnicodeDecodeError):
        raise _unreadable(record, names) from None
    if not 0 < len(id) <= ID_CHARACTERS_MAX or not id.isprintable():
        raise bad_record(
            record, f"id {id[:40]!r}", f"1 to {ID_CHARACTERS_MAX} printable characters"
        )
    chain = None if raw_chain is None else read_chain(record, raw_chain)
    if chain is None and labels.version is not None and record.key is not None:
        # One that lost its chain: by its id alone it would run out of order, and run again.
        raise bad_record(
            record, f"no header {names.chain}", "a chain: a keyed event of oncebox has one"
        )
    return labels, id, _read_key(record, chain), chain, trace, more


def _find(record: Record, names: Names) -> _Found:
    """The same headers, wherever they stand."""
    headers = record.headers
    if len(headers) > HEADERS_MAX:
        raise bad_record(record, f"{len(headers)} headers", f"at most {HEADERS_MAX}")
    fields = dict(headers)
    if len(fields) != len(headers):
        _check_repeated(record, names)
    get = fields.get
    content, schema, chain = get("content-type"), get(names.dataschema), get(names.chain)
    trace = get("traceparent")
    known = 4 + sum(value is not None for value in (content, schema, chain, trace))
    raw = get(names.specversion), get(names.source), get(names.type), content, schema
    more = len(fields) > known or len(trace or b"") > TRACE_CHARACTERS_MAX
    return raw, get(names.id), chain, trace, more


def read_envelope(record: Record, names: Names = KAFKA) -> Envelope:
    """Read all of a record's headers. Raises BadRecord, as `read_core`."""
    labels, id, key, numbers, raw_trace, more = read_core(record, names)
    chain = None if numbers is None else Chain(*numbers)
    if chain is None:
        time_us = min(max(record.time_ms, 0), TIME_MS_MAX) * 1000
    else:
        time_us = chain.stamp // STAMP_UNITS_PER_US
    after = void = hashed = None
    if more:
        size = sum(len(name) + len(value or b"") for name, value in record.headers)
        if size > HEADER_BYTES_MAX:
            raise bad_record(record, f"headers of {size} bytes", f"at most {HEADER_BYTES_MAX}")
        get = dict(record.headers).get
        raw_after, raw_time = get(names.after), get(names.time)
        after = _read_after(record, raw_after) if raw_after is not None else None
        if raw_time is not None and chain is None:
            time_us = _read_time(record, raw_time)
        void, raw_origin = get(names.void), get(names.translated)
        hashed = None if raw_origin is None else _read_origin(record, raw_origin)
    trace = None if raw_trace is None else raw_trace[:TRACE_CHARACTERS_MAX].decode("latin-1")
    source, type, version, content_type = labels
    return Envelope(
        id, source, type, version, key, chain, time_us, content_type, after, void is not None,
        trace, hashed,
    )  # fmt: skip


_labels: dict[_RawLabels, Labels] = {}


def _read_labels(record: Record, raw: _RawLabels, names: Names) -> Labels:
    raw_version, raw_source, raw_type, raw_content_type, raw_schema = raw
    if record.headers and record.headers[0][0] == LOST_HEADERS:
        raise bad_record(
            record, "headers that the log's client cannot give: a name among them is not UTF-8",
            "names in UTF-8; key, value and position are kept, its headers are in the log only",
        )  # fmt: skip
    if raw_version != b"1.0":
        raise bad_record(
            record, f"{names.specversion} is {raw_version!r}", "1.0: a CloudEvents record"
        )
    if any(value is not None and len(value) > ATTRIBUTE_BYTES_MAX for value in raw):
        raise bad_record(
            record, "an attribute that is too long", f"at most {ATTRIBUTE_BYTES_MAX} bytes"
        )
    try:
        source, type = raw_source.decode(), raw_type.decode()  # type: ignore[union-attr]
    except (AttributeError, UnicodeDecodeError):
        raise _unreadable(record, names) from None
    if len(raw_source or b"") > SOURCE_BYTES_MAX:
        raise bad_record(record, "a source that is too long", f"at most {SOURCE_BYTES_MAX} bytes")
    for name, text in (("source", source), ("type", type)):
        if not text or not text.isprintable():
            raise bad_record(record, f"{name} {text[:40]!r}", "printable text")
    content_type = JSON
    if raw_content_type is not None:
        content_type = raw_content_type.decode("latin-1")
        if content_type == JSON:
            content_type = JSON  # the same object, so that looking is quick
    labels = Labels(source, type, _read_schema(record, type, raw_schema), content_type)
    if len(_labels) >= LABELS_MAX:
        _labels.clear()
    _labels[raw] = labels
    return labels


def read_chain(record: Record, raw: bytes) -> Numbers:
    """`sequence:stamp:previous`. Raises BadRecord when malformed, out of range or not rising."""
    parts = raw.split(b":", 3)
    if len(parts) == 3 and len(raw) <= CHAIN_BYTES_MAX:
        first, second, third = parts
        if first.isdigit() and second.isdigit() and (not third or third.isdigit()):
            numbers = int(first), int(second), int(third) if third else None
            if is_sound(numbers):
                return numbers
    shown = raw[:60].decode("latin-1")
    raise bad_record(
        record, f"chain {shown!r}", "sequence:stamp:previous, rising; previous empty for number 1"
    )


_signed = Struct(">q").unpack


def digest(type: str, void: bool, value: bytes | None) -> int:
    """A short hash of what an event says, as a signed 64-bit number: 0 for a void.

    BLAKE2b (RFC 7693) of type and payload: an attacker who knows an id cannot choose other bytes
    with the same hash in reasonable time, and a repeated record of the relay has the same bytes.
    """
    if void:
        return 0
    hashed = blake2b(type.encode() + b"\0" + (value or b""), digest_size=8).digest()
    return int(_signed(hashed)[0])


def _read_key(record: Record, chain: Numbers | None) -> str | None:
    raw = record.key
    if raw is None:
        if chain is not None:
            raise bad_record(record, "a chain without a key", "the key as the record's key")
        return None
    if chain is not None and not 0 < len(raw) <= KEY_BYTES_MAX:
        raise bad_record(record, f"a key of {len(raw)} bytes", f"1 to {KEY_BYTES_MAX} bytes")
    try:
        key = raw.decode()
    except UnicodeDecodeError:
        if chain is None:
            return None
        raise bad_record(record, f"key {raw[:40]!r}", "UTF-8") from None
    if "\0" in key:
        raise bad_record(record, f"key {key[:40]!r} with NUL", "text without NUL")
    return key


def read_schema(type: str, text: str) -> int | None:
    """The version that a `dataschema` says; None in records of others."""
    match = _SCHEMA.match(text)
    return None if match is None or match[1] != type else int(match[2])


def _read_schema(record: Record, type: str, raw: bytes | None) -> int | None:
    if raw is None or not raw.startswith(b"oncebox:"):
        return None
    version = read_schema(type, raw.decode("latin-1"))
    if version is None:
        raise bad_record(record, f"dataschema {raw[:60]!r}", f"oncebox:{type}/VERSION")
    return version


def _read_origin(record: Record, raw: bytes) -> int:
    """The digest in `version:digest`, of the header `translated`."""
    match = _ORIGIN.match(raw)
    if match is None or abs(int(match[1])) > NUMBER_MAX + 1:
        raise bad_record(record, f"translated {raw[:60]!r}", "version:digest")
    return int(match[1])


def _read_after(record: Record, raw: bytes) -> Reference:
    try:
        match = _AFTER.match(raw.decode())
    except UnicodeDecodeError:
        match = None
    if match is not None:
        stamp, source, key = int(match[1]), match[2], match[3]
        short = len(source.encode()) <= SOURCE_BYTES_MAX
        sound = short and source.isprintable() and "\0" not in key
        if sound and stamp <= NUMBER_MAX and len(key.encode()) <= KEY_BYTES_MAX:
            return Reference(source, key, stamp)
    raise bad_record(record, f"after {raw[:60]!r}", "stamp:source:key")


def _read_time(record: Record, raw: bytes) -> int:
    try:
        moment = datetime.fromisoformat(raw.decode("ascii"))
        return (moment - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, TypeError, OverflowError):
        raise bad_record(record, f"time {raw[:40]!r}", "RFC 3339 with an offset") from None


def _check_repeated(record: Record, names: Names) -> None:
    """A repeated attribute is ambiguous; a repeated foreign header is nobody's business."""
    seen: set[str] = set()
    for name, _ in record.headers:
        if name in seen and name in (*names, "content-type", "traceparent"):
            raise bad_record(record, f"header {name!r} twice", "each attribute once")
        seen.add(name)


def _unreadable(record: Record, names: Names) -> BadRecord:
    fields = dict(record.headers)
    for name in (names.id, names.source, names.type):
        raw = fields.get(name)
        if raw is None:
            return bad_record(record, f"no header {name}", "a CloudEvents record in binary mode")
        if not raw.isascii():
            return bad_record(record, f"header {name} is {raw[:40]!r}", "readable text")
    return bad_record(record, "unreadable headers", "text")


def bad_record(record: Record, what: str, expected: str) -> BadRecord:
    """What is raised of a record that cannot be read."""
    said = dict(record.headers)
    return BadRecord(
        what,
        event=_shown(said.get(KAFKA.id)),
        source=_shown(said.get(KAFKA.source)),
        key=_shown(record.key),
        position=f"{record.topic}/{record.partition}@{record.offset}",
        expected=expected,
        hint="it is kept as raw bytes: oncebox quarantine list",
    )


def _shown(raw: bytes | None) -> str | None:
    """What a record says, for people: the beginning, and nothing that is not text."""
    if not raw:
        return None
    text = raw[:80].decode("utf-8", "replace")
    return text if text.isprintable() else repr(raw[:80])
