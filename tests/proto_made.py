"""Protobuf files made at random, changed at random, and messages of them."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

from google.protobuf.json_format import ParseDict

SCALARS = (
    "double", "float", "int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32",
    "fixed64", "sfixed32", "sfixed64", "bool", "string", "bytes",
)  # fmt: skip
KNOWN: dict[str, list[Any]] = {
    "google.protobuf.Timestamp": ["2026-01-31T12:00:00Z"],
    "google.protobuf.Duration": ["5s", "-0.5s"],
    "google.protobuf.StringValue": ["", "a"],
    "google.protobuf.Int64Value": ["7", "-8589934592"],
    "google.protobuf.Int32Value": [7],
    "google.protobuf.Struct": [{"a": 1}],
    "google.protobuf.Any": [{}],
}
"""Well-known types, with values as ProtoJSON writes them."""
KEYS = ("int32", "uint64", "bool", "string")
HEADS = ('syntax = "proto3";', 'syntax = "proto2";', 'edition = "2023";')

Made = dict[str, Any]
"""`head`, `enums` by name as {value: number}, `messages` by name as lists of fields: {name, number,
type, label, oneof}; `reserved` by message, as [numbers, names]."""


def made(rng: Random) -> Made:
    schema: Made = {
        "head": rng.choice(HEADS),
        "enums": {"E0": {"E0_Z": 0, "E0_A": 1, "E0_B": 5}, "E1": {"E1_Z": 0, "E1_A": 1}},
        "messages": {},
    }
    for n in range(rng.randint(1, 3)):
        schema["messages"][f"M{n}"] = []
    for name, fields in schema["messages"].items():
        for n in range(rng.randint(1, 5)):
            fields.append(_field(rng, schema, f"{name.lower()}_f{n}", n + 1))
    return schema


def _field(rng: Random, schema: Made, name: str, number: int) -> dict[str, Any]:
    one: dict[str, Any] = {"name": name, "number": number, "oneof": "", "key": ""}
    one["type"] = _type(rng, schema)
    one["label"] = rng.choice(("", "", "optional", "repeated", "map"))
    if one["label"] == "map":
        one["key"] = rng.choice(KEYS)
    elif one["label"] == "" and rng.random() < 0.3:
        one["oneof"] = "choice"
    return one


def _type(rng: Random, schema: Made) -> str:
    roll = rng.random()
    if roll < 0.7:
        return rng.choice(SCALARS)
    if roll < 0.78:
        return rng.choice(list(KNOWN))
    return str(rng.choice(list(schema["enums"] if roll < 0.9 else schema["messages"])))


def written(schema: Made) -> str:
    """As a .proto."""
    lines = [schema["head"], "package p;"]
    for name in ("any", "duration", "struct", "timestamp", "wrappers"):
        lines.append(f'import "google/protobuf/{name}.proto";')
    for name, values in schema["enums"].items():
        lines.append(f"enum {name} {{ " + " ".join(f"{v} = {n};" for v, n in values.items()) + " }")
    for name, fields in schema["messages"].items():
        lines.append(f"message {name} {{")
        lines += [_line(one, schema["head"]) for one in fields if not one["oneof"]]
        inside = [_line(one, schema["head"]) for one in fields if one["oneof"]]
        if inside:
            lines.append("oneof choice { " + " ".join(inside) + " }")
        lines.append("}")
    return "\n".join(lines)


def _line(one: dict[str, Any], head: str) -> str:
    kind = f"map<{one['key']}, {one['type']}>" if one["label"] == "map" else one["type"]
    label = one["label"] if one["label"] != "map" else ""
    if label == "" and "proto2" in head and not one["oneof"] and one["label"] != "map":
        label = "optional"
    if label == "optional" and "edition" in head:
        label = ""
    return f"{label} {kind} {one['name']} = {one['number']};"


# ---- changes


def changed(rng: Random, schema: Made) -> Made:
    """The same with one or two changes."""
    new = deepcopy(schema)
    for _ in range(rng.randint(1, 2)):
        rng.choice(CHANGES)(rng, new)
    return new


def _some(rng: Random, schema: Made) -> dict[str, Any] | None:
    fields = [one for fields in schema["messages"].values() for one in fields]
    found: dict[str, Any] | None = rng.choice(fields) if fields else None
    return found


def _remove(rng: Random, schema: Made) -> None:
    fields = rng.choice(list(schema["messages"].values()))
    if fields:
        fields.pop(rng.randrange(len(fields)))


def _add(rng: Random, schema: Made) -> None:
    n = rng.randint(10, 1000)
    fields = rng.choice(list(schema["messages"].values()))
    if n not in {one["number"] for one in fields}:
        fields.append(_field(rng, schema, f"n{n}", n))


def _rename(rng: Random, schema: Made) -> None:
    one = _some(rng, schema)
    if one:
        one["name"] = f"r{rng.getrandbits(64)}"


def _renumber(rng: Random, schema: Made) -> None:
    one = _some(rng, schema)
    if one:
        one["number"] = rng.randint(1001, 5000)


def _retype(rng: Random, schema: Made) -> None:
    one = _some(rng, schema)
    if one:
        one["type"] = _type(rng, schema)


def _relabel(rng: Random, schema: Made) -> None:
    one = _some(rng, schema)
    if one and not one["oneof"]:
        one["label"] = rng.choice(("", "optional", "repeated"))


def _move(rng: Random, schema: Made) -> None:
    one = _some(rng, schema)
    if one and one["label"] == "":
        one["oneof"] = "" if one["oneof"] else "choice"


def _value(rng: Random, schema: Made) -> None:
    values = rng.choice(list(schema["enums"].values()))
    roll, last = rng.random(), list(values)[-1]
    if roll < 0.4:
        values[f"V{rng.randrange(10_000)}"] = rng.randint(10, 1000)
    elif roll < 0.7 and len(values) > 1:
        values.pop(last)
    elif len(values) > 1:
        values[f"W{rng.randrange(10_000)}"] = values.pop(last)


def _head(rng: Random, schema: Made) -> None:
    schema["head"] = rng.choice(HEADS)


CHANGES: list[Callable[[Random, Made], None]] = [
    _remove, _add, _rename, _renumber, _retype, _retype, _relabel, _move, _value, _head,
]  # fmt: skip


# ---- messages


_SIGNED32, _SIGNED64 = [0, -1, 2**31 - 1, -(2**31)], [0, -1, 2**63 - 1, -(2**63), 2**33 + 1]
_UNSIGNED32, _UNSIGNED64 = [0, 1, 2**32 - 1], [0, 1, 2**64 - 1, 2**33 + 1]
VALUES: dict[str, list[Any]] = {
    "double": [0.1, -1e300], "float": [1.5, 2.0**100], "bool": [True, False],
    "string": ["", "été"], "bytes": [b"", b"\xff\x00"],
    **dict.fromkeys(("int32", "sint32", "sfixed32"), _SIGNED32),
    **dict.fromkeys(("int64", "sint64", "sfixed64"), _SIGNED64),
    **dict.fromkeys(("uint32", "fixed32"), _UNSIGNED32),
    **dict.fromkeys(("uint64", "fixed64"), _UNSIGNED64),
}  # fmt: skip


def fill(rng: Random, message: Any, name: str, schema: Made, depth: int = 0) -> None:
    """Set some fields."""
    if name in KNOWN:
        ParseDict(rng.choice(KNOWN[name]), message)
        return
    for one in schema["messages"][name]:
        if rng.random() < 0.3:
            continue
        if one["label"] == "map":
            into = getattr(message, one["name"])
            for key in rng.sample(VALUES[one["key"]], rng.randint(0, 2)):
                if one["type"] in schema["messages"] or one["type"] in KNOWN:
                    inner = into[key]
                    if depth < 3:
                        fill(rng, inner, one["type"], schema, depth + 1)
                else:
                    into[key] = _one(rng, one["type"], schema)
        elif one["type"] in schema["messages"] or one["type"] in KNOWN:
            if depth < 3:
                into = getattr(message, one["name"])
                inner = into.add() if one["label"] == "repeated" else into
                if one["label"] != "repeated":
                    inner.SetInParent()
                fill(rng, inner, one["type"], schema, depth + 1)
        elif one["label"] == "repeated":
            count = rng.randint(0, 3)
            values = [_one(rng, one["type"], schema) for _ in range(count)]
            getattr(message, one["name"]).extend(values)
        else:
            setattr(message, one["name"], _one(rng, one["type"], schema))


def _one(rng: Random, kind: str, schema: Made) -> Any:
    if kind in schema["enums"]:
        return rng.choice(list(schema["enums"][kind].values()))
    return rng.choice(VALUES[kind])
