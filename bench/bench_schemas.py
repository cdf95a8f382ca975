"""Schemas at work: what versions, formats and checks cost, against the plainest way to do it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import fastavro

from bench.measure import Figure, paired, stopwatch
from oncebox.codecs.avro import foreign_reader

COUNT = 3_000
ROUNDS = 7

LINE = {
    "type": "record", "name": "Line",
    "fields": [
        {"name": "sku", "type": "string"}, {"name": "count", "type": "int"},
        {"name": "cents", "type": "long"}, {"name": "note", "type": ["null", "string"]},
    ],
}  # fmt: skip
ORDER = {
    "type": "record", "name": "Order",
    "fields": [
        {"name": "order_id", "type": "string"}, {"name": "customer", "type": "string"},
        {"name": "placed", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "cents", "type": "int"}, {"name": "currency", "type": "string"},
        {"name": "status", "type": {"type": "enum", "name": "Status", "symbols": ["NEW", "PAID"]}},
        {"name": "coupon", "type": ["null", "string"]},
        {"name": "lines", "type": {"type": "array", "items": LINE}},
    ],
}  # fmt: skip


def newer() -> dict[str, Any]:
    """The order as its reader has it: a field renamed, one wider, one gone, two new."""
    order: dict[str, Any] = json.loads(json.dumps(ORDER))
    fields = {field["name"]: field for field in order["fields"]}
    fields["customer"] |= {"name": "buyer", "aliases": ["customer"]}
    fields["cents"]["type"] = "long"
    order["fields"].remove(fields["coupon"])
    order["fields"].append({"name": "channel", "type": "string", "default": "web"})
    items = fields["lines"]["type"]["items"]["fields"]
    items[1]["type"] = "long"
    items.append({"name": "gift", "type": "boolean", "default": False})
    return order


def datum() -> dict[str, Any]:
    """An order of five lines."""
    line = {"sku": "sku-1", "count": 2, "cents": 1250, "note": None}
    return {
        "order_id": "o-12345", "customer": "Ada Lovelace", "placed": 1_769_860_800_000_000,
        "cents": 6250, "currency": "EUR", "status": "PAID", "coupon": "spring",
        "lines": [line | {"sku": f"sku-{n}"} for n in range(5)],
    }  # fmt: skip


def rate(run: Callable[[bytes], Any], raw: bytes) -> Callable[[], float]:
    """Events a second, decoded one by one."""

    def measured() -> float:
        with stopwatch() as elapsed:
            for _ in range(COUNT):
                run(raw)
            return COUNT / elapsed()

    return measured


def avro(rounds: int) -> list[Figure]:
    """Avro whose reader differs from its writer, and whose reader is the same."""
    writer, reader = fastavro.parse_schema(ORDER), fastavro.parse_schema(newer())
    out = io.BytesIO()
    fastavro.schemaless_writer(out, writer, datum())
    raw = out.getvalue()
    ours = foreign_reader(json.dumps(ORDER), json.dumps(newer()), values=True)
    assert ours(raw) == fastavro.schemaless_reader(io.BytesIO(raw), writer, reader)
    document = foreign_reader(json.dumps(ORDER), json.dumps(newer()))
    same = foreign_reader(json.dumps(ORDER), values=True)
    assert same(raw) == fastavro.schemaless_reader(io.BytesIO(raw), writer, None)

    def resolving(raw: bytes) -> Any:
        return fastavro.schemaless_reader(io.BytesIO(raw), writer, reader)

    def plain(raw: bytes) -> Any:
        return fastavro.schemaless_reader(io.BytesIO(raw), writer, None)

    theirs, name = rate(resolving, raw), "decode Avro, reader and writer differ"
    return [
        *paired(name, rate(ours, raw), theirs, rounds=rounds, against="fastavro", target=">= 1.5"),
        *paired(
            f"{name}, into a document", rate(document, raw), theirs, rounds=rounds,
            against="fastavro",
        ),
        *paired(
            "decode Avro, one schema", rate(same, raw), rate(plain, raw), rounds=rounds,
            against="fastavro",
        ),
    ]  # fmt: skip


def run(engines: object) -> list[Figure]:
    """All of them."""
    del engines
    return avro(ROUNDS)
