"""The audit, pure: what outbox, log and inbox say of each key, compared.

Two passes over the same three sides. `Tally` goes through everything once and keeps, for each key,
where it stands and order-free digests of its ranges: a hash of each event's place, id and bytes
(`mark`), all of them joined by exclusive or. A range of the log and the same range of the outbox
differ, or do not; a key where anything differs is a suspect. Where the outbox can add up by itself
(`Sums`), only what its sums cannot speak for comes row by row. `Cases` (`examine.py`) goes through
the suspects alone, and says event by event what is wrong. So a clean system costs one pass, and
memory is bounded by keys, and by events of suspects.

Nothing is said of what is younger than a given time, nor of what a retention may have dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, TypeAlias

from .envelope import digest
from .event import stream_of
from .order import EventId, KeyState, Link
from .ports import TopicPartition
from .reading import BY_ID

RUNS_MAX = 64
"""Ranges of one key that are compared by digests; a key with more is looked at event by event."""

_NEVER = 2**64

KeyName = tuple[str, str]
"""Source and key. Events without a chain: source with `#id`, and the id."""

Seen: TypeAlias = tuple[
    str, str, int, int, int | None, EventId, int, str, bytes | None, int | None, bool,
    TopicPartition, int,
]  # fmt: skip
"""An event as a pass meets it, a plain tuple since there are many: source and key (as in KeyName),
sequence, stamp, previous, id, `mark`, type, bytes, digest (None: not computed yet), void; where it
is: the place in the log and the offset, or IN_OUTBOX and the position."""

IN_OUTBOX: TopicPartition = ("", -1)


def mark(
    seed: str, sequence: int | None, stamp: int, previous: int | None, id: EventId, type: str,
    value: bytes | None, *, void: bool,
) -> int:  # fmt: skip
    """A signed 64-bit hash of an event's place, id and bytes, as the statement `audit_sums` has it:
    the beginning of SHA-256. `sequence` None: an un-keyed event, known by its id. `seed` is new in
    each audit, so nobody can choose events whose sums agree.
    """
    place = (
        "::" if sequence is None else f"{sequence}:{stamp}:{'' if previous is None else previous}"
    )
    said = b"" if void else b"%b:%b" % (type.encode(), value or b"")
    hashed = sha256(f"{seed}{place}:{id!s}:".encode() + said)
    return int.from_bytes(hashed.digest()[:8], "big", signed=True)


def link_of(seen: Seen) -> Link:
    """An event as the rules see it."""
    _, _, sequence, stamp, previous, id, _, type, value, hashed, void, _, _ = seen
    hashed = digest(type, void, value) if hashed is None else hashed
    return Link(sequence, stamp, previous, id, hashed, void)


class Finding(NamedTuple):
    """Something that is wrong, or that is worth knowing though it is `settled`: absorbed by
    consumers, or decided by an operator. `record` is a place in the log, `row` one in the outbox,
    `decide` what decides it.
    """

    kind: str
    settled: bool
    source: str
    key: str
    sequence: int
    stamp: int | None
    event: str | None
    record: str | None
    row: str | None
    consumer: str | None
    what: str
    decide: str


class Bounds(NamedTuple):
    """What the sides cover of a source, as stamps. `outbox`, `log`: what is older may have been
    dropped there (0: nothing was; outbox None: it is not known). `until`: what is younger is
    unseen, not lost.
    """

    outbox: int | None = None
    log: int = 0
    until: int = 0

    @property
    def start(self) -> int:
        """Both sides have all from here on."""
        return max(self.outbox or 0, self.log)

    def dropped(self, stamp: int) -> bool:
        """Whether both sides may have dropped it."""
        return stamp < min((self.outbox or 0), self.log)


class Sums(NamedTuple):
    """Events of a key that the outbox has added up: how many; the first number, and the stamp
    before it; their marks, joined. Relays have passed all of them, and they are within what both
    sides cover.
    """

    many: int
    first: int
    previous: int | None
    marks: int


class Ledger(Protocol):
    """What a pass takes in: first all of the inbox, then the log, then the outbox. `detailed`:
    with what is kept.
    """

    detailed: bool

    def wants(self, source: str, key: str) -> bool: ...
    def done(self, name: KeyName, consumer: str, state: KeyState) -> None: ...
    def records(self, page: Iterable[Seen]) -> None: ...
    def counter(self, name: KeyName, sequence: int, stamp: int) -> None: ...
    def row(self, seen: Seen, *, published: bool) -> None:
        """`published`: the relay has passed it."""
        ...


class Scope(NamedTuple):
    """What is audited. `bounds`: of the sources whose outbox is known; `logs`: since when the log
    has all of a topic; `positions`: how far each consumer had read; `floors`: from which stamp on
    a consumer reads a source; `homes`: by topic, in which partition a key is while there are 1, 2,
    … of them, up to as many as there are now.
    """

    bounds: dict[str, Bounds]
    logs: Mapping[str, int]
    positions: Mapping[str, Mapping[TopicPartition, int]]
    floors: Mapping[tuple[str, str], int]
    until: int
    homes: Mapping[str, Callable[[bytes], list[int]]] = {}

    def of(self, source: str) -> Bounds:
        found = self.bounds.get(source)
        if found is None:
            name = source.removesuffix(BY_ID)
            found = self.bounds.get(name) or Bounds(
                None, self.logs.get(stream_of(name), 0), self.until
            )
            self.bounds[source] = found
        return found

    def readers(self, topic: str) -> list[str]:
        """The consumers that read a topic."""
        return [name for name, at in self.positions.items() if any(t == topic for t, _ in at)]

    def homes_of(self, topic: str, key: str) -> list[int]:
        """See `homes`; empty where others choose."""
        found = self.homes.get(topic)
        return [] if found is None else found(key.encode())

    def floor(self, consumer: str, source: str) -> int:
        found = self.floors.get((consumer, source))
        return self.floors.get((consumer, ""), 0) if found is None else found


class Row(NamedTuple):
    """An event in the outbox."""

    position: int
    link: Link
    published: bool


class Logged(NamedTuple):
    """An event in the log."""

    place: TopicPartition
    offset: int
    link: Link

    def __str__(self) -> str:
        return f"{self.place[0]}/{self.place[1]}@{self.offset}"


def repeat(name: KeyName, record: Logged) -> Finding:
    """A record that was in the log before, byte for byte."""
    link = record.link
    return Finding(
        "duplicate", True, *name, link.sequence, link.stamp, str(link.id), str(record), None, None,
        "the log has it already", "nothing: consumers drop it",
    )  # fmt: skip


# ---- the first pass: which keys to look at


class _Run:
    """Records of a key that followed each other in the log, number by number, with stamps below
    `below`, where another part of the time begins: see `_Source.end`. `marks`, `count`: of those
    that both sides cover, less what the outbox has of them.
    """

    __slots__ = ("below", "count", "first", "last", "marks", "place", "stamp")

    def __init__(self, place: TopicPartition, sequence: int, below: int) -> None:
        self.place = place
        self.first = self.last = sequence
        self.stamp = -1
        self.below = below
        self.marks = self.count = 0


class _Key:
    """A key in the first pass. `counter`: its number, negative where the outbox may have dropped
    that event, or it is too young. `read`: the last event that all its readers have read; `ahead`:
    by consumer, where some have read on. `done`: consumer, number, hash of stamp and id, digest,
    then those of the next consumer. `sums`: what the outbox has added up, which is what a run has.
    """

    __slots__ = (
        "ahead", "counter", "done", "high", "high_stamp", "out", "out_stamp", "read",
        "read_stamp", "repeats", "runs", "sums", "suspect",
    )  # fmt: skip

    def __init__(self) -> None:
        self.runs: list[_Run] = []
        self.high = self.high_stamp = -1
        self.out = self.out_stamp = -1
        self.counter = 0
        self.read = self.read_stamp = -1
        self.ahead: dict[str, tuple[int, int]] | None = None
        self.done: tuple[Any, ...] = ()
        self.sums: tuple[Sums, _Run] | None = None
        self.suspect = False
        self.repeats = 0


class _Source:
    """The keys of a source, and what counts for all of them."""

    __slots__ = ("bounds", "by_id", "keys", "start")

    def __init__(self, name: str, bounds: Bounds) -> None:
        self.bounds = bounds
        self.by_id = name.endswith(BY_ID)
        self.start = bounds.start
        self.keys: dict[str, _Key] = {}

    def end(self, stamp: int) -> int:
        """Where the part of the time ends that a stamp is in: before what both sides cover, that,
        and what is young. The outbox's sums are of the second one.
        """
        ends = (self.start, self.bounds.until, _NEVER)
        return next(end for end in ends if stamp < end)


class Tally:
    """The first pass. `repeats`: records that were in the log before; `listed`: some of them;
    `unseen`: events that the log need not have yet; `lag`: records that a consumer has not read.
    """

    LISTED_MAX = 20
    detailed = False

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.sources: dict[str, _Source] = {}
        self.repeats = self.unseen = self.rows = self.seen = 0
        self.listed: list[Finding] = []
        self.lag: Counter[str] = Counter()
        self._readers: dict[str, list[str]] = {}
        self._low: dict[TopicPartition, int] = {}

    def wants(self, source: str, key: str) -> bool:  # noqa: ARG002
        return True

    def _source(self, name: str) -> _Source:
        source = self.sources.get(name)
        if source is None:
            source = self.sources[name] = _Source(name, self.scope.of(name))
        return source

    def _find(self, name: KeyName) -> tuple[_Source, _Key]:
        source = self._source(name[0])
        key = source.keys.get(name[1])
        if key is None:
            key = source.keys[name[1]] = _Key()
        return source, key

    def done(self, name: KeyName, consumer: str, state: KeyState) -> None:
        source, key = self._find(name)
        stamp = 0 if source.by_id else state.stamp
        place = hash((stamp, state.id)) if state.id else None
        key.done += (consumer, state.sequence, place, state.digest)
        if source.by_id:
            key.out_stamp = state.stamp  # until a row says the same

    # ---- the log

    def records(self, page: Iterable[Seen]) -> None:
        last, low = IN_OUTBOX, 0
        for seen in page:
            name, key_name, sequence, stamp, previous, _, mark, _, _, _, _, place, offset = seen
            source = self.sources.get(name) or self._source(name)
            key = source.keys.get(key_name)
            if key is None:
                key = source.keys[key_name] = _Key()
            self.seen += 1
            run = key.runs[-1] if key.runs else None
            if (
                run is None or sequence != run.last + 1 or previous != run.stamp
                or stamp >= run.below or place != run.place
            ):  # fmt: skip
                run = self._begin(source, key, run, seen)
            run.last, run.stamp = sequence, stamp
            if sequence > key.high:
                key.high, key.high_stamp = sequence, stamp
            else:
                self._again(source, key, seen)
            if stamp >= source.start:
                run.marks ^= mark
                run.count += 1
            if sequence in key.done:
                self._compare(key, seen, by_id=source.by_id)
            if place is not last:
                last, low = place, self._read_by_all(place)
            if offset >= low:
                self._ahead(key, seen)
            elif sequence > key.read:
                key.read, key.read_stamp = sequence, stamp

    def _begin(self, source: _Source, key: _Key, run: _Run | None, seen: Seen) -> _Run:
        """A record begins a run. If it does not follow the one before, that is fine where it was
        there before, or goes on.
        """
        _, _, sequence, stamp, previous, *_, place, _ = seen
        if run is not None:
            follows = sequence == key.high + 1 and previous == key.high_stamp
            again = key.runs[0].first <= sequence <= key.high
            moved = place != run.place and not source.by_id
            full = len(key.runs) >= RUNS_MAX
            key.suspect |= moved or full or not (follows or again)
            if full:
                key.runs[1:] = []
        run = _Run(place, sequence, source.end(stamp))
        key.runs.append(run)
        return run

    def _again(self, source: _Source, key: _Key, seen: Seen) -> None:
        """A record is no higher than what was there."""
        sequence, stamp = seen[2:4]
        if stamp > key.high_stamp and not source.by_id:  # of another history
            key.suspect = True
        elif sum(one.first <= sequence <= one.last for one in key.runs) > 1:
            key.repeats += 1
            if len(self.listed) < self.LISTED_MAX:
                self.listed.append(repeat(seen[:2], Logged(*seen[-2:], link_of(seen))))

    def _read_by_all(self, place: TopicPartition) -> int:
        """Up to where all readers of a place have read it."""
        low = self._low.get(place)
        if low is None:
            readers = self._readers_of(place[0])
            positions = [self.scope.positions[name].get(place, 0) for name in readers]
            low = self._low[place] = min(positions, default=0)
        return low

    def _ahead(self, key: _Key, seen: Seen) -> None:
        """Not all readers have read it."""
        sequence, stamp = seen[2:4]
        place, offset = seen[-2:]
        for name in self._readers[place[0]]:
            if offset < self.scope.positions[name].get(place, 0):
                key.ahead = key.ahead or {}
                key.ahead[name] = max(
                    key.ahead.get(name, (key.read, key.read_stamp)), (sequence, stamp)
                )
            else:
                self.lag[name] += 1

    def _readers_of(self, topic: str) -> list[str]:
        found = self._readers.get(topic)
        if found is None:
            found = self._readers[topic] = self.scope.readers(topic)
        return found

    def _compare(self, key: _Key, seen: Seen, *, by_id: bool) -> None:
        """Whether who has done this number has done this event."""
        done = iter(key.done)
        for _, number, place, known in zip(done, done, done, done, strict=True):
            if number == seen[2] and place is not None:
                _, stamp, _, id, digest, _ = link_of(seen)
                mine = hash((0 if by_id else stamp, id))
                if mine != place or (known and digest and known != digest):
                    key.suspect = True

    # ---- the outbox

    def sums(self, source: str, key: str, sums: Sums) -> bool:
        """Whether a key's sums say the same of the log; if not, its rows have to come one by one.
        All of the log has been taken in.
        """
        at = self.sources.get(source)
        known = None if at is None else at.keys.get(key)
        if at is None or known is None:
            return False
        runs = [run for run in known.runs if run.below == at.bounds.until]
        if len(runs) != 1 or known.suspect:
            return False
        (run,) = runs
        fits = (
            run.first == sums.first
            and run.last - run.first + 1 == run.count == sums.many
            and run.marks == sums.marks
        )
        if fits:
            run.marks = run.count = 0
            known.sums = sums, run
        return fits

    def _take_in_sums(self, source: _Source, key: _Key) -> None:
        """The rows that were added up, at their place among the others."""
        if key.sums is not None:
            sums, run = key.sums
            self.rows += sums.many
            self._follows(source, key, sums.first, sums.previous)
            key.out, key.out_stamp, key.sums = run.last, run.stamp, None

    def _follows(self, source: _Source, key: _Key, sequence: int, previous: int | None) -> None:
        if key.out < 0:  # its first row: would the outbox still have the one before?
            key.suspect |= sequence > 1 and (previous or 0) >= (source.bounds.outbox or 0)
        else:
            key.suspect |= sequence != key.out + 1 or previous != key.out_stamp

    def counter(self, name: KeyName, sequence: int, stamp: int) -> None:
        source = self.sources.get(name[0])
        known = source is not None and name[1] in source.keys
        if known or stamp >= self.scope.of(name[0]).start:
            bounds = self.scope.of(name[0])
            there = (bounds.outbox or 0) <= stamp < bounds.until
            self._find(name)[1].counter = sequence if there else -sequence

    def row(self, seen: Seen, *, published: bool) -> None:
        source, key = self._find(seen[:2])
        sequence, stamp, previous = seen[2:5]
        if key.sums is not None and sequence > key.sums[1].first:
            self._take_in_sums(source, key)
        self.rows += 1
        self._follows(source, key, sequence, previous)
        key.out, key.out_stamp = sequence, stamp
        if sequence in key.done:
            self._compare(key, seen, by_id=source.by_id)
        if stamp < source.start:
            return
        here = False
        for run in key.runs:
            if run.first <= sequence <= run.last:
                run.marks ^= seen[6]
                run.count -= 1
                here = True
        if not here and published and stamp < source.bounds.until:
            key.suspect = True
        elif not here:
            self.unseen += 1

    def suspects(self) -> Iterator[KeyName]:
        """Keys where something differs; `repeats` counts those of the others."""
        for name, source in self.sources.items():
            bounds, by_id = source.bounds, source.by_id
            for key_name, key in source.keys.items():
                self._take_in_sums(source, key)
                if (
                    key.suspect
                    or self._differs(key, bounds, by_id=by_id)
                    or self._undone(name, key, bounds)
                ):
                    yield name, key_name
                else:
                    self.repeats += key.repeats

    def _differs(self, key: _Key, bounds: Bounds, *, by_id: bool) -> bool:
        if bounds.outbox is None:  # repeats have nothing to be compared with but each other
            ranges = {(run.first, run.last, run.marks) for run in key.runs}
            return len(ranges) > 1 or (bool(key.runs) and key.runs[0].first > 1 > bounds.log)
        if any(run.count or run.marks for run in key.runs):
            return True
        if by_id:
            return False
        if abs(key.counter) > key.out:
            return key.counter > 0
        return abs(key.counter) < key.out and key.out_stamp < bounds.until

    def _undone(self, source: str, key: _Key, bounds: Bounds) -> bool:
        known = max(key.high, key.out, abs(key.counter))
        done = dict(zip(key.done[::4], key.done[1::4], strict=True))
        if bounds.outbox is not None and any(number > known for number in done.values()):
            # Of what is known by its id, no counter tells that it was there once.
            return not (source.endswith(BY_ID) and bounds.dropped(key.out_stamp))
        first = min((run.first for run in key.runs), default=key.out + 1)
        topic = key.runs[0].place[0] if key.runs else stream_of(source.removesuffix(BY_ID))
        for consumer in self._readers_of(topic):
            number, floor = done.get(consumer, -1), self.scope.floor(consumer, source)
            if (
                bounds.log > 0
                and number < first - 1
                and key.out_stamp >= (floor if number < 0 else 0)
            ):  # perhaps the log dropped it before it was read
                return True
            sequence, stamp = (key.ahead or {}).get(consumer, (key.read, key.read_stamp))
            if number < sequence and (number >= 0 or stamp >= floor):
                return True
        return False
