"""Lanes: what a concurrent consumer has read and not yet decided. No I/O.

Events of one key are in one lane and are worked on one after the other, in order; lanes are side by
side. A partition's position is behind all that is decided: the lowest of what is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from operator import add
from typing import Any

from ..ports import TopicPartition
from .batch import COUNTS, Outcome
from .reading import Item, Place, Reading

Lane = tuple[Any, ...]


class Job:
    """One event to settle (`item`), or a key to go on with (`drain`; `release`: also if it is
    parked as poison), under the term that we hold a partition by. `filling`: see `Batch`.
    """

    __slots__ = ("drain", "filling", "item", "lane", "partition", "release", "size", "term")

    def __init__(
        self,
        partition: TopicPartition,
        term: int,
        lane: Lane,
        *,
        item: Item | None = None,
        drain: Place | None = None,
        release: bool = False,
        filling: bool = False,
    ) -> None:
        self.partition = partition
        self.term = term
        self.lane = lane
        self.item = item
        self.drain = drain
        self.release = release
        self.filling = filling
        self.size = 0 if item is None else len(item.record.value or b"")


class Lanes:
    """`give` hands a job to whoever is free; `lock` guards all this where workers are threads."""

    def __init__(
        self, give: Callable[[Job], None], lock: AbstractContextManager[object, None]
    ) -> None:
        self.give = give
        self.lock = lock
        self.queues: dict[Lane, deque[Job]] = {}  # the first job of each is given already
        self.drains: dict[Place, Job] = {}
        self.terms: dict[TopicPartition, int] = {}
        self.ends: dict[TopicPartition, int] = {}
        self.undone: dict[TopicPartition, dict[Job, int]] = {}  # offsets, rising
        self.jobs = self.size = 0
        self.counts = [0] * len(COUNTS)
        self.parked = self.kept_bytes = 0
        self.trouble: BaseException | None = None

    # ---- partitions

    def keep(self, held: dict[TopicPartition, tuple[int, int]]) -> None:
        """Have these partitions, by term and position, and no others; what is queued of others is
        forgotten. A partition that was there under this term goes on undisturbed.
        """
        with self.lock:
            for partition in self.terms.keys() - held.keys():
                del self.terms[partition], self.ends[partition], self.undone[partition]
            for partition, (term, position) in held.items():
                if self.terms.get(partition) != term:
                    self.terms[partition], self.ends[partition] = term, position
                    self.undone[partition] = {}
            for queue in self.queues.values():
                given, *waiting = queue
                left = [job for job in waiting if self.is_ours(job)]
                if len(left) < len(waiting):
                    self.jobs -= len(waiting) - len(left)
                    self.size -= sum(j.size for j in waiting) - sum(j.size for j in left)
                    queue.clear()
                    queue.extend((given, *left))
            self.drains = {place: job for place, job in self.drains.items() if self.is_ours(job)}

    def is_ours(self, job: Job) -> bool:
        """Whether its partition is still held by the term under which it was read."""
        return self.terms.get(job.partition) == job.term

    def position(self, partition: TopicPartition) -> int:
        """All before it is decided."""
        with self.lock:
            return next(iter(self.undone[partition].values()), self.ends[partition])

    # ---- jobs

    def add(self, job: Job, end: int | None = None) -> None:
        """Put a job behind all others of its lane; `end`: its partition is read up to there."""
        with self.lock:
            if not self.is_ours(job):
                return
            if job.drain is not None:
                known = self.drains.setdefault(job.drain, job)
                if known is not job:
                    known.release |= job.release
                    return
            if not job.filling:  # a position does not pass what may kill whoever does it
                offset = self.ends[job.partition]
                if end is not None and job.item is not None:
                    offset, self.ends[job.partition] = job.item.record.offset, end
                self.undone[job.partition][job] = offset
            self.jobs += 1
            self.size += job.size
            queue = self.queues.setdefault(job.lane, deque())
            queue.append(job)
            if len(queue) == 1:
                self.give(job)

    def begin(self, job: Job) -> bool:
        """Whether a job that was given is still to be done."""
        with self.lock:
            if job.drain is not None and self.drains.get(job.drain) is job:
                del self.drains[job.drain]  # what asks for it from now on, asks for another
            return self.is_ours(job)

    def end(self, job: Job, *, decided: bool) -> None:
        """A job that was given has ended, and its lane goes on. Not `decided`: it has to come
        again.
        """
        with self.lock:
            if decided and self.is_ours(job):
                self.undone[job.partition].pop(job, None)
            self.jobs -= 1
            self.size -= job.size
            queue = self.queues[job.lane]
            queue.popleft()
            if queue:
                self.give(queue[0])
            else:
                del self.queues[job.lane]

    # ---- what became of them

    def collect(self, outcome: Outcome) -> None:
        with self.lock:
            self.counts = list(map(add, self.counts, outcome.counts))
            self.parked += outcome.parked
            self.kept_bytes += outcome.kept_bytes

    def collected(self) -> tuple[list[int], int, int]:
        """Counts, keys parked and bytes kept since this was last asked for."""
        with self.lock:
            found = self.counts, self.parked, self.kept_bytes
            self.counts, self.parked, self.kept_bytes = [0] * len(COUNTS), 0, 0
            return found


def lane_of(reading: Reading, item: Item) -> Lane:
    """Events of others that are ordered by a key (`foreign`) are known by their ids, each with a
    row of its own, until they stand in line: their lane is that of the line.
    """
    if item.bad is not None:
        return (item.record.topic, item.record.partition)
    if item.in_line and item.after is not None:
        return (reading.subscriptions[item.after.source].id, item.after.key)
    return item.place
