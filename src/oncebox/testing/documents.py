"""Documents of a schema, at random: whatever its writers may write."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal as Number
from functools import cache
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import UNSET

from ..schema.model import (
    Bool,
    Bytes,
    Date,
    Decimal,
    Duration,
    Enum,
    Field,
    Float,
    Int,
    List,
    Map,
    Named,
    Nullable,
    Record,
    Schema,
    Set,
    Str,
    Time,
    Timestamp,
    Type,
    Union,
    Uuid,
)  # fmt: skip

LENGTH_MAX = 3

ZONES = st.sampled_from(
    [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=8))]
)
MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=ZONES)  # noqa: DTZ001
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SPANS = st.timedeltas(-timedelta(days=10**6), timedelta(days=10**6))


def _written(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return strategy.map(msgspec.to_builtins)


SCALARS: dict[type, st.SearchStrategy[Any]] = {
    Bool: st.booleans(),
    Float: st.floats(allow_nan=False, allow_infinity=False),
    Str: TEXTS,
    Bytes: st.binary(max_size=8).map(lambda b: base64.b64encode(b).decode()),
    Uuid: _written(st.uuids()),
    Date: _written(st.dates()),
    Time: _written(st.times()),
    Timestamp: _written(MOMENTS),
    Duration: _written(SPANS),
}


def documents(schema: Schema) -> st.SearchStrategy[dict[str, Any]]:
    """Documents of the whole schema."""
    return _Documents(schema).named(schema.root)


class _Documents:
    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.named = cache(self._named)

    def value(self, type: Type) -> st.SearchStrategy[Any]:  # noqa: PLR0911
        match type:
            case Nullable():
                return st.none() | self.value(type.of)
            case Int():
                return st.integers(type.low, type.high)
            case Decimal():
                top = 10**type.precision - 1
                numbers = st.integers(-top, top)
                return numbers.map(lambda n: f"{Number(n).scaleb(-type.scale):f}")
            case List():
                return st.lists(self.value(type.of), max_size=LENGTH_MAX)
            case Set():
                parts = self.value(type.of)
                return st.lists(parts, max_size=LENGTH_MAX, unique_by=msgspec.json.encode)
            case Map():
                return st.dictionaries(TEXTS, self.value(type.of), max_size=LENGTH_MAX)
            case Named():
                return st.deferred(lambda: self.named(type.name))
            case _:
                return SCALARS[type.__class__]

    def _named(self, name: str) -> st.SearchStrategy[Any]:
        definition = self.schema.definitions[name]
        if isinstance(definition, Enum):
            return st.sampled_from([symbol.value for symbol in definition.symbols])
        if isinstance(definition, Union):
            return st.one_of(*(self.member(definition, m.tag, m.name) for m in definition.members))
        return self.record(definition)

    def member(self, union: Union, tag: str, name: str) -> st.SearchStrategy[Any]:
        return self.named(name).map(lambda record: {union.tag_field: tag, **record})

    def record(self, record: Record) -> st.SearchStrategy[Any]:
        def may_miss(field: Field) -> bool:
            return field.absent or field.default is not UNSET

        required = {f.name: self.value(f.type) for f in record.fields if not may_miss(f)}
        optional = {f.name: self.value(f.type) for f in record.fields if may_miss(f)}
        return st.fixed_dictionaries(required, optional=optional)
