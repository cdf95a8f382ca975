"""Where a half lives: in files of a temporary folder, or on servers that were named.

On PostgreSQL a half gets a database of its own, on Kafka topics of its own; both are gone after.
What a demo left that was killed, another removes when it is a day old.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from oncebox.errors import ConfigurationError, MissingRight
from oncebox.ports import Log
from oncebox.service.connect import open_log
from oncebox.stores.adapt import open_store

from .contracts import STREAMS
from .worker import RETRY_TOPICS

DROP_S = 10.0
"""How long the brokers may take to delete a topic."""

LEFT_S = 24 * 3600.0
"""A demo that began so long ago has ended, whatever it left."""

_NAME = re.compile(r"oncebox_demo_[a-z]+_([0-9a-f]{8})_[0-9a-f]{4}(\..*)?\Z")


def name_for(half: str) -> str:
    """A name that nobody has, and that tells when it was made."""
    return f"oncebox_demo_{half}_{int(time.time()):08x}_{uuid4().hex[:4]}"


def was_left(name: str) -> bool:
    """Whether a database or topic is of a demo that was killed long ago."""
    made = _NAME.match(name)
    return made is not None and int(made[1], 16) < time.time() - LEFT_S


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
    name = name_for(half)
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
    mine = "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = current_user"
    try:
        for left in (found for (found,) in session.run(mine) if was_left(found)):
            session.run(f"DROP DATABASE IF EXISTS {left} WITH (FORCE)")
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
    if not prefix:
        yield
        return
    from confluent_kafka.admin import AdminClient

    from oncebox.logs.kafka_settings import KafkaSettings

    admin: Any = KafkaSettings(url).client(AdminClient)

    def delete(names: list[str]) -> None:
        for deleted in admin.delete_topics(names).values() if names else ():
            with suppress(TimeoutError):  # the broker is gone, which somebody has noticed
                deleted.exception(DROP_S)  # one half makes no retry topics: no matter

    delete([name for name in admin.list_topics(timeout=DROP_S).topics if was_left(name)])
    try:
        yield
    finally:
        delete([prefix + topic for topic in (*STREAMS, *RETRY_TOPICS)])


def rows_of(database: str, sql: str) -> list[tuple[Any, ...]]:
    """Rows of a half's database on a server, over a connection of its own."""
    import psycopg

    with psycopg.connect(database) as db:
        return db.execute(sql.encode()).fetchall()
