"""The audit's rules: any interleaving of a history that agrees is clean, and whatever differs is
found by the first pass where the second names it.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from oncebox.audit import Bounds, Ledger, Logged, Row, Scope, Tally
from oncebox.examine import Cases, examine
from oncebox.order import KeyState, Link

SOURCE, PLACE = "/shop/orders", ("orders", 0)
KEYS = ("a", "b", "c")


class Sides(NamedTuple):
    """What the three sides have: rows and records by key, and rows of consumers."""

    rows: list[tuple[str, Row]]
    records: list[tuple[str, Logged]]
    inbox: dict[tuple[str, str], KeyState]
    counters: dict[str, tuple[int, int]]
    positions: dict[str, int]

    def scope(self) -> Scope:
        positions = {name: {PLACE: position} for name, position in self.positions.items()}
        until = 2**62
        return Scope({SOURCE: Bounds(0, 0, until)}, {}, positions, {}, until)

    def feed(self, ledger: Ledger) -> None:
        for (consumer, key), state in self.inbox.items():
            ledger.done((SOURCE, key), consumer, state)
        for key, (place, offset, link) in self.records:
            ledger.record((SOURCE, key), link, place, offset)
        for key, (sequence, stamp) in self.counters.items():
            ledger.counter((SOURCE, key), sequence, stamp)
        for key, row in self.rows:
            ledger.row((SOURCE, key), row.link, row.position, published=row.published)

    def suspects(self) -> set[str]:
        tally = Tally(self.scope())
        self.feed(tally)
        return {key for _, key in tally.suspects()}

    def wrong(self) -> set[str]:
        """Keys with a finding that is not settled."""
        cases = Cases({(SOURCE, key) for key in (*KEYS, "d")})
        self.feed(cases)
        found = [one for case in cases.cases.values() for one in examine(case, self.scope())]
        return {one.key for one in found if not one.settled}


@st.composite
def agreeing(draw: Any) -> Sides:
    """A history, published by relays that begin again here and there, read by two consumers."""
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=20))
    last: dict[str, Link] = {}
    events: list[tuple[str, Link]] = []
    for n, key in enumerate(keys):
        before = last.get(key)
        number = before.sequence + 1 if before else 1
        previous = before.stamp if before else None
        last[key] = Link(number, 1000 * (n + 1), previous, f"id-{n}", n + 7)
        events.append((key, last[key]))
    published = draw(st.integers(0, len(events)))
    order: list[int] = []
    reached = 0
    while reached < published:
        start = draw(st.integers(max(0, reached - 3), reached))
        end = draw(st.integers(min(reached + 1, published), published))
        order += range(start, end)
        reached = max(reached, end)
    records = [(events[at][0], Logged(PLACE, n, events[at][1])) for n, at in enumerate(order)]
    rows = [(key, Row(n + 1, link, n < published)) for n, (key, link) in enumerate(events)]
    positions = {name: draw(st.integers(0, len(records))) for name in ("one", "two")}
    inbox: dict[tuple[str, str], KeyState] = {}
    for name, position in positions.items():
        for key, (_, _, link) in records[:position]:
            if link.sequence > inbox.get((name, key), KeyState()).sequence:
                state = KeyState(link.sequence, link.stamp, link.id, link.digest)
                inbox[name, key] = state
    counters = {key: (link.sequence, link.stamp) for key, link in last.items()}
    return Sides(rows, records, inbox, counters, positions)


@given(agreeing())
def test_what_agrees_costs_one_pass(sides: Sides) -> None:
    assert sides.suspects() == set()
    assert sides.wrong() == set()


def test_a_key_to_and_fro_is_found_in_whatever_order_partitions_are_read() -> None:
    links = [Link(n, n * 10, n * 10 - 10 or None, f"id-{n}", n) for n in (1, 2, 3, 4)]
    for order in permutations(range(4)):
        records = [("a", Logged(("orders", int(n == 2)), n, links[n])) for n in order]
        rows = [("a", Row(n, link, True)) for n, link in enumerate(links)]
        sides = Sides(rows, records, {}, {"a": (4, 40)}, {})
        assert (sides.wrong(), sides.suspects()) == ({"a"}, {"a"})


OTHER = st.sampled_from(["sequence", "stamp", "previous", "id", "digest"])


def other(link: Link, field: str) -> Link:
    value: Any = "other" if field == "id" else (getattr(link, field) or 0) + 1
    return link._replace(**{field: value})


@st.composite
def broken(draw: Any) -> Sides:
    """A history of which something was changed, somewhere, up to three times."""
    sides: Sides = draw(agreeing())
    for _ in range(draw(st.integers(1, 3))):
        side = draw(st.sampled_from(["rows", "records", "inbox", "counters"]))
        if side == "counters" or not sides[Sides._fields.index(side)]:
            key = draw(st.sampled_from(sorted(sides.counters)))
            sequence, stamp = sides.counters[key]
            sides.counters[key] = max(sequence + draw(st.integers(-2, 2)), 1), stamp
        elif side == "inbox":
            place = draw(st.sampled_from(sorted(sides.inbox)))
            state = sides.inbox.pop(place)
            if draw(st.booleans()):
                changed = state._replace(sequence=max(state.sequence + draw(st.integers(-3, 3)), 1))
                sides.inbox[place] = changed
        else:
            items: Any = sides.rows if side == "rows" else sides.records
            edit(draw, items)
    return sides


def edit(draw: Any, items: list[Any]) -> None:
    at = draw(st.integers(0, len(items) - 1))
    key, item = items[at]
    what = draw(st.sampled_from(["remove", "swap", "change", "another", "other key"]))
    if what == "remove":
        del items[at]
    elif what == "swap" and at + 1 < len(items):
        items[at : at + 2] = items[at + 1 : at - 1 if at else None : -1]
    elif what == "change":
        items[at] = key, item._replace(link=other(item.link, draw(OTHER)))
    elif what == "another":
        items.append((key, item._replace(link=other(item.link, draw(OTHER)))))
    elif what == "other key":
        items[at] = "d", item
    if items and isinstance(items[0][1], Logged):  # a log's offsets rise
        items[:] = [(k, one._replace(offset=n)) for n, (k, one) in enumerate(items)]


@settings(max_examples=600, deadline=None)
@given(broken())
def test_the_first_pass_overlooks_nothing_that_the_second_names(sides: Sides) -> None:
    assert sides.wrong() <= sides.suspects()


@given(broken())
def test_what_the_log_does_not_share_with_the_outbox_is_named(sides: Sides) -> None:
    wrong = sides.wrong()
    for key in (*KEYS, "d"):
        rows = {row.link for k, row in sides.rows if k == key and row.published}
        known = {row.link for k, row in sides.rows if k == key}
        records = {record.link for k, record in sides.records if k == key}
        if not rows <= records or not records <= known:
            assert key in wrong
