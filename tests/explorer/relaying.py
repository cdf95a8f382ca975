"""The world of a relay: transactions that emit, relays that publish what was committed."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import pytest

from oncebox.emit import Emitter
from oncebox.explorer import Actor, Broken, Run
from oncebox.ports import Record
from oncebox.program import Program, call
from oncebox.relay import Relay, RelaySettings

from .engines import Engine
from .shop import TOPIC, Fact, Paid, Shop

RELAY = RelaySettings(
    poll_s=0.2,
    idle_poll_s=0.2,
    lease_s=0.8,
    retry_s=0.3,
    retry_max_s=0.3,
    partitions=2,
    upkeep_s=3600.0,
)


class Till(Emitter):
    """The service whose outbox is relayed."""

    name = "shop"
    instance = None
    schema = "oncebox"


class Relaying(Shop):
    """`orders`: by actor, the events of each of its transactions. `pause_s`: between them.
    `early`: they have their events numbered some time before they commit, as PostgreSQL allows.
    `wait_s`: when the relays start.
    """

    def __init__(
        self,
        engine: Engine,
        orders: dict[str, list[list[Fact]]],
        *,
        relays: tuple[str, ...] = ("relay",),
        settings: RelaySettings = RELAY,
        pause_s: float = 0.0,
        early: bool = False,
        wait_s: float = 0.0,
        every_step: bool = True,
    ) -> None:
        super().__init__(engine, (), every_step=every_step)
        self.orders = orders
        self.relays = relays
        self.pause_s = pause_s
        self.early = early
        self.wait_s = wait_s
        self.relay_settings = settings
        self.broker = self.new_broker()
        self.till = Till()

    def new_broker(self) -> Any:
        broker = type(self.broker)(TOPIC, 2)
        broker.partition_by_key = {b"a": 0, b"b": 1}
        broker.faulty = True
        return broker

    def cast(self, run: Run) -> None:
        for name in self.orders:
            run.start(name, self.order)
        for name in self.relays:
            run.start(name, self.relay, rest_s=self.wait_s)

    def restart(self, actor: Actor) -> None:
        """A relay is started again; a customer is not."""
        if actor.name not in self.orders:
            self.starts += 1
            wait_s = self.relay_settings.lease_s + 0.1
            actor.run.start(f"new{self.starts}", self.relay, rest_s=wait_s)

    def arrange(self, run: Run) -> None:
        run.start("first", self.relay)

    # ---- who acts

    def order(self, actor: Actor) -> Program[None]:
        """Place orders, and emit an event of each in the same transaction."""
        store = self.engine.store(actor)
        session = yield from call(store.open)
        for facts in self.orders[actor.name]:
            yield from call(session.begin)
            for fact in facts:
                paid = Paid(fact.key, fact.value)
                insert = "INSERT INTO placed (key, value) VALUES (?, ?)"
                yield from call(session.run, self.engine.native(insert), (fact.key, fact.value))
                yield self.emit, (session.handle, paid)
            if self.early:
                yield from call(session.run, "SET CONSTRAINTS ALL IMMEDIATE")
                yield from call(session.run, "SELECT 1")
            yield from call(session.commit)
            if self.pause_s:
                yield actor.rest, (self.pause_s,)

    def emit(self, tx: Any, paid: Paid) -> Any:
        """With an id that is the same in every run."""
        made = UUID(bytes=f"{paid.order}{paid.cents}".encode().ljust(16))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("oncebox.emit.new_id_and_text", lambda: (made, str(made)))
            return self.till.emit(tx, paid)

    def relay(self, actor: Actor) -> Program[None]:
        relay = Relay(
            self.engine.store(actor), self.broker, "shop", actor.name, self.relay_settings,
            lambda: self.run.now_ms / 1000, actor.rest,
        )  # fmt: skip
        return relay.run(lambda: self.stopping(actor))

    # ---- the end

    def is_read(self) -> bool:
        if self.arranging:
            return bool(self.engine.rows("SELECT 1 FROM oncebox.cursor WHERE position <> ''"))
        return not any(actor.name in self.orders for actor in self.run.actors)

    def is_quiet(self) -> bool:
        """Whether everything is published that will be: the cursor stands behind it."""
        rows = self.engine.rows("SELECT position FROM oncebox.cursor")
        refused = self.engine.rows("SELECT 1 FROM oncebox.refused")
        if refused or not rows or rows[0][0] is None:
            return False
        needed = re.match(r"\[(\d+)", rows[0][0])
        ((last,),) = self.engine.rows(self.engine.last_position)
        return needed is not None and int(needed[1]) > last

    def check(self) -> object:
        placed = self.engine.rows("SELECT key, value FROM placed ORDER BY n")
        committed: dict[str, list[int]] = {}
        for key, value in placed:
            committed.setdefault(key, []).append(value)
        published = self.published()
        for key in sorted(committed.keys() | published.keys()):
            had, due = published.get(key, []), committed.get(key, [])
            if self.engine.dialect == "postgres":  # `n` is not the order of commits there
                had, due = sorted(had), sorted(due)
            if had != due:
                raise Broken(f"published of key {key}: {had}, committed {due}")
        if not self.is_quiet():
            raise Broken("something is still to be published")
        self.check_owners()
        return None

    def published(self) -> dict[str, list[int]]:
        """Values by key in the order of their first publication, numbers as they should be."""
        found: dict[str, list[int]] = {}
        for part in self.broker.parts:
            for record in part:
                key, sequence, value = read(record)
                values = found.setdefault(key, [])
                if value in values:
                    continue
                values.append(value)
                if sequence != len(values):
                    raise Broken(f"event {value} of key {key} is number {sequence}: {values}")
        return found


def read(record: Record) -> tuple[str, int, int]:
    """Key, sequence and value of a record."""
    assert record.key is not None and record.value is not None
    chain = dict(record.headers)["ce_chain"]
    assert chain is not None
    value = re.search(rb'"(?:cents|minor)":(\d+)', record.value)
    assert value is not None
    return record.key.decode(), int(chain.split(b":")[0]), int(value[1])
