"""The audit's rules: any interleaving of a history that agrees is clean, and whatever differs is
found by the first pass where the second names it.
"""

from __future__ import annotations

from collections import Counter
from functools import reduce
from itertools import permutations
from operator import xor
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oncebox.audit.examine import MARGIN, Cases, examine
from oncebox.audit.facts import (
    IN_OUTBOX,
    Bounds,
    Finding,
    Ledger,
    Logged,
    Row,
    Scope,
    Seen,
    Sums,
    mark,
)
from oncebox.audit.keys import Tally
from oncebox.order import KeyState, Link
from oncebox.ports import TopicPartition

SOURCE, PLACE, OTHER_PLACE = "/shop/orders", ("orders", 0), ("orders", 1)
KEYS = ("a", "b", "c")


def seen(key: str, link: Link, place: TopicPartition, at: int) -> Seen:
    """An event as a pass meets it."""
    value = str(link.digest).encode()
    made = mark("seed", *link[:4], "paid", "1 ", value, void=link.void)
    return (SOURCE, key, *link[:4], made, "paid", "1 ", value, *link[4:], place, at)


class Sides(NamedTuple):
    """What the three sides have: rows and records by key, and rows of consumers. `until`: what has
    a stamp from there on is young. `adds`: the outbox adds up what it can.
    """

    rows: list[tuple[str, Row]]
    records: list[tuple[str, Logged]]
    inbox: dict[tuple[str, str], KeyState]
    counters: dict[str, tuple[int, int]]
    positions: dict[str, dict[TopicPartition, int]]
    until: int = 2**62
    adds: bool = False
    outbox: int = 0
    log: int = 0
    empty: tuple[int, ...] = ()

    def scope(self) -> Scope:
        bounds = Bounds(self.outbox, self.log, self.until, 2**61 if self.empty else self.log)
        homes = {"orders": lambda key: [home(key, many) for many in range(1, 6)]}
        return Scope(
            {SOURCE: bounds}, {}, self.positions, {}, self.until, homes, {"orders": self.empty}
        )

    def feed(self, ledger: Ledger) -> None:
        for (consumer, key), state in self.inbox.items():
            ledger.done((SOURCE, key), consumer, state, len(state.kept))
        ledger.records(
            seen(key, link, place, offset) for key, (place, offset, link, _) in self.records
        )
        for key, (sequence, stamp) in self.counters.items():
            ledger.counter((SOURCE, key), sequence, stamp, read=True)
        added = self.add_up() if isinstance(ledger, Tally) else {}
        settled = {
            k for k, (sums, _) in added.items()
            if isinstance(ledger, Tally) and ledger.sums(SOURCE, k, sums)
        }  # fmt: skip
        for key, row in self.rows:
            if key not in settled or row not in added[key][1]:
                ledger.row(seen(key, row.link, IN_OUTBOX, row.position), published=row.published)

    def add_up(self) -> dict[str, tuple[Sums, list[Row]]]:
        """What an outbox adds up: the old rows of each key that relays have passed."""
        found: dict[str, tuple[Sums, list[Row]]] = {}
        for key in {key for key, _ in self.rows} if self.adds else ():
            rows = [row for k, row in self.rows if k == key]
            rows = [row for row in rows if row.published and row.link.stamp < self.until]
            if rows:
                first = min(row.link.sequence for row in rows)
                previous = min(
                    (row.link.previous or 0 for row in rows if row.link.previous), default=None
                )
                marks = [seen(key, row.link, IN_OUTBOX, row.position)[6] for row in rows]
                found[key] = Sums(len(rows), first, previous, reduce(xor, marks)), rows
        return found

    def suspects(self, *, adds: bool = False) -> set[str]:
        tally = Tally(self.scope())
        self._replace(adds=adds).feed(tally)
        found = {str(key) for _, key in tally.suspects()}
        assert tally.rows == len(self.rows)
        return found

    def wrong(self) -> set[str]:
        """Keys with a finding that is not settled."""
        return {one.key for one in self.found() if not one.settled}

    def found(self) -> list[Finding]:
        cases = Cases({(SOURCE, key) for key in (*KEYS, "d")})
        self.feed(cases)
        return [one for case in cases.cases.values() for one in examine(case, self.scope())]


@st.composite
def agreeing(draw: Any) -> Sides:
    """A history, published by relays that begin again here and there, read by two consumers. Some
    keys are in another partition from some time on.
    """
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
    grown = draw(st.integers(0, len(order)))
    moving = draw(st.sets(st.sampled_from(KEYS)))
    before, after = draw(st.sampled_from([(PLACE, OTHER_PLACE), (("orders", 2), OTHER_PLACE)]))
    records: list[tuple[str, Logged]] = []
    ends = Counter[TopicPartition]()
    for n, at in enumerate(order):
        key, link = events[at]
        place = after if n >= grown and key in moving else before
        records.append((key, Logged(place, ends[place], link)))
        ends[place] += 1
    rows = [(key, Row(n + 1, link, n < published)) for n, (key, link) in enumerate(events)]
    read = {name: draw(st.integers(0, len(records))) for name in ("one", "two")}
    positions = {
        name: dict(Counter(record.place for _, record in records[:n])) for name, n in read.items()
    }
    for read_to in positions.values():
        read_to.setdefault(before, 0)
    inbox: dict[tuple[str, str], KeyState] = {}
    for name, position in read.items():
        for key, (_, _, link, _) in records[:position]:
            if link.sequence > inbox.get((name, key), KeyState()).sequence:
                state = KeyState(link.sequence, link.stamp, link.id, link.digest)
                inbox[name, key] = state
    counters = {key: (link.sequence, link.stamp) for key, link in last.items()}
    until = draw(st.sampled_from([2**62, 1000 * len(keys) // 2]))
    if draw(st.booleans()):  # partitions are read in any order
        records.sort(key=lambda one: one[1].place, reverse=True)
    return Sides(rows, records, inbox, counters, positions, until)


@settings(max_examples=150, deadline=None)
@given(agreeing())
def test_what_agrees_costs_one_pass(sides: Sides) -> None:
    assert sides.wrong() == set()
    places: dict[tuple[str, int], set[TopicPartition]] = {}
    for key, record in sides.records:
        places.setdefault((key, record.link.sequence), set()).add(record.place)
    to_and_fro = {key for (key, _), at in places.items() if len(at) > 1}
    assert sides.suspects() | sides.suspects(adds=True) <= to_and_fro


def test_a_key_to_and_fro_is_found_in_whatever_order_partitions_are_read() -> None:
    links = [Link(n, n * 10, n * 10 - 10 or None, f"id-{n}", n) for n in (1, 2, 3, 4)]
    for order in permutations(range(4)):
        records = [("a", Logged(("orders", int(n == 2)), n, links[n])) for n in order]
        rows = [("a", Row(n, link, True)) for n, link in enumerate(links)]
        sides = Sides(rows, records, {}, {"a": (4, 40)}, {})
        assert (sides.wrong(), sides.suspects()) == ({"a"}, {"a"})


def home(key: bytes, partitions: int) -> int:
    return {3: 1, 4: 2, 5: 1}.get(partitions, 0)


@pytest.mark.parametrize(
    ("places", "wrong"),
    [
        ({1: [1], 2: [1], 3: [2], 4: [1]}, False),  # three, four, five partitions
        ({1: [1], 2: [1, 2], 3: [1, 2], 4: [2]}, False),  # a relay that was stopped repeats
        ({1: [1], 2: [2], 3: [1], 4: [2]}, True),
        ({1: [2], 2: [1], 3: [0], 4: [0]}, True),
    ],
)
def test_a_key_moves_as_partitions_are_added(places: dict[int, list[int]], wrong: bool) -> None:
    links = {n: Link(n, n * 10, n * 10 - 10 or None, f"id-{n}", n) for n in places}
    records = [
        Logged(("orders", partition), n, links[n])
        for n, found in places.items()
        for partition in found
    ]
    rows = [("a", Row(n, link, True)) for n, link in links.items()]
    sides = Sides(rows, [("a", one) for one in records], {}, {"a": (4, 40)}, {})
    assert sides.suspects() == {"a"}
    assert sides.wrong() == ({"a"} if wrong else set())


def history(*numbers: int, start: int = 1) -> dict[int, Link]:
    """Events of one key by number, ten margins apart."""
    return {
        n: Link(n, 10 * n * MARGIN, (10 * n - 10) * MARGIN if n > start else None, f"id-{n}", n)
        for n in numbers
    }


def key_of(
    rows: dict[int, Link], records: list[Link], last: Link, *, outbox: int = 0, log: int = 0
) -> Sides:
    """The key `a`, with no consumer."""
    return Sides(
        [("a", Row(n, link, True)) for n, link in rows.items()],
        [("a", Logged(PLACE, n, link)) for n, link in enumerate(records)],
        {}, {"a": last[:2]}, {}, outbox=outbox, log=log,
    )  # fmt: skip


def test_retention_may_drop_a_higher_number_first() -> None:
    """An event that waited long for its commit is older, by its row, than its number says."""
    a = history(1, 2, 3)
    near = [a[1], a[2]._replace(stamp=a[1].stamp + 1), a[3]._replace(previous=a[1].stamp + 1)]
    sides = key_of({1: near[0], 3: near[2]}, near, near[2], outbox=a[1].stamp)
    assert sides.found() == []


def test_what_was_republished_outlives_its_neighbours() -> None:
    """Numbers 2 to 4 came before number 1 was published again, and the log has dropped them."""
    a = history(1, 2, 3, 4, 5)
    records, edge = [a[1], a[5]], a[4].stamp + 1
    assert key_of(a, records, a[5], log=edge).found() == []
    later = key_of({5: a[5]}, records, a[5], log=edge, outbox=edge)  # nor a gap in both
    assert later.found() == []
    since = key_of({5: a[5]}, records, a[5], log=edge, outbox=a[2].stamp)
    assert {(one.kind, one.what) for one in since.found()} == {
        ("gap", "neither outbox nor log has number 2 to 4")
    }


def test_a_relay_begins_again_where_partitions_were_added() -> None:
    """What was in a partition with a higher number comes again in one with a lower one."""
    a = history(1, 2, 3)
    sides = key_of(a, [], a[3])
    records = [(1, a[2]), (1, a[3]), (1, a[1]), (1, a[2]), (1, a[3]), (2, a[1])]
    sides.records[:] = [
        ("a", Logged(("orders", number), n, one)) for n, (number, one) in enumerate(records)
    ]
    assert {one.kind for one in sides.found()} == {"duplicate", "moved"}
    assert sides.wrong() == set()


def test_what_was_erased_and_then_forgotten_is_no_conflict() -> None:
    """The log has the event and the void; the outbox has neither."""
    a = history(1, 2, 3, 4)
    records = [a[1], a[2], a[2]._replace(void=True, digest=0), a[3], a[4]]
    found = key_of({3: a[3], 4: a[4]}, records, a[4], outbox=a[3].stamp).found()
    assert {(one.kind, one.settled, one.sequence) for one in found} == {("void", True, 2)}


@pytest.mark.parametrize(("empty", "wrong"), [(2, set()), (4, {"lost"})])
def test_what_was_in_a_partition_that_stands_empty_is_not_lost(empty: int, wrong: set[str]) -> None:
    """The key may have been in partition 2, when there were four; never in the fifth."""
    a = history(1, 2, 3, 4)
    for records in ([a[1], a[2]], [a[3], a[4]], [], [a[1], a[4]]):
        sides = key_of(a, [], a[4])._replace(empty=(empty,))
        sides.records[:] = [("a", Logged(OTHER_PLACE, n, one)) for n, one in enumerate(records)]
        between = {"lost"} if records == [a[1], a[4]] else set()
        assert {one.kind for one in sides.found()} == wrong | between
        assert sides.suspects() == ({"a"} if wrong | between else set())


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
        counted = Counter[TopicPartition]()
        for n, (k, one) in enumerate(items):
            items[n] = k, one._replace(offset=counted[one.place])
            counted[one.place] += 1


@settings(max_examples=600, deadline=None)
@given(broken())
def test_the_first_pass_overlooks_nothing_that_the_second_names(sides: Sides) -> None:
    assert sides.wrong() <= sides.suspects() & sides.suspects(adds=True)


@given(broken())
def test_what_the_log_does_not_share_with_the_outbox_is_named(sides: Sides) -> None:
    wrong = sides.wrong()
    for key in (*KEYS, "d"):
        rows = {row.link for k, row in sides.rows if k == key and row.published}
        rows = {link for link in rows if link.stamp < sides.until}
        known = {row.link for k, row in sides.rows if k == key}
        records = {record.link for k, record in sides.records if k == key}
        if not rows <= records or not records <= known:
            assert key in wrong
