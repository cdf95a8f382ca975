"""What runs: programs in threads or tasks of one process, until they are told to stop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import OnceboxError
from ..ports import Log
from ..program import Program, drive, drive_async
from ..telemetry.lines import speaking
from ..telemetry.tally import CountedLog, Histogram
from .connect import open_log

if TYPE_CHECKING:
    from ..consumer.loop import ConsumerLoop
    from ..relay import Relay
    from .service import Service
    from .watching import Seen

logger = logging.getLogger("oncebox")

STOP_S = 20.0
"""How long a graceful stop waits for the batches that are running."""


HANGS_S = 60.0
"""How long a loop may take for a turn beside what its handlers may, until it counts as hung."""


@dataclass
class Part:
    """A loop that runs, as those see it who watch. `late_s`: it hangs when it has not turned for so
    long; `turned`: when it did last, by the monotonic clock. `handlers`: times by event type.
    """

    service: Service
    name: str
    late_s: float = HANGS_S
    turned: float = field(default_factory=time.monotonic)
    loop: ConsumerLoop | Relay | None = None
    log: CountedLog | None = None
    handlers: dict[str, Histogram] = field(default_factory=dict)

    def noting(self, stopping: Callable[[], bool]) -> Callable[[], bool]:
        """`stopping`, which every loop asks at every turn: so it is known when it did last."""

        def asked() -> bool:
            self.turned = time.monotonic()
            return stopping()

        return asked


class Running:
    """Relays and consumers that run. `failed` holds the first error that ended one of them."""

    def __init__(self) -> None:
        self.services: list[Service] = []
        self.parts: dict[str, Part] = {}
        self.seen: dict[str, Seen] = {}
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

    def part(self, service: Service, kind: str, name: str) -> Part:
        """A loop that is about to run: `consumer` or `relay`, and whose."""
        part = self.parts[f"{kind}:{name}"] = Part(service, name)
        return part

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
        speaking.set(name)
        try:
            drive(make())
        except BaseException as error:  # reported to the owner, who stops
            self._loop.call_soon_threadsafe(self._fail, name, error)

    async def _guarded_async(self, name: str, make: Callable[[], Program[None]]) -> None:
        speaking.set(name)
        try:
            await drive_async(make())
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # reported to the owner, who stops
            self._fail(name, error)

    def _fail(self, name: str, error: BaseException) -> None:
        explained = isinstance(error, OnceboxError) and error.exit_code != 1
        logger.critical("%s ended: %s", name, error, exc_info=None if explained else error)
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
