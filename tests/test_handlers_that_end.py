"""Handlers and effects that raise what is meant for a process or a task, and not for one event."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from chains import Paid, World
from oncebox.consumer.suspects import DEADLY, DEATHS_MAX, TAKEOVERS_MAX
from oncebox.consumer.timeouts import limited_async, watch
from oncebox.context import Context
from oncebox.errors import HandlerBroke
from oncebox.program import drive
from operating import only
from producing import await_true
from test_abreast import Running


def test_a_handler_that_ends_its_process_holds_its_key_and_no_other(world: World) -> None:
    """Each owner ended, gave its partitions back, and nobody counted that as a death."""

    def pay(tx: Any, paid: Paid) -> None:
        world.record(tx, paid.order, paid.cents)
        if paid.order == "a":
            sys.exit("no account")

    world.consumer.on(Paid)(watch.limited(pay, 10.0))
    world.deliver(*world.producer.paid("a", 1), *world.producer.paid("b", 10))
    world.settle()
    assert world.ledger() == [("b", 10)]
    assert "raised SystemExit" in world.parked()["a"][1]


def test_what_ends_each_owner_is_found_however_they_end(world: World) -> None:
    """They gave their partitions back as they ended, and so nobody had died there."""

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if paid.order == "a":
            raise SystemExit
        world.record(tx, paid.order, paid.cents)

    world.deliver(*world.producer.paid("a", 1), *world.producer.paid("b", 10))
    for life in range(TAKEOVERS_MAX + DEATHS_MAX + 1):
        world.rows("UPDATE oncebox.cursor SET lease_until = 0 RETURNING 1")
        loop = world.loop(f"life {life}")
        loop.stopping = lambda: bool(world.ledger())
        with suppress(SystemExit):
            drive(loop.run())
    assert world.ledger() == [("b", 10)]
    assert DEADLY in world.parked()["a"][1]
    assert world.rows("SELECT holder FROM oncebox.cursor") == [(None,)]


async def test_a_coroutine_that_waited_for_a_cancelled_task_has_failed() -> None:
    """The consumer's own task ended by that, and nobody was told."""

    async def pays() -> None:
        waited_for = asyncio.ensure_future(asyncio.sleep(60))
        waited_for.cancel()
        await waited_for

    with pytest.raises(HandlerBroke, match="raised CancelledError"):
        await limited_async(pays, 10.0)()
    consuming = asyncio.ensure_future(limited_async(partial(asyncio.sleep, 60), 10.0)())
    await asyncio.sleep(0)
    consuming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consuming


@only("postgres")
def test_a_worker_that_ends_ends_its_consumer(world: World) -> None:
    """Its event was never decided, no position moved, and the consumer looked alive."""

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid, context: Context[None]) -> None:
        context.once("charge", sys.exit)

    world.deliver(*world.producer.paid("a", 1))
    work = Running(world, "one", 2)
    await_true(lambda: work.failure is not None, "the consumer to end")
    assert isinstance(work.failure, SystemExit)
    work.thread.join()
