"""Named crash points: places in oncebox where a process can be told to die or to stand still.

Nothing of this is in the product: relay and consumer are programs, which yield every call that they
make, and a worker under torture runs them by the drivers here. A point is a call that some program
makes, just before it or just after. So it costs nothing where there is no torture.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from functools import partial
from inspect import isawaitable
from pathlib import Path
from typing import Any, NamedTuple

Chain = list[str]
"""Names of the programs that are running, the outermost first."""

BEGUN = "begun"
HANDLER = "(handler)"
SKIPPED = ("call", "ask", "asked", "bulk", "lookup")
"""Programs that only pass a call on."""


class Point(NamedTuple):
    """A call of a program: `program` and, if given, `above` are among those that run; `call` is
    the function's name, or one of them; `sql`: how its statement begins, if that matters. `leaving`: it is met
    only where a process is told to end; `leading`: where a relay takes over.
    """

    name: str
    program: str
    call: str
    when: str
    what: str
    above: str = ""
    sql: str = ""
    leaving: bool = False
    leading: bool = False
    roles: tuple[str, ...] = ("stock", "ledger")


RELAYS = ("relay", "stock")
ASKING = ("stock",)  # its driver sends statements and collects their answers later
PRODUCERS = ("producer",)
SHARE = "transact(ConsumerLoop.share)"
KEPT = "insert into oncebox.kept"

POINTS = (
    Point("producer-emitted", "", "emitted", "after", "emitted, not committed", roles=PRODUCERS),
    Point("producer-sent", "", "sent", "after", "COMMIT sent, answer not seen", roles=PRODUCERS),
    Point("producer-committed", "", "committed", "after", "committed", roles=PRODUCERS),
    Point("relay-lead-begun", "Relay._lead", "commit", "before", "lease taken, not committed",
          leading=True, roles=("relay",)),
    Point("relay-lead-done", "Relay._lead", "commit", "after", "lease taken",
          leading=True, roles=("relay",)),
    Point("relay-read-sent", "Relay._ask", "_ask", "after",
          "cursor's move and the next read sent, answers not seen", roles=RELAYS),
    Point("relay-read-done", "Relay._answered", "answers", "after",
          "batch read, not published", roles=RELAYS),
    Point("relay-publish-begun", "Relay._publish", "publish", "before",
          "about to publish", roles=RELAYS),
    Point("relay-publish-half", "", "produce", "before",
          "some records of a batch handed to Kafka's client", roles=RELAYS),
    Point("relay-publish-handed", "", "flush", "before",
          "all handed to Kafka's client, none known to be acknowledged", roles=RELAYS),
    Point("relay-publish-done", "Relay._publish", "publish", "after",
          "acknowledged, cursor not moved", roles=RELAYS),
    Point("relay-save-begun", "Relay._save", "commit", "before",
          "cursor moved, not committed", roles=RELAYS),
    Point("relay-save-done", "Relay._save", "commit", "after", "cursor moved", roles=RELAYS),
    Point("relay-upkeep", "Relay._upkeep", "commit", "before",
          "partitions of the outbox made or dropped, not committed",
          leading=True, roles=("relay",)),
    Point("relay-leave", "Relay._leave", "commit", "before",
          "told to end: lease given back, not committed", leaving=True, roles=("relay",)),
    Point("share-begun", SHARE, "commit", "before", "partitions taken or given, not committed"),
    Point("share-done", SHARE, "commit", "after", "partitions taken or given"),
    Point("due-begun", "transact(ConsumerLoop.look_what_is_due)", "commit", "before",
          "tries of parked keys counted, not committed"),
    Point("fetched", "ConsumerLoop.turn", "fetch", "after", "records fetched"),
    Point("batch-begun", "Batch.run", "begin", "after", "transaction begun"),
    Point("batch-asked", "Keys.load_rows", "_ask", "after",
          "fence and keys asked for, answers not seen", above="Batch.run", roles=ASKING),
    Point("batch-locked", "Keys.load_rows", "answers|run", "after",
          "partition fenced, keys locked and read", above="Batch.run"),
    Point("handler-before", "Batch.run", HANDLER, "before", "about to run a handler"),
    Point("handler-after", "Batch.run", HANDLER, "after", "a handler has run"),
    Point("handler-marked", "Batch.perform_alone", "savepoint", "after",
          "savepoint set for one handler"),
    Point("handler-undone", "Batch.undo", "rollback_to", "after",
          "a failed or suspended handler's part undone"),
    Point("batch-kept", "Keys.write", "send", "after", "event kept, not committed", sql=KEPT),
    Point("batch-written", "Keys.write", "send", "after", "keys' rows written",
          sql="update oncebox.key"),
    Point("batch-closed", "Batch.close_fence", "run|send", "after",
          "position moved, not committed"),
    Point("batch-commit-begun", "commit", "pipeline|_ask", "before", "about to commit a batch",
          above="Batch.run"),
    Point("batch-commit-sent", "commit", "_ask", "after", "COMMIT of a batch sent, answer not seen",
          above="Batch.run", roles=ASKING),
    Point("batch-commit-done", "Batch.run", "commit", "after", "batch committed"),
    Point("waiting-commit", "commit", "pipeline|_ask", "before",
          "a waiting key gone on with, not committed", above="ConsumerLoop.drain"),
    Point("effect-intended", "transact(_intend)", "commit", "after",
          "intent of an outside effect committed"),
    Point("effect-had", "have_effect", "(effect)", "after",
          "outside effect had, result not known"),
    Point("effect-done", "transact(call)", "commit", "after",
          "result of an outside effect committed", above="have_effect"),
    Point("consumer-leave", "transact(ConsumerLoop.give_back)", "commit", "before",
          "told to end: partitions given back, not committed", leaving=True),
)  # fmt: skip
BY_NAME = {point.name: point for point in POINTS}


class Armed(NamedTuple):
    """What is to happen, once `skip` more calls have passed the point."""

    fault: str
    point: Point
    how: signal.Signals


class Trap:
    """What a process is to die of, and the evidence that it did."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence
        self.armed: Armed | None = None
        self.skip = 0
        self.has_begun = False
        self._lock = threading.Lock()

    def arm(self, fault: str, point: str, how: str, skip: int) -> None:
        with self._lock:
            self.skip = skip
            self.armed = Armed(fault, BY_NAME[point], signal.Signals[how])

    def disarm(self) -> None:
        with self._lock:
            self.armed = None

    def begin(self) -> None:
        """The first program runs: from now on, this process must not end by itself."""
        if not self.has_begun:
            self.has_begun = True
            self.note(BEGUN)

    def note(self, fault: str, **more: Any) -> None:
        """A line of evidence, written before anything happens, in one piece."""
        line = json.dumps({"fault": fault, "pid": os.getpid(), "at": time.monotonic(), **more})
        file = os.open(self.evidence, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode() + b"\n")
        os.close(file)

    def reach(self, name: str, when: str, chain: Callable[[], Chain], sql: str = "") -> None:
        """A call is made, or was: if that is the armed point, die of it, or stand still."""
        armed = self.armed
        if armed is None:
            return
        point = armed.point
        if name not in point.call.split("|") or point.when != when or not sql.startswith(point.sql):
            return
        if point.program:
            running = chain()
            if point.program not in running or (point.above and point.above not in running):
                return
        with self._lock:
            if self.armed is not armed:
                return
            self.skip -= 1
            if self.skip >= 0:
                return
            self.armed = None
            self.note(armed.fault, point=point.name)
            os.kill(os.getpid(), armed.how)
            if armed.how == signal.SIGKILL:
                signal.pause()


def running_programs(program: Any) -> Chain:
    """The names of a program and of those that it waits for; `transact(…)` with what it runs."""
    names = []
    while program is not None and hasattr(program, "gi_code"):
        name = program.gi_code.co_qualname
        if name == "transact":
            inner = program.gi_frame.f_locals.get("program")
            name = f"transact({inner.gi_code.co_qualname})"
        names.append(name)
        program = program.gi_yieldfrom
    return names


def call_name(program: Any, function: Callable[..., Any]) -> str:
    """How a call is named here: a handler and an outside effect by what they are."""
    if isinstance(function, partial):  # a fetch, on a thread
        function = function.args[0]
    name = getattr(function, "__name__", "") or type(function).__name__
    direct = [n for n in running_programs(program) if n not in SKIPPED][-1:]
    if direct in (["Batch.go_through"], ["Calls.run_handler"]) and name != "send":
        return HANDLER
    if direct == ["have_effect"]:
        return "(effect)"
    return name


def sql_of(arguments: tuple[Any, ...]) -> str:
    """The statement of a call, without the comments before it."""
    text = arguments[0] if arguments and isinstance(arguments[0], str) else ""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    return " ".join(" ".join(lines).split())


def drivers(trap: Trap) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`drive` and `drive_async` of program.py, which meet the trap at every call."""

    def meet(program: Any, function: Any, arguments: Any, when: str) -> None:
        if trap.armed is not None:
            name = call_name(program, function)
            trap.reach(name, when, lambda: running_programs(program), sql_of(arguments))

    def drive(program: Generator[Any, Any, Any]) -> Any:
        trap.begin()
        try:
            function, arguments = next(program)
            while True:
                try:
                    meet(program, function, arguments, "before")
                    result = function(*arguments)
                    meet(program, function, arguments, "after")
                except BaseException as error:
                    function, arguments = program.throw(error)
                else:
                    function, arguments = program.send(result)
        except StopIteration as stop:
            return stop.value

    async def drive_async(program: Generator[Any, Any, Any]) -> Any:
        trap.begin()
        try:
            function, arguments = next(program)
            while True:
                try:
                    meet(program, function, arguments, "before")
                    result = function(*arguments)
                    if isawaitable(result):
                        result = await result
                    meet(program, function, arguments, "after")
                except BaseException as error:
                    function, arguments = program.throw(error)
                else:
                    function, arguments = program.send(result)
        except StopIteration as stop:
            return stop.value

    return drive, drive_async


class TrappedProducer:
    """Kafka's producer, which meets the trap while records are handed over and flushed."""

    def __init__(self, producer: Any, trap: Trap) -> None:
        self._producer = producer
        self._trap = trap
        self._handed = 0

    def produce(self, *arguments: Any) -> None:
        self._handed += 1
        if self._handed > 1:
            self._trap.reach("produce", "before", list)
        self._producer.produce(*arguments)

    def flush(self, timeout_s: float) -> Any:
        self._handed = 0
        self._trap.reach("flush", "before", list)
        return self._producer.flush(timeout_s)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)
