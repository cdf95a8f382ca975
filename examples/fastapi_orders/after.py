"""Orders over HTTP, with SQLAlchemy's asynchronous sessions; each is told if and only if it
is there, and the answer comes after the commit."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy import UniqueConstraint
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from oncebox import Service, event

ORDERS = os.environ.get("ORDERS", "orders")

engine = create_async_engine(os.environ["DATABASE"])
sessions = async_sessionmaker(engine)
shop = Service("shop", store=sessions, log="kafka://" + os.environ["KAFKA"])


@event("order.placed", stream=ORDERS, key="name")
@dataclass(frozen=True)
class OrderPlaced:
    name: str
    cents: int


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    __table_args__ = (UniqueConstraint("name", deferrable=True, initially="DEFERRED"),)
    n: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    cents: Mapped[int]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with shop.running():
        yield


async def transaction() -> AsyncIterator[AsyncSession]:
    async with sessions.begin() as tx:
        yield tx


Tx = Annotated[AsyncSession, Depends(transaction, scope="function")]

app = FastAPI(lifespan=lifespan)


@app.post("/orders/{name}/{cents}")
async def order(name: str, cents: int, tx: Tx) -> str:
    tx.add(Order(name=name, cents=cents))
    await shop.emit(tx, OrderPlaced(name, cents))
    return name
