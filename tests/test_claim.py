"""Claim: an id is done once. On which connections: test_emit_kinds.py."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest

from oncebox.errors import (
    BadEvent,
    ConfigurationError,
    MissingRight,
    MissingTables,
    UnknownId,
)
from oncebox.event import new_id
from oncebox.inbox import claim, prune_claims
from oncebox.program import drive
from oncebox.session import Session
from oncebox.stores.adapt import adapt
from tables import Tables


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tables]:
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    made = Tables(request.param, url or str(tmp_path / "shop.db"))
    yield made
    made.close()


def transaction(store: Tables) -> Any:
    """A connection of our own, in a transaction."""
    if store.dialect == "sqlite":
        connection = sqlite3.connect(store.place, isolation_level=None, timeout=30)
        connection.execute("BEGIN IMMEDIATE")
        return connection
    return psycopg.connect(store.place)


def once(store: Tables, id: str | int | UUID, time: datetime | None = None) -> bool:
    tx = transaction(store)
    try:
        answer = claim(tx, "billing", source="stripe", id=id, time=time)
        tx.commit()
    finally:
        tx.close()
    return bool(answer)


def prune(store: Tables, before: datetime) -> int:
    tx = transaction(store)
    tx.rollback()
    session: Session = adapt(tx)
    try:
        return drive(prune_claims(session, "oncebox", "billing", "stripe", before))
    finally:
        tx.close()


def test_consumers_and_sources_are_apart(store: Tables) -> None:
    tx = transaction(store)
    for consumer, source in (("a", "x"), ("a", "y"), ("b", "x")):
        assert claim(tx, consumer, source=source, id="1")
        assert not claim(tx, consumer, source=source, id="1")
    tx.commit()
    tx.close()


def test_ids_have_one_text(store: Tables) -> None:
    known = new_id()
    assert once(store, known)
    assert not once(store, str(known))
    assert once(store, 7)
    assert not once(store, "7")


def test_rivals_wait_and_one_wins(store: Tables) -> None:
    """Eight threads claim the same id, none of which knows the consumer yet."""
    start = threading.Barrier(8)
    answers: list[bool] = []

    def rival() -> None:
        start.wait()
        answers.append(once(store, "evt_1"))

    threads = [threading.Thread(target=rival) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 7 + [True]
    assert store.claims() == ["evt_1"]


def test_below_the_floor_it_is_not_known(store: Tables) -> None:
    now = datetime.now(UTC)
    day = timedelta(days=1)
    assert once(store, "old", now - 3 * day)
    assert once(store, "new", now)
    store.run("update oncebox.inbox set stamp = stamp - 3 * 86400000000 * 1024 where id = 'old'")
    assert prune(store, now - 2 * day) == 1
    assert store.claims() == ["new"]

    with pytest.raises(UnknownId, match="older than the claims kept") as refused:
        once(store, "old", now - 3 * day)
    assert refused.value.event == "old"
    assert once(store, "other", now - day)
    assert not once(store, "new", now - 3 * day)  # found, so it is known, however old
    with pytest.raises(UnknownId, match="time="):
        once(store, "shows no age")
    assert not once(store, "new")


def test_an_id_that_is_a_uuid7_shows_its_age(store: Tables) -> None:
    old = UUID(int=(new_id().int - (7 * 86_400_000 << 80)))
    assert old.version == 7
    assert once(store, old)
    assert prune(store, datetime.now(UTC) - timedelta(days=1)) == 0  # claimed today
    assert not once(store, old)
    older = UUID(int=old.int - 1)
    with pytest.raises(UnknownId):
        once(store, older)
    assert once(store, new_id())


def test_ids_of_the_future_are_not_forgotten_before_their_time(store: Tables) -> None:
    """A sender's clock runs ahead: the claim is kept until the id's own time is below a floor."""
    ahead = datetime.now(UTC) + timedelta(hours=1)
    assert once(store, "ahead", ahead)
    assert prune(store, datetime.now(UTC) + timedelta(days=9)) == 0  # no floor is in the future
    assert not once(store, "ahead", ahead)


def test_pruning_waits_for_claims_that_read_the_floor(postgres_url: str) -> None:
    """Else an id could be claimed by the old floor just after its claim was forgotten."""
    store = Tables("postgres", postgres_url)
    assert once(store, "evt_0")
    open_claim = transaction(store)
    assert claim(open_claim, "billing", source="stripe", id="evt_1")
    done = threading.Event()

    def pruner() -> None:
        prune(store, datetime.now(UTC))
        done.set()

    thread = threading.Thread(target=pruner)
    thread.start()
    waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
    while store.run(waiting) == [(0,)]:
        assert not done.is_set()
    open_claim.commit()
    open_claim.close()
    thread.join()
    assert done.is_set()
    store.close()


def test_bad_names_and_ids(store: Tables) -> None:
    tx = transaction(store)
    for id in ("", "x" * 2000, "nul\0", "\ud800"):
        with pytest.raises(BadEvent, match="claim: id"):
            claim(tx, "billing", source="stripe", id=id)
    with pytest.raises(BadEvent, match="float"):
        claim(tx, "billing", source="stripe", id=1.5)  # type: ignore[call-overload]
    for consumer, source in (("", "stripe"), ("a b", "stripe"), ("billing", ""), ("billing", "\0")):
        with pytest.raises(ConfigurationError):
            claim(tx, consumer, source=source, id="1")
    with pytest.raises(ConfigurationError, match="offset"):
        claim(tx, "billing", source="stripe", id="1", time=datetime(2020, 1, 1))  # noqa: DTZ001
    tx.close()


def test_missing_tables_and_rights_have_names(postgres_url: str, tmp_path: Path) -> None:
    for empty in (sqlite3.connect(tmp_path / "empty.db"), psycopg.connect(postgres_url)):
        with pytest.raises(MissingTables, match="oncebox db migrate"):
            claim(empty, "billing", source="stripe", id="1")
        empty.close()
    store = Tables("postgres", postgres_url)
    store.run(f"create role {(role := 'r' + new_id().hex)}")
    store.run(f"grant usage on schema oncebox to {role}")
    with psycopg.connect(postgres_url) as connection_of_role:
        connection_of_role.execute(f"set role {role}".encode())
        with pytest.raises(MissingRight, match="permission denied for table"):
            claim(connection_of_role, "billing", source="stripe", id="1")
        connection_of_role.rollback()
    store.run(f"drop owned by {role}")
    store.run(f"drop role {role}")
    store.close()


def test_a_forgotten_await_is_no_yes(tmp_path: Path) -> None:
    import aiosqlite

    async def webhook() -> None:
        async with aiosqlite.connect(tmp_path / "shop.db") as connection:
            forgotten = claim(connection, "billing", source="stripe", id="1")
            with pytest.raises(TypeError, match="await claim"):
                bool(forgotten)

    asyncio.run(webhook())
