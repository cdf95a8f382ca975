"""The next batch, fetched and taken in while the store works on this one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from typing import Any

from .ports import Record, TopicPartition
from .program import Program
from .reading import Reading, Taken, take_in

logger = logging.getLogger("oncebox.consumer")


class Ahead:
    """At most one batch. `held`: the partitions that are ours."""

    def __init__(
        self, reading: Reading, fetch: Callable[..., Any], held: Container[TopicPartition]
    ) -> None:
        self.reading = reading
        self.fetch = fetch
        self.held = held
        self.records: list[Record] = []
        self.items: Taken | None = None

    def step(self) -> Program[None]:
        """Fetch what is there already; the next time, take it in."""
        if self.records:
            self.items = self.items or take_in(self.reading, self.records)
            return
        settings = self.reading.settings
        try:
            records = yield self.fetch, (settings.batch_max, settings.batch_bytes_max, 0.0)
        except Exception:  # the batch has nothing to do with it; the next fetch says it again
            logger.debug("fetching ahead failed", exc_info=True)
            return
        self.records = [r for r in records if (r.topic, r.partition) in self.held]

    def take(self) -> tuple[list[Record], Taken | None]:
        """What is there, once."""
        found = self.records, self.items
        self.drop()
        return found

    def drop(self) -> None:
        """The reader begins anew, so what it brought will come again."""
        self.records, self.items = [], None
