"""What is fetched and not settled: the next batch, taken in while the store works on this one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Sequence
from typing import Any

from ..ports import Record, TopicPartition
from ..program import Program
from .reading import Item, Reading, Taken, decode_ahead, take_in

logger = logging.getLogger("oncebox.consumer")


class Ahead:
    """At most one batch, and the rest of one before it. `held`: the partitions that are ours."""

    def __init__(
        self, reading: Reading, fetch: Callable[..., Any], held: Container[TopicPartition]
    ) -> None:
        self.reading = reading
        self.fetch = fetch
        self.held = held
        self.batches: list[tuple[list[Record], Taken | None]] = []

    def step(self) -> Program[None]:
        """Fetch what is there already; the next time, take it in and decode it."""
        if self.batches:
            records, taken = self.batches[-1]
            if taken is None:
                taken = take_in(self.reading, records)
                decode_ahead(taken.items)
                self.batches[-1] = records, taken
            return
        settings = self.reading.settings
        try:
            records = yield self.fetch, (settings.batch_max, settings.batch_bytes_max, 0.0)
        except Exception:  # the batch has nothing to do with it; the next fetch says it again
            logger.debug("fetching ahead failed", exc_info=True)
            return
        self.batches.append((records, None))
        self.keep(self.held)

    def take(self) -> tuple[list[Record], Taken | None]:
        """What is there, once."""
        return self.batches.pop(0) if self.batches else ([], None)

    def put_back(self, items: Sequence[Item]) -> None:
        """There was no time for these, which come first."""
        self.batches.insert(0, ([item.record for item in items], Taken(list(items), [])))

    def keep(self, places: Container[TopicPartition]) -> None:
        """Forget what is not of these partitions."""
        kept = []
        for records, items in self.batches:
            left = [r for r in records if (r.topic, r.partition) in places]
            if left:
                kept.append((left, items if len(left) == len(records) else None))
        self.batches = kept

    def ends(self) -> dict[TopicPartition, int]:
        """Up to where partitions are fetched."""
        return {(r.topic, r.partition): r.offset + 1 for b in self.batches for r in b[0]}

    def drop(self) -> None:
        """The reader begins anew, so what it brought will come again."""
        self.batches.clear()
