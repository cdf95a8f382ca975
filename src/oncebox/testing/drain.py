"""Run services until nothing is left to do: the real relays and consumers, turn by turn.

    billing.emit(tx, …); tx.commit()
    assert drain(shop, billing) == []

What is left is what waits: keys that failed, miss an event or wait for another key, each with the
reason. Tables must be there, and the services' logs must be their own, since everything in them is
read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..consumer.loop import ConsumerLoop
from ..errors import Unreachable
from ..operate.desk import Desk
from ..operate.waiting import Waiting, Where, waiting
from ..ports import Log
from ..program import Program, drive, drive_async
from ..relay import Relay
from ..service.connect import open_log
from ..service.running import (
    check_runnable,
    check_versions,
    consumer_loop,
    consumer_store,
    relay_settings,
)
from ..service.service import Service
from ..stores.adapt import open_store

FETCH_WAIT_S = 0.05
HOLDER = "drain"


def drain(*services: Service, state: Any = None, timeout_s: float = 30.0) -> list[Waiting]:
    """Publish what the services have emitted, and run their plain handlers, until all is quiet.

    Returns the keys that wait, empty if everything was done. Raises TimeoutError, and what ends a
    relay or a consumer. `state` is what handlers get as `context.state`.
    """
    return drive(_drain(services, state, timeout_s, time.sleep))


async def drain_async(
    *services: Service, state: Any = None, timeout_s: float = 30.0
) -> list[Waiting]:
    """The same for coroutine handlers."""
    return await drive_async(_drain(services, state, timeout_s, asyncio.sleep))


def _drain(
    services: Sequence[Service], state: Any, timeout_s: float, sleep: Any
) -> Program[list[Waiting]]:
    logs: dict[str, Log] = {}
    relays: list[Relay] = []
    loops: list[ConsumerLoop] = []
    try:
        for service in services:
            check_runnable(service)
            check_versions(service)
            assert service.log is not None
            log = logs.setdefault(service.log, open_log(service.log))
            store = open_store(service.store, service.schema)
            relays.append(
                Relay(store, log, service.name, HOLDER, relay_settings(service), time.time, sleep)
            )
            for consumer in service.consumers.values():
                if consumer.handlers:
                    loop = yield from consumer_loop(
                        service, consumer, consumer_store(service, consumer), log, HOLDER, state,
                        stopping=lambda: False, sleep=sleep,
                    )  # fmt: skip
                    settings = loop.reading.settings
                    loop.reading.settings = replace(settings, fetch_wait_s=FETCH_WAIT_S)
                    loops.append(loop)
        yield from _until_quiet(relays, loops, timeout_s)
        left: list[Waiting] = []
        for loop in loops:
            left += yield from _waiting(loop)
        return left
    finally:
        for relay in relays:
            yield from relay.run(lambda: True)
        for loop in loops:
            yield from loop.leave()
        for log in logs.values():
            log.close()


def _until_quiet(
    relays: Sequence[Relay], loops: Sequence[ConsumerLoop], timeout_s: float
) -> Program[None]:
    deadline, busy = time.monotonic() + timeout_s, True
    while busy:
        busy = False
        for relay in relays:
            busy |= yield from relay.turn()
        for loop in () if busy else loops:  # published first, so that topics are there
            loop.next_upkeep_ms = loop.next_describe_ms = 0
            try:
                busy |= yield from loop.turn()
            except Unreachable as error:  # as a broker that has just started, for a moment
                yield from loop.outage(error)
                busy = True
            busy |= _behind(loop)
        if busy and time.monotonic() > deadline:
            raise TimeoutError(f"not quiet after {timeout_s:g} s")


def _behind(loop: ConsumerLoop) -> bool:
    """Whether a partition has more to read."""
    for (topic, partition), held in loop.held.items():
        if int(held.position or 0) < loop.log.extents(topic)[partition].end:
            return not loop.paused
    return False


def _waiting(loop: ConsumerLoop) -> Program[list[Waiting]]:
    reading = loop.reading
    desk = Desk(reading.consumer, reading.session, reading.sql, reading.now_ms)
    page = yield from loop.transact(waiting(desk, Where()))
    return page.found
