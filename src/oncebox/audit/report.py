"""What an audit says in the end: a pass over everything, and over whatever differs once more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .examine import Cases, examine
from .facts import Finding, Ledger, Scope
from .keys import Tally

SUSPECTS_MAX = 10_000
"""Keys that are looked at event by event in one pass."""

FINDINGS_MAX = 1_000
"""Findings of a kind that are listed; all are counted."""

Begin = Callable[[], tuple[Scope, Callable[[Ledger], None]]]


class Report(NamedTuple):
    """What an audit has found. `counts`: by kind, those that are wrong; `settled`: the others.
    `unseen`: events that the log need not have yet; `waiting`: events that consumers keep; `lag`:
    records that consumers have not read. `unexamined`: keys where something differs that were too
    many to look at. `unknown`: sources whose outbox is not known, and topics of others, which are
    for `audit_topic`. `since`: by source, from when on outbox and log are compared (UTC), where one
    of them does not reach back to the beginning.
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
    since: dict[str, str]

    @property
    def clean(self) -> bool:
        return not self.counts and not self.unexamined


class Listing:
    """Findings, as many as are listed, and the count of all."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.counts: Counter[tuple[str, bool]] = Counter()

    @property
    def wrong(self) -> bool:
        """Whether there is any that is not settled."""
        return any(many for (_, settled), many in self.counts.items() if not settled)

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
        return Report(
            self.findings, wrong, settled, tally.keys, tally.seen, tally.rows,
            tally.unseen, waiting, dict(tally.lag), unexamined, list(unknown), {},
        )  # fmt: skip


def two_passes(begin: Begin, listing: Listing) -> tuple[Tally, int]:
    """Read everything, and whatever differs once more, from the beginning; again for each
    SUSPECTS_MAX keys, until something is wrong. `begin`: what is audited, and how to read it into a
    ledger. Returns the first pass, and how many keys differ that were not looked at.
    """
    scope, walk = begin()
    tally = Tally(scope)
    walk(tally)
    suspects = list(tally.suspects())
    listing.counts["duplicate", True] = tally.repeats
    listing.counts["moved", True] = tally.moved
    names = set(suspects)
    listing.findings += [one for one in tally.listed if (one.source, one.key) not in names]
    while suspects and not listing.wrong:
        cases = Cases(suspects[:SUSPECTS_MAX])
        del suspects[:SUSPECTS_MAX]
        scope, walk = begin()
        walk(cases)
        for case in cases.cases.values():
            for finding in examine(case, scope):
                listing.add(finding)
    return tally, len(suspects)
