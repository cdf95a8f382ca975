"""The audit, pure: what outbox, log and inbox say of each key, compared.

Two passes over the same three sides. `Tally` (`keys.py`) goes through everything once and
says where anything differs. `Cases` (`examine.py`) goes through these suspects alone, and says
event by event what is wrong. So a clean system costs one pass, and memory is bounded by keys, and
by events of suspects. Here is what both have in common.

Nothing is said of what is younger than a given time, nor of what a retention may have dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from hashlib import sha256
from typing import NamedTuple, Protocol, TypeAlias

from ..consumer.reading import BY_ID
from ..envelope import JSON, Reference, after_text, digest
from ..event import stream_of
from ..order import EventId, KeyState, Link
from ..ports import TopicPartition

KeyName = tuple[str, str]
"""Source and key. Events without a chain: source with `#id`, and the id."""

Suspect = tuple[str, str | int]
"""The same of what the second pass looks at; an id as `short` has it."""

Seen: TypeAlias = tuple[
    str, str, int, int, int | None, EventId, int, str, str, bytes | None, int | None, bool,
    TopicPartition, int,
]  # fmt: skip
"""An event as a pass meets it, a plain tuple since there are many: source and key (as in KeyName),
sequence, stamp, previous, id, `mark`, type, `form`, bytes, digest (None: not computed yet), void;
where it is: the place in the log and the offset, or IN_OUTBOX and the position."""

IN_OUTBOX: TopicPartition = ("", -1)


def mark(
    seed: str, sequence: int | None, stamp: int, previous: int | None, id: EventId, type: str,
    form: str, value: bytes | None, *, void: bool,
) -> int:  # fmt: skip
    """A signed 64-bit hash of an event's place, id and bytes, as the statement `audit_sums` has it:
    the beginning of SHA-256. `sequence` None: an un-keyed event, known by its id. `form`: see
    `form_of`. `seed` is new in each audit, so nobody can choose events whose sums agree.
    """
    place = (
        "::" if sequence is None else f"{sequence}:{stamp}:{'' if previous is None else previous}"
    )
    said = b"" if void else b"%b:%b" % (f"{type}:{form}".encode(), value or b"")
    hashed = sha256(f"{seed}{place}:{id!s}:".encode() + said)
    return int.from_bytes(hashed.digest()[:8], "big", signed=True)


def form_of(version: int | None, content_type: str, after: Reference | None) -> str:
    """How an event is to be read, beside its type: version, content type unless it is JSON, and
    the event that has to be first. Statements of the audit have the same.
    """
    form = f"{'' if version is None else version} {'' if content_type == JSON else content_type}"
    return form if after is None else f"{form} {after_text(after)}"


def link_of(seen: Seen) -> Link:
    """An event as the rules see it."""
    _, _, sequence, stamp, previous, id, _, type, _, value, hashed, void, _, _ = seen
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
    unseen, not lost. `silent`: as `log`, for what may have been in a partition that stands empty,
    having dropped all.
    """

    outbox: int | None = None
    log: int = 0
    until: int = 0
    silent: int = 0

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
    def done(self, name: KeyName, consumer: str, state: KeyState, kept: int) -> None:
        """`kept`: how many events wait there; without `detailed`, the state has none of them."""
        ...

    def records(self, page: Iterable[Seen]) -> None: ...
    def counter(self, name: KeyName, sequence: int, stamp: int, *, read: bool) -> None:
        """The key's last number. `read`: its row will come, if there is one."""
        ...

    def row(self, seen: Seen, *, published: bool) -> None:
        """`published`: the relay has passed it."""
        ...


class Scope(NamedTuple):
    """What is audited. `bounds`: of the sources whose outbox is known; `logs`: `log` and `silent`
    of topics, see Bounds; `positions`: how far each consumer had read; `floors`: from which stamp
    on a consumer reads a source; `homes`: by topic, in which partition a key is while there are 1,
    2, … of them, up to as many as there are now; `empty`: partitions that have dropped all.
    """

    bounds: dict[str, Bounds]
    logs: Mapping[str, tuple[int, int]]
    positions: Mapping[str, Mapping[TopicPartition, int]]
    floors: Mapping[tuple[str, str], int]
    until: int
    homes: Mapping[str, Callable[[bytes], list[int]]] = {}
    empty: Mapping[str, Collection[int]] = {}

    def of(self, source: str) -> Bounds:
        found = self.bounds.get(source)
        if found is None:
            name = source.removesuffix(BY_ID)
            log, silent = self.logs.get(stream_of(name), (0, 0))
            found = self.bounds.get(name) or Bounds(None, log, self.until, silent)
            if name != source:  # without a key it may have been anywhere
                found = found._replace(log=max(found.log, found.silent))
            self.bounds[source] = found
        return found

    def readers(self, topic: str) -> list[str]:
        """The consumers that read a topic."""
        return [name for name, at in self.positions.items() if any(t == topic for t, _ in at)]

    def homes_of(self, topic: str, key: str) -> list[int]:
        """See `homes`; empty where others choose."""
        found = self.homes.get(topic)
        return [] if found is None else found(key.encode())

    def beginning(self, source: str, key: str) -> int:
        """From which stamp on the log has all of a key, wherever it was."""
        bounds, topic = self.of(source), stream_of(source)
        if bounds.silent > bounds.log:
            homes = self.homes_of(topic, key)
            if not homes or any(number in homes for number in self.empty.get(topic, ())):
                return bounds.silent
        return bounds.log

    def floor(self, consumer: str, source: str) -> int:
        found = self.floors.get((consumer, source))
        return self.floors.get((consumer, ""), 0) if found is None else found


class Row(NamedTuple):
    """An event in the outbox."""

    position: int
    link: Link
    published: bool
    form: str = ""


class Logged(NamedTuple):
    """An event in the log."""

    place: TopicPartition
    offset: int
    link: Link
    form: str = ""

    def __str__(self) -> str:
        return f"{self.place[0]}/{self.place[1]}@{self.offset}"


def repeat(name: KeyName, record: Logged) -> Finding:
    """A record that was in the log before, byte for byte."""
    link = record.link
    return Finding(
        "duplicate", True, *name, link.sequence, link.stamp, str(link.id), str(record), None, None,
        "the log has it already", "nothing: consumers drop it",
    )  # fmt: skip


def moved(
    name: KeyName, at: Link | int, places: Iterable[TopicPartition], *, settled: bool
) -> Finding:
    """A key in several partitions: no fault, if some were added. To and fro is one."""
    number, stamp, event = (at, None, None) if isinstance(at, int) else (*at[:2], str(at.id))
    topic, _ = next(iter(places))
    names = ", ".join(sorted(f"{topic}/{number}" for topic, number in places))
    return Finding(
        "moved", settled, *name, number, stamp, event, None, None, None,
        f"the key is in several partitions: {names}", f"oncebox topics check {topic}",
    )  # fmt: skip
