"""Pruning: what a consumer need not remember is forgotten, a page at a time, while it runs.

The row of a key goes when its last event is below the floor, and nothing waits at it. A floor rises
to the time before which the log holds nothing any more, but `forget_s` must have passed too: so
nothing is forgotten that the log could bring again. An event below such a floor for a key without
a row may have been done: it is parked, and a person decides (`settle_item`). For as long as a row
is kept it shows a loss: who loses records unread, or rebuilds, forgets nothing for `forget_s`.

Effects, notes and claims have times of their own. Only the process that reads the first partition
prunes, in short transactions between batches, and it leaves alone what a batch has locked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ..envelope import STAMP_UNITS_PER_US
from ..inbox import CLAIMED, CLAIMS, KEYS, prune_page, raise_claim_floors
from ..ports import Log, TopicPartition
from ..program import Program, call
from ..stores.base import trouble
from .reading import Reading, transact

logger = logging.getLogger("oncebox.consumer")

PRUNE_MAX = 2000
"""Rows that are looked at in one transaction."""

ROUND_S = 600.0
"""From the end of one round over all rows to the next."""

LOCK_WAIT_S = 0.5
"""For claims that are open."""

DOUBLINGS_MAX = 12
"""A log with retention longer than `forget_s` is asked for twice that time, and again."""


class Pruning:
    """What one consumer's loop forgets: `step` is one short transaction, if there is one to do."""

    def __init__(self, reading: Reading, log: Log, ask_log: Callable[..., Program[Any]]) -> None:
        self.reading = reading
        self.log = log
        self.ask_log = ask_log
        self.next_ms = 0
        self.left: list[tuple[int, bool]] = []  # subscriptions to walk, and whether of claims
        self.at = ""  # where in the first of them

    def first(self) -> TopicPartition:
        """Who reads this partition prunes."""
        return self.reading.topics[0], 0

    def step(self, now_ms: int) -> Program[None]:
        """Begin a round when it is time, or look at the next page of this one."""
        if now_ms < self.next_ms:
            return
        if self.left:
            yield from self.unless_locked(self.page())
        else:
            empty_ms = yield from self.empty_before(now_ms)
            yield from self.unless_locked(self.raise_floors(now_ms, empty_ms))
            if self.reading.settings.claims_s is not None:
                yield from self.unless_locked(self.raise_claim_floors(now_ms))
        if not self.left:
            self.next_ms = now_ms + int(ROUND_S * 1000)

    def unless_locked(self, work: Program[None]) -> Program[None]:
        """A transaction of its own; if somebody is in its way, the next round does it."""
        reading = self.reading
        try:
            yield from transact(reading, work)
        except Exception as error:
            if trouble(error) != "retry":
                raise
            logger.debug("%s: pruning goes on later", reading.consumer, exc_info=True)
            self.left.clear()

    def raise_floors(self, now_ms: int, empty_ms: int | None) -> Program[None]:
        """Raise floors to `empty_ms`, forget what goes by its time, see which rows to look at."""
        reading, settings = self.reading, self.reading.settings
        session, sql, name = reading.session, reading.sql, reading.consumer
        forget_ms = int(settings.forget_s * 1000)
        before_ms = now_ms - forget_ms
        if empty_ms is not None:
            floor = empty_ms * 1000 * STAMP_UNITS_PER_US
            yield from call(session.run, sql["raise_floors"], (name, floor, before_ms, forget_ms))
        yield from call(session.run, sql["prune_effects"], (name, before_ms, PRUNE_MAX))
        yield from call(session.run, sql["leave"], (name, "", int(settings.lease_s * 10_000)))
        journal_ms = now_ms - int(settings.journal_s * 1000)
        yield from call(session.run, sql["prune_journal"], (name, journal_ms, PRUNE_MAX))
        if settings.quarantine_s is not None:
            yield from self.prune_quarantine(now_ms, int(settings.quarantine_s * 1000))
        rows = yield from call(session.run, sql["subscriptions"], (name,))
        self.left = [(id, source.endswith(CLAIMED)) for source, id, *_ in rows if source]
        self.at = ""

    def prune_quarantine(self, now_ms: int, kept_ms: int) -> Program[None]:
        """Forget unreadable records; how many is noted, since nobody may have seen them."""
        session, sql, name = self.reading.session, self.reading.sql, self.reading.consumer
        parameters = (name, now_ms - kept_ms, PRUNE_MAX)
        rows = yield from call(session.run, sql["prune_quarantine"], parameters)
        if rows:
            why = f"{len(rows)} records of quarantine were older than quarantine_s"
            note = (now_ms, "drop", name, "", "", None, None, None, why)
            yield from call(session.run, sql["note"], note)
            logger.warning("%s: %s, and are forgotten", name, why)

    def raise_claim_floors(self, now_ms: int) -> Program[None]:
        """Refuse old ids; whoever claims waits for this, so it waits for nobody for long."""
        reading, claims_s = self.reading, self.reading.settings.claims_s or 0.0
        session, sql = reading.session, reading.sql
        yield from call(session.run, sql["lock_limit"], (f"{int(LOCK_WAIT_S * 1000)}ms",))
        before_ms = now_ms - int(claims_s * 1000)
        yield from raise_claim_floors(session, sql, reading.consumer, None, before_ms)

    def page(self) -> Program[None]:
        """Forget what may be forgotten of the next keys, or claims, of one subscription."""
        subscription, claims = self.left[0]
        until, _ = yield from prune_page(
            self.reading.session, self.reading.sql, CLAIMS if claims else KEYS,
            subscription, self.at, PRUNE_MAX,
        )  # fmt: skip
        self.at = until or ""
        if until is None:
            del self.left[0]

    def empty_before(self, now_ms: int) -> Program[int | None]:
        """A time, `forget_s` or longer ago, before which the log holds nothing (Unix ms). None if
        there is none, or if the log has dropped records that were never read.
        """
        reading, log = self.reading, self.log
        rows = yield from call(reading.session.run, reading.sql["cursor_rows"], (reading.consumer,))
        starts: dict[str, list[int]] = {}
        for topic in reading.topics:
            if (yield from self.ask_log(log.describe, topic)) is None:
                return None
            extents = yield from self.ask_log(log.extents, topic)
            starts[topic] = [extent.start for extent in extents]
        for topic, partition, position, *_ in rows:
            read = position is not None and topic in starts and partition < len(starts[topic])
            if not read or int(position or 0) < starts[topic][partition]:
                return None
        forget_ms = int(reading.settings.forget_s * 1000)
        for doubled in range(DOUBLINGS_MAX):
            before_ms = now_ms - (forget_ms << doubled)
            if before_ms >= 0 and (yield from self.is_empty_before(before_ms, starts)):
                return before_ms
        return None

    def is_empty_before(self, time_ms: int, starts: Mapping[str, list[int]]) -> Program[bool]:
        """Whether the first records that are left are of that time or later."""
        for topic, offsets in starts.items():
            found = yield from self.ask_log(self.log.offsets_at, topic, time_ms)
            if any(at > start for at, start in zip(found, offsets, strict=True)):
                return False
        return True
