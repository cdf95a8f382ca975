"""The loop given up: oncebox reads the topic. `oncebox run --app service` runs it, any number."""

import os
from dataclasses import dataclass

import psycopg

from oncebox import Service, foreign

ledger: Service[psycopg.Connection] = Service(
    "ledger", store=os.environ["DATABASE"], log="kafka://" + os.environ["KAFKA"]
)


@dataclass(frozen=True)
class Payment:
    account: str
    cents: int


payments = foreign(os.environ.get("PAYMENTS", "payments"), Payment, key="$.account", id="$.id")


@ledger.on(payments)
def count(tx: psycopg.Connection, payment: Payment) -> None:
    tx.execute(
        "UPDATE account SET paid = paid + %s WHERE name = %s", (payment.cents, payment.account)
    )
