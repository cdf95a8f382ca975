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
from ..summary import Relay, Summary, relays, summary
from .common import desk_of, place_of
from .output import AS_JSON, counted, on_terminal, tell

if TYPE_CHECKING:
    from ..service import Service
    from ..session import Session

logger = logging.getLogger("oncebox.cli")

TICK_S = 1.0

Facts = dict[str, tuple[Any, str]]
"""What is worth a line when it changes: its value, and a sentence."""

Seen = dict[str, Summary | Relay]


async def watch(services: Sequence[Service], *, consume: bool) -> None:
    """Look once a second, and say what changed."""
    views = [View(service, consume=consume) for service in services]
    before: Seen = {}
    try:
        async with _display() as show:
            while True:
                now: Seen = {}
                for view in views:
                    now |= await view.look()
                for name, one in now.items():
                    _changes(name, _facts(before[name]) if name in before else {}, _facts(one))
                show([_counters(name, one, before.get(name)) for name, one in now.items()])
                before |= now
                await asyncio.sleep(TICK_S)
    finally:
        for view in views:
            await view.close()


class View:
    """One service's consumers and relay, seen over a session that is kept."""

    def __init__(self, service: Service, *, consume: bool) -> None:
        self.service = service
        self.consumers = [c for c in service.consumers.values() if c.handlers and consume]
        self.store = place_of(service).open_store()
        self.session: Session | None = None

    async def look(self) -> Seen:
        """All as it is; nothing while the store cannot be reached."""
        found: Seen = {}
        try:
            if self.session is None:
                self.session = await self._perform(call(self.store.open))
            for consumer in self.consumers:
                desk = desk_of(self.store, self.session, consumer.name)
                found[consumer.name] = await self._perform(summary(desk))
            for relay in await self._perform(relays(desk_of(self.store, self.session, ""))):
                if relay.service == self.service.name:
                    found[f"{relay.service} (relay)"] = relay
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


def _changes(name: str, before: Facts, now: Facts) -> None:
    """A line for whatever is not as it was; at first, for whatever is remarkable."""
    for what, (value, text) in now.items():
        old = before[what][0] if before else None
        if value != old and (before or value):
            tell({"consumer": name, "what": what, "now": value, "before": old}, f"{name}: {text}")


def _facts(one: Summary | Relay) -> Facts:
    if isinstance(one, Relay):
        refused = counted(len(one.refused), "key")
        return {
            "holder": (one.holder, f"held by {one.holder or 'nobody'}"),
            "refused": (len(one.refused), f"{refused} wait in the outbox: oncebox status"),
        }
    holders = {f"{p.topic}/{p.partition}": p.holder for p in one.partitions}
    counts = Counter(who for who in holders.values() if who)
    held = ", ".join(f"{count} by {who}" for who, count in sorted(counts.items())) or "none"
    see = f"oncebox parked {one.name}"
    parked, quarantine = one.parked, counted(one.quarantine, "record")
    rebuilding = bool(one.rebuilding)
    return {
        "partitions": (holders, f"partitions read: {held}"),
        "retrying": (parked.retrying, f"{counted(parked.retrying, 'key')} failed, to be retried"),
        "failed": (parked.failed, f"{counted(parked.failed, 'key')} failed for good: {see}"),
        "forked": (parked.forked, f"{counted(parked.forked, 'key')} forked: {see}"),
        "gaps": (one.gaps.open, f"{counted(one.gaps.open, 'key')} with an event missing: {see}"),
        "quarantine": (one.quarantine, f"{quarantine} in quarantine"),
        "rebuilding": (rebuilding, "rebuilding" if rebuilding else "has been rebuilt"),
    }


# ---- counters


@asynccontextmanager
async def _display() -> AsyncIterator[Callable[[list[str]], None]]:
    """Counters at the bottom of a terminal; nothing elsewhere."""
    if AS_JSON.get() or not on_terminal():
        yield lambda counters: None  # noqa: ARG005
        return
    from rich.console import Console
    from rich.live import Live

    live = Live(console=Console(), refresh_per_second=4, transient=True)
    with live, contextlib.suppress(asyncio.CancelledError):
        yield lambda counters: live.update(" | ".join(counters))


def _counters(name: str, one: Summary | Relay, before: Any) -> str:
    if isinstance(one, Relay):
        return f"{name}: {one.backlog:,} to publish"
    applied, parked = one.counts["applied"], one.parked
    rate = 0 if before is None else int((applied - before.counts["applied"]) / TICK_S)
    waits = counted(parked.retrying + parked.failed + parked.forked + one.gaps.open, "key")
    done, total = one.rebuilt
    rebuilt = f", rebuilt {done:,} of {total:,}" if total else ""
    return f"{name}: {applied:,} applied, {rate:,}/s, {waits} wait{rebuilt}"
