"""The keys of a batch: their rows locked and read, and what changed of them written.

All of it happens in the batch's transaction. A row is locked before it is read, in sorted order;
what is kept behind a key is read and written under its row's lock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct, json

from .envelope import NUMBER_MAX, Reference
from .order import KeyState, Link, Park
from .program import Program, call
from .reading import (
    BY_ID,
    Item,
    Place,
    Reading,
    Subscription,
    load_subscriptions,
    record_bytes,
    record_of,
    subscribe,
    take_in,
)
from .session import Rows, bulk, keys_value, lookup

_Ranges = tuple[tuple[int, int], ...]


class Entry(Struct, gc=False):
    """A key in a batch: its state now, and what was loaded, to write the difference.

    `had`: up to this stamp handlers run again, so they emit nothing. `awaited`: some kept event of
    another key waits for this one. `suspended`: its handler waits for an effect, so it is not gone
    on with in this batch. `other`: something besides the event last done has changed.
    """

    place: Place
    floor: int
    had: int
    state: KeyState
    loaded: KeyState
    items: dict[Link, Item] = {}
    attempts: int = 0
    reason: str | None = None
    parked_ms: int | None = None
    due_ms: int | None = None
    awaited: bool = False
    suspended: bool = False
    other: bool = False

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
        """Lock and read rows, in the order of subscription and key."""
        reading, behind = self.reading, list[Place]()
        session, sql = reading.session, reading.sql
        wanted: dict[int, list[str]] = {}
        for subscription, key in places:
            wanted.setdefault(subscription, []).append(key)
        for subscription in sorted(wanted):
            keys = keys_value(session, sorted(wanted[subscription]))
            rows = yield from call(session.run, sql["lock_keys"], (subscription, keys))
            known = reading.subscription(subscription)
            if known is None or any(row[1] < 0 for row in rows):
                # Another process began to read this source, or raised its floor and forgot a key.
                yield from load_subscriptions(reading)
                known = reading.subscription(subscription)
                assert known is not None, "its rows refer to it"
            if more := self.take_rows(known, rows):
                keys = keys_value(session, more)
                rest = yield from call(session.run, sql["key_rest"], (subscription, keys))
                behind += self.take_rest(subscription, rest)
        if behind:
            kept_rows = yield from lookup(session, sql["load_kept"], behind)
            yield from self.load_kept(kept_rows)

    def take_rows(self, known: Subscription, rows: Rows) -> list[str]:
        """Entries of rows; the keys that have more than most."""
        entries, more = self.entries, []
        subscription, floor, had = known
        for key, sequence, stamp, id, hashed, cutoff, has_more in rows:
            place = (subscription, key)
            state = KeyState(sequence, stamp, id, hashed, cutoff)
            entries[place] = Entry(place, floor, had, state, state)
            if has_more:
                more.append(key)
        return more

    def take_rest(self, subscription: int, rows: Rows) -> list[Place]:
        """What nearly no row has; the places with events kept behind them."""
        behind = []
        by_id = self.reading.sources[subscription].endswith(BY_ID)
        for key, park, skipped, kept, awaited, attempts, reason, parked_ms, due_ms, had in rows:
            entry = self.entries[subscription, key]
            entry.awaited, entry.attempts, entry.reason = bool(awaited), attempts, reason
            entry.parked_ms, entry.due_ms = parked_ms, due_ms
            if had >= 0:  # what is known by its id alone may come with another time
                entry.had = NUMBER_MAX if by_id else max(had, entry.had)
            ranges = json.decode(skipped, type=_Ranges) if skipped else ()
            entry.state = entry.loaded = entry.state._replace(
                park=Park(park) if park else None, skipped=ranges
            )
            if kept:
                behind.append(entry.place)
        return behind

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


def _kept_key(link: Link) -> tuple[Any, ...]:
    """What tells a kept event from all others of its key."""
    return link.sequence, link.stamp, link.id, link.digest, link.void
