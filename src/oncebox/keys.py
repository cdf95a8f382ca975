"""The keys of a batch: their rows locked and read, and what changed of them written.

All of it happens in the batch's transaction. A row is locked before it is read, in sorted order;
what is kept behind a key is read and written under its row's lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import json

from .envelope import NUMBER_MAX, Reference
from .order import KeyState, Link, Park
from .program import Program, call
from .reading import (
    BY_ID,
    Item,
    Place,
    Reading,
    load_subscriptions,
    record_bytes,
    record_of,
    subscribe,
    take_in,
)
from .session import bulk, lookup

_Ranges = tuple[tuple[int, int], ...]


class Entry:
    """A key in a batch: its state now, and what was loaded, to write the difference."""

    attempts = 0
    reason: str | None = None
    parked_ms: int | None = None
    due_ms: int | None = None
    awaited = False  # some kept event of another key waits for this one
    suspended = False  # its handler waits for an effect: not to be gone on with in this batch
    other = False  # something besides the event last done has changed

    def __init__(self, place: Place, floor: int, had: int, state: KeyState) -> None:
        self.place = place
        self.floor = floor
        self.had = had  # up to this stamp handlers run again, so they emit nothing
        self.state = state
        self.loaded = state
        self.items: dict[Link, Item] = {}

    def row(self) -> tuple[Any, ...]:
        """The whole row, as `write_key` takes it."""
        state = self.state
        return (
            *self.place, *state[:5],
            None if state.park is None else str(state.park),
            json.encode(state.skipped).decode() if state.skipped else None,
            len(state.kept), self.awaited, self.attempts, self.reason, self.parked_ms, self.due_ms,
            self.had if self.had > state.stamp else -1,
        )  # fmt: skip


class Keys:
    """The entries of a batch by place. `kept_bytes`: what was written to be kept."""

    def __init__(self, reading: Reading, now_ms: int) -> None:
        self.reading = reading
        self.now_ms = now_ms
        self.entries: dict[Place, Entry] = {}
        self.kept_bytes = 0

    def load(self, items: Sequence[Item], drains: Iterable[Place]) -> Program[None]:
        """Lock and read the rows of all keys that matter, and what is kept behind them."""
        places = {item.place for item in items if item.bad is None} | set(drains)
        for item in items:
            if item.after is not None:
                awaited = yield from self.awaited_place(item.after)
                if awaited is not None:
                    places.add(awaited)
        yield from self.lock(places)

    def lock(self, places: set[Place]) -> Program[None]:
        """Lock and read these rows, made where there are none."""
        reading = self.reading
        yield from self.load_rows(places)
        while missing := places - self.entries.keys():
            yield from bulk(reading.session, reading.sql["add_keys"], sorted(missing))
            yield from self.load_rows(missing)

    def load_rows(self, places: Iterable[Place]) -> Program[None]:
        session, sql = self.reading.session, self.reading.sql
        rows = yield from lookup(session, sql["lock_keys"], sorted(places))
        known = {s.id: s for s in self.reading.subscriptions.values()}
        if any(row[0] not in known or row[2] < 0 for row in rows):
            # Another process began to read this source, or raised its floor and forgot the key.
            yield from load_subscriptions(self.reading)
            known = {s.id: s for s in self.reading.subscriptions.values()}
        entries, behind = self.entries, []
        for row in rows:
            place = (row[0], row[1])
            _, floor, had = known[row[0]]
            entry = entries[place] = Entry(place, floor, had, KeyState(*row[2:7]))
            if row[7:] != _PLAIN:
                self.load_rest(entry, row)
                if row[9]:
                    behind.append(place)
        if behind:
            kept_rows = yield from lookup(session, sql["load_kept"], behind)
            yield from self.load_kept(kept_rows)

    def load_rest(self, entry: Entry, row: tuple[Any, ...]) -> None:
        park, skipped, _, awaited, entry.attempts, entry.reason = row[7:13]
        entry.parked_ms, entry.due_ms, had = row[13:]
        if had >= 0:  # what is known by its id alone may come with another time
            by_id = self.reading.sources[entry.place[0]].endswith(BY_ID)
            entry.had = NUMBER_MAX if by_id else max(had, entry.had)
        entry.awaited = bool(awaited)
        ranges = json.decode(skipped, type=_Ranges) if skipped else ()
        park = None if park is None else Park(park)
        entry.state = entry.loaded = entry.state._replace(park=park, skipped=ranges)

    def load_kept(self, rows: Sequence[tuple[Any, ...]]) -> Program[None]:
        for subscription, key, sequence, stamp, previous, id, hashed, void, stored in rows:
            entry = self.entries[subscription, key]
            link = Link(sequence, stamp, previous, id, hashed, bool(void))
            (item,), _ = take_in(self.reading, [record_of(stored)])
            item.link, item.place = link, entry.place
            entry.items[link] = item
            entry.state = entry.loaded = entry.state._replace(kept=(*entry.state.kept, link))
            after = item.after
            if after is not None:
                place = yield from self.awaited_place(after)
                if place is not None and place not in self.entries:
                    yield from self.lock({place})

    def awaited_place(self, after: Reference, *, ever: bool = False) -> Program[Place | None]:
        """The row that an event waits for; None if this consumer does not read its source, unless
        it may `ever`.
        """
        reading = self.reading
        if not ever and not reading.reads(after.source):
            return None
        subscription = reading.subscriptions.get(after.source)
        if subscription is None:
            subscription = yield from subscribe(reading, after.source)
        return subscription.id, after.key

    def write(self) -> Program[list[Place]]:
        """Write what changed; the keys that waited for one that advanced."""
        session, sql = self.reading.session, self.reading.sql
        moved, awaited, added, dropped = [], [], [], []
        for place, entry in self.entries.items():
            state, loaded = entry.state, entry.loaded
            if state is loaded and not entry.other:
                continue
            if loaded.stamp < entry.had <= state.stamp:
                entry.other = True
            if state.kept or loaded.kept:
                old, new = set(loaded.kept), set(state.kept)
                for link in new - old:
                    added.append((yield from self.kept_row(entry, link)))
                dropped += [(*place, *_kept_key(link)) for link in old - new]
            if entry.awaited and state.stamp > loaded.stamp:
                awaited.append((*place, state.stamp))
            if entry.other or state[4:] != loaded[4:]:
                yield from call(session.run, sql["write_key"], entry.row())
            else:
                moved.append((*place, *state[:4]))
        moved.sort()
        yield from bulk(session, sql["drop_kept"], dropped)
        yield from bulk(session, sql["add_kept"], added)
        yield from bulk(session, sql["move_keys"], moved)
        rows = yield from lookup(session, sql["waiters"], awaited)
        return [(subscription, key) for subscription, key in rows]

    def kept_row(self, entry: Entry, link: Link) -> Program[tuple[Any, ...]]:
        item = entry.items[link]
        after = item.after
        waits_for = None
        if after is not None:
            waits_for = yield from self.awaited_place(after, ever=True)
        stored = record_bytes(item.record)
        self.kept_bytes += len(stored)
        return (
            *entry.place, link.sequence, link.stamp, link.previous, link.id, link.digest, link.void,
            *(waits_for or (None, None)), after.stamp if after and waits_for else None,
            self.now_ms, stored,
        )  # fmt: skip

    def newly_parked(self) -> int:
        entries = self.entries.values()
        return sum(1 for e in entries if e.state.park and not e.loaded.park)


_PLAIN = (None, None, 0, 0, 0, None, None, None, -1)
"""park, skipped, kept, awaited, attempts, reason, parked_ms, due_ms, had of nearly every row."""


def _kept_key(link: Link) -> tuple[Any, ...]:
    """What tells a kept event from all others of its key."""
    return link.sequence, link.stamp, link.id, link.digest, link.void
