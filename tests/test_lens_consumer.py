"""Handlers get events in the version of their class: the real consumer, on SQLite."""

from __future__ import annotations

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
from oncebox import add, evolve, remove, split
from oncebox.testing import drain

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
    shop.emit(Placed1("o-1", "many", "ada"))  # type: ignore[arg-type]
    (waiting,) = drain(shop.shop, billing)
    assert "$.amount.minor" in str(waiting.reason)
