"""Workers side by side: threads for plain handlers, tasks for coroutines. Each runs one program."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

from ..program import Program, drive_async
from ..session import Session
from ..turns import Turn, drive_in_turn
from .lanes import Job


class Crew(Protocol):
    """Methods of an asynchronous one return awaitables where they wait."""

    lock: AbstractContextManager[object, None]

    def start(self, name: str, programs: list[Program[None]]) -> None: ...

    def give(self, job: Job, /) -> None: ...

    def opened(self, session: Session, /) -> None:
        """A worker has a session."""

    def take(self) -> Any:
        """The next job, when there is one; None: it is time to end."""
        ...

    def stop(self) -> Any:
        """Have every worker end what it does, and wait for that."""
        ...


class Threads:
    """Workers as threads. They end with the process, at the latest."""

    def __init__(self) -> None:
        self.lock: Any = threading.Lock()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stopped = False
        self.turn = Turn()

    def start(self, name: str, programs: list[Program[None]]) -> None:
        for number, program in enumerate(programs):
            run = partial(drive_in_turn, program, self.turn)
            thread = threading.Thread(target=run, name=f"{name}:{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def give(self, job: Job, /) -> None:
        self._jobs.put(job)

    def opened(self, session: Session, /) -> None:
        session.take_turns(self.turn)

    def take(self) -> Job | None:
        job = self._jobs.get()
        return None if self._stopped else job

    def stop(self) -> None:
        self._stopped = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()


class Tasks:
    """Workers as tasks of the running event loop."""

    def __init__(self) -> None:
        self.lock: AbstractContextManager[object, None] = nullcontext()
        self._jobs: asyncio.Queue[Job | None] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False

    def start(self, name: str, programs: list[Program[None]]) -> None:
        for number, program in enumerate(programs):
            self._tasks.append(asyncio.create_task(drive_async(program), name=f"{name}:{number}"))

    def give(self, job: Job, /) -> None:
        self._jobs.put_nowait(job)

    def opened(self, _session: Session, /) -> None:
        """One runs at a time anyway."""

    async def take(self) -> Job | None:
        job = await self._jobs.get()
        return None if self._stopped else job

    async def stop(self) -> None:
        self._stopped = True
        for _ in self._tasks:
            self._jobs.put_nowait(None)
        await asyncio.gather(*self._tasks)  # who cancels this cancels them
