"""What is done to the stage while it plays. Each fault fires for real, and says how that shows."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import psycopg

from engines.postgres import OwnPostgres
from engines.server import ServerFailed

from .stage import Stage, rows

FREEZE_S = 6.0
"""Longer than the lease of what stands still: another takes its work, and it wakes as a zombie."""

STARTS_MAX = 5
"""How often Kafka is started before that is given up."""

BACKENDS = 3
"""Connections that are ended at once."""

END_BACKENDS = f"""
select count(*) filter (where pg_terminate_backend(pid)) from (
  select pid from pg_stat_activity
  where backend_type = 'client backend' and pid <> pg_backend_pid() and query not like '%audited_n%'
  order by random() limit {BACKENDS}) a
"""


class Fired(NamedTuple):
    """A fault that fired: when it began and was over (Unix seconds), and its evidence."""

    kind: str
    began: float
    over: float
    evidence: str


def kill(stage: Stage, name: str) -> str:
    """SIGKILL to one of oncebox's processes; it is started again at once."""
    server = stage.processes[name]
    pid = server.pid
    with stage.struck(name):
        server.end(signal.SIGKILL)
        stage.start(name)
    return f"{name} was process {pid}, is {server.pid}"


def freeze(stage: Stage, name: str) -> str:
    """SIGSTOP for longer than a lease, then SIGCONT."""
    pid = stage.processes[name].pid
    os.kill(pid, signal.SIGSTOP)
    time.sleep(FREEZE_S)
    os.kill(pid, signal.SIGCONT)
    return f"{name}, process {pid}, stood still for {FREEZE_S:g} s"


def restart(stage: Stage, server: OwnPostgres) -> str:
    """PostgreSQL is stopped in immediate mode, as by a loss of power, and started."""
    pid = server.pid
    with stage.away(server):
        server.restart(immediate=True)
    return f"postmaster was {pid}, is {server.pid}"


def end_backends(stage: Stage, server: OwnPostgres) -> str:  # noqa: ARG001
    """Connections are ended by the server."""
    ((count,),) = rows(server.url, END_BACKENDS)
    return f"{count} connections" if count else ""


def restart_kafka(stage: Stage, *, immediate: bool) -> str:
    """Kafka is killed or stopped, and started."""
    pid = stage.kafka.pid
    stage.kafka.stop(immediate=immediate)
    for tries_left in reversed(range(STARTS_MAX)):
        try:
            stage.kafka.start()
            break
        except ServerFailed:  # not within a minute, on a machine that has too much to do
            if not tries_left:
                raise
    return f"broker was {pid}, is {stage.kafka.pid}"


KINDS: dict[str, Callable[[Stage, int], str]] = {
    "relay killed": lambda stage, one: kill(stage, f"bank-{one}"),
    "consumer killed": lambda stage, one: kill(stage, f"replica-{one}"),
    "bank's PostgreSQL restarted": lambda stage, _: restart(stage, stage.bank),
    "bank's connections ended": lambda stage, _: end_backends(stage, stage.bank),
    "replica's PostgreSQL restarted": lambda stage, _: restart(stage, stage.replica),
    "replica's connections ended": lambda stage, _: end_backends(stage, stage.replica),
    "Kafka killed": lambda stage, _: restart_kafka(stage, immediate=True),
    "Kafka restarted": lambda stage, _: restart_kafka(stage, immediate=False),
    "relay frozen": lambda stage, one: freeze(stage, f"bank-{one}"),
    "consumer frozen": lambda stage, one: freeze(stage, f"replica-{one}"),
}


class Faults:
    """A plan of faults, by the share of the transactions at which each is due; one at a time."""

    def __init__(self, count: int, seed: int) -> None:
        rng = random.Random(seed)
        kinds: list[str] = []
        while len(kinds) < count:
            kinds += rng.sample(sorted(KINDS), len(KINDS))
        self.plan = [
            ((i + rng.uniform(0.2, 0.8)) / count, kind, rng.randint(1, 2))
            for i, kind in enumerate(kinds[:count])
        ]
        self.fired: list[Fired] = []
        self.now = ""
        """The fault that is being done."""
        self._hand = ThreadPoolExecutor(1)
        self._doing: Future[str] | None = None
        self._began = 0.0

    @property
    def over(self) -> bool:
        """Whether all of them were tried."""
        return not self.plan and self._doing is None

    def strike(self, stage: Stage, share: float) -> None:
        """Begin what is due. Raises what made a fault fail, which is no fault of oncebox."""
        if self._doing is not None:
            if not self._doing.done():
                return
            evidence = self._doing.result()
            if evidence:  # else there was nobody to hurt
                self.fired.append(Fired(self.now, self._began, time.time(), evidence))
            self.now, self._doing = "", None
        if self.plan and share >= self.plan[0][0]:
            _, self.now, one = self.plan.pop(0)
            self._began = time.time()
            self._doing = self._hand.submit(_do, KINDS[self.now], stage, one)

    def close(self) -> None:
        """Wait for the one that is being done."""
        self._hand.shutdown()


def _do(kind: Callable[[Stage, int], str], stage: Stage, one: int) -> str:
    for _ in range(10):
        try:
            return kind(stage, one)
        except psycopg.OperationalError:  # the server has just started
            time.sleep(0.5)
    return ""
