"""The core under the explorer, on SQLite in memory: every schedule within the bounds is good."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from oncebox.explorer import Bounds, explore

from .cases import CASES, DUELS, Case
from .engines import SqliteEngine


@pytest.fixture
def engine(caplog: pytest.LogCaptureFixture) -> Iterator[SqliteEngine]:
    caplog.set_level(logging.CRITICAL, logger="oncebox")  # thousands of runs warn of crashes
    made = SqliteEngine()
    yield made
    made.close()


@pytest.mark.parametrize("name", CASES)
def test_every_schedule_ends_well(engine: SqliteEngine, name: str) -> None:
    make, bounds, kinds = CASES[name]
    report = explore(make(engine), bounds)
    print(report)
    report.expect_clean(*kinds)


@pytest.mark.parametrize("swapped", [False, True], ids=["", "swapped"])
@pytest.mark.parametrize("name", DUELS)
def test_every_interleaving_of_two(engine: SqliteEngine, name: str, *, swapped: bool) -> None:
    duel = DUELS[name](engine)
    duel.swapped = swapped
    report = explore(duel, Bounds(2, {"crash": 1, "stall": 1, "reordering": 0}))
    print(report)
    report.expect_clean("crash", "stall", "preemption")


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", CASES)
def test_every_schedule_with_a_deviation_more(engine: SqliteEngine, name: str) -> None:
    case: Case = CASES[name]
    shop = case.make(engine)
    shop.every_step = True
    report = explore(shop, Bounds(case.bounds.total, {}))
    print(report)
    report.expect_clean(*case.kinds)
