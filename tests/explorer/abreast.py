"""Worlds of `concurrency`: a process is a loop and its workers, who live and die together."""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from oncebox.consumer.abreast import AbreastLoop
from oncebox.consumer.lanes import Job
from oncebox.consumer.loop import ConsumerLoop
from oncebox.explorer import Actor, Blocked, Run
from oncebox.explorer.run import unwind
from oncebox.program import Program

from .shop import QUICK, Shop
from .worlds import AtWork, Failing, Rivals

WORKERS = 2
ABREAST = replace(QUICK, concurrency=WORKERS, attempts_max=4)


class Mates:
    """The workers of a process, as actors."""

    lock: AbstractContextManager[object, None] = nullcontext()

    def __init__(self, run: Run, process: str) -> None:
        self.run = run
        self.process = process
        self.jobs: deque[Job] = deque()
        self.stopped = False

    def start(self, name: str, programs: list[Program[None]]) -> None:
        del name
        for number, program in enumerate(programs):
            self.run.start(f"{self.process}.{number}", partial(_given, program))

    def give(self, job: Job, /) -> None:
        self.jobs.append(job)

    def opened(self, _session: object, /) -> None:
        """The run says who goes on."""

    def take(self) -> Job | None:
        if self.stopped:
            return None
        if not self.jobs:
            raise Blocked
        return self.jobs.popleft()

    def stop(self) -> None:
        self.stopped = True
        if any(
            process_of(actor) == self.process and "." in actor.name for actor in self.run.actors
        ):
            raise Blocked


def _given(program: Program[None], actor: Actor) -> Program[None]:
    del actor
    return program


def process_of(actor: Actor) -> str:
    return actor.name.partition(".")[0]


class Abreast(Shop):
    """Mixed into a world: its owners have workers."""

    def loop_of(self, actor: Actor, *arguments: Any, **more: Any) -> ConsumerLoop:
        if self.arranging:
            return super().loop_of(actor, *arguments, **more)
        more["sleep"] = self.sleep
        return AbreastLoop(*arguments, crew=Mates(self.run, actor.name), **more)

    def sleep(self, seconds: float) -> None:
        """Who sleeps is whoever asks: the loop, or one of its workers."""
        assert self.run.turn is not None
        self.run.turn.rest(seconds)

    def crashed(self, actor: Actor) -> None:
        """One of them dies: all do. Their sessions are those of the loop."""
        loop = actor
        for mate in [one for one in self.run.actors if process_of(one) == process_of(actor)]:
            self.run.actors.remove(mate)
            unwind(mate)
            loop = loop if "." in mate.name else mate
        super().crashed(loop)


class AbreastAtWork(Abreast, AtWork):
    """One process at work."""


class AbreastRivals(Abreast, Rivals):
    """A process at work, and a second that starts: partitions change hands."""


class AbreastFailing(Abreast, Failing):
    """A handler that fails: its key is parked, tried again, given up, mended and redriven."""
