"""The shop's service: what it tells, and what it does about it."""

import os
from dataclasses import dataclass
from typing import Any

from oncebox import Context, Service, event

from .models import Account


@event("order.placed", stream="orders", key="customer")
@dataclass(frozen=True)
class OrderPlaced:
    customer: str
    number: int
    cents: int


shop = Service("shop", store="django://default", log=os.environ["SHOP_LOG"])


@shop.on(OrderPlaced)
def owe(connection: Any, placed: OrderPlaced, context: Context[str]) -> None:
    account, _ = Account.objects.get_or_create(
        customer=placed.customer, defaults={"currency": context.state}
    )
    account.owed += placed.cents
    account.orders += f" {placed.number}"
    account.save()


def currency() -> str:
    return "EUR"
