"""The play: pgbench runs, faults strike, the replica follows; then both sides are compared."""

from __future__ import annotations

import time
from collections.abc import Callable

from .compare import Comparison, compare
from .stage import PROCESSES, Size, Stage, rows

TICK_S = 0.1
STILL_S = 120.0
"""When the replica has not moved for so long, what is missing will not come."""


def play(size: Size) -> int:
    """Play it, and say what was found; the exit code."""
    with Stage(size) as stage:
        for name in PROCESSES:
            stage.start(name)
        while not stage.benched():
            stage.look_after()
            time.sleep(TICK_S)
        drain(stage, lambda: None)
        stage.stop()
        found = compare(stage.bank.url, stage.replica.url)
    return report(found)


def drain(stage: Stage, tick: Callable[[], None]) -> None:
    """Wait until the replica has what the bank has, or stands still."""
    ((total,),) = rows(stage.bank.url, "select count(*) from audited")
    before, moved = -1, time.monotonic()
    while True:
        ((done,),) = rows(stage.replica.url, "select count(*) from history")
        if done >= total:
            return
        if done != before:
            before, moved = done, time.monotonic()
        elif time.monotonic() - moved > STILL_S:
            return  # the comparison says what is missing
        stage.look_after()
        tick()
        time.sleep(TICK_S)


def report(found: Comparison) -> int:
    """Say what was found; the exit code."""
    for text in found.differences:
        print(f"DIFFERENT: {text}")
    print(
        f"{found.transactions:,} transactions, {found.changes:,} changes of {found.keys:,} rows; "
        f"{found.balances:,} balances compared: {found.count:,} differences"
    )
    return 1 if found.count else 0
