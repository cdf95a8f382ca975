"""Leases: who reads what, and how work is shared among the processes of a reader.

A lease says who should work; only the `term` in the cursor's own update decides. So a wrong clock
or a stopped process costs time, never an effect.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .ports import TopicPartition
from .program import Program, call
from .session import Session

logger = logging.getLogger("oncebox.lease")

LEASE_S = 3.0
"""How long a silent owner keeps its partitions; renewed every third of it."""

STUCK_S = 10.0
"""How long a transaction that holds a cursor may outlast the lease, where its owner has no bounds
of its own for it."""


class Held(NamedTuple):
    """A cursor that is ours: what to compare (`term`, `position`) and what its past says."""

    term: int
    position: str | None
    identity: str | None
    takeovers: int
    suspect: str | None


def add_cursor(
    session: Session, sql: Mapping[str, str], reader: str, place: TopicPartition
) -> Program[None]:
    """Make the cursor's row if it is not there."""
    yield from call(session.run, sql["add_cursor"], (reader, *place))


def acquire(
    session: Session,
    sql: Mapping[str, str],
    reader: str,
    place: TopicPartition,
    holder: str,
    lease_s: float = LEASE_S,
    stuck_s: float = STUCK_S,
) -> Program[Held | None]:
    """Take a cursor that is free, expired or already ours, under a new term; None: it is not.

    Then its owner is perhaps in a transaction. One that has stood still for `stuck_s` since its
    lease ran out is ended: its process was stopped, or its host is gone and nobody has noticed.
    """
    parameters = (reader, *place, holder, int(lease_s * 1000))
    rows = yield from call(session.run, sql["acquire"], parameters)
    if not rows:
        ended = yield from call(
            session.run, sql["end_stuck"], (reader, *place, int(stuck_s * 1000))
        )
        if ended:
            logger.warning("%s: ended a transaction that stood still at %s/%d", reader, *place)
    return Held(*rows[0]) if rows else None


def renew(
    session: Session, sql: Mapping[str, str], reader: str, holder: str, lease_s: float = LEASE_S
) -> Program[dict[TopicPartition, int]]:
    """Run our leases on; by partition, the term of each that is still ours."""
    rows = yield from call(session.run, sql["renew"], (reader, holder, int(lease_s * 1000)))
    return {(topic, partition): term for topic, partition, term in rows}


def release(
    session: Session,
    sql: Mapping[str, str],
    reader: str,
    place: TopicPartition,
    holder: str,
    term: int,
) -> Program[None]:
    """Give a cursor back at once, so that nobody has to wait for the lease to run out."""
    yield from call(session.run, sql["release"], (reader, *place, holder, term))


def fair_share(
    holders: Mapping[TopicPartition, str | None], me: str, members: Sequence[str]
) -> tuple[list[TopicPartition], list[TopicPartition]]:
    """Which partitions to take and which to give back, by who holds each (None: nobody).

    All members decide alike, without talking: each aims at total // members, and one more for the
    first `total % members` of them in order of what they hold and of their names. So none ends
    with two above another, and a partition moves only for that.
    """
    counts = dict.fromkeys(members, 0)
    counts.setdefault(me, 0)
    for holder in holders.values():
        if holder in counts:
            counts[holder] += 1
    least, extra = divmod(len(holders), len(counts))
    richest = sorted(counts, key=lambda name: (-counts[name], name))[:extra]
    aim = least + 1 if me in richest else least
    mine = sorted(place for place, holder in holders.items() if holder == me)
    free = sorted(place for place, holder in holders.items() if holder not in counts)
    return free[: max(0, aim - len(mine))], mine[aim:]
