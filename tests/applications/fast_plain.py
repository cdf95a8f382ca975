"""The same shop with plain functions and a plain engine: handlers run in a thread."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import Connection, create_engine, text

from oncebox import Context, Service, event

engine = create_engine(os.environ["SHOP_DATABASE"])

TABLES = """
create table if not exists placed (number integer, customer text, cents integer);
create table if not exists account (
  customer text primary key, owed integer not null, orders text not null, currency text not null)
"""


@event("order.placed", stream="orders", key="customer")
@dataclass(frozen=True)
class OrderPlaced:
    customer: str
    number: int
    cents: int


shop = Service("shop", store=engine, log=os.environ["SHOP_LOG"])


@shop.on(OrderPlaced)
def owe(tx: Connection, placed: OrderPlaced, context: Context[str]) -> None:
    tx.execute(
        text(
            "insert into account values (:customer, :cents, :number, :currency)"
            " on conflict (customer) do update set owed = account.owed + excluded.owed,"
            " orders = account.orders || ' ' || excluded.orders"
        ),
        {"customer": placed.customer, "cents": placed.cents, "number": str(placed.number),
         "currency": context.state},
    )  # fmt: skip


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    with engine.begin() as tx:
        for statement in TABLES.split(";"):
            tx.execute(text(statement))
    async with shop.running(state="EUR"):
        yield
    engine.dispose()


def transaction() -> Iterator[Connection]:
    with engine.begin() as tx:
        yield tx


Tx = Annotated[Connection, Depends(transaction, scope="function")]

app = FastAPI(lifespan=lifespan)


@app.post("/orders/{customer}/{cents}")
def order(customer: str, cents: int, tx: Tx) -> int:
    number = tx.scalar(
        text(
            "insert into placed select count(*) + 1, :customer, :cents from placed"
            " where customer = :customer returning number"
        ),
        {"customer": customer, "cents": cents},
    )
    assert isinstance(number, int)
    shop.emit(tx, OrderPlaced(customer, number, cents))
    if cents == 0:
        raise HTTPException(402, "an order for nothing")
    return number


@app.get("/accounts")
def accounts(tx: Tx) -> dict[str, tuple[int, str, str]]:
    rows = tx.execute(text("select customer, owed, orders, currency from account"))
    return {customer: (owed, orders, currency) for customer, owed, orders, currency in rows}
