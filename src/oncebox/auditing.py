"""The audit at work: it reads inbox, log and outbox of running services, page by page.

In this order, so that nothing that moves meanwhile looks wrong: how far relays and consumers are;
then the inbox; then the log, up to where it ended by then; then the outbox. What a relay has passed
is in the log by then, what the log has is in the outbox, and what a consumer had read it has done.
Whatever still looks wrong is read again before it is said. Statements only read, in no transaction:
nothing is locked, and a role that may only select is enough.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, cast

from msgspec import json

from .audit import (
    Bounds,
    Finding,
    KeyName,
    Ledger,
    Scope,
    Tally,
)
from .desk import Desk, now_ms
from .envelope import STAMP_UNITS_PER_US, digest
from .errors import LogTruncated, NotFound, Unreachable
from .event import stream_of
from .examine import Cases, examine
from .inbox import CLAIMED
from .order import KeyState, Link, Park
from .others import is_foreign
from .outbox import Reached, read_reached
from .ports import Extent, Log, Record, TopicPartition
from .program import Program, call
from .reading import BY_ID, Reading, Settings, take_in
from .session import Rows, Session

PAGE_MAX = 5_000
PAGE_BYTES_MAX = 8 * 1024 * 1024
"""Rows or records, and bytes of them, that are read at once."""

SUSPECTS_MAX = 10_000
"""Keys that are looked at event by event; of more it is only said how many they are."""

FINDINGS_MAX = 1_000
"""Findings of a kind that are listed; all are counted."""

STALL_S = 30.0
"""When a log brings nothing for so long before its end, it is taken for unreachable."""

QUIET_S = 5.0
"""The same for a log of others, which is then at its end."""

YOUNGER_S = 10.0
"""What is younger than this is unseen where it is missing, not lost."""

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
        return not self.names or any(_belongs(name, one) for one in self.names)


def _belongs(name: str, to: str) -> bool:
    return name == to or name.startswith(f"{to}.")


class Report(NamedTuple):
    """What an audit has found. `counts`: by kind, those that are wrong; `settled`: the others.
    `unseen`: events that the log need not have yet; `waiting`: events that consumers keep; `lag`:
    records that consumers have not read. `unexamined`: keys where something differs that were too
    many to look at. `unknown`: sources whose outbox is not known, and topics of others, which are
    for `audit_topic`.
    """

    findings: list[Finding]
    counts: dict[str, int]
    settled: dict[str, int]
    keys: int
    records: int
    rows: int
    unseen: int
    waiting: int
    lag: dict[str, int]
    unexamined: int
    unknown: list[str]

    @property
    def clean(self) -> bool:
        return not self.counts and not self.unexamined


def audit(
    sides: Sequence[Side],
    *,
    younger_s: float = YOUNGER_S,
    told: Told = lambda done, total: None,  # noqa: ARG005
    clock_ms: Callable[[], int] = now_ms,
) -> Report:
    """Audit these stores and their logs. `told` hears how much is done, of how much.

    Raises NotFound for a name that has no rows, Unreachable, and what stores raise.
    """
    surveys: list[_Survey] = []

    def begin() -> tuple[Scope, Callable[[Ledger], None]]:
        until = (clock_ms() - int(younger_s * 1000)) * 1000 * STAMP_UNITS_PER_US
        surveys.append(_Survey(sides, until))
        return surveys[-1].look(), partial(surveys[-1].walk, told=told)

    listing = Listing()
    tally, unexamined = two_passes(begin, listing)
    first = surveys[0]
    for finding in first.unreadable():
        listing.add(finding)
    listing.counts["undecodable", False] += first.bad_count - len(first.bad)
    unknown = {s.removesuffix(BY_ID) for s in tally.sources} - first.outboxes
    return listing.report(tally, unexamined, first.waiting, sorted(unknown | first.others))


class Listing:
    """Findings, as many as are listed, and the count of all."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.counts: Counter[tuple[str, bool]] = Counter()

    def add(self, finding: Finding) -> None:
        kind = finding.kind, finding.settled
        self.counts[kind] += 1
        if self.counts[kind] <= FINDINGS_MAX:
            self.findings.append(finding)

    def report(
        self, tally: Tally, unexamined: int, waiting: int = 0, unknown: Sequence[str] = ()
    ) -> Report:
        wrong, settled = (
            {kind: n for (kind, is_settled), n in sorted(self.counts.items())
             if n and is_settled is which}
            for which in (False, True)
        )  # fmt: skip
        keys = sum(len(source.keys) for source in tally.sources.values())
        return Report(
            self.findings, wrong, settled, keys, tally.records, tally.rows,
            tally.unseen, waiting, dict(tally.lag), unexamined, list(unknown),
        )  # fmt: skip


def two_passes(
    begin: Callable[[], tuple[Scope, Callable[[Ledger], None]]], listing: Listing
) -> tuple[Tally, int]:
    """Read everything, and whatever differs once more, from the beginning. `begin`: what is
    audited, and how to read it into a ledger. Returns the first pass, and how many keys differ that
    were not looked at.
    """
    scope, walk = begin()
    tally = Tally(scope)
    walk(tally)
    suspects = set(tally.suspects())
    for finding in tally.listed:
        if (finding.source, finding.key) not in suspects:
            listing.findings.append(finding)
    listing.counts["duplicate", True] = tally.repeats
    if suspects:
        cases = Cases(set(islice(suspects, SUSPECTS_MAX)))
        scope, walk = begin()
        walk(cases)
        for case in cases.cases.values():
            for finding in examine(case, scope):
                listing.add(finding)
    return tally, max(len(suspects) - SUSPECTS_MAX, 0)


class _Outbox(NamedTuple):
    """What is read of one store's outbox: up to position `last`; where its relays are, and which
    keys wait since the log refused them, from which position on.
    """

    sources: set[str]
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


class _Survey:
    """One pass over all sides."""

    def __init__(self, sides: Sequence[Side], until: int) -> None:
        self.sides = sides
        self.until = until
        self.oldest: dict[str, int] = {}
        self.positions: dict[str, dict[TopicPartition, int]] = {}
        self.floors: dict[tuple[str, str], int] = {}
        self.outboxes: set[str] = set()
        self.looked: list[_Outbox] = []
        self.topics: dict[int, tuple[Log, set[str]]] = {}
        self.quarantined: dict[str, tuple[str, int]] = {}
        self.dropped: dict[str, set[str]] = {}
        self.others: set[str] = set()
        self.bad: list[tuple[Record, str]] = []
        self.bad_count = self.waiting = self.done = self.total = 0

    # ---- how far everybody is

    def look(self) -> Scope:
        """Who is how far; what each side still covers."""
        for side in self.sides:
            side.at_desk(partial(self._look, side=side))
        met = {source.split("/")[1] for source in self.outboxes} | self.positions.keys()
        for name in {name for side in self.sides for name in side.names}:
            if not any(_belongs(one, name) for one in met):
                raise NotFound(f"{name} has no rows here", hint="it appears when it has run once")
        logs: dict[str, int] = {}
        for log, topics in self.topics.values():
            for topic in topics:
                logs[topic] = _covers(log, topic)
        bounds = {
            source: Bounds(oldest, logs.get(stream_of(source), 0), self.until)
            for source, oldest in self.oldest.items()
        }
        return Scope(bounds, logs, self.positions, self.floors, self.until)

    def _look(self, desk: Desk, side: Side) -> Program[None]:
        session, sql = desk.session, desk.sql
        reached = {}
        for _, service, _, position, _ in (yield from call(session.run, sql["relays"])):
            reached[service] = read_reached(position)
        topics: set[str] = set()
        read: set[str] = set()
        for (name,) in (yield from call(session.run, sql["consumers"])):
            if side.means(name):
                topics |= yield from self._look_at_consumer(desk, name, read)
        ((oldest, last),) = yield from call(session.run, sql["audit_extent"])
        sources = set[str]()
        refused: dict[tuple[str, str | None], int] = {}
        for (source,) in (yield from call(session.run, sql["sources"])):
            if side.means(source.split("/")[1]) or source in read:
                sources.add(source)
                self.oldest[source] = self.until if oldest is None else oldest
                topics.add(stream_of(source))
                for row in (yield from call(session.run, sql["refused"], (source,))):
                    refused[row[0], row[1]] = min(row[2], refused.get((row[0], row[1]), BEYOND))
        self.outboxes |= sources
        relays = [reached.get(source.split("/")[1], Reached()) for source in sources]
        holes = (hole.first for relay in relays for hole in relay.holes)
        safe = min(
            (*(relay.position + 1 for relay in relays), *holes, *refused.values()), default=0
        )
        self.looked.append(_Outbox(sources, last or 0, reached, refused, safe))
        for topic in topics:
            if side.log.describe(topic) is not None:
                self.topics.setdefault(id(side.log), (side.log, set()))[1].add(topic)

    def _look_at_consumer(self, desk: Desk, name: str, read: set[str]) -> Program[set[str]]:
        session, sql = desk.session, desk.sql
        positions = self.positions.setdefault(name, {})
        for topic, partition, position, *_ in (
            yield from call(session.run, sql["cursor_rows"], (name,))
        ):
            positions[topic, partition] = int(position or 0)
        for source, _, floor, _ in (yield from call(session.run, sql["subscriptions"], (name,))):
            self.floors[name, source] = floor
            read.add(source.removesuffix(BY_ID))
            if is_foreign(source):
                self.others.add(source.removesuffix(BY_ID))
        rows = yield from call(session.run, sql["quarantine_numbers"], (name, 0, PAGE_MAX))
        for n, topic, partition, offset, *_ in rows:
            self.quarantined[f"{topic}/{partition}@{offset}"] = name, n
        rows = yield from call(session.run, sql["journal"], (name, BEYOND, "drop", None, PAGE_MAX))
        found = (_DROPPED.search(row[8] or "") for row in rows)
        self.dropped[name] = {match[1] for match in found if match}
        return {topic for topic, _ in positions} - self.others

    # ---- the three sides

    def walk(self, ledger: Ledger, told: Told) -> None:
        """Read inbox, log and outbox into a ledger."""
        for side in self.sides:
            side.at_desk(partial(self._inbox, side=side, ledger=ledger))
        ends = [(log, {t: log.extents(t) for t in topics}) for log, topics in self.topics.values()]
        self.total = sum(e.end - e.start for _, of in ends for es in of.values() for e in es)
        self.total += sum(outbox.last for outbox in self.looked)
        for log, extents in ends:
            self._log(log, extents, ledger, told)
        for side, outbox in zip(self.sides, self.looked, strict=True):
            if outbox.sources:
                side.at_desk(partial(self._outbox, outbox=outbox, ledger=ledger, told=told))

    def _inbox(self, desk: Desk, side: Side, ledger: Ledger) -> Program[None]:
        session, sql = desk.session, desk.sql
        for (name,) in (yield from call(session.run, sql["consumers"])):
            if not side.means(name):
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
                        if ledger.wants(source, row[0]):
                            state = yield from _state(desk, id, row, detailed=ledger.detailed)
                            ledger.done((source, row[0]), name, state)

    def _log(
        self, log: Log, extents: Mapping[str, list[Extent]], ledger: Ledger, told: Told
    ) -> None:
        reading = _nobody()
        for records in read_log(log, extents):
            self._records(reading, records, ledger)
            self.done += len(records)
            told(self.done, self.total)

    def _records(self, reading: Reading, records: list[Record], ledger: Ledger) -> None:
        taken = take_in(reading, records)
        if len(taken.new) < len(taken.items):
            bad = [item for item in taken.items if item.bad is not None]
            self.bad_count += len(bad)
            room = FINDINGS_MAX - len(self.bad)
            self.bad += [(item.record, item.bad or "") for item in bad[:room]]
        for source, item in taken.new:
            key, record = item.place[1], item.record
            if ledger.wants(source, key):
                ledger.record((source, key), item.link, record[:2], record.offset)

    def _outbox(self, desk: Desk, outbox: _Outbox, ledger: Ledger, told: Told) -> Program[None]:
        session, sql = desk.session, desk.sql
        # All that the log had is below this end, and counters that are read now are not behind it.
        ((_, end),) = yield from call(session.run, sql["audit_extent"])
        for source in sorted(outbox.sources):
            rows: Rows = [("",)]
            while rows:
                page = (source, rows[-1][0], PAGE_MAX)
                rows = yield from call(session.run, sql["audit_counters"], page)
                for key, sequence, stamp in rows:
                    if ledger.wants(source, key):
                        ledger.counter((source, key), sequence, stamp)
        position = 0
        while position < (end or 0):
            batch = (position, "[]", PAGE_MAX, PAGE_BYTES_MAX, "")
            rows = yield from call(session.run, sql["read"], batch)
            if not rows:
                break
            for row in rows:
                if row[2] in outbox.sources and row[8] is not None and row[0] <= end:
                    name, link = _event(row)
                    if ledger.wants(*name):
                        published = outbox.published(row[2], row[3], row[0])
                        ledger.row(name, link, row[0], published=published)
            self.done += rows[-1][0] - position
            position = rows[-1][0]
            told(min(self.done, self.total), self.total)

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


def read_log(
    log: Log, extents: Mapping[str, list[Extent]], *, strict: bool = True
) -> Iterator[list[Record]]:
    """All records from the starts to the ends. Raises Unreachable where nothing more comes before
    an end, unless not `strict` and there were some: others' transactions leave marks at ends.
    """
    places = {(topic, n): e for topic, of in extents.items() for n, e in enumerate(of)}
    left = {place: extent.end for place, extent in places.items() if extent.start < extent.end}
    at = {place: places[place].start for place in left}
    reader = log.reader("oncebox-audit")
    try:
        reader.assign(at)
        while left:
            try:
                records = reader.fetch(PAGE_MAX, PAGE_BYTES_MAX, STALL_S if strict else QUIET_S)
            except LogTruncated:  # retention went on meanwhile
                for place in left:
                    at[place] = max(at[place], log.extents(place[0])[place[1]].start)
            else:
                unread = [place for place in left if strict or at[place] == places[place].start]
                if not records and not unread:
                    return
                if not records:
                    (topic, number), end = unread[0], left[unread[0]]
                    raise Unreachable(
                        f"the log brings nothing more before its end at {end}",
                        position=f"{topic}/{number}@{at[topic, number]}",
                    )
                yield [record for record in records if record.offset < left.get(record[:2], 0)]
                for record in records:
                    at[record[:2]] = record.offset + 1
                if all(at[place] < end for place, end in left.items()):
                    continue
            left = {place: end for place, end in left.items() if at[place] < end}
            reader.assign({place: at[place] for place in left})
    finally:
        reader.close()


def _covers(log: Log, topic: str) -> int:
    """Since which stamp the log has all of a topic: 0 where it never dropped anything."""
    latest = 0
    starts = {(topic, n): e.start for n, e in enumerate(log.extents(topic)) if 0 < e.start < e.end}
    for place, start in starts.items():
        reader = log.reader("oncebox-audit")
        try:
            reader.assign({place: start})
            for record in reader.fetch(1, PAGE_BYTES_MAX, STALL_S)[:1]:
                latest = max(latest, record.time_ms)
        except LogTruncated:  # just now
            latest = max(latest, now_ms())
        finally:
            reader.close()
    return latest * 1000 * STAMP_UNITS_PER_US


def _state(desk: Desk, id: int, row: Any, *, detailed: bool) -> Program[KeyState]:
    """A row of `audit_keys`, with what is kept behind it where that is asked for."""
    key, sequence, stamp, event, hashed, cutoff, park, skipped, kept = row
    links = []
    if kept and detailed:
        rows = yield from call(desk.session.run, desk.sql["audit_kept"], (id, key))
        links = [Link(*one)._replace(void=bool(one[5])) for one in rows]
    ranges = json.decode(skipped, type=tuple[tuple[int, int], ...]) if skipped else ()
    return KeyState(
        sequence, stamp, event, hashed, cutoff, Park(park) if park else None, ranges, tuple(links)
    )


def _event(row: Any) -> tuple[KeyName, Link]:
    """A row of `read` as its name and place; an un-keyed one as the log's readers know it."""
    _, _, source, key, sequence, stamp, previous, _, id, type, *_, data = row
    hashed, void = digest(type, data is None, data), data is None
    if sequence is None:
        return (source + BY_ID, id), Link(1, stamp, None, id, hashed, void)
    return (source, key), Link(sequence, stamp, previous, id, hashed, void)


def _nobody() -> Reading:
    """A consumer that has subscribed to nothing: so all that it takes in is new to it."""
    return Reading(
        consumer="", session=cast("Session", None), sql={}, handlers={}, topics=(),
        settings=Settings(), now_ms=now_ms,
    )  # fmt: skip
