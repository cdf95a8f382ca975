"""Statements that do at once what others do one by one: the same, on PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from engines.postgres import Postgres
from oncebox.program import drive
from oncebox.statements import statements
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate

SQL = statements("postgres")
PLACE = ("billing", "orders", 0)
TERM = 7
MOVED = (4, 4096, "event-4", 44)


@pytest.fixture
def two(postgres_server: Postgres) -> Iterator[tuple[Any, Any]]:
    """Sessions of two owners of one partition, of which one is under the present term."""
    with postgres_server.database() as url:
        store: Any = open_store(url)
        one, other = store.open(), store.open()
        drive(migrate(one))
        one.run("insert into oncebox.subscription (consumer, source, floor) values ($1, '/s/o', 0)",
                ("billing",))  # fmt: skip
        one.run("insert into oncebox.key (subscription, key, sequence, stamp, id, digest)"
                " select id, 'a', 3, 3072, 'event-3', 33 from oncebox.subscription")  # fmt: skip
        one.run("insert into oncebox.cursor (reader, topic, partition, term) values ($1, $2, $3, $4)",
                (*PLACE, TERM))  # fmt: skip
        yield one, other
        other.close()
        one.close()


def subscription(session: Any) -> int:
    ((id,),) = session.run("select id from oncebox.subscription")
    return int(id)


def test_open_key_has_the_row_of_its_key_under_its_term_only(two: tuple[Any, Any]) -> None:
    session, other = two
    id = subscription(session)
    session.begin()
    rows = session.run(SQL["open_key"], (*PLACE, TERM, id, "a"))
    assert rows == session.run(SQL["lock_key"], (id, "a"))
    ((nothing, *_),) = session.run(SQL["open_key"], (*PLACE, TERM, id, "unknown"))
    assert nothing is None
    assert session.run(SQL["open_key"], (*PLACE, TERM - 1, id, "a")) == []

    other.begin()
    other.run("set local lock_timeout = '50ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        other.run(SQL["open_key"], (*PLACE, TERM, id, "a"))
    other.rollback()
    session.rollback()


def test_shut_key_moves_a_row_in_the_transaction_that_opened_it(two: tuple[Any, Any]) -> None:
    session, _ = two
    id = subscription(session)
    session.begin()
    session.run(SQL["open_key"], (*PLACE, TERM, id, "a"))
    session.run(SQL["shut_key"], (id, "a", *MOVED))
    session.commit()
    assert session.run("select sequence, stamp, id, digest from oncebox.key") == [MOVED]
    assert session.run("select from oncebox.open_batch") == []


def test_shut_key_fails_in_any_other(two: tuple[Any, Any]) -> None:
    session, _ = two
    id = subscription(session)
    session.begin()
    session.run(SQL["open_key"], (*PLACE, TERM, id, "a"))
    session.rollback()
    session.begin()
    with pytest.raises(psycopg.errors.DivisionByZero):
        session.run(SQL["shut_key"], (id, "a", *MOVED))
    session.rollback()
    assert session.run("select sequence from oncebox.key") == [(3,)]


def test_enter_sets_limits_and_waits_for_a_rebuild_no_longer_than_they_say(
    two: tuple[Any, Any],
) -> None:
    session, rebuild = two
    session.run("set lock_timeout = '7s'")
    session.begin()
    session.run(SQL["enter"], ("billing", "300ms", "900ms"))
    settings = "lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"
    found = [session.run("select current_setting($1)", (name,)) for name in settings]
    assert found == [[("7s",)], [("300ms",)], [("900ms",)]]

    rebuild.begin()
    rebuild.run("set local lock_timeout = '50ms'")
    with pytest.raises(psycopg.errors.LockNotAvailable):
        rebuild.run(SQL["keep_out"], ("billing",))
    rebuild.rollback()
    session.rollback()

    rebuild.begin()
    rebuild.run(SQL["keep_out"], ("billing",))
    session.begin()
    began = time.monotonic()
    with pytest.raises(psycopg.errors.LockNotAvailable):
        session.run(SQL["enter"], ("billing", "300ms", "900ms"))
    assert time.monotonic() - began >= 0.3
    session.rollback()
    rebuild.rollback()
