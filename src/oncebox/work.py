"""What runs: programs in threads or tasks of one process, until they are told to stop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine

from .connect import open_log
from .ports import Log
from .program import Program, drive, drive_async

logger = logging.getLogger("oncebox")

STOP_S = 20.0
"""How long a graceful stop waits for the batches that are running."""


class Running:
    """Relays and consumers that run. `failed` holds the first error that ended one of them."""

    def __init__(self) -> None:
        self.failed: BaseException | None = None
        self.ended = asyncio.Event()
        self._stop = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._threads: list[threading.Thread] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._wakes: list[Callable[[], None]] = []
        self._logs: dict[str, Log] = {}

    def log(self, url: str) -> Log:
        """One connection per log URL and process."""
        if url not in self._logs:
            self._logs[url] = open_log(url)
        return self._logs[url]

    def stopping(self) -> bool:
        return self._stop.is_set()

    def sleep(self, seconds: float) -> None:
        """Sleep in a thread; a stop ends it."""
        self._stop.wait(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Sleep in a task, in slices, so that a stop ends it."""
        until = time.monotonic() + seconds
        while not self._stop.is_set() and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.05))

    def sleeper(
        self, *, asynchronous: bool
    ) -> Callable[[float], Coroutine[object, object, None] | None]:
        """How programs of this kind wait."""
        return self.sleep_async if asynchronous else self.sleep

    def on_stop(self, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)

    def start(self, name: str, make: Callable[[], Program[None]], *, asynchronous: bool) -> None:
        """Run a program until it ends; an error of it stops everything."""
        if asynchronous:
            self._tasks.append(asyncio.create_task(self._guarded_async(name, make), name=name))
            return
        thread = threading.Thread(target=self._guarded, args=(name, make), name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _guarded(self, name: str, make: Callable[[], Program[None]]) -> None:
        try:
            drive(make())
        except BaseException as error:  # reported to the owner, who stops
            self._loop.call_soon_threadsafe(self._fail, name, error)

    async def _guarded_async(self, name: str, make: Callable[[], Program[None]]) -> None:
        try:
            await drive_async(make())
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # reported to the owner, who stops
            self._fail(name, error)

    def _fail(self, name: str, error: BaseException) -> None:
        logger.critical("%s ended: %s", name, error, exc_info=error)
        self.failed = self.failed or error
        self.ended.set()

    async def stop(self, timeout_s: float = STOP_S) -> None:
        """Finish running batches, give partitions back, close. Nothing is lost if it is cut."""
        self._stop.set()
        for wake in self._wakes:
            wake()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            await asyncio.to_thread(thread.join, max(0.0, deadline - time.monotonic()))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.0, deadline - time.monotonic()))
            for task in self._tasks:
                task.cancel()
        alive = [thread.name for thread in self._threads if thread.is_alive()]
        if alive:
            logger.warning("still running after %.0f s: %s", timeout_s, ", ".join(alive))
            return
        for log in self._logs.values():
            log.close()
