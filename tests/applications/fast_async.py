"""A shop on FastAPI with SQLAlchemy's asynchronous sessions; it handles events in its lifespan."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import select
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from oncebox import Context, Service, event

engine: AsyncEngine = create_async_engine(os.environ["SHOP_DATABASE"])
sessions = async_sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "placed"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    cents: Mapped[int]


class Account(Base):
    __tablename__ = "account"
    customer: Mapped[str] = mapped_column(primary_key=True)
    owed: Mapped[int]
    orders: Mapped[str]
    currency: Mapped[str]


@event("order.placed", stream="orders", key="customer")
@dataclass(frozen=True)
class OrderPlaced:
    customer: str
    number: int
    cents: int


shop = Service("shop", store=sessions, log=os.environ["SHOP_LOG"])


@shop.on(OrderPlaced)
async def owe(tx: AsyncSession, placed: OrderPlaced, context: Context[str]) -> None:
    account = await tx.get(Account, placed.customer)
    if account is None:
        account = Account(customer=placed.customer, owed=0, orders="", currency=context.state)
        tx.add(account)
    account.owed += placed.cents
    account.orders += f" {placed.number}"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with shop.running(state="EUR"):
        yield
    await engine.dispose()


async def transaction() -> AsyncIterator[AsyncSession]:
    async with sessions.begin() as tx:
        yield tx


# `scope="function"`: commit before the answer, not after it.
Tx = Annotated[AsyncSession, Depends(transaction, scope="function")]

app = FastAPI(lifespan=lifespan)


@app.post("/orders/{customer}/{cents}")
async def order(customer: str, cents: int, tx: Tx) -> int:
    placed = Order(customer=customer, cents=cents)
    tx.add(placed)
    await tx.flush()
    await shop.emit(tx, OrderPlaced(customer, placed.id, cents))
    if cents == 0:
        raise HTTPException(402, "an order for nothing")  # rolls back, and the event with it
    return placed.id


@app.get("/accounts")
async def accounts(tx: Tx) -> dict[str, tuple[int, str, str]]:
    found = await tx.scalars(select(Account))
    return {a.customer: (a.owed, a.orders.strip(), a.currency) for a in found}
