"""Pairs of Avro schemas, one for each rule of its resolution and for what checkers let pass: what
has to be found, as "rule, who breaks", with a "?" behind what is only a warning.
"""

from __future__ import annotations

from typing import Any

Schema = Any


def record(name: str, *fields: Schema, **more: Any) -> Schema:
    return {"type": "record", "name": name, "fields": list(fields), **more}


def field(name: str, kind: Schema, **more: Any) -> Schema:
    return {"name": name, "type": kind, **more}


def enum(*symbols: str, name: str = "E", **more: Any) -> Schema:
    return {"type": "enum", "name": name, "symbols": list(symbols), **more}


def fixed(size: int, name: str = "F", **more: Any) -> Schema:
    return {"type": "fixed", "name": name, "size": size, **more}


def logical(kind: str, of: str, **more: Any) -> Schema:
    return {"type": of, "logicalType": kind, **more}


def decimal(precision: int, scale: int, of: str = "bytes") -> Schema:
    return logical("decimal", of, precision=precision, scale=scale)


def of(*kinds: Schema) -> Schema:
    """An event with a field for each type."""
    return record("Event", *(field(f"x{n}", kind) for n, kind in enumerate(kinds)))


X = field("x", "int")
NEW, OLD = " new", " old"

CASES: dict[str, tuple[Schema, Schema, set[str]]] = {
    "nothing changed": (of("int"), of("int"), set()),
    "doc and order of fields": (
        record("Event", X, field("y", "int"), doc="a"),
        record("Event", field("y", "int", doc="b"), X),
        set(),
    ),
    # fields
    "field removed": (
        record("Event", X, field("y", "string")),
        record("Event", X),
        {"field-without-default old"},
    ),
    "field with default removed": (
        record("Event", X, field("y", "string", default="")),
        record("Event", X),
        set(),
    ),
    "field added": (
        record("Event", X),
        record("Event", X, field("y", "string")),
        {"field-without-default new"},
    ),
    "field with default added": (
        record("Event", X),
        record("Event", X, field("y", ["null", "string"], default=None)),
        set(),
    ),
    "default of a later branch": (
        record("Event", X),
        record("Event", X, field("y", ["null", "string"], default="a")),
        set(),
    ),
    "field renamed": (
        record("Event", X),
        record("Event", field("y", "int")),
        {"field-without-default new", "field-without-default old"},
    ),
    "field renamed with alias": (
        record("Event", X),
        record("Event", field("y", "int", aliases=["x"])),
        {"field-without-default old"},
    ),
    "field renamed with alias and default": (
        record("Event", field("x", "int", default=0)),
        record("Event", field("y", "int", aliases=["x"], default=0)),
        set(),
    ),
    "names differ in case": (
        record("Event", X),
        record("Event", field("X", "int")),
        {"field-without-default new", "field-without-default old"},
    ),
    # defaults
    "new default of another type": (
        record("Event", X),
        record("Event", field("x", "int", default="a")),
        {"default-wrong-type new"},
    ),
    "new default out of range": (
        record("Event", X),
        record("Event", field("x", "int", default=2**31)),
        {"default-wrong-type? new"},
    ),
    "default of a new field out of range": (
        record("Event"),
        record("Event", field("x", "int", default=2**31)),
        {"default-wrong-type new"},
    ),
    "new default without an inner field": (
        record("Event"),
        record("Event", field("y", record("In", X), default={})),
        {"default-wrong-type new"},
    ),
    "old default of another type": (
        record("Event", field("x", "long", default=1.5)),
        record("Event", field("x", "long", default=1)),
        {"default-wrong-type old"},
    ),
    "default no symbol": (
        record("Event"),
        record("Event", field("y", enum("a"), default="b")),
        {"default-wrong-type new"},
    ),
    "default of a fixed too short": (
        record("Event"),
        record("Event", field("y", fixed(4), default="abc")),
        {"default-wrong-type new"},
    ),
    # names
    "record renamed": (
        record("Event", X),
        record("Happening", X),
        {"name-changed new", "name-changed old"},
    ),
    "record renamed with alias": (
        record("Event", X),
        record("Happening", X, aliases=["Event"]),
        {"name-changed old"},
    ),
    "namespace changed": (record("a.Event", X), record("b.Event", X), set()),
    "alias in the namespace": (
        record("a.Event", X),
        record("a.Happening", X, aliases=["Event"]),
        {"name-changed old"},
    ),
    "inner record renamed": (
        of(record("In", X)),
        of(record("Inner", X)),
        {"name-changed new", "name-changed old"},
    ),
    "enum renamed": (
        of(enum("a")),
        of(enum("a", name="G")),
        {"name-changed new", "name-changed old"},
    ),
    "fixed renamed": (
        of(fixed(2)),
        of(fixed(2, name="G", aliases=["F"])),
        {"name-changed old"},
    ),
    # types
    "int to long": (of("int"), of("long"), {"type-changed old"}),
    "int to float": (of("int"), of("float"), {"lossy-promotion new", "type-changed old"}),
    "int to double": (of("int"), of("double"), {"type-changed old"}),
    "long to float": (of("long"), of("float"), {"lossy-promotion new", "type-changed old"}),
    "long to double": (of("long"), of("double"), {"lossy-promotion new", "type-changed old"}),
    "float to double": (of("float"), of("double"), {"type-changed old"}),
    "bytes to string": (of("bytes"), of("string"), {"bytes-as-string new"}),
    "string to bytes": (of("string"), of("bytes"), {"bytes-as-string old"}),
    "int to string": (of("int"), of("string"), {"type-changed new", "type-changed old"}),
    "boolean to int": (of("boolean"), of("int"), {"type-changed new", "type-changed old"}),
    "enum to string": (of(enum("a")), of("string"), {"type-changed new", "type-changed old"}),
    "fixed to bytes": (of(fixed(2)), of("bytes"), {"type-changed new", "type-changed old"}),
    "fixed longer": (
        of(fixed(2)),
        of(fixed(3)),
        {"fixed-size-changed new", "fixed-size-changed old"},
    ),
    "array to map": (
        of({"type": "array", "items": "int"}),
        of({"type": "map", "values": "int"}),
        {"type-changed new", "type-changed old"},
    ),
    "items int to long": (
        of({"type": "array", "items": "int"}),
        of({"type": "array", "items": "long"}),
        {"type-changed old"},
    ),
    "values long to float": (
        of({"type": "map", "values": "long"}),
        of({"type": "map", "values": "float"}),
        {"lossy-promotion new", "type-changed old"},
    ),
    "record to int": (of(record("In", X)), of("int"), {"type-changed new", "type-changed old"}),
    # enums
    "symbol added": (of(enum("a")), of(enum("a", "b")), {"symbol-not-read old"}),
    "symbol removed": (of(enum("a", "b")), of(enum("a")), {"symbol-not-read new"}),
    "symbols in another order": (of(enum("a", "b")), of(enum("b", "a")), set()),
    "symbol added to an enum with default": (
        of(enum("a", default="a")),
        of(enum("a", "b", default="a")),
        {"symbol-read-as-default? old"},
    ),
    # unions
    "made optional": (of("int"), of(["null", "int"]), {"branch-not-read old"}),
    "branch added": (
        of(["null", "int"]),
        of(["null", "int", "string"]),
        {"branch-not-read old"},
    ),
    "branches in another order": (of(["null", "int"]), of(["int", "null"]), set()),
    "union of one": (of(["int"]), of("int"), set()),
    "promoted inside a union": (
        of(["null", "int"]),
        of(["null", "long"]),
        {"branch-not-read old"},
    ),
    "promoted although the type is there": (
        of("int"),
        of(["double", "int"]),
        {"union-order? new", "branch-not-read old"},
    ),
    "branch renamed": (
        of(["null", record("In", X)]),
        of(["null", record("Inner", X, aliases=["In"])]),
        {"branch-not-read old"},
    ),
    "inside a branch": (
        of(["null", record("In", X)]),
        of(["null", record("In", field("x", "string"))]),
        {"type-changed new", "type-changed old"},
    ),
    "into a union": (
        of(record("In", X)),
        of(["null", record("In", X, field("y", "int"))]),
        {"field-without-default new", "branch-not-read old"},
    ),
    # logical types
    "millis to micros": (
        of(logical("timestamp-millis", "long")),
        of(logical("timestamp-micros", "long")),
        {"logical-type-changed new", "logical-type-changed old"},
    ),
    "time to timestamp": (
        of(logical("time-millis", "int")),
        of(logical("timestamp-millis", "long")),
        {"logical-type-changed new", "type-changed old"},
    ),
    "date to time": (
        of(logical("date", "int")),
        of(logical("time-millis", "int")),
        {"logical-type-changed new", "logical-type-changed old"},
    ),
    "local to instant": (
        of(logical("local-timestamp-millis", "long")),
        of(logical("timestamp-millis", "long")),
        {"logical-type-changed new", "logical-type-changed old"},
    ),
    "scale": (
        of(decimal(6, 2)),
        of(decimal(6, 3)),
        {"decimal-scale-changed new", "decimal-scale-changed old"},
    ),
    "more precision": (of(decimal(4, 2)), of(decimal(6, 2)), {"decimal-precision-changed old"}),
    "scale in a fixed": (
        of(fixed(8, logicalType="decimal", precision=10, scale=2)),
        of(fixed(8, logicalType="decimal", precision=10, scale=0)),
        {"decimal-scale-changed new", "decimal-scale-changed old"},
    ),
    "long to timestamp": (
        of("long"),
        of(logical("timestamp-millis", "long")),
        {"logical-type-changed? new", "logical-type-changed? old"},
    ),
    "string to uuid": (
        of("string"),
        of(logical("uuid", "string")),
        {"logical-type-changed new", "logical-type-changed? old"},
    ),
    "a logical type of somebody's own": (
        of(logical("money", "long")),
        of(logical("cents", "long")),
        {"logical-type-changed? new", "logical-type-changed? old"},
    ),
    # named types at several places
    "a type used twice": (of(enum("a"), "E", "int"), of(enum("a"), "E", "int"), set()),
    "a type defined at another place": (
        record("Event", field("x", enum("a")), field("y", "E")),
        record("Event", field("y", ["null", enum("a")])),
        {"type-moved new", "field-without-default old", "branch-not-read old"},
    ),
    # logical types that are none
    "decimals that are invalid": (
        of(logical("decimal", "int", precision=4), decimal(2, 5), fixed(0, logicalType="decimal")),
        of(
            logical("decimal", "int", precision=5),
            decimal(2, 4),
            fixed(0, logicalType="decimal", precision=4),
        ),
        set(),
    ),
    "a default that is no number": (
        record("Event", X),
        record("Event", X, field("y", "double", default="NaN")),
        {"default-wrong-type new"},
    ),
    # aliases
    "two fields as one": (
        record("Event", X, field("y", "int")),
        record("Event", field("y", "int", aliases=["x"])),
        {"two-read-as-one new", "field-without-default old"},
    ),
    "two fields as one, the other way round": (
        record("Event", field("y", "int"), X),
        record("Event", field("y", "int", aliases=["x"])),
        {"two-read-as-one new", "field-without-default old"},
    ),
    # recursion
    "tree": (
        record("Tree", X, field("left", ["null", "Tree"], default=None)),
        record("Tree", field("x", "long"), field("left", ["null", "Tree"], default=None)),
        {"type-changed old"},
    ),
    "tree with a field removed": (
        record("Tree", X, field("of", {"type": "array", "items": "Tree"}), field("y", "int")),
        record("Tree", X, field("of", {"type": "array", "items": "Tree"})),
        {"field-without-default old"},
    ),
}
