"""A consumer at a glance: how far it is, what waits, what was counted. Changes nothing."""

from __future__ import annotations

from typing import NamedTuple

from ..consumer.batch import COUNTS
from ..envelope import STAMP_UNITS_PER_US
from ..outbox import read_reached
from ..ports import Log, Reader, TopicPartition
from ..program import Program, call
from .desk import Desk

LAG_READS_MAX = 64
"""Partitions whose lag is told in seconds: for each, one record is read."""

LAG_READ_S = 2.0


class Partition(NamedTuple):
    """Where a consumer stands in a partition. `holder`: whose lease runs; `takeovers`: owners that
    died at this position; `rebuild_until`: the offset below which handlers run anew.

    `lag`: records to its end; `lag_s`: the age of the next one (None: not looked up); `lost`:
    records that expired before they were read. They are known `with_lag`.
    """

    topic: str
    partition: int
    position: int | None
    holder: str | None
    lease_ms: int | None
    takeovers: int
    rebuild_until: int | None
    lag: int | None = None
    lag_s: float | None = None
    lost: int | None = None


class Parked(NamedTuple):
    """Keys that failed and are tried again by themselves, that wait for somebody, that forked."""

    retrying: int
    failed: int
    forked: int


class Open(NamedTuple):
    """How many are open, and since when the oldest is (Unix ms)."""

    open: int
    since_ms: int | None


class Summary(NamedTuple):
    """A consumer's state in numbers. `behind`: keys not parked with events kept, `gaps` of which
    miss an event. `effects`: those outside the database whose result is not known. `lag`, `lag_s`:
    over all partitions. `counts`: what it did, by name.
    """

    name: str
    lag: int | None
    lag_s: float | None
    parked: Parked
    gaps: Open
    behind: int
    kept: int
    quarantine: int
    effects: Open
    counts: dict[str, int]
    holders: list[str]
    partitions: list[Partition]

    @property
    def rebuilding(self) -> dict[TopicPartition, int]:
        """Partitions that are being rebuilt, and up to which offset."""
        places = ((p.topic, p.partition, p.rebuild_until) for p in self.partitions)
        return {(topic, partition): until for topic, partition, until in places if until}

    @property
    def rebuilt(self) -> tuple[int, int]:
        """Records read of a rebuild that is going on, and how many there are to read; or (0, 0)."""
        going_on = [p for p in self.partitions if p.rebuild_until]
        return sum(p.position or 0 for p in going_on), sum(p.rebuild_until or 0 for p in going_on)


def summary(desk: Desk) -> Program[Summary]:
    """All of it, as it is now; the lag is not known."""
    session, sql, name = desk.session, desk.sql, (desk.consumer,)
    rows = yield from call(session.run, sql["cursor_rows"], name)
    (held,) = yield from call(session.run, sql["held_summary"], name)
    ((quarantined,),) = yield from call(session.run, sql["quarantine_count"], name)
    ((effects, since_ms),) = yield from call(session.run, sql["effects_open"], name)
    targets = yield from call(session.run, sql["rebuilding"], name)
    until = {(topic, partition): offset for topic, partition, offset in targets}
    begun = {(row[0], row[1]) for row in rows}
    counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
    partitions = []
    for topic, partition, text, _, _, holder, lease_ms, takeovers, _, *numbers in rows:
        position = None if text is None else int(text)
        target = until.get((topic, partition), 0)
        rebuild_until = target if (position or 0) < target else None
        lease = (holder, lease_ms if holder else None, takeovers)
        partitions.append(Partition(topic, partition, position, *lease, rebuild_until))
        for count, number in zip(COUNTS, numbers, strict=True):
            counts[count] += number
    for (topic, partition), target in until.items():
        if (topic, partition) not in begun:
            partitions.append(Partition(topic, partition, None, None, None, 0, target))
    retrying, failed, forked, behind, gaps, gap_since_ms, kept = held
    return Summary(
        desk.consumer, None, None, Parked(retrying, failed, forked), Open(gaps, gap_since_ms),
        behind, kept, quarantined, Open(effects, since_ms), counts,
        sorted({p.holder for p in partitions if p.holder}), partitions,
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
    sources = yield from call(session.run, sql["sources"])
    rows = yield from call(session.run, sql["relays"])
    standing = {service: (position, holder) for _, service, _, position, holder in rows}
    found = []
    for service in sorted({name.strip("/").partition("/")[0] for (name,) in sources}):
        position, holder = standing.get(service, (None, None))
        reached = read_reached(position)
        ((count, stamp),) = yield from call(session.run, sql["backlog"], (reached.position,))
        waiting = yield from call(session.run, sql["refused"], (f"/{service}/",))
        refused = [
            Refused(source, key, attempts, reason)
            for source, key, _, _, attempts, _, _, reason in waiting
        ]
        oldest_ms = None if stamp is None else stamp // (STAMP_UNITS_PER_US * 1000)
        found.append(Relay(service, max(count, 0), oldest_ms, holder, refused))
    return found


# ---- lag


def with_lag(one: Summary, log: Log, now_ms: int, own: Reader | None = None) -> Summary:
    """The summary with its lag; `own`: a reader that is kept. Raises Unreachable, NotFound for a
    topic that is gone.
    """
    found: list[Partition] = []
    extents = {topic: log.extents(topic) for topic in {p.topic for p in one.partitions}}
    reader = own
    try:
        for at in one.partitions:
            known = extents[at.topic]
            if at.partition >= len(known):
                found.append(at)
                continue
            start, end = known[at.partition]
            position = max(start if at.position is None else at.position, start)
            lag_s = 0.0 if position >= end else None
            if lag_s is None and len(found) < LAG_READS_MAX:
                reader = reader or log.reader("oncebox-status")
                lag_s = _age_s(reader, (at.topic, at.partition), position, now_ms)
            lost = 0 if at.position is None else max(start - at.position, 0)
            found.append(at._replace(lag=max(end - position, 0), lag_s=lag_s, lost=lost))
    finally:
        if reader is not None and reader is not own:
            reader.close()
    lag_s = max((p.lag_s for p in found if p.lag_s is not None), default=0.0)
    return one._replace(partitions=found, lag=sum(p.lag or 0 for p in found), lag_s=lag_s)


def _age_s(reader: Reader, place: TopicPartition, position: int, now_ms: int) -> float | None:
    reader.assign({place: position})
    records = reader.fetch(1, 1024 * 1024, LAG_READ_S)
    return max(now_ms - records[0].time_ms, 0) / 1000 if records else None
