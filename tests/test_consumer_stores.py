"""The consumer on what an application has already: plain handlers get its own kind of session.

Coroutine handlers: test_consumer_async.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from sqlalchemy import orm

from chains import Paid, World, make_store
from made_stores import BARE, STORES, Made
from oncebox.errors import TransactionEnded
from oncebox.operate.actions import redrive
from oncebox.program import drive
from oncebox.stores.adapt import open_store
from operating import desk_of, wait_list

PLAIN = [name for name, (_, asynchronous, _) in STORES.items() if not asynchronous]
ORM = ["sessionmaker-psycopg", "sessionmaker-sqlite3"]


class Base(orm.DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "ledger"
    n: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    who: orm.Mapped[str]
    what: orm.Mapped[int]


def by_sql(_: Place, tx: Any, sql: str) -> None:
    """Run a statement on whatever handlers receive."""
    if isinstance(tx, BaseDatabaseWrapper):
        with tx.cursor() as cursor:
            cursor.execute(sql)
    elif isinstance(tx, orm.Session | sqlalchemy.Connection):
        tx.execute(sqlalchemy.text(sql))
    else:
        tx.execute(sql)


@dataclass
class Place:
    """A world over one kind of store, and how its handlers write."""

    world: World
    made: Made

    def write(self, tx: Any, who: str, what: int) -> None:
        assert isinstance(tx, self.made.handle)
        by_sql(self, tx, f"insert into ledger (who, what) values ('{who}', {what})")


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    dialect, _, make = (STORES | BARE)[request.param]
    url = request.getfixturevalue("postgres_url") if dialect == "postgres" else None
    store = make_store(dialect, tmp_path, url)
    world = World(store, tmp_path)
    made: Made = make(url or str(tmp_path / "store.db"))
    world.store = open_store(made.source)
    yield Place(world, made)
    world.close()
    made.close()


@pytest.mark.parametrize("place", PLAIN, indirect=True)
def test_effects_once_and_a_failure_holds_its_key(place: Place) -> None:
    world, broken = place.world, {"b"}

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        place.write(tx, paid.order, paid.cents)
        if paid.order in broken:
            raise ValueError("no such account")

    a, b = world.producer.paid("a", 1, 2, 3), world.producer.paid("b", 10, 20)
    world.deliver(a[0], b[0], a[0], a[2], a[1], b[1], a[1])
    loop = world.settle()
    assert world.of("a") == [1, 2, 3]
    assert world.of("b") == []
    assert world.parked() == {"b": ("poison", "ValueError: no such account", 1)}
    broken.clear()
    world.after(5.0, loop)
    assert world.of("b") == [10, 20]


def swallow(place: Place, tx: Any) -> None:
    try:
        if isinstance(tx, BaseDatabaseWrapper):
            with tx.cursor() as cursor:
                cursor.execute("select * from nowhere")
        elif isinstance(tx, orm.Session | sqlalchemy.Connection):
            tx.execute(sqlalchemy.text("select * from nowhere"))
        else:
            tx.execute("select * from nowhere")
    except Exception:
        pass


def commit(place: Place, tx: Any) -> None:
    if isinstance(tx, BaseDatabaseWrapper):
        with tx.cursor() as cursor:
            cursor.execute("COMMIT")
    else:
        tx.commit()


def roll_back(place: Place, tx: Any) -> None:
    if isinstance(tx, BaseDatabaseWrapper):
        with tx.cursor() as cursor:
            cursor.execute("ROLLBACK")
    else:
        tx.rollback()


@pytest.mark.parametrize("place", [*PLAIN, *BARE], indirect=True)
@pytest.mark.parametrize("mistake", [commit, roll_back, swallow])
def test_a_handler_that_breaks_the_transaction_is_parked(
    place: Place, mistake: Callable[[Place, Any], None]
) -> None:
    world = place.world

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        place.write(tx, paid.order, paid.cents)
        if paid.order == "b":
            mistake(place, tx)

    a, b = world.producer.paid("a", 1, 2, 3), world.producer.paid("b", 10, 20)
    world.deliver(a[0], b[0], a[1], b[1], a[2])
    world.settle()
    assert world.of("a") == [1, 2, 3]
    if mistake is swallow and world.store.dialect == "sqlite":  # where an error ends nothing
        assert world.of("b") == [10, 20]
    else:
        assert world.of("b") == []
        assert world.parked()["b"][0] == "poison"


@pytest.mark.parametrize("place", ["postgres-url"], indirect=True)
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_pipelined_connection_refuses_to_end_before_it_sends_anything(
    place: Place, end: str
) -> None:
    """The COMMIT was sent, and refused by the server; but what the handler wrote before that answer
    was there went out, too, and was committed.
    """
    world, refusals = place.world, []

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        try:
            getattr(tx, end)()
        except TransactionEnded as error:
            refusals.append(error)
        place.write(tx, paid.order, paid.cents)

    world.deliver(*world.producer.paid("a", 1, 2))
    world.settle()
    assert (world.of("a"), len(refusals)) == ([1, 2], 2)


def by_method(place: Place, tx: Any, sql: str) -> None:
    getattr(tx, sql.lower())()


@pytest.mark.parametrize("place", [*PLAIN, *BARE], indirect=True)
@pytest.mark.parametrize("end", [by_method, by_sql])
@pytest.mark.parametrize("first", ["ROLLBACK", "COMMIT"])
@pytest.mark.parametrize("caught", [False, True])
def test_what_a_handler_does_behind_its_own_rollback_is_not_committed(
    place: Place, end: Callable[[Place, Any, str], None], first: str, *, caught: bool
) -> None:
    """It was, once for each try, and nothing said that it was done. A handler that catches what it
    is refused may have broken nothing; then its effects come once.
    """
    world = place.world

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if paid.order == "b":
            for step in (
                partial(end, place, tx, first),
                partial(place.write, tx, paid.order, paid.cents),
                partial(end, place, tx, "COMMIT"),
            ):
                with contextlib.suppress(Exception) if caught else contextlib.nullcontext():
                    step()
        else:
            place.write(tx, paid.order, paid.cents)

    a, b = world.producer.paid("a", 1, 2), world.producer.paid("b", 10)
    world.deliver(a[0], b[0], a[1])
    loop = world.settle()
    for _ in range(2):
        world.after(60.0, loop)
        drive(redrive(desk_of(world), wait_list(world)))
    world.after(1.0, loop)
    assert world.of("a") == [1, 2]
    if "b" in world.parked():
        assert world.of("b") == []
    else:
        assert caught
        assert world.of("b") == [10]


@pytest.mark.parametrize("place", ORM, indirect=True)
def test_objects_that_a_handler_adds_are_its_effects(place: Place) -> None:
    """The session is not flushed by the handler; a failure of the flush is still its own."""
    world = place.world

    @world.consumer.on(Paid)
    def pay(tx: orm.Session, paid: Paid) -> None:
        tx.add(Entry(n=paid.cents, who=paid.order, what=paid.cents))

    a, b = world.producer.paid("a", 1, 2), world.producer.paid("b", 1, 3)
    world.deliver(a[0], b[0], a[1], b[1])
    world.settle()
    assert world.of("a") == [1, 2]
    assert world.of("b") == []
    assert "IntegrityError" in str(world.parked()["b"][1])


@pytest.mark.parametrize("place", ["django-postgres", "django-sqlite"], indirect=True)
def test_blocks_of_django_nest(place: Place) -> None:
    world, done = place.world, []

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        with transaction.atomic(using=tx.alias):
            place.write(tx, paid.order, paid.cents)
        transaction.on_commit(lambda: done.append(paid.cents), using=tx.alias)
        if paid.cents == 2:
            raise ValueError("undone")

    world.deliver(*world.producer.paid("a", 1, 2), *world.producer.paid("b", 3))
    world.settle()
    assert world.ledger() == [("a", 1), ("b", 3)]
    assert done == [1, 3]
