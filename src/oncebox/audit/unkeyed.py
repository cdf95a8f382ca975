"""Events without a key in the audit's first pass: 8 bytes of each, for each side that has it.

They have no neighbours, so there are no ranges whose digests could be compared; and relays may
have published some of them again. So of an event a side keeps half of a hash of its id, and half of
one of what it says, in arrays by the rest of the id's hash. One such part after the other is
compared as sets; what differs is known by the hash of its id, by which the second pass finds it.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator

PARTS = 256
"""A million events are sets of 4,000 for a moment."""

HALF = 2**32 - 1

Part = set[int]


def short(id: str) -> int:
    """By what an id is known in the first pass: a part, and half of a hash."""
    return hash(id) % (PARTS << 32)


class Hashes:
    """What a side has, in no order: ids, and what the events say."""

    __slots__ = ("parts",)

    def __init__(self) -> None:
        self.parts = [array("Q") for _ in range(PARTS)]

    def add(self, id: str, said: int) -> None:
        known = short(id)
        self.parts[known % PARTS].append(known // PARTS << 32 | said & HALF)


class Unkeyed:
    """The un-keyed events of a source. `log`, `rows`: what has to be on both sides; `young`: rows
    that the log need not have; `log_old`, `rows_old`: of before both sides begin. By consumer:
    `due`, what it has to have done, and `done`; `done_old`: what both sides may have dropped since.
    What they say is a mark, for consumers a digest (0: not known). `judged`: the outbox is known.
    """

    def __init__(self, *, judged: bool) -> None:
        self.judged = judged
        self.log, self.rows, self.young = Hashes(), Hashes(), Hashes()
        self.log_old, self.rows_old = Hashes(), Hashes()
        self.due: dict[str, Hashes] = {}
        self.done: dict[str, Hashes] = {}
        self.done_old: dict[str, Hashes] = {}
        self.count = self.unseen = self.repeats = 0

    def suspects(self, listed_max: int) -> Iterator[int]:
        """Ids where something differs, as `short` has them. Then `count` ids were compared, and of
        the others `repeats` records were in the log before; where there is no outbox, so many of
        these are suspects too, so that they are named.
        """
        left = 0 if self.judged else listed_max
        for part in range(PARTS):
            found = self._compare(part)
            again = self._repeated(part, found)
            listed = set(sorted(again)[:left])
            left -= len(listed)
            self.repeats += sum(many for id, many in again.items() if id not in listed)
            for id in found | listed:
                yield id * PARTS + part

    def _compare(self, part: int) -> Part:
        log, rows, young, log_old, rows_old = (
            set(side.parts[part])
            for side in (self.log, self.rows, self.young, self.log_old, self.rows_old)
        )
        self.unseen += len(young - log)
        found = _ids(log - rows - young) | _ids(rows - log)
        found |= _twice(log_old | rows_old)  # one id says two things
        found |= _twice(
            one for side in (self.rows, self.young, self.rows_old) for one in side.parts[part]
        )
        here = _ids(log | rows | young | log_old | rows_old)
        known = set(here)
        for consumer in self.due.keys() | self.done.keys() | self.done_old.keys():
            due, done, done_old = (
                set(by[consumer].parts[part]) if consumer in by else Part()
                for by in (self.due, self.done, self.done_old)
            )
            has, must = _ids(done | done_old), _ids(due)
            known |= has
            found |= must - has
            found |= must & _ids(one for one in (done | done_old) - due if one & HALF)
            if self.judged:
                found |= _ids(done) - here
        self.count += len(known)
        return found

    def _repeated(self, part: int, found: Part) -> dict[int, int]:
        """How often ids that are no suspects came again."""
        again = Counter[int]()
        for entries in (self.log.parts[part], self.log_old.parts[part]):
            if len(set(entries)) < len(entries):
                for one, many in Counter(entries).items():
                    if many > 1 and one >> 32 not in found:
                        again[one >> 32] += many - 1
        return again


def _ids(entries: Iterable[int]) -> Part:
    return {one >> 32 for one in entries}


def _twice(entries: Iterable[int]) -> Part:
    return {id for id, many in Counter(one >> 32 for one in entries).items() if many > 1}
