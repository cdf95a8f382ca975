"""Services at work: their relays and consumers as threads or tasks of one process.

Plain handlers run in a thread of their own consumer; coroutine handlers in the event loop that
entered the block. Each loop is a program; nothing is shared between them but the log.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

from ..codecs.events import event_codec
from ..consumer.abreast import AbreastLoop
from ..consumer.gaps import Gaps
from ..consumer.loop import OUTAGE_PAUSE_MAX_S, OUTAGE_PAUSE_S, ConsumerLoop
from ..consumer.reading import EVERY, Handler, Reading
from ..consumer.timeouts import limited_aside, limited_async, watch
from ..errors import ConfigurationError, MissingRight, Unreachable
from ..event import new_id
from ..lens.chain import declared
from ..lens.file import use_lock
from ..operate.desk import at_store, now_ms
from ..ports import Log
from ..program import Program, T, call, drive, drive_async
from ..relay import Relay, RelaySettings
from ..session import Session, Store
from ..statements import statements
from ..stores.adapt import open_store
from ..tables.migrate import check
from ..telemetry.spans import processed, tracing
from ..telemetry.tally import SECONDS, CountedLog, Histogram, timed
from .service import Consumer, Service
from .work import HANGS_S, STOP_S, Part, Running

logger = logging.getLogger("oncebox")

READY_S = 5.0
"""How long a relay's log may take to publish nothing."""


@asynccontextmanager
async def running(
    services: Sequence[Service],
    *,
    state: Any = None,
    relay: bool = True,
    consume: bool = True,
    stop_s: float = STOP_S,
    lock: str | None = None,
) -> AsyncIterator[Running]:
    """Run the relays and consumers of services for as long as the block lasts; `stop_s` is what
    leaving it may take, `lock` the path of `oncebox.lock` if it is not here, or the URL of a
    registry that has locks. Raises SchemaError for versions that nothing joins.
    """
    with ExitStack() as stack:
        if lock is not None and lock.startswith(("http://", "https://")):
            from ..registry.locks import shared_lenses

            stack.enter_context(shared_lenses(lock))
        else:
            use_lock(lock)
        async with _running(services, state, relay, consume, stop_s) as work:
            yield work


@asynccontextmanager
async def _running(
    services: Sequence[Service], state: Any, relay: bool, consume: bool, stop_s: float
) -> AsyncIterator[Running]:
    work = Running()
    holder = f"{socket.gethostname()}:{os.getpid()}:{str(new_id())[-8:]}"
    try:
        for service in services:
            check_runnable(service)
            check_versions(service)
            await check_tables(service)
            work.services.append(service)
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


def check_versions(service: Service) -> None:
    """Raises SchemaError for classes that are not what the lock says, and for lenses that do not
    lead from each version to the next and back; MissingDependency without a format's library.
    """
    for consumer in service.consumers.values():
        for handler in consumer.handlers.values():
            if handler.type.stream not in consumer.foreign and handler.type.type != EVERY:
                declared.check_class(handler.type.cls)
                if handler.type.format != "json":
                    event_codec(handler.type)  # without its library each event would be parked
    for copies in service.copies.values():
        for type in copies.versions:
            declared.check(type)


async def check_tables(service: Service) -> None:
    """Raises MissingTables for tables that are not there, too old or too new, and MissingRight. A
    store that does not answer is waited for by those who use it, and they look again.
    """
    store = open_store(service.store, service.schema)
    look = fitting(store)
    with suppress(Unreachable):  # each loop says that it waits
        await (drive_async(look) if store.asynchronous else asyncio.to_thread(drive, look))


def fitting(store: Store) -> Program[None]:
    """Raises MissingTables unless the tables of a store are those of this code."""
    return at_store(store, partial(check, schema=store.schema))


def start_relay(work: Running, service: Service, holder: str) -> None:
    """The relay of a service's outbox."""
    assert service.log is not None
    store = open_store(service.store, service.schema)
    plain = work.log(service.log)
    log = CountedLog(plain, system_of(service.log))
    part, settings = work.part(service, "relay", service.name), relay_settings(service)
    part.log, part.late_s = log, HANGS_S + 2 * settings.publish_timeout_s
    sleep = work.sleeper(asynchronous=store.asynchronous)
    relay = part.loop = Relay(store, log, service.name, holder, settings, time.time, sleep)

    def program() -> Program[None]:
        stopping = part.noting(work.stopping)
        try:
            yield from waited(partial(fitting, store), f"relay:{service.name}", stopping, sleep)
            yield from relay.ask_log(get_ready, plain)
            yield from relay.run(stopping)
        except Unreachable:
            if not stopping():
                raise
        except MissingRight as error:
            error.hint = f"{error.hint}; or only consume: oncebox run --no-relay, relay=False"
            raise

    work.start(f"relay:{service.name}", program, asynchronous=store.asynchronous)


def get_ready(log: Log) -> None:
    """Publish nothing, so that the log's client is there before the first event, and before this
    relay takes over from another: Kafka's takes up to a second to be given its number.
    """
    try:
        log.publish((), READY_S)
    except Exception:  # the first event will say it again
        logger.debug("the log was not ready", exc_info=True)


def relay_settings(service: Service) -> RelaySettings:
    """What a service's relay does beside publishing its events."""
    return RelaySettings(copies=tuple(service.copies.values()))


def start_consumer(
    work: Running, service: Service, consumer: Consumer, holder: str, state: Any
) -> None:
    """One consumer's loop, in a thread or as a task, as its handlers are."""
    assert service.log is not None
    log, store = work.log(service.log), consumer_store(service, consumer)
    part, settings = work.part(service, "consumer", consumer.name), consumer.settings
    part.late_s = HANGS_S + settings.handler_timeout_s + settings.batch_time_s

    def program() -> Program[None]:
        stopping = part.noting(work.stopping)
        sleep = work.sleeper(asynchronous=store.asynchronous)
        try:
            yield from waited(partial(fitting, store), consumer.name, stopping, sleep)
            loop = part.loop = yield from consumer_loop(
                service, consumer, store, log, holder, state, part,
                stopping=stopping, sleep=sleep,
            )  # fmt: skip
        except Unreachable:
            if work.stopping():
                return  # it waited for its store, and has begun nothing
            raise
        work.on_stop(loop.reader.wake)
        yield from loop.run()

    work.start(f"consumer:{consumer.name}", program, asynchronous=store.asynchronous)


def consumer_store(service: Service, consumer: Consumer) -> Store:
    """Where a consumer works. Raises ConfigurationError if it does not fit its handlers."""
    store = open_store(service.store, service.schema, asynchronous=consumer.asynchronous)
    if consumer.asynchronous != store.asynchronous:
        kinds = ("synchronous", "asynchronous")
        raise ConfigurationError(
            f"{consumer.name} has {kinds[consumer.asynchronous]} handlers on a store that is"
            f" {kinds[store.asynchronous]}",
            hint="make all handlers coroutine functions or none, or pass a URL, which serves both",
        )
    return store


def consumer_loop(
    service: Service,
    consumer: Consumer,
    store: Store,
    log: Log,
    holder: str,
    state: Any,
    part: Part | None = None,
    *,
    stopping: Callable[[], bool],
    sleep: Callable[[float], Awaitable[None] | None],
) -> Program[ConsumerLoop]:
    """The loop of a consumer, with a session of its own; `part` gets its handlers' times."""
    session = yield from waited(partial(call, store.open), consumer.name, stopping, sleep)
    reading = reading_of(service, consumer, store, session, state)
    limited = limited_async if consumer.asynchronous else watch.limited
    limit_s = consumer.settings.handler_timeout_s
    effects = limited_async if consumer.asynchronous else limited_aside
    reading.limited = partial(effects, timeout_s=limit_s)
    reading.handlers = {
        type: handler._replace(function=limited(handler.function, limit_s))
        for type, handler in consumer.handlers.items()
    }
    if part is not None:
        for type, handler in reading.handlers.items():
            seconds = part.handlers[type] = Histogram(SECONDS)
            reading.handlers[type] = handler._replace(function=timed(handler.function, seconds))
    if tracing():
        reading.handlers = {
            type: traced(handler, system_of(service.log), consumer.name)
            for type, handler in reading.handlers.items()
        }

    def fetch(reader: Any) -> Callable[..., Any]:
        return partial(asyncio.to_thread, reader.fetch) if store.asynchronous else reader.fetch

    sources = {
        source: open_store(other, service.schema, asynchronous=store.asynchronous)
        for source, other in service.sources.items()
    }
    gaps = Gaps(reading, sources) if sources else None
    kind = AbreastLoop if is_concurrent(consumer, store) else ConsumerLoop
    return kind(reading, store, log, holder, stopping=stopping, sleep=sleep, fetch=fetch, gaps=gaps)


def is_concurrent(consumer: Consumer, store: Store) -> bool:
    """Whether events are handled side by side. Raises ConfigurationError if they cannot be."""
    if consumer.settings.concurrency < 2:
        return False
    listed = [handler.name for handler in consumer.handlers.values() if handler.listed]
    if listed:
        raise ConfigurationError(
            f"{consumer.name} has concurrency and a batch handler: {listed[0]}",
            expected="each event in a transaction of its own, or lists of them",
            hint='give the batch handler a consumer of its own: service.consumer("projection")',
        )
    if store.dialect == "sqlite":
        logger.info(
            "%s: SQLite has one writer, so its events are handled one by one", consumer.name
        )
        return False
    return True


def waited(
    make: Callable[[], Program[T]],
    name: str,
    stopping: Callable[[], bool],
    sleep: Callable[[float], Awaitable[None] | None],
) -> Program[T]:
    """What a program gives once its store answers. Raises Unreachable if it is to stop before."""
    pause_s = OUTAGE_PAUSE_S
    while True:
        try:
            return (yield from make())
        except Unreachable as error:
            if stopping():
                raise
            logger.warning("%s: waiting: %s", name, error)
        yield from call(sleep, pause_s)
        pause_s = min(pause_s * 2, OUTAGE_PAUSE_MAX_S)


def traced(handler: Handler, system: str, consumer: str) -> Handler:
    """A handler inside spans; they need to know its events, so it is given contexts."""
    function = processed(handler.function, system, consumer, with_context=handler.with_context)
    # A list has one span, with links to those that are traced.
    untraced = None if handler.listed else handler
    return handler._replace(function=function, with_context=True, untraced=untraced)


def system_of(log: str | None) -> str:
    """What OpenTelemetry calls the kind of log behind a URL; the embedded one has no name there."""
    return "kafka" if str(log).startswith("kafka:") else "oncebox"


def reading_of(
    service: Service, consumer: Consumer, store: Store, session: Session, state: Any
) -> Reading:
    """What a consumer holds while it reads, by the real clock."""
    return Reading(
        consumer=consumer.name,
        session=session,
        sql=statements(store.dialect, service.schema),
        handlers=consumer.handlers,
        topics=consumer.streams,
        settings=consumer.settings,
        now_ms=now_ms,
        state=state,
        foreign=consumer.foreign,
    )
