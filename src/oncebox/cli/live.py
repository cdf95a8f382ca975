"""What `run` shows: a line for each change of state, and counters on a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ..program import Program, T, call, drive, drive_async
from .common import Options, desk_of
from .output import line, on_terminal, say

if TYPE_CHECKING:
    from ..service import Service
    from ..session import Session
    from ..summary import Summary

logger = logging.getLogger("oncebox.cli")

TICK_S = 1.0


async def watch(services: Sequence[Service], options: Options, *, consume: bool) -> None:
    """Look at the consumers once a second, and say what changed."""
    views = [View(service) for service in services if consume]
    before: dict[str, Summary] = {}
    try:
        async with _display(options) as show:
            while True:
                now: dict[str, Summary] = {}
                for view in views:
                    now |= await view.look()
                for name, one in now.items():
                    _changes(name, before.get(name), one, options)
                show(now, before)
                before |= now
                await asyncio.sleep(TICK_S)
    finally:
        for view in views:
            await view.close()


class View:
    """One service's consumers, seen over a session that is kept."""

    def __init__(self, service: Service) -> None:
        from ..stores.adapt import open_store

        self.service = service
        self.store = open_store(service.store, service.schema)
        self.session: Session | None = None

    async def look(self) -> dict[str, Summary]:
        """The consumers as they are; none while the store cannot be reached."""
        from ..summary import summary

        found: dict[str, Summary] = {}
        try:
            if self.session is None:
                self.session = await self._perform(call(self.store.open))
            for name, consumer in self.service.consumers.items():
                if consumer.handlers:
                    desk = desk_of(self.store, self.session, name)
                    found[name] = await self._perform(summary(desk))
        except Exception as error:  # showing must not end the work, which has its own troubles
            logger.debug("cannot look at %s: %s", self.service.name, error)
            await self.close()
        return found

    async def close(self) -> None:
        session, self.session = self.session, None
        if session is not None:
            with contextlib.suppress(Exception):
                await self._perform(call(session.close))

    async def _perform(self, program: Program[T]) -> T:
        if self.store.asynchronous:
            return await drive_async(program)
        return await asyncio.to_thread(drive, program)


# ---- changes


def _changes(name: str, before: Summary | None, now: Summary, options: Options) -> None:
    """A line for whatever is not as it was."""
    for what, value, text in _state(now):
        old = None if before is None else next(v for w, v, _ in _state(before) if w == what)
        if value == old or (before is None and not value):
            continue
        if options.json:
            line({"consumer": name, "what": what, "now": value, "before": old})
        else:
            say(f"{name}: {text}")


def _state(one: Summary) -> list[tuple[str, Any, str]]:
    """What is worth a line when it changes: name, value, sentence."""
    holders = {}
    for cursor in one.cursors:
        holders[f"{cursor.topic}/{cursor.partition}"] = cursor.holder
    counts = Counter(who for who in holders.values() if who)
    held = ", ".join(f"{count} by {who}" for who, count in sorted(counts.items())) or "none"
    rebuilding = sum(one.rebuilding.values())
    return [
        ("partitions", holders, f"partitions read: {held}"),
        ("retrying", one.retrying, f"{one.retrying} keys are tried again by themselves"),
        ("failed", one.failed, f"{one.failed} keys failed for good: oncebox parked {one.consumer}"),
        ("forked", one.forked, f"{one.forked} keys forked: oncebox parked {one.consumer}"),
        ("gaps", one.gaps, f"{one.gaps} keys miss an event"),
        ("quarantine", one.quarantined, f"{one.quarantined} records in quarantine"),
        ("rebuilding", bool(rebuilding), "rebuilding" if rebuilding else "not rebuilding"),
    ]


# ---- counters

Show = Callable[[dict[str, "Summary"], dict[str, "Summary"]], None]


@asynccontextmanager
async def _display(options: Options) -> AsyncIterator[Show]:
    """Counters at the bottom of a terminal; nothing elsewhere."""
    if options.json or not on_terminal():
        yield lambda now, before: None  # noqa: ARG005
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(), refresh_per_second=4, transient=True) as live:

        def show(now: dict[str, Summary], before: dict[str, Summary]) -> None:
            live.update(" | ".join(_counters(one, before.get(name)) for name, one in now.items()))

        with contextlib.suppress(asyncio.CancelledError):
            yield show


def _counters(one: Summary, before: Summary | None) -> str:
    applied = one.total("applied")
    rate = 0 if before is None else int((applied - before.total("applied")) / TICK_S)
    waits = one.retrying + one.failed + one.forked + one.gaps
    return f"{one.consumer}: {applied:,} applied, {rate:,}/s, {waits} keys wait"
