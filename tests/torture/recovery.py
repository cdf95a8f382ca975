"""How long effects stand still when the process that makes them is killed, and another takes over."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from .stage import Stage, TortureFailed

WAIT_S = 60.0
POLL_S = 0.05
SETTLED_S = 5.0
"""How long all have to run undisturbed before one of them is killed."""


def recoveries(stage: Stage) -> dict[str, float]:
    """Seconds from SIGKILL of the active relay until something emitted after it takes effect; of a
    consumer until each of its partitions moves on. A standby runs, and the dead one is not started
    again meanwhile.
    """
    return {"relay": relay(stage), "consumer": consumer(stage)}


def relay(stage: Stage) -> float:
    """The only active relay of the shop dies; the other one takes over."""
    role, _ = active(stage, "shop", "relay:shop")
    ((since,),) = stage.databases.ask("shop", "select clock_timestamp()")

    def goes_on() -> bool:
        made = stage.databases.ask("shop", "select account, n from made where at > %s", since)
        had = stage.databases.ask("stock", "select account, n from effect where at > %s", since)
        return not set(made).isdisjoint(had)

    return killed(stage, role, goes_on)


def consumer(stage: Stage) -> float:
    """One of two consumers of a name dies; the other one takes its partitions."""
    role, pid = active(stage, "stock", "stock")
    before = {
        place: int(position or 0)
        for place, (holder, _, position) in stage.holders("stock", "stock").items()
        if holder == pid
    }

    def goes_on() -> bool:
        now = stage.holders("stock", "stock")
        return all(
            now[place][0] != pid and int(now[place][2] or 0) > at for place, at in before.items()
        )

    return killed(stage, role, goes_on)


def active(stage: Stage, service: str, reader: str) -> tuple[str, int]:
    """A process that holds a cursor of a reader, once all have run undisturbed for a while."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        stage.look_after()
        pids = {process.pid: role for role, process in stage.processes.items()}
        if all(stage.is_up(role, SETTLED_S) for role in stage.processes):
            for pid, _, _ in stage.holders(service, reader).values():
                if pid in pids:
                    return pids[pid], pid
        time.sleep(POLL_S)
    raise TortureFailed(f"nobody holds a cursor of {reader}: {stage.holders(service, reader)}")


def killed(stage: Stage, role: str, goes_on: Callable[[], bool]) -> float:
    """Kill a process; seconds until what it did goes on."""
    stage.resting.add(role)
    stage.signal(role, signal.SIGKILL)
    begun = time.monotonic()
    while not goes_on():
        stage.look_after()
        if time.monotonic() > begun + WAIT_S:
            raise TortureFailed(f"{role} was killed, and nobody goes on with its work")
        time.sleep(POLL_S)
    seconds = time.monotonic() - begun
    stage.look_after()
    stage.resting.discard(role)
    stage.start(role)
    return round(seconds, 2)
