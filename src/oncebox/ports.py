"""What oncebox needs of an engine, as small protocols, and the values that cross them.

A log holds records; a relay publishes to it, a consumer reads from it. Engines are found by URL
scheme (`service/connect.py`) and prove themselves by the contract suites in `oncebox.testing`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from .errors import LogTruncated

Headers = Sequence[tuple[str, bytes | None]]

LOST_HEADERS = "oncebox-headers-lost"
"""The name of the one header of a record whose own headers the log's client could not give."""


class Record(NamedTuple):
    """An event as bytes, at a place in a log. `time_ms` is the log's own time, Unix ms."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    time_ms: int


class Outgoing(NamedTuple):
    """A record on its way into a log. The log chooses the partition by the key."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, str | bytes | None]]
    time_ms: int


class Refusal(NamedTuple):
    """A record of a publish call that the log did not take.

    `at` is its place in the call, from 0. `permanent`: trying again cannot help (too large, no
    right).
    """

    at: int
    reason: str
    permanent: bool


class Topic(NamedTuple):
    """`identity` changes when a topic is deleted and made again under its old name."""

    identity: str
    partitions: int


class Extent(NamedTuple):
    """What of a partition can be read: offsets `start` (inclusive) to `end` (exclusive)."""

    start: int
    end: int


TopicPartition = tuple[str, int]


def truncated(log: str, place: TopicPartition, offset: int, expected: str) -> LogTruncated:
    """What a reader raises that stands where the log has no record."""
    topic, partition = place
    return LogTruncated(
        f"{log} has no record of topic {topic} there",
        position=f"{topic}/{partition}@{offset}",
        expected=expected,
        hint="records expired, or the topic was made anew; chains show what is missing",
    )


class Reader(Protocol):
    """One reading end of a log. Not safe for several threads, but for `wake`."""

    def assign(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read these partitions from these offsets, and no others.

        A partition where the reader stands at that offset already goes on undisturbed.
        """
        ...

    def fetch(self, count_max: int, bytes_max: int, wait_s: float) -> list[Record]:
        """Records in offset order per partition; returns at once when there are any.

        A record larger than `bytes_max` still comes, when it is first. Waits up to `wait_s` for
        the first. Raises LogTruncated (with `position`) when an assigned offset, partition or
        topic is not in the log, until it is assigned anew; and Unreachable.
        """
        ...

    def wake(self) -> None:
        """Make a waiting `fetch`, or the next one that would wait, return early. May be called
        from any thread.
        """
        ...

    def acknowledge(self, positions: Mapping[TopicPartition, int]) -> None:
        """Tell the log how far effects are committed; never waits."""
        ...

    def acknowledged(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """What the log was last told of these by a consumer of this name; empty where it does not
        keep that, or may not say it. Raises Unreachable.
        """
        ...

    def close(self) -> None: ...


class Log(Protocol):
    """A partitioned, append-only log with retention."""

    def describe(self, topic: str) -> Topic | None:
        """The topic, or None when it does not exist."""
        ...

    def create(self, topic: str, partitions: int) -> None:
        """Make the topic with safe settings; nothing happens when it exists."""
        ...

    def home(self, key: bytes, partitions: int) -> int:
        """The partition of a key, while its topic has so many."""
        ...

    def extents(self, topic: str) -> list[Extent]:
        """What can be read now, by partition number. Raises NotFound."""
        ...

    def offsets_at(self, topic: str, time_ms: int) -> list[int]:
        """By partition, the first offset whose log time is `time_ms` or later, else the end.
        Raises NotFound.
        """
        ...

    def publish(self, records: Sequence[Outgoing], timeout_s: float) -> list[Refusal]:
        """Append, in order per key; returns when each record is acknowledged or refused. Of no
        records, what there is to prepare.

        Never returns while a record's fate is open. On the first refusal of a key that can be
        seen in time, later records of the same key in the call are refused with it.
        """
        ...

    def reader(self, group: str) -> Reader:
        """A new reading end; `group` names the consumer to the log's own tools."""
        ...

    def check(self, topic: str) -> list[str]:
        """Settings of the topic or engine that cannot keep the promises, as sentences. Raises
        NotFound.
        """
        ...

    def close(self) -> None: ...
