"""The helpers for users' own tests, on real stores."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chains import Noted, Opened, Paid, make_store
from oncebox import Context, Service, foreign
from oncebox.errors import BadRecord, DecodeFailed, NotFound
from oncebox.event import event
from oncebox.testing import deliver, deliver_async, drain, drain_async, emitted, record


@event("order.back", stream="back", key="order")
@dataclass(frozen=True)
class Back:
    order: str
    note: str


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    return make_store(request.param, tmp_path, url)


def service_on(store: Any, tmp_path: Path) -> Service:
    url = f"sqlite:///{tmp_path}/store.db" if store.dialect == "sqlite" else store.url
    return Service("billing", store=url)


def test_deliver_runs_the_handlers_in_order_of_the_calls(store: Any, tmp_path: Path) -> None:
    billing = service_on(store, tmp_path)
    insert = "INSERT INTO ledger (who, what) VALUES (?, ?)"
    insert = insert if store.dialect == "sqlite" else insert.replace("?", "%s")

    @billing.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        tx.execute(insert, (paid.order, paid.cents))
        billing.emit(tx, Noted(paid.order, "paid"))

    @billing.on(Opened)
    def opened(tx: Any, event: Opened, context: Context[str]) -> None:
        tx.execute(insert, (context.state, context.once("double", lambda _: event.cents * 2)))

    deliver(billing, Paid("a", 1), Paid("a", 2))
    deliver(billing, Paid("a", 3))
    deliver(billing, Opened(5), state="the state")
    session = store.open()
    rows = session.run("SELECT who, what FROM ledger ORDER BY n")
    assert [tuple(r) for r in rows] == [("a", 1), ("a", 2), ("a", 3), ("the state", 10)]
    found = emitted(session.handle)
    assert [(e.type, e.key, e.data["note"]) for e in found] == [("order.noted", "a", "paid")] * 3
    session.close()


def test_deliver_raises_what_the_handler_raises(store: Any, tmp_path: Path) -> None:
    billing = service_on(store, tmp_path)

    @billing.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        raise ZeroDivisionError("as the handler said")

    with pytest.raises(ZeroDivisionError, match="as the handler said"):
        deliver(billing, Paid("a", 1))
    with pytest.raises(NotFound, match="no handler"):
        deliver(billing, Noted("a", "x"))


@dataclass(frozen=True)
class Payment:
    order: str
    cents: int


@pytest.mark.parametrize(
    "places", [{}, {"id": "header:x-id"}, {"key": "$.order"}, {"id": "$.order", "key": "key"}]
)
def test_deliver_takes_records_of_topics_that_others_write(
    store: Any, tmp_path: Path, places: dict[str, Any]
) -> None:
    billing = service_on(store, tmp_path)
    insert = "INSERT INTO ledger (who, what) VALUES (?, ?)"
    insert = insert if store.dialect == "sqlite" else insert.replace("?", "%s")

    @billing.on(foreign("legacy.payments", Payment, **places))
    def settle(tx: Any, payment: Payment) -> None:
        tx.execute(insert, (payment.order, payment.cents))

    def payment(order: str, cents: int) -> Any:
        value = f'{{"order": "{order}", "cents": {cents}}}'.encode()
        return record("legacy.payments", value, key=b"k", headers=[("x-id", order)])

    deliver(billing, payment("a", 1), payment("b", 2))
    deliver(billing, payment("c", 3))
    if "id" in places:
        deliver(billing, payment("a", 1))  # a duplicate
    session = store.open()
    rows = session.run("SELECT who, what FROM ledger ORDER BY n")
    assert [tuple(r) for r in rows] == [("a", 1), ("b", 2), ("c", 3)]
    session.close()
    with pytest.raises(DecodeFailed, match="cents"):
        deliver(billing, record("legacy.payments", b'{"order": "d"}', key=b"k",
                                headers=[("x-id", "d")]))  # fmt: skip
    with pytest.raises(NotFound, match="topic other"):
        deliver(billing, record("other", b"{}"))
    if "id" in places:
        with pytest.raises(BadRecord):
            deliver(billing, record("legacy.payments", b"no JSON", key=b"k"))


def test_deliver_awaits_coroutine_handlers(store: Any, tmp_path: Path) -> None:
    billing = service_on(store, tmp_path)
    insert = "INSERT INTO ledger (who, what) VALUES (?, ?)"
    insert = insert if store.dialect == "sqlite" else insert.replace("?", "%s")

    @billing.on(Paid)
    async def pay(tx: Any, paid: Paid) -> None:
        await tx.execute(insert, (paid.order, paid.cents))

    asyncio.run(deliver_async(billing, Paid("a", 1)))
    session = store.open()
    assert [tuple(r) for r in session.run("SELECT who, what FROM ledger")] == [("a", 1)]
    session.close()


def test_drain_publishes_and_consumes_until_all_is_quiet(store: Any, tmp_path: Path) -> None:
    """Two services: what the second emits comes back to the first one's other consumer."""
    log = f"sqlite:///{tmp_path}/log.db"
    billing = service_on(store, tmp_path)
    billing.log = log
    shop = Service("shop", store=billing.store, log=log)
    insert = "INSERT INTO ledger (who, what) VALUES (?, ?)"
    insert = insert if store.dialect == "sqlite" else insert.replace("?", "%s")
    broken = {"bad"}

    @billing.on(Paid)
    def pay(tx: Any, paid: Paid, context: Context[str]) -> None:
        if paid.order in broken:
            raise ValueError("no account")
        tx.execute(insert, (paid.order, paid.cents))
        billing.emit(tx, Back(paid.order, context.state))

    @shop.consumer("mail").on(Back)
    def note(tx: Any, back: Back) -> None:
        tx.execute(insert, (f"{back.order}: {back.note}", 0))

    session = store.open()
    session.begin()
    for order in ("a", "bad", "b"):
        shop.emit(session.handle, Paid(order, 1))
        shop.emit(session.handle, Paid(order, 2))
    session.commit()
    left = drain(shop, billing, state="thanks")
    ((key, reason),) = [(one.key, one.reason) for one in left]
    assert key == "bad"
    assert re.fullmatch(rf"ValueError: no account \({__name__}:\d+\)", str(reason))
    counted = "SELECT who, count(*) FROM ledger GROUP BY who ORDER BY who"
    rows = [tuple(row) for row in session.run(counted)]
    assert rows == [("a", 2), ("a: thanks", 2), ("b", 2), ("b: thanks", 2)]
    assert len(drain(shop, billing, state="thanks")) == 1
    assert [tuple(row) for row in session.run(counted)] == rows
    session.close()


def test_drain_awaits_coroutine_handlers(store: Any, tmp_path: Path) -> None:
    billing = service_on(store, tmp_path)
    billing.log = f"sqlite:///{tmp_path}/log.db"
    insert = "INSERT INTO ledger (who, what) VALUES (?, ?)"
    insert = insert if store.dialect == "sqlite" else insert.replace("?", "%s")

    @billing.on(Paid)
    async def pay(tx: Any, paid: Paid) -> None:
        await tx.execute(insert, (paid.order, paid.cents))

    session = store.open()
    session.begin()
    billing.emit(session.handle, Paid("a", 1))
    session.commit()
    assert asyncio.run(drain_async(billing)) == []
    assert [tuple(r) for r in session.run("SELECT who, what FROM ledger")] == [("a", 1)]
    session.close()
