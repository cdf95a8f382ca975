"""The audit at work: it reads inbox, log and outbox of running services, page by page.

In this order, so that nothing that moves meanwhile looks wrong: how far relays and consumers are;
then the inbox; then the log, up to where it ended by then; then the outbox. What a relay has passed
is in the log by then, what the log has is in the outbox, and what a consumer had read it has done.
Whatever still looks wrong is read again before it is said. Statements only read, in no transaction:
nothing is locked, and a role that may only select is enough.

While the log is read, in a thread of its own, a PostgreSQL adds up by key what relays had passed
before and is old enough: that does not move any more. So of a clean system it sends a row for each
key, and beside them only the events that are younger.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from operator import itemgetter
from shlex import quote
from typing import Any, NamedTuple

from msgspec import json

from ..consumer.others import is_foreign
from ..consumer.reading import BY_ID
from ..envelope import NUMBER_MAX, STAMP_UNITS_PER_US, TIME_MS_MAX, read_core, read_envelope
from ..errors import BadRecord, NotFound
from ..event import stream_of
from ..inbox import CLAIMED
from ..operate.desk import Desk, belongs, now_ms
from ..order import KeyState, Link, Park
from ..outbox import Reached, read_reached
from ..ports import Extent, Log, Record, TopicPartition
from ..program import Program, call
from ..session import Rows
from .examine import Cases
from .facts import IN_OUTBOX, Bounds, Finding, Ledger, Scope, Seen, Sums, form_of, mark
from .keys import Tally
from .log import aside, covers, read_log
from .report import FINDINGS_MAX, Listing, Report, two_passes

PAGE_MAX = 5_000
PAGE_BYTES_MAX = 8 * 1024 * 1024
"""Rows or records, and bytes of them, that are read at once."""

WINDOW_MAX = 1_000_000
"""Positions that one statement adds up: it holds a snapshot for some seconds."""

UNSETTLED_MAX = 10_000
"""Keys whose rows are asked for by name; of more, all rows are read."""

YOUNGER_S = 10.0
"""What is younger than this is unseen where it is missing, not lost."""

CLOCKS_MS = 600_000
"""How far clocks may differ: so much earlier the log is read."""

BEYOND = 2**63 - 1

_DROPPED = re.compile(r"record \d+ of quarantine, (\S+/\d+@\d+)")

Told = Callable[[int, int], None]


class Side(NamedTuple):
    """A store, how to work there, its log, and whose rows are meant (nobody named: all)."""

    at_desk: Callable[[Callable[[Desk], Program[Any]]], Any]
    log: Log
    names: tuple[str, ...] = ()

    def means(self, name: str) -> bool:
        """Whether a service or consumer is one of those that are meant."""
        return not self.names or any(belongs(name, one) for one in self.names)


def audit(
    sides: Sequence[Side],
    *,
    younger_s: float = YOUNGER_S,
    since_ms: int = 0,
    told: Told = lambda done, total: None,  # noqa: ARG005
    clock_ms: Callable[[], int] = now_ms,
) -> Report:
    """Audit these stores and their logs, all that was committed from `since_ms` on (Unix ms).
    `told` hears how much is done, of how much.

    Raises NotFound for a name that has no rows, Unreachable, and what stores raise.
    """
    surveys: list[_Survey] = []

    def begin() -> tuple[Scope, Callable[[Ledger], None]]:
        until = (clock_ms() - int(younger_s * 1000)) * 1000 * STAMP_UNITS_PER_US
        surveys.append(_Survey(sides, since_ms, until))
        return surveys[-1].look(), partial(surveys[-1].walk, told=told)

    listing = Listing()
    tally, unexamined = two_passes(begin, listing)
    first = surveys[0]
    for finding in (*first.unreadable(), *first.said):
        listing.add(finding)
    listing.counts["undecodable", False] += first.bad_count - len(first.bad)
    unknown = {s.removesuffix(BY_ID) for s in tally.sources} - first.outboxes
    report = listing.report(tally, unexamined, first.waiting, sorted(unknown | first.others))
    starts = {source: tally.scope.of(source).start for source in sorted(first.outboxes)}
    return report._replace(since={source: _time(at) for source, at in starts.items() if at})


class _Outbox(NamedTuple):
    """What is read of one store's outbox: above position `first`, up to `last`; where its relays
    are, and which keys wait since the log refused them, from which position on.
    """

    sources: set[str]
    first: int
    last: int
    reached: Mapping[str, Reached]
    refused: Mapping[tuple[str, str | None], int]
    safe: int

    def published(self, source: str, key: str | None, position: int) -> bool:
        """Whether the relay has passed it; below `safe` they have passed everything."""
        if position < self.safe:
            return True
        reached = self.reached.get(source.split("/")[1], Reached())
        return (
            position <= reached.position
            and not any(hole.first <= position <= hole.last for hole in reached.holes)
            and position < self.refused.get((source, key), BEYOND)
        )


class _Left(NamedTuple):
    """Which rows of an outbox have to come one by one: those of `keys` (None: of all), above a
    position. `alone`: no others; else also what is younger, or not passed by a relay, or before
    what the log covers, or has no key.
    """

    above: int
    keys: list[str] | None
    alone: bool


class _Added:
    """What an outbox has added up, by source and key. `able`: it can; `first`: the position of
    the first row that is in no sum.
    """

    def __init__(self, outbox: _Outbox) -> None:
        self.sources = sorted(outbox.sources)
        self.able = False
        self.start, self.first = outbox.first, outbox.last + 1
        self.sums: dict[int, dict[str, Sequence[Any]]] = {}

    def take_in(self, rows: Rows) -> None:
        """Rows of `audit_sums`, by rising positions. They are many, and gone afterwards."""
        while rows:
            source, key, many, first, _, marks = row = rows.pop()
            if key is None:
                self.first = min(self.first, first)
                continue
            keys = self.sums.setdefault(source, {})
            known = keys.setdefault(key, row)
            if known is not row:
                keys[key] = (*known[:2], known[2] + many, *known[3:5], known[5] ^ marks)

    def left(self, ledger: Ledger) -> _Left:
        """What is left to be read, once the log has been taken in."""
        if isinstance(ledger, Cases):
            return _Left(
                self.start,
                sorted({key for _, key in ledger.names if isinstance(key, str)}),
                alone=True,
            )
        if not (self.able and isinstance(ledger, Tally)):
            return _Left(self.start, None, alone=False)
        keys = [
            key for source, sums in self.sums.items() for key, row in sums.items()
            if not ledger.sums(self.sources[source], key, Sums(*row[2:]))
        ]  # fmt: skip
        self.sums.clear()
        above = self.start if keys else self.first - 1
        return _Left(above, keys if len(keys) <= UNSETTLED_MAX else None, alone=False)


class _Survey:
    """One pass over all sides."""

    def __init__(self, sides: Sequence[Side], since_ms: int, until: int) -> None:
        self.sides = sides
        self.since_ms = since_ms
        self.since = since_ms * 1000 * STAMP_UNITS_PER_US
        self.until = until
        self.oldest: dict[str, int] = {}
        self.positions: dict[str, dict[TopicPartition, int]] = {}
        self.labels: dict[tuple[Side, str], str] = {}
        self.floors: dict[tuple[str, str], int] = {}
        self.outboxes: set[str] = set()
        self.looked: list[_Outbox] = []
        self.topics: dict[int, tuple[Log, set[str]]] = {}
        self.quarantined: dict[str, tuple[str, int]] = {}
        self.dropped: dict[str, set[str]] = {}
        self.others: set[str] = set()
        self.said: list[Finding] = []
        self.bad: list[tuple[Record, str]] = []
        self.bad_count = self.waiting = self.done = self.total = 0
        self.seed = secrets.token_hex(8)

    # ---- how far everybody is

    def look(self) -> Scope:
        """Who is how far; what each side still covers. A store may be named in two ways."""
        stores = {side.at_desk(_identity): side for side in reversed(self.sides)}
        self.sides = [side for side in self.sides if side in stores.values()]
        for side in self.sides:
            side.at_desk(partial(self._look, side=side))
        met = {source.split("/")[1] for source in self.outboxes} | self.positions.keys()
        for name in {name for side in self.sides for name in side.names}:
            if not any(belongs(one, name) for one in met):
                raise NotFound(f"{name} has no rows here", hint="it appears when it has run once")
        logs, empty = dict[str, tuple[int, int]](), dict[str, list[int]]()
        homes = dict[str, Callable[[bytes], list[int]]]()
        for log, topics in self.topics.values():
            for topic in topics:
                since, silent, empty[topic] = covers(log, topic)
                logs[topic] = max(since, self.since), max(silent, self.since)
                homes[topic] = partial(_homes, log, len(log.extents(topic)))
        bounds = {}
        for source, oldest in self.oldest.items():
            since, silent = logs.get(stream_of(source), (0, 0))
            bounds[source] = Bounds(oldest, since, self.until, silent)
        self.scope = Scope(bounds, logs, self.positions, self.floors, self.until, homes, empty)
        return self.scope

    def _look(self, desk: Desk, side: Side) -> Program[None]:
        session, sql = desk.session, desk.sql
        reached = {}
        for _, service, _, position, _ in (yield from call(session.run, sql["relays"])):
            reached[service] = read_reached(position)
        topics: set[str] = set()
        read: set[str] = set()
        for (name,) in (yield from call(session.run, sql["consumers"])):
            if side.means(name):
                label = name
                while label in self.positions:  # another store has one of this name
                    label += "+"
                self.labels[side, name] = label
                topics |= yield from self._look_at_consumer(desk, name, label, read)
        ((oldest, last),) = yield from call(session.run, sql["audit_extent"])
        sources = set[str]()
        refused: dict[tuple[str, str | None], int] = {}
        for (source,) in (yield from call(session.run, sql["sources"])):
            if side.means(source.split("/")[1]) or source in read:
                sources.add(source)
                self.oldest[source] = max(self.until if oldest is None else oldest, self.since)
                topics.add(stream_of(source))
                for row in (yield from call(session.run, sql["refused"], (source,))):
                    refused[row[0], row[1]] = min(row[2], refused.get((row[0], row[1]), BEYOND))
        self.outboxes |= sources
        first = 0
        if self.since:
            ((first,),) = yield from call(session.run, sql["audit_since"], (self.since,))
        relays = [reached.get(source.split("/")[1], Reached()) for source in sources]
        holes = (hole.first for relay in relays for hole in relay.holes)
        safe = min(
            (*(relay.position + 1 for relay in relays), *holes, *refused.values()), default=0
        )
        self.looked.append(_Outbox(sources, first, last or 0, reached, refused, safe))
        for topic in topics:
            if side.log.describe(topic) is not None:
                self.topics.setdefault(id(side.log), (side.log, set()))[1].add(topic)

    def _look_at_consumer(
        self, desk: Desk, name: str, label: str, read: set[str]
    ) -> Program[set[str]]:
        session, sql = desk.session, desk.sql
        positions = self.positions[label] = {}
        for topic, partition, position, *_ in (
            yield from call(session.run, sql["cursor_rows"], (name,))
        ):
            positions[topic, partition] = int(position or 0)
        for source, _, floor, _ in (yield from call(session.run, sql["subscriptions"], (name,))):
            self.floors[label, source] = floor
            read.add(source.removesuffix(BY_ID))
            if is_foreign(source):
                self.others.add(source.removesuffix(BY_ID))
        rows = yield from call(session.run, sql["quarantine_numbers"], (name, 0, PAGE_MAX))
        for n, topic, partition, offset, *_ in rows:
            self.quarantined[f"{topic}/{partition}@{offset}"] = name, n
        rows = yield from call(session.run, sql["journal"], (name, BEYOND, "drop", None, PAGE_MAX))
        found = (_DROPPED.search(row[8] or "") for row in rows)
        self.dropped[label] = {match[1] for match in found if match}
        return {topic for topic, _ in positions} - self.others

    # ---- the three sides

    def walk(self, ledger: Ledger, told: Told) -> None:
        """Read inbox, log and outbox into a ledger."""
        for side in self.sides:
            side.at_desk(partial(self._inbox, side=side, ledger=ledger))
        ends = [
            (log, {topic: self._extents(log, topic) for topic in topics})
            for log, topics in self.topics.values()
        ]
        self.total = sum(e.end - e.start for _, of in ends for es in of.values() for e in es)
        self.total += sum(outbox.last - outbox.first for outbox in self.looked)
        added: list[_Added] = []
        with aside(partial(self._logs, ends, ledger, told)) as wait_for_logs:
            for side, outbox in zip(self.sides, self.looked, strict=True):
                added.append(_Added(outbox))
                if not ledger.detailed:
                    side.at_desk(partial(self._add_up, outbox=outbox, added=added[-1]))
                    side.at_desk(partial(self._ids, outbox=outbox))
            wait_for_logs()
        for side, outbox, sums in zip(self.sides, self.looked, added, strict=True):
            if outbox.sources:
                left = sums.left(ledger)
                self.done += min(left.above, outbox.last) - outbox.first
                side.at_desk(partial(
                    self._outbox, outbox=outbox, left=left, ledger=ledger, told=told
                ))  # fmt: skip

    def _extents(self, log: Log, topic: str) -> list[Extent]:
        """What is read of a topic: what the log took a while before can have been committed later,
        by another clock.
        """
        extents = log.extents(topic)
        if not self.since:
            return extents
        starts = log.offsets_at(topic, max(self.since_ms - CLOCKS_MS, 0))
        return [
            Extent(min(max(e.start, at), e.end), e.end)
            for e, at in zip(extents, starts, strict=False)
        ]

    def _inbox(self, desk: Desk, side: Side, ledger: Ledger) -> Program[None]:
        session, sql = desk.session, desk.sql
        for (name,) in (yield from call(session.run, sql["consumers"])):
            label = self.labels.get((side, name))
            if label is None:  # it is not meant, or new
                continue
            for source, id, *_ in (yield from call(session.run, sql["subscriptions"], (name,))):
                if not source or source.endswith(CLAIMED) or is_foreign(source):
                    continue
                rows: Rows = [("",)]
                while rows:
                    page = (id, rows[-1][0], PAGE_MAX)
                    rows = yield from call(session.run, sql["audit_keys"], page)
                    for row in rows:
                        self.waiting += row[8]
                        if row[9] and not ledger.detailed:
                            self.said += yield from _refused(desk, id, source, name, row)
                        if ledger.wants(source, row[0]):
                            state = yield from _state(desk, id, row, detailed=ledger.detailed)
                            ledger.done((source, row[0]), label, state, row[8])

    def _logs(
        self, ends: Iterable[tuple[Log, Mapping[str, list[Extent]]]], ledger: Ledger, told: Told,
        stopped: Callable[[], bool],
    ) -> None:  # fmt: skip
        for log, extents in ends:
            for records in read_log(log, extents):
                ledger.records(self._seen(records, marked=not ledger.detailed))
                self.done += len(records)
                told(self.done, self.total)
                if stopped():
                    return

    def _seen(self, records: list[Record], *, marked: bool) -> Iterator[Seen]:
        """Records as events; those that cannot be read are noted, and copies in an older version,
        in a topic beside that of their source, are left out.
        """
        seed, place, at = self.seed, IN_OUTBOX, ("", IN_OUTBOX)
        copied, last, plain = False, None, ""
        for record in records:
            topic, partition, offset, _, value, _, _ = record
            if partition != place[1] or topic != place[0]:
                place = topic, partition
            hashed, void, time_us = None, False, 0
            try:
                labels, id, key, chain, _, more = read_core(record)
                if labels is not last:  # they are few
                    last, plain = labels, form_of(labels.version, labels.content_type, None)
                form = plain
                if more or chain is None:
                    envelope = read_envelope(record)
                    hashed, void, time_us = envelope.digest, envelope.void, envelope.time_us
                    if envelope.after is not None:
                        form = form_of(envelope.version, envelope.content_type, envelope.after)
            except BadRecord as error:
                self.bad_count += 1
                if len(self.bad) < FINDINGS_MAX:
                    self.bad.append((record._replace(value=None, headers=()), str(error)))
                continue
            source, type, _, _ = labels
            if source is not at[0] or place is not at[1]:
                at, own = (source, place), stream_of(source)
                copied = topic != own and any(own in topics for _, topics in self.topics.values())
            number = None
            if chain is not None and key is not None:
                number, stamp, previous = chain
                sequence = number
            else:
                source, key, sequence, previous = source + BY_ID, id, 1, None
                stamp = min(max(time_us, 0) * STAMP_UNITS_PER_US, NUMBER_MAX)
            if copied or stamp < self.since:
                continue
            made = 0
            if marked:
                made = mark(seed, number, stamp, previous, id, type, form, value, void=void)
            yield (
                source, key, sequence, stamp, previous, id, made, type, form, value, hashed, void,
                place, offset,
            )  # fmt: skip

    def _add_up(self, desk: Desk, outbox: _Outbox, added: _Added) -> Program[None]:
        """What this store's outbox has of each key that relays have passed, where it can say."""
        session, sql = desk.session, desk.sql
        if session.dialect != "postgres":
            return
        starts = [(source, self.scope.of(source).start) for source in added.sources]
        added.able = True
        for above in range(outbox.first, outbox.last, WINDOW_MAX):
            window = (above, min(above + WINDOW_MAX, outbox.last))
            ((first, last),) = yield from call(session.run, sql["audit_window"], window)
            rows = yield from call(session.run, sql["audit_sums"], (
                *window, first, last, json.encode(starts).decode(), self.until, outbox.safe,
                self.seed,
            ))  # fmt: skip
            added.take_in(rows)

    def _ids(self, desk: Desk, outbox: _Outbox) -> Program[None]:
        """One id at two events of a source. The store sorts them, which the audit could not in
        little memory; events without a key are compared by id anyway.
        """
        found = (outbox.first, FINDINGS_MAX)
        rows = yield from call(desk.session.run, desk.sql["audit_ids"], found)
        for (source, id), group in groupby(rows, key=itemgetter(0, 1)):
            (_, _, key, number, _, _), *others = group
            for _, _, other, sequence, stamp, position in others:
                if outbox.sources >= {source} and (other, key) != (None, None):
                    of = "an event without a key" if key is None else f"number {number} of {key!r}"
                    self.said.append(Finding(
                        "conflict", False, source, other or "", sequence or 0, stamp, id, None,
                        str(position), None, f"its id is that of {of} too",
                        "ids are given once: who wrote it?",
                    ))  # fmt: skip

    def _outbox(
        self, desk: Desk, outbox: _Outbox, left: _Left, ledger: Ledger, told: Told
    ) -> Program[None]:
        session, sql = desk.session, desk.sql
        # All that the log had is below this end, and counters that are read now are not behind it.
        ((_, end),) = yield from call(session.run, sql["audit_extent"])
        for source in sorted(outbox.sources):
            rows: Rows = [("",)]
            while rows:
                page = (source, rows[-1][0], PAGE_MAX)
                rows = yield from call(session.run, sql["audit_counters"], page)
                for key, sequence, stamp, position in rows:
                    if ledger.wants(source, key):
                        ledger.counter((source, key), sequence, stamp, read=position <= (end or 0))
        starts = {source: self.scope.of(source).start for source in outbox.sources}
        limits = (json.encode(starts).decode(), self.until, outbox.safe)
        if left.alone:
            limits = ("{}", BEYOND, BEYOND)
        names = None if left.keys is None else json.encode(left.keys).decode()
        position = left.above
        while position < (end or 0):
            batch = (position, PAGE_MAX, PAGE_BYTES_MAX, names, *limits)
            rows = yield from call(session.run, sql["audit_rows"], batch)
            if not rows:
                break
            for row in rows:
                known = row[1] in outbox.sources and row[6] is not None
                if known and row[0] <= end and row[4] >= self.since:
                    published = outbox.published(row[1], row[2], row[0])
                    ledger.row(self._row(row, marked=not ledger.detailed), published=published)
            self.done += rows[-1][0] - position
            position = rows[-1][0]
            told(min(self.done, self.total), self.total)

    def _row(self, row: Any, *, marked: bool) -> Seen:
        """A row of `audit_rows` as an event; an un-keyed one as the log's readers know it."""
        position, source, key, sequence, stamp, previous, id, type, form, data = row
        void, made = data is None, 0
        if marked:
            made = mark(self.seed, sequence, stamp, previous, id, type, form, data, void=void)
        if sequence is None:
            source, key, sequence, previous = source + BY_ID, id, 1, None
        return (
            source, key, sequence, stamp, previous, id, made, type, form, data, None, void,
            IN_OUTBOX, position,
        )  # fmt: skip

    # ---- what cannot be read

    def unreadable(self) -> list[Finding]:
        """Records that cannot be read: settled where every reader's operator has dropped them."""
        found = []
        for record, why in self.bad:
            place = f"{record.topic}/{record.partition}@{record.offset}"
            readers = [
                name for name, at in self.positions.items()
                if at.get(record[:2], 0) > record.offset
            ]  # fmt: skip
            settled = bool(readers) and all(place in self.dropped[name] for name in readers)
            decide = "mend who writes it"
            if place in self.quarantined:
                name, n = self.quarantined[place]
                decide = f"oncebox quarantine show {name} {n}"
            key = (record.key or b"")[:80].decode("utf-8", "replace")
            found.append(Finding(
                "undecodable", settled, "", key, 0, None, None, place, None, None, why, decide
            ))  # fmt: skip
        return found


def _time(stamp: int) -> str:
    time_s = min(stamp // STAMP_UNITS_PER_US // 1_000_000, TIME_MS_MAX // 1000)
    return datetime.fromtimestamp(time_s, UTC).isoformat()


def _identity(desk: Desk) -> Program[str]:
    ((identity,),) = yield from call(desk.session.run, desk.sql["audit_store"])
    return str(identity)


def _refused(desk: Desk, id: int, source: str, consumer: str, row: Any) -> Program[list[Finding]]:
    """A payload that a consumer's handler cannot take, as it has noted."""
    key, why = row[0], row[9]
    decide = f"deploy a handler that takes it, then oncebox redrive {consumer} --key {quote(key)}"
    kept = yield from call(desk.session.run, desk.sql["audit_kept"], (id, key))
    return [
        Finding(
            "undecodable", False, source, key, sequence, stamp, event, None, None, consumer, why,
            decide,
        )
        for sequence, stamp, _, event, *_ in kept[:1]
    ]  # fmt: skip


def _state(desk: Desk, id: int, row: Any, *, detailed: bool) -> Program[KeyState]:
    """A row of `audit_keys`, with what is kept behind it where that is asked for."""
    key, sequence, stamp, event, hashed, cutoff, park, skipped, kept, _ = row
    links = []
    if kept and detailed:
        rows = yield from call(desk.session.run, desk.sql["audit_kept"], (id, key))
        links = [Link(*one)._replace(void=bool(one[5])) for one in rows]
    ranges = json.decode(skipped, type=tuple[tuple[int, int], ...]) if skipped else ()
    return KeyState(
        sequence, stamp, event, hashed, cutoff, Park(park) if park else None, ranges, tuple(links)
    )


def _homes(log: Log, partitions: int, key: bytes) -> list[int]:
    """Where a key is while its topic has 1, 2, … partitions."""
    return [log.home(key, many) for many in range(1, partitions + 1)]
