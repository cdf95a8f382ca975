"""The audit of a topic that oncebox did not write: by id, offset, key and number, wherever a record
has them.

Without an outbox it cannot know what was lost at the ends or invented; without a number per key it
knows neither order nor gaps; and of a duplicate it cannot know whether its readers drop it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from hashlib import blake2b

from ..consumer.others import part
from ..consumer.reading import BY_ID
from ..envelope import NUMBER_MAX
from ..order import Link
from ..ports import Log, Record
from .facts import Finding, Ledger, Scope, Seen
from .log import read_log
from .report import Listing, Report, two_passes
from .survey import Told


class _Topic:
    """One topic, read by expressions. `number`: counts 1, 2, 3 … along a key."""

    def __init__(self, log: Log, topic: str, id: str, key: str, number: str | None) -> None:
        self.log, self.topic = log, topic
        self.id, self.key = part(id), part(key)
        self.number = None if number is None else part(number)
        self.listing = Listing()
        self.partitions: dict[str, int] = {}
        self.moved: set[str] = set()

    def walk(self, ledger: Ledger, told: Told) -> None:
        """All records, up to where the topic ends now."""
        extents = self.log.extents(self.topic)
        total, done = sum(extent.end - extent.start for extent in extents), 0
        for records in read_log(self.log, {self.topic: extents}, strict=False):
            ledger.records(self.seen(records, noted=not ledger.detailed))
            done += len(records)
            told(done, total)

    def seen(self, records: list[Record], *, noted: bool) -> Iterator[Seen]:
        """Records as events; those that cannot be read are noted once."""
        for record in records:
            try:
                name, link = self.read(record)
            except ValueError as error:
                if noted:
                    self.say(record, "undecodable", "", str(error), "mend who writes it")
                continue
            number, stamp, previous, id, hashed, void = link
            made = hash((number, id, hashed))
            at = record[:2], record.offset
            yield (
                *name, number, stamp, previous, id, made, "", "", record.value, hashed, void, *at,
            )  # fmt: skip

    def read(self, record: Record) -> tuple[tuple[str, str], Link]:
        """A record as an event: of its key where keys have numbers, else known by its id."""
        id, key = self.id(record), self.key(record)
        if id is None:
            raise ValueError("it has no id")
        hashed = int.from_bytes(blake2b(record.value or b"", digest_size=8).digest(), "big")
        if self.number is None:
            if key is not None and self.partitions.setdefault(key, record.partition) != record[1]:
                if key not in self.moved:  # once
                    what = f"its key is in partition {self.partitions[key]} too"
                    self.say(record, "moved", key, what, f"oncebox topics check {self.topic}")
                self.moved.add(key)
            return (self.topic + BY_ID, id), Link(1, 1, None, id, hashed)
        text = self.number(record)
        if key is None or text is None or not 0 < int(text) <= NUMBER_MAX:
            raise ValueError(f"key {key!r} and number {text!r}")
        number = int(text)
        return (self.topic, key), Link(number, number, number - 1 or None, id, hashed)

    def say(self, record: Record, kind: str, key: str, what: str, decide: str) -> None:
        place = f"{record.topic}/{record.partition}@{record.offset}"
        self.listing.add(Finding(
            kind, False, self.topic, key, 0, None, None, place, None, None, what, decide
        ))  # fmt: skip


def audit_topic(
    log: Log, topic: str, *, id: str, key: str, number: str | None, told: Told
) -> Report:
    """Audit a topic by expressions, see `part`. Raises ConfigurationError, NotFound."""
    at = _Topic(log, topic, id, key, number)
    dropped = any(extent.start > 0 for extent in log.extents(topic))
    scope = Scope({}, {topic: (int(dropped), 0)}, {}, {}, NUMBER_MAX)
    tally, unexamined = two_passes(lambda: (scope, partial(at.walk, told=told)), at.listing)
    return at.listing.report(tally, unexamined)
