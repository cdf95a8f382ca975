"""Through PgBouncer in transaction mode each transaction may have another server connection."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from conftest import hint_if_missing
from engines.pgbouncer import PgBouncer
from engines.postgres import OwnPostgres, postgres
from oncebox.program import drive
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate

PREPARED_FROM = 5
"""psycopg prepares a statement that it has run so often."""


@pytest.fixture(scope="module")
def server() -> Iterator[OwnPostgres]:
    with hint_if_missing(), postgres() as own:
        yield own


@pytest.fixture
def pooler(server: OwnPostgres) -> Iterator[PgBouncer]:
    with hint_if_missing():
        own = PgBouncer(server)
    with contextlib.closing(own):
        yield own


def test_statements_run_on_whichever_server_connection_they_get(
    server: OwnPostgres, pooler: PgBouncer
) -> None:
    store = open_store(pooler.url_of(server.create_database()))
    first, second, third = (store.open() for _ in range(3))
    sessions: list[Any] = [first, second, third]
    drive(migrate(sessions[0]))
    for turn in range(PREPARED_FROM * 3):
        ahead = sessions[turn % 2]
        ahead.begin()  # it takes the connection on which the other one would have prepared
        ahead.run("select count(*) from oncebox.event where n > $1", (turn,))
        for session in sessions:
            if session is not ahead:
                session.run("select count(*) from oncebox.event where n > $1", (turn,))
        ahead.commit()
    for session in sessions:
        session.close()


def test_without_a_pooler_statements_are_prepared(server: OwnPostgres) -> None:
    session: Any = open_store(server.url_of(server.create_database())).open()
    for turn in range(PREPARED_FROM * 2):
        session.run("select $1::int", (turn,))
    assert session.run("select count(*) > 0 from pg_prepared_statements") == [(True,)]
    session.close()
