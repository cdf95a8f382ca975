"""The keys of a batch: their rows locked and read, and what changed of them written.

All of it happens in the batch's transaction. A row is locked before it is read, in sorted order;
what is kept behind a key is read and written under its row's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

from msgspec import Struct, json, structs

from ..context import Context
from ..envelope import NUMBER_MAX, Reference
from ..order import KeyState, Link, Park, judge
from ..program import Program, call
from ..session import Rows, Statement, asked, bulk, keys_value, lookup, nothing, query
from .reading import (
    BY_ID,
    Handler,
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

ALL = 2**62
"""Events, or bytes: no bound."""

_Ranges = tuple[tuple[int, int], ...]


class Listed(Struct, gc=False):
    """Events that a batch handler gets in one call; `had`: all of them run again. `open`: until it
    is run.
    """

    handler: Handler
    had: bool
    open: bool = True
    items: list[Item] = []
    events: list[Any] = []
    contexts: list[Context[Any]] = []


class Entry(Struct, gc=False):
    """A key in a batch: its state now, and what was loaded, to write the difference.

    `unloaded`: how many kept events are not in the state, as they cannot matter in this batch.
    `had`: up to this stamp handlers run again, so they emit nothing. `awaited`: some kept event of
    another key waits for this one. `suspended`: its handler waits for an effect, so it is not gone
    on with in this batch. `other`: something besides the event last done has changed. `listed`:
    the last list that has an event of it.
    """

    place: Place
    floor: int
    had: int
    state: KeyState
    loaded: KeyState
    items: dict[Link, Item] = {}
    unloaded: int = 0
    attempts: int = 0
    reason: str | None = None
    parked_ms: int | None = None
    due_ms: int | None = None
    awaited: bool = False
    suspended: bool = False
    other: bool = False
    listed: Listed | None = None

    def row(self) -> tuple[Any, ...]:
        """The whole row, as `write_key` takes it."""
        state = self.state
        return (
            *self.place, *state[:5],
            None if state.park is None else str(state.park),
            json.encode(state.skipped).decode() if state.skipped else None,
            self.unloaded + len(state.kept), self.awaited, self.attempts, self.reason,
            self.parked_ms, self.due_ms, self.had if self.had > state.stamp else -1,
        )  # fmt: skip


class Keys:
    """The entries of a batch by place. `kept_bytes`: what was written to be kept. `events_max`: how
    many kept events are to be done, so that no more are read; operators see all. `meanwhile`: what
    there is to do while the store locks rows.
    """

    def __init__(
        self,
        reading: Reading,
        now_ms: int,
        events_max: int = ALL,
        meanwhile: Callable[[], Program[None]] = nothing,
    ) -> None:
        self.reading = reading
        self.meanwhile = meanwhile
        self.now_ms = now_ms
        self.events_max = events_max
        self.items: Sequence[Item] = ()
        self.drains: Mapping[Place, bool] = {}
        self.entries: dict[Place, Entry] = {}
        self.lines: set[Place] = set()  # of events that arrive and get a place behind the last one
        self.kept_bytes = 0

    def load(
        self, items: Sequence[Item], drains: Mapping[Place, bool], first: Sequence[Statement] = ()
    ) -> Program[list[Rows]]:
        """Lock and read the rows of all keys that matter, and what is kept behind them. `drains`:
        with True, a key goes on also if it is parked as poison. `first`: run before, and sent with
        it, or the last of them in one statement with it; returns their rows.
        """
        self.items, self.drains = items, drains
        places = {item.place for item in items if item.bad is None} | set(drains)
        for item in items:
            if item.after is not None:
                awaited = yield from self.awaited_place(item.after)
                if awaited is not None:
                    places.add(awaited)
                    if item.in_line:
                        self.lines.add(awaited)
        return (yield from self.lock(places, first))

    def lock(self, places: set[Place], first: Sequence[Statement] = ()) -> Program[list[Rows]]:
        """Lock and read these rows, made where there are none. `first`: see `load`."""
        reading, sql = self.reading, self.reading.sql
        answers = yield from self.load_rows(places, first)
        while missing := places - self.entries.keys():
            add = (reading.session, sql["add_keys"], sorted(missing))
            if reading.session.ask is None:
                yield from bulk(*add)
                yield from self.load_rows(missing)
            else:  # at once
                yield from self.load_rows(missing, [query(*add, one=sql["add_key"])])
        return answers

    def load_rows(
        self, places: Iterable[Place], first: Sequence[Statement] = ()
    ) -> Program[list[Rows]]:
        """Lock and read rows, in the order of subscription and key. `first`: see `load`."""
        reading, behind = self.reading, list[Place]()
        session, sql = reading.session, reading.sql
        places = list(places)
        if len(places) == 1 and first and first[-1][0] is sql["open_under"] and "open_key" in sql:
            return (yield from self.load_one(places[0], first))
        wanted: dict[int, list[str]] = {}
        for subscription, key in places:
            wanted.setdefault(subscription, []).append(key)
        questions = [
            (sql["lock_keys"], (subscription, keys_value(session, sorted(keys))))
            if len(keys) > 1
            else (sql["lock_key"], (subscription, *keys))
            for subscription, keys in sorted(wanted.items())
        ]
        answers = yield from asked(session, [*first, *questions], self.meanwhile)
        for subscription, rows in zip(sorted(wanted), answers[len(first) :], strict=True):
            behind += yield from self.take_in_rows(subscription, rows)
        if behind:
            yield from self.load_kept(behind)
        return answers[: len(first)]

    def load_one(self, place: Place, first: Sequence[Statement]) -> Program[list[Rows]]:
        """The same for one row, where the last statement of `first` is `open_under`."""
        sql, (*before, (_, parameters)) = self.reading.sql, first
        question = sql["open_key"], (*parameters, *place)
        answers = yield from asked(self.reading.session, [*before, question], self.meanwhile)
        rows = [row for row in answers[-1] if row[0] is not None]
        behind = yield from self.take_in_rows(place[0], rows)
        if behind:
            yield from self.load_kept(behind)
        return answers

    def take_in_rows(self, subscription: int, rows: Rows) -> Program[list[Place]]:
        """Entries of rows; the places with events kept behind them."""
        reading = self.reading
        known = reading.subscription(subscription)
        if known is None or any(row[1] < 0 for row in rows):
            # Another process began to read this source, or raised its floor and forgot a key.
            yield from load_subscriptions(reading)
            known = reading.subscription(subscription)
            assert known is not None, "its rows refer to it"
        more = self.take_rows(known, rows)
        if not more:
            return []
        parameters = (subscription, keys_value(reading.session, more))
        rest = yield from call(reading.session.run, reading.sql["key_rest"], parameters)
        return self.take_rest(subscription, rest)

    def take_rows(self, known: Subscription, rows: Rows) -> list[str]:
        """Entries of rows; the keys that have more than most."""
        entries, more = self.entries, []
        subscription, floor, had = known
        for key, sequence, stamp, id, hashed, cutoff, has_more in rows:
            place = (subscription, key)
            state = KeyState._make((sequence, stamp, id, hashed, cutoff, None, (), ()))
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
            entry.unloaded = kept
            if kept:
                behind.append(entry.place)
        return behind

    def load_kept(self, behind: list[Place]) -> Program[None]:
        """Of keys that may go on, the lowest kept events; and those beside an event that arrives,
        which its verdict rests on. So a batch reads no more than it can do, however much waits.
        """
        session, sql, drains, limit = self.reading.session, self.reading.sql, self.drains, ALL
        going, size = behind, ALL
        if self.events_max < ALL:
            arriving = {item.place for item in self.items}
            going = [
                place
                for place in behind
                if drains.get(place)
                or (self.entries[place].state.park is None and place in drains.keys() | arriving)
            ]
            share = max(len(going), 1)
            limit = max(self.events_max // share, 1)
            size = max(self.reading.settings.batch_bytes_max // share, 1)
        rows = yield from lookup(session, sql["load_kept"], going, (limit, size))
        yield from self.take_kept(rows)
        cut = {place for place in behind if self.entries[place].unloaded}
        near = [(*item.place, *item.link[:2]) for item in self.items if item.place in cut]
        near += [(*place, NUMBER_MAX, NUMBER_MAX) for place in sorted(self.lines & cut)]
        yield from self.take_kept((yield from lookup(session, sql["kept_near"], near)))

    def take_kept(self, rows: Rows) -> Program[None]:
        """Kept events, each with its record if it may be done."""
        more: dict[Place, set[Link]] = {}
        awaited, lines = set[Place](), set[Place]()
        for subscription, key, sequence, stamp, previous, id, hashed, void, stored in rows:
            entry = self.entries[subscription, key]
            link = Link(sequence, stamp, previous, id, hashed, bool(void))
            more.setdefault(entry.place, set(entry.state.kept)).add(link)
            if stored is None:
                continue
            (item,), _ = take_in(self.reading, [record_of(stored)])
            item.link, item.place = link, entry.place
            entry.items[link] = item
            if item.after is not None:
                place = yield from self.awaited_place(item.after)
                if place is not None:
                    (lines if item.in_line else awaited).add(place)
        for place, links in more.items():
            entry = self.entries[place]
            entry.unloaded = max(entry.unloaded - len(links) + len(entry.state.kept), 0)
            kept = tuple(sorted(links, key=itemgetter(0, 1, 3, 4)))
            entry.state = entry.loaded = entry.state._replace(kept=kept)
        unknown = sorted(awaited - lines - self.entries.keys())
        session, sql = self.reading.session, self.reading.sql
        for subscription, key, stamp in (yield from lookup(session, sql["awaited"], unknown)):
            # Marked as awaited since the event was kept: who advances it wakes us. So it is only
            # looked at; to lock it now, out of order, would lead to deadlocks.
            known, state = self.reading.subscription(subscription), KeyState(stamp=stamp)
            assert known is not None, "it is of a source that we read"
            place = (subscription, key)
            self.entries[place] = Entry(place, known.floor, known.had, state, state, awaited=True)
        if not_marked := (awaited | lines) - self.entries.keys():
            yield from self.lock(not_marked)

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

    def line_up(self, by_id: Entry, item: Item) -> Program[Entry | None]:
        """An event of others that came for the first time takes its place in the line of its key:
        it gets the chain that its writer did not give, by the order in which events came here.
        Returns the key, to be gone on with; None if the event stands in that line already.
        """
        assert item.after is not None
        place = yield from self.awaited_place(item.after, ever=True)
        assert place is not None, "its topic is one that this consumer reads"
        if place == by_id.place:
            return None
        entry, condemned = self.entries[place], self.reading.condemned
        state, stamp = entry.state, max(item.link.stamp, entry.floor, entry.state.cutoff)
        last = state.kept[-1] if state.kept else state
        previous = None if last.sequence < 1 else last.stamp
        link = item.link._replace(
            sequence=max(last.sequence, 0) + 1, stamp=max(stamp, last.stamp + 1), previous=previous
        )
        doom = self.reading.doom(by_id.place, item.link)
        if doom is not None:
            condemned[place, link.sequence, link.stamp] = doom
        entry.items[link] = structs.replace(item, link=link, place=place)
        _, entry.state = judge(state, link, entry.floor)
        return entry

    def only_move(self) -> tuple[Any, ...] | None:
        """What is written of the only key, if all that changed is the event last done."""
        if len(self.entries) != 1:
            return None
        ((place, entry),) = self.entries.items()
        state, loaded = entry.state, entry.loaded
        if (
            state is loaded
            or entry.other
            or entry.awaited
            or loaded.kept
            or state[4:] != loaded[4:]
            or loaded.stamp < entry.had <= state.stamp
        ):
            return None
        return (*place, *state[:4])

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
                awaited.append((*place, loaded.stamp, state.stamp))
            if entry.other or state[4:] != loaded[4:]:
                yield from call(session.send, sql["write_key"], entry.row())
            else:
                moved.append((*place, *state[:4]))
        moved.sort()
        yield from bulk(session, sql["drop_kept"], dropped)
        yield from bulk(session, sql["add_kept"], added)
        yield from bulk(session, sql["move_keys"], moved, one=sql["move_key"])
        rows = yield from lookup(session, sql["waiters"], awaited)
        return [(subscription, key) for subscription, key in rows]

    def kept_row(self, entry: Entry, link: Link) -> Program[tuple[Any, ...]]:
        item = entry.items[link]
        after = item.after
        waits_for = None
        if after is not None and not item.in_line:
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
