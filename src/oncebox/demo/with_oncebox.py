"""The shop with oncebox. This file is all there is to it; `without.py` is the same shop by hand.

Run it like this: `oncebox run shop payments stock shipping`, as many processes as you like.
"""

# ruff: noqa: D103 - the names of these functions say it

from __future__ import annotations

import os
from sqlite3 import Connection
from uuid import UUID

from oncebox import Emitted, Service, Settings

from .contracts import Ordered, Ordered2, Paid, Refunded, Returned, Sent, in_version_2
from .tables import sql  # writes ? as %s when the demo runs on PostgreSQL

LOG = os.environ.get("DEMO_LOG", "sqlite:///events.db")
STORE = os.environ.get("DEMO_STORE")
QUICK = Settings(lease_s=1.0, backoff_s=0.1)  # so many processes die here: be quick to take over

shop = Service("shop", store=STORE or "sqlite:///shop.db", log=LOG, settings=QUICK)
payments = Service("payments", store=STORE or "sqlite:///payments.db", log=LOG, settings=QUICK)
stock = Service("stock", store=STORE or "sqlite:///stock.db", log=LOG, settings=QUICK)
shipping = Service("shipping", store=STORE or "sqlite:///shipping.db", log=LOG, settings=QUICK)


# ---- what customers do, each in one transaction of the shop's database


def order(tx: Connection, ordered: Ordered, version: int) -> None:
    tx.execute(
        sql("INSERT INTO line (order_id, line, sku, quantity, cents) VALUES (?, ?, ?, ?, ?)"),
        (ordered.order_id, ordered.line, ordered.sku, ordered.quantity, ordered.cents),
    )
    shop.emit(tx, ordered if version == 1 else in_version_2(ordered))


def send_back(tx: Connection, returned: Returned) -> None:
    known = tx.execute(
        sql("UPDATE line SET returned = 1 WHERE order_id = ? AND line = ?"),
        (returned.order_id, returned.line),
    )
    if known.rowcount:
        shop.emit(tx, returned, after=last_event_of(returned.order_id))


def last_event_of(order_id: str) -> Emitted:
    # An earlier request emitted it; its source and key are all that `after=` needs.
    return Emitted(UUID(int=0), shop.source("orders"), order_id)


# ---- what services do about it, each in one transaction of their own database


@payments.on(Ordered)
def charge(tx: Connection, ordered: Ordered) -> None:
    tx.execute(
        sql("INSERT INTO ledger (what, order_id, line, cents) VALUES ('charge', ?, ?, ?)"),
        (ordered.order_id, ordered.line, ordered.cents),
    )
    payments.emit(tx, Paid(ordered.order_id, ordered.line, ordered.cents))


@payments.on(Returned)
def refund(tx: Connection, returned: Returned) -> None:
    tx.execute(
        sql("INSERT INTO ledger (what, order_id, line, cents) VALUES ('refund', ?, ?, ?)"),
        (returned.order_id, returned.line, returned.cents),
    )
    payments.emit(tx, Refunded(returned.order_id, returned.line, returned.cents))


@stock.on(Ordered2)
def take(tx: Connection, ordered: Ordered2) -> None:
    tx.execute(
        sql("UPDATE shelf SET pieces = pieces - ? WHERE sku = ?"), (ordered.quantity, ordered.sku)
    )


@stock.on(Returned)
def put_back(tx: Connection, returned: Returned) -> None:
    tx.execute(
        sql("UPDATE shelf SET pieces = pieces + ? WHERE sku = ?"), (returned.quantity, returned.sku)
    )


@shipping.on(Paid)
def send(tx: Connection, paid: Paid) -> None:
    tx.execute(
        sql("INSERT INTO parcel (order_id, line, cents) VALUES (?, ?, ?)"),
        (paid.order_id, paid.line, paid.cents),
    )
    shipping.emit(tx, Sent(paid.order_id, paid.line))


@shop.on(Sent)
def note(tx: Connection, sent: Sent) -> None:
    tx.execute(
        sql("UPDATE line SET sent = 1 WHERE order_id = ? AND line = ?"), (sent.order_id, sent.line)
    )
