"""A producer and a consumer for tests: chained records into a real log, effects in a real store.

The producer gives numbers as an outbox does, and can deliver them in any order, lose and repeat
them, and forget what it published, as a restored database does.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

from msgspec import json

from oncebox.codecs.payload import decode
from oncebox.consumer.loop import ConsumerLoop
from oncebox.consumer.reading import Handler, Reading, Settings
from oncebox.envelope import Reference, after_text, chain_text, event_headers
from oncebox.event import event, event_type, new_id
from oncebox.logs.embedded import EmbeddedLog
from oncebox.order import Chain
from oncebox.ports import Log, Outgoing
from oncebox.program import drive
from oncebox.service.service import Consumer
from oncebox.session import Store
from oncebox.statements import migrations, statements
from oncebox.stores.postgres import PostgresStore
from oncebox.stores.sqlite import SqliteStore

TOPIC = "orders"
SOURCE = "/shop/orders"
TURNS_MAX = 2000


@event("order.paid", stream=TOPIC, key="order", version=1)
@dataclass(frozen=True)
class Paid:
    order: str
    cents: int


@event("order.noted", stream=TOPIC, key="order", version=1)
@dataclass(frozen=True)
class Noted:
    order: str
    note: str


@event("shop.opened", stream=TOPIC, key=None, version=1)
@dataclass(frozen=True)
class Opened:
    cents: int


@dataclass(frozen=True)
class Sent:
    """An event that the producer committed, ready to be delivered any number of times."""

    outgoing: Outgoing
    key: str | None
    chain: Chain | None
    id: str

    @property
    def reference(self) -> Reference:
        assert self.key is not None and self.chain is not None
        return Reference(SOURCE, self.key, self.chain.stamp)

    def altered(self, **changes: Any) -> Sent:
        return replace(self, outgoing=self.outgoing._replace(**changes))

    def with_header(self, name: str, value: str | bytes) -> Sent:
        headers = [(n, v) for n, v in self.outgoing.headers if n != name] + [(name, value)]
        return self.altered(headers=headers)

    def void(self) -> Sent:
        return self.altered(value=None, headers=[*self.outgoing.headers, ("ce_void", "1")])


class Producer:
    """Commits events per key; `restore` forgets the last ones of a key."""

    def __init__(self, source: str = SOURCE) -> None:
        self.source = source
        self.clock = time.time_ns() // 1000
        self.new_id: Callable[[], UUID] = new_id
        self.history: dict[str, list[Sent]] = {}

    def commit(self, what: object, *, after: Reference | None = None) -> Sent:
        declared = event_type(type(what))
        key = declared.key_of(what)
        self.clock += 1000
        id = str(self.new_id())
        chain = None
        if key is not None:
            past = self.history.setdefault(key, [])
            last = past[-1].chain if past else None
            stamp = max(self.clock * 1024, 0 if last is None else last.stamp + 1)
            sequence = 1 if last is None else last.sequence + 1
            chain = Chain(sequence, stamp, None if last is None else last.stamp)
        extra = [] if after is None else [("after", after_text(after))]
        headers = event_headers(
            id,
            self.source,
            declared.type,
            declared.version,
            None if chain is None else chain_text(*chain),
            extra,
        )
        raw_key = None if key is None else key.encode()
        out = Outgoing(declared.stream, raw_key, json.encode(what), headers, self.clock // 1000)
        sent = Sent(out, key, chain, id)
        if key is not None:
            self.history[key].append(sent)
        return sent

    def paid(self, order: str, *cents: int) -> list[Sent]:
        return [self.commit(Paid(order, c)) for c in cents]

    def restore(self, key: str, length: int) -> None:
        del self.history[key][length:]


def make_store(kind: str, folder: Path, postgres_url: str | None) -> Store:
    """A store with oncebox's tables and a ledger for the tests' effects."""
    if kind == "sqlite":
        store: Any = SqliteStore(str(folder / "store.db"))
        session = store.open()
        for migration in migrations("sqlite"):
            session.handle.executescript(migration.sql)
        session.run(
            "CREATE TABLE ledger (n INTEGER PRIMARY KEY AUTOINCREMENT, who TEXT, what INTEGER)"
        )
    else:
        assert postgres_url is not None
        store = PostgresStore(postgres_url)
        session = store.open()
        session.handle.execute("create schema oncebox")
        for migration in migrations("postgres"):
            session.handle.execute(migration.sql)
        session.run("create table ledger (n bigserial primary key, who text, what bigint)")
    session.close()
    made: Store = store
    return made


class World:
    """One consumer on one store over an embedded log, driven turn by turn."""

    def __init__(
        self, store: Store, folder: Path, *, partitions: int = 1, topics: tuple[str, ...] = (TOPIC,)
    ) -> None:
        self.store = store
        self.log: Log = EmbeddedLog(folder / "log.db")
        self.topics = topics
        for topic in topics:
            self.log.create(topic, partitions)
        self.producer = Producer()
        self.session: Any = store.open()
        self.consumer = Consumer("billing")
        self.now_ms = time.time_ns() // 1_000_000
        self.settings = Settings(fetch_wait_s=0.0, backoff_s=1.0)
        self.slept: list[float] = []
        self.loops: list[ConsumerLoop] = []
        insert = "INSERT INTO ledger (who, what) VALUES (?, ?)"
        self.insert = insert if store.dialect == "sqlite" else insert.replace("?", "%s")

    def record(self, tx: Any, who: str, what: int) -> None:
        tx.execute(self.insert, (who, what))

    def handles_paid(self) -> None:
        """The plain handler: a row in the ledger for each event."""

        @self.consumer.on(Paid)
        def pay(tx: Any, paid: Paid) -> None:
            self.record(tx, paid.order, paid.cents)

    def deliver(self, *sent: Sent) -> None:
        refusals = self.log.publish([one.outgoing for one in sent], 10.0)
        assert refusals == []

    def loop(self, holder: str = "one", **changes: Any) -> ConsumerLoop:
        session: Any = self.store.open()
        reading = Reading(
            consumer="billing",
            session=session,
            sql=statements(self.store.dialect),
            handlers=self.consumer.handlers,
            topics=self.topics,
            foreign=self.consumer.foreign,
            settings=replace(self.settings, **changes),
            now_ms=lambda: self.now_ms,
        )
        loop = ConsumerLoop(
            reading, self.store, self.log, holder, stopping=lambda: False, sleep=self.slept.append
        )
        self.loops.append(loop)
        return loop

    def settle(self, loop: ConsumerLoop | None = None) -> ConsumerLoop:
        """Turn until there is nothing to do; the loop, to go on with."""
        loop = loop or self.loop()
        quiet = 0
        for _ in range(TURNS_MAX):
            try:
                busy = drive(loop.turn())
            except Exception as error:
                drive(loop.outage(error))
                busy = True
            quiet = 0 if busy else quiet + 1
            if quiet == 3:
                return loop
        raise AssertionError(f"not quiet after {TURNS_MAX} turns")

    def after(self, seconds: float, loop: ConsumerLoop) -> ConsumerLoop:
        """Let time pass, then settle."""
        self.now_ms += int(seconds * 1000)
        return self.settle(loop)

    def lives(self, prepare: Callable[[ConsumerLoop], object] = bool) -> ConsumerLoop:
        """Processes, each after the death of the one before, until one settles; that one's loop."""
        for life in range(12):
            self.rows("UPDATE oncebox.cursor SET lease_until = 0 RETURNING 1")
            self.rows("DELETE FROM oncebox.member RETURNING 1")
            self.now_ms += 60_000
            loop = self.loop(f"life {life}")
            prepare(loop)
            try:
                return self.settle(loop)
            except SystemExit:
                continue
        raise AssertionError("twelve processes died")

    def ledger(self) -> list[tuple[str, int]]:
        return [(w, n) for w, n in self.rows("SELECT who, what FROM ledger ORDER BY n")]

    def of(self, who: str) -> list[int]:
        return [what for name, what in self.ledger() if name == who]

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        if self.store.dialect == "sqlite":
            sql = sql.replace("oncebox.", "oncebox_")
        rows: list[tuple[Any, ...]] = self.session.run(sql)
        return rows

    def parked(self) -> dict[str, tuple[str, str, int]]:
        """By key: why it is parked, the reason without module and line, attempts."""
        rows = self.rows(
            "SELECT key, park, reason, attempts FROM oncebox.key WHERE park IS NOT NULL"
        )
        return {
            key: (park, reason and re.sub(r" \([\w.]+:\d+\)$", "", reason), attempts)
            for key, park, reason, attempts in rows
        }

    def kept(self) -> int:
        return int(self.rows("SELECT count(*) FROM oncebox.kept")[0][0])

    def count(self, name: str) -> int:
        return int(self.rows(f"SELECT coalesce(sum({name}), 0) FROM oncebox.cursor")[0][0])

    def close(self) -> None:
        for loop in self.loops:
            loop.reader.close()
            loop.reading.session.close()
        self.session.close()
        self.log.close()


def plain_handler(function: Callable[..., Any], cls: type, *, with_context: bool) -> Handler:
    return Handler(function, event_type(cls), partial(decode, cls), with_context)


def outgoing(sent: Sequence[Sent]) -> list[Outgoing]:
    return [one.outgoing for one in sent]
