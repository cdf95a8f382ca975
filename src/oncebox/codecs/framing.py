"""Which schema a payload was written with, as other systems say it beside or before the payload.

Confluent's prefix: a zero byte, the schema's id in four bytes (big-endian), then for Protobuf the
place of the record in its file. Confluent's header `__value_schema_id`: a one byte, the schema's
GUID in 16 bytes, and for Protobuf the place again; the payload is left as it is. Avro's own
("single-object encoding", Avro 1.12): C3 01 and the fingerprint CRC-64-AVRO in eight bytes
(little-endian). Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from ..errors import DecodeFailed
from .wire import varint

HEADER = "__value_schema_id"
GUID = "guid="
"""In a content type: which schema the header beside the payload names."""
INDEXES_MAX = 100
"""How deep a record may stand inside others in a Protobuf file."""
ID_MAX = 2**31 - 1

SchemaId = int | UUID | bytes
"""Confluent's number or GUID, or Avro's fingerprint of eight bytes."""


class Framed(NamedTuple):
    """A payload, and what names its schema; `indexes`: what followed the GUID in the header."""

    id: SchemaId
    payload: bytes
    indexes: bytes | None = None

    def protobuf(self) -> tuple[tuple[int, ...], bytes]:
        """For Protobuf: the record's place in its file, and the payload. Raises DecodeFailed."""
        if self.indexes is not None:
            place, end = read_indexes(self.indexes)
            if end != len(self.indexes):
                raise DecodeFailed("more behind the place in the header", expected="nothing")
            return place, self.payload
        place, end = read_indexes(self.payload)
        return place, self.payload[end:]


def read_framing(value: bytes, headers: Sequence[tuple[str, bytes | None]] = ()) -> Framed | None:
    """What a record's header or prefix says; None where it has neither. Raises DecodeFailed for a
    header or prefix that is cut off.
    """
    for name, said in headers:
        if name == HEADER and said is not None:
            if len(said) < 17 or said[0] != 1:
                raise DecodeFailed(
                    f"header {HEADER} of {len(said)} bytes", expected="byte 1 and a GUID of 16"
                )
            return Framed(UUID(bytes=said[1:17]), value, said[17:])
    if value[:1] == b"\0":
        if len(value) < 5:
            raise DecodeFailed("a prefix that ends early", expected="byte 0 and an id of four")
        return Framed(int.from_bytes(value[1:5], "big", signed=True), value[5:])
    if value[:2] == b"\xc3\x01" and len(value) >= 10:
        return Framed(value[2:10], value[10:])
    return None


def prefixed(payload: bytes, id: int, place: Sequence[int] | None = None) -> bytes:
    """A payload behind Confluent's prefix; `place`: of a Protobuf record in its file."""
    if not 0 <= id <= ID_MAX:
        raise ValueError(f"schema id {id}")
    indexes = b"" if place is None else write_indexes(place)
    return b"\0" + id.to_bytes(4, "big") + indexes + payload


def header(guid: UUID, place: Sequence[int] | None = None) -> tuple[str, bytes]:
    """Confluent's header for a value, which leaves the payload as it is."""
    return HEADER, b"\1" + guid.bytes + (b"" if place is None else write_indexes(place))


def beside(content: str) -> list[tuple[str, bytes]]:
    """The headers that a content type asks for."""
    _, _, said = content.partition(GUID)
    if not said:
        return []
    return [header(UUID(said), (0,) if content.startswith("application/protobuf") else None)]


def single_object(payload: bytes, fingerprint: bytes) -> bytes:
    """Avro's single-object encoding, with a fingerprint as `codecs.avro.fingerprint` gives it."""
    if len(fingerprint) != 8:
        raise ValueError(f"a fingerprint of {len(fingerprint)} bytes")
    return b"\xc3\x01" + fingerprint + payload


def write_indexes(place: Sequence[int]) -> bytes:
    """A place in a Protobuf file: how many numbers, then they, zigzag; the first record is 0."""
    if tuple(place) == (0,):
        return b"\0"
    return b"".join(map(_zigzag, (len(place), *place)))


def read_indexes(raw: bytes) -> tuple[tuple[int, ...], int]:
    """A place, and where it ends. Raises DecodeFailed."""
    try:
        count, pos = _read_zigzag(raw, 0)
        if count == 0:
            return (0,), pos
        if not 0 < count <= INDEXES_MAX:
            raise DecodeFailed(f"{count} message indexes", expected=f"1 to {INDEXES_MAX}")
        place = []
        for _ in range(count):
            index, pos = _read_zigzag(raw, pos)
            if index < 0:
                raise DecodeFailed(f"message index {index}", expected="0 or more")
            place.append(index)
    except IndexError:
        raise DecodeFailed("message indexes that end early", expected="all of them") from None
    return tuple(place), pos


def _zigzag(number: int) -> bytes:
    number = number << 1 if number >= 0 else (-number << 1) - 1
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def _read_zigzag(raw: bytes, pos: int) -> tuple[int, int]:
    number, pos = varint(raw, pos)
    return (number >> 1) ^ -(number & 1), pos
