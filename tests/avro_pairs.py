"""Pairs of Avro schemas, a writer's and what became of it for a reader, with data: at random."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

LEAVES: list[Any] = [
    "boolean", "int", "long", "float", "double", "string", "bytes",
    {"type": "long", "logicalType": "timestamp-micros"},
    {"type": "long", "logicalType": "timestamp-millis"},
    {"type": "int", "logicalType": "date"},
    {"type": "string", "logicalType": "uuid"},
    {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2},
]  # fmt: skip
DEPTH_MAX = 3
PROMOTED = {
    "int": ["long", "double"], "long": ["double"], "float": ["double"],
    "string": ["bytes"], "bytes": ["string"],
}  # fmt: skip
SYMBOLS = ["A", "B", "C", "D"]


class Pair:
    """A writer's and a reader's schema."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.count = 0
        self.writer = self.record(0)
        self.reader = self.evolved(copy.deepcopy(self.writer))

    def name(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    # ---- the writer

    def record(self, depth: int) -> Any:
        fields = [
            {"name": self.name("f"), "type": self.type(depth + 1)}
            for _ in range(self.rng.randint(0, 5))
        ]
        return {"type": "record", "name": self.name("R"), "fields": fields}

    def type(self, depth: int) -> Any:  # noqa: PLR0911
        kind = self.rng.randrange(10)
        if depth >= DEPTH_MAX or kind < 4:
            return self.rng.choice(LEAVES)
        if kind == 4:
            return {"type": "array", "items": self.type(depth + 1)}
        if kind == 5:
            return {"type": "map", "values": self.type(depth + 1)}
        if kind == 6:
            return {"type": "enum", "name": self.name("E"), "symbols": SYMBOLS[:3]}
        if kind == 7:
            return {"type": "fixed", "name": self.name("F"), "size": 3}
        if kind == 8:
            return ["null", self.plain(depth)]
        return self.record(depth + 1)

    def plain(self, depth: int) -> Any:
        """No union."""
        found = self.type(depth + 1)
        return "string" if isinstance(found, list) else found

    # ---- the reader

    def evolved(self, schema: Any) -> Any:
        rng = self.rng
        if isinstance(schema, str):
            return rng.choice([schema, *PROMOTED.get(schema, [])])
        if isinstance(schema, list):
            changed = [self.evolved(branch) for branch in schema]
            changed = [part[1] if isinstance(part, list) else part for part in changed]
            return changed[1] if rng.random() < 0.2 else changed
        kind = schema["type"]
        if kind == "array":
            schema["items"] = self.evolved(schema["items"])
        elif kind == "map":
            schema["values"] = self.evolved(schema["values"])
        elif kind == "enum":
            if rng.random() < 0.5:
                schema["symbols"] = rng.sample(SYMBOLS, 2)
                if rng.random() < 0.5:
                    schema["default"] = schema["symbols"][0]
        elif kind == "record":
            self.evolve_fields(schema)
        if rng.random() < 0.2 and kind not in ("record", "enum", "fixed"):
            return ["null", schema]
        return schema

    def evolve_fields(self, record: Any) -> None:
        rng, fields = self.rng, []
        for field in record["fields"]:
            chance = rng.random()
            if chance < 0.15:
                continue
            field["type"] = self.evolved(field["type"])
            if chance < 0.3:
                field["aliases"] = [field["name"]]
                field["name"] = self.name("renamed")
            fields.append(field)
        for _ in range(rng.randint(0, 2)):
            type, default = rng.choice(
                [("string", "x"), ("long", 5), (["null", "string"], None), ("boolean", True),
                 ({"type": "array", "items": "long"}, [1, 2]), ("double", 1.5),
                 ({"type": "map", "values": "string"}, {"a": "b"})]
            )  # fmt: skip
            fields.append({"name": self.name("new"), "type": type, "default": default})
        rng.shuffle(fields)
        record["fields"] = fields

    # ---- data

    def datum(self, schema: Any) -> Any:  # noqa: PLR0911
        """Raw data of the writer's schema, as fastavro writes it."""
        rng = self.rng
        if isinstance(schema, list):
            return self.datum(rng.choice(schema))
        schema = {"type": schema} if isinstance(schema, str) else schema
        kind: Any = schema["type"]
        few = range(rng.randint(0, 3))
        if kind == "record":
            return {field["name"]: self.datum(field["type"]) for field in schema["fields"]}
        if kind == "array":
            return [self.datum(schema["items"]) for _ in few]
        if kind == "map":
            return {f"k{n}": self.datum(schema["values"]) for n in few}
        if kind == "enum":
            return rng.choice(schema["symbols"])
        if kind == "fixed":
            return rng.randbytes(schema["size"])
        logical = schema.get("logicalType")
        if logical == "uuid":
            return "12345678-1234-5678-1234-567812345678"
        if logical == "decimal":
            return rng.randint(-999_999, 999_999).to_bytes(3, "big", signed=True)
        if logical:
            return rng.randint(-10_000, 1_000_000)
        return {
            "null": None, "boolean": rng.random() < 0.5, "int": rng.randint(-(2**31), 2**31 - 1),
            "long": rng.choice([0, -1, 2**63 - 1, -(2**63), rng.getrandbits(40)]),
            "float": rng.choice([0.0, 1.5, -2.25]), "double": rng.uniform(-1e9, 1e9),
            "string": rng.choice(["", "é→", "x" * 70]), "bytes": rng.choice([b"", b"abc", "é".encode()]),
        }[kind]  # fmt: skip
