"""Commands that go on until they are stopped: run, relay."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import signal
import time
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Group, Parameter

from ..consumer.reading import Settings
from ..endpoints import serving
from ..errors import ConfigurationError, Unreachable
from ..service.config import SOURCES, configure, imported, of_the_application, with_settings
from ..service.places import Place, chosen, in_loop, place_of
from ..service.running import check_runnable, running
from ..service.service import Service
from ..service.watching import watch
from ..service.work import STOP_S
from .live import Changes, display
from .options import said
from .output import note, remark
from .tables import bring_up_to_date
from .topics import PARTITIONS

EXIT_INTERRUPTED = 130

OPEN_PAUSE_S = 2.0
"""Between two tries to reach a store whose tables are to be made first."""

GARBAGE_MIN = 50_000
"""A batch makes tens of thousands of objects that live as long as it does. Python's collector would
look through them after every 700 new ones, and take a fifth of the time."""

Services = Annotated[str, said("Services; all of the application if none are named.")]
Migrate = Annotated[bool, said("Bring oncebox's tables up to date first.")]
State = Annotated[str | None, said("MODULE:NAME of what handlers get as context.state.")]
Stop = Annotated[float, said("How many seconds a graceful stop may take.")]
Http = Annotated[
    str | None, said("[HOST:]PORT of /live, /ready, /metrics; or ONCEBOX_HTTP. Off if not said.")
]
Late = Annotated[float | None, said("A loop that did not turn for so many seconds hangs: /live.")]
NoRelay = Annotated[bool, said("Only consume: oncebox relay runs elsewhere, in another role.")]
Lock = Annotated[
    str | None, said("The lock of schemas, or a registry that has some; or oncebox.lock here.")
]
Bounds = Annotated[Settings | None, Parameter(group=Group("Consumer settings", sort_key=9))]


def run(
    *names: Services,
    migrate: Migrate = False,
    state: State = None,
    stop_s: Stop = STOP_S,
    http: Http = None,
    late_s: Late = None,
    no_relay: NoRelay = False,
    lock: Lock = None,
    settings: Bounds = None,
) -> int:
    """Relay and consume, for all services of the application or those named.

    Start it as often as you like: processes share the work, and take over from one
    that dies. Stop it with Ctrl-C or SIGTERM: it finishes what it has begun. A
    second one ends it at once, and nothing is lost either way.

    For example:

        oncebox run --app myapp.services
        oncebox run shop billing --migrate
        oncebox run billing --settings.batch-max 100
        oncebox run --http 9464     # /live, /ready and /metrics, on 127.0.0.1

    What --state names is an object, or a function that returns it; what with can
    enter is entered, and left at the end.
    """
    services = chosen(names)
    if settings is not None:
        for service in services:
            with_settings(service, SOURCES.get(), settings)
    if not any(c.handlers for service in services for c in service.consumers.values()):
        note("no service has a handler, so this only relays")
    make_ready(services, migrate=migrate)
    runs = serve(services, state, stop_s, http, late_s, consume=True, relay=not no_relay, lock=lock)
    return in_loop(runs)


def relay(
    *names: Services,
    migrate: Migrate = False,
    stop_s: Stop = STOP_S,
    http: Http = None,
    lock: Lock = None,
) -> int:
    """Publish what services emitted, and nothing else.

    One relay is active for each service, others stand by. Needs no handlers: with
    --store and --log it needs no application either.

    For example:

        oncebox relay shop
        oncebox relay shop --store postgresql://localhost/shop --log kafka://localhost
    """
    services = _named(names) if names and not SOURCES.get().modules() else chosen(names)
    make_ready(services, migrate=migrate)
    runs = serve(services, None, stop_s, http, None, consume=False, relay=True, lock=lock)
    return in_loop(runs)


def _named(names: tuple[str, ...]) -> list[Service]:
    """Services of which only the configuration knows."""
    services = [Service(name) for name in names]
    for service in services:
        configure(service, SOURCES.get())
    return services


def make_ready(services: Sequence[Service], *, migrate: bool) -> None:
    """Stores and logs are known, and an embedded log has the topics to read. Whether tables fit is
    seen when it runs: a store that is away now is waited for.
    """
    for service in services:
        check_runnable(service)
        place = place_of(service)
        if migrate:
            wait_and_migrate(service.name, place)
        if str(service.log).startswith("sqlite:"):
            with place.open_log() as log:
                for topic in {topic for c in service.consumers.values() for topic in c.streams}:
                    log.create(topic, PARTITIONS)


def wait_and_migrate(name: str, place: Place) -> None:
    """Bring tables up to date, as soon as the store answers."""
    while True:
        try:
            return bring_up_to_date(place)
        except Unreachable as error:
            note(f"{name}: waiting: {error}")
        time.sleep(OPEN_PAUSE_S)


# ---- while it runs


async def serve(
    services: Sequence[Service],
    state: str | None,
    stop_s: float,
    http: str | None,
    late_s: float | None,
    *,
    consume: bool,
    relay: bool,
    lock: str | None,
) -> int:
    """Run services until a signal comes, or one of them ends; the exit code."""
    gc.set_threshold(GARBAGE_MIN)
    stopped = asyncio.Event()
    received: list[int] = []

    def on_signal(number: int) -> None:
        if received:
            os._exit(EXIT_INTERRUPTED)  # asked twice: at once; whatever is open is rolled back
        received.append(number)
        note("stopping; once more ends it at once")
        stopped.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    async with contextlib.AsyncExitStack() as stack:
        value = await _state(stack, state)
        show = stack.enter_context(display())
        runs = running(
            services, state=value, relay=relay, consume=consume, stop_s=stop_s, lock=lock
        )
        async with runs as work:
            watch(work, services, consume=consume, lag=http is not None, told=Changes(show))
            for part in work.parts.values():
                part.late_s = late_s or part.late_s
            if http is not None:
                port = stack.enter_context(serving(http, work))
                remark(f"serving /live, /ready and /metrics on port {port}")
            waits = [asyncio.create_task(event.wait()) for event in (stopped, work.ended)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in waits:
                task.cancel()
    return EXIT_INTERRUPTED if received[:1] == [signal.SIGINT] else 0


async def _state(stack: contextlib.AsyncExitStack, name: str | None) -> Any:
    """What handlers receive as `context.state`."""
    if name is None:
        return None
    value: Any
    value, attribute = imported(name)
    if not attribute:
        raise ConfigurationError(f"--state {name}", expected="MODULE:NAME")
    if inspect.isroutine(value) or inspect.isclass(value):
        with of_the_application(name):
            value = value()
    if inspect.isawaitable(value):
        value = await value
    kind = type(value)
    if hasattr(kind, "__aenter__"):
        return await stack.enter_async_context(value)
    return stack.enter_context(value) if hasattr(kind, "__enter__") else value
