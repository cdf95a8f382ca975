"""Events without a key in the audit: what agrees costs one pass and little memory, and whatever
differs is named.
"""

from __future__ import annotations

import tracemalloc
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from oncebox.audit.examine import MARGIN, Cases, examine
from oncebox.audit.facts import IN_OUTBOX, Bounds, Finding, Ledger, Scope, Seen, mark
from oncebox.audit.keys import Tally
from oncebox.consumer.reading import BY_ID
from oncebox.order import KeyState

SOURCE, PLACE = "/shop/orders" + BY_ID, ("orders", 0)


class One(NamedTuple):
    """An event. `said` stands for its bytes and its digest."""

    id: str
    stamp: int
    said: int


class Sides(NamedTuple):
    """`rows`: with whether the relay has passed them; `records`: None where one was taken out;
    `inbox`: of one consumer, by id.
    """

    rows: list[tuple[One, bool]]
    records: list[One | None]
    inbox: dict[str, One]
    position: int
    bounds: Bounds

    def scope(self) -> Scope:
        positions = {"billing": {PLACE: self.position}}
        return Scope({SOURCE: self.bounds}, {}, positions, {}, self.bounds.until)

    def feed(self, ledger: Ledger) -> None:
        for id, (_, stamp, said) in self.inbox.items():
            state = KeyState(1, stamp, id, said)
            if ledger.wants(SOURCE, id):
                ledger.done((SOURCE, id), "billing", state, 0)
        ledger.records(seen(one, PLACE, n) for n, one in enumerate(self.records) if one)
        for n, (one, published) in enumerate(self.rows):
            ledger.row(seen(one, IN_OUTBOX, n + 1), published=published)

    def tally(self) -> tuple[Tally, set[Any]]:
        tally = Tally(self.scope())
        self.feed(tally)
        return tally, set(tally.suspects())

    def found(self) -> list[Finding]:
        """What both passes say together."""
        cases = Cases(self.tally()[1])
        self.feed(cases)
        return [one for case in cases.cases.values() for one in examine(case, self.scope())]


def seen(one: One, place: Any, at: int) -> Seen:
    value = str(one.said).encode()
    made = mark("seed", None, one.stamp, None, one.id, "opened", "1 ", value, void=False)
    return (
        SOURCE, one.id, 1, one.stamp, None, one.id, made, "opened", "1 ", value, one.said, False,
        place, at,
    )  # fmt: skip


def events(*numbers: int) -> list[One]:
    return [One(f"id-{n}", 10 * n * MARGIN, n) for n in numbers]


@st.composite
def agreeing(draw: Any) -> Sides:
    """Outbox and log have dropped what is old; relays begin again here and there."""
    count = draw(st.integers(1, 12))
    made = events(*range(1, count + 1))
    published = draw(st.integers(0, count))
    order: list[int] = []
    reached = 0
    while reached < published:
        start = draw(st.integers(max(0, reached - 3), reached))
        reached = draw(st.integers(max(reached, start + 1), published))
        order += range(start, reached)
    position = draw(st.integers(0, len(order)))
    inbox = {made[at].id: made[at] for at in order[:position]}
    log_first = draw(st.integers(0, min(position, 3)))  # it was read before it was dropped
    first = draw(st.integers(0, min(3, published, count - 1)))
    records: list[One | None] = [made[at] for at in order[log_first:]]
    log = made[max(order[:log_first])].stamp + 1 if log_first else 0
    bounds = Bounds(made[first].stamp if first else 0, log, 2**62)
    rows = [(one, n + first < published) for n, one in enumerate(made[first:])]
    return Sides(rows, records, inbox, position - log_first, bounds)


@settings(max_examples=60, deadline=None)
@given(agreeing())
def test_what_agrees_costs_one_pass(sides: Sides) -> None:
    tally, suspects = sides.tally()
    assert suspects == set()
    assert tally.rows == len(sides.rows)
    assert tally.seen == len(sides.records)
    assert tally.repeats == len(sides.records) - len(set(sides.records))


@settings(max_examples=100, deadline=None)
@given(agreeing(), st.data())
def test_whatever_differs_is_named(sides: Sides, data: Any) -> None:
    """One event that all sides have, far from the ends of all, is changed at one of them."""
    old = max(sides.bounds.outbox or 0, sides.bounds.log)
    done = {one for one in sides.records[: sides.position] if one}
    kept = {one for one, _ in sides.rows}
    chosen = sorted(one for one in done & kept if not old or one.stamp >= old + MARGIN)
    if not chosen:
        return
    one = data.draw(st.sampled_from(chosen))
    what = data.draw(st.sampled_from(sorted(CHANGES)))
    expected = CHANGES[what](sides, one)
    assert {(f.kind, f.key) for f in sides.found() if not f.settled} == {(expected, one.id)}


def lost(sides: Sides, one: One) -> str:
    sides.records[:] = [None if other == one else other for other in sides.records]
    return "lost"


def phantom(sides: Sides, one: One) -> str:
    sides.rows[:] = [(other, published) for other, published in sides.rows if other != one]
    return "phantom"


def said_otherwise(sides: Sides, one: One) -> str:
    sides.records.append(one._replace(said=99))
    return "conflict"


def changed_row(sides: Sides, one: One) -> str:
    at = next(n for n, (other, _) in enumerate(sides.rows) if other == one)
    sides.rows[at] = one._replace(said=99), True
    return "conflict"


def twice_in_the_outbox(sides: Sides, one: One) -> str:
    sides.rows.append((one, True))
    return "conflict"


def not_done(sides: Sides, one: One) -> str:
    del sides.inbox[one.id]
    return "unapplied"


def done_otherwise(sides: Sides, one: One) -> str:
    sides.inbox[one.id] = one._replace(said=99)
    return "conflict"


CHANGES = {
    change.__name__: change
    for change in (
        lost, phantom, said_otherwise, changed_row, twice_in_the_outbox, not_done, done_otherwise
    )
}  # fmt: skip


def test_what_nobody_has_is_a_phantom_in_the_inbox() -> None:
    (one,) = events(5)
    found = Sides([], [], {one.id: one}, 0, Bounds(0, 0, 2**62)).found()
    assert [(f.kind, f.key) for f in found] == [("phantom", one.id)]


def test_a_million_of_them_take_little_memory() -> None:
    """Said of 3,000 of them: 300 bytes of each at the most, where an object takes 700."""
    made = events(*range(1, 3_001))
    ledger = Tally(Sides([], [], {}, len(made), Bounds(0, 0, 2**62)).scope())
    inbox = [((SOURCE, one.id), KeyState(1, one.stamp, one.id, one.said)) for one in made]
    records = [seen(one, PLACE, n) for n, one in enumerate(made)]
    rows = [seen(one, IN_OUTBOX, n + 1) for n, one in enumerate(made)]
    tracemalloc.start()
    for name, state in inbox:
        ledger.done(name, "billing", state, 0)
    ledger.records(records)
    for row in rows:
        ledger.row(row, published=True)
    assert set(ledger.suspects()) == set()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert ledger.keys == len(made)
    assert peak < 300 * len(made), peak
