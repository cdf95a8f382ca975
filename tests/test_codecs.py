"""The same event in JSON, Avro and Protobuf says the same."""

from __future__ import annotations

import base64
import copy
import json
import math
import re
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oncebox.codecs.codec import codec_for
from oncebox.codecs.convert import Unfit
from oncebox.schema.compat.finding import Format
from oncebox.schema.model import (
    Bool,
    Bytes,
    Date,
    Decimal,
    Definition,
    Duration,
    Field,
    Float,
    Int,
    List,
    Map,
    Member,
    Named,
    Nullable,
    Record,
    Schema,
    Set,
    Str,
    Time,
    Timestamp,
    Type,
    Union,
)
from schemas_made import document_made, schema_made

FORMATS: list[Format] = ["json", "avro", "protobuf"]


def check_same(rng: Random) -> None:
    """A schema and some documents; what one codec reads is what the others read."""
    schema = schema_made(rng)
    codecs = [codec_for(schema, format) for format in FORMATS]
    for _ in range(4):
        document = document_made(rng, schema)
        before = copy.deepcopy(document)
        found = [codec.decode(codec.encode(document)) for codec in codecs]
        assert document == before
        assert found[0] == found[1] == found[2]
        assert [codec.decode(codec.encode(found[0])) for codec in codecs] == found


@settings(max_examples=30, deadline=None)
@given(st.randoms())
def test_a_document_is_the_same_through_each_format(rng: Random) -> None:
    check_same(rng)


def test_many_documents_are_the_same_through_each_format(rng: Random) -> None:
    for _ in range(200):
        check_same(rng)


@pytest.mark.parametrize("format", FORMATS)
def test_a_default_is_never_a_shared_object(format: Format) -> None:
    fields = (
        Field("a", 1, List(Map(Str())), default=[{"x": "y"}]),
        Field("b", 2, List(Str()), default=[]),
    )
    codec = codec_for(Schema("t", 1, "R", {"R": Record(fields)}), format)
    raw = {"json": b"{}", "avro": codec.encode({}), "protobuf": b""}[format]
    first = codec.decode(raw)
    first["a"][0]["x"] = "changed"
    first["b"].append("more")
    assert codec.decode(raw) == codec.decode(codec.encode({})) == {"a": [{"x": "y"}], "b": []}


LAST, ENDS = "9999-12-31T23:59:59.999999Z", "P106751991DT14454.775807S"
EDGES: list[tuple[Type, list[Any]]] = [
    (Int(), [2**63 - 1, -(2**63), 2**63, 1.0, True, "1"]),
    (Float(), [-0.0, 5e-324, 1.7976931348623157e308, 2**53 + 1, 10**400, math.nan, math.inf]),
    (Str(), ["", "\0", "e\u0301", "\U0010ffff", "\ud800", None]),
    (Bytes(), ["", base64.b64encode(bytes(range(256))).decode(), "AB==", "AA", " AA==", "_-8="]),
    (Decimal(400, 399), ["-0", "9." + "9" * 399, "-9." + "9" * 399, "10", "1e2", "NaN", "+1"]),
    (Decimal(12, 2), ["1E+2", "-1E+2", "0E+3", "1E-2", "1E-3", "1E+10", "1.500", "1E+9999"]),
    (Timestamp(), ["0001-01-01T00:00:00Z", LAST, "0001-01-01T00:00:00+01:00",
                   "9999-12-31T23:59:59-01:00", "2016-12-31T23:59:60Z", "2020-01-01T00:00:00",
                   "1969-12-31T23:59:59.999999+23:59", "2020-01-01T00:00:00+00:00:30"]),
    (Date(), ["0001-01-01", "9999-12-31", "0000-01-01", "2020-02-30"]),
    (Time(), ["00:00:00", "23:59:59.999999", "23:59:60", "24:00:00", "12:00:00Z"]),
    (Duration(), ["-PT0.000001S", "P3652500D", "-P3652500D", "P3652501D", ENDS, "-" + ENDS,
                  "P106751991DT14454.775808S", "-P999999999D", "P1000000000D", "P1Y"]),
    (Map(Bool()), [{"": True}, {"\0": False}, {"\ud800": True}, {1: True}, {"x": None}]),
    (Nullable(List(Nullable(Map(Nullable(Set(Str())))))), [None, [None, {"a": None, "b": ["y", "x"]}]]),
]  # fmt: skip


@pytest.mark.parametrize(("type", "values"), EDGES)
def test_a_value_is_read_back_the_same_or_never_written(type: Type, values: list[Any]) -> None:
    schema = Schema("t", 1, "R", {"R": Record((Field("a", 1, type),))})
    codecs = [codec_for(schema, format) for format in FORMATS]
    for value in values:
        found: set[str] = set()
        for codec in codecs:
            try:
                written = codec.encode({"a": value})
            except ValueError:
                if type != Duration():  # of which Avro and Protobuf have no more than so much
                    found.add("refused")
            else:
                found.add(json.dumps(codec.decode(written), sort_keys=True))
        assert len(found) <= 1, (value, found)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"lines": [{"n": "x"}]}, r"\.lines\[0\]\.n"),
        ({"lines": [{"n": 1}, {}]}, r"\.lines\[1\]\.n"),
        ({"lines": 5}, r"\.lines"),
        ([], ""),
        ({"lines": [{"n": 10}]}, r"\.lines\[0\]\.n"),
        ({"lines": [{"n": True}]}, r"\.lines\[0\]\.n"),
    ],
)
def test_what_a_schema_does_not_allow_is_not_written(
    format: Format, document: Any, path: str
) -> None:
    definitions: dict[str, Definition] = {
        "R": Record((Field("lines", 1, List(Named("L"))),)),
        "L": Record((Field("n", 1, Int(0, 9)),)),
    }
    codec = codec_for(Schema("t", 1, "R", definitions), format)
    with pytest.raises(Unfit) as failure:
        codec.encode(document)
    assert re.fullmatch(path, failure.value.path)


@pytest.mark.parametrize("type", [Named("E"), Map(Str()), List(Str()), Named("U")])
def test_what_is_empty_is_not_what_was_left_out(type: Type) -> None:
    definitions: dict[str, Definition] = {
        "R": Record((Field("a", 1, Nullable(type), absent=True),)),
        "E": Record(()),
        "U": Union("tag", (Member("e", "E", 1),)),
    }
    empty: Any = {"tag": "e"} if type == Named("U") else [] if type == List(Str()) else {}
    for format in FORMATS:
        codec = codec_for(Schema("t", 1, "R", definitions), format)
        for document in ({}, {"a": None}, {"a": empty}):
            assert codec.decode(codec.encode(document)) == document
