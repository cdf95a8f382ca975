"""Payloads: every kind of event class there and back, and everything that is not one."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic.dataclasses import dataclass as pydantic_dataclass

from oncebox.codecs.payload import DEPTH_MAX, codec_of, decode, encode
from oncebox.envelope import VALUE_BYTES_MAX
from oncebox.errors import BadEvent, ConfigurationError, DecodeFailed


class Kind(Enum):
    GIFT = "gift"
    SALE = "sale"


@dataclass(frozen=True)
class Line:
    name: str
    cents: int


@dataclass(frozen=True)
class Order:
    order_id: str
    lines: list[Line] = field(default_factory=list)
    kind: Kind = Kind.SALE
    at: datetime = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
    rate: Decimal = Decimal("1.10")
    ref: UUID | None = None
    note: str | None = None


class StructLine(msgspec.Struct, frozen=True):
    name: str
    cents: int


class StructOrder(msgspec.Struct, frozen=True, rename="camel"):
    order_id: str
    lines: list[StructLine] = []


class ModelLine(pydantic.BaseModel):
    name: str
    cents: int


class ModelOrder(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)

    order_id: str = pydantic.Field(alias="orderId")
    lines: list[ModelLine] = []


@pydantic_dataclass(frozen=True)
class CheckedOrder:
    order_id: str
    cents: pydantic.PositiveInt


@dataclass
class Anything:
    value: Any


ORDERS = [
    Order("o-1", [Line("tea", 250)], Kind.GIFT, ref=UUID(int=7), note="ünïcode \U0001f375"),
    StructOrder("o-1", [StructLine("tea", 250)]),
    ModelOrder(orderId="o-1", lines=[ModelLine(name="tea", cents=250)]),
    CheckedOrder("o-1", 250),
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: type(order).__name__)
def test_there_and_back(order: Any) -> None:
    payload = encode(order)
    assert payload.startswith(b"{")
    assert decode(type(order), payload) == order


def test_names_on_the_wire_are_those_of_the_class() -> None:
    assert encode(ORDERS[1]) == b'{"orderId":"o-1","lines":[{"name":"tea","cents":250}]}'
    assert encode(ORDERS[2]) == b'{"orderId":"o-1","lines":[{"name":"tea","cents":250}]}'


def test_unknown_fields_are_left_out() -> None:
    """A newer producer adds a field: older code goes on."""
    assert decode(Line, b'{"name":"tea","cents":1,"new":[{"deep":1}]}') == Line("tea", 1)
    assert decode(ModelLine, b'{"name":"tea","cents":1,"new":2}') == ModelLine(name="tea", cents=1)


BAD = [
    (Order, b'{"order_id":"o","lines":[{"name":"t","cents":1},{"name":"t","cents":"x"}]}',
     "$.lines[1].cents", "`int`"),
    (Order, b'{"lines":[]}', "$: Object missing required field `order_id`", None),
    (Order, b"[]", "$: got `array`", "`object`"),
    (Order, b'{"order_id":"o","kind":"none"}', "$.kind: Invalid enum value 'none'", None),
    (Order, b"", "truncated", None),
    (Order, b'{"order_id":"o"', "truncated", None),
    (Order, b'{"order_id":"o"}x', "trailing", None),
    (Order, b'{"order_id":"\xff"}', "not UTF-8", None),
    (Order, b"\x00\x01", "malformed", None),
    (ModelOrder, b'{"orderId":"o","lines":[{"name":"t","cents":"x"}]}',
     "$.lines[0].cents: Input should be a valid integer", None),
    (ModelOrder, b"{", "$: Invalid JSON", None),
    (CheckedOrder, b'{"order_id":"o","cents":-1}', "$.cents: Input should be greater than 0", None),
]  # fmt: skip


@pytest.mark.parametrize(("cls", "payload", "says", "expected"), BAD)
def test_what_does_not_fit_is_named(
    cls: type, payload: bytes, says: str, expected: str | None
) -> None:
    with pytest.raises(DecodeFailed) as failed:
        decode(cls, payload)
    assert says in failed.value.what
    assert failed.value.what.startswith(cls.__name__)
    assert failed.value.expected == (expected or f"{cls.__name__} as UTF-8 JSON")


def nested(depth: int) -> bytes:
    return b'{"value":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize("cls", [Anything, Order, ModelOrder])
def test_depth_is_bounded_before_decoding(cls: type) -> None:
    assert decode(Anything, nested(DEPTH_MAX)) is not None
    for payload in (
        nested(DEPTH_MAX + 1),
        nested(1_000_000),
        b"[" * VALUE_BYTES_MAX,
        b'{"a":' * 1_000_000,
        b'["]]]",' * 200 + b"[" * 200,
    ):
        with pytest.raises(DecodeFailed, match="too deep"):
            decode(cls, payload)


def test_wide_is_not_deep() -> None:
    wide = b'{"value":[' + b'{"a":["}{]["]},' * 10_000 + b"0]}"
    assert len(decode(Anything, wide).value) == 10_001


def test_size_is_bounded_both_ways() -> None:
    with pytest.raises(DecodeFailed, match=f"{VALUE_BYTES_MAX + 1} bytes"):
        decode(Anything, b" " * (VALUE_BYTES_MAX + 1))
    with pytest.raises(BadEvent, match="bytes of JSON"):
        encode(Anything("x" * VALUE_BYTES_MAX))
    assert len(encode(Anything("x" * (VALUE_BYTES_MAX - 12)))) == VALUE_BYTES_MAX


@dataclass(frozen=True)
class Strict:
    count: Annotated[int, msgspec.Meta(ge=0, lt=10)] = 0
    at: Annotated[datetime, msgspec.Meta(tz=True)] = datetime(2026, 1, 31, tzinfo=UTC)
    lines: tuple[Line, ...] = ()


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        (Strict(count=10), "$.count"),
        (Strict(count=True), "$.count"),
        (Strict(at=datetime(2026, 1, 31)), "$.at"),  # noqa: DTZ001  (without a zone: that is it)
        (Strict(lines=(Line("tea", 1.5),)), "$.lines[0].cents"),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_what_its_own_class_could_not_read_is_not_written(wrong: Strict, where: str) -> None:
    """A dataclass looks at nothing: without this, every consumer would park what came of it."""
    with pytest.raises(BadEvent, match=re.escape(f"Strict at {where}: ")):
        encode(wrong)


class Opaque:
    pass


def deep(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"a": [1, Opaque()]}, "$.value['a'][1]: a Opaque"),
        ([Line("x", 1), Line("\ud800", 1)], "$.value[1].name: text with a lone surrogate"),
        ([0.5, float("nan")], "$.value[1]: nan"),
        ({"rate": float("-inf")}, "$.value['rate']: -inf"),
        (deep(DEPTH_MAX), "too deep"),
        (deep(100_000), "too deep"),
    ],
)
def test_what_cannot_be_written_is_named(value: Any, says: str) -> None:
    with pytest.raises(BadEvent) as refused:
        encode(Anything(value))
    assert says in refused.value.what
    assert refused.value.what.startswith("Anything")


def test_a_model_that_holds_other_types_than_it_says_is_refused() -> None:
    broken = ModelLine.model_construct(name=["no", "text"], cents=Opaque())
    with pytest.raises(BadEvent, match="ModelLine"):
        encode(broken)


def test_a_class_without_a_codec_is_found_when_it_is_declared() -> None:
    @dataclass
    class Holds:
        value: complex | dict[tuple[int, int], str] | Opaque | StructLine | Line

    with pytest.raises(ConfigurationError, match="Holds cannot be an event"):
        codec_of(Holds)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_fail_as_decode_failed(payload: bytes) -> None:
    for cls in (Order, StructOrder, ModelOrder, CheckedOrder):
        try:
            decode(cls, payload)
        except DecodeFailed:
            pass


def test_flipped_and_cut_payloads_raise_nothing_else(rng: random.Random) -> None:
    payload = encode(ORDERS[0])
    for _ in range(5_000):
        damaged = bytearray(payload[: rng.randint(0, len(payload))])
        if damaged:
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        try:
            decode(Order, bytes(damaged))
        except DecodeFailed as failed:
            assert failed.what.startswith("Order")  # noqa: PT017


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_json_values_survive(value: Any) -> None:
    try:
        payload = encode(Anything(value))
    except BadEvent:
        assert "\\ud" in ascii(value)  # a lone surrogate is no text
    else:
        assert decode(Anything, payload).value == value
