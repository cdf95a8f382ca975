"""Services at work: their relays and consumers as threads or tasks of one process.

Plain handlers run in a thread of their own consumer; coroutine handlers in the event loop that
entered the block. Each loop is a program; nothing is shared between them but the log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from .connect import open_log
from .consumer import ConsumerLoop
from .errors import ConfigurationError, Unreachable
from .event import new_id
from .gaps import Gaps
from .migrate import check
from .ports import Log
from .program import Program, call, drive, drive_async
from .reading import Reading
from .relay import relay_program
from .service import Consumer, Service
from .session import Store
from .statements import statements
from .stores.adapt import open_store
from .timeouts import limited_async, watch

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


@asynccontextmanager
async def running(
    services: Sequence[Service],
    *,
    state: Any = None,
    relay: bool = True,
    consume: bool = True,
    stop_s: float = STOP_S,
) -> AsyncIterator[Running]:
    """Run the relays and consumers of services for as long as the block lasts; `stop_s` is what
    leaving it may take.
    """
    work = Running()
    holder = f"{socket.gethostname()}:{os.getpid()}:{str(new_id())[-8:]}"
    try:
        for service in services:
            check_runnable(service)
            await check_tables(service)
            if relay:
                start_relay(work, service, holder)
            for consumer in service.consumers.values() if consume else ():
                if consumer.handlers:
                    start_consumer(work, service, consumer, holder, state)
        yield work
    finally:
        await work.stop(stop_s)
    if work.failed is not None:
        raise work.failed


def check_runnable(service: Service) -> None:
    """Raises ConfigurationError for a service without store or log."""
    for setting in ("store", "log"):
        if getattr(service, setting) is None:
            raise ConfigurationError(
                f"service {service.name} has no {setting}",
                expected=f"--{setting} URL, ONCEBOX_{setting.upper()}, or the configuration",
                hint=f'or in code: Service("{service.name}", {setting}="sqlite:///…")',
            )


async def check_tables(service: Service) -> None:
    """Raises MissingTables for tables that are not there, too old or too new, and MissingRight. A
    store that does not answer is waited for by those who use it.
    """
    store = open_store(service.store, service.schema)

    def look() -> Program[None]:
        session = yield from call(store.open)
        try:
            yield from check(session, service.schema)
        finally:
            yield from call(session.close)

    try:
        await (drive_async(look()) if store.asynchronous else asyncio.to_thread(drive, look()))
    except Unreachable as error:
        logger.warning("%s: %s", service.name, error)


def start_relay(work: Running, service: Service, holder: str) -> None:
    """The relay of a service's outbox."""
    assert service.log is not None
    store, log = open_store(service.store, service.schema), work.log(service.log)

    def program() -> Program[None]:
        return relay_program(
            store, log, service.name, holder, stopping=work.stopping, sleep=sleeper(work, store)
        )

    work.start(f"relay:{service.name}", program, asynchronous=store.asynchronous)


def start_consumer(
    work: Running, service: Service, consumer: Consumer, holder: str, state: Any
) -> None:
    """One consumer's loop, in a thread or as a task, as its handlers are."""
    assert service.log is not None
    log, store = work.log(service.log), consumer_store(service, consumer)

    def program() -> Program[None]:
        loop = yield from consumer_loop(
            service, consumer, store, log, holder, state,
            stopping=work.stopping, sleep=sleeper(work, store),
        )  # fmt: skip
        work.on_stop(loop.reader.wake)
        yield from loop.run()

    work.start(f"consumer:{consumer.name}", program, asynchronous=store.asynchronous)


def consumer_store(service: Service, consumer: Consumer) -> Store:
    """Where a consumer works. Raises ConfigurationError if it does not fit its handlers."""
    store = open_store(service.store, service.schema, asynchronous=consumer.asynchronous)
    if consumer.asynchronous and not store.asynchronous:
        raise ConfigurationError(
            f"{consumer.name} has coroutine handlers on a synchronous store",
            hint="pass an AsyncEngine, an asynchronous pool, or a URL",
        )
    if not consumer.asynchronous and store.asynchronous:
        raise ConfigurationError(
            f"{consumer.name} has plain handlers on an asynchronous store",
            hint="make the handlers coroutine functions, or pass a URL",
        )
    return store


def consumer_loop(
    service: Service,
    consumer: Consumer,
    store: Store,
    log: Log,
    holder: str,
    state: Any,
    *,
    stopping: Callable[[], bool],
    sleep: Callable[[float], Awaitable[None] | None],
    fetch_wait_s: float | None = None,
) -> Program[ConsumerLoop]:
    """The loop of a consumer, with a session of its own."""
    session = yield from call(store.open)
    settings = consumer.settings
    if fetch_wait_s is not None:
        settings = replace(settings, fetch_wait_s=fetch_wait_s)
    limited = limited_async if consumer.asynchronous else watch.limited
    limit_s = consumer.settings.handler_timeout_s
    reading = Reading(
        consumer=consumer.name,
        session=session,
        sql=statements(store.dialect, service.schema),
        handlers={
            type: handler._replace(function=limited(handler.function, limit_s))
            for type, handler in consumer.handlers.items()
        },
        topics=consumer.streams,
        settings=settings,
        now_ms=lambda: time.time_ns() // 1_000_000,
        trouble=store.trouble,
        state=state,
    )

    def fetch(reader: Any) -> Callable[..., Any]:
        return partial(asyncio.to_thread, reader.fetch) if store.asynchronous else reader.fetch

    sources = {
        source: open_store(other, service.schema, asynchronous=store.asynchronous)
        for source, other in service.sources.items()
    }
    return ConsumerLoop(
        reading,
        store,
        log,
        holder,
        stopping=stopping,
        sleep=sleep,
        fetch=fetch,
        gaps=Gaps(reading, sources) if sources else None,
    )


def sleeper(work: Running, store: Store) -> Callable[[float], Coroutine[Any, Any, None] | None]:
    """How programs on this store wait."""
    return work.sleep_async if store.asynchronous else work.sleep
