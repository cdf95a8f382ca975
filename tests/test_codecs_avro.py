"""Avro: the same as fastavro where fastavro is right, right where it is not, and bounded."""

from __future__ import annotations

import io
import json
import threading
from datetime import UTC, datetime
from random import Random
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avro_pairs import Pair
from oncebox.codecs import avro_reader
from oncebox.codecs.avro import fingerprint, foreign_reader, parsed_text
from oncebox.errors import DecodeFailed, SchemaError


def written(schema: Any, datum: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), datum)
    return out.getvalue()


def check_pair(rng: Random) -> str:
    """Ours and fastavro's answer to one pair and datum; "same", or "refused" by both."""
    pair = Pair(rng)
    writer, reader = json.dumps(pair.writer), json.dumps(pair.reader)
    raw = written(json.loads(writer), pair.datum(pair.writer))
    one, other = (fastavro.parse_schema(json.loads(text)) for text in (writer, reader))
    try:
        theirs = fastavro.schemaless_reader(io.BytesIO(raw), one, other)
    except Exception:
        with pytest.raises(DecodeFailed):
            foreign_reader(writer, reader, values=True)(raw)
        return "refused"
    ours = foreign_reader(writer, reader, values=True)(raw)
    assert ours == theirs
    assert repr(sorted_(ours)) == repr(sorted_(theirs))  # 1 and 1.0, True and 1 differ
    return "same"


def sorted_(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: sorted_(value[key]) for key in sorted(value)}
    return [sorted_(part) for part in value] if isinstance(value, list) else value


@settings(max_examples=30, deadline=None)
@given(st.randoms())
def test_resolution_is_as_fastavro_has_it(rng: Random) -> None:
    check_pair(rng)


def test_resolution_of_many_pairs_is_as_fastavro_has_it(rng: Random) -> None:
    found = [check_pair(rng) for _ in range(500)]
    assert found.count("same") > 200
    assert found.count("refused") > 5


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_resolution_of_very_many_pairs(rng: Random) -> None:
    found = [check_pair(rng) for _ in range(50_000)]
    assert found.count("same") > 20_000


# ---- where fastavro is wrong

FAULTY = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "id", "type": "long"},
        {"name": "tags", "type": {"type": "array", "items": "string"}, "default": []},
        {"name": "raw", "type": "bytes", "default": "\u00ff\u0000"},
        {
            "name": "inner",
            "type": {
                "type": "record",
                "name": "Inner",
                "fields": [
                    {"name": "a", "type": "long"},
                    {"name": "b", "type": "string", "default": "b"},
                ],
            },
            "default": {"a": 1},
        },
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}, "default": 0},
        {"name": "third", "type": "float", "default": 0.1},
    ],
}
WRITER = {"type": "record", "name": "Event", "fields": [{"name": "id", "type": "long"}]}


@pytest.fixture
def faulty() -> Any:
    return foreign_reader(json.dumps(WRITER), json.dumps(FAULTY), values=True)


def test_a_default_is_never_a_shared_object(faulty: Any) -> None:
    raw = written(WRITER, {"id": 1})
    first = faulty(raw)
    first["tags"].append("mine")
    first["inner"]["a"] = 7
    assert faulty(raw)["tags"] == []
    assert faulty(raw)["inner"] == {"a": 1, "b": "b"}


def test_defaults_are_complete_and_of_their_types(faulty: Any) -> None:
    found = faulty(written(WRITER, {"id": 1}))
    assert found["raw"] == b"\xff\0"
    assert found["inner"] == {"a": 1, "b": "b"}
    assert found["at"] == datetime(1970, 1, 1, tzinfo=UTC)
    document = foreign_reader(json.dumps(WRITER), json.dumps(FAULTY))(written(WRITER, {"id": 1}))
    assert document["raw"] == "/wA="
    assert document["at"] == "1970-01-01T00:00:00Z"


def test_a_float_has_32_bits() -> None:
    read = foreign_reader('"long"', '"float"', values=True)
    assert read(written("long", 16_777_217)) == 16_777_216.0


@pytest.mark.parametrize(
    ("writer", "reader", "raw", "expected"),
    [
        ("timestamp-millis", "timestamp-micros", 1_500, "1970-01-01T00:00:01.500000Z"),
        ("timestamp-micros", "timestamp-millis", 1_500, "1970-01-01T00:00:00.001500Z"),
        ("time-micros", "time-micros", 1_500, "00:00:00.001500"),
        ("local-timestamp-millis", "local-timestamp-micros", 1, "1970-01-01T00:00:00.001000"),
    ],
)
def test_a_moment_stays_the_same_in_another_unit(
    writer: str, reader: str, raw: int, expected: str
) -> None:
    schemas = [json.dumps({"type": "long", "logicalType": name}) for name in (writer, reader)]
    assert foreign_reader(*schemas)(written("long", raw)) == expected


def test_a_decimal_stays_the_same_in_another_scale() -> None:
    def decimal(scale: int) -> str:
        logical = {"logicalType": "decimal", "precision": 9, "scale": scale}
        return json.dumps({"type": "bytes", **logical})

    raw = written("bytes", (1250).to_bytes(2, "big"))
    assert foreign_reader(decimal(2), decimal(3))(raw) == "12.500"
    assert foreign_reader(decimal(2), decimal(1))(raw) == "12.5"
    with pytest.raises(DecodeFailed, match="behind the point"):
        foreign_reader(decimal(2), decimal(0))(raw)


# ---- bombs

TREE = '{"type":"record","name":"T","fields":[{"name":"of","type":["null","T"]}]}'
EMPTY = '{"type":"record","name":"E","fields":[]}'


def varint(number: int) -> bytes:
    number = (number << 1) ^ (number >> 63)
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def array(items: str) -> str:
    return f'{{"type":"array","items":{items}}}'


def mapping(values: str) -> str:
    return f'{{"type":"map","values":{values}}}'


BOMBS = {
    "a billion nulls": (array('"null"'), varint(2**40) + b"\0", "more than 1000000 values"),
    "nulls by negative count": (
        array('"null"'), varint(-(2**62)) + b"\0\0", "more than 1000000 values",
    ),
    "empty records": (array(EMPTY), varint(2**40) + b"\0", "more than 1000000 values"),
    "many short lists": (
        array(array('"null"')), varint(2) + (varint(999_999) + b"\0") * 2, "more than 1000000",
    ),
    "nesting": (TREE, b"\2" * 5_000 + b"\0", "more than 100 levels"),
    "nesting in lists": (
        f'{{"type":"record","name":"T","fields":[{{"name":"of","type":{array(chr(34) + "T" + chr(34))}}}]}}',
        b"\2" * 5_000, "more than 100 levels",
    ),
    "a string longer than all": ('"string"', varint(2**50) + b"x", "ends early"),
    "a negative length": ('"bytes"', varint(-5) + b"xxxxxx", "negative length"),
    "a number without end": ('"long"', b"\xff" * 100, "more than 64 bits"),
    "a map of nothing": (mapping('"null"'), varint(2**50), "more than 1000000 values"),
    "no such branch": ('["null","int"]', varint(7), "no such branch"),
    "a negative branch": ('["null","int"]', varint(-1), "no such branch"),
    "no such symbol": ('{"type":"enum","name":"S","symbols":["A"]}', varint(1), "no such symbol"),
    "a negative symbol": ('{"type":"enum","name":"S","symbols":["A"]}', varint(-1), "no such symbol"),
    "neither true nor false": ('"boolean"', b"\2", "neither true nor false"),
    "an int of 40 bits": ('"int"', varint(2**40), "more than 32 bits"),
    "no number": ('"double"', b"\0\0\0\0\0\0\xf8\x7f", "no form in JSON"),
    "a year that is none": (
        '{"type":"long","logicalType":"timestamp-micros"}', varint(2**62), "years 1 to 9999",
    ),
    "a decimal of a megabyte": (
        '{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}',
        varint(2**20) + b"\1" * 2**20, "a decimal of",
    ),
    "more behind it": ('"null"', b"\0", "1 bytes behind its end"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once(name: str) -> None:
    schema, raw, expected = BOMBS[name]
    with pytest.raises(DecodeFailed, match=expected):
        foreign_reader(schema)(raw)
    skipping = f'{{"type":"record","name":"Skip","fields":[{{"name":"x","type":{schema}}}]}}'
    nothing = '{"type":"record","name":"Skip","fields":[]}'
    if name not in ("no number", "a year that is none", "a decimal of a megabyte"):
        with pytest.raises(DecodeFailed):
            foreign_reader(skipping, nothing)(raw)


def test_records_that_double_at_each_level_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    schema: Any = {"type": "record", "name": "R40", "fields": []}
    for n in range(39, -1, -1):  # a few lines of text, no bytes, and 2^40 records
        fields = [{"name": "a", "type": schema}, {"name": "b", "type": f"R{n + 1}"}]
        schema = {"type": "record", "name": f"R{n}", "fields": fields}
    monkeypatch.setattr(avro_reader, "ELEMENTS_MAX", 10_000)  # a million takes its time
    with pytest.raises(DecodeFailed, match="more than 10000 values"):
        foreign_reader(json.dumps(schema))(b"")


def test_nesting_is_bounded_on_a_small_stack() -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            foreign_reader(TREE)(b"\2" * 100_000)
        except DecodeFailed as error:
            failures.append(error)

    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert len(failures) == 1


@pytest.mark.parametrize(
    "text",
    [
        "", "{", '{"type":"record"}', '"nothing"', '["null",["null","int"]]', "[" * 500 + "]" * 500,
        '{"type":"record","name":"R","fields":[{"name":"a","type":"int","default":"x"}]}',
        " " * (5 * 1024 * 1024 + 1),
    ],
    ids=range(8),
)  # fmt: skip
def test_a_schema_that_cannot_be_used_is_refused(text: str) -> None:
    with pytest.raises(SchemaError):
        foreign_reader(WRITER_TEXT, text)(b"\0")


WRITER_TEXT = '{"type":"record","name":"R","fields":[]}'


def test_a_default_that_holds_itself_is_refused() -> None:
    reader = '{"type":"record","name":"R","fields":[{"name":"r","type":"R","default":{}}]}'
    with pytest.raises(SchemaError):
        foreign_reader(WRITER_TEXT, reader)


def test_a_schema_of_ten_thousand_fields() -> None:
    fields = [{"name": f"f{n}", "type": "long", "default": n} for n in range(10_000)]
    reader = json.dumps({"type": "record", "name": "R", "fields": fields})
    assert foreign_reader(WRITER_TEXT, reader)(b"")["f9999"] == 9_999


def test_what_fails_is_named_by_its_path() -> None:
    schema = {
        "type": "record", "name": "R", "fields": [
            {"name": "lines", "type": {"type": "array", "items": {
                "type": "record", "name": "L", "fields": [{"name": "ok", "type": "boolean"}]}}}]}  # fmt: skip
    read = foreign_reader(json.dumps(schema))
    for raw, why in ((b"\4\1\7\0", "neither true nor false"), (b"\4", "ends early")):
        with pytest.raises(DecodeFailed, match=rf"at \$\.lines\[\]\.ok: {why}"):
            read(raw)


def test_the_text_of_a_schema_is_parsed_once() -> None:
    assert parsed_text(TREE) is parsed_text(TREE)


HOSTILE_PARTS: list[Any] = [
    None, 0, -1, 2**70, 1.5, "", "a'b", '"}{', "\\", [], {}, "null", "int", ["null"], {"type": "int"},
    {"type": "array"}, [["null"]], "N", {"type": "fixed", "name": "F", "size": -5}, True,
]  # fmt: skip


def hostile(rng: Random, schema: Any) -> Any:
    """A schema with one part of it, anywhere, made another."""
    if not isinstance(schema, list | dict) or not schema or rng.random() < 0.2:
        return rng.choice(HOSTILE_PARTS)
    keys = list(schema) if isinstance(schema, dict) else range(len(schema))
    where = rng.choice(keys)
    schema[where] = hostile(rng, schema[where])
    return schema


def test_hostile_schemas_are_refused_or_used(rng: Random) -> None:
    outcomes = {"refused": 0, "read": 0}
    for _ in range(400):
        pair = Pair(rng)
        raw = written(json.loads(json.dumps(pair.writer)), pair.datum(pair.writer))
        texts = [json.dumps(pair.writer), json.dumps(pair.reader)]
        texts[rng.randrange(2)] = json.dumps(hostile(rng, json.loads(rng.choice(texts))))
        try:
            foreign_reader(*texts)(raw)
            outcomes["read"] += 1
        except (SchemaError, DecodeFailed):
            outcomes["refused"] += 1
    assert all(outcomes.values())


def test_a_union_of_nothing_is_refused() -> None:
    with pytest.raises(DecodeFailed, match="union of nothing"):
        foreign_reader("[]", '"string"')(b"\0")


def test_what_nobody_wants_is_skipped_however_deep() -> None:
    deep: Any = "string"
    for _ in range(60):
        deep = {"type": "array", "items": deep}
    fields = [{"name": "deep", "type": deep}, {"name": "x", "type": "int"}]
    writer = {"type": "record", "name": "R", "fields": fields}
    reader = {"type": "record", "name": "R", "fields": fields[1:]}
    datum: Any = "text"
    for _ in range(60):
        datum = [datum]
    raw = written(json.loads(json.dumps(writer)), {"deep": datum, "x": 7})
    assert foreign_reader(json.dumps(writer), json.dumps(reader))(raw) == {"x": 7}


def test_a_symbol_is_never_code() -> None:
    symbols = json.dumps(["a'b", '"}{', "{fail}", "\\"])
    writer = f'{{"type":"enum","name":"E","symbols":{symbols}}}'
    reader = '{"type":"enum","name":"E","symbols":["x"]}'
    with pytest.raises((DecodeFailed, SchemaError)):
        foreign_reader(writer, reader)(b"\2")


def test_a_size_is_never_code() -> None:
    fixed = {"type": "fixed", "name": "F", "size": "len('abcd')"}
    writer = {"type": "record", "name": "R", "fields": [{"name": "x", "type": fixed}]}
    with pytest.raises(SchemaError, match="a size of"):
        foreign_reader(json.dumps(writer), WRITER_TEXT)(b"abcd")  # which has no use for it


def test_fingerprints_are_avros() -> None:
    assert fingerprint("null") == (7195948357588979594).to_bytes(8, "little")  # schema-tests.txt
    assert fingerprint({"type": "null", "doc": "x"}) == fingerprint("null")
