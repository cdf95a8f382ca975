"""What operators do to keys that wait: redrive, skip, accept.

Programs over one session. Consumers go on meanwhile: a key's row is locked before it is changed,
what was listed is compared again under the lock, and nothing here runs a handler. A key that may
go on gets `due_ms`, and a running consumer takes it up within a second.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import groupby
from operator import itemgetter
from shlex import quote
from typing import Literal, NamedTuple

from ..consumer.gaps import Ask, link_text, orphans_of
from ..consumer.keys import Entry, Keys
from ..consumer.reading import BY_ID, Item, Place, Reading, record_bytes, take_in
from ..errors import NotFound, Refused
from ..order import Accepted, Doubt, Link, Park, Undecided, advance, gap
from ..order import accept as accept_history
from ..order import skip as skip_event
from ..outbox import History
from ..program import Program, call
from ..session import keys_value, lookup
from .desk import Desk, transact
from .waiting import PAGE_MAX, Kind, Waiting


def redrive(
    desk: Desk, chosen: Collection[Waiting], why: str = "tried again"
) -> Program[list[Place]]:
    """Have failed events tried again now, and their attempts counted anew; noted in the journal.
    Returns the keys that are still parked for a failure, and so are tried again. Safe against
    running consumers: a key that they move on meanwhile is left alone.
    """
    seen = {one.place: one for one in chosen if one.kind == "poison"}
    places = sorted(seen)
    done: list[Place] = []
    for start in range(0, len(places), PAGE_MAX):
        page = places[start : start + PAGE_MAX]

        def work(page: list[Place] = page) -> Program[list[Place]]:
            # Locked in the consumers' order first: an update alone would lock in any.
            for subscription, keys in groupby(page, key=itemgetter(0)):
                wanted = keys_value(desk.session, [key for _, key in keys])
                yield from call(desk.session.run, desk.sql["lock_keys"], (subscription, wanted))
            rows = yield from lookup(desk.session, desk.sql["make_due"], page, (desk.now_ms(),))
            again = [(subscription, key) for subscription, key in rows]
            for one in (seen[place] for place in again):
                source, head = one.source.removesuffix(BY_ID), one.head
                link = head and Link(head.sequence, head.stamp, None, head.id)
                yield from desk.note("redrive", source, one.key, link, why)
            return again

        done += yield from transact(desk, work)
    return done


# ---- skip


class Given(NamedTuple):
    """What `skip` did. `event`: the failing event was given up; `missing`: numbers `first` to
    `last`; `wait`: the event no longer waits for another key; `fork`: nothing, since the source
    has another history, and the key is parked as a fork; `changed`: nothing, since the key went
    on after it was listed.
    """

    what: Literal["event", "missing", "wait", "fork", "changed"]
    first: int | None = None
    last: int | None = None


def skip(desk: Desk, seen: Waiting, ask: Ask | None, why: str) -> Program[Given]:
    """Give up what the key waits for, and let it go on; noted in the journal.

    `seen` is what the operator saw: nothing is given up that was not listed. `ask`: reads what
    the source has; None where it cannot be asked. Raises Refused for a fork.
    """
    if seen.kind == "fork":
        raise Refused(
            "a fork is not skipped: it says that the source forgot what was published",
            source=seen.source, key=seen.key, hint=seen.release()[0],
        )  # fmt: skip

    def work() -> Program[Given]:
        reading = yield from desk.reading()
        keys, entry = yield from _locked(desk, reading, seen.place)
        state = entry.state
        first = state.kept[0] if state.kept else None
        same = first is not None and seen.head is not None and first[:2] == seen.head[:2]
        if not same or first is None or _kind(entry, seen) != seen.kind:
            return Given("changed")
        if seen.kind == "waits":
            return (yield from _drop_wait(desk, entry, seen, first, why))
        orphans = yield from orphaned(desk, seen.source, seen.key)
        history = None
        if ask is not None and seen.kind == "gap":
            history = yield from ask(seen.source, seen.key, max(state.sequence, 1), 0)
        given = _give_up(entry, history, orphans)
        release(entry, desk.now_ms())
        if given.what == "fork":
            entry.due_ms, entry.reason = None, "the source has another history"
            entry.parked_ms = desk.now_ms()
        yield from keys.write()
        source, what = seen.source.removesuffix(BY_ID), "skip"
        detail = f"{why}; gave up {given.what} {given.first} to {given.last}"
        if given.what == "fork":
            what, detail = "fork", f"{why}; {entry.reason}"
        yield from desk.note(what, source, seen.key, first, detail)
        return given

    return (yield from transact(desk, work))


def _kind(entry: Entry, seen: Waiting) -> Kind:
    """What a locked key waits for now; "waits" and "next" are told apart by what was listed."""
    state = entry.state
    if state.park is not None:
        return "fork" if state.park is Park.FORK else "poison"
    if gap(state, entry.floor) is not None:
        return "gap"
    return seen.kind if seen.kind in ("waits", "next") else "next"


def _give_up(entry: Entry, history: History | None, orphans: Collection[Link]) -> Given:
    state, floor = entry.state, entry.floor
    poisoned = state.park is Park.POISON
    if history is not None:
        entry.state, given = skip_event(state, history.links, floor, orphans)
    else:
        # Nobody to ask: a history that begins with the lowest kept event says nothing against it.
        first = state.kept[:1]
        alone, given = skip_event(state._replace(kept=first), first, floor)
        if given is not None and state.sequence < 0 and not poisoned:
            given = (1, first[0].sequence - 1)
            alone = alone._replace(skipped=(given,))
        entry.state = alone._replace(kept=state.kept[1:] if poisoned else state.kept)
    if given is None:
        return Given("fork" if entry.state.park is Park.FORK else "changed")
    if poisoned and state.sequence < 0:  # parked as older than the floor: all these were done
        for link in entry.state.kept:
            if link.stamp < floor:
                entry.state, given = advance(entry.state, link), (given[0], link.sequence)
    return Given("event" if poisoned else "missing", *given)


_AFTER = ("ce_after", "ce-after", "cloudEvents:after")


def _drop_wait(desk: Desk, entry: Entry, seen: Waiting, first: Link, why: str) -> Program[Given]:
    """The event goes on without the other one, which was lost or will not come."""
    item = entry.items[first]
    record = item.record
    headers = [(name, value) for name, value in record.headers if name not in _AFTER]
    stored = record_bytes(record._replace(headers=headers))
    at = (*seen.place, first.sequence, first.stamp, first.id, stored)
    yield from call(desk.session.run, desk.sql["drop_wait"], at)
    yield from call(desk.session.run, desk.sql["wake_key"], (*seen.place, desk.now_ms()))
    assert seen.after is not None, "this kind says so"
    detail = f"{why}; no longer waits for {seen.after.key} of {seen.after.source}"
    yield from desk.note("skip", seen.source.removesuffix(BY_ID), seen.key, first, detail)
    return Given("wait", first.sequence, first.sequence)


# ---- accept


class Adopted(NamedTuple):
    """A key that follows its source again: the event it goes on after, what is kept to be done,
    and the ids that were given up.
    """

    sequence: int
    kept: int
    orphans: list[str]


def consider(desk: Desk, source: str, key: str, ask: Ask, after: int | None) -> Program[int]:
    """Whether `accept` would do it, changing nothing; the stamp below which the source must give
    none from now on. Raises as `accept`.
    """

    def work() -> Program[int]:
        reading = yield from desk.reading()
        place = _place(reading, source, key)
        _, entry = yield from _locked(desk, reading, place)
        history = yield from _history(ask, source, key)
        found = yield from _decide(desk, entry, source, key, history, after)
        return found.low

    return (yield from transact(desk, work))


def accept(
    desk: Desk, source: str, key: str, ask: Ask, after: int | None, why: str
) -> Program[Adopted]:
    """Adopt the source's present history of a key: what is not in it is given up and listed, and
    what was not done of it is kept, to be done in order.

    `after`: the operator's answer to a refusal. Raises Refused when it cannot be known which
    effects are here, and NotFound. The source is read while the key's row is locked: an event
    that came after it was read would look like one that it does not have.
    """

    def work() -> Program[Adopted]:
        reading = yield from desk.reading()
        place = _place(reading, source, key)
        keys, entry = yield from _locked(desk, reading, place)
        history = yield from _history(ask, source, key)
        orphans = yield from orphaned(desk, source, key)
        found = yield from _decide(desk, entry, source, key, history, after)
        entry.state = found.state
        for link in found.state.kept:
            if link not in entry.items:
                entry.items[link] = _item(reading, history, link, place)
        release(entry, desk.now_ms())
        yield from keys.write()
        for link in found.orphans:
            yield from desk.note("orphaned", source, key, link, link_text(link))
        present = {link.id for link in history.links}
        for link in orphans:
            if link.id in present:
                yield from desk.note("adopted", source, key, link, why)
        detail = f"{why}; {len(found.orphans)} given up, {len(found.state.kept)} to be done"
        yield from desk.note("accept", source, key, found.state, detail)
        lost = [str(link.id) for link in found.orphans]
        return Adopted(found.state.sequence, len(found.state.kept), lost)

    return (yield from transact(desk, work))


def _history(ask: Ask, source: str, key: str) -> Program[History]:
    """All that the source has of a key."""
    history = yield from ask(source, key, 1, None)
    if history is None:
        raise Refused(
            "the source has dropped all events of this key: nothing is left to follow",
            source=source, key=key, hint="it goes on when the source emits for this key again",
        )  # fmt: skip
    return history


def _decide(
    desk: Desk, entry: Entry, source: str, key: str, history: History, after: int | None
) -> Program[Accepted]:
    orphans = yield from orphaned(desk, source, key)
    found = accept_history(entry.state, history.links, entry.floor, orphans, after=after)
    if isinstance(found, Undecided):
        raise _doubtful(desk, source, key, history, found)
    return found


_DOUBTS = {
    Doubt.ORPHAN_AGAIN: "events that were given up before are in the source's history again",
    Doubt.BELOW_CUTOFF: "events that were never done here are older than what was given up",
    Doubt.BRANCH_UNCLEAR: "times do not tell where the source's history parts from ours",
    Doubt.NOT_IN_HISTORY: "that number is not one of the source's events",
}


def _doubtful(desk: Desk, source: str, key: str, history: History, found: Undecided) -> Refused:
    shown = ", ".join(f"#{link.sequence} {link.id!s}" for link in found.links[:10])
    if history.links:
        first, last = history.links[0].sequence - 1, history.links[-1].sequence
    else:
        first = last = 0
    return Refused(
        _DOUBTS[found.doubt] + (f": {shown}" if shown else ""),
        source=source, key=key,
        expected=f"the last event of the source's history whose effect is here, {first} to {last}",
        hint=f"look in your own tables, then: oncebox accept {desk.consumer} "
        f"--source {quote(source)} --key {quote(key)} --after NUMBER",
    )  # fmt: skip


def _item(reading: Reading, history: History, link: Link, place: Place) -> Item:
    (item,), _ = take_in(reading, [history.records[link[:2]]])
    item.link, item.place = link, place
    return item


def orphaned(desk: Desk, source: str, key: str) -> Program[tuple[Link, ...]]:
    """A key's events that `accept` gave up and that are in no accepted history since."""
    rows = yield from lookup(desk.session, desk.sql["orphaned"], [(key,)], (desk.consumer, source))
    return orphans_of(rows)


# ---- one key, locked


def _locked(desk: Desk, reading: Reading, place: Place) -> Program[tuple[Keys, Entry]]:
    keys = Keys(reading, desk.now_ms())
    yield from keys.load_rows([place])
    entry = keys.entries.get(place)
    if entry is None:
        raise NotFound(
            f"{desk.consumer} knows no key {place[1]!r}", hint=f"oncebox parked {desk.consumer}"
        )
    return keys, entry


def _place(reading: Reading, source: str, key: str) -> Place:
    subscription = reading.subscriptions.get(source)
    if subscription is None:
        known = ", ".join(sorted(name for name in reading.subscriptions if name)) or "none yet"
        raise NotFound(f"{reading.consumer} reads no source {source}", expected=known)
    return subscription.id, key


def release(entry: Entry, now_ms: int) -> None:
    """Nothing stands against this key any more: a running consumer goes on with it."""
    entry.attempts, entry.reason, entry.parked_ms = 0, None, None
    entry.due_ms, entry.other = now_ms, True
