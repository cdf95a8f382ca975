"""A producer of orders in three versions, and consumers of them, on SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from oncebox import Service, add, event, evolve, rename, wrap
from oncebox.cli import main
from oncebox.lens.chain import declared
from oncebox.outbox import void
from oncebox.program import drive
from oncebox.statements import statements
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate


@event("order.placed", stream="orders", key="order_id", version=1)
@dataclass(frozen=True)
class Placed1:
    order_id: str
    cents: int
    cust: str


@dataclass(frozen=True)
class Amount:
    minor: int
    currency: str


@event("order.placed", stream="orders", key="order_id", version=2)
@dataclass(frozen=True)
class Placed2:
    order_id: str
    amount: Amount
    customer: str


class Money(BaseModel):
    minor: int
    currency: str


@event("order.placed", stream="orders", key="order_id", version=3)
class Placed3(BaseModel):
    order_id: str
    amount: Money
    first: str
    last: str
    channel: str = "web"


@event("order.shipped", stream="orders", key="order_id", version=1)
@dataclass(frozen=True)
class Other:
    order_id: str
    boxes: int


@event("order.placed", stream="orders.v1", key="order_id", version=2)
@dataclass(frozen=True)
class On1:
    """Version 2 from the legacy topic."""

    order_id: str
    amount: Amount
    customer: str


@pytest.fixture(autouse=True)
def lenses() -> Iterator[None]:
    """What this module declares, and nothing else, for a test."""
    before = dict(declared.edges)
    declared.edges.clear()
    declared.forget()
    evolve(
        "order.placed", 1, 2, wrap("cents", into="amount.minor"),
        add("amount.currency", default="EUR"), rename("cust", "customer"),
    )  # fmt: skip
    yield
    declared.learn((), ())
    declared.look_again = lambda: False
    declared.edges.clear()
    declared.edges.update(before)
    declared.forget()


class Shop:
    """A producer and one consumer, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.store = f"sqlite:///{folder}/store.db"
        self.log = f"sqlite:///{folder}/log.db"
        self.path = folder / "store.db"
        self.shop = Service("shop", store=self.store, log=self.log)
        self.migrate(self.store)
        with closing(sqlite3.connect(self.path)) as tx:
            tx.execute("CREATE TABLE seen (what TEXT)")

    @staticmethod
    def migrate(url: str) -> None:
        session = drive(iter_open(open_store(url)))
        drive(migrate(session))
        session.close()

    def do(self, program: Any) -> None:
        """A program on the shop's own store."""
        session = drive(iter_open(open_store(self.store)))
        drive(program(session, statements(session.dialect)))
        session.close()

    def erase(self, key: str, sequence: int) -> None:
        self.do(
            lambda session, sql: transacted(
                session, void(session, sql, "/shop/orders", key, sequence)
            )
        )

    def retry_refused(self) -> None:
        """What the relay tries again within a minute, it tries now."""
        with closing(sqlite3.connect(self.path)) as tx:
            tx.execute("UPDATE oncebox_refused SET retry_at = 0")
            tx.commit()

    @property
    def seen(self) -> list[str]:
        """What handlers had, as they wrote it."""
        with closing(sqlite3.connect(self.path)) as tx:
            return [what for (what,) in tx.execute("SELECT what FROM seen ORDER BY rowid")]

    def emit(self, *events: object) -> None:
        with closing(sqlite3.connect(self.path)) as tx:
            for one in events:
                tx.execute("BEGIN")
                self.shop.emit(tx, one)
                tx.commit()

    def billing(self) -> Service:
        return Service("billing", store=self.store, log=self.log)


def note(tx: Any, placed: Any) -> None:
    tx.execute("INSERT INTO seen VALUES (?)", (repr(placed),))


def note_all(tx: Any, listed: list[Any]) -> None:
    for placed in listed:
        note(tx, placed)


def note_customer(tx: Any, placed: Placed2) -> None:
    note(tx, placed.customer)


def placed3(order_id: str, minor: int, first: str, last: str) -> Placed3:
    return Placed3(
        order_id=order_id, amount=Money(minor=minor, currency="EUR"), first=first, last=last
    )  # fmt: skip


def transacted(session: Any, program: Any) -> Any:
    yield session.begin, ()
    yield from program
    yield session.commit, ()


def iter_open(store: Any) -> Any:
    session = yield store.open, ()
    return session


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def redriven(shop: Shop, key: str) -> None:
    assert main(["redrive", "billing", "--key", key, "--store", shop.store]) in (0, None)
