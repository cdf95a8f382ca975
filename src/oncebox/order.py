"""The verdict: what one event means to one consumer, decided from values alone.

Every keyed event carries a chain (sequence, stamp, previous), and a consumer keeps one `KeyState`
per (consumer, source, key). From these two and one floor, the functions here decide whether an
event is applied, was applied before, must wait, or shows that the source forgot what it had
published. They read no clock and do no I/O: the caller loads the row and what is kept behind it,
and stores what they return, in the transaction of the handler's effects.

A consumer works like this, and `is_next` is the short way for nearly every event:

    if is_next(state, link, floor):             # nothing kept, not parked: the common case
        ... run the handler ...
        state = advance(state, link)
    else:
        verdict, state = judge(state, link, floor)
        while isinstance(step := following(state, floor), Link):
            ... run the handler of `step`; if it fails: state = poison(state, step) ...
            state = advance(state, step)
        if step is Park.FORK:
            state = fork(state)

A caller may stop that loop before it handles `step`: an event that waits for another key (`after=`)
simply stays kept, not parked, and `following` offers it again when the other key has advanced. An
event that `is_next` would let pass, but that must wait, goes through `judge`, which keeps it.

The rules, the invariants that they hold and the traces that broke earlier ones are explored by
the model in `tests/model`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final, Literal, NamedTuple, TypeAlias

EventId: TypeAlias = str | bytes

UNSEEN: Final = -1
"""The sequence of a key of which nothing was ever done (0 is a chain known to be at its start)."""

NONE_BEFORE: Final = -1
"""Counts as the stamp before a key's first event: below every floor and every stamp."""

_NUMBER_MAX: Final = 2**63 - 1


class Park(StrEnum):
    """Why a key waits for somebody: a handler that fails, or a source that forgot its past."""

    POISON = "poison"
    FORK = "fork"


class Verdict(StrEnum):
    """What `judge` says of an event. KEEP and REPLACE: ask `following` what to do now."""

    KEEP = "keep"  # kept: to be done now if it is next, or when its turn comes
    REPLACE = "replace"  # a void took the place of the kept event's bytes
    DUPLICATE = "duplicate"  # done, or kept, before
    LATE = "late"  # a duplicate only because an operator skipped its number
    ORPHAN = "orphan"  # of a history that was given up
    BEFORE_START = "before_start"  # below the floor: this consumer began later, or pruned it
    FORK = "fork"  # contradicts what is known; kept, and the key is parked


class Chain(NamedTuple):
    """An event's place among the events of its key, as the producer gave it.

    `sequence` counts 1, 2, 3 … without holes. `stamp` tells the time, rises strictly along the
    key and is unique. `previous` is the stamp of the key's event before; None for the first.
    """

    sequence: int
    stamp: int
    previous: int | None


class Link(NamedTuple):
    """An event as the verdict sees it.

    `id` is compared for equality only. `digest` is a short hash of type and bytes; 0 says that the
    bytes are not known, and equals every other. A void has no bytes: its digest does not count.
    """

    sequence: int
    stamp: int
    previous: int | None
    id: EventId
    digest: int = 0
    void: bool = False


class KeyState(NamedTuple):
    """What a consumer knows of one key of one source: a row, and what is kept behind it.

    `sequence`, `stamp`, `id`, `digest`: the event last done. `UNSEEN`: nothing yet; 0: nothing, and
    the next must be number 1; an empty id (after a skip): not known, it equals every other.
    `cutoff`: events with a lower stamp belong to a history that was given up. `skipped`: the
    numbers that operators skipped, as (first, last). `kept`: sorted by (sequence, stamp).
    """

    sequence: int = UNSEEN
    stamp: int = NONE_BEFORE
    id: EventId = ""
    digest: int = 0
    cutoff: int = 0
    park: Park | None = None
    skipped: tuple[tuple[int, int], ...] = ()
    kept: tuple[Link, ...] = ()


def is_sound(chain: tuple[int, int, int | None]) -> bool:
    """Whether the three numbers can belong together; records where they do not are quarantined."""
    sequence, stamp, previous = chain
    if previous is None:
        return sequence == 1 and 0 <= stamp <= _NUMBER_MAX
    return 2 <= sequence <= _NUMBER_MAX and 0 <= previous < stamp <= _NUMBER_MAX


# --- an event arrives


def is_next(state: KeyState, link: Link, floor: int) -> bool:
    """The common case at once: nothing is kept, the key is not parked, and `link` is next.

    Then `judge` would keep it, `following` would name it, and `advance` gives the same state.
    False says nothing: ask `judge`.
    """
    done, last, _, _, cutoff, park, _, kept = state
    sequence, stamp, previous, _, _, _ = link
    if kept or park is not None:
        return False
    if done < 0:
        return (NONE_BEFORE if previous is None else previous) < floor <= stamp
    return sequence == done + 1 and previous == last and last < stamp >= cutoff


def judge(state: KeyState, link: Link, floor: int) -> tuple[Verdict, KeyState]:
    """The verdict on an event that arrived, and the state after it.

    The order of the rules is part of their meaning. With KEEP and REPLACE, ask `following` what is
    to be done now; all other verdicts run nothing.
    """
    kept = state.kept
    at = bisect_left(kept, link[:2]) if kept else 0
    if at < len(kept) and kept[at][:2] == link[:2]:
        return _judge_kept(state, link, at, floor)

    verdict = _judge_by_row(state, link, floor)
    if verdict is not None:
        return verdict, fork(state, link) if verdict is Verdict.FORK else state

    # What is kept behind a key that is not forked is one chain, perhaps with holes, so its
    # neighbours speak for all. Behind a fork everything is kept, and nothing more is learned.
    if kept and state.park is not Park.FORK:
        before, behind = kept[at - 1 : at], kept[at : at + 1]
        if (before and _contradicts(before[0].sequence, before[0].stamp, link)) or (
            behind and _contradicts(link.sequence, link.stamp, behind[0])
        ):
            return Verdict.FORK, fork(state, link)
    return Verdict.KEEP, _keep(state, link)


def following(state: KeyState, floor: int) -> Link | Literal[Park.FORK] | None:
    """What is to be done now: the kept event that is next, or None if the key waits.

    `Park.FORK`: what is kept contradicts the row, so park the key (`fork`). No rule of `judge`
    lets this happen; a row that was restored from a backup or changed by hand can.
    """
    kept = state.kept
    if not kept or state.park is not None:
        return None
    first = kept[0]  # one chain, see `judge`: if the lowest is not next, none is
    if _is_next(state, first, floor):
        return first
    if state.sequence >= 0 and _contradicts(state.sequence, state.stamp, first):
        return Park.FORK
    return None


def advance(state: KeyState, link: Link) -> KeyState:
    """The state after `link`, which was next, has been applied, ignored or voided."""
    _, _, _, _, cutoff, park, skipped, kept = state
    if kept:
        kept = kept[1:] if kept[0] == link else tuple(k for k in kept if k != link)
    sequence, stamp, _, id_, digest, void = link
    # Behind a void, the voided event itself is a duplicate, whatever its bytes.
    known = 0 if void else digest
    return KeyState._make((sequence, stamp, id_, known, cutoff, park, skipped, kept))


def poison(state: KeyState, link: Link) -> KeyState:
    """The handler failed on `link`, which was next: it is kept, and the key is parked."""
    if link not in state.kept:
        state = _keep(state, link)
    return state._replace(park=Park.POISON)


def fork(state: KeyState, link: Link | None = None) -> KeyState:
    """The key parked as a fork, with the event that showed it kept."""
    if link is not None and link not in state.kept:
        state = _keep(state, link)
    return state._replace(park=Park.FORK)


def gap(state: KeyState, floor: int) -> tuple[int, int] | None:
    """The numbers that are missing before anything can go on, first and last; None if none are.

    Derived, never stored: the key is not parked, something is kept, and nothing is next. Of a key
    never seen before, the first is 1, though the source may call some of these below the floor.
    """
    if not state.kept or state.park is not None or following(state, floor) is not None:
        return None
    return max(state.sequence, 0) + 1, state.kept[0].sequence - 1


# --- an operator acts
#
# `history` is what the source has of the key at present: its events in order, without holes. If
# its retention dropped the oldest, the history begins later, and what lies before is believed.
# An empty one says that the source has no such key; where it has only dropped the events, do not
# ask. `orphans` are the events that `accept` gave up and that were not done since. The caller lists
# them, and strikes one off when it is done after all: its stamp is then below the state's cutoff.


class Accepted(NamedTuple):
    """A key that follows its source's present history.

    `orphans`: the events that were kept but are not in it; list them. `low`: from now on the source
    must give no stamp below it, nor below anything it published.
    """

    state: KeyState
    orphans: tuple[Link, ...]
    low: int


class Doubt(StrEnum):
    """Why `accept` cannot tell which events of the source's history took effect here."""

    ORPHAN_AGAIN = "orphan_again"  # one that was given up is in the history again
    BELOW_CUTOFF = "below_cutoff"  # one that is not done would count as an orphan
    BRANCH_UNCLEAR = "branch_unclear"  # stamps do not tell where the histories part
    NOT_IN_HISTORY = "not_in_history"  # the operator's number is none of its events


class Undecided(NamedTuple):
    """A refusal to guess: an operator has to say after which event of the history to go on.

    Call `accept` again with `after=` the sequence of the last event of the history whose effect is
    here, 0 for none. `links` are the events in doubt.
    """

    doubt: Doubt
    links: tuple[Link, ...]


def redrive(state: KeyState) -> KeyState:
    """Try a failed event again: a poison key is unparked. Go on with `following`."""
    return state._replace(park=None) if state.park is Park.POISON else state


def ask(state: KeyState, history: Sequence[Link], orphans: Iterable[Link] = ()) -> KeyState | None:
    """Compare a key that waits with its source: the state parked as a fork, or None.

    None: the source has the same history, so let it send the missing events again.
    """
    if state.park is not None or not state.kept:
        return None
    if (
        (state.sequence < 0 or _has_row(history, state))
        and all(_has(history, link) for link in state.kept)
        and not _again(history, orphans)
    ):
        return None
    return fork(state)


def skip(
    state: KeyState, history: Sequence[Link], floor: int, orphans: Iterable[Link] = ()
) -> tuple[KeyState, tuple[int, int] | None]:
    """Give up the failing event, or the missing ones before what is kept. Go on with `following`.

    Returns the state and the numbers that were given up, first and last. None: nothing was, since
    there is nothing to skip, or since the source, which is asked first, has another history: the
    state is then parked as a fork, which is for `accept`.
    """
    if state.park is Park.POISON and state.kept:
        failing = state.kept[0]
        given_up = (failing.sequence, failing.sequence)
        state = advance(redrive(state), failing)
        return state._replace(skipped=_with_range(state.skipped, given_up)), given_up
    missing = gap(state, floor)
    if missing is None:
        return state, None
    forked = ask(state, history, orphans)
    if forked is not None:
        return forked, None
    if state.sequence < 0:  # what lies below the floor is not missing
        missing = next((h.sequence for h in history if h.stamp >= floor), 1), missing[1]
    first = state.kept[0]
    before = _link_at(history, first.sequence - 1)
    state = state._replace(
        sequence=first.sequence - 1,
        stamp=_before(first),
        id=before.id if before else "",
        digest=0,  # its bytes never came here
        skipped=_with_range(state.skipped, missing),
    )
    return state, missing


def accept(
    state: KeyState,
    history: Sequence[Link],
    floor: int,
    orphans: Iterable[Link] = (),
    *,
    after: int | None = None,
) -> Accepted | Undecided:
    """Adopt the source's present history of a key, after a fork or because an operator says so.

    The row goes back to where the two histories part, and all of the history behind that is kept,
    in the bytes that are kept already or else in the source's. Go on with `following`. What was
    kept of another history becomes an orphan. Where the values do not tell which effects are here,
    it refuses: see `Undecided`. One thing deceives it, a source that was restored twice unnoticed,
    the second time onto a branch that it had abandoned: then give `after` at once.
    """
    start, own = _start(history)[0], _has_row(history, state)
    branch = _branch(state, history, floor, orphans) if after is None else after
    if isinstance(branch, Undecided):
        return branch
    if after and not start <= after <= start + len(history):
        return Undecided(Doubt.NOT_IN_HISTORY, ())

    unseen = state.sequence < 0 and after is None
    row = state if unseen or (own and branch == state.sequence) else _row_at(history, branch)
    mine, lost = {}, []
    for link in state.kept:
        if _has(history, link) and not _is_variant(row, link):
            mine[link[:2]] = link
        else:
            lost.append(link)
    cutoff = max(
        state.cutoff,
        state.stamp + 1 if state.sequence >= 0 and not own else 0,
        *(link.stamp + 1 for link in lost),
    )
    # What is kept of events that the source has dropped is all that there is of them.
    dropped = (link for link in mine.values() if row.sequence < link.sequence <= start)
    kept = (*dropped, *(mine.get(link[:2], link) for link in _behind(history, branch)))
    skipped = _up_to(state.skipped, row.sequence)
    row = row._replace(cutoff=cutoff, park=None, skipped=skipped, kept=kept)
    return Accepted(row, tuple(lost), low=cutoff)


def _branch(
    state: KeyState, history: Sequence[Link], floor: int, orphans: Iterable[Link]
) -> int | Undecided:
    """The last number of `history` that took effect, or is below the floor of a key unseen."""
    start, before = _start(history)
    if state.sequence < 0:
        return start + bisect_left(history, floor, key=_stamp)
    again = _again(history, orphans)
    if again:
        return Undecided(Doubt.ORPHAN_AGAIN, again)

    kept = {link.id for link in state.kept}
    if _has_row(history, state):
        behind = _behind(history, state.sequence)
        doubtful = tuple(h for h in behind if h.stamp < state.cutoff and h.id not in kept)
        return Undecided(Doubt.BELOW_CUTOFF, doubtful) if doubtful else state.sequence

    # Our last event is not in the history, so the two part where the stamps pass our own, unless
    # the clock was behind when the source went on: then numbers or kept events disagree with that.
    count = bisect_left(history, max(state.cutoff, state.stamp + 1), key=_stamp)
    doubtful = tuple(h for h in history[:count] if h.sequence >= state.sequence or h.id in kept)
    if count == 0 and start > 0 and (start >= state.sequence or before > state.stamp):
        doubtful = tuple(history[:1])  # they part among the events that the source has dropped
    return Undecided(Doubt.BRANCH_UNCLEAR, doubtful) if doubtful else start + count


def _start(history: Sequence[Link]) -> tuple[int, int]:
    """Sequence and stamp just before the history: of a dropped event, or of none at all."""
    return (history[0].sequence - 1, _before(history[0])) if history else (0, NONE_BEFORE)


def _link_at(history: Sequence[Link], sequence: int) -> Link | None:
    index = sequence - 1 - _start(history)[0]
    return history[index] if 0 <= index < len(history) else None


def _behind(history: Sequence[Link], sequence: int) -> Sequence[Link]:
    return history[max(0, sequence - _start(history)[0]) :]


def _has(history: Sequence[Link], link: Link) -> bool:
    """Whether `link` is an event of `history`, with the same chain and bytes."""
    other = _link_at(history, link.sequence)
    if other is not None and (
        other.previous != link.previous or not (other.void or _same_bytes(link, other.digest))
    ):
        return False
    return _has_place(history, link.sequence, link.stamp, link.id)


def _again(history: Sequence[Link], orphans: Iterable[Link]) -> tuple[Link, ...]:
    """The events that were given up, and are in the history again."""
    return tuple(o for o in orphans if _link_at(history, o.sequence) and _has(history, o))


def _has_row(history: Sequence[Link], state: KeyState) -> bool:
    return _has_place(history, state.sequence, state.stamp, state.id)


def _has_place(history: Sequence[Link], sequence: int, stamp: int, id_: EventId) -> bool:
    link = _link_at(history, sequence)
    if link is not None:
        return link.stamp == stamp and (not id_ or link.id == id_)
    # Just before the history: known by its stamp. Long before: believed, if the stamp allows.
    start, before = _start(history)
    return stamp == before if sequence == start else sequence < start and stamp < before


def _is_variant(row: KeyState, link: Link) -> bool:
    """Whether `link` is the row's event in other bytes than those that took effect."""
    return link[:2] == row[:2] and not _is_row(row, link)


def _row_at(history: Sequence[Link], sequence: int) -> KeyState:
    """A row that has done the history up to and with `sequence`."""
    if sequence == 0:
        return KeyState(0, NONE_BEFORE)
    link = _link_at(history, sequence)
    if link is None:
        return KeyState(*_start(history))
    return KeyState(link.sequence, link.stamp, link.id, 0 if link.void else link.digest)


def _with_range(
    skipped: tuple[tuple[int, int], ...], more: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    """Ranges with one more behind them, joined to the last if they touch."""
    if skipped and skipped[-1][1] + 1 == more[0]:
        return (*skipped[:-1], (skipped[-1][0], more[1]))
    return (*skipped, more)


def _up_to(skipped: tuple[tuple[int, int], ...], sequence: int) -> tuple[tuple[int, int], ...]:
    return tuple((first, min(last, sequence)) for first, last in skipped if first <= sequence)


def _before(link: Link) -> int:
    return NONE_BEFORE if link.previous is None else link.previous


def _stamp(link: Link) -> int:
    return link.stamp


# --- the rules


def _judge_by_row(state: KeyState, link: Link, floor: int) -> Verdict | None:
    """The verdict that the row and the floor give; None if they have nothing against `link`."""
    sequence, stamp = link[:2]
    done, last = state[:2]
    if done < 0:
        return Verdict.BEFORE_START if stamp < floor else None
    if stamp < state.cutoff:
        return Verdict.ORPHAN
    if stamp < floor and stamp < last:
        return Verdict.BEFORE_START
    if stamp == last and sequence == done:
        return _duplicate(state, sequence) if _is_row(state, link) else Verdict.FORK
    if stamp < last and sequence < done:
        return _duplicate(state, sequence)
    return Verdict.FORK if _contradicts(done, last, link) else None


def _judge_kept(state: KeyState, link: Link, at: int, floor: int) -> tuple[Verdict, KeyState]:
    """The verdict on an event whose sequence and stamp are kept already, from index `at` on.

    The same id with other bytes is a fork like another id: both are kept, and a handler sees
    neither before an operator chose. A void has the same bytes as the event that it voids.
    """
    kept = state.kept
    end = bisect_left(kept, (link.sequence, link.stamp + 1))
    others = tuple(k for k in kept[at:end] if k.id != link.id)
    same = [k for k in kept[at:end] if k.id == link.id]
    if link.void and any(not k.void for k in same):
        poisonous = state.park is Park.POISON and _is_next(state, link, floor)
        return Verdict.REPLACE, state._replace(
            park=None if poisonous else state.park,
            kept=(*kept[:at], link, *others, *kept[end:]),
        )
    if any(k.void or _same_bytes(link, k.digest) for k in same):
        return Verdict.DUPLICATE, state
    return Verdict.FORK, fork(state, link)


def _is_next(state: KeyState, link: Link, floor: int) -> bool:
    """Whether `link` continues the row's chain, or begins at the floor if there is no row."""
    previous = _before(link)
    if state.sequence < 0:
        return previous < floor <= link.stamp
    return link.sequence == state.sequence + 1 and previous == state.stamp


def _contradicts(sequence: int, stamp: int, later: Link) -> bool:
    """Whether `later` cannot stand behind an event with `sequence` and `stamp` on one chain."""
    if later.sequence <= sequence or later.stamp <= stamp:
        return True
    previous = _before(later)
    if later.sequence == sequence + 1:
        return previous != stamp
    return previous <= stamp


def _is_row(state: KeyState, link: Link) -> bool:
    """Whether `link`, at the row's place, is the row's event."""
    return (not state.id or link.id == state.id) and _same_bytes(link, state.digest)


def _same_bytes(link: Link, digest: int) -> bool:
    return link.void or not link.digest or not digest or link.digest == digest


def _keep(state: KeyState, link: Link) -> KeyState:
    at = bisect_left(state.kept, link[:2])
    return state._replace(kept=(*state.kept[:at], link, *state.kept[at:]))


def _duplicate(state: KeyState, sequence: int) -> Verdict:
    skipped = state.skipped
    if skipped and any(first <= sequence <= last for first, last in skipped):
        return Verdict.LATE
    return Verdict.DUPLICATE
