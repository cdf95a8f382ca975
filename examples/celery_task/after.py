"""The same task. `acks_late`: a worker that dies loses no task; `claim`: none counts twice."""

import os

import psycopg
from celery import Celery, Task

from oncebox import claim

app = Celery("ledger", broker=os.environ["BROKER"])
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True)


@app.task(bind=True)
def count(self: Task, account: str, cents: int) -> None:
    with psycopg.connect(os.environ["DATABASE"]) as tx:
        if claim(tx, "ledger", source="celery", id=self.request.id):
            tx.execute("UPDATE account SET paid = paid + %s WHERE name = %s", (cents, account))
