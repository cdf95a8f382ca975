"""How late the replica was, by the times of commit that PostgreSQL keeps.

Nothing of oncebox's is asked: a change of a row there, and the same change of the row here.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import merge
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import psycopg

from .compare import read
from .faults import Fired

LATE_S = 1.0
COMMITTED = "extract(epoch from pg_xact_commit_timestamp(xmin))::float8"
THERE = f"select kind, id, 0, {COMMITTED} from audited order by kind, id, n"
HERE = f"select kind, id, 1, {COMMITTED} from history order by kind, id, n"


class Span(NamedTuple):
    """A time (Unix seconds) in which something was late by more than LATE_S."""

    began: float
    ended: float


class Lags(NamedTuple):
    """Seconds from commit to commit, in order; when they were late; and the last commits: of the
    original, and of the replica. `drained`: changes that came after the original's last commit.
    """

    seconds: list[float]
    spans: list[Span]
    last_there: float
    last_here: float
    drained: int

    def share(self, part: float) -> float:
        """The lag below which a part of all lie."""
        return self.seconds[min(int(len(self.seconds) * part), len(self.seconds) - 1)]

    def recoveries(self, fired: Sequence[Fired]) -> list[float]:
        """For each span, how long after the last fault before its end it ended, in seconds. -1: no
        fault had fired.
        """
        found = []
        for span in self.spans:
            before = [one.began for one in fired if one.began <= span.ended]
            found.append(span.ended - max(before) if before else -1.0)
        return found


def measure(bank: str, replica: str) -> Lags | None:
    """The lags of all changes; None where there was none."""
    pairs: list[tuple[float, float]] = []
    with psycopg.connect(bank) as ours, psycopg.connect(replica) as theirs:
        both = merge(read(ours, THERE), read(theirs, HERE), key=itemgetter(0, 1))
        for _, of_key in groupby(both, key=itemgetter(0, 1)):
            sides: tuple[list[float], list[float]] = [], []
            for _, _, side, committed in of_key:
                sides[side].append(committed)
            pairs += zip(*sides, strict=False)
    if not pairs:
        return None
    last_there, last_here = (max(column) for column in zip(*pairs, strict=True))
    drained = sum(1 for _, here in pairs if here > last_there)
    seconds = sorted(here - there for there, here in pairs)
    return Lags(seconds, _late(pairs), last_there, last_here, drained)


def _late(pairs: list[tuple[float, float]]) -> list[Span]:
    """When the oldest change that had not arrived was older than LATE_S."""
    spans: list[Span] = []
    for there, here in sorted(pairs):
        if here - there <= LATE_S:
            continue
        if spans and there + LATE_S <= spans[-1].ended:
            spans[-1] = Span(spans[-1].began, max(spans[-1].ended, here))
        else:
            spans.append(Span(there + LATE_S, here))
    return spans
