"""The audit's first pass, pure: which keys to look at.

For each key it keeps where the sides stand and order-free digests of its ranges: a hash of each
event's place, id and bytes (`mark`), all of them joined by exclusive or. A range of the log and the
same range of the outbox differ, or do not; a key where anything differs is a suspect. Where the
outbox can add up by itself (`Sums`), only what its sums cannot speak for comes row by row. Events
without a key are in `unkeyed.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from ..consumer.reading import BY_ID
from ..event import stream_of
from ..order import KeyState
from ..ports import TopicPartition
from .facts import (
    IN_OUTBOX,
    Bounds,
    Finding,
    KeyName,
    Logged,
    Scope,
    Seen,
    Sums,
    Suspect,
    link_of,
    moved,
    repeat,
)
from .unkeyed import Hashes, Unkeyed

RUNS_MAX = 64
"""Ranges of one key that are compared by digests; a key with more is looked at event by event."""

_NEVER = 2**64


class _Run:
    """Records of a key that followed each other in one place of the log, number by number, with
    stamps below `below`, where another part of the time begins: see `_Source.end`. `previous`: the
    stamp before the first; `stamp`: of the last. `marks`, `count`: of all, less what the outbox has
    of them.
    """

    __slots__ = ("below", "count", "first", "last", "marks", "place", "previous", "stamp")

    def __init__(
        self, place: TopicPartition, sequence: int, previous: int | None, below: int
    ) -> None:
        self.place = place
        self.first = self.last = sequence
        self.previous = previous
        self.stamp = -1
        self.below = below
        self.marks = self.count = 0

    def contradicts(self, other: _Run) -> bool:
        """Whether they may say two things of one number."""
        same = (self.first, self.last, self.marks) == (other.first, other.last, other.marks)
        return self.first <= other.last and other.first <= self.last and not same


class _Key:
    """A key in the first pass. `counter`: its number, negative where its row may be missing:
    dropped, or later than what is read. `read`: the last event that all its readers have read;
    `ahead`: by consumer, where some have read on. `done`: consumer, number, hash of stamp and id,
    digest, then those of the next consumer. `sums`: what the outbox has added up, which is what a
    run has.
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

    @property
    def first(self) -> int:
        """The lowest number in the log, or that behind the outbox's last one till now."""
        return min((run.first for run in self.runs), default=self.out + 1)

    def spans(self) -> list[_Run]:
        """What each place has of it, in the order of numbers. A suspect if these do not follow each
        other: a relay repeats, or the key went to and fro.
        """
        spans: dict[TopicPartition, _Run] = {}
        for run in self.runs:
            span = spans.setdefault(run.place, _Run(run.place, run.first, run.previous, 0))
            if run.first < span.first:
                span.first, span.previous = run.first, run.previous
            if run.last >= span.last:
                span.last, span.stamp = run.last, run.stamp
        ordered = sorted(spans.values(), key=lambda one: one.first)
        for a, b in pairwise(ordered):
            self.suspect |= b.first != a.last + 1 or b.previous != a.stamp
        return ordered


class _Source:
    """The keys of a source, and what counts for all of them; or its events without a key."""

    __slots__ = ("bounds", "keys", "start", "unkeyed")

    def __init__(self, name: str, bounds: Bounds) -> None:
        self.bounds = bounds
        self.start = bounds.start
        self.keys: dict[str, _Key] = {}
        judged = bounds.outbox is not None
        self.unkeyed = Unkeyed(judged=judged) if name.endswith(BY_ID) else None

    def end(self, stamp: int) -> int:
        """Where the part of the time ends that a stamp is in: before what both sides cover, that,
        and what is young. The outbox's sums are of the second one.
        """
        ends = (self.start, self.bounds.until, _NEVER)
        return next(end for end in ends if stamp < end)


class Tally:
    """The first pass. `repeats`: records that were in the log before, `moved`: keys that moved
    once; `listed`: some of them; `unseen`: events that the log need not have yet; `lag`: records
    that a consumer has not read.
    """

    LISTED_MAX = 20
    detailed = False

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.sources: dict[str, _Source] = {}
        self.repeats = self.moved = self.unseen = self.rows = self.seen = self.keys = 0
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

    def done(self, name: KeyName, consumer: str, state: KeyState, kept: int) -> None:
        source = self._source(name[0])
        if source.unkeyed is None:
            key = self._find(name)[1]
            place = hash((state.stamp, state.id)) if state.id else None
            key.done += (consumer, state.sequence, place, state.digest)
            key.suspect |= kept > 0
        elif state.sequence > 0:
            dropped = source.bounds.dropped(state.stamp)
            by = source.unkeyed.done_old if dropped else source.unkeyed.done
            by.setdefault(consumer, Hashes()).add(name[1], state.digest)

    # ---- the log

    def records(self, page: Iterable[Seen]) -> None:
        last, low = IN_OUTBOX, 0
        for seen in page:
            name, key_name, sequence, stamp, previous, _, mark, _, _, _, _, _, place, offset = seen
            source = self.sources.get(name) or self._source(name)
            self.seen += 1
            if place is not last:
                last, low = place, self._read_by_all(place)
            if source.unkeyed is not None:
                self._record_unkeyed(source, source.unkeyed, seen)
                continue
            key = source.keys.get(key_name)
            if key is None:
                key = source.keys[key_name] = _Key()
            run = key.runs[-1] if key.runs else None
            if (
                run is None or sequence != run.last + 1 or previous != run.stamp
                or stamp >= run.below or place != run.place
            ):  # fmt: skip
                run = self._begin(source, key, seen)
            run.last, run.stamp = sequence, stamp
            if sequence > key.high:
                key.high, key.high_stamp = sequence, stamp
            else:
                self._again(key, seen)
            run.marks ^= mark
            run.count += 1
            if sequence in key.done:
                self._compare(key, seen)
            if offset >= low:
                self._ahead(key, seen)
            elif sequence > key.read:
                key.read, key.read_stamp = sequence, stamp

    def _begin(self, source: _Source, key: _Key, seen: Seen) -> _Run:
        """A record begins a run. If it does not follow what is in this place, that is fine where it
        was there before.
        """
        _, _, sequence, stamp, previous, *_, place, _ = seen
        here = [run for run in key.runs if run.place == place]
        if here:
            high = max(here, key=lambda run: run.last)
            follows = sequence == high.last + 1 and previous == high.stamp
            again = min(run.first for run in here) <= sequence <= high.last
            key.suspect |= not (follows or again)
        if len(key.runs) >= RUNS_MAX:
            key.suspect = True
            key.runs[1:] = []
        run = _Run(place, sequence, previous, source.end(stamp))
        key.runs.append(run)
        return run

    def _again(self, key: _Key, seen: Seen) -> None:
        """A record is no higher than what was there."""
        sequence, stamp = seen[2:4]
        if stamp > key.high_stamp:  # of another history
            key.suspect = True
        elif sum(one.first <= sequence <= one.last for one in key.runs) > 1:
            key.repeats += 1
            self._list(repeat(seen[:2], Logged(*seen[-2:], link_of(seen))))

    def _list(self, finding: Finding) -> None:
        if sum(one.kind == finding.kind for one in self.listed) < self.LISTED_MAX:
            self.listed.append(finding)

    def _read_by_all(self, place: TopicPartition) -> int:
        """Up to where all readers of a place have read it."""
        low = self._low.get(place)
        if low is None:
            readers = self._readers_of(place[0])
            positions = [self.scope.positions[name].get(place, 0) for name in readers]
            low = self._low[place] = min(positions, default=0)
        return low

    def _readers_at(self, seen: Seen) -> list[str]:
        """Who has read a record; the others lag."""
        place, offset = seen[-2:]
        readers = []
        for name in self._readers[place[0]]:
            if offset < self.scope.positions[name].get(place, 0):
                readers.append(name)
            else:
                self.lag[name] += 1
        return readers

    def _ahead(self, key: _Key, seen: Seen) -> None:
        """Not all readers have read it."""
        for name in self._readers_at(seen):
            key.ahead = key.ahead or {}
            key.ahead[name] = max(key.ahead.get(name, (key.read, key.read_stamp)), seen[2:4])

    def _readers_of(self, topic: str) -> list[str]:
        found = self._readers.get(topic)
        if found is None:
            found = self._readers[topic] = self.scope.readers(topic)
        return found

    def _compare(self, key: _Key, seen: Seen) -> None:
        """Whether who has done this number has done this event."""
        done = iter(key.done)
        for _, number, place, known in zip(done, done, done, done, strict=True):
            if number == seen[2] and place is not None:
                _, stamp, _, id, digest, _ = link_of(seen)
                if hash((stamp, id)) != place or (known and digest and known != digest):
                    key.suspect = True

    def _record_unkeyed(self, source: _Source, unkeyed: Unkeyed, seen: Seen) -> None:
        old = seen[3] < source.start or not unkeyed.judged
        (unkeyed.log_old if old else unkeyed.log).add(seen[1], seen[6])
        self._due(unkeyed, seen, self._readers_at(seen))

    def _due(self, unkeyed: Unkeyed, seen: Seen, readers: Iterable[str]) -> None:
        """These have to have done it."""
        hashed = None
        for consumer in readers:
            if seen[3] >= self.scope.floor(consumer, seen[0]):
                hashed = link_of(seen).digest if hashed is None else hashed
                unkeyed.due.setdefault(consumer, Hashes()).add(seen[1], hashed)

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

    def counter(self, name: KeyName, sequence: int, stamp: int, *, read: bool) -> None:
        source = self.sources.get(name[0])
        bounds = self.scope.of(name[0])
        if (source is not None and name[1] in source.keys) or stamp >= bounds.start:
            there = read and stamp >= (bounds.outbox or 0)
            self._find(name)[1].counter = sequence if there else -sequence

    def row(self, seen: Seen, *, published: bool) -> None:
        self.rows += 1
        source = self._source(seen[0])
        if source.unkeyed is not None:
            self._row_unkeyed(source, source.unkeyed, seen, published=published)
            return
        key = self._find(seen[:2])[1]
        sequence, stamp, previous = seen[2:5]
        if key.sums is not None and sequence > key.sums[1].first:
            self._take_in_sums(source, key)
        self._follows(source, key, sequence, previous)
        key.out, key.out_stamp = sequence, stamp
        if sequence in key.done:
            self._compare(key, seen)
        if stamp < source.start:
            return
        here = False
        for run in key.runs:
            if run.first <= sequence <= run.last and run.below > source.start:
                run.marks ^= seen[6]
                run.count -= 1
                here = True
        if not here and published and stamp < source.bounds.until:
            between = key.first < sequence < key.high
            key.suspect |= between or stamp >= self.scope.beginning(*seen[:2])
        elif not here:
            self.unseen += 1

    def _row_unkeyed(
        self, source: _Source, unkeyed: Unkeyed, seen: Seen, *, published: bool
    ) -> None:
        id, stamp, bounds = seen[1], seen[3], source.bounds
        if stamp >= source.start:
            must = published and stamp < bounds.until
            (unkeyed.rows if must else unkeyed.young).add(id, seen[6])
            return
        unkeyed.rows_old.add(id, seen[6])
        if published:  # perhaps the log dropped it before it was read
            self._due(unkeyed, seen, self._readers_of(stream_of(seen[0].removesuffix(BY_ID))))

    def suspects(self) -> Iterator[Suspect]:
        """Where something differs; what else there is to say is counted for the others."""
        for name, source in self.sources.items():
            if source.unkeyed is not None:
                for id in source.unkeyed.suspects(self.LISTED_MAX):
                    yield name, id
                self.keys += source.unkeyed.count
                self.unseen += source.unkeyed.unseen
                self.repeats += source.unkeyed.repeats
            self.keys += len(source.keys)
            for key_name, key in source.keys.items():
                self._take_in_sums(source, key)
                spans = key.spans() if len(key.runs) > 1 else []
                if len(spans) > 1:
                    key.suspect |= not self._at_home(key_name, spans)
                if key.suspect or self._differs(key, source) or self._undone(name, key, source):
                    yield name, key_name
                    continue
                self.repeats += key.repeats
                if len(spans) > 1:
                    self.moved += 1
                    places = [span.place for span in spans]
                    self._list(moved((name, key_name), spans[1].first, places, settled=True))

    def _at_home(self, key: str, spans: Sequence[_Run]) -> bool:
        """Whether it is where the log would have put it while partitions were added."""
        topics = {span.place[0] for span in spans}
        homes = iter(self.scope.homes_of(min(topics), key))
        return len(topics) == 1 and all(span.place[1] in homes for span in spans)

    def _differs(self, key: _Key, source: _Source) -> bool:
        bounds, runs = source.bounds, key.runs
        alone = [run for run in runs if bounds.outbox is None or run.below <= source.start]
        if any(one.contradicts(other) for one in alone for other in runs):
            return True
        if bounds.outbox is None:
            return bool(runs) and key.first > 1 > bounds.log
        if any((run.count or run.marks) and run.below > source.start for run in runs):
            return True
        counted = abs(key.counter)
        return key.counter > 0 if counted > key.out else counted < key.out

    def _undone(self, source: str, key: _Key, at: _Source) -> bool:
        bounds = at.bounds
        known = max(key.high, key.out, abs(key.counter))
        done = dict(zip(key.done[::4], key.done[1::4], strict=True))
        if bounds.outbox is not None and any(number > known for number in done.values()):
            return True
        topic = key.runs[0].place[0] if key.runs else stream_of(source)
        for consumer in self._readers_of(topic):
            number, floor = done.get(consumer, -1), self.scope.floor(consumer, source)
            if (
                max(bounds.log, bounds.silent) > 0
                and number < key.first - 1
                and key.out_stamp >= (floor if number < 0 else 0)
            ):  # perhaps the log dropped it before it was read
                return True
            sequence, stamp = (key.ahead or {}).get(consumer, (key.read, key.read_stamp))
            if number < sequence and (number >= 0 or stamp >= floor):
                return True
        return False
