"""Orders over HTTP, with SQLAlchemy's asynchronous sessions; each is told to Kafka."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from confluent_kafka import Producer
from fastapi import Depends, FastAPI
from sqlalchemy import UniqueConstraint
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ORDERS = os.environ.get("ORDERS", "orders")

engine = create_async_engine(os.environ["DATABASE"])
sessions = async_sessionmaker(engine)
producer = Producer({"bootstrap.servers": os.environ["KAFKA"], "linger.ms": 0})


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
    yield


async def transaction() -> AsyncIterator[AsyncSession]:
    async with sessions.begin() as tx:
        yield tx


Tx = Annotated[AsyncSession, Depends(transaction)]

app = FastAPI(lifespan=lifespan)


@app.post("/orders/{name}/{cents}")
async def order(name: str, cents: int, tx: Tx) -> str:
    tx.add(Order(name=name, cents=cents))
    producer.produce(ORDERS, json.dumps({"name": name, "cents": cents}), key=name)
    producer.flush()
    return name
