"""Payments come from Kafka and go into a ledger: the same loop, and each payment counts once."""

import json
import os

import psycopg
from confluent_kafka import Consumer

from oncebox import claim

TOPIC = os.environ.get("PAYMENTS", "payments")

consumer = Consumer(
    {
        "bootstrap.servers": os.environ["KAFKA"],
        "group.id": os.environ.get("GROUP", "ledger"),
        "group.instance.id": os.environ.get("POD", "ledger-0"),
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
    }
)
consumer.subscribe([TOPIC])
database = psycopg.connect(os.environ["DATABASE"], autocommit=True)

while True:
    record = consumer.poll(1.0)
    if record is None or record.error():
        continue
    payment = json.loads(record.value())
    with database.transaction():
        if claim(database, "ledger", source=TOPIC, id=payment["id"]):
            database.execute(
                "UPDATE account SET paid = paid + %s WHERE name = %s",
                (payment["cents"], payment["account"]),
            )
    consumer.commit(record, asynchronous=False)
