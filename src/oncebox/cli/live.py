"""What `run` shows: a line for each change of state, and counters on a terminal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from ..desk import at_store, desk_at
from ..places import place_of
from ..program import Program, call
from ..service import Service
from ..session import Session, Store
from ..summary import Relay, Summary, relays, summary
from ..work import Running
from .look import Facts, facts
from .output import ASKED, counted, on_terminal, tell

logger = logging.getLogger("oncebox.cli")

TICK_S = 1.0

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


def watch(work: Running, services: Sequence[Service], show: Show, *, consume: bool) -> None:
    """Look at each service once a second while it runs, and say what changed."""
    for service in services:
        names = [c.name for c in service.consumers.values() if c.handlers and consume]
        store = place_of(service).open_store()
        program = partial(_watch, work, store, service.name, names, show)
        work.start(f"watch:{service.name}", program, asynchronous=store.asynchronous)


def _watch(
    work: Running, store: Store, service: str, names: list[str], show: Show
) -> Program[None]:
    pause = work.sleeper(asynchronous=store.asynchronous)
    before: dict[str, Summary | Relay] = {}

    def look(session: Session) -> Program[None]:
        while not work.stopping():
            for one in (yield from _seen(store, session, service, names)):
                whose = f"{one.service} (relay)" if isinstance(one, Relay) else one.name
                _say_changes(whose, before.get(whose), one)
                show(whose, _counters(whose, before.get(whose), one))
                before[whose] = one
            yield from call(pause, TICK_S)

    while not work.stopping():
        try:
            yield from at_store(store, look)
        except Exception as error:  # showing must not end the work, which has its own troubles
            logger.debug("cannot look at %s: %s", service, error)
            yield from call(pause, TICK_S)


def _seen(
    store: Store, session: Session, service: str, names: list[str]
) -> Program[list[Summary | Relay]]:
    found: list[Summary | Relay] = []
    for name in names:
        found.append((yield from summary(desk_at(store, session, name))))
    outboxes = yield from relays(desk_at(store, session, ""))
    return [*found, *(one for one in outboxes if one.service == service)]


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
    rate = 0 if before is None else int((applied - before.counts["applied"]) / TICK_S)
    waits = counted(parked.retrying + parked.failed + parked.forked + one.gaps.open, "key")
    done, total = one.rebuilt
    rebuilt = f", rebuilt {done:,} of {total:,}" if total else ""
    return f"{whose}: {applied:,} applied, {rate:,}/s, {waits} waiting{rebuilt}"
