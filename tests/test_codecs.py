"""The same event in JSON, Avro and Protobuf says the same."""

from __future__ import annotations

import copy
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from oncebox.codecs.codec import codec_for
from oncebox.schema.compat.finding import Format
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
