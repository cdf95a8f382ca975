"""The same subscriber: a payment counts once, and its receipt is sent if and only if it did."""

import os

import psycopg
from faststream import AckPolicy, FastStream
from faststream.confluent import KafkaBroker
from pydantic import BaseModel

from oncebox import Service, claim, event

PAYMENTS = os.environ.get("PAYMENTS", "payments")
RECEIPTS = os.environ.get("RECEIPTS", "receipts")

broker = KafkaBroker(os.environ["KAFKA"])
app = FastStream(broker)
ledger = Service("ledger", store=os.environ["DATABASE"], log="kafka://" + os.environ["KAFKA"])


class Payment(BaseModel):
    id: str
    account: str
    cents: int


@event("receipt", stream=RECEIPTS, key="account")
class Receipt(BaseModel):
    account: str
    cents: int


@broker.subscriber(
    PAYMENTS,
    group_id=os.environ.get("GROUP", "ledger"),
    group_instance_id=os.environ.get("POD", "ledger-0"),
    auto_offset_reset="earliest",
    ack_policy=AckPolicy.NACK_ON_ERROR,
)
async def count(payment: Payment) -> None:
    async with await psycopg.AsyncConnection.connect(os.environ["DATABASE"]) as tx:
        if not await claim(tx, "ledger", source=PAYMENTS, id=payment.id):
            return
        await tx.execute(
            "UPDATE account SET paid = paid + %s WHERE name = %s",
            (payment.cents, payment.account),
        )
        await ledger.emit(tx, Receipt(account=payment.account, cents=payment.cents))
