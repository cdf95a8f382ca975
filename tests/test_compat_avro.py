"""The checker for Avro: each rule, its witness read again by fastavro; what it cannot read."""

from __future__ import annotations

import io
from typing import Any

import pytest
from fastavro import parse_schema, schemaless_reader
from msgspec import json

from avro_cases import CASES, enum, field, fixed, of, record
from oncebox.errors import SchemaError
from oncebox.schema.compat import bounds
from oncebox.schema.compat.avro import PROOFS_MAX, compare
from oncebox.schema.compat.avro_proof import same
from oncebox.schema.compat.compat import check
from oncebox.schema.compat.finding import Finding, Mode


def text(schema: Any) -> str:
    return json.encode(schema).decode()


def found(old: Any, new: Any) -> list[Finding]:
    return compare(text(old), text(new))


def named(findings: list[Finding]) -> set[str]:
    return {f"{f.rule}{'' if f.error else '?'} {f.breaks.split()[0]}" for f in findings}


def confirm(finding: Finding, old: Any, new: Any) -> None:
    """fastavro, given the two texts as they are, has to fail on the witness or read other values.

    Two kinds are not for it to see: it understands a value by the writer's logical type, and holds
    a float as a double. For these the checker's own proof stands (`avro_proof.understood`).
    """
    witness = finding.witness
    assert witness is not None
    assert witness.encoded is not None
    writer, reader = (old, new) if finding.breaks == "new readers" else (new, old)
    try:
        schemas = parse_schema(writer), parse_schema(reader)
        read = schemaless_reader(io.BytesIO(witness.encoded), *schemas)
    except Exception:
        assert witness.outcome.startswith("refused")
        return
    logical = finding.rule.startswith(("logical", "decimal")) or "double" not in str(finding.new)
    assert logical or finding.rule == "default-wrong-type" or not same(witness.document, read), read


@pytest.mark.parametrize("name", CASES)
def test_each_rule(name: str) -> None:
    old, new, expected = CASES[name]
    findings = found(old, new)
    assert named(findings) == expected
    for finding in findings:
        assert finding.instead
        if finding.error:
            confirm(finding, old, new)


def test_paths_say_where() -> None:
    line = record("Line", field("qty", "int"))
    old = record("Order", field("lines", {"type": "array", "items": ["null", line]}))
    new = record(
        "Order",
        field("lines", {"type": "array", "items": ["null", record("Line", field("qty", "bytes"))]}),
    )
    assert {one.path for one in found(old, new)} == {"Order.lines[].qty"}


def test_schemas_with_one_fingerprint_are_two_readers() -> None:
    """The canonical form forgets defaults; a reader without one cannot read the first version."""
    first = record("Event", field("x", "int"))
    optional = record("Event", field("x", "int"), field("y", "int", default=0))
    without = record("Event", field("x", "int"), field("y", "int"))
    earlier = [text(first), text(optional)]
    assert check("avro", earlier, text(without), Mode.BACKWARD).compatible
    report = check("avro", earlier, text(without), Mode.BACKWARD_TRANSITIVE)
    assert [(one.version, one.finding.rule) for one in report.errors] == [
        (1, "field-without-default")
    ]


def test_names_defined_elsewhere() -> None:
    address = text(record("shop.Address", field("city", "string")))
    old = text(of("shop.Address"))
    wider = text(record("shop.Address", field("city", "string"), field("zip", "string")))
    assert compare(old, old, references={"address.avsc": address}) == []
    found = compare(
        old, old, references={"shop.Address": wider}, old_references={"shop.Address": address}
    )
    assert named(found) == {"field-without-default new"}
    with pytest.raises(SchemaError, match=r"the new schema, .*shop.Address"):
        compare(address, old)


def test_what_is_found_beyond_the_proved_is_still_told() -> None:
    many = PROOFS_MAX + 10
    old = record("Event", *(field(f"f{n}", "int") for n in range(many)))
    findings = found(old, record("Event"))
    assert len(findings) == many
    assert sum(one.error for one in findings) == PROOFS_MAX


def nested(levels: int) -> str:
    """An array of arrays of …"""
    return '{"type": "array", "items": ' * levels + '"int"' + "}" * levels


BAD = {
    "no JSON": ("{", "expected"),
    "no type": ('{"type": "recrd"}', "recrd"),
    "a number": ("7", "7 is no type"),
    "unknown name": (text(of("Nobody")), r"\$\.x0: the type 'Nobody' is not known"),
    "a bad name": (text(record("a-b")), "a-b"),
    "a bad field": (text(record("E", field("1x", "int"))), r"fields\[0\]: the name '1x'"),
    "a bad symbol": (text(of(enum("a b"))), "a b"),
    "no symbol": (text(of(enum())), "without symbols"),
    "a field twice": (text(record("E", field("x", "int"), field("x", "int"))), "twice"),
    "a name twice": (text(of(enum("a"), enum("a"))), "E is defined twice"),
    "a union in a union": (text(of(["null", ["int"]])), "union"),
    "a union of nothing": (text(of([])), "union of nothing"),
    "a branch twice": (text(of(["int", "int"])), "union"),
    "a fixed without size": (text(of({"type": "fixed", "name": "F"})), "size"),
    "a fixed too large": (text(of(fixed(2**40))), "size"),
    "a record without fields": ('{"type": "record", "name": "E"}', "without fields"),
    "always in itself": (text(record("E", field("x", "E"))), "always holds itself"),
    "a part always in itself": (
        text(of(["null", record("In", field("x", "In"))])),
        "record In always holds itself",
    ),
    "deep": (nested(1000), "nested too deeply"),
    "as deep as our bound": (nested(bounds.DEPTH_MAX + 1), "nested too deeply"),
    "a schema of brackets": ("[" * 100_000, "nested too deeply"),
    "wide": (text(of(*["int"] * 10_000)), "too many fields"),
    "large": (text(record("E", doc="x" * 5_000_000)), "bytes"),
    "monstrous": (
        text(of(*[record(f"R{0}", field("x", "int"))] + [
            record(f"R{n}", *(field(f"y{i}", f"R{n - 1}") for i in range(10))) for n in range(1, 9)
        ])),
        "smallest document",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read(name: str) -> None:
    schema, expected = BAD[name]
    with pytest.raises(SchemaError, match=expected) as caught:
        compare('"int"', schema)
    assert "the new schema" in str(caught.value)
    assert caught.value.expected


def test_bounds_let_large_schemas_pass() -> None:
    deep = nested(bounds.DEPTH_MAX)
    assert compare(deep, deep) == []
    wide = of(*["int"] * (bounds.FIELDS_MAX - 1))
    assert found(wide, wide) == []


def test_what_could_take_long() -> None:
    """Thousands of branches and symbols, and a default that is as deep as JSON may be."""
    many = range(bounds.FIELDS_MAX // 2)
    union = [record(f"R{n}") for n in many]
    assert found(union, [*union[:-1], record("Other")])
    symbols = [f"s{n}" for n in many]
    assert len(found(of(enum(*symbols)), of(enum(*symbols[::-1][1:])))) == 1
    tree = record("Tree", field("of", {"type": "array", "items": "Tree"}))
    deep: Any = {"of": []}
    for _ in range(90):
        deep = {"of": [deep]}
    old, new = record("Event"), record("Event", field("tree", tree, default=deep))
    assert found(old, new) == []
    for _ in range(150):
        deep = {"of": [deep]}
    new = record("Event", field("tree", tree, default=deep))
    with pytest.raises(SchemaError, match="nested too deeply"):
        found(old, new)
