"""What a few bytes may ask for: bounds of Protobuf and JSON, and framing. Avro's: test_codecs_avro."""

from __future__ import annotations

from uuid import UUID

import pytest
from confluent_kafka.schema_registry.serde import SchemaId

from oncebox.codecs.framing import (
    HEADER,
    header,
    prefixed,
    read_framing,
    read_indexes,
    single_object,
    write_indexes,
)
from oncebox.codecs.json import JsonCodec
from oncebox.codecs.protobuf import ProtobufCodec
from oncebox.errors import DecodeFailed
from oncebox.schema.model import Field, Float, Int, List, Named, Nullable, Record, Schema, Str


def wide(fields: int) -> Schema:
    """A list of records of so many fields each."""
    inner = tuple(Field(f"f{n}", n, Nullable(Int())) for n in range(1, fields + 1))
    return Schema(
        "wide", 1, "W", {"W": Record((Field("of", 1, List(Named("I"))),)), "I": Record(inner)}
    )


TREE = Schema(
    "tree", 1, "T", {"T": Record((Field("of", 1, Nullable(Named("T"))), Field("s", 2, Str())))}
)

NUMBERS = Schema(
    "numbers", 1, "N",
    {"N": Record((Field("of", 1, List(Int())), Field("and", 2, List(Float())),
                  Field("s", 3, Str()), Field("t", 4, Str(), absent=True)))},
)  # fmt: skip


def nested(levels: int) -> bytes:
    raw = b"\x12\0"
    for _ in range(levels):
        raw = b"\x0a" + bytes(_varint(len(raw))) + raw + b"\x12\0"
    return raw


def _varint(number: int) -> list[int]:
    found = []
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return [*found, number]


def test_many_wide_records_are_refused_before_they_are_made() -> None:
    codec = ProtobufCodec(wide(1_000))
    with pytest.raises(DecodeFailed, match="too many values"):
        codec.decode(b"\x0a\0" * 500_000)  # a megabyte that would be four gigabytes
    assert len(codec.decode(b"\x0a\0" * 900)["of"]) == 900


def test_many_small_records_are_refused_too() -> None:
    with pytest.raises(DecodeFailed, match="too many values"):
        ProtobufCodec(wide(1)).decode(b"\x0a\0" * 1_000_000)


def test_numbers_that_are_packed_are_counted() -> None:
    codec = ProtobufCodec(NUMBERS)
    for field, width in ((1, 1), (2, 8)):
        raw = bytes((1_000_000 + 1) * width)
        with pytest.raises(DecodeFailed, match="too many values"):
            codec.decode(bytes([field << 3 | 2, *_varint(len(raw))]) + raw)
    long = [2**63 - 1] * 200_000  # nine bytes each
    document = {"of": long, "and": [], "s": ""}
    assert codec.decode(codec.encode(document)) == document


def test_a_long_text_is_one_value() -> None:
    codec = ProtobufCodec(NUMBERS)
    document = {"of": [], "and": [], "s": "x" * 8_200_000, "t": "x"}
    assert codec.decode(codec.encode(document)) == document


@pytest.mark.parametrize("levels", [101, 10_000])
def test_nesting_in_protobuf_is_refused(levels: int) -> None:
    with pytest.raises(DecodeFailed):
        ProtobufCodec(TREE).decode(nested(levels))


def test_groups_in_protobuf_are_refused() -> None:
    with pytest.raises(DecodeFailed):
        ProtobufCodec(TREE).decode(b"\x0b" * 100_000)


def test_a_document_too_deep_for_protobuf_is_not_written() -> None:
    document: dict[str, object] = {"of": None, "s": ""}
    for _ in range(120):
        document = {"of": document, "s": ""}
    with pytest.raises(ValueError, match="too deep"):
        ProtobufCodec(TREE).encode(document)


def test_json_of_too_many_values_is_refused() -> None:
    codec = JsonCodec(wide(1))
    with pytest.raises(DecodeFailed, match="too many values"):
        codec.decode(b'{"of":[' + b",".join([b"{}"] * 1_100_000) + b"]}")
    text = b'{"of":[],"more":"' + b"[,{" * 1_000_000 + b'"}'
    assert codec.decode(text) == {"of": []}  # in a string they are no values


@pytest.mark.parametrize("place", [(0,), (1,), (0, 0), (3, 2, 1), (300,)])
def test_a_place_in_a_file_is_written_and_read(place: tuple[int, ...]) -> None:
    raw = write_indexes(place)
    assert read_indexes(raw + b"x") == (place, len(raw))
    theirs = SchemaId("PROTOBUF", 7, None, list(place))
    assert prefixed(b"", 7, place) == theirs.id_to_bytes()


def test_frames_are_as_confluent_writes_them() -> None:
    guid = UUID("12345678-1234-5678-1234-567812345678")
    assert prefixed(b"x", 7) == SchemaId("AVRO", 7).id_to_bytes() + b"x"
    assert header(guid) == (HEADER, SchemaId("AVRO", None, str(guid)).guid_to_bytes())
    theirs = SchemaId("PROTOBUF", None, str(guid), [1, 2])
    assert header(guid, (1, 2)) == (HEADER, theirs.guid_to_bytes())


def test_frames_are_read() -> None:
    guid = UUID(int=5)
    framed = read_framing(prefixed(b"payload", 7))
    assert framed is not None
    assert framed[:2] == (7, b"payload")
    framed = read_framing(b"payload", [header(guid, (2,))])
    assert framed is not None
    assert framed.id == guid
    assert framed.protobuf() == ((2,), b"payload")
    framed = read_framing(prefixed(b"payload", 7, (1, 0)))
    assert framed is not None
    assert framed.protobuf() == ((1, 0), b"payload")
    framed = read_framing(single_object(b"payload", bytes.fromhex("efcdab8967452301")))
    assert framed is not None
    assert framed == (bytes.fromhex("efcdab8967452301"), b"payload", None)
    assert read_framing(b"{}") is None


@pytest.mark.parametrize("raw", [b"\0", b"\0\0\0\1", b"\0\0\0"])
def test_a_frame_that_is_cut_off_is_refused(raw: bytes) -> None:
    with pytest.raises(DecodeFailed):
        read_framing(raw)


@pytest.mark.parametrize("said", [b"", b"\1", b"\0" + bytes(16), b"\1" + bytes(15)])
def test_a_header_that_is_none_is_refused(said: bytes) -> None:
    with pytest.raises(DecodeFailed):
        read_framing(b"", [(HEADER, said)])


@pytest.mark.parametrize(
    "raw", [b"", b"\x02", b"\xff\xff\xff\xff\xff\xff", b"\x01", b"\xfe\x03" * 3, b"\x02\x01"]
)
def test_a_place_that_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(DecodeFailed):
        read_indexes(raw)
