"""Handlers get events in the version of their class: the real consumer, on SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from oncebox import Service, add, event, evolve, remove, rename, split, wrap
from oncebox.lens.chain import declared
from oncebox.migrate import migrate
from oncebox.program import drive
from oncebox.stores.adapt import open_store
from oncebox.testing import drain


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


@event("order.placed", stream="orders", key="order_id", version=3)
class Placed3(BaseModel):
    order_id: str
    amount: Amount
    first: str
    last: str
    channel: str = "web"


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
        store = open_store(self.store)
        session = drive(iter_open(store))
        drive(migrate(session))
        session.close()
        with closing(sqlite3.connect(self.path)) as tx:
            tx.execute("CREATE TABLE seen (what TEXT)")

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


def iter_open(store: Any) -> Any:
    session = yield store.open, ()
    return session


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_an_older_event_is_read_as_the_handler_names_it(shop: Shop) -> None:
    billing = shop.billing()
    billing.on(Placed2)(note)
    shop.emit(Placed1("o-1", 1250, "ada"), Placed2("o-1", Amount(7, "USD"), "bob"))
    assert drain(shop.shop, billing) == []
    both = Placed2("o-1", Amount(1250, "EUR"), "ada"), Placed2("o-1", Amount(7, "USD"), "bob")
    assert shop.seen == [*map(repr, both)]


def test_a_newer_event_is_read_as_the_handler_names_it(shop: Shop) -> None:
    billing = shop.billing()
    billing.on(Placed1)(note)
    shop.emit(Placed2("o-1", Amount(1250, "USD"), "ada"), Placed1("o-1", 7, "bob"))
    assert drain(shop.shop, billing) == []
    assert shop.seen == [repr(Placed1("o-1", 1250, "ada")), repr(Placed1("o-1", 7, "bob"))]


@pytest.mark.parametrize("batches", [False, True])
def test_over_two_steps_into_a_pydantic_model(shop: Shop, batches: bool) -> None:
    evolve("order.placed", 2, 3, split("customer", into=("first", "last")))
    billing = shop.billing()
    if batches:
        billing.on_batch(Placed3)(note_all)
    else:
        billing.on(Placed3)(note)
    shop.emit(Placed1("o-1", 1250, "ada lovelace"))
    assert drain(shop.shop, billing) == []
    amount = Amount(1250, "EUR")
    expected = Placed3(order_id="o-1", amount=amount, first="ada", last="lovelace")
    assert shop.seen == [repr(expected)]


def test_what_nothing_leads_to_waits_and_a_lens_releases_it_in_order(shop: Shop) -> None:
    billing = shop.billing()
    billing.on(Placed2)(note_customer)
    shop.emit(
        Placed2("o-1", Amount(1, "EUR"), "one"),
        Placed3(order_id="o-1", amount=Amount(2, "EUR"), first="two", last="x"),
        Placed2("o-1", Amount(3, "EUR"), "three"),
        Placed2("o-2", Amount(4, "EUR"), "other key"),
    )
    (waiting,) = drain(shop.shop, billing)
    assert waiting.key == "o-1" and "deploy me" in str(waiting.reason)
    assert shop.seen == ["'one'", "'other key'"]
    evolve(
        "order.placed", 2, 3, split("customer", into=("first", "last")),
        add("channel", default="web"),
    )  # fmt: skip
    redriven(shop, "o-1")
    assert drain(shop.shop, billing) == []
    assert shop.seen == ["'one'", "'other key'", "'two x'", "'three'"]


def redriven(shop: Shop, key: str) -> None:
    from oncebox.cli import main

    assert main(["redrive", "billing", "--key", key, "--store", shop.store]) in (0, None)


def test_an_event_that_its_version_could_not_have_waits_with_the_reason(shop: Shop) -> None:
    billing = shop.billing()
    billing.on(Placed2)(note)
    evolve("order.placed", 2, 3, remove("channel", default="x"))
    shop.emit(Placed1("o-1", "many", "ada"))  # type: ignore[arg-type]
    (waiting,) = drain(shop.shop, billing)
    assert "$.amount.minor" in str(waiting.reason)
