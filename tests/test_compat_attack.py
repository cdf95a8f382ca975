"""Answers of the checkers under attack: random schemas, changed at random, with random documents
through the real libraries. "Compatible" must hold for each document, each witness must be one.
"""

from __future__ import annotations

import io
from collections import Counter
from random import Random
from typing import Any

import avro.schema as avro_schema
import pytest
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from fastavro import parse_schema, schemaless_reader, schemaless_writer
from fastavro.validation import validate
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError
from msgspec import json

import avro_made
import proto_made
from avro_cases import CASES
from oncebox.errors import SchemaError
from oncebox.schema.compat import avro, protobuf
from oncebox.schema.compat.finding import Finding
from oncebox.schema.compat.proto_compile import MAIN, Source, compile_all

DOCUMENTS = 15


def read_avro(data: bytes, writer: Any, reader: Any) -> Any:
    return schemaless_reader(io.BytesIO(data), parse_schema(writer), parse_schema(reader))


def write_avro(document: Any, schema: Any) -> bytes:
    out = io.BytesIO()
    schemaless_writer(out, parse_schema(schema), document)
    return out.getvalue()


def attack_avro(rng: Random) -> Counter[str]:
    """One pair of schemas, both directions."""
    seen: Counter[str] = Counter()
    old = avro_made.made(rng)
    new = avro_made.changed(rng, old)
    texts = [json.encode(avro_made.written(one)).decode() for one in (old, new)]
    try:
        findings = avro.compare(*texts)
    except SchemaError as error:
        if "always holds itself" not in str(error):  # a change may put a record into itself
            raise
        return Counter(unreadable=1)
    for writer, reader, breaks in ((old, new, "new readers"), (new, old, "old readers")):
        errors = [one for one in findings if one.breaks == breaks and one.error]
        schemas = avro_made.written(writer), avro_made.written(reader)
        seen["incompatible" if errors else "compatible"] += 1
        for one in errors:
            refuted(one, *schemas)
            seen[one.rule] += 1
        root = {"name": "Event"}
        for _ in range(DOCUMENTS if not errors else 0):
            try:
                document = avro_made.document(rng, root, writer)
            except RecursionError:  # chosen branches lead to themselves
                continue
            read = read_avro(write_avro(document, schemas[0]), *schemas)
            assert avro_made.kept(document, read, root, root, writer, reader), (
                texts,
                document,
                read,
            )
    return seen


def refuted(finding: Finding, writer: Any, reader: Any) -> None:
    """The whole witness, read with the two schemas as they are, is refused, or rounds."""
    witness = finding.witness
    assert witness is not None
    assert witness.encoded is not None
    try:
        read = read_avro(witness.encoded, writer, reader)
    except Exception:
        return
    invalid = not validate(read, parse_schema(reader), raise_errors=False)
    wrong = finding.rule == "default-wrong-type" and invalid
    assert wrong or finding.rule == "lossy-promotion", (finding, writer, reader, read)


def test_avro(rng: Random) -> None:
    seen: Counter[str] = Counter()
    for _ in range(300):
        seen += attack_avro(rng)
    assert seen["compatible"] > 50
    assert seen["incompatible"] > 50


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_avro_for_long(rng: Random) -> None:
    seen: Counter[str] = Counter()
    for _ in range(20_000):
        seen += attack_avro(rng)
    rules = {found.split()[0] for *_, expected in CASES.values() for found in expected}
    assert {"field-without-default", "branch-not-read", "symbol-not-read"} <= rules & set(seen)


STRICTER = {"lossy-promotion", "bytes-as-string", "type-moved", "default-wrong-type"}
"""What Avro's own checker lets pass, of the changes that are made here."""


def test_avro_against_its_own_checker(rng: Random) -> None:
    """Where Avro's own checker says no, so do we; where we alone do, it is for one of these."""
    for _ in range(150):
        old = avro_made.made(rng)
        texts = [json.encode(avro_made.written(one)).decode() for one in (old, changed(rng, old))]
        findings = avro.compare(*texts)
        sides = [avro_schema.parse(text) for text in texts]
        for (writer, reader), breaks in ((sides, "new readers"), (sides[::-1], "old readers")):
            checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
            theirs = checker.get_compatibility(reader, writer)
            errors = {one.rule for one in findings if one.breaks == breaks and one.error}
            if theirs.compatibility is not SchemaCompatibilityType.compatible:
                assert errors - STRICTER, (texts, theirs.messages)
            else:
                assert errors <= STRICTER, (texts, errors)


def changed(rng: Random, schema: avro_made.Made) -> avro_made.Made:
    """The same with changes that keep records writable."""
    while True:
        new = avro_made.changed(rng, schema)
        try:
            avro.read(json.encode(avro_made.written(new)).decode())
        except SchemaError:
            continue
        return new


# ---- Protobuf


Classes = dict[str, Any]


def classes(descriptors: bytes) -> Classes:
    pool: Any = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
        pool.AddSerializedFile(file.SerializeToString())
    found = pool.FindFileByName(MAIN).message_types_by_name
    return {name: message_factory.GetMessageClass(one) for name, one in found.items()}


def kept(a: Any, b: Any) -> bool:
    """Whether each field that was set, and that the reader has, was read with the same value."""
    for one, value in a.ListFields():
        twin = b.DESCRIPTOR.fields_by_number.get(one.number)
        if twin is not None and not _kept(value, getattr(b, twin.name)):
            return False
    return True


def _kept(a: Any, b: Any) -> bool:
    if hasattr(a, "ListFields"):
        return hasattr(b, "ListFields") and kept(a, b)
    if isinstance(a, str | bytes):
        return (a.encode() if isinstance(a, str) else a) == (
            b.encode() if isinstance(b, str) else b
        )
    if hasattr(a, "items"):
        theirs = dict(b.items()) if hasattr(b, "items") else {}  # a key true of ours may be 1 there
        return set(a) == set(theirs) and all(_kept(a[key], theirs[key]) for key in a)
    if hasattr(a, "__len__"):
        return hasattr(b, "__len__") and len(a) == len(b) and all(map(_kept, a, b))
    return bool(a == b)


def names(message: Any) -> Any:
    try:
        return json_format.MessageToDict(message, preserving_proto_field_name=True)
    except (TypeError, json_format.SerializeToJsonError):
        return None  # bytes that were read as an Any of a type that nobody has, or as no moment


def breaks(finding: Finding, written: Any, read: Any) -> bool:
    """Whether the witness, as a message of these classes, is refused or read differently."""
    witness = finding.witness
    assert witness is not None
    assert witness.encoded is not None
    if witness.outcome.endswith("(ProtoJSON)"):
        try:
            meant = json_format.Parse(witness.encoded, written())
        except json_format.ParseError:
            return False
        try:
            got = json_format.Parse(witness.encoded, read(), ignore_unknown_fields=True)
        except json_format.ParseError:
            return True
    else:
        try:
            meant = written.FromString(witness.encoded)
        except DecodeError:  # of another message
            return False
        try:
            got = read.FromString(witness.encoded)
        except DecodeError:
            return True
    default = finding.rule == "default-changed"
    try:
        same = got.IsInitialized() and kept(meant, got) and names(meant) == names(got)
    except UnicodeDecodeError:  # a text that is none is met when it is looked at
        return True
    return default or not same


def attack_protobuf(rng: Random, count: int) -> Counter[str]:
    """So many pairs of files, compiled together, both directions."""
    seen: Counter[str] = Counter()
    pairs = []
    for _ in range(count):
        old = proto_made.made(rng)
        pairs.append((old, proto_made.changed(rng, old)))
    texts = [proto_made.written(one) for pair in pairs for one in pair]
    protobuf.prepare([(text, None, "a made one") for text in texts])
    made = [classes(one) for one in compile_all([Source(text, (), "") for text in texts])]
    for n, (old, new) in enumerate(pairs):
        findings = protobuf.compare(texts[2 * n], texts[2 * n + 1])
        sides = (old, made[2 * n]), (new, made[2 * n + 1])
        for (writer, written), (_, read), who in (
            (*sides, "new readers"),
            (*sides[::-1], "old readers"),
        ):
            mine = [one for one in findings if one.breaks == who]
            errors = [one for one in mine if one.error]
            seen["incompatible" if errors else "compatible"] += 1
            for one in errors:
                seen[one.rule] += 1
                roots = [(written[name], read[name]) for name in written]
                assert any(breaks(one, *root) for root in roots), (one, texts[2 * n : 2 * n + 2])
            if not errors:
                unknown = any(one.rule == "enum-value-added" for one in mine)
                read_all(rng, writer, written, read, as_json=not unknown)
    return seen


def read_all(rng: Random, writer: Any, written: Classes, read: Classes, *, as_json: bool) -> None:
    for n in range(DOCUMENTS):
        name = list(written)[n % len(written)]
        message = written[name]()
        proto_made.fill(rng, message, name, writer)
        got = read[name].FromString(message.SerializeToString())
        assert kept(message, got), (message, got)
        if as_json:  # a value that the reader's enum lacks is left out of ProtoJSON: a warning
            document = json_format.MessageToDict(message)
            got = json_format.ParseDict(document, read[name](), ignore_unknown_fields=True)
            assert kept(message, got), (document, got)


def test_protobuf(rng: Random) -> None:
    seen = attack_protobuf(rng, 60)
    assert seen["compatible"] > 10
    assert seen["incompatible"] > 10


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_protobuf_for_long(rng: Random) -> None:
    seen: Counter[str] = Counter()
    for _ in range(50):
        seen += attack_protobuf(rng, 60)
    assert {"field-renamed", "field-type-changed", "enum-value-removed", "oneof-changed"} <= set(
        seen
    )
