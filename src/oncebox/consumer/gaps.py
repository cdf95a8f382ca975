"""Asking a source's own store: for events that did not come, and whether it knows those that did.

A consumer that may read the store of a source need not wait for somebody to publish again. What
the source sends goes through the verdict like any record of the log. If it has another history
than the one that was consumed, the key is parked as a fork: see `oncebox accept`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from msgspec import json

from ..errors import BadEvent, NotFound
from ..order import KeyState, Link, Park, ask, gap
from ..outbox import History
from ..outbox import history as read_outbox
from ..ports import Record
from ..program import Program, call
from ..session import Session, Store, keys_value, lookup
from ..statements import statements
from .keys import Entry, Keys
from .reading import Item, Place, Reading, take_in, transact

logger = logging.getLogger("oncebox.gaps")

KEYS_MAX = 100
"""Keys with a gap that are asked for at once."""

RECORDS_MAX = 1000
BYTES_MAX = 8 * 1024 * 1024
"""What one call brings back at most; the rest is asked for in the next."""

AGE_S = 0.2
"""How long an event may be late before its source is asked."""

AGAIN_S = 5.0
AGAIN_MAX_S = 300.0
"""When a source that did not have an event is asked for it again: later each time."""


Ask = Callable[[str, str, int, int | None], Program[History | None]]
"""(source, key, first, last) to what the source has of the key from number `first` on, with records
up to number `last`. None: it knows the key, but has none of these events any more, so that it can
say nothing.
"""


def asker(session: Session, sql: Mapping[str, str]) -> Ask:
    """Asks the outbox behind a session. Raises NotFound where it is not the source's."""

    def ask_outbox(source: str, key: str, first: int, last: int | None) -> Program[History | None]:
        found = yield from read_outbox(session, sql, source, key, first, last)
        if not found.links:
            rows = yield from call(session.run, sql["last_number"], (source, key))
            if not rows:  # an empty answer would mean that it forgot everything
                raise NotFound(
                    "this database has no such source",
                    source=source,
                    hint="name the store that the source's own service writes to",
                )
            if (rows[0][0] or 0) >= first:
                return None
        return found

    return ask_outbox


def link_text(link: Link) -> str:
    """An event's place and bytes for the journal, which is where given up ones are listed."""
    return json.encode([*link[:5], link.void]).decode()


def orphans_of(rows: Iterable[Sequence[str]]) -> tuple[Link, ...]:
    """The events of `link_text`, from rows (key, text)."""
    return tuple(Link(*json.decode(text)) for _, text in rows)


def of_gaps(reading: Reading, records: Iterable[Record]) -> Program[list[Item]]:
    """Those of these records whose key misses an event, or is one that other keys wait for."""
    items = [item for item in take_in(reading, records).items if item.bad is None]
    places = {item.place for item in items}
    found = set[Place]()
    for subscription in sorted({subscription for subscription, _ in places}):
        keys = keys_value(reading.session, sorted(k for id, k in places if id == subscription))
        rows = yield from call(reading.session.run, reading.sql["key_rest"], (subscription, keys))
        found |= {(subscription, row[0]) for row in rows if not row[1] and (row[3] or row[4])}
    return [item for item in items if item.place in found]


class SourceFailed(Exception):
    """The source could not be asked; its own failure is the cause."""


class Late(NamedTuple):
    """A key whose source did not have what is missing: asked `tries` times, next at `next_ms`."""

    tries: int
    next_ms: int


class Gaps:
    """The gaps of one consumer's loop, and the stores that can close them, by source."""

    def __init__(self, reading: Reading, stores: Mapping[str, Store]) -> None:
        self.reading = reading
        self.stores = stores
        self.sessions: dict[str, Session] = {}
        self.late: dict[Place, Late] = {}
        self.failures: dict[str, Late] = {}

    def close(self, now_ms: int) -> Program[list[Record]]:
        """Records that were missing, as the sources' outboxes have them; empty most of the time.

        Keys whose source has another history are parked as forks. Failures of a source are
        logged and tried again later; failures of our own store are raised.
        """
        found: list[Record] = []
        for source, store in self.stores.items():
            failed = self.failures.get(source)
            if source not in self.reading.subscriptions or (failed and failed.next_ms > now_ms):
                continue
            places = yield from self._due(source, now_ms)
            if not places:
                continue
            try:
                session = yield from self._session(source, store)
                asking = self._ask_for(source, places, session, store, now_ms)
                found += yield from transact(self.reading, asking)
                self.failures.pop(source, None)
            except SourceFailed as error:
                yield from self._failed(source, error, now_ms)
            if len(found) >= RECORDS_MAX:
                break
        return found

    def forget_times(self) -> None:
        """The clock was set back: ask again at once."""
        self.late.clear()
        self.failures.clear()

    def leave(self) -> Program[None]:
        """Close the sessions. Never raises."""
        for source in list(self.sessions):
            yield from self._drop(source)

    def _due(self, source: str, now_ms: int) -> Program[list[Place]]:
        """Keys with a gap that is old enough, and not asked for a moment ago."""
        reading = self.reading
        waiting = {place for place, late in self.late.items() if late.next_ms > now_ms}
        limit = KEYS_MAX + len(waiting)
        parameters = (reading.consumer, source, now_ms - int(AGE_S * 1000), limit)
        rows = yield from call(reading.session.run, reading.sql["gap_source"], parameters)
        id = reading.subscriptions[source].id
        places = [(id, key) for (key,) in rows]
        if len(rows) < limit:  # these are all: the others have closed
            still = set(places)
            for place in [p for p in self.late if p[0] == id and p not in still]:
                del self.late[place]
        return [place for place in places if place not in waiting][:KEYS_MAX]

    def _ask_for(
        self, source: str, places: list[Place], session: Session, store: Store, now_ms: int
    ) -> Program[list[Record]]:
        """Ask for the events that these keys miss, while their rows are locked: an event that
        came after the source was read would look like one that it does not have.
        """
        reading = self.reading
        ask_source = asker(session, statements(store.dialect, store.schema))
        found: list[Record] = []
        size = 0
        keys = Keys(reading, now_ms, RECORDS_MAX)
        yield from keys.load((), dict.fromkeys(places, False))
        for place in places:
            entry = keys.entries.get(place)
            missing = None if entry is None else gap(entry.state, entry.floor)
            if entry is None or missing is None:
                continue
            asking = ask_source(source, place[1], max(entry.state.sequence, 1), missing[1])
            if session.dialect == "postgres":  # its limits: a lock there shall not hold us for ever
                asking = transact(replace(reading, session=session, subscriptions={}), asking)
            history = yield from _guarded(asking)
            forked, records = False, []
            if history is not None:
                forked = yield from self._fork(source, entry, history, now_ms)
                records = [] if forked else _between(history, missing)
            self._note_late(source, place, missing, now_ms, found=bool(forked or records))
            found += records
            size += sum(len(record.value or b"") for record in records)
            if len(found) >= RECORDS_MAX or size >= BYTES_MAX:
                break
        yield from keys.write()
        return found

    def _fork(self, source: str, entry: Entry, history: History, now_ms: int) -> Program[bool]:
        """Park the key if the source has another history; whether it has."""
        reading, key = self.reading, entry.place[1]
        session, sql = reading.session, reading.sql
        rows = yield from lookup(session, sql["orphaned"], [(key,)], (reading.consumer, source))
        state = ask(entry.state, history.links, orphans_of(rows))
        if state is None:
            return False
        assert state.park is Park.FORK, "ask parks, or says nothing"
        entry.state = state
        entry.reason, entry.due_ms = "its source, when asked, has another history", None
        entry.parked_ms, entry.other = now_ms, True
        note = (now_ms, "fork", reading.consumer, source, key, *_numbers(state), entry.reason)
        yield from call(session.run, sql["note"], note)
        return True

    def _note_late(
        self, source: str, place: Place, missing: tuple[int, int], now_ms: int, *, found: bool
    ) -> None:
        if found:
            self.late.pop(place, None)
            return
        tries = self.late[place].tries + 1 if place in self.late else 1
        if tries == 1:
            logger.error(
                "%s: %s of %s: %d to %d are missing, and the source does not have them any more; "
                "see: oncebox parked %s", self.reading.consumer, place[1], source, *missing,
                self.reading.consumer,
            )  # fmt: skip
        self.late[place] = Late(tries, now_ms + _wait_ms(tries))

    def _session(self, source: str, store: Store) -> Program[Session]:
        session = self.sessions.get(source)
        if session is None:
            try:
                session = yield from call(store.open)
            except Exception as error:
                raise SourceFailed(str(error)) from error
            self.sessions[source] = session
        return session

    def _failed(self, source: str, error: SourceFailed, now_ms: int) -> Program[None]:
        tries = self.failures[source].tries + 1 if source in self.failures else 1
        self.failures[source] = Late(tries, now_ms + _wait_ms(tries))
        logger.warning("%s: cannot ask %s: %s", self.reading.consumer, source, error)
        yield from self._drop(source)

    def _drop(self, source: str) -> Program[None]:
        session = self.sessions.pop(source, None)
        if session is not None:
            try:
                yield from call(session.close)
            except Exception:
                logger.debug("closing a session of %s failed", source, exc_info=True)


def _guarded(asking: Program[History | None]) -> Program[History | None]:
    try:
        return (yield from asking)
    except BadEvent as error:  # its relay holds it, and whatever is behind it, too
        logger.warning("%s", error)
        return None
    except Exception as error:
        raise SourceFailed(f"{type(error).__name__}: {error}") from error


def _between(history: History, missing: tuple[int, int]) -> list[Record]:
    first, last = missing
    links = (link for link in history.links if first <= link.sequence <= last)
    return [history.records[link[:2]] for link in links]


def _numbers(state: KeyState) -> tuple[int, int, str]:
    link = state.kept[0]
    return link.sequence, link.stamp, str(link.id)


def _wait_ms(tries: int) -> int:
    return int(min(AGAIN_S * 2 ** min(tries - 1, 16), AGAIN_MAX_S) * 1000)
