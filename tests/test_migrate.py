"""Oncebox's own tables: made once, by one at a time, and good for the code of the version before."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from chains import Paid
from oncebox import Service
from oncebox.errors import MissingTables
from oncebox.program import drive
from oncebox.service.running import running
from oncebox.statements import Migration, migrations, statements
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import check, migrate, status

WAIT_S = 30.0
TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'oncebox_%'",
    "postgres": "select 'oncebox.' || relname from pg_class where relkind in ('r', 'p')"
    " and relnamespace = 'oncebox'::regnamespace and not relispartition",
}


@dataclass
class Place:
    """A database, and a session on it."""

    url: str
    store: Any
    session: Any


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    url = f"sqlite:///{tmp_path}/shop.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    store: Any = open_store(url)
    session = store.open()
    yield Place(url, store, session)
    session.close()


def newer(place: Place, by: int) -> None:
    """Tables as a later oncebox makes them: migrations add columns and tables, nothing else."""
    drive(migrate(place.session))
    newest = migrations(place.store.dialect)[-1].version
    add = statements(place.store.dialect)["add_migration"]
    for version in range(newest + 1, newest + 1 + by):
        for (table,) in place.session.run(TABLES[place.store.dialect]):
            place.session.run(f"alter table {table} add column later_{version} text default 'x'")
        place.session.run(add, (version, "later"))


def test_code_runs_on_tables_of_the_next_version(place: Place, tmp_path: Path) -> None:
    newer(place, 1)
    drive(check(place.session))
    assert drive(migrate(place.session)) == []
    assert drive(status(place.session))[-1].name == "of a newer oncebox"
    log = f"sqlite:///{tmp_path}/events.db"
    shop = Service("shop", store=place.url, log=log)
    billing = Service("billing", store=place.url, log=log)
    place.session.run("create table paid (cents int)")
    failures = iter([ValueError("so that something is parked, kept and tried again")] * 2)
    write = "insert into paid values (" + ("?" if place.store.dialect == "sqlite" else "%s") + ")"

    @billing.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        tx.execute(write, (paid.cents,))
        if paid.cents == 2 and (failure := next(failures, None)) is not None:
            raise failure

    place.session.begin()
    shop.emit(place.session.handle, Paid("a", 1))
    shop.emit_many(place.session.handle, [Paid("a", 2), Paid("a", 3)])
    place.session.commit()

    def paid() -> list[int]:
        return [cents for (cents,) in place.session.run("select cents from paid")]

    asyncio.run(run_until([shop, billing], lambda: len(paid()) == 3))
    assert paid() == [1, 2, 3]


async def run_until(services: list[Service], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    async with running(services):
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            await asyncio.sleep(0.01)


def test_code_refuses_tables_that_are_two_versions_ahead(place: Place) -> None:
    newer(place, 2)
    for program in (check, migrate):
        with pytest.raises(MissingTables, match="of version") as raised:
            drive(program(place.session))
        assert "newer oncebox" in (raised.value.hint or "")


def test_processes_that_migrate_at_once_do_it_once(place: Place) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        made = pool.map(migrate_at, [place.url] * 4)
    assert sorted(made) == [0, 0, 0, len(migrations(place.store.dialect))]


def migrate_at(url: str) -> int:
    session: Any = open_store(url).open()
    try:
        return len(drive(migrate(session)))
    finally:
        session.close()


def test_a_lock_that_is_not_to_be_had_changes_nothing(place: Place) -> None:
    drive(migrate(place.session))
    prefix = {"sqlite": "oncebox_", "postgres": "oncebox."}[place.store.dialect]
    known = migrations(place.store.dialect)
    last = known[-1].version
    later = Migration(last + 1, "later", f"alter table {prefix}key add column later int;")
    other: Any = place.store.open()
    other.begin()
    other.run(f"update {prefix}migration set name = name")
    if place.store.dialect == "postgres":
        other.run("lock table oncebox.key in access share mode")
    with pytest.raises((psycopg.errors.LockNotAvailable, sqlite3.OperationalError)):
        drive(migrate(place.session, lock_wait_s=0.05, known=(*known, later)))
    other.rollback()
    other.close()
    assert place.session.run(f"select max(version) from {prefix}migration") == [(last,)]
