"""The core under the explorer, on SQLite in memory: every schedule within the bounds is good."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from oncebox.explorer import Bounds, explore
from oncebox.explorer.explore import Report

from .cases import CASES, DUELS, PREEMPTIONS
from .engines import SqliteEngine
from .shop import Shop


@pytest.fixture
def engine(caplog: pytest.LogCaptureFixture) -> Iterator[SqliteEngine]:
    caplog.set_level(logging.CRITICAL, logger="oncebox")  # thousands of runs warn of crashes
    made = SqliteEngine()
    yield made
    made.close()


def explored(shop: Shop, bounds: Bounds, *, every_step: bool) -> Report:
    shop.every_step = every_step
    report = explore(shop, bounds)
    print(report)
    return report


@pytest.mark.parametrize("name", CASES)
def test_every_schedule_ends_well(engine: SqliteEngine, name: str) -> None:
    make, bounds, kinds = CASES[name]
    shop = make(engine)
    explored(shop, bounds, every_step=shop.every_step).expect_clean(*kinds)


@pytest.mark.parametrize("name", [*CASES, *DUELS])
def test_a_crash_before_every_step(engine: SqliteEngine, name: str) -> None:
    make = CASES[name].make if name in CASES else DUELS[name]
    explored(make(engine), Bounds(1), every_step=True).expect_clean("crash")


@pytest.mark.parametrize("swapped", [False, True], ids=["", "swapped"])
@pytest.mark.parametrize("name", DUELS)
def test_every_interleaving_of_two(engine: SqliteEngine, name: str, *, swapped: bool) -> None:
    duel = DUELS[name](engine)
    duel.swapped = swapped
    explored(duel, PREEMPTIONS, every_step=True).expect_clean("preemption")
    both = Bounds(2, {"crash": 1, "stall": 1, "reordering": 0})
    explored(duel, both, every_step=False).expect_clean("crash", "stall", "preemption")


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", CASES)
def test_every_pair_of_deviations(engine: SqliteEngine, name: str) -> None:
    make, bounds, kinds = CASES[name]
    explored(make(engine), Bounds(bounds.total), every_step=True).expect_clean(*kinds)
