"""Where a half lives: in files of a temporary folder, or on servers that were named.

On PostgreSQL a half gets a database of its own, on Kafka topics of its own; both are gone after.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from oncebox.connect import open_log
from oncebox.errors import ConfigurationError, MissingRight
from oncebox.ports import Log
from oncebox.stores.adapt import open_store

from .contracts import STREAMS
from .worker import RETRY_TOPICS

DROP_S = 10.0
"""How long the brokers may take to delete a topic."""


class Place(NamedTuple):
    """`environment`: what the half's processes have to know. `database`: its URL on a server."""

    log: Log
    prefix: str
    environment: dict[str, str]
    database: str | None


@contextmanager
def place(half: str, folder: Path, store: str | None, log: str | None) -> Iterator[Place]:
    """Room for a half. Raises ConfigurationError, MissingDependency, Unreachable."""
    environment: dict[str, str] = {}
    name = f"oncebox_demo_{half}_{uuid4().hex[:8]}"
    on_server = log is not None and not log.startswith("sqlite:")
    if log is not None and on_server:
        environment["DEMO_LOG"] = log
    url = log if log is not None and on_server else f"sqlite:///{folder / 'events.db'}"
    prefix = f"{name}." if on_server else ""
    with closing(open_log(url)) as opened:
        if on_server:
            opened.describe(prefix)  # raises Unreachable, before anything is made
        with database(name, store) as own, topics(url, prefix):
            if own is not None:
                environment["DEMO_STORE"] = own
            yield Place(opened, prefix, environment, own)


@contextmanager
def database(name: str, store: str | None) -> Iterator[str | None]:
    """A database of its own on the server of `store`; None where there is no server."""
    if store is None or store.startswith("sqlite:"):
        yield None
        return
    if not store.startswith(("postgresql://", "postgres://")):
        raise ConfigurationError(f"--store {urlsplit(store).scheme}", expected="postgresql://…")
    session: Any = open_store(store).open()
    try:
        create_database(session, name)
    finally:
        session.close()
    try:
        yield urlunsplit(urlsplit(store)._replace(path=f"/{name}"))
    finally:
        session = open_store(store).open()
        session.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        session.close()


def create_database(session: Any, name: str) -> None:
    """Make a database. Raises MissingRight, which names the right and the role."""
    try:
        session.run(f"CREATE DATABASE {name}")
    except Exception as error:
        if getattr(error, "sqlstate", None) != "42501":
            raise
        raise MissingRight(
            f"role {session.role()} may not create databases, and the demo wants one of its own",
            expected="the right CREATEDB",
            hint=f"as a superuser: ALTER ROLE {session.role()} CREATEDB",
        ) from error


@contextmanager
def topics(url: str, prefix: str) -> Iterator[None]:
    """Deletes a half's topics from Kafka at the end; nothing to do without a prefix."""
    try:
        yield
    finally:
        if prefix:
            from confluent_kafka.admin import AdminClient

            from oncebox.logs.kafka_settings import KafkaSettings

            admin: Any = KafkaSettings(url).client(AdminClient)
            made = [prefix + topic for topic in (*STREAMS, *RETRY_TOPICS)]
            for deleted in admin.delete_topics(made).values():
                with suppress(TimeoutError):  # the broker is gone, which somebody has noticed
                    deleted.exception(DROP_S)  # one half makes no retry topics: no matter


def rows_of(database: str, sql: str) -> list[tuple[Any, ...]]:
    """Rows of a half's database on a server, over a connection of its own."""
    import psycopg

    with psycopg.connect(database) as db:
        return db.execute(sql.encode()).fetchall()
