"""The verdict's functions by themselves: properties of any state, and cases that no model has.

What the rules are worth together is explored in `tests/model`.
"""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from oncebox.order import (
    UNSEEN,
    Accepted,
    Chain,
    Doubt,
    KeyState,
    Link,
    Park,
    Undecided,
    Verdict,
    accept,
    advance,
    ask,
    following,
    fork,
    gap,
    is_next,
    is_sound,
    judge,
    poison,
    redrive,
    skip,
)

SMALL = some.integers(0, 6)
IDS = some.sampled_from("abc")
links = some.builds(
    Link, some.integers(1, 5), SMALL, some.none() | SMALL, IDS, some.integers(0, 3), some.booleans()
)


def in_order(kept: list[Link]) -> tuple[Link, ...]:
    return tuple(sorted(kept, key=lambda link: link[:2]))


states = some.builds(
    KeyState,
    sequence=some.integers(UNSEEN, 4),
    stamp=some.integers(-1, 6),
    id=IDS,
    digest=some.integers(0, 3),
    cutoff=SMALL,
    park=some.sampled_from([None, *Park]),
    skipped=some.sampled_from([(), ((1, 2),), ((1, 1), (3, 4))]),
    kept=some.lists(links, max_size=4, unique=True).map(in_order),
)


def chain(*stamps: int, start: int = 1, before: int | None = None) -> list[Link]:
    """A branch with these stamps; an id tells its stamp, so equal stamps are equal events."""
    previous = [before, *stamps]
    return [
        Link(start + index, stamp, previous[index], f"e{stamp}", stamp)
        for index, stamp in enumerate(stamps)
    ]


def row(link: Link, *kept: Link) -> KeyState:
    """A key that has done `link`."""
    return KeyState(link.sequence, link.stamp, link.id, link.digest, kept=in_order(list(kept)))


# --- properties of any state and any event


@given(states, links, SMALL)
def test_a_verdict_moves_no_row(state: KeyState, link: Link, floor: int) -> None:
    verdict, after = judge(state, link, floor)
    assert after[:5] == state[:5]
    assert after.skipped == state.skipped
    assert after.kept == in_order(list(after.kept))
    if verdict in (Verdict.KEEP, Verdict.FORK):
        assert link in after.kept
        assert set(after.kept) == {*state.kept, link}
        assert after.park is (Park.FORK if verdict is Verdict.FORK else state.park)
    elif verdict is Verdict.REPLACE:
        assert link.void
        assert all(k.void for k in after.kept if k[:2] == link[:2] and k.id == link.id)
    else:
        assert after is state


@given(states, links, SMALL)
def test_a_second_delivery_changes_nothing(state: KeyState, link: Link, floor: int) -> None:
    once = judge(state, link, floor)[1]
    assert judge(once, link, floor)[1] == once


@given(states, links, SMALL)
def test_the_short_way_is_the_long_way(state: KeyState, link: Link, floor: int) -> None:
    if is_next(state, link, floor):
        verdict, kept = judge(state, link, floor)
        assert (verdict, following(kept, floor)) == (Verdict.KEEP, link)
        assert advance(kept, link) == advance(state, link)


@given(states, SMALL)
def test_a_step_moves_the_row_and_nothing_else(state: KeyState, floor: int) -> None:
    step = following(state, floor)
    if not isinstance(step, Link):
        return
    assert state.park is None
    after = advance(state, step)
    assert (after.sequence, after.stamp, after.id) == (step.sequence, step.stamp, step.id)
    assert after[4:7] == state[4:7]
    assert set(after.kept) == set(state.kept) - {step}


@given(states, SMALL)
def test_whoever_waits_waits_for_something(state: KeyState, floor: int) -> None:
    missing = gap(state, floor)
    if missing is not None:
        assert state.park is None
        assert state.kept
        assert following(state, floor) is None


@given(states, links)
def test_parking_keeps_the_event(state: KeyState, link: Link) -> None:
    for parked, reason in ((poison(state, link), Park.POISON), (fork(state, link), Park.FORK)):
        assert parked.park is reason
        assert set(parked.kept) == {*state.kept, link}
        assert parked.kept == in_order(list(parked.kept))


@given(some.lists(some.integers(0, 7), max_size=40), some.integers(0, 8))
def test_any_order_with_any_duplicates_applies_each_once(order: list[int], start: int) -> None:
    events = chain(*range(10, 90, 10))
    floor = 10 * start + 5 if start else 0
    state, applied = KeyState(), []
    for place in [*order, *range(8)]:
        link = events[place]
        if is_next(state, link, floor):
            applied.append(link)
            state = advance(state, link)
            continue
        state = judge(state, link, floor)[1]
        while isinstance(step := following(state, floor), Link):
            applied.append(step)
            state = advance(state, step)
    assert applied == [link for link in events if link.stamp >= floor]
    assert (state.kept, state.park) == ((), None)


branches = some.lists(some.integers(1, 40), min_size=1, max_size=6, unique=True).map(sorted)


@given(branches, branches, some.integers(0, 6), SMALL, some.none() | some.integers(0, 6))
def test_accept_loses_nothing(
    ours: list[int], theirs: list[int], done: int, dropped: int, after: int | None
) -> None:
    mine, history = chain(*ours), chain(*theirs)[min(dropped, len(theirs)) :]
    done = min(done, len(mine))
    state = row(mine[done - 1], *mine[done:]) if done else KeyState(kept=tuple(mine))
    found = accept(fork(state), history, 0, after=after)
    if isinstance(found, Undecided):
        return
    new = found.state
    assert new.park is None
    assert found.low == new.cutoff >= state.cutoff
    for link in found.orphans:
        assert link in state.kept
        assert link.stamp < new.cutoff
    for link in state.kept:
        assert link in (*found.orphans, *new.kept) or link.sequence <= new.sequence
    assert set(history[-1:]) <= {*new.kept, *(h for h in history if h.sequence <= new.sequence)}
    assert all(b.previous == a.stamp for a, b in pairwise(new.kept) if a in history)


@given(branches, some.integers(1, 6), SMALL)
def test_a_source_with_the_same_history_is_no_fork(
    stamps: list[int], done: int, dropped: int
) -> None:
    events = chain(*stamps)
    done = min(done, len(events))
    state = row(events[done - 1], *events[done + 1 :])
    history = events[min(dropped, len(events) - 1) :]
    assert ask(state, history) is None


# --- single rules


def test_the_states_of_a_key() -> None:
    first, second, third = chain(10, 20, 30)
    assert gap(KeyState(), 0) is None
    assert gap(row(first, third), 0) == (2, 2)
    assert gap(row(first, third)._replace(park=Park.POISON), 0) is None
    assert gap(row(first, second), 0) is None  # next, though a caller may let it wait
    assert gap(KeyState(kept=(third,)), 0) == (1, 2)


@pytest.mark.parametrize(
    ("numbers", "sound"),
    [
        ((1, 0, None), True),
        ((1, 5, None), True),
        ((2, 5, 4), True),
        ((2**63 - 1, 2**63 - 1, 0), True),
        ((1, 5, 4), False),
        ((2, 5, None), False),
        ((2, 5, 5), False),
        ((2, 5, -1), False),
        ((0, 5, None), False),
        ((1, -1, None), False),
        ((1, 2**63, None), False),
        ((2**63, 5, 4), False),
    ],
)
def test_a_chain_can_be_unsound(numbers: tuple[int, int, int | None], sound: bool) -> None:
    assert is_sound(Chain(*numbers)) is sound


def test_the_event_at_the_row_is_known_by_id_and_bytes() -> None:
    (first,) = chain(10)
    done = row(first)
    assert judge(done, first, 0)[0] is Verdict.DUPLICATE
    assert judge(done, first._replace(void=True, digest=0), 0)[0] is Verdict.DUPLICATE
    assert judge(done, first._replace(id="other"), 0)[0] is Verdict.FORK
    assert judge(done, first._replace(digest=11), 0)[0] is Verdict.FORK
    voided = advance(KeyState(), first._replace(void=True, digest=99))
    assert judge(voided, first, 0)[0] is Verdict.DUPLICATE


def test_an_id_of_bytes_is_as_good_as_one_of_text() -> None:
    first, second = (link._replace(id=str(link.id).encode()) for link in chain(10, 20))
    done = row(first)
    assert judge(done, first, 0)[0] is Verdict.DUPLICATE
    assert judge(done, first._replace(id=b"other"), 0)[0] is Verdict.FORK
    assert is_next(done, second, 0)


def test_what_is_kept_and_contradicts_the_row_parks_as_a_fork() -> None:
    first, second = chain(10, 20)
    stale = row(second, first)  # as after a row was changed by hand
    assert following(stale, 0) is Park.FORK
    assert following(fork(stale), 0) is None


def test_redrive_is_for_poison_alone() -> None:
    (first,) = chain(10)
    parked = poison(KeyState(), first)
    assert redrive(parked) == KeyState(kept=(first,))
    assert redrive(fork(parked)) == fork(parked)


def test_skipping_where_nothing_is_to_be_skipped() -> None:
    first, second = chain(10, 20)
    for state in (KeyState(), row(first), row(first, second), fork(row(first, second))):
        assert skip(state, [first, second], 0) == (state, None)


def test_skipped_numbers_that_touch_are_one_range() -> None:
    events = chain(10, 20, 30, 40, 50)
    state, given_up = skip(row(events[0], events[2]), events, 0)
    assert (given_up, state.sequence, state.id) == ((2, 2), 2, "e20")
    state, given_up = skip(poison(state, events[2]), events, 0)
    assert (given_up, state.skipped) == ((3, 3), ((2, 3),))
    late = judge(state, events[1], 0)
    assert late == (Verdict.LATE, state)


def test_skipping_at_a_start_counts_from_the_floor() -> None:
    events = chain(10, 20, 30, 40)
    state, given_up = skip(KeyState(kept=(events[3],)), events, 15)
    assert given_up == (2, 3)
    assert following(state, 15) == events[3]


# --- a source whose retention dropped the beginning of its history


def test_a_history_without_its_beginning_is_no_fork() -> None:
    events = chain(10, 20, 30, 40, 50)
    state = row(events[0], events[4])
    assert ask(state, events[1:]) is None
    assert ask(state, events[3:]) is None
    other = chain(15, 25, 35, 45, 50, start=1)[1:]
    assert ask(state, other) == fork(state)  # just before it stands 15, and our row has 10


def test_skipping_what_the_source_has_dropped() -> None:
    events = chain(10, 20, 30, 40, 50)
    state, given_up = skip(row(events[0], events[3]), events[3:], 0)
    assert (given_up, state.sequence, state.stamp, state.id) == ((2, 3), 3, 30, "")
    assert judge(state, events[2], 0)[0] is Verdict.LATE  # its id was not known, its stamp was
    assert following(state, 0) == events[3]


def test_accept_keeps_what_is_left_of_dropped_events() -> None:
    events = chain(10, 20, 30, 40, 50)
    state = fork(row(events[0], events[2]))
    found = accept(state, events[3:], 0)
    assert isinstance(found, Accepted)
    assert found.state.kept == (events[2], events[3], events[4])
    assert (found.orphans, gap(found.state, 0)) == ((), (2, 2))


def test_accept_does_not_guess_where_dropped_events_parted() -> None:
    ours, theirs = chain(10, 20, 30), chain(31, 41, 51, 61)
    state = fork(row(ours[2]), theirs[3])
    for dropped in (2, 3):
        found = accept(state, theirs[dropped:], 0)
        assert isinstance(found, Undecided)
        assert found.doubt is Doubt.BRANCH_UNCLEAR
    anew = accept(state, theirs[2:], 0, after=0)
    assert isinstance(anew, Accepted)
    assert anew.state[:2] == (0, -1)
    assert anew.state.kept == (theirs[2], theirs[3])
    beyond = accept(state, theirs[2:], 0, after=5)
    assert beyond == Undecided(Doubt.NOT_IN_HISTORY, ())
