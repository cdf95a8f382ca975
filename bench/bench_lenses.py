"""Versions translated: a step against a function written by hand, a consumer against itself."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import json

from bench.bench_consumer import KEYS, UPDATE, fresh_store
from bench.measure import Figure, paired, stopwatch
from oncebox.codecs.payload import decode
from oncebox.consumer.loop import ConsumerLoop
from oncebox.consumer.reading import Handler, Reading, Settings
from oncebox.envelope import chain_text, event_headers
from oncebox.event import event, event_type, new_id
from oncebox.lens.chain import Edge, Lenses
from oncebox.lens.reading import Translator
from oncebox.lens.steps import add, remove, rename, wrap
from oncebox.logs.embedded import EmbeddedLog
from oncebox.ports import Outgoing
from oncebox.program import drive
from oncebox.statements import statements

BURSTS, BURST = 60, 500
COUNT = 30_000
ROUNDS = 7
TYPE = "bench.placed"


@dataclass(frozen=True)
class Amount:
    minor: int
    currency: str


@event(TYPE, stream="orders", key="order_id", version=4)
@dataclass(frozen=True)
class Placed4:
    order_id: str
    amount: Amount
    text: str
    channel: str


def lenses() -> Lenses:
    """Three steps to version 4; and one with eight fields on the way."""
    made = Lenses()
    wrapped = wrap("cents", into="amount.minor"), add("amount.currency", default="EUR")
    made.add(TYPE, Edge(1, 2, wrapped))
    made.add(TYPE, Edge(2, 3, (rename("note", "text"),)))
    made.add(TYPE, Edge(3, 4, (add("channel", default="web"),)))
    eight = rename("cust", "customer"), add("channel", default="web"), remove("legacy", default=0)
    made.add("bench.eight", Edge(1, 2, eight))
    return made


LENSES = lenses()


def document() -> dict[str, Any]:
    """Eight fields."""
    return {
        "order_id": "o-1", "cust": "ada", "cents": 1250, "currency": "EUR", "sku": "sku-1",
        "quantity": 2, "note": None, "legacy": 0,
    }  # fmt: skip


def up_by_hand(d: dict[str, Any]) -> dict[str, Any]:
    d["customer"] = d.pop("cust")
    d["channel"] = "web"
    d.pop("legacy", None)
    return d


def down_by_hand(d: dict[str, Any]) -> dict[str, Any]:
    d["legacy"] = 0
    d.pop("channel", None)
    d["cust"] = d.pop("customer")
    return d


def rate(run: Callable[[Any], Any], make: Callable[[], Any]) -> Callable[[], float]:
    """Documents a second; each is made before the clock runs."""

    def measured() -> float:
        best = 0.0  # of short bursts: what else runs on the machine is not measured
        for _ in range(BURSTS):
            documents = [make() for _ in range(BURST)]
            with stopwatch() as elapsed:
                for one in documents:
                    run(one)
                best = max(best, BURST / elapsed())
        return best

    return measured


def steps(rounds: int) -> list[Figure]:
    """One step, eight fields, in both directions."""
    up, down = (LENSES.translation("bench.eight", *way) for way in ((1, 2), (2, 1)))
    assert up is not None and down is not None
    newer = up_by_hand(document())
    assert up(document()) == newer and down(dict(newer)) == document()
    figures = []
    for name, ours, theirs, make in (
        ("upcast, one step, eight fields", up.plain, up_by_hand, document),
        ("downcast, one step, eight fields", down.plain, down_by_hand, lambda: dict(newer)),
    ):
        figures += paired(
            name, rate(ours, make), rate(theirs, make), rounds=rounds, unit="documents/s",
            against="by hand", target=">= 0.8",
        )  # fmt: skip
    return figures


def backlog(log: EmbeddedLog, topic: str, version: int) -> None:
    """Chained events of that version, as a relay publishes them."""
    translation = LENSES.translation(TYPE, 1, version)
    assert translation is not None
    last: dict[str, tuple[int, int | None]] = {}
    base, batch = time.time_ns() // 1000 * 1024, []
    for i in range(COUNT):
        key = f"order-{i * 7919 % KEYS:06d}"
        sequence, previous = last.get(key, (0, None))
        stamp = base + i * 1024
        last[key] = (sequence + 1, stamp)
        said = translation({"order_id": key, "cents": i % 100, "note": "n" * 250})
        chain = chain_text(sequence + 1, stamp, previous)
        headers = event_headers(str(new_id()), f"/shop/{topic}", TYPE, version, chain)
        batch.append(Outgoing(topic, key.encode(), json.encode(said), headers, 0))
    for at in range(0, COUNT, 5000):
        assert log.publish(batch[at : at + 5000], 60.0) == []


def consumed(log: EmbeddedLog, folder: Path, topic: str) -> float:
    """Events a second, of a consumer that begins anew."""
    store, done = fresh_store(folder), [0]

    def owe(tx: Any, placed: Placed4) -> None:
        tx.execute(UPDATE, (placed.amount.minor, placed.order_id))
        done[0] += 1

    declared = event_type(Placed4)
    handler = Handler(
        owe, declared, partial(decode, Placed4), with_context=False,
        translate=Translator(declared, LENSES),
    )  # fmt: skip
    reading = Reading(
        consumer=f"billing-{new_id()}", session=store.open(), sql=statements(store.dialect),
        handlers={TYPE: handler}, topics=(topic,), settings=Settings(),
        now_ms=lambda: time.time_ns() // 1_000_000,
    )  # fmt: skip
    loop = ConsumerLoop(
        reading, store, log, "bench", stopping=lambda: done[0] >= COUNT, sleep=time.sleep
    )
    with stopwatch() as elapsed:
        drive(loop.run())
        seconds = elapsed()
    reading.session.close()
    return COUNT / seconds


def consumers(rounds: int) -> list[Figure]:
    """The same consumer for events three versions older, and for those of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log = EmbeddedLog(folder / "log.db")
        for topic, version in (("older", 1), ("same", 4)):
            log.create(topic, 4)
            backlog(log, topic, version)
        figures = paired(
            "consumer, three versions up, SQLite", lambda: consumed(log, folder, "older"),
            lambda: consumed(log, folder, "same"), rounds=rounds, against="the same version",
            target=">= 0.9",
        )  # fmt: skip
        log.close()
    return figures


def run(engines: object) -> list[Figure]:
    """All of them."""
    del engines
    return steps(ROUNDS) + consumers(5)
