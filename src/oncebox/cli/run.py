"""Commands that go on until they are stopped: run, relay."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from ..config import imported, with_settings
from ..errors import ConfigurationError
from ..reading import Settings
from .common import NO_OPTIONS, SOURCES, Flag, Options, chosen, log_to_stderr
from .output import note

if TYPE_CHECKING:
    from ..service import Service

STOP_S = 20.0
EXIT_INTERRUPTED = 130

Given = Annotated[Settings | None, Parameter(group=Group("Consumer settings", sort_key=9))]


def run(
    *names: str,
    migrate: Flag = False,
    state: str | None = None,
    stop_s: float = STOP_S,
    settings: Given = None,
    options: Options = NO_OPTIONS,
) -> int:
    """Relay and consume, for all services of the application or those named.

    Start it as often as you like: processes share the work, and take over from one that dies.
    Stop it with Ctrl-C or SIGTERM: it finishes what it has begun. A second one ends it at once,
    and nothing is lost either way.

    For example:

        oncebox run --app myapp.services
        oncebox run shop billing --migrate
        oncebox run billing --settings.batch-max 100

    Parameters
    ----------
    names:
        Services; all of the application if none are named.
    migrate:
        Bring oncebox's tables up to date first.
    state:
        MODULE:NAME of what handlers receive as `context.state`: an object, or a function that
        returns it. What can be entered by `with` is entered, and left at the end.
    stop_s:
        How many seconds a graceful stop may take.
    settings:
        Bounds of the consumers.
    """
    services = _ready(options, names, migrate=migrate)
    if settings is not None:
        for service in services:
            with_settings(service, SOURCES.get(), settings)
    if not any(c.handlers for service in services for c in service.consumers.values()):
        note("no service has a handler, so this only relays")
    return asyncio.run(_serve(services, options, state, stop_s, consume=True))


def relay(
    *names: str,
    migrate: Flag = False,
    stop_s: float = STOP_S,
    options: Options = NO_OPTIONS,
) -> int:
    """Publish what services emitted, and nothing else.

    One relay is active for each service, others stand by. Needs no handlers: with --store and
    --log it needs no application either.

    For example:

        oncebox relay shop
        oncebox relay shop --store postgresql://localhost/shop --log kafka://localhost:9092

    Parameters
    ----------
    names:
        Services; all of the application if none are named.
    migrate:
        Bring oncebox's tables up to date first.
    stop_s:
        How many seconds a graceful stop may take.
    """
    services = _ready(options, names, migrate=migrate, relay_only=True)
    return asyncio.run(_serve(services, options, None, stop_s, consume=False))


def _ready(
    options: Options, names: tuple[str, ...], *, migrate: bool, relay_only: bool = False
) -> list[Service]:
    """The services that were asked for, with stores, tables and topics to work on."""
    from .tables import check_or_migrate
    from .topics import prepare

    log_to_stderr(options, logging.WARNING)
    services = _named(names) if relay_only and names and not options.app else None
    services = services or chosen(options, names)
    for service in services:
        for field in ("store", "log"):
            if getattr(service, field) is None:
                raise ConfigurationError(
                    f"service {service.name} has no {field}",
                    expected=f"--{field} URL, ONCEBOX_{field.upper()}, or the configuration",
                )
    for service in services:
        check_or_migrate(service, migrate=migrate)
        prepare(service)
    return services


def _named(names: tuple[str, ...]) -> list[Service]:
    """Services of which only the configuration knows."""
    from ..config import configure
    from ..service import Service

    services = [Service(name) for name in names]
    for service in services:
        configure(service, SOURCES.get())
    return services


# ---- while it runs


async def _serve(
    services: Sequence[Service],
    options: Options,
    state: str | None,
    stop_s: float,
    *,
    consume: bool,
) -> int:
    from ..running import running
    from .live import watch

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
        block = running(services, state=value, consume=consume, stop_s=stop_s)
        async with block as work:
            watching = asyncio.create_task(watch(services, options, consume=consume))
            waits = [asyncio.create_task(event.wait()) for event in (stopped, work.ended)]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in (watching, *waits):
                task.cancel()
            await asyncio.gather(watching, *waits, return_exceptions=True)
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
        value = value()
    if inspect.isawaitable(value):
        value = await value
    kind = type(value)
    if hasattr(kind, "__aenter__"):
        return await stack.enter_async_context(value)
    return stack.enter_context(value) if hasattr(kind, "__enter__") else value
