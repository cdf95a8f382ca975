"""The servers that benchmarks run against: started once, with default durability."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from engines.kafka import Kafka, shared_kafka
from engines.postgres import Postgres, shared_postgres


@dataclass
class Engines:
    postgres: Postgres
    kafka: Kafka


@contextmanager
def start() -> Iterator[Engines]:
    with shared_postgres() as postgres, shared_kafka(lasting=True) as kafka:
        yield Engines(postgres, kafka)
