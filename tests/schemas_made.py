"""Schemas of every kind and documents of theirs, at random: from any `random.Random`, so also from
hypothesis's (`st.randoms()`), which shrinks what it drew.
"""

from __future__ import annotations

import base64
import string
from datetime import UTC, date, datetime, time, timedelta, timezone
from random import Random
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType, structs

from oncebox.schema import leaves
from oncebox.schema.model import (
    INT_HIGH,
    INT_LOW,
    Bool,
    Bytes,
    Date,
    Decimal,
    Definition,
    Duration,
    Enum,
    Field,
    Float,
    Int,
    List,
    Map,
    Member,
    Named,
    Nullable,
    Record,
    Schema,
    Set,
    Str,
    Symbol,
    Time,
    Timestamp,
    Type,
    Union,
    Uuid,
)  # fmt: skip

PLAIN: list[Type] = [
    Bool(), Int(), Int(0, 9), Float(), Str(), Bytes(), Decimal(10, 2), Decimal(30, 0),
    Decimal(4, 4), Uuid(), Date(), Time(), Timestamp(), Duration(),
]  # fmt: skip

SYMBOLS = ["new", "in-progress", "Done", "50%", "a b"]
TAGS = ["card", "pay-pal", "Cash"]
RECORDS_MAX, FIELDS_MAX, LENGTH_MAX, DEPTH_MAX = 3, 6, 3, 4


def schema_made(rng: Random, type: str = "made.by-chance") -> Schema:
    """A schema of up to three records that hold each other, an enum and a union."""
    names = [f"R{n}" for n in range(rng.randint(1, RECORDS_MAX))]
    definitions: dict[str, Definition] = {"Colour": _enum(rng)}
    for n, name in enumerate(names):
        definitions[name] = _record(rng, names, n)
    members = []
    for number, tag in enumerate(rng.sample(TAGS, rng.randint(1, len(TAGS))), 1):
        definitions[f"M{number}"] = Record((Field("what", 1, rng.choice(PLAIN)),))
        members.append(Member(tag, f"M{number}", number))
    definitions["Means"] = Union("kind", tuple(members))
    schema = Schema(type, 1, "R0", definitions)
    for name in names:
        record = definitions[name]
        assert isinstance(record, Record)
        fields = tuple(_with_default(rng, schema, field) for field in record.fields)
        definitions[name] = structs.replace(record, fields=fields)
    return schema


def _enum(rng: Random) -> Enum:
    values = rng.sample(SYMBOLS, rng.randint(1, len(SYMBOLS)))
    symbols = tuple(Symbol(value, 2 * n + 1) for n, value in enumerate(values))
    default: str | UnsetType = values[0] if rng.random() < 0.5 else UNSET
    return Enum(symbols, default=default)


def _record(rng: Random, names: list[str], n: int) -> Record:
    """Record number n; by itself it holds later ones only, so that its documents end."""
    numbers = rng.sample(range(1, 41), rng.randint(0, FIELDS_MAX))
    return Record(
        tuple(
            Field(f"f{i}", number, _type(rng, names, n), absent=rng.random() < 0.2)
            for i, number in enumerate(numbers)
        )
    )


def _type(rng: Random, names: list[str], n: int) -> Type:
    """A type that may stand in record number n."""
    kind = rng.randrange(10)
    if kind < 4:
        return _single(rng, names[n + 1 :])
    if kind < 6:
        return Nullable(_single(rng, names))
    if kind == 6:
        return Set(_plain(rng))
    wrap = List if kind < 9 else Map
    container = wrap(_element(rng, names))
    return Nullable(container) if rng.random() < 0.3 else container


def _element(rng: Random, names: list[str]) -> Type:
    inner = _single(rng, names)
    return rng.choice(
        [inner, inner, Nullable(inner), List(inner), Map(inner), Nullable(Set(_plain(rng)))]
    )


def _single(rng: Random, names: list[str]) -> Type:
    return Named(rng.choice(["Colour", "Means", *names])) if rng.random() < 0.4 else _plain(rng)


def _plain(rng: Random) -> Type:
    if rng.random() < 0.1:
        return Int(rng.randint(INT_LOW, 0), rng.randint(0, INT_HIGH))
    return rng.choice(PLAIN)


def _with_default(rng: Random, schema: Schema, field: Field) -> Field:
    if field.absent or rng.random() < 0.6:
        return field
    return structs.replace(field, default=value_made(rng, schema, field.type, DEPTH_MAX - 1))


# ---- documents


def document_made(rng: Random, schema: Schema) -> dict[str, Any]:
    """A document of the schema, as some writer may write it."""
    found: dict[str, Any] = value_made(rng, schema, Named(schema.root))
    return found


def value_made(rng: Random, schema: Schema, type: Type, depth: int = 0) -> Any:  # noqa: PLR0911
    """A value of a type, in its one form but for missing defaults."""
    few = 0 if depth >= DEPTH_MAX else rng.randint(0, LENGTH_MAX)
    match type:
        case Nullable(of):
            if depth >= DEPTH_MAX or rng.random() < 0.4:
                return None
            return value_made(rng, schema, of, depth)
        case List(of):
            return [value_made(rng, schema, of, depth + 1) for _ in range(few)]
        case Set(of):
            parts = [value_made(rng, schema, of, depth + 1) for _ in range(few)]
            return [part for n, part in enumerate(parts) if part not in parts[:n]]
        case Map(of):
            return {_text(rng): value_made(rng, schema, of, depth + 1) for _ in range(few)}
        case Named(name):
            return _named(rng, schema, name, depth)
        case Int(low, high):
            return rng.choice(
                [low, high, rng.randint(low, high), max(low, min(high, rng.randint(-99, 99)))]
            )
        case Decimal(precision, scale):
            top = 10 ** rng.randint(0, precision) - 1
            return leaves.decimal_text(rng.randint(-top, top), precision, scale)
    return _PLAIN[type.__class__](rng)


def _named(rng: Random, schema: Schema, name: str, depth: int) -> Any:
    definition = schema.definitions[name]
    if isinstance(definition, Enum):
        return rng.choice(definition.symbols).value
    if isinstance(definition, Union):
        member = rng.choice(definition.members)
        return {definition.tag_field: member.tag, **_named(rng, schema, member.name, depth)}
    return {
        field.name: value_made(rng, schema, field.type, depth + 1)
        for field in definition.fields
        if not (field.absent or field.default is not UNSET) or rng.random() < 0.6
    }


CHARACTERS = [
    *string.ascii_letters,
    *string.digits,
    "é",
    "ß",
    "→",
    "😀",
    "\0",
    " ",
    '"',
    "\\",
    "[",
    "{",
]


def _text(rng: Random) -> str:
    return "".join(rng.choice(CHARACTERS) for _ in range(rng.randrange(6)))


def _float(rng: Random) -> float:
    return rng.choice([0.0, -0.0, 1e308, 5e-324, 0.1, rng.uniform(-1e6, 1e6), float(2**53)])


def _moment(rng: Random) -> str:
    at = datetime(1, 1, 2, tzinfo=UTC) + timedelta(
        days=rng.randrange(3_652_000),
        microseconds=rng.choice([0, 1, rng.randrange(86_400 * 10**6)]),
    )
    zone = timezone(timedelta(hours=rng.randrange(-12, 13)))
    written: str = msgspec.to_builtins(at.astimezone(rng.choice([UTC, zone])))
    return written


def _written(value: Any) -> Any:
    return msgspec.to_builtins(value)


_PLAIN: dict[type, Any] = {
    Bool: lambda rng: rng.random() < 0.5,
    Float: _float,
    Str: _text,
    Bytes: lambda rng: base64.b64encode(rng.randbytes(rng.randrange(6))).decode(),
    Uuid: lambda rng: str(UUID(int=rng.getrandbits(128))),
    Date: lambda rng: _written(date.fromordinal(rng.randint(1, 3_652_059))),
    Time: lambda rng: _written(
        time(
            rng.randrange(24),
            rng.randrange(60),
            rng.randrange(60),
            rng.choice([0, rng.randrange(10**6)]),
        )
    ),
    Timestamp: _moment,
    Duration: lambda rng: _written(timedelta(microseconds=rng.randint(-(10**17), 10**17))),
}
