"""Statements that travel together: psycopg's pipelines, which send each by itself, made to wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

TOGETHER_MAX = 32
"""Statements of handlers that travel together: to send one takes about as long as to make it."""


if TYPE_CHECKING:
    from psycopg._pipeline_base import BasePipeline
else:
    BasePipeline = object


class Gathering(BasePipeline):
    """A pipeline that puts TOGETHER_MAX statements on the network at once, or all that there are
    when somebody waits for an answer; the driver's own sends each by itself, and waits for the
    answer to BEGIN. `asks`: nothing is sent now, libpq's `flush` will.

    Its methods have no public names: see `GATHERS`.
    """

    asks = False
    _count = 0
    _synced = False

    def _enqueue_sync(self) -> None:
        super()._enqueue_sync()
        self._synced = True

    def _sync_gen(self) -> Any:
        return () if self.asks else super()._sync_gen()

    def _communicate_gen(self) -> Any:
        while self.command_queue:
            self.command_queue.popleft()()  # into libpq's buffer
            self._count += 1
        if self.asks or self._synced or self._count < TOGETHER_MAX:
            return ()
        self._count = 0
        return super()._communicate_gen()

    def _fetch_gen(self, *, flush: bool) -> Any:
        if self._synced:  # and so it is answered without being asked to
            flush, self._synced = self.pgconn.flush() != 0, False
        self._count = 0
        return super()._fetch_gen(flush=flush)


GATHERS = all(
    hasattr(psycopg.Pipeline, n) for n in vars(Gathering) if n.endswith(("_gen", "_sync"))
)
"""Whether the driver has the methods that `Gathering` replaces; else it sends each by itself."""


class PlainGathering(Gathering, psycopg.Pipeline):
    """Of a connection."""


class AsyncGathering(Gathering, psycopg.AsyncPipeline):
    """Of an asynchronous one."""


def gather(pipeline: Any) -> None:
    """Have a pipeline of psycopg's gather from now on."""
    if GATHERS:
        plain = isinstance(pipeline, psycopg.Pipeline)
        pipeline.__class__ = PlainGathering if plain else AsyncGathering
