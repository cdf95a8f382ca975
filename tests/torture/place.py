"""The servers under torture, with a proxy before each: PostgreSQL, PgBouncer, Kafka. And what a
round has of its own there: databases and topics.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg

from engines.kafka import OwnKafka
from engines.pgbouncer import PgBouncer
from engines.postgres import OwnPostgres
from engines.server import LOOPBACK, free_ports
from oncebox.program import drive
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate

from .proxy import Proxy
from .services import TABLES

DATABASES = ("shop", "stock", "ledger")
PARTITIONS = 3
ASK_TIMEOUT_S = 30.0


class ProxiedKafka(OwnKafka):
    """A broker with one listener more, which it calls by the proxy's address."""

    def __init__(self) -> None:
        self.behind_port, self.proxy_port = free_ports(2)
        super().__init__()

    def _configure(self, settings: dict[str, str]) -> None:
        plain, behind = (f"{LOOPBACK}:{port}" for port in (self.port, self.behind_port))
        more = {
            "listeners": f"PLAINTEXT://{plain},BEHIND://{behind},"
            f"CONTROLLER://{LOOPBACK}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{plain},BEHIND://{LOOPBACK}:{self.proxy_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,"
            "BEHIND:PLAINTEXT",
        }
        super()._configure(more | settings)


class Place:
    """Servers and proxies."""

    def __init__(self, postgres: OwnPostgres, bouncer: PgBouncer, kafka: ProxiedKafka) -> None:
        self.postgres = postgres
        self.bouncer = bouncer
        self.kafka = kafka
        self.proxies = {
            "postgres": Proxy("postgres", postgres.port),
            "pgbouncer": Proxy("pgbouncer", bouncer.port),
            "kafka": Proxy("kafka", kafka.behind_port, kafka.proxy_port),
        }

    def url(self, database: str, way: str = "") -> str:
        """A database's URL; `way`: through which proxy."""
        parts = urlsplit(self.postgres.url_of(database))
        if not way:
            return urlunsplit(parts)
        secret = f"postgres:{parts.password}"
        return f"postgresql://{secret}@{LOOPBACK}:{self.proxies[way].port}/{database}"

    @property
    def log(self) -> str:
        """The log's URL as workers have it."""
        return f"kafka://{LOOPBACK}:{self.kafka.proxy_port}"

    def close(self) -> None:
        for proxy in self.proxies.values():
            proxy.close()


@contextmanager
def place() -> Iterator[Place]:
    """Start everything, and remove it afterwards. Raises EngineMissing."""
    postgres = OwnPostgres()
    try:
        bouncer = PgBouncer(postgres)
        try:
            kafka = ProxiedKafka()
            try:
                with closing(Place(postgres, bouncer, kafka)) as made:
                    yield made
            finally:
                kafka.remove()
        finally:
            bouncer.close()
    finally:
        postgres.remove()


class Databases:
    """A round's databases, as the campaign sees them: directly, whatever happens to others."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.names: dict[str, str] = {}
        self._connections: dict[str, psycopg.Connection[Any]] = {}

    def make(self) -> None:
        for service in DATABASES:
            self.names[service] = self.place.postgres.create_database()
            session: Any = open_store(self.place.url(self.names[service])).open()
            drive(migrate(session))
            session.close()
            self.ask(service, TABLES["shop" if service == "shop" else "follower"])

    def ask(self, service: str, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows of a statement; while the server restarts, asked again and again."""
        deadline = time.monotonic() + ASK_TIMEOUT_S
        while True:
            try:
                connection = self._connections.get(service)
                if connection is None or connection.closed:
                    connection = psycopg.connect(
                        self.place.url(self.names[service]), autocommit=True,
                        application_name="torture",
                    )  # fmt: skip
                    self._connections[service] = connection
                cursor = connection.execute(sql.encode(), parameters or None)
                return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                self._connections.pop(service, None)
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def drop(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()
        for name in self.names.values():
            self.place.postgres.drop_database(name)
