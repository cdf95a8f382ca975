"""Event classes with every type that an event may have, in the three kinds of classes."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Annotated, Literal, NewType

import pydantic
from msgspec import UNSET, Meta, Struct, UnsetType

from oncebox import event
from oncebox.schema import Aware, Digits, Tag

Cents = NewType("Cents", int)


class Channel(enum.StrEnum):
    """Where it was ordered."""

    WEB = "web"
    SHOP = "shop"


class Carrier(enum.Enum):
    POST = "post"
    OTHER = "other"

    @classmethod
    def _missing_(cls, value: object) -> Carrier:
        return cls.OTHER


class Card(Struct, tag="card", tag_field="by"):
    number: Annotated[str, Tag(pii=True)]


class Cash(Struct, tag="cash", tag_field="by"):
    pass


@dataclass
class Part:
    name: str
    parts: list[Part] = field(default_factory=list)


class Everything(Struct, kw_only=True):
    """All there is."""

    whole: int
    small: Annotated[int, Meta(ge=0, lt=256)]
    cents: Cents
    ratio: float
    yes: bool
    text: Annotated[str, Tag(pii=True, deprecated="use `note`", doc="What they wrote.")]
    raw: bytes
    price: Annotated[Decimal, Digits(12, 2)]
    id: uuid.UUID
    day: date
    at: time
    moment: Aware
    span: timedelta
    channel: Channel
    carrier: Carrier
    level: Literal["low", "high"] | None
    note: str | None = None
    reason: str | UnsetType | None = UNSET
    rows: list[list[int]]
    pair: tuple[float, ...]
    kinds: set[str]
    frozen: frozenset[Channel] = frozenset({Channel.WEB})
    counts: dict[str, int]
    part: Part
    paid: Card | Cash
    refunds: list[Card | Cash] = []
    lone: Card | None = None


@event("all.dataclass", stream="all", key=("id", "cents"), version=3)
@dataclass(frozen=True, kw_only=True)
class AllDataclass:
    whole: int
    small: Annotated[int, Meta(ge=0, lt=256)] = 7
    cents: Cents
    ratio: float = 0.5
    text: Annotated[str, Tag(pii=True)]
    raw: bytes = b"\xff\x00"
    price: Annotated[Decimal, Digits(12, 2)] = Decimal("1.50")
    id: uuid.UUID
    day: date = date(2026, 1, 31)
    at: time
    moment: Aware
    span: timedelta = timedelta(days=1, seconds=2.5)
    carrier: Carrier = Carrier.POST
    level: Literal["low", "high"] = "low"
    reason: str | UnsetType | None = UNSET
    rows: list[list[int]] = field(default_factory=list)
    kinds: set[str] = field(default_factory=lambda: {"b", "a"})
    counts: dict[str, int] = field(default_factory=dict)
    part: Part
    paid: Card | Cash
    whole_of: Everything | None = None


@event("all.struct", stream="all", key="id")
class AllStruct(Everything, rename="camel", omit_defaults=True):
    customer_no: Annotated[str, Tag(pii=True)] = ""


class Transfer(pydantic.BaseModel):
    by: Literal["transfer"]
    iban: Annotated[str, Tag(pii=True)]


class Voucher(pydantic.BaseModel):
    by: Literal["voucher"] = "voucher"
    worth: pydantic.PositiveInt


class Node(pydantic.BaseModel):
    name: str
    nodes: list[Node] = []


@event("all.pydantic", stream="all", key=None)
class AllPydantic(pydantic.BaseModel):
    whole: int = pydantic.Field(ge=0, alias="wholeNumber", description="How many.")
    ratio: float
    yes: bool = True
    text: str = pydantic.Field(deprecated="old")
    raw: pydantic.Base64Bytes
    price: Decimal = pydantic.Field(max_digits=12, decimal_places=2)
    other: Annotated[Decimal, Digits(6, 3)] = Decimal("0.125")
    id: uuid.UUID
    day: date
    at: time
    moment: pydantic.AwareDatetime
    channel: Channel = Channel.WEB
    carrier: Carrier
    level: Literal["low", "high"] | None = None
    note: str | pydantic.MISSING = pydantic.MISSING  # pyright: ignore[reportGeneralTypeIssues]
    rows: list[list[int]] = []
    kinds: set[str] = {"b", "a"}
    counts: dict[str, Annotated[int, pydantic.Field(le=9)]] = {}
    node: Node
    paid: Transfer | Voucher = pydantic.Field(discriminator="by")
    refunds: list[Annotated[Transfer | Voucher, pydantic.Field(discriminator="by")]] = []


ALL = (AllDataclass, AllStruct, AllPydantic)
