"""Avro's primitives and logical types: what a raw value is for the reader, as a document's value or
as fastavro gives it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any
from uuid import UUID

from ..schema import leaves
from .avro_shapes import Leaf
from .convert import integer

PRECISION_MAX = 400
"""Digits of a decimal; a schema that asks for more has its decimals as bytes."""

Conversion = Callable[[Any], Any]

_F32 = struct.Struct("<f")
_UNITS: dict[str, tuple[str, int, int]] = {
    "timestamp-millis": ("timestamp", 1000, 1),
    "timestamp-micros": ("timestamp", 1, 1),
    "timestamp-nanos": ("timestamp", 1, 1000),
    "local-timestamp-millis": ("local", 1000, 1),
    "local-timestamp-micros": ("local", 1, 1),
    "local-timestamp-nanos": ("local", 1, 1000),
    "time-millis": ("time", 1000, 1),
    "time-micros": ("time", 1, 1),
    "date": ("date", 1, 1),
    leaves.DURATION: ("duration", 1, 1),
}
"""Family, and what makes microseconds (or days) of the raw number: a factor and a divisor."""

_TEXTS: dict[str, Callable[[int], str]] = {
    "timestamp": leaves.timestamp_text,
    "local": lambda us: leaves.timestamp_text(us).removesuffix("Z"),
    "time": leaves.time_text,
    "date": leaves.date_text,
    "duration": leaves.duration_text,
}


def conversion(writer: Leaf, reader: Leaf, *, values: bool) -> Conversion | None:
    """What makes of a writer's raw value the reader's; None: it is the same.

    The function raises ValueError for a value that the reader has no form for.
    """
    promote = _promotion(writer.avro, reader.avro)
    last = _as_python(writer, reader) if values else _as_document(writer, reader)
    if promote is None or last is None:
        return promote or last
    return lambda raw: last(promote(raw))


def _promotion(writer: str, reader: str) -> Conversion | None:
    if reader == writer:
        return None
    if reader == "float":
        return lambda number: _F32.unpack(_F32.pack(number))[0]
    if reader == "double" and writer != "float":
        return float
    if reader == "string":
        return bytes.decode
    if reader == "bytes":
        return str.encode
    return None


def _as_document(writer: Leaf, reader: Leaf) -> Conversion | None:  # noqa: PLR0911
    kind, logical = reader.avro, reader.logical
    digits = 0 <= reader.scale <= reader.precision <= PRECISION_MAX
    if logical == "decimal" and digits and kind in RAW:
        return _decimal(writer, reader)
    if logical == "uuid":
        if kind == "string":
            return leaves.uuid_text
        if kind == "fixed" and reader.size == 16:
            return lambda raw: str(UUID(bytes=raw))
    if logical in _UNITS and kind in ("int", "long"):
        family = _UNITS[logical][0]
        given = _UNITS.get(writer.logical)
        _, factor, divisor = given if given and given[0] == family else _UNITS[logical]
        text = _TEXTS[family]
        if factor == divisor == 1:
            return text
        return lambda number: text(number * factor // divisor)
    if kind in RAW:
        return leaves.bytes_text
    if reader.bounds is not None:
        return integer(*reader.bounds)
    return leaves.finite if kind in ("float", "double") else None


RAW = ("bytes", "fixed")


def _decimal(writer: Leaf, reader: Leaf) -> Conversion:
    precision, scale = reader.precision, reader.scale
    shift = scale - (writer.scale if writer.logical == "decimal" else scale)
    if abs(shift) > PRECISION_MAX:
        raise ValueError(f"a scale of {writer.scale}")

    def text(raw: bytes) -> str:
        if len(raw) > PRECISION_MAX:
            raise ValueError(f"a decimal of {len(raw)} bytes")
        number = int.from_bytes(raw, "big", signed=True)
        if shift >= 0:
            return leaves.decimal_text(number * 10**shift, precision, scale)
        number, lost = divmod(number, 10**-shift)
        if lost:
            raise ValueError(f"more than {scale} digits behind the point")
        return leaves.decimal_text(number, precision, scale)

    return text


def _as_python(writer: Leaf, reader: Leaf) -> Conversion | None:
    from fastavro.read import LOGICAL_READERS

    leaf = writer if writer.logical and writer.avro == reader.avro else reader
    read: Any = LOGICAL_READERS.get(f"{leaf.avro}-{leaf.logical}")
    if read is None:
        return None
    schema = {"type": leaf.avro, "precision": leaf.precision, "scale": leaf.scale}
    return lambda raw: read(raw, schema, None)
