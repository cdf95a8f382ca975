"""JSON Schemas that cannot be read, and pairs that are made to take time and memory."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import Any

import pytest

from oncebox.errors import SchemaError
from oncebox.schema.compat.compat import check
from oncebox.schema.compat.finding import Mode
from oncebox.schema.compat.jsonschema import compare, read


def deep(levels: int, leaf: Any) -> Any:
    for _ in range(levels):
        leaf = {"type": "object", "properties": {"a": leaf}}
    return leaf


SEVEN = "http://json-schema.org/draft-07/schema#"
BAD: dict[str, tuple[Any, str, str]] = {
    "no JSON": ("{", "new.json", "a schema as JSON"),
    "no schema": ("[]", "new.json", "an object, true or false"),
    "another draft": (
        {"$schema": "http://json-schema.org/draft-04/schema#"}, "draft-04", "draft-07 or 2020-12",
    ),
    "a schema of one's own": ({"$schema": "http://x/meta"}, "http://x/meta", "draft-07 or 2020-12"),
    "a type that is none": ({"items": {"type": "str"}}, "new.json, #/items: 'type'", "JSON's types"),
    "a number as name": ({"required": [1]}, "#: 'required'", "array of strings"),
    "a negative length": ({"minLength": -1}, "'minLength'", "0 or more"),
    "no multiple": ({"multipleOf": 0}, "'multipleOf'", "above 0"),
    "properties in a list": ({"properties": ["a"]}, "'properties'", "an object of schemas"),
    "a property that is no schema": ({"properties": {"a/b": 1}}, "#/properties/a~1b", "true or false"),
    "an array of items in 2020-12": ({"items": [{}]}, "'items'", "draft 7: say so"),
    "what only the validator sees": ({"title": 5}, "title", "a schema of 2020-12"),
    "nothing of that name": ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "#/properties/a", "never fetched"),
    "a place that is no schema": ({"$ref": "#/required", "required": ["a"]}, "#/required", "an object"),
    "an anchor that is not there": ({"$ref": "#b"}, "'#b'", "a place in this schema"),
    "another file": ({"$ref": "b.json#/c"}, "b.json#/c", "given references (a.json)"),
    "itself": ({"$ref": "#"}, "in a circle", "a step into a property"),
    "itself in a circle": (
        {"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"not": {"$ref": "#/$defs/b"}}, "b": {"anyOf": [{"$ref": "#/$defs/a"}]}}},
        "in a circle", "a step into a property",
    ),
    "itself through another file": ({"$ref": "a.json"}, "in a circle", "a step into"),
    "no regular expression": ({"pattern": "("}, "'('", "ECMA 262"),
    "one that is not small": ({"pattern": "(a{1000}){1000}"}, "(a{1000}){1000}", "small automaton"),
    "one of brackets": ({"patternProperties": {"(" * 5000 + ")" * 5000: {}}}, "regular", "ECMA 262"),
    "another draft inside": (
        {"$defs": {"x": {"$id": "x", "$schema": SEVEN, "dependencies": {"a": ["b"]}}}},
        "#/$defs/x", "2020-12, as outside",
    ),
    "no items of draft 7": ({"$schema": SEVEN, "items": []}, "#: 'items'", "an object"),
    "a reference that is no URI": ({"$ref": "http://[::1"}, "'$ref'", "a URI"),
    "a name that is no URI": ({"not": {"$id": "http://[::1"}}, "#/not: '$id'", "a URI"),
    "2**60 ways to the same": (
        {"$ref": "#/$defs/d0", "$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2}
                                         for n in range(60)} | {"d60": {}}},
        "too often", "at most 10,000",
    ),
    "large": ({"description": "x" * 5_000_000}, "5,000,0", "at most"),
    "many": ({"properties": {f"f{n}": True for n in range(110_000)}}, "too many", "at most 100,000"),
    "deep": ('{"not":' * 1000 + "{}" + "}" * 1000, "nested too deeply", "at most 100 levels"),
    "a schema of brackets": ('{"not":' * 100_000, "nested too deeply", "at most 100 levels"),
    "a number beyond numbers": ('{"minimum": 1e999}', "out of range", "a schema as JSON"),
    "half a character": ('{"const": "\ud800"}', "new.json", "a schema as JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_an_unreadable_schema_says_where_and_what(case: str) -> None:
    schema, where, expected = BAD[case]
    text = schema if isinstance(schema, str) else json.dumps(schema)
    with pytest.raises(SchemaError) as caught:
        read(text, {"a.json": '{"$ref": "a.json"}'}, "new.json")
    assert where in str(caught.value)
    assert expected in str(caught.value)


def test_the_facade_refuses_an_unreadable_schema_too() -> None:
    with pytest.raises(SchemaError, match="the new schema, #: 'required'"):
        check("json", ["{}"], '{"required": [1]}', Mode.FULL)
    with pytest.raises(SchemaError, match="the old schema, #: 'required'"):
        check("json", ['{"required": [1]}'], "{}", Mode.FULL)


@pytest.mark.parametrize("word", ["$ref", "$dynamicRef", "$schema"])
def test_nothing_is_fetched(word: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/schema.json"
        for schema in ({word: address}, {"properties": {"a": {word: address}}}):
            if word == "$schema" and "properties" in schema:
                continue
            with pytest.raises(SchemaError):
                read(json.dumps(schema))
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


HOSTILE = """
import json, resource
resource.setrlimit(resource.RLIMIT_AS, (1_500 * 2**20,) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
from oncebox.schema.compat.jsonschema import compare

def nested(levels, word, wide, leaf):
    for _ in range(levels):
        leaf = {word: [{"properties": {f"p{n}": leaf}} for n in range(wide)]}
    return leaf

def chain(length, step, leaf):
    defs = {f"d{n}": step({"$ref": f"#/$defs/d{n + 1}"}) for n in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**defs, f"d{length}": leaf}}

def both(value):
    return {"properties": {"l": value, "r": value}}

def needs(value):
    return {"type": "object", "required": ["l", "r"], **both(value)}

def twice(value):
    return {"type": "object", "required": ["a"], "allOf": [{"properties": {"a": value}}] * 2}

def words(count):
    return "|".join(f"a{n}" for n in range(count))

def fields(kind, count=10_000):
    return {"properties": {f"f{n}": {"type": kind} for n in range(count)}}

def some(shift):
    one = [{"anyOf": [{"minimum": n}, {"maximum": -n - shift}, {"multipleOf": n + 1 + shift}]}
           for n in range(20)]
    return {"allOf": one}

s, i = {"type": "string"}, {"type": "integer"}
pairs = {
    "10,000 fields": (fields("string"), fields("integer")),
    "90 levels": (chain(45, lambda x: {"properties": {"a": x}}, s),
                  chain(45, lambda x: {"properties": {"a": x}}, i)),
    "3,000 definitions": (chain(3000, lambda x: {"properties": {"a": x}}, s),
                          chain(3000, lambda x: {"properties": {"a": x}}, i)),
    "3,000 references": (chain(3000, lambda x: x, s), chain(3000, lambda x: x, i)),
    "2**30 paths": (chain(30, both, s), chain(30, both, i)),
    **{word: (nested(5, word, 4, s), nested(5, word, 4, {"type": "number"}))
       for word in ("anyOf", "oneOf", "allOf")},
    "3**20 choices": (some(0), some(1)),
    "2**90 values": (chain(90, needs, s), chain(90, needs, i)),
    "2**30 ways down": (chain(30, twice, s), chain(30, twice, i)),
    "many words": ({"pattern": words(500)}, {"pattern": words(499)}),
    "long": ({"minLength": 10**9, **s}, {"minLength": 10**9 + 1, **s}),
    "many items": ({"minItems": 10**9, "type": "array"}, {"minItems": 10**9 + 1, "type": "array"}),
    "many contained": ({"contains": s, "minContains": 10**9},
                       {"contains": s, "minContains": 10**9 + 1}),
    "many properties": ({"minProperties": 10**9, "type": "object"},
                        {"minProperties": 10**9 + 1, "type": "object"}),
    "far numbers": ({"type": "number", "minimum": 1e308, "multipleOf": 1e-300},
                    {"type": "number", "minimum": 1.1e308, "multipleOf": 3e-300}),
    "a long enum": ({"enum": [f"v{n}" for n in range(20_000)]},
                    {"enum": [f"v{n}" for n in range(19_000)]}),
    "a long tuple": ({"prefixItems": [s] * 3000}, {"prefixItems": [i] * 3000}),
    **{pattern: ({"properties": {"a" * 50 + "!": {}}, "patternProperties": {pattern: s}},
                 {"patternProperties": {pattern: i}, "propertyNames": {"pattern": pattern}})
       for pattern in ("(a+)+$", "^(a|a)*$", "(?=(a+)+$)x", r"^(\\\\w+\\\\s?)*$", "(a*)*b(?!c)",
                       r"^(a+)+\\\\1$")},
}
for name, (old, new) in pairs.items():
    found = compare(json.dumps(old), json.dumps(new), producers_closed=False)
    print(name, len(found), flush=True)
    assert found, name
"""


def test_hostile_pairs_end_within_time_and_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 25, done.stdout


def test_what_is_beyond_the_bounds_of_a_proof_is_a_warning_and_never_compatible() -> None:
    old, new = deep(30, {"type": "string"}), deep(30, {"type": "integer"})
    for wrap in range(30):
        old, new = ({"allOf": [each, {"title": str(wrap)}]} for each in (old, new))
    found = compare(json.dumps(old), json.dumps(new))
    assert {f.rule for f in found} == {"undecided"}
    assert {f.breaks for f in found} == {"new readers", "old readers"}
