"""What the services of the shop tell each other. Both halves of the demo use these events.

An order has lines; a customer may send a line back. Returns travel on a stream of their own, keyed
by line, so nothing but `after=` puts a return behind its order.

In mid-run the shop moves to version 2 of its orders. Stock is written for version 2 from the
beginning, payments for version 1 to the end.
"""

from __future__ import annotations

from dataclasses import dataclass

from oncebox import add, event, evolve, wrap


@event("order.placed", stream="orders", key="order_id")
@dataclass(frozen=True)
class Ordered:
    """A customer orders something: a new line of an order."""

    order_id: str
    line: int
    sku: str
    quantity: int
    cents: int


@dataclass(frozen=True)
class Amount:
    """Money, now with its currency."""

    minor: int
    currency: str


@event("order.placed", stream="orders", key="order_id", version=2)
@dataclass(frozen=True)
class Ordered2:
    """Version 2 of the same."""

    order_id: str
    line: int
    sku: str
    quantity: int
    amount: Amount


evolve(
    "order.placed", 1, 2,
    wrap("cents", into="amount.minor"), add("amount.currency", default="EUR"),
)  # fmt: skip


def in_version_2(ordered: Ordered) -> Ordered2:
    """What the shop says of an order once it has moved."""
    amount = Amount(ordered.cents, "EUR")
    return Ordered2(ordered.order_id, ordered.line, ordered.sku, ordered.quantity, amount)


@event("order.returned", stream="returns", key=("order_id", "line"))
@dataclass(frozen=True)
class Returned:
    """A customer sends a line back."""

    order_id: str
    line: int
    sku: str
    quantity: int
    cents: int


@event("payment.taken", stream="payments", key="order_id")
@dataclass(frozen=True)
class Paid:
    """The customer was charged for a line."""

    order_id: str
    line: int
    cents: int


@event("payment.refunded", stream="payments", key="order_id")
@dataclass(frozen=True)
class Refunded:
    """The customer has the money for a line back."""

    order_id: str
    line: int
    cents: int


@event("parcel.sent", stream="parcels", key="order_id")
@dataclass(frozen=True)
class Sent:
    """A line is on its way."""

    order_id: str
    line: int


STREAMS = ("orders", "returns", "payments", "parcels")
