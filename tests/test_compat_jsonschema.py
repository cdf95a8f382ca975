"""JSON Schemas compared, keyword by keyword, in both directions; each error has its document."""

from __future__ import annotations

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import jsonschema_rs
import pytest

from oncebox.errors import SchemaError
from oncebox.schema.compat.compat import check, read
from oncebox.schema.compat.finding import Finding, Mode
from oncebox.schema.compat.jsonschema import compare

DRAFTS = {
    "2020-12": "https://json-schema.org/draft/2020-12/schema",
    "draft-07": "http://json-schema.org/draft-07/schema#",
}


def compared(old: Any, new: Any, *, draft: str = "2020-12", closed: bool = False) -> list[Finding]:
    """Findings, after both validators have confirmed their documents."""
    texts = [
        json.dumps(each if isinstance(each, bool) else {"$schema": DRAFTS[draft], **each})
        for each in (old, new)
    ]
    found = compare(*texts, producers_closed=closed)
    for finding in found:
        confirm(finding, *map(json.loads, texts))
    return found


def confirm(finding: Finding, old: Any, new: Any) -> None:
    """Two validators of different authors say what the finding says."""
    if finding.witness is None:
        return
    writer, reader = (old, new) if finding.breaks == "new readers" else (new, old)
    document = finding.witness.document
    seven = "draft-07" in json.dumps([old, new])
    fast = jsonschema_rs.Draft7Validator if seven else jsonschema_rs.Draft202012Validator
    slow = jsonschema.Draft7Validator if seven else jsonschema.Draft202012Validator
    assert fast(writer).is_valid(document), document
    assert not fast(reader, validate_formats=False).is_valid(document), document
    assert slow(writer).is_valid(document), document
    assert not slow(reader).is_valid(document), document


def rules(found: list[Finding], breaks: str) -> list[str]:
    assert all(f.error for f in found if f.breaks == breaks), found
    return [f.rule for f in found if f.breaks == breaks]


WIDER: list[tuple[str, Any, Any]] = [
    ("type-narrowed", {"type": "string"}, {"type": ["string", "null"]}),
    ("type-narrowed", {"type": "integer"}, {"type": "number"}),
    ("enum-narrowed", {"enum": ["a", 1]}, {"enum": ["a", 1, None]}),
    ("const-changed", {"const": 1}, {"enum": [1.0, 2]}),
    ("minimum-raised", {"type": "integer", "minimum": 2}, {"type": "integer", "minimum": 1}),
    ("minimum-raised", {"type": "number", "exclusiveMinimum": 1}, {"type": "number", "minimum": 1}),
    ("maximum-lowered", {"type": "number", "maximum": 2}, {"type": "number", "maximum": 2.5}),
    ("multiple-narrowed", {"type": "integer", "multipleOf": 6}, {"type": "integer", "multipleOf": 3}),
    ("min-length-raised", {"type": "string", "minLength": 2}, {"type": "string", "minLength": 1}),
    ("max-length-lowered", {"type": "string", "maxLength": 2}, {"type": "string", "maxLength": 3}),
    ("pattern-changed", {"type": "string", "pattern": "^a{2,}$"}, {"type": "string"}),
    ("required-added", {"type": "object", "required": ["a", "b"]}, {"type": "object", "required": ["a"]}),
    ("object-closed", {"type": "object", "additionalProperties": False}, {"type": "object"}),
    (
        "property-removed",
        {"properties": {"a": {}}, "additionalProperties": False},
        {"properties": {"a": {}, "b": {"type": "integer"}}, "additionalProperties": False},
    ),
    (
        "additional-narrowed",
        {"additionalProperties": {"type": "integer"}},
        {"additionalProperties": True},
    ),
    ("property-added-open", {"properties": {"a": {"type": "string"}}}, {"properties": {}}),
    (
        "type-narrowed",
        {"patternProperties": {"^x": {"type": "integer"}}},
        {"patternProperties": {"^x": {"type": ["integer", "null"]}}},
    ),
    ("pattern-changed", {"propertyNames": {"pattern": "^[a-z]+$"}}, {"propertyNames": True}),
    ("min-properties-raised", {"type": "object", "minProperties": 2}, {"type": "object", "minProperties": 1}),
    ("max-properties-lowered", {"type": "object", "maxProperties": 1}, {"type": "object", "maxProperties": 2}),
    ("dependent-required-added", {"dependentRequired": {"a": ["b"]}}, {}),
    ("required-added", {"dependentSchemas": {"a": {"required": ["b"]}}}, {}),
    ("items-narrowed", {"items": {"type": "integer"}}, {"items": True}),
    ("type-narrowed", {"items": {"type": "integer"}}, {"items": {"type": "number"}}),
    ("items-closed", {"prefixItems": [{}], "items": False}, {"prefixItems": [{}]}),
    ("items-narrowed", {"prefixItems": [{}, {"type": "null"}]}, {"prefixItems": [{}]}),
    ("min-items-raised", {"type": "array", "minItems": 1}, {"type": "array"}),
    ("max-items-lowered", {"type": "array", "maxItems": 1}, {"type": "array", "maxItems": 2}),
    ("unique-added", {"type": "array", "uniqueItems": True}, {"type": "array"}),
    ("contains-narrowed", {"contains": {"const": 1}}, {"contains": {"enum": [1, 2]}}),
    ("contains-narrowed", {"contains": {"const": 1}, "minContains": 2}, {"contains": {"const": 1}}),
    (
        "max-contains-lowered",
        {"contains": {"const": 1}, "maxContains": 1},
        {"contains": {"const": 1}, "maxContains": 2},
    ),
    ("type-narrowed", {"allOf": [{"type": "string"}, {"maxLength": 3}]}, {"allOf": [{"maxLength": 3}]}),
    (
        "alternatives-narrowed",
        {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        {"anyOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]},
    ),
    (
        "alternatives-narrowed",
        {"oneOf": [{"type": "string"}, {"type": "integer"}]},
        {"oneOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]},
    ),
    (
        "alternatives-overlap",
        {"oneOf": [{"multipleOf": 2}, {"multipleOf": 3}], "type": "integer"},
        {"anyOf": [{"multipleOf": 2}, {"multipleOf": 3}], "type": "integer"},
    ),
    ("not-widened", {"not": {"type": ["null", "string"]}}, {"not": {"type": "null"}}),
    (
        "minimum-raised",
        {"type": "integer", "if": {"maximum": 10}, "then": {"minimum": 5}},
        {"type": "integer", "if": {"maximum": 10}, "then": {"minimum": 4}},
    ),
    (
        "maximum-lowered",
        {"type": "integer", "if": {"maximum": 10}, "else": {"maximum": 20}},
        {"type": "integer", "if": {"maximum": 10}, "else": {"maximum": 21}},
    ),
    (
        "property-removed",
        {"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False},
        {"allOf": [{"properties": {"a": {}, "b": {}}}], "unevaluatedProperties": False},
    ),
    (
        "items-closed",
        {"allOf": [{"prefixItems": [{}]}], "unevaluatedItems": False},
        {"allOf": [{"prefixItems": [{}, {}]}], "unevaluatedItems": False},
    ),
    (
        "type-narrowed",
        {"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"v": {"type": "integer"}, "n": {"$ref": "#/$defs/n"}}}}},
        {"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"v": {"type": "number"}, "n": {"$ref": "#/$defs/n"}}}}},
    ),
    ("refused", False, True),
    (
        "object-closed",
        {"patternProperties": {"^S_": {"type": "string"}}, "additionalProperties": False},
        {"patternProperties": {"^S_": {"type": "string"}, "^I_": {"type": "number"}}, "additionalProperties": False},
    ),
    (
        "type-narrowed",
        {"type": "integer", "oneOf": [{"multipleOf": 2}, {"multipleOf": 3}]},
        {"oneOf": [{"type": "integer", "multipleOf": 2}, {"type": "integer", "multipleOf": 3}, {"type": "null"}]},
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "narrow", "wide"), WIDER, ids=[f"{n}-{each[0]}" for n, each in enumerate(WIDER)]
)
def test_what_is_wider_reads_what_is_narrower_and_not_the_other_way_round(
    rule: str, narrow: Any, wide: Any
) -> None:
    widened = compared(narrow, wide)
    assert rules(widened, "new readers") == []
    assert rule in rules(widened, "old readers")
    narrowed = compared(wide, narrow)
    assert rules(narrowed, "old readers") == []
    assert rule in rules(narrowed, "new readers")


def test_the_facade_reads_and_compares_with_references_of_each_side() -> None:
    schema, name = '{"type": "object", "properties": {"a": {"$ref": "a.json"}}}', "a.json"
    text, number = {name: '{"type": "string"}'}, {name: '{"type": "number"}'}
    read("json", schema, text)
    with pytest.raises(SchemaError, match=r"the new schema, #/properties/a: .*a\.json"):
        check("json", [], schema, Mode.FULL)
    found = check("json", [schema], schema, Mode.BACKWARD, number, [text])
    assert [one.finding.path for one in found.errors] == ["a.json#/type"]
    assert check("json", [schema], schema, Mode.BACKWARD, text, [text]).compatible


EQUAL: list[tuple[Any, Any]] = [
    ({"type": ["integer", "number"]}, {"type": "number"}),
    ({"type": "integer", "exclusiveMinimum": 0, "maximum": 3.5}, {"enum": [1, 2, 3.0]}),
    ({"type": "boolean"}, {"enum": [True, False]}),
    ({"anyOf": [{"const": "a"}, {"const": "b", "title": "B"}]}, {"enum": ["b", "a"]}),
    ({"type": ["string", "null"]}, {"anyOf": [{"type": "null"}, {"type": "string"}]}),
    ({"type": "string", "oneOf": [{"pattern": "^a"}, {"pattern": "^b"}]},
     {"type": "string", "anyOf": [{"pattern": "^a"}, {"pattern": "^b"}]}),
    ({"type": "string", "pattern": "[a-z]*"}, {"type": "string"}),
    ({"const": {"a": [1]}}, {"enum": [{"a": [1.0]}]}),
    ({"allOf": [{"type": "number"}, {"multipleOf": 2}, {"multipleOf": 3}]},
     {"type": "integer", "multipleOf": 6}),
    ({"type": "string", "maxLength": 0}, {"const": ""}),
    ({"not": {"not": {"type": "string"}}}, {"type": "string"}),
    ({"type": "object", "required": ["a"], "properties": {"a": False}}, False),
    ({"type": "array", "prefixItems": [{}, False]}, {"type": "array", "maxItems": 1}),
    ({"if": {"type": "string"}, "then": {"maxLength": 2}}, {"maxLength": 2}),
    ({"dependentRequired": {"a": ["b"]}}, {"dependentSchemas": {"a": {"required": ["b"]}}}),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), EQUAL, ids=range(len(EQUAL)))
def test_what_is_said_otherwise_is_the_same(one: Any, other: Any) -> None:
    assert compared(one, other) == []


# ---- writers that write only what their schema lists


OPEN = {"type": "object", "properties": {"a": {"type": "string"}}}
WITH_B = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}


def test_an_optional_property_may_be_added_to_an_open_object_by_those_who_write_what_they_list() -> (
    None
):
    assert compared(OPEN, WITH_B, closed=True) == []
    (formal,) = compared(OPEN, WITH_B)
    assert (formal.rule, formal.breaks, formal.path) == (
        "property-added-open", "new readers", "/properties/b",
    )  # fmt: skip
    assert formal.witness is not None
    assert isinstance(formal.witness.document, dict)
    assert "b" in formal.witness.document


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (WITH_B, {**OPEN, "additionalProperties": False}, "property-removed"),
        (WITH_B, {**WITH_B, "required": ["b"]}, "required-added"),
        (WITH_B, {"properties": {"b": {"type": "string"}}}, "type-narrowed"),
        # who says so writes others, too; and an object of which nothing is said is a map
        ({**OPEN, "additionalProperties": True}, WITH_B, "property-added-open"),
        ({"type": "object"}, WITH_B, "property-added-open"),
        ({"allOf": [OPEN, {"required": ["b"]}]}, WITH_B, "property-added-open"),
        ({**OPEN, "dependentRequired": {"a": ["b"]}}, WITH_B, "property-added-open"),
    ],
)
def test_what_breaks_even_those_who_write_what_they_list(old: Any, new: Any, rule: str) -> None:
    assert rule in rules(compared(old, new, closed=True), "new readers")


def test_other_alternatives_and_references_are_listed_too() -> None:
    old = {"$defs": {"o": OPEN}, "allOf": [{"$ref": "#/$defs/o"}], "anyOf": [
        {"properties": {"k": {"const": 1}}}, {"properties": {"k": {"const": 2}}}]}  # fmt: skip
    new = {**old, "properties": {"late": {"type": "null"}}}
    assert compared(old, new, closed=True) == []
    changed = {**old, "$defs": {"o": {"properties": {"a": {"type": "null"}}}}}
    assert rules(compared(old, changed, closed=True), "new readers") == ["type-narrowed"]


# ---- formats, drafts, references


def test_a_format_is_documentation_and_its_change_a_warning() -> None:
    found = compared({"type": "string"}, {"type": "string", "format": "uuid"})
    assert [(f.rule, f.error, f.breaks) for f in found] == [
        ("format-changed", False, "new readers")
    ]


def test_draft_7_has_its_own_words() -> None:
    pair = (
        {"items": [{"type": "string"}], "additionalItems": False},
        {"items": [{"type": "string"}]},
    )
    assert rules(compared(pair[1], pair[0], draft="draft-07"), "new readers") == ["items-closed"]
    depends = {"dependencies": {"a": ["b"], "c": {"required": ["d"]}}}
    found = rules(compared({}, depends, draft="draft-07"), "new readers")
    assert sorted(found) == ["dependent-required-added", "required-added"]
    ignored = {"$ref": "#/definitions/x", "maximum": 1, "definitions": {"x": {"type": "integer"}}}
    assert compared({"type": "integer"}, ignored, draft="draft-07") == []
    newer = {"dependentRequired": {"a": ["b"]}, "prefixItems": [False], "unevaluatedItems": False}
    assert compared({}, newer, draft="draft-07") == []


def test_a_move_to_the_newer_draft() -> None:
    old = {"$schema": DRAFTS["draft-07"], "items": [{"type": "string"}], "additionalItems": False}
    new = {"$schema": DRAFTS["2020-12"], "prefixItems": [{"type": "string"}], "items": False}
    assert compare(json.dumps(old), json.dumps(new)) == []


def test_schemas_that_refer_to_themselves() -> None:
    def tree(kind: str) -> Any:
        value = {"type": "object", "properties": {"v": {"type": kind}, "l": {"$ref": "#"}}}
        return {**value, "required": ["v"]}

    assert rules(compared(tree("integer"), tree("number")), "new readers") == []
    assert rules(compared(tree("number"), tree("integer")), "new readers") == ["type-narrowed"]
    # an assumption must not outlive its failure: the first alternative fails below
    old = {"anyOf": [{"type": "array", "items": {"$ref": "#"}}, {"type": "integer"}]}
    new = {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/s"}}, {"type": "integer"}],
           "$defs": {"s": {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/s"}},
                                     {"type": "string"}]}}}  # fmt: skip
    assert rules(compared(old, new), "new readers") != []


def test_what_was_proved_by_an_assumption_is_forgotten_with_it() -> None:
    """`q` holds if `p` does, which fails below: behind an alternative, so that it goes on."""

    def schema(bad: str, first: Any) -> Any:
        p = {"properties": {"q": {"$ref": "#/$defs/q"}, "bad": {"type": bad}}}
        q = {"properties": {"p": {"$ref": "#/$defs/p"}}}
        return {"$defs": {"p": p, "q": q},
                "properties": {"first": first, "second": {"$ref": "#/$defs/q"}}}  # fmt: skip

    ref = {"$ref": "#/$defs/p"}
    found = compared(
        schema("string", ref),
        schema(
            "integer",
            {"anyOf": [ref, {"type": ["object", "string", "null", "number", "boolean", "array"]}]},
        ),
    )
    (broken,) = [f for f in found if f.breaks == "new readers"]
    assert (broken.rule, broken.path) == ("type-narrowed", "/$defs/p/properties/bad/type")
    assert broken.witness is not None
    assert set(broken.witness.document) == {"second"}


def test_a_dynamic_reference_is_never_called_compatible() -> None:
    old = {"$dynamicRef": "#n", "$defs": {"n": {"$dynamicAnchor": "n", "type": "string"}}}
    new = {**old, "title": "another text"}
    found = compared(old, new)
    assert {f.rule for f in found} == {"not-understood"}
    assert {f.breaks for f in found} == {"new readers", "old readers"}
    assert compared(old, old) == []


def test_numbers_are_compared_as_they_are_written() -> None:
    old, new = {"const": 1.0}, {"type": "integer", "minimum": 1, "maximum": 1}
    assert compared(old, new) == []
    tenths = {"type": "number", "multipleOf": 0.3}, {"type": "number", "multipleOf": 0.1}
    assert rules(compared(*tenths), "new readers") == []
    assert rules(compared({"const": True}, {"const": 1}), "new readers") == ["const-changed"]
    far = {"type": "number", "maximum": 10**400}
    unknown = {"$dynamicRef": "#n", "$defs": {"n": {"$dynamicAnchor": "n"}}}
    found = compared(far, {**far, **unknown})  # no float is near
    assert [f.rule for f in found if f.breaks == "new readers"] == ["not-understood"]


def test_unions_told_apart_by_a_constant() -> None:
    def union(count: int, kind: Any) -> Any:
        one = [{"type": "object", "required": ["k"], "properties": {
            "k": {"const": f"e{n}"}, "v": {"type": kind}}} for n in range(count)]  # fmt: skip
        return {"oneOf": one}

    wider = compared(union(40, "integer"), union(41, "number"))
    assert rules(wider, "new readers") == []
    assert len(rules(wider, "old readers")) == 41


REFERENCES = {
    "a.json": '{"properties": {"b": {"$ref": "b.json#/$defs/n~1m"}}}',
    "b.json": '{"$defs": {"n/m": {"$anchor": "here", "type": "%s"}}}',
    "http://x.example/c.json": '{"$id": "http://x.example/c.json", "$ref": "d.json"}',
    "http://x.example/d.json": '{"type": "%s"}',
}


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"$ref": "a.json"}, "b.json#/$defs/n~1m/type"),
        ({"items": {"$ref": "b.json#here"}}, "b.json#/$defs/n~1m/type"),
        ({"$ref": "http://x.example/c.json"}, "http://x.example/d.json#/type"),
        ({"$id": "http://x.example/root", "$ref": "d.json"}, "http://x.example/d.json#/type"),
        (
            {"$id": "http://x.example/root", "$ref": "/in#q", "$defs": {"i": {"$id": "/in",
             "$defs": {"q": {"$anchor": "q", "$ref": "d.json"}}}}},
            "http://x.example/d.json#/type",
        ),
    ],
)  # fmt: skip
def test_references_mean_what_the_validator_takes_them_for(schema: Any, path: str) -> None:
    def texts(kind: str) -> dict[str, str]:
        return {name: text.replace("%s", kind) for name, text in REFERENCES.items()}

    text = json.dumps(schema)
    found = compare(text, text, references=texts("integer"), old_references=texts("string"))
    assert [(f.rule, f.path, f.error) for f in found] == [("type-narrowed", path, True)] * 2
    same = {**texts("string"), "b.json": texts("string")["b.json"].replace("{", "{ ")}
    assert compare(text, text, references=same, old_references=texts("string")) == []


def test_what_validators_do_not_agree_on_is_no_assurance() -> None:
    """2020-12 has no `dependencies`; some of its validators look at them all the same."""
    old, new = {"type": "object"}, {"type": "object", "dependencies": {"a": ["b"]}}
    found = compare(json.dumps({"$schema": DRAFTS["2020-12"], **old}), json.dumps(new))
    assert [(f.rule, f.breaks) for f in found] == [("not-understood", "new readers")]
