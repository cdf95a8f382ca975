"""Handlers get events in the version of their class: the real consumer, on SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import psycopg
import pytest

from lensing import (
    Amount,
    Placed1,
    Placed2,
    Placed3,
    Shop,
    lenses,
    note,
    note_all,
    note_customer,
    placed3,
    redriven,
    shop,
)
from oncebox import Service, add, evolve, remove, split
from oncebox.cli import main
from oncebox.testing import drain, drain_async

__all__ = ["lenses", "shop"]


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
    assert shop.seen == [repr(placed3("o-1", 1250, "ada", "lovelace"))]


def test_what_nothing_leads_to_waits_and_a_lens_releases_it_in_order(shop: Shop) -> None:
    billing = shop.billing()
    billing.on(Placed2)(note_customer)
    shop.emit(
        Placed2("o-1", Amount(1, "EUR"), "one"),
        placed3("o-1", 2, "two", "x"),
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


def test_an_event_that_its_version_could_not_have_waits_with_the_reason(shop: Shop) -> None:
    billing = shop.billing()
    billing.on(Placed2)(note)
    evolve("order.placed", 2, 3, remove("channel", default="x"))
    shop.emit(Placed1("o-1", 12345, "ada"))
    with closing(sqlite3.connect(shop.path)) as tx:  # what emit would refuse, others may write
        wrong = b'{"order_id":"o-1","cents":"many","cust":"ada"}'
        tx.execute("UPDATE oncebox_event SET data = ?", (wrong,))
        tx.commit()
    (waiting,) = drain(shop.shop, billing)
    assert "$.amount.minor" in str(waiting.reason)


def on_postgres(url: str, log: str) -> tuple[Service, Service]:
    """A shop and a billing that share a database, with versions 1, 2 and 3 of an order emitted."""
    evolve(
        "order.placed", 2, 3, split("customer", into=("first", "last")),
        add("channel", default="web"),
    )  # fmt: skip
    Shop.migrate(url)
    sold = Service("shop", store=url, log=log)
    with psycopg.connect(url) as tx:
        tx.execute("CREATE TABLE seen (n serial, what text)")
        sold.emit(tx, Placed1("o-1", 1, "one"))
        sold.emit(tx, Placed2("o-1", Amount(2, "USD"), "two"))
        sold.emit(tx, placed3("o-1", 3, "three", "x"))
        sold.emit(tx, placed3("o-2", 4, "four", ""))
    return sold, Service("billing", store=url, log=log)


def noted(url: str) -> list[str]:
    with psycopg.connect(url) as tx:
        return [what for (what,) in tx.execute("SELECT what FROM seen ORDER BY n")]


SEEN = ["Amount(minor=1, currency='EUR')", "Amount(minor=2, currency='USD')",
        "Amount(minor=3, currency='EUR')"]  # fmt: skip


def test_side_by_side_on_postgres(shop: Shop, postgres_url: str) -> None:
    sold, billing = on_postgres(postgres_url, shop.log)

    @billing.consumer(concurrency=4).on(Placed2)
    def note_amount(tx: Any, placed: Placed2) -> None:
        if placed.order_id == "o-1":
            tx.execute("INSERT INTO seen (what) VALUES (%s)", (repr(placed.amount),))

    assert drain(sold, billing) == []
    assert noted(postgres_url) == SEEN


async def test_coroutines_on_postgres(shop: Shop, postgres_url: str) -> None:
    sold, billing = on_postgres(postgres_url, shop.log)

    @billing.on(Placed2)
    async def note_amount(tx: Any, placed: Placed2) -> None:
        if placed.order_id == "o-1":
            await tx.execute("INSERT INTO seen (what) VALUES (%s)", (repr(placed.amount),))

    assert await drain_async(sold, billing) == []
    assert noted(postgres_url) == SEEN


def test_an_audit_of_translated_events_is_clean(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    """Digests are those of what was emitted, whichever version a handler had of it."""
    billing = shop.billing()
    billing.on(Placed2)(note)
    shop.shop.legacy("orders.v1", of="orders", versions={"order.placed": 1})
    shop.emit(Placed1("o-1", 1, "ada"), Placed2("o-1", Amount(2, "USD"), "bob"))
    assert drain(shop.shop, billing) == []
    arguments = ("--younger-s", "-60", "--store", shop.store, "--log", shop.log)
    assert main(["audit", *arguments]) == 0, capsys.readouterr().out


def test_a_rebuild_translates_again(shop: Shop) -> None:
    billing = shop.billing()
    billing.on(Placed2)(note)
    shop.emit(Placed1("o-1", 1, "ada"))
    assert drain(shop.shop, billing) == []
    arguments = ("--clear", "DELETE FROM seen", "--store", shop.store, "--log", shop.log, "--yes")
    assert main(["rebuild", "billing", *arguments]) == 0
    assert shop.seen == []
    assert drain(billing) == []
    assert shop.seen == [repr(Placed2("o-1", Amount(1, "EUR"), "ada"))]
