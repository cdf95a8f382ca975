"""What the services of the shop tell each other. Both halves of the demo use these events.

An order has lines; a customer may send a line back. Returns travel on a stream of their own, keyed
by line, so nothing but `after=` puts a return behind its order.
"""

from __future__ import annotations

from dataclasses import dataclass

from oncebox import event


@event("order.placed", stream="orders", key="order_id")
@dataclass(frozen=True)
class Ordered:
    """A customer orders something: a new line of an order."""

    order_id: str
    line: int
    sku: str
    quantity: int
    cents: int


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
