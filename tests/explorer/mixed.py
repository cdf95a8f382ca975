"""Versions mixed in one log: producers of three, consumers of two, and owners of both at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from msgspec import json

from oncebox.codec import decode
from oncebox.event import event, event_type
from oncebox.explorer import Actor, Run
from oncebox.lens.chain import Edge, Lenses
from oncebox.lens.reading import Translator
from oncebox.lens.steps import add, rename, wrap
from oncebox.ports import Outgoing
from oncebox.reading import Handler

from .engines import Engine
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
