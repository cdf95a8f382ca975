"""A Celery task that counts a payment. `acks_late`: a worker that dies loses no task."""

import os

import psycopg
from celery import Celery

app = Celery("ledger", broker=os.environ["BROKER"])
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True)


@app.task
def count(account: str, cents: int) -> None:
    with psycopg.connect(os.environ["DATABASE"]) as tx:
        tx.execute("UPDATE account SET paid = paid + %s WHERE name = %s", (cents, account))
