"""A shop that emits events, and a billing that handles them.

Relay and consume: oncebox run --migrate
Place an order:    python services.py o-1 1250

Here it needs no server. On PostgreSQL, SQL has %s in place of ?.
"""

import sqlite3
import sys
from dataclasses import dataclass

from oncebox import Service, event


@event("order.placed", stream="orders", key="order_id", version=1)
@dataclass(frozen=True)
class OrderPlaced:
    """What the two services agree on."""

    order_id: str
    cents: int


shop = Service("shop", store="sqlite:///shop.db", log="sqlite:///events.db")
billing = Service("billing", store="sqlite:///billing.db", log="sqlite:///events.db")


@billing.on(OrderPlaced)
def owe(tx: sqlite3.Connection, placed: OrderPlaced) -> None:
    """Runs inside one transaction of billing's database, once per order."""
    tx.execute("CREATE TABLE IF NOT EXISTS owed (order_id TEXT, cents INTEGER)")
    tx.execute("INSERT INTO owed VALUES (?, ?)", (placed.order_id, placed.cents))


def place(order_id: str, cents: int) -> None:
    """The event exists if and only if the order does."""
    connection = sqlite3.connect("shop.db")
    connection.execute("CREATE TABLE IF NOT EXISTS orders (order_id TEXT, cents INTEGER)")
    with connection:
        connection.execute("INSERT INTO orders VALUES (?, ?)", (order_id, cents))
        shop.emit(connection, OrderPlaced(order_id, cents))
    connection.close()


if __name__ == "__main__":
    place(sys.argv[1], int(sys.argv[2]))
