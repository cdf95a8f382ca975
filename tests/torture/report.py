"""docs/torture.md: what a campaign did and saw."""

from __future__ import annotations

import os
import platform
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from .campaign import State
from .faults import KINDS
from .points import POINTS

RECOVERY_ASKED_S = 5.0

HEAD = """# Torture

*Written by `make torture`; do not edit.*

Two producers, two relays and three consumer processes of two services, `stock` (handlers that emit;
two processes) and `ledger` (coroutine handlers, reads shop and stock), as operating-system processes
on real PostgreSQL and Kafka, with a proxy before each; one producer, relay and consumer reach
PostgreSQL through PgBouncer in transaction mode. A campaign is a series of rounds, each with
databases and topics of its own. After each round everything has to come to rest; `oncebox audit` has
to be clean; an independent checker (plain SQL and a plain consumer, no code of oncebox's) has to find
that every change took effect once, in the order of its account, and after what it waited for, that
sums which depend on the order agree, that every outside effect was had under one idempotency key,
and that the topics hold all that was made and nothing else; and nothing may be left behind: no
connection, lock, prepared transaction, lease, open batch, kept event, parked key, or refused record.
Any process that ends by itself fails the campaign, and so does a kind of fault that never fired.
"""

FIRED = """
A fault counts when it was seen to fire: a process was gone by SIGKILL, or stood in state T; a point
wrote its name before the process died; a server has another process id; the proxy has counted the
connections that it cut, or the bytes that it held up or swallowed; a backend was terminated; the
cursor of a stopped consumer has a new term; a key stood parked as poison before its redrive.
"""

CLOCK = """
Clock steps are a shim of the worker processes' clock (`time.time`, `time.time_ns`, which is what the
loops of oncebox go by), forward and back by 1.5 seconds to a day; PostgreSQL's and Kafka's clocks stay
as they are.
"""

POINTS_HEAD = """
## Crash points

There is nothing of them in the product, so they cost nothing where there is no torture. Relay and
consumer are *programs*, generators that yield every call which they make (`program.py`), and a worker
under torture runs them by drivers of its own (`tests/torture/points.py`): these die by SIGKILL, or
stand still by SIGSTOP, just before or just after the named call.
"""


def report(state: State, again: str) -> str:
    """The whole page. `again`: the command that runs this campaign again."""
    return "\n".join([HEAD, *facts(state, again), *kinds(state), FIRED, CLOCK, *points(state), ""])


def facts(state: State, again: str) -> Iterator[str]:
    rounds = state.rounds
    seconds = sum(one.seconds for one in rounds)
    changes = sum(one.found["check"]["changes"] for one in rounds)
    records = sum(
        count for one in rounds for name, count in one.found["check"].items() if "records" in name
    )
    yield "## The last campaign\n"
    yield from table(
        ("", ""),
        [
            ("seed", f"{state.seed} (`{again}`)"),
            ("ended", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
            ("machine", machine()),
            ("rounds, all clean", f"{len(rounds)}, {seconds / 60:.0f} minutes in all"),
            ("faults that fired", f"{len(state.fired):,}"),
            ("faults that did not fire, and were tried again", f"{state.in_vain:,}"),
            ("changes; records in the log", f"{changes:,}; {records:,}"),
            ("keys that an operator had to redrive after a round",
             f"{sum(one.found['redriven'] for one in rounds):,}"),
            *recovery(state),
        ],
    )  # fmt: skip


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def recovery(state: State) -> Iterator[tuple[str, str]]:
    """Seconds until effects go on."""
    found = defaultdict(list)
    for one in state.rounds:
        for who, seconds in one.recovery_s.items():
            found[who].append(seconds)
    for who, all_s in found.items():
        what = f"effects go on after kill -9 of the active {who} ({RECOVERY_ASKED_S:g} s asked)"
        middle, most = statistics.median(all_s), max(all_s)
        yield what, f"{middle:.1f} s in the middle, {most:.1f} s at most, {len(all_s)} times"


def kinds(state: State) -> Iterator[str]:
    counts = Counter(wish.kind for wish in state.fired)
    yield "\n## Faults by kind\n"
    rows = [
        (name, (kind.course.__doc__ or "").split("\n")[0], f"{counts[name]:,}")
        for name, kind in KINDS.items()
    ]
    yield from table(("Kind", "What happens", "Fired"), rows)


def points(state: State) -> Iterator[str]:
    counts = Counter((wish.point, wish.how) for wish in state.fired)
    yield POINTS_HEAD
    rows = [
        (
            f"`{point.name}`",
            point.what,
            counts[point.name, "SIGKILL"],
            counts[point.name, "SIGSTOP"],
        )
        for point in POINTS
    ]
    yield from table(("Point", "The process has just", "SIGKILL", "SIGSTOP"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"
