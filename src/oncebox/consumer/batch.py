"""A batch: records become effects in one database transaction.

In order: fence (our term and position, or stop); lock and read the keys' rows; for each record the
verdict, then the handlers of whatever is next; rows, kept events and journal; close the fence;
commit. An event that cannot go on now (its handler failed, suspended, or it waits for another key)
is kept, in the same transaction: so the position always moves on, and only that key waits.

Two ways to run handlers. *Together*: no savepoints, statements pipelined where the driver can;
any failure undoes the batch. *Careful*: each handler in a savepoint, so that the one that fails is
known and undone alone. A batch that fails together is run again carefully.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from ..context import Suspend
from ..errors import Fenced, HandlerBroke, UnknownSchema
from ..lease import Held
from ..order import (
    NONE_BEFORE,
    Link,
    Park,
    Verdict,
    advance,
    following,
    fork,
    is_next,
    judge,
    poison,
    redrive,
)
from ..ports import TopicPartition
from ..program import Program, call
from ..session import Rows, Statement, commit, nothing, query
from ..stores.base import blocked, ended, refused, trouble
from .calling import Calls, Setback, blame, describe, is_outage
from .keys import Entry, Keys
from .reading import (
    BY_ID,
    Handler,
    Item,
    Place,
    Reading,
    abandon,
    decoded,
    limits_of,
    load_subscriptions,
    record_bytes,
)

logger = logging.getLogger("oncebox.consumer")

REASON_MAX = 2000
"""Characters of a reason that are stored."""

COUNTS = (
    "applied", "ignored", "voided", "duplicates", "late", "orphans", "before_start", "forks",
    "quarantined",
)  # fmt: skip
APPLIED, IGNORED, VOIDED, FORKS, QUARANTINED = 0, 1, 2, 7, 8
DONE = 3
"""So many of the counts are of keys that have moved on."""
COUNT_OF = {
    Verdict.DUPLICATE: 3, Verdict.LATE: 4, Verdict.ORPHAN: 5, Verdict.BEFORE_START: 6,
    Verdict.FORK: FORKS,
}  # fmt: skip


class Broken(Exception):
    """A handler ended the transaction. It must not run again by itself."""

    def __init__(self, item: Item, error: HandlerBroke) -> None:
        super().__init__(str(error))
        self.item = item
        self.error = error


class Wanted(NamedTuple):
    """An effect that a handler asked for by `once`; `had`: of an event that runs again."""

    item: Item
    suspend: Suspend
    had: bool


class Outcome(NamedTuple):
    """What a committed batch leaves to do: `settled` items of those given, keys to go on with now,
    effects to have; and what it added to what waits: keys parked, bytes kept.
    """

    settled: int
    counts: list[int]
    wakes: list[Place]
    wanted: list[Wanted]
    parked: int
    kept_bytes: int


class Batch:
    """One transaction's work. `fence`: the partitions that `items` come from, with what we hold
    of them; for other work (redrives, wake-ups, filled gaps) one of ours, which does not move.
    `drains`: keys to go on with; with True, also if they are parked as poison. `events_max`: how
    many kept events are done; the rest is for another batch. `filling`: of the items, only those
    that are next for their key are taken, all others are as if they had not come, and no position
    moves. `guard`: in place of a fence, a partition and the term that must be its own now; others
    may work under it at the same time (see `abreast.py`).
    """

    def __init__(
        self,
        reading: Reading,
        items: Sequence[Item],
        fence: dict[TopicPartition, Held],
        drains: dict[Place, bool],
        *,
        careful: bool,
        events_max: int | None = None,
        filling: bool = False,
        meanwhile: Callable[[], Program[None]] = nothing,
        guard: tuple[TopicPartition, int] | None = None,
    ) -> None:
        self.reading = reading
        self.meanwhile = meanwhile
        self.guard = guard
        self.items = items
        self.fence = fence
        self.drains = drains
        self.careful = careful
        self.filling = filling
        self.now_ms = reading.now_ms()
        self.deadline_ms = self.now_ms + int(reading.settings.batch_time_s * 1000)
        self.events_max = self.left = events_max or reading.settings.batch_max + len(items)
        self.unfinished: list[Place] = []
        self.keys = Keys(reading, self.now_ms, self.events_max, meanwhile)
        self.counts = [0] * len(COUNTS)
        self.calls = Calls(reading)
        self.wanted: list[Wanted] = []
        self.failures: list[Exception] = []  # of handlers, for those who run one batch by hand
        self.notes: list[tuple[Any, ...]] = []

    # ---- the transaction

    def run(self) -> Program[Outcome]:
        """Do it all and commit. Raises Fenced, Setback, Broken, and what the driver raises; then
        nothing has happened.
        """
        session = self.reading.session
        yield from call(session.begin)
        try:
            if not self.reading.subscriptions:
                yield from load_subscriptions(self.reading)
            opening = self.opening()
            try:
                answers = yield from self.keys.load(self.items, self.drains, opening)
            except Exception as error:
                waited = blocked(error)
                if waited is None:
                    raise
                raise waited from error
            self.check_fence(answers[-1])
            # Not for coroutines: `rowcount`, which has to wait for its answer then, cannot.
            if not self.careful and not session.asynchronous:
                yield session.pipeline, (True,)
            for place, release in self.drains.items():
                yield from self.go_on(self.keys.entries[place], release=release)
            settled = yield from self.go_through()
            yield from self.calls.perform_lists()
            self.counts[APPLIED] += self.calls.applied
            yield session.pipeline, (True,)
            if self.calls.applied:  # what lists of events ask for takes the store a while
                yield session.push, ()
            wakes = yield from self.write(settled)
            for note in self.notes:
                yield from call(session.send, self.reading.sql["note"], note)
            yield from commit(session, self.meanwhile)
        except BaseException:
            yield from abandon(self.reading)
            raise
        wakes += self.unfinished
        return Outcome(
            settled, self.counts, wakes, self.wanted, self.keys.newly_parked(), self.keys.kept_bytes
        )

    def opening(self) -> list[Statement]:
        """The first statements: limits, and the fence, whose rows are the partitions still ours."""
        reading = self.reading
        limits, sql = limits_of(reading), reading.sql
        if self.guard is not None:
            (topic, partition), term = self.guard
            # What is asked last is asked when no rebuild can come any more.
            enter: list[Statement] = [*limits, (sql["keep_in"], (reading.consumer,))]
            if limits and "enter" in sql:  # at once
                enter = [(sql["enter"], (reading.consumer, *limits[0][1]))]
            return [*enter, (sql["open_under"], (reading.consumer, topic, partition, term))]
        if not self.fence:
            return [*limits, (sql["open_batch"], ())]
        rows = [
            (topic, partition, held.term, held.position)
            for (topic, partition), held in sorted(self.fence.items())
        ]
        return [*limits, query(reading.session, sql["fence"], rows, (reading.consumer,))]

    def check_fence(self, ours: Rows) -> None:
        wanted = len(self.fence) or int(self.guard is not None)
        if len(ours) < wanted:
            raise Fenced(
                "another owner took a partition", expected="our term and position",
                hint="nothing of this batch was committed; it goes on where it owns",
            )  # fmt: skip

    def write(self, settled: int) -> Program[list[Place]]:
        """What became of it all; returns the keys to go on with."""
        sql, only = self.reading.sql, self.keys.only_move() if self.guard else None
        if only is not None and "shut_key" in sql:  # one statement, as nearly always side by side
            yield from call(self.reading.session.send, sql["shut_key"], only)
            return []
        yield from self.close_fence(settled)
        return (yield from self.keys.write())

    def close_fence(self, settled: int) -> Program[None]:
        """Move the positions over what is settled; the counts go to the first cursor."""
        reading, counts = self.reading, self.counts
        # Where a statement is sent and not waited for, it fails by itself if there is no row.
        run = reading.session.run if reading.session.ask is None else reading.session.send
        if not self.fence and not (yield from call(run, reading.sql["shut_batch"])):
            raise Setback("a handler rolled the batch's transaction back")
        reached = {place: held.position for place, held in self.fence.items()}
        for item in () if self.filling else self.items[:settled]:
            record = item.record
            reached[record.topic, record.partition] = str(record.offset + 1)
        lease_ms = int(reading.settings.lease_s * 1000)
        for place, held in sorted(self.fence.items()):
            parameters = (reading.consumer, *place, held.term, reached[place], lease_ms, *counts)
            if not (yield from call(run, reading.sql["close_batch"], parameters)):
                raise Setback("a handler rolled the batch's transaction back")
            counts = [0] * len(COUNTS)
        for place, held in self.fence.items():
            if held.position != reached[place]:
                self.fence[place] = held._replace(position=reached[place], takeovers=0)

    # ---- the work

    def go_through(self) -> Program[int]:
        """All items in order; how many of them are settled when time is up."""
        reading, entries, counts = self.reading, self.keys.entries, self.counts
        session, lists, join_list = reading.session, self.calls.lists, self.calls.join_list
        tx = session.handle
        condemned, suspending, now_ms = reading.condemned, reading.suspending, reading.now_ms
        careful, lost, deadline_ms = self.careful, session.lost, self.deadline_ms
        settled, ran = 0, False
        for item in self.items:
            if ran and now_ms() > deadline_ms:
                break
            settled, ran = settled + 1, True
            if item.bad is not None:
                yield from self.quarantine(item)
                continue
            link = item.link
            entry = entries[item.place]
            state = entry.state
            if self.filling and not is_next(state._replace(kept=()), link, entry.floor):
                continue
            if (
                is_next(state, link, entry.floor)
                and item.after is None
                and link.stamp > entry.had
                and not careful
                and not condemned
            ):
                handler = item.handler
                if link.void and not takes_voids(handler):
                    counts[VOIDED] += 1
                elif handler is None:
                    counts[IGNORED] += 1
                elif item.type in suspending:
                    yield from self.settle_item(entry, item)
                    continue
                elif handler.listed and join_list(entry, item, handler):
                    ran = False  # only its list will take time
                elif handler.listed or handler.with_context or lists:
                    if (yield from self.perform_together(entry, item, handler)) is not None:
                        yield from self.settle_item(entry, item)
                        continue
                else:
                    try:
                        event = decoded(handler, item)
                        yield handler.function, (tx, event)
                    except Exception as error:
                        self.set_back(entry, link, error)
                    if lost is not None and lost():
                        raise Setback
                    counts[APPLIED] += 1
                entry.state = advance(state, link)
                continue
            yield from self.settle_item(entry, item)
        return settled

    def settle_item(self, entry: Entry, item: Item) -> Program[None]:
        """The verdict on an item, and whatever can be done then."""
        reading, link, state = self.reading, item.link, entry.state
        if not item.chained and (state.kept or state.sequence > 0):
            # Known by its id alone, whenever it comes.
            link = link._replace(stamp=state.kept[0].stamp if state.kept else state.stamp)
        verdict, entry.state = judge(state, link, entry.floor)
        if verdict is Verdict.KEEP or verdict is Verdict.REPLACE:
            entry.items[link] = item
            if verdict is Verdict.REPLACE:
                entry.other = True
                replaced = len(state.kept) + 1 - len(entry.state.kept)
                self.counts[COUNT_OF[Verdict.DUPLICATE]] += replaced
            yield from self.go_on(entry)
            return
        if verdict is Verdict.BEFORE_START and reading.floor <= link.stamp and state.sequence < 0:
            # The floor was raised since: whether it was done is not known, so it must not run.
            entry.items[link] = item
            entry.state = poison(state, link)
            self.hold(entry, "older than the floor: whether it was done is not known", due=None)
            return
        self.counts[COUNT_OF[verdict]] += 1
        if verdict is Verdict.FORK:
            entry.items[link] = item
            if state.park is not Park.FORK:
                self.hold(entry, self.contradiction(entry, item), due=None)
        if verdict not in (Verdict.DUPLICATE, Verdict.BEFORE_START):
            self.note(verdict, entry, link, None)

    def contradiction(self, entry: Entry, item: Item) -> str:
        """Why a key is a fork, for whoever has to decide."""
        record, link, key = item.record, item.link, entry.place[1]
        source = self.reading.sources[entry.place[0]].removesuffix(BY_ID)
        return (
            f"event {link.id!s} contradicts the chain: its source forgot what it had published"
            f" (source {source}, key {key}, {link.sequence}:{link.stamp},"
            f" position {record.topic}/{record.partition}@{record.offset});"
            " expected one history. oncebox accept decides which"
        )

    def go_on(self, entry: Entry, *, release: bool = False) -> Program[None]:
        """Do what is next, for as long as it chains."""
        if release and entry.state.park is Park.POISON:
            entry.state = redrive(entry.state)
            entry.other = True
        if release:
            entry.due_ms, entry.other = None, True
            entry.attempts = max(entry.attempts - 1, 0)  # `take_due` has counted it
        while not entry.suspended:
            link = following(entry.state, entry.floor)
            if link is None:
                advanced = entry.state.stamp > entry.loaded.stamp
                if entry.unloaded and advanced and entry.state.park is None:
                    self.leave(entry)
                return
            if not isinstance(link, Link):
                entry.state = fork(entry.state)
                self.hold(entry, "what is kept contradicts the row", due=None)
                self.counts[FORKS] += 1
                self.note(Verdict.FORK, entry, entry.state.kept[0], "restored or changed row")
                return
            item = entry.items.get(link)
            if item is None or self.is_full():
                self.leave(entry)
                return
            if (yield from self.waits(item)):
                return
            self.left -= 1
            lined = (yield from self.keys.line_up(entry, item)) if item.in_line else None
            if lined is not None:
                yield from self.go_on(lined)
            elif not (yield from self.perform(entry, item, link)):
                return
            entry.state = advance(entry.state, link)
            if entry.attempts or entry.reason is not None or entry.due_ms is not None:
                entry.attempts, entry.reason, entry.due_ms = 0, None, None
                entry.parked_ms, entry.other = None, True

    def is_full(self) -> bool:
        """Whether this batch has done as much of what was kept as it may."""
        late = self.left < self.events_max and self.reading.now_ms() > self.deadline_ms
        return late or self.left <= 0

    def leave(self, entry: Entry) -> None:
        """The key can go on, but not in this batch: the next one does, or whoever comes after a
        crash.
        """
        entry.due_ms, entry.other = self.now_ms, True
        self.unfinished.append(entry.place)

    def perform(self, entry: Entry, item: Item, link: Link) -> Program[bool]:
        """Apply, ignore or void one event. False: the key cannot go on, and waits."""
        handler = item.handler
        if link.void and not takes_voids(handler):
            self.counts[VOIDED] += 1
            return True
        if item.bad is not None:
            return self.fail(entry, link, item.bad)
        if handler is None:
            self.counts[IGNORED] += 1
            return True
        doom = self.reading.doom(entry.place, link)
        if doom is not None:
            reason, again = doom
            return self.fail(entry, link, reason, again=again)
        if self.careful or item.type in self.reading.suspending:
            return (yield from self.perform_alone(entry, item, link, handler))
        failure = yield from self.perform_together(entry, item, handler)
        return failure is None or self.fail(entry, link, failure)

    def fail(
        self, entry: Entry, link: Link, reason: str, *, again: bool = True, spent: bool = True
    ) -> bool:
        """An event failed: its key is parked as poison, to be tried again later or by somebody.
        Not `spent`: it met an outage, or its schema is not registered yet, and is tried again
        for as long as it takes.
        """
        state = entry.state
        if state.sequence < 0:  # the row stands before it, wherever the floor will be
            before = NONE_BEFORE if link.previous is None else link.previous
            state = state._replace(sequence=link.sequence - 1, stamp=before)
        entry.state = poison(state, link)
        entry.attempts += spent
        settings, tries = self.reading.settings, entry.attempts
        if not spent:
            outages = self.reading.outages.get((entry.place, *link[:2]), 0)
            tries = max(outages - settings.outage_tries_max, 1)
        wait_s = min(settings.backoff_s * 2 ** min(tries - 1, 30), settings.backoff_max_s)
        again = again and entry.attempts < settings.attempts_max
        self.hold(entry, reason, due=self.now_ms + int(wait_s * 1000) if again else None)
        self.tell(entry, link, reason)
        return False

    def tell(self, entry: Entry, link: Link, reason: str) -> None:
        """A line in the log about an event that failed."""
        (id, key), consumer, item = entry.place, self.reading.consumer, entry.items.get(link)
        about = {
            "consumer": consumer, "event": str(link.id), "key": key,
            "source": self.reading.sources.get(id, "").removesuffix(BY_ID),
        }  # fmt: skip
        if item is not None:
            record = item.record
            about["position"] = f"{record.topic}/{record.partition}@{record.offset}"
        logger.warning("%s: key %s waits: %s", consumer, key, storable(reason), extra=about)

    def perform_together(self, entry: Entry, item: Item, handler: Handler) -> Program[str | None]:
        """Run a handler without a savepoint; any failure undoes the batch. Why the event cannot
        go on the list of its handler.
        """
        if handler.listed:
            try:
                return (yield from self.calls.put_on_list(entry, item, handler))
            except UnknownSchema as error:
                self.set_back(entry, item.link, error)
        yield from self.calls.cut_list(entry)
        try:
            yield from self.calls.invoke(entry, item, handler)
        except Suspend:
            self.reading.suspending.add(item.type)
            raise Setback from None
        except Exception as error:
            self.set_back(entry, item.link, error)
        lost = self.reading.session.lost
        if lost is not None and lost():
            raise Setback
        self.counts[APPLIED] += 1
        return None

    def set_back(self, entry: Entry, link: Link, error: Exception) -> NoReturn:
        """A handler failed where all run together: an outage passes, all else is run carefully."""
        if is_outage(error) and not self.reading.gives_up(entry.place, link):
            raise error
        raise Setback(event=(entry.place, link.sequence, link.stamp)) from error

    def perform_alone(
        self, entry: Entry, item: Item, link: Link, handler: Handler
    ) -> Program[bool]:
        """Run a handler inside a savepoint, and undo it alone if it fails or suspends."""
        session = self.reading.session
        yield from call(session.savepoint)
        try:
            yield from self.calls.invoke(entry, item, handler)
        except Suspend as suspend:
            yield from self.undo(item, handler, None)
            self.wanted.append(Wanted(item, suspend, link.stamp <= entry.had))
            entry.suspended = entry.other = True
            # Whoever comes after a crash goes on with it; nobody does while the effect is had.
            entry.due_ms = self.now_ms + int(self.reading.settings.handler_timeout_s * 1000)
            return False
        except Exception as error:
            away = is_outage(error)
            stops = away and not self.reading.gives_up(entry.place, link)
            if stops and entry.loaded.park is not Park.POISON:  # else its key waits, as it did
                raise
            yield from self.undo(item, handler, error)  # if the store is away, this fails
            self.failures.append(error)
            spent = not (away or isinstance(error, UnknownSchema))
            return self.fail(entry, link, blame(error), spent=spent)
        try:
            yield from call(session.release)
        except Exception as error:
            if trouble(error) != "other":
                raise
            yield from self.undo(item, handler, error)
            reason = f"{handler.name} swallowed a database error: {describe(error)}"
            return self.fail(entry, link, reason)
        self.counts[APPLIED] += 1
        return True

    def undo(self, item: Item, handler: Handler, error: Exception | None) -> Program[None]:
        """Undo one handler's part. Raises Broken if it ended the transaction, or tried to."""
        session, broke, gone = self.reading.session, refused(error), error
        try:
            yield from call(session.rollback_to)
        except Exception as failure:
            if trouble(failure) != "other":
                raise
            broke, gone = True, failure
        if broke or (session.lost is not None and session.lost()):
            event = {"event": item.envelope.id, "source": item.envelope.source}
            raise Broken(item, ended(handler.name, key=item.envelope.key, **event)) from gone

    # ---- waiting

    def waits(self, item: Item) -> Program[bool]:
        """Whether an event still waits for one of another key; then that key will wake it."""
        after = item.after
        if after is None:
            return False
        place = yield from self.keys.awaited_place(after)
        if place is None:
            return False
        entry = self.keys.entries[place]
        if after.stamp < entry.floor or entry.state.stamp >= after.stamp:
            yield from self.calls.cut_list(entry, item.handler)
            return False
        if not entry.awaited:
            entry.awaited = entry.other = True
        return True

    def hold(self, entry: Entry, reason: str, *, due: int | None) -> None:
        entry.reason, entry.due_ms, entry.other = storable(reason), due, True
        entry.parked_ms = entry.parked_ms or self.now_ms

    def quarantine(self, item: Item) -> Program[None]:
        record, reading = item.record, self.reading
        self.counts[QUARANTINED] += 1
        parameters = (
            self.now_ms, reading.consumer, record.topic, record.partition, record.offset,
            storable(item.bad or ""), record_bytes(record),
        )  # fmt: skip
        yield from call(reading.session.run, reading.sql["quarantine"], parameters)

    def note(self, what: str, entry: Entry, link: Link, detail: str | None) -> None:
        reading = self.reading
        source = reading.sources[entry.place[0]].removesuffix(BY_ID)
        self.notes.append(
            (self.now_ms, str(what), reading.consumer, source, entry.place[1], link.sequence,
             link.stamp, link.id, detail)
        )  # fmt: skip


def takes_voids(handler: Handler | None) -> bool:
    """Whether a handler wants events that were erased."""
    return handler is not None and handler.voids


def storable(text: str) -> str:
    """A reason as every database takes it: it may quote anything, NUL and lone surrogates too."""
    return text[:REASON_MAX].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
