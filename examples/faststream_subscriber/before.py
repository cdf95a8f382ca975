"""A FastStream subscriber that counts payments and tells so, as its tutorial has it."""

import os

import psycopg
from faststream import FastStream
from faststream.confluent import KafkaBroker
from pydantic import BaseModel

PAYMENTS = os.environ.get("PAYMENTS", "payments")
RECEIPTS = os.environ.get("RECEIPTS", "receipts")

broker = KafkaBroker(os.environ["KAFKA"])
app = FastStream(broker)


class Payment(BaseModel):
    id: str
    account: str
    cents: int


class Receipt(BaseModel):
    account: str
    cents: int


@broker.subscriber(
    PAYMENTS,
    group_id=os.environ.get("GROUP", "ledger"),
    group_instance_id=os.environ.get("POD", "ledger-0"),
    auto_offset_reset="earliest",
)
@broker.publisher(RECEIPTS)
async def count(payment: Payment) -> Receipt:
    async with await psycopg.AsyncConnection.connect(os.environ["DATABASE"]) as tx:
        await tx.execute(
            "UPDATE account SET paid = paid + %s WHERE name = %s",
            (payment.cents, payment.account),
        )
    return Receipt(account=payment.account, cents=payment.cents)
