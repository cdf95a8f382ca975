"""Schemas as files of three formats, each read by its own tools."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import fastavro
import jsonschema  # type: ignore[import-untyped]
import pytest
from google.protobuf import descriptor_pb2
from msgspec.structs import replace

from oncebox.cli import main
from oncebox.codecs.json import JsonCodec
from oncebox.errors import SchemaError
from oncebox.schema.compat.proto_compile import Source, compile_all
from oncebox.schema.images.avro import avro_image, avsc
from oncebox.schema.images.json import json_image
from oncebox.schema.images.protobuf import descriptor, proto
from oncebox.schema.lock import Lock, lock_text
from oncebox.schema.model import (
    Enum,
    Field,
    List,
    Named,
    Nullable,
    Record,
    Schema,
    Str,
    Symbol,
)
from schemas_made import document_made, schema_made

PERSON = Schema(
    "person.moved", 1, "Moved",
    {
        "Moved": Record((
            Field("name", 1, Str(), pii=True, doc="As in the passport."),
            Field("town", 2, Nullable(Str()), default=None, deprecated="since 2026"),
            Field("kind", 3, Named("Kind"), default="own"),
            Field("before", 7, List(Named("Moved")), default=[]),
        ), retired_numbers=(4, 5), retired_names=("street",)),
        "Kind": Enum((Symbol("own", 1), Symbol("by-others", 2)), default="own", retired_numbers=(3,)),
    },
    stream="people", key=("name",),
)  # fmt: skip


def run(*arguments: str) -> int:
    """The command line; its exit code."""
    return int(main(list(arguments)) or 0)


def compiled(*schemas: Schema) -> list[Any]:
    """What protoc makes of our texts."""
    sets = compile_all([Source(proto(schema), (), schema.type) for schema in schemas])
    return [descriptor_pb2.FileDescriptorSet.FromString(one).file[-1] for one in sets]


def bare(file: Any) -> Any:
    """A file's descriptor without its name, and with all JSON names said."""
    file = descriptor_pb2.FileDescriptorProto.FromString(file.SerializeToString())
    file.ClearField("name")
    for message in file.message_type:
        for field in (*message.field, *(f for n in message.nested_type for f in n.field)):
            field.ClearField("json_name")
    return file


def test_protoc_makes_of_our_text_what_we_make_directly(rng: Random) -> None:
    schemas = [PERSON, *(schema_made(rng, f"made.n{n}") for n in range(60))]
    for schema, theirs in zip(schemas, compiled(*schemas), strict=True):
        assert bare(theirs) == bare(descriptor(schema)), proto(schema)


def test_fastavro_takes_our_schemas(rng: Random) -> None:
    for _ in range(100):
        fastavro.parse_schema(json.loads(avsc(schema_made(rng))))


def test_documents_are_valid_by_our_json_schema(rng: Random) -> None:
    for _ in range(60):
        schema = schema_made(rng)
        validator = jsonschema.Draft202012Validator(json_image(schema))
        codec = JsonCodec(schema)
        for _ in range(3):
            document = document_made(rng, schema)
            validator.validate(document)
            validator.validate(codec.decode(codec.encode(document)))


def test_field_tags_are_in_each_format() -> None:
    avro = {field["name"]: field for field in avro_image(PERSON)["fields"]}
    assert avro["name"]["pii"] is True
    assert avro["name"]["doc"] == "As in the passport."
    assert avro["town"]["deprecated"] == "since 2026"
    assert avro["town"]["type"] == ["null", "string"]
    fields = json_image(PERSON)["$defs"]["Moved"]["properties"]
    assert fields["name"]["x-pii"] is True
    assert fields["town"]["deprecated"] is True
    assert fields["town"]["x-deprecated"] == "since 2026"
    text = proto(PERSON)
    assert "// As in the passport.\n  optional string name = 1 [debug_redact = true];" in text
    assert "// Deprecated: since 2026\n  optional string town = 2 [deprecated = true];" in text
    assert "  reserved 4, 5;\n" in text
    assert '  reserved "street";\n' in text


def test_a_field_that_was_renamed_keeps_its_old_name_as_an_alias() -> None:
    moved = PERSON.definitions["Moved"]
    assert isinstance(moved, Record)
    fields = (replace(moved.fields[0], name="full_name"), *moved.fields[1:])
    newer = replace(
        PERSON, version=2, definitions=PERSON.definitions | {"Moved": replace(moved, fields=fields)}
    )
    (field, *_) = avro_image(newer, [PERSON])["fields"]
    assert field["aliases"] == ["name"]


@pytest.mark.parametrize("name", ["order-id", "é", "1st", "a b", "class!"])
def test_a_name_that_is_none_in_a_format_is_refused(name: str) -> None:
    schema = Schema("t", 1, "R", {"R": Record((Field(name, 1, Str()),))})
    for image in (avro_image, descriptor):
        with pytest.raises(SchemaError, match="is no name in"):
            image(schema)
    assert name in json_image(schema)["$defs"]["R"]["properties"]


@pytest.mark.parametrize("number", [0, 19_000, 2**29])
def test_a_number_that_protobuf_keeps_is_refused(number: int) -> None:
    with pytest.raises(SchemaError, match="number"):
        descriptor(Schema("t", 1, "R", {"R": Record((Field("a", number, Str()),))}))


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lock = Lock({("person.moved", 1): PERSON})
    (tmp_path / "oncebox.lock").write_text(lock_text(lock))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_writes_files(locked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schema", "export") == 0
    folder = locked / "schemas" / "person.moved"
    assert sorted(path.name for path in folder.iterdir()) == ["1.avsc", "1.json", "1.proto"]
    assert (folder / "1.proto").read_text() == proto(PERSON)
    assert "3 files, 3 new or changed" in capsys.readouterr().out
    assert run("schema", "export", "--json") == 0
    assert json.loads(capsys.readouterr().out)["changed"] == []


def test_the_command_writes_one_format_elsewhere(locked: Path) -> None:
    assert run("schema", "export", "--format", "avro", "--out", "avro") == 0
    assert [str(p.relative_to(locked)) for p in locked.rglob("*.avsc")] == [
        "avro/person.moved/1.avsc"
    ]
    assert not [*locked.rglob("*.proto")]


def test_without_a_lock_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("schema", "export") == 2
