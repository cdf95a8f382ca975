"""Consumers as teams write them by hand, right and wrong: five events, two keys, one inbox table.

They use nothing of oncebox but the explorer, as a user's own code would.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

from oncebox.explorer import Actor, Broken, MemoryDatabase, Program, Run, World, arrivals
from oncebox.explorer.sqlite import waiting

TABLES = """
CREATE TABLE inbox (id TEXT PRIMARY KEY);
CREATE TABLE position (at INTEGER NOT NULL);
CREATE TABLE last (key TEXT PRIMARY KEY, id TEXT NOT NULL);
CREATE TABLE ledger (n INTEGER PRIMARY KEY, id TEXT NOT NULL);
CREATE TABLE account (key TEXT PRIMARY KEY, owed INTEGER NOT NULL);
INSERT INTO position VALUES (0);
"""


class Event(NamedTuple):
    """`add` is what it adds to its key's account, after doubling it: so order shows."""

    id: str
    key: str
    add: int


EVENTS = [
    Event("a1", "a", 1), Event("b1", "b", 1), Event("a2", "a", 2), Event("b2", "b", 2),
    Event("a3", "a", 3),
]  # fmt: skip


class Process:
    """What a consumer has to do with: its log, and its database."""

    def __init__(self, shop: Bazaar, connection: sqlite3.Connection) -> None:
        self.shop = shop
        self.run = waiting(connection.execute)

    def sql(self, sql: str, *parameters: Any) -> list[Any]:
        return self.run(sql, parameters).fetchall()

    def fetch(self, at: int) -> Event | None:
        return self.shop.log[at] if at < len(self.shop.log) else None

    def pay(self, event: Event) -> None:
        self.run("INSERT INTO ledger (id) VALUES (?)", (event.id,))
        self.run(
            "INSERT INTO account VALUES (?, ?)"
            " ON CONFLICT (key) DO UPDATE SET owed = owed * 2 + excluded.owed",
            (event.key, event.add),
        )


Consume = Callable[[Process, Event], Program]


class Bazaar(World):
    """One process that reads events one by one; it is started again when it dies."""

    def __init__(self, consume: Consume, ack: bool = True) -> None:
        self.consume = consume
        self.ack = ack
        self.log: list[Event] = []
        self.database = MemoryDatabase()
        self.database.owner.executescript(TABLES)
        self.database.remember()

    def begin(self, run: Run) -> None:
        self.database.restore()
        self.log = arrivals(run.choose, EVENTS, _key)
        run.start("shop", self.process)

    def state(self) -> Hashable:
        return self.database.state(), tuple(self.log)

    def crashed(self, actor: Actor) -> None:
        self.database.release(self.connection)  # its open transaction ends with the process
        actor.run.start(actor.name, self.process)

    def process(self, actor: Actor) -> Program:
        self.connection = self.database.connect()
        process = Process(self, self.connection)
        ((at,),) = yield process.sql, ("SELECT at FROM position",)
        while True:
            event = yield process.fetch, (at,)
            if event is None:
                return
            at += 1
            if not self.ack:
                yield process.sql, ("UPDATE position SET at = ?", at)
            yield from self.consume(process, event)
            if self.ack:
                yield process.sql, ("UPDATE position SET at = ?", at)

    def check(self) -> object:
        rows = self.database.owner.execute("SELECT id FROM ledger ORDER BY n").fetchall()
        for event in EVENTS:
            count = rows.count((event.id,))
            if count != 1:
                raise Broken(f"{event.id} took effect {count} times")
        return self.database.owner.execute("SELECT * FROM account ORDER BY key").fetchall()


def _key(event: Event) -> str:
    return event.key


def right(process: Process, event: Event) -> Program:
    """Mark and effect in one transaction; the mark is an insert that says whether it was new."""
    yield process.sql, ("BEGIN IMMEDIATE",)
    claim = "INSERT INTO inbox VALUES (?) ON CONFLICT DO NOTHING RETURNING 1"
    new = yield process.sql, (claim, event.id)
    if new:
        yield process.pay, (event,)
    yield process.sql, ("COMMIT",)


def no_inbox(process: Process, event: Event) -> Program:
    yield process.sql, ("BEGIN IMMEDIATE",)
    yield process.pay, (event,)
    yield process.sql, ("COMMIT",)


def mark_after(process: Process, event: Event) -> Program:
    """The effect is committed, then the mark."""
    known = yield process.sql, ("SELECT 1 FROM inbox WHERE id = ?", event.id)
    if known:
        return
    yield process.sql, ("BEGIN IMMEDIATE",)
    yield process.pay, (event,)
    yield process.sql, ("COMMIT",)
    yield process.sql, ("INSERT INTO inbox VALUES (?)", event.id)


def mark_before(process: Process, event: Event) -> Program:
    """The mark is committed, then the effect: a crash in between loses it."""
    claim = "INSERT INTO inbox VALUES (?) ON CONFLICT DO NOTHING RETURNING 1"
    new = yield process.sql, (claim, event.id)
    if new:
        yield process.pay, (event,)


def last_id_only(process: Process, event: Event) -> Program:
    """An inbox of one row per key."""
    yield process.sql, ("BEGIN IMMEDIATE",)
    known = yield process.sql, (
        "SELECT 1 FROM last WHERE key = ? AND id = ?", event.key, event.id,
    )  # fmt: skip
    if not known:
        yield process.pay, (event,)
        replace = "INSERT INTO last VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET id = excluded.id"
        yield process.sql, (replace, event.key, event.id)
    yield process.sql, ("COMMIT",)


def in_two_transactions(process: Process, event: Event) -> Program:
    """Half of the effect is committed before the other half."""
    yield process.sql, ("BEGIN IMMEDIATE",)
    claim = "INSERT INTO inbox VALUES (?) ON CONFLICT DO NOTHING RETURNING 1"
    new = yield process.sql, (claim, event.id)
    yield process.sql, ("COMMIT",)
    if new:
        yield process.sql, ("BEGIN IMMEDIATE",)
        yield process.pay, (event,)
        yield process.sql, ("COMMIT",)


def key_too_narrow(process: Process, event: Event) -> Program:
    """Dedup by key instead of by id drops real events, with no deviation at all."""
    yield from right(process, event._replace(id=event.key + "1"))
