"""Versions mixed in one log: producers of three, consumers of two, and owners of both at once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from msgspec import json

from oncebox.codecs.payload import decode
from oncebox.consumer.reading import Handler
from oncebox.event import event, event_type
from oncebox.explorer import Actor, Broken, Run
from oncebox.lens.chain import Edge, Lenses
from oncebox.lens.copies import Copies
from oncebox.lens.reading import Translator
from oncebox.lens.steps import add, rename, wrap
from oncebox.ports import Outgoing, Topic

from .broker import Broker
from .engines import Engine
from .relaying import RELAY, Relaying
from .shop import TOPIC, Fact, Paid, Shop

TYPE = "order.paid"


@dataclass(frozen=True)
class Amount:
    minor: int
    currency: str


@event(TYPE, stream=TOPIC, key="order", version=2)
@dataclass(frozen=True)
class Paid2:
    order: str
    amount: Amount


def lenses() -> Lenses:
    made = Lenses()
    wrapped = wrap("cents", into="amount.minor"), add("amount.currency", default="EUR")
    made.add(TYPE, Edge(1, 2, wrapped))
    made.add(TYPE, Edge(2, 3, (rename("order", "order_id"),)))
    return made


LENSES = lenses()


def in_version(record: Outgoing, version: int) -> Outgoing:
    """A record of version 1 as a producer of that version would have emitted it."""
    translation = LENSES.translation(TYPE, 1, version)
    assert translation is not None
    value = json.encode(translation(json.decode(record.value or b"")))
    schema = ("ce_dataschema", f"oncebox:{TYPE}/{version}")
    headers = [schema if name == "ce_dataschema" else (name, said) for name, said in record.headers]
    return record._replace(value=value, headers=headers)


class Mixed(Shop):
    """Events in these versions, by turns; processes that read these, by turns: the first one, the
    second, and those that come after a crash.
    """

    def __init__(
        self, engine: Engine, facts: Sequence[Fact], *, written: Sequence[int], read: Sequence[int],
        **more: Any,
    ) -> None:  # fmt: skip
        super().__init__(engine, facts, **more)
        self.facts = [
            (fact, in_version(record, written[at % len(written)]))
            for at, (fact, record) in enumerate(self.facts)
        ]
        self.read = read
        self.codes = {version: self.code(version) for version in read}

    def code(self, version: int) -> dict[str, Handler]:
        cls = Paid if version == 1 else Paid2
        declared = event_type(cls)
        made = Handler(
            self.pay if version == 1 else self.pay_2, declared, partial(decode, cls),
            with_context=False, translate=Translator(declared, LENSES),
        )  # fmt: skip
        return {TYPE: made}

    def pay_2(self, tx: Any, paid: Paid2) -> None:
        self.pay(tx, Paid(paid.order, paid.amount.minor))

    def handlers_of(self, actor: Actor) -> Mapping[str, Handler]:
        at = 1 if actor.name == "two" else self.starts
        return self.codes[self.read[at % len(self.read)]]

    def cast(self, run: Run) -> None:
        run.start("one", self.work)


class MixedRivals(Mixed):
    """A deployment in the middle: an owner with the older code, and one with the newer."""

    def cast(self, run: Run) -> None:
        run.start("one", self.work)
        run.start("two", self.life)

    def is_quiet(self) -> bool:
        rows = self.engine.rows("SELECT DISTINCT holder FROM oncebox.cursor WHERE holder > ''")
        return len(rows) == len(self.run.actors) and super().is_quiet()


COPY = "orders.v2"


class Two(Broker):
    """A log with a second topic, for copies."""

    def __init__(self, topic: str, partitions: int) -> None:
        super().__init__(topic, partitions)
        self.copies = Broker(COPY, partitions)

    def begin(self, run: Run) -> None:
        super().begin(run)
        self.copies.partition_by_key = self.partition_by_key
        self.copies.begin(run)

    def state(self) -> Hashable:
        return super().state(), self.copies.state()

    def describe(self, topic: str) -> Topic | None:
        return super().describe(TOPIC if topic == COPY else topic)

    def append(self, record: Outgoing, partition: int | None = None) -> None:
        if record.topic == COPY:
            self.copies.append(record, partition)
        else:
            super().append(record, partition)


class RelayingTwice(Relaying):
    """A relay with a topic in another version: both have each event, in the order of its key."""

    def __init__(self, engine: Engine, orders: dict[str, list[list[Fact]]], **more: Any) -> None:
        copies = Copies(TOPIC, COPY, {TYPE: 2}, lenses=LENSES)
        super().__init__(engine, orders, settings=RELAY._replace(copies=(copies,)), **more)

    def new_broker(self) -> Two:
        broker = Two(TOPIC, 2)
        broker.partition_by_key = {b"a": 0, b"b": 1}
        broker.faulty = True
        return broker

    def published(self) -> dict[str, list[int]]:
        both: Any = self.broker
        found = super().published()
        try:
            self.broker = both.copies
            copied = super().published()
        finally:
            self.broker = both
        if copied != found:
            raise Broken(f"copied: {copied}, published: {found}")
        return found
