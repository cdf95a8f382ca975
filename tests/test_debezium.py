"""Debezium's outbox event router publishes oncebox's events: real Kafka Connect, no relay.

The consumer reads its topic as if a relay had written it: effects once and in order per key, also
when Connect is killed and publishes again what it had published.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from engines.connect import Connect, connect
from engines.kafka import Kafka
from oncebox import Context, Service, event
from oncebox.program import drive
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate
from oncebox.testing import drain
from operating import Run

SAMPLE = Path(__file__).resolve().parents[1] / "examples" / "debezium_router"
KEYS, ROUND = 5, 100
TURNS_MAX = 400


class Routed:
    """A shop whose outbox Debezium publishes, and a consumer of it."""

    def __init__(self, database: str, kafka: Kafka, topic: str) -> None:
        self.database, self.sent, self.chains = database, 0, list[tuple[str, int]]()
        session: Any = open_store(database).open()
        drive(migrate(session))
        session.handle.execute((SAMPLE / "capture.sql").read_text())
        # Where Debezium begins: what is committed from now on.
        session.run("SELECT pg_create_logical_replication_slot('oncebox_captured', 'pgoutput')")
        session.run("CREATE TABLE paid (n bigserial, owner text, cents int)")
        session.close()
        kafka.create_topic(topic, 3)

        @event("order.paid", stream=topic, key="owner", version=3)
        @dataclass(frozen=True)
        class Paid:
            owner: str
            cents: int

        self.paid = Paid
        self.shop: Service[Any] = Service("shop")
        self.billing: Service[Any] = Service("billing", store=database, log=kafka.url)

        @self.billing.on(Paid)
        def pay(tx: psycopg.Connection, paid: Paid, context: Context[Any]) -> None:
            assert context.chain is not None
            self.chains.append((paid.owner, context.chain.sequence))
            tx.execute("INSERT INTO paid (owner, cents) VALUES (%s, %s)", (paid.owner, paid.cents))

    def emit(self, count: int) -> None:
        with psycopg.connect(self.database) as tx:
            for n in range(self.sent, self.sent + count):
                self.shop.emit(tx, self.paid(f"k{n % KEYS}", n))
                if n % 7 == 0:
                    tx.commit()
                if n % 11 == 0:  # given up, and its number back
                    with psycopg.connect(self.database) as other:
                        self.shop.emit(other, self.paid(f"x{n}", -1))
                        other.rollback()
        self.sent += count

    def settle(self, worker: Connect) -> None:
        """Consume until all has come."""
        for _ in range(TURNS_MAX):
            assert drain(self.billing) == []
            if len(self.rows("SELECT 1 FROM paid")) >= self.sent:
                return
        raise AssertionError(worker.words())

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database) as tx:
            return tx.execute(sql.encode()).fetchall()

    def check(self) -> None:
        for key in range(KEYS):
            found = self.rows(f"SELECT cents FROM paid WHERE owner = 'k{key}' ORDER BY n")
            assert [n for (n,) in found] == list(range(key, self.sent, KEYS))
        assert self.rows("SELECT count(*) FROM paid") == [(self.sent,)]
        assert self.rows("SELECT count(*) FROM oncebox.captured") == [(0,)]
        assert self.rows("SELECT 1 FROM oncebox.cursor WHERE reader = 'relay:shop'") == []

    def duplicates(self) -> int:
        return int(self.rows("SELECT coalesce(sum(duplicates), 0) FROM oncebox.cursor")[0][0])


@pytest.fixture
def routed(postgres_url: str, kafka_server: Kafka, topic: str) -> Routed:
    return Routed(postgres_url, kafka_server, topic)


def variables(database: str, kafka: Kafka) -> dict[str, str]:
    parts = conninfo_to_dict(database)
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD",
             "dbname": "PGDATABASE"}  # fmt: skip
    found = {name: str(parts[part]) for part, name in names.items()}
    return found | {"KAFKA": kafka.bootstrap}


def test_debezium_publishes_and_each_takes_effect_once(
    routed: Routed, kafka_server: Kafka, postgres_url: str, oncebox: Run
) -> None:
    routed.emit(ROUND)
    environment = variables(postgres_url, kafka_server)
    places = (SAMPLE / "worker.properties", SAMPLE / "connector.properties")
    with connect(*places, environment) as worker:
        routed.settle(worker)
        routed.emit(ROUND)
        routed.settle(worker)
        worker.kill()  # before it noted how far it was: it publishes all of it again
        routed.emit(ROUND)
        worker.start()
        routed.settle(worker)
    routed.check()
    assert routed.duplicates() >= 2 * ROUND
    done = oncebox("audit", "--store", postgres_url, "--log", kafka_server.url)
    assert done.code == 0, done
