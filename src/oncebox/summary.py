"""A consumer at a glance: how far it is, what waits, what was counted. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .batch import COUNTS
from .desk import Desk
from .envelope import STAMP_UNITS_PER_US
from .outbox import read_reached
from .ports import Log, Reader, TopicPartition
from .program import Program, call

LAG_READS_MAX = 64
"""Partitions whose lag is told in seconds: for each, one record is read."""

LAG_READ_S = 2.0


class Cursor(NamedTuple):
    """Where a consumer stands in a partition. `holder`: whose lease runs; `takeovers`: owners that
    died at this position; `counts`: what it did, by name.
    """

    topic: str
    partition: int
    position: int | None
    holder: str | None
    lease_ms: int
    takeovers: int
    suspect: str | None
    counts: dict[str, int]


class Summary(NamedTuple):
    """A consumer's state in numbers. `behind`: keys not parked with events kept; `gaps` of them
    miss an event, the oldest since `gap_since_ms`. `effects_open`: effects outside the database
    whose result is not known. `rebuilding`: partitions and the offsets below which handlers run
    anew.
    """

    consumer: str
    cursors: list[Cursor]
    retrying: int
    failed: int
    forked: int
    behind: int
    gaps: int
    gap_since_ms: int | None
    kept: int
    quarantined: int
    effects_open: int
    effects_since_ms: int | None
    rebuilding: dict[TopicPartition, int]

    def total(self, name: str) -> int:
        """A count over all partitions."""
        return sum(cursor.counts[name] for cursor in self.cursors)


def summary(desk: Desk) -> Program[Summary]:
    """All of it, as it is now."""
    session, sql, name = desk.session, desk.sql, (desk.consumer,)
    rows = yield from call(session.run, sql["cursor_rows"], name)
    cursors = [
        Cursor(
            topic, partition, None if position is None else int(position), holder, lease_ms,
            takeovers, suspect, dict(zip(COUNTS, counts, strict=True)),
        )
        for topic, partition, position, _, _, holder, lease_ms, takeovers, suspect, *counts in rows
    ]  # fmt: skip
    (held,) = yield from call(session.run, sql["held_summary"], name)
    ((quarantined,),) = yield from call(session.run, sql["quarantine_count"], name)
    ((effects, since_ms),) = yield from call(session.run, sql["effects_open"], name)
    rows = yield from call(session.run, sql["rebuilding"], name)
    standing = {(c.topic, c.partition): c.position or 0 for c in cursors}
    rebuilding = {
        (topic, partition): until
        for topic, partition, until in rows
        if standing.get((topic, partition), 0) < until
    }
    retrying, failed, forked, behind, gaps, gap_since_ms, kept = held
    return Summary(
        desk.consumer, cursors, retrying, failed, forked, behind, gaps, gap_since_ms, kept,
        quarantined, effects, since_ms, rebuilding,
    )  # fmt: skip


def consumers(desk: Desk) -> Program[list[str]]:
    """The consumers that have rows in this store."""
    rows = yield from call(desk.session.run, desk.sql["consumers"])
    return [name for (name,) in rows]


class Refused(NamedTuple):
    """A key that waits in the outbox, since the log does not take its next event."""

    source: str
    key: str | None
    attempts: int
    reason: str


class Relay(NamedTuple):
    """The outbox of a service. `backlog`: events that are not published yet, nearly; `oldest_ms`:
    when the first of them was committed, Unix ms.
    """

    service: str
    backlog: int
    oldest_ms: int | None
    holder: str | None
    refused: list[Refused]


def relays(desk: Desk) -> Program[list[Relay]]:
    """The outboxes in this store: one for each service that emitted."""
    session, sql = desk.session, desk.sql
    rows = yield from call(session.run, sql["sources"])
    sources: dict[int, str] = dict(rows)
    rows = yield from call(session.run, sql["relays"])
    standing = {service: (position, holder) for _, service, _, position, holder in rows}
    found = []
    for service in sorted({name.strip("/").partition("/")[0] for name in sources.values()}):
        position, holder = standing.get(service, (None, None))
        reached = read_reached(position)
        ((count, stamp),) = yield from call(session.run, sql["backlog"], (reached.position,))
        waiting = yield from call(session.run, sql["refused"], (f"/{service}/",))
        refused = [
            Refused(sources[id], key, attempts, reason)
            for id, key, _, _, attempts, _, _, reason in waiting
        ]
        oldest_ms = None if stamp is None else stamp // (STAMP_UNITS_PER_US * 1000)
        found.append(Relay(service, max(count, 0), oldest_ms, holder, refused))
    return found


class Lag(NamedTuple):
    """How far a partition's end is: in records, and how old the next one is in seconds (None where
    that was not looked up). `lost`: records that expired before they were read.
    """

    records: int
    seconds: float | None
    lost: int


def lag(log: Log, cursors: Sequence[Cursor], now_ms: int) -> dict[TopicPartition, Lag]:
    """The lag of each partition. Raises Unreachable, NotFound for a topic that is gone."""
    found: dict[TopicPartition, Lag] = {}
    reader: Reader | None = None
    extents = {topic: log.extents(topic) for topic in {cursor.topic for cursor in cursors}}
    try:
        for cursor in cursors:
            known = extents[cursor.topic]
            if cursor.partition >= len(known):
                continue
            start, end = known[cursor.partition]
            position = start if cursor.position is None else cursor.position
            lost, position = max(start - position, 0), max(position, start)
            seconds = 0.0 if position >= end else None
            if seconds is None and len(found) < LAG_READS_MAX:
                reader = reader or log.reader("oncebox-status")
                seconds = _age_s(reader, (cursor.topic, cursor.partition), position, now_ms)
            place = (cursor.topic, cursor.partition)
            found[place] = Lag(max(end - position, 0), seconds, lost)
    finally:
        if reader is not None:
            reader.close()
    return found


def _age_s(reader: Reader, place: TopicPartition, position: int, now_ms: int) -> float | None:
    reader.assign({place: position})
    records = reader.fetch(1, 1024 * 1024, LAG_READ_S)
    return max(now_ms - records[0].time_ms, 0) / 1000 if records else None
