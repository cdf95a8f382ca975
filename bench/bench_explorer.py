"""The explorer: schedules per second on one core, five events.

A consumer as teams write it by hand, which is what users will have explored; and oncebox's own
core, whose runs are whole lives with all their statements.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from bench.measure import Figure, figure
from oncebox.explorer import Bounds, World, explore

ROUNDS = 5
DELIVERIES = Bounds(2)
"""Crashes, duplicates and reorderings, two in all."""
OWNERS = Bounds(2, {"crash": 1, "stall": 1})


def run(engines: Any | None) -> list[Figure]:
    if engines is not None:
        return []
    logging.getLogger("oncebox").setLevel(logging.CRITICAL)
    from explorer import zoo
    from explorer.cases import CASES
    from explorer.engines import SqliteEngine

    core = ["an owner at work", "two owners", "a handler that fails", "a relay"]
    return [
        rate("by hand", lambda: zoo.Bazaar(zoo.right), DELIVERIES, "4,000"),
        *(rate(f"core, {name}", lambda c=CASES[name]: c.make(SqliteEngine()), CASES[name].bounds)
          for name in core),
    ]  # fmt: skip


def rate(
    name: str, make: Callable[[], World], bounds: Bounds, target: str = "", *, rounds: int = ROUNDS
) -> Figure:
    """Schedules per second; the notes say how many there are, and how long each is."""
    world = make()
    rates, report = [], explore(world, bounds)
    for _ in range(rounds):
        began = time.perf_counter()
        report = explore(world, bounds)
        rates.append(report.schedules / (time.perf_counter() - began))
    report.expect_clean()
    notes = f"{report.schedules:,} schedules of {report.steps / report.schedules:.0f} steps"
    return figure(f"explorer, {name}", "schedules/s", rates, target, notes)
