"""The play: pgbench runs, faults strike, the replica follows; then both sides are compared."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass

import psycopg

from .compare import Comparison, compare
from .faults import Faults
from .lags import Lags, measure
from .stage import PROCESSES, DemoFailed, Size, Stage, rows
from .view import View

TICK_S = 0.05
AT_WORK_S = 300.0
"""How long oncebox's processes may take to begin."""

STILL_S = 120.0
"""When the replica has not moved for so long, what is missing will not come."""


@dataclass
class Outcome:
    """What came of it."""

    comparison: Comparison
    faults: Faults
    lags: Lags | None
    starts: int


def play(size: Size) -> Outcome:
    """Play it on servers of its own. Raises DemoFailed where the stage itself breaks."""
    faults = Faults(size.faults, size.seed)
    with Stage(size) as stage, closing(faults), closing(View(stage, faults)) as view:
        for name in PROCESSES:
            stage.start(name)
        while not stage.at_work():
            stage.look_after()
            if time.monotonic() > stage.began + AT_WORK_S:
                raise DemoFailed(f"nobody relays or consumes after {AT_WORK_S:g} s")
            time.sleep(TICK_S)
        stage.began = time.monotonic()
        with view.on():
            while not stage.benched():
                _tick(stage, faults, view, max(view.share(), view.transactions / size.transactions))
            view.phase = "the replica catches up"
            while not faults.over:
                _tick(stage, faults, view, 1.0)
            _drain(stage, faults, view)
            view.phase = "both sides are compared"
            view.next = 0.0
            view.tick()
        stage.stop()
        found = compare(stage.bank.url, stage.replica.url)
        return Outcome(found, faults, measure(stage.bank.url, stage.replica.url), stage.starts)


def _tick(stage: Stage, faults: Faults, view: View, share: float) -> None:
    stage.look_after()
    faults.strike(stage, share)
    view.tick()
    time.sleep(TICK_S)


def _drain(stage: Stage, faults: Faults, view: View) -> None:
    """Wait until the replica has what the bank has, or stands still."""
    ((total,),) = rows(stage.bank.url, "select count(*) from audited")
    before, moved = -1, time.monotonic()
    while True:
        try:
            ((done,),) = rows(stage.replica.url, "select count(*) from history")
        except psycopg.OperationalError:
            done = before
        if done >= total:
            return
        if done != before:
            before, moved = done, time.monotonic()
        elif time.monotonic() - moved > STILL_S:
            return  # the comparison says what is missing
        for _ in range(10):
            _tick(stage, faults, view, 1.0)


def report(outcome: Outcome, size: Size) -> int:
    """Say what was found; the exit code."""
    found, fired = outcome.comparison, outcome.faults.fired
    for text in found.differences:
        print(f"DIFFERENT: {text}")
    print(
        f"{found.transactions:,} transactions by {size.clients} clients, pgbench started"
        f" {outcome.starts} times; {len(fired)} of {size.faults} faults fired"
    )
    for kind, count in sorted(Counter(one.kind for one in fired).items()):
        print(f"    {count} x {kind}")
    if outcome.lags is not None:
        _tell_lags(outcome.lags, outcome.faults)
    print(
        f"{found.balances:,} balances and {found.changes:,} changes of {found.keys:,} rows"
        f" compared: {found.count:,} differences"
    )
    if size.faults and not fired:
        print("NO FAULT FIRED: this shows nothing")
    return 1 if found.count or (size.faults and not fired) else 0


def _tell_lags(lags: Lags, faults: Faults) -> None:
    low, high, most = (lags.share(part) for part in (0.5, 0.99, 1.0))
    late = sum(span.ended - span.began for span in lags.spans)
    print(f"lag, commit to commit: p50 {low:.3f} s, p99 {high:.3f} s, most {most:.1f} s")
    print(f"    over 1 s in {len(lags.spans)} spans, {late:.1f} s in all")
    back = lags.recoveries(faults.fired)
    if back:
        alone = sum(1 for one in back if one < 0)
        print(f"    back under it {max(back):.1f} s after the fault at most; without any: {alone}")
    drained = lags.last_here - lags.last_there
    if drained > 0:
        rate = lags.drained / drained
        print(f"backlog at the end: {lags.drained:,} changes in {drained:.1f} s, {rate:,.0f}/s")
