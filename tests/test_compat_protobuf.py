"""The checker for Protobuf: each rule, its witness read again by protobuf; what it cannot read."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

from oncebox.errors import SchemaError
from oncebox.schema.compat import proto_compile
from oncebox.schema.compat.compat import check
from oncebox.schema.compat.finding import Finding, Mode
from oncebox.schema.compat.proto_compile import Source, compile_all
from oncebox.schema.compat.proto_types import parsed_all
from oncebox.schema.compat.protobuf import PROOFS_MAX, compare, prepare
from proto_cases import P2, P3, WHOLE


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """All in one run of the compiler: it takes longer to start than to work."""
    texts = sorted({text for old, new, _ in WHOLE.values() for text in (old, new)})
    prepare([(text, None, f"case {n}") for n, text in enumerate(texts)])


def named(findings: list[Finding]) -> set[str]:
    return {f"{f.rule}{'' if f.error else '?'} {f.breaks.split()[0]}" for f in findings}


def classes(text: str) -> dict[str, Any]:
    """The classes of a file's messages, made without the checker."""
    pool: Any = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled_set(text)).file:
        pool.AddSerializedFile(file.SerializeToString())
    found = pool.FindFileByName(proto_compile.MAIN).message_types_by_name
    return {name: message_factory.GetMessageClass(one) for name, one in found.items()}


def of_path(made: dict[str, Any], path: str) -> Any:
    """The class of the message that a finding's document is of: A, or in A what is nobody's field."""
    root: Any = made["A"]
    inner = root.DESCRIPTOR.nested_types_by_name.get((*path.split("."), "")[1])
    if inner is None or any(one.message_type is inner for one in root.DESCRIPTOR.fields):
        return root
    return message_factory.GetMessageClass(inner)


_SETS: dict[str, bytes] = {}


def compiled_set(text: str) -> bytes:
    if not _SETS:
        texts = sorted({text for old, new, _ in WHOLE.values() for text in (old, new)})
        made = compile_all([Source(one, (), "a case") for one in texts])
        _SETS.update(zip(texts, made, strict=True))
    return _SETS[text]


def values(message: Any) -> dict[str, Any]:
    """What a reader sees: each field by name, defaults where nothing was set."""
    plain: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return plain | {
        one.name: one.default_value
        for one in message.DESCRIPTOR.fields
        if one.has_presence and one.message_type is None and not message.HasField(one.name)
    }


def confirm(finding: Finding, old: str, new: str) -> None:
    """protobuf, given the witness, has to refuse it or to show other values than were written."""
    witness = finding.witness
    assert witness is not None
    assert witness.encoded is not None
    writer, reader = (old, new) if finding.breaks == "new readers" else (new, old)
    written, read = classes(writer), classes(reader)
    if finding.rule in ("message-removed", "package-changed"):
        name = witness.document["@type"]
        assert name not in {one.DESCRIPTOR.full_name for one in read.values()}
        return
    into, out_of = of_path(written, finding.path), of_path(read, finding.path)
    if witness.outcome.endswith("(ProtoJSON)"):
        meant = json_format.Parse(witness.encoded, into())
        try:
            got = json_format.Parse(witness.encoded, out_of(), ignore_unknown_fields=True)
        except json_format.ParseError:
            return
    else:
        meant = into.FromString(witness.encoded)
        assert meant.IsInitialized()
        try:
            got = out_of.FromString(witness.encoded)
        except Exception:
            assert witness.outcome.startswith("refused")
            return
    assert not got.IsInitialized() or values(got) != values(meant)


@pytest.mark.parametrize("name", WHOLE)
def test_each_rule(name: str) -> None:
    old, new, expected = WHOLE[name]
    findings = compare(old, new)
    assert named(findings) == expected
    for finding in findings:
        assert finding.instead
        if finding.error:
            confirm(finding, old, new)


def test_a_number_used_again_after_removal() -> None:
    first = P3 + "message A { int32 x = 1; int64 cents = 4; }"
    second = P3 + "message A { int32 x = 1; }"
    third = P3 + "message A { int32 x = 1; string note = 4; }"
    assert check("protobuf", [first, second], third, Mode.FULL).compatible
    report = check("protobuf", [first, second], third, Mode.FULL_TRANSITIVE)
    assert {(one.version, one.finding.rule) for one in report.errors} == {
        (1, "field-type-changed"),
        (1, "field-renamed"),
    }


def test_witnesses_are_whole_documents() -> None:
    text = (
        P2 + "message Z {{ required A a = 1; required string must = 2; }} "
        "message A {{ repeated B b = 1; required int32 id = 2; message B {{ required {} n = 1; }} }}"
    )
    (found,) = compare(text.format("int64"), text.format("int32"))
    assert found.path == "A.B.n"
    assert found.witness is not None
    assert found.witness.document == {"b": [{"n": "1099511627783"}], "id": 1}


def test_files_that_are_imported() -> None:
    main = P3 + 'import "shop/line.proto"; import "google/protobuf/timestamp.proto"; '
    main += "message A { shop.Line line = 1; google.protobuf.Timestamp at = 2; }"
    line = 'syntax = "proto3"; package shop; message Line { int64 qty = 1; }'
    before, after = {"shop/line.proto": line}, {"shop/line.proto": line.replace("int64", "int32")}
    assert compare(main, main, references=before) == []
    (found,) = compare(main, main, references=after, old_references=before)
    assert (found.path, found.error) == ("Line.qty", True)
    with pytest.raises(SchemaError, match=r"the new schema: the import shop/line\.proto"):
        compare(line, main)


def test_what_is_found_beyond_the_proved_is_still_told() -> None:
    many = PROOFS_MAX + 10
    text = "message A {{ {} }}"
    old, new = (
        P3 + text.format(" ".join(f"{kind} f{n} = {n + 1};" for n in range(many)))
        for kind in ("int64", "int32")
    )
    findings = compare(old, new)
    assert len(findings) == many
    assert sum(one.error for one in findings) == PROOFS_MAX


DEEP = "message A { " + "message A { " * 1000 + "}" * 1001
BAD = {
    "no .proto": ("{}", "1:1: Expected"),
    "half a .proto": (P3 + "message A {", "Reached end of input"),
    "no message": (P3, "no message in it"),
    "unknown type": (P3 + "message A { B x = 1; }", '"B" is not defined'),
    "unknown import": (P3 + 'import "b.proto"; message A {}', "the import b.proto is not known"),
    "imports itself": (P3 + 'import "schema.proto"; message A {}', "imports itself"),
    "a file of the machine": (P3 + 'import "/etc/passwd"; message A {}', "import"),
    "a file above": (P3 + 'import "../1/schema.proto"; message A {}', "Import"),
    "a number twice": (P3 + "message A { int32 x = 1; int32 y = 1; }", "already been used"),
    "a bad name": (P3 + "message A { int32 1x = 1; }", "Expected|name|Need space"),
    "a name that is no Latin": (P3 + "message Été { }", "Expected|Invalid|Interpreting"),
    "deep": (P3 + DEEP, "nested too deeply"),
    "as deep as our bound": (P3 + "message A { " * 60 + "}" * 60, "recursion|nest"),
    "wide": (
        P3 + "message A { " + " ".join(f"int32 f{n} = {n + 1};" for n in range(10_000)) + "}",
        "too many fields",
    ),
    "many messages": (
        P3 + "message A {} " + "".join(f"message A{n} {{}} " for n in range(6000)),
        "too many",
    ),
    "many reserved": (
        P3 + "message A { " + "".join(f"reserved {2 * n + 1}; " for n in range(6000)) + "}",
        "too many",
    ),
    "large": (P3 + "message A {} // " + "x" * 5_000_000, "bytes"),
    "a cycle of required": (P2 + "message A { required A a = 1; }", "always holds itself"),
    "a longer cycle": (
        P2 + "message A { required B b = 1; } message B { required C c = 1; } "
        "message C { required B b = 1; }",
        r"p\.B: always holds itself",
    ),
    "a long chain": (
        P2
        + "".join(f"message A{n} {{ required A{n + 1} a = 1; }} " for n in range(1500))
        + "message A1500 {}",
        "nested too deeply",
    ),
    "half a character": (P3 + "message A {} // \ud800", "surrogates"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read(name: str) -> None:
    text, expected = BAD[name]
    with pytest.raises(SchemaError, match=expected) as caught:
        compare(P2 + "message A { optional int32 x = 1; }", text)
    assert "the new schema" in str(caught.value)
    assert caught.value.expected


def test_a_cycle_in_what_is_imported() -> None:
    text = P3 + 'import "b.proto"; message A { B b = 1; }'
    cycle = P2 + "message B { required B b = 1; }"
    with pytest.raises(SchemaError, match="always holds itself"):
        compare(P3 + "message A {}", text, references={"b.proto": cycle})


def test_references_go_nowhere_else() -> None:
    for name in ("../a.proto", "/tmp/a.proto", "a/../../b.proto", "a//b.proto", "", "a\0b", "./a"):
        with pytest.raises(SchemaError, match="a bad name"):
            compare(P3 + "message A {}", P3 + "message A {}", references={name: P3})


def test_a_compiler_that_does_not_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proto_compile, "COMPILE_TIMEOUT_S", 0.000_001)
    with pytest.raises(SchemaError, match="protoc gave up"):
        parsed_all([Source(P3 + "message Late {}", (), "schema")])
