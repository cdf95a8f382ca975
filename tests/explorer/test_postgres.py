"""The same scripts for two sessions on a real PostgreSQL, which has more than one writer.

SQLite cannot show what happens between a read and a lock; here it can happen, and does with the
bugs that are planted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from oncebox import relay
from oncebox.consumer import loop as consumer
from oncebox.consumer.lanes import Lanes
from oncebox.explorer import Bounds, explore
from oncebox.explorer.explore import Report

from . import mutants
from .abreast import ABREAST, AbreastAtWork, AbreastFailing, AbreastRivals
from .cases import DUELS, PREEMPTIONS, Make
from .engines import Engine
from .postgres import PostgresEngine
from .relaying import Relaying
from .shop import Fact, Shop


@pytest.fixture
def engine(
    postgres_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PostgresEngine]:
    """Loops ask the log on a thread where their store is asynchronous: here there is none."""
    for loop in (consumer, relay):
        monkeypatch.setattr(loop, "to_thread", lambda function, *arguments: function(*arguments))
    caplog.set_level(logging.CRITICAL, logger="oncebox")
    made = PostgresEngine(postgres_url)
    yield made
    made.close()


def explored(shop: Shop, bounds: Bounds) -> Report:
    report = explore(shop, bounds)
    print(report)
    return report


LONGEST = {"take over", "wake", "retries", "retries of two keys"}
"""Those with the most steps: half a minute each."""
ORDERS = [
    pytest.param(name, swapped, marks=[pytest.mark.long] if swapped or name in LONGEST else [],
                 id=f"{name}-swapped" if swapped else name)
    for name in DUELS
    for swapped in (False, True)
]  # fmt: skip


@pytest.mark.parametrize(("name", "swapped"), ORDERS)
def test_every_interleaving_of_two(engine: PostgresEngine, name: str, *, swapped: bool) -> None:
    duel = DUELS[name](engine)
    duel.swapped = swapped
    explored(duel, PREEMPTIONS).expect_clean("preemption")


@pytest.mark.parametrize("name", DUELS)
def test_a_crash_and_a_stall_before_every_step(engine: PostgresEngine, name: str) -> None:
    explored(DUELS[name](engine), Bounds(1)).expect_clean("crash", "stall", "preemption")


def crosswise(engine: Engine) -> Shop:
    """Two transactions that emit for the same keys in opposite orders; a relay comes later."""
    orders = {
        "ann": [[Fact("a", 1), Fact("b", 1)]],
        "bob": [[Fact("b", 2), Fact("a", 2)]],
    }
    return relaying(engine, orders, wait_s=1.0)


def numbered_early(engine: Engine) -> Shop:
    """Transactions that stay open behind the moment when their events get their positions."""
    return relaying(engine, {"ann": [[Fact("a", 1)]], "bob": [[Fact("b", 1)]]}, early=True)


def relaying(engine: Engine, orders: dict[str, list[list[Fact]]], **more: Any) -> Shop:
    # What runs would make and not undo (partitions), or wait for each other to make (the source's
    # row), is there from the beginning.
    return Relaying(engine, orders, **more).arranged(
        (),
        "INSERT INTO oncebox.source (name) VALUES ('/shop/orders')",
        "UPDATE oncebox.cursor SET lease_until = 0",
    )


@pytest.mark.parametrize("make", [crosswise, numbered_early])
def test_every_interleaving_of_emits_and_a_relay(engine: PostgresEngine, make: Make) -> None:
    explored(make(engine), PREEMPTIONS).expect_clean("preemption")


@pytest.mark.parametrize("make", [crosswise, numbered_early])
def test_a_relay_crashes_before_every_step(engine: PostgresEngine, make: Make) -> None:
    report = explored(make(engine), Bounds(1))
    report.expect_clean("crash", "stall", "preemption", "refusal", "lost answer")


ABREAST_FACTS = (Fact("a", 1), Fact("b", 1, 1), Fact("a", 2))
"""Two keys on two partitions."""

AT_WORK = "at work"
ABREAST_CASES: dict[str, Make] = {
    AT_WORK: lambda e: AbreastAtWork(e, ABREAST_FACTS, settings=ABREAST).arranged(),
    "rivals": lambda e: AbreastRivals(
        e, ABREAST_FACTS, settings=ABREAST, duplicates=False
    ).arranged(),
    "failing": lambda e: AbreastFailing(
        e, ABREAST_FACTS, settings=ABREAST, duplicates=False, failing=[("a", 1)]
    ).arranged(),
}

PLANTED: list[tuple[mutants.Plant, Make]] = [
    (mutants.rows_read_before_locked, DUELS["retries"]),
    (mutants.locks_in_any_order, DUELS["retries of two keys"]),
    (mutants.redrive_without_the_lock, DUELS["redrive of what is retried"]),
    (mutants.select_then_insert, DUELS["claims"]),
    (mutants.above_the_last_position, numbered_early),
]


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_a_position_that_moves_past_what_is_open_is_found(
    engine: PostgresEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lanes, "position", lambda lanes, partition: lanes.ends[partition])
    bounds = Bounds(2, {"preemption": 0, "duplicate": 0, "reordering": 0})
    report = explored(ABREAST_CASES[AT_WORK](engine), bounds)
    assert report.failure is not None, "not found"
    assert set(report.failure.fired) == {"crash", "stall"}


@pytest.mark.parametrize(("plant", "make"), PLANTED, ids=[p.__name__ for p, _ in PLANTED])
def test_a_planted_bug_is_found(
    engine: PostgresEngine,
    monkeypatch: pytest.MonkeyPatch,
    plant: mutants.Plant,
    make: Make,
) -> None:
    shop = make(engine)
    plant(monkeypatch, shop)
    report = explored(shop, PREEMPTIONS)
    assert report.failure is not None, "not found"
    assert set(report.failure.fired) == {"preemption"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long, pytest.mark.timeout(7200)] * (name != AT_WORK))
        for name in ABREAST_CASES
    ],
)
def test_events_side_by_side(engine: PostgresEngine, name: str) -> None:
    explored(ABREAST_CASES[name](engine), Bounds(1)).expect_clean("crash", "stall", "preemption")


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_every_pair_of_deviations_side_by_side(engine: PostgresEngine) -> None:
    explored(ABREAST_CASES[AT_WORK](engine), Bounds(2)).expect_clean("crash", "stall", "preemption")


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", DUELS)
def test_every_pair_of_deviations(engine: PostgresEngine, name: str) -> None:
    explored(DUELS[name](engine), Bounds(2)).expect_clean("crash", "stall", "preemption")
