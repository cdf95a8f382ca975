"""What `run` shows: a line for each change of state, and counters on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..operate.summary import Relay, Summary
from ..service.watching import LOOK_S
from .look import Facts, facts
from .output import ASKED, counted, on_terminal, tell

Show = Callable[[str, str], None]
"""Takes whose counters, and the counters."""


@contextmanager
def display() -> Iterator[Show]:
    """Counters at the bottom of a terminal; nothing elsewhere."""
    if ASKED.json or not on_terminal():
        yield lambda whose, counters: None  # noqa: ARG005
        return
    from rich.console import Console
    from rich.live import Live

    shown: dict[str, str] = {}
    with Live(console=Console(), refresh_per_second=4, transient=True) as live:

        def show(whose: str, counters: str) -> None:
            shown[whose] = counters
            live.update(" | ".join(shown.values()))

        yield show


class Changes:
    """Hears what is seen of each service, and says what changed."""

    def __init__(self, show: Show) -> None:
        self.show = show
        self.before: dict[str, Summary | Relay] = {}

    def __call__(self, one: Summary | Relay) -> None:
        whose = f"{one.service} (relay)" if isinstance(one, Relay) else one.name
        _say_changes(whose, self.before.get(whose), one)
        self.show(whose, _counters(whose, self.before.get(whose), one))
        self.before[whose] = one


def _say_changes(whose: str, before: Any, now: Summary | Relay) -> None:
    """A line for whatever is not as it was; at first, for whatever is remarkable."""
    old: Facts = {} if before is None else facts(before)
    for what, (value, text) in facts(now).items():
        was = old[what][0] if old else None
        if value != was and (old or value):
            document = {"consumer": whose, "what": what, "now": value, "before": was}
            tell(document, f"{whose}: {text}")


def _counters(whose: str, before: Any, one: Summary | Relay) -> str:
    if isinstance(one, Relay):
        return f"{whose}: {one.backlog:,} to publish"
    applied, parked = one.counts["applied"], one.parked
    rate = 0 if before is None else int((applied - before.counts["applied"]) / LOOK_S)
    waits = counted(parked.retrying + parked.failed + parked.forked + one.gaps.open, "key")
    done, total = one.rebuilt
    rebuilt = f", rebuilt {done:,} of {total:,}" if total else ""
    return f"{whose}: {applied:,} applied, {rate:,}/s, {waits} waiting{rebuilt}"
