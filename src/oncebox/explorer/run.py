"""One schedule: actors take turns, step by step, and the tape says where that goes wrong.

An actor is a program, a generator that yields calls `(function, arguments)` and is sent their
results. A step is one call. Before every step the actor may crash, stall while time goes by, or
be preempted by another that can go on. When it rests (sleeps, polls in vain) or is blocked, the
next one goes on for free; when all rest, the clock moves to the first that wakes. So nothing waits
for real, and a run is a function of its tape.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from types import CoroutineType
from typing import Any, NamedTuple

from .tape import Choices, Kinds, Unsteady, without_last

Call = tuple[Callable[..., Any], tuple[Any, ...]]
Program = Generator[Call, Any, Any]

CRASH, STALL, PREEMPTION = "crash", "stall", "preemption"
_ALONE: Kinds = (CRASH,)
_AT: tuple[Kinds, ...] = tuple((CRASH, STALL) + (PREEMPTION,) * n for n in range(16))

BEGIN_MS = 1_700_000_000_000
STEPS_MAX = 10_000
"""Steps of one run: more of them means that it does not end."""
UNWIND_MAX = 100
"""Calls that a crashed program may still ask for; none is made."""


class Broken(AssertionError):
    """A promise that this schedule breaks."""


class Blocked(Exception):
    """Raised by a call that cannot be had before another actor moves; it is then made again."""


_PASS = (KeyboardInterrupt, SystemExit, Broken, Unsteady)
"""What a call may raise that is not its program's business."""


class Crash(BaseException):
    """What a program sees when its process dies. Nothing that it does about it has any effect.
    A call that raises it kills its process.
    """


class World:
    """What is explored: override these. One object serves all runs, one after the other."""

    stall_ms = 10_000
    """How long a stalled actor stands still: longer than any lease."""
    time_max_ms = 120_000
    """A run that is not settled by then is at its end, and `check` says what is missing."""

    def begin(self, run: Run) -> None:
        """Put everything back to the beginning, whatever a run left behind; start the actors."""
        raise NotImplementedError

    def settled(self) -> bool:
        """All actors rest: is there nothing left to do? Then the run is at its end. It may start
        further actors instead, who do what comes last.
        """
        return True

    def check(self) -> object:
        """The end's state as a plain value, the same for every good schedule. Raises Broken."""
        raise NotImplementedError

    def state(self) -> Hashable:
        """All that outlives a process, as a value: what is committed, a log, services, what this
        world itself keeps; but not the clock. Where a crash leaves what another has left, what
        follows is tried once. None, or Blocked: it is not known.
        """
        return None

    def may_deviate(self, actor: Actor) -> bool:  # noqa: ARG002 - for worlds that look at it
        """Whether the tape is asked before this actor's next step. Leave out only steps before
        which a deviation is the same, for everybody, as one before an earlier step.
        """
        return True

    def crashed(self, actor: Actor) -> None:
        """An actor died: end what it held open, and start who comes after it."""

    def clock(self, now_ms: int) -> None:
        """The clock moved."""

    def ready(self, waits_for: Any) -> bool:
        """Whether what a coroutine yielded has come. False: another actor has to move first."""
        raise NotImplementedError(f"{waits_for!r}: this world waits for no coroutines")

    def describe(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
        """A call in few words, for the timeline."""
        function = getattr(function, "func", function)
        shown = ", ".join(str(a) for a in arguments if isinstance(a, str | int | float))
        return f"{getattr(function, '__name__', function)} {shown}"[:100].rstrip()


class Moment(NamedTuple):
    """A line of a timeline."""

    at_ms: int
    actor: str
    what: str
    deviation: bool


class Actor:
    """A program with its turn. Worlds keep what is its own (session, log) by the actor's name."""

    __slots__ = (
        "alive", "arguments", "asleep", "blocked_at", "function", "name", "program", "result",
        "run", "stalled", "steps", "until_ms", "waiting",
    )  # fmt: skip

    program: Program
    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __init__(self, run: Run, name: str) -> None:
        self.run = run
        self.name = name
        self.until_ms = 0
        self.blocked_at = -1
        self.steps = 0
        self.stalled = self.asleep = False
        self.alive = True
        self.result: Any = None
        self.waiting: tuple[CoroutineType[Any, Any, Any], Any] | None = None

    def rest(self, seconds: float) -> None:
        """Go on after this step no earlier than in so much virtual time."""
        self.until_ms = self.run.now_ms + max(1, int(seconds * 1000))


class Run:
    """One run of a world on one tape. `now_ms` is the virtual time, Unix ms; `turn`: whose step it
    is.
    """

    def __init__(
        self,
        world: World,
        choices: Choices,
        timeline: list[Moment] | None = None,
        was_left: Callable[[object], bool] | None = None,
    ) -> None:
        self.world = world
        self.choose = choices.choose
        self.choices = choices
        self.timeline = timeline
        self.was_left = was_left
        self.now_ms = BEGIN_MS
        self.actors: list[Actor] = []
        self.turn: Actor | None = None
        self.moves = 0
        self.pointless = False
        self._waiting = False
        self._looked = -1
        self._coarse = type(world).may_deviate is not World.may_deviate

    # ---- for worlds

    def start(self, name: str, make: Callable[[Actor], Program], *, rest_s: float = 0.0) -> Actor:
        """Add an actor. `make` gets it, for its `rest`, and returns its program."""
        actor = Actor(self, name)
        actor.program = make(actor)
        self.actors.append(actor)
        if rest_s:
            actor.rest(rest_s)
            actor.asleep = True
        else:
            self._advance(actor, actor.program.send, None)
        return actor

    # ---- the schedule

    def go(self) -> bool:
        """Run to the end. False: a preemption changed nothing, so this schedule is another's.

        Raises Broken, Unsteady.
        """
        try:
            self.world.begin(self)
            self._turns()
        finally:
            for actor in self.actors:
                unwind(actor)
        if not self.pointless:
            self.choices.finish()
        return not self.pointless

    def _turns(self) -> None:
        actor: Actor | None = None
        forced = False  # the actor has its turn by a preemption: not to be undone at once
        while not self.pointless:
            if self._waiting:
                self._look()
            if actor is None or not self._can_go(actor):
                actor, forced = self._next(actor), False
                if actor is None:
                    if not self._pass_time():
                        return
                    continue
                actor.stalled = False
            if actor.asleep:
                self._advance(actor, actor.program.send, actor.result)
                continue
            picked, other = self._deviation(actor, forced)
            if picked == CRASH:
                self._crash(actor)
                actor = None
            elif picked == STALL:
                self._tell(actor, "stalls", deviation=True)
                actor.until_ms, actor.stalled = self.now_ms + self.world.stall_ms, True
            elif other is not None:
                self._tell(actor, f"preempted by {other.name}", deviation=True)
                actor, forced = other, True
            else:
                self._step(actor, forced)
                forced = False
                if self.moves > STEPS_MAX:
                    raise Broken(f"no end after {STEPS_MAX} steps")

    def _deviation(self, actor: Actor, forced: bool) -> tuple[str | None, Actor | None]:
        """What the tape has for this moment: a kind, with the actor that preempts."""
        if self._coarse and not self.world.may_deviate(actor):
            return None, None
        if len(self.actors) == 1 or forced:
            return (CRASH if self.choose(_ALONE) else None), None
        others = [other for other in self.actors if other is not actor and self._can_go(other)]
        picked = self.choose(_AT[len(others)])
        if picked > 2:
            return PREEMPTION, others[picked - 3]
        return (None, CRASH, STALL)[picked], None

    def _can_go(self, actor: Actor) -> bool:
        return actor.alive and actor.until_ms <= self.now_ms and actor.blocked_at != self.moves

    def _next(self, actor: Actor | None) -> Actor | None:
        """Round the ring to the next actor that can go on; a dead one gives the first its turn."""
        actors = self.actors
        at = actors.index(actor) + 1 if actor in actors else 0
        for other in actors[at:] + actors[:at]:
            if self._can_go(other):
                return other
        return None

    def _pass_time(self) -> bool:
        """Nobody can go on: let time pass to the first that wakes. False: the run is at its end."""
        if self.actors and not self._sleeping():
            names = ", ".join(actor.name for actor in self.actors)
            raise Broken(f"{names}: each waits for another")
        stalled = [actor.until_ms for actor in self.actors if actor.stalled]
        settled = self.world.settled()
        if not self.actors or (settled and not stalled):
            return False
        sleeping = self._sleeping()
        if not sleeping:  # `settled` has started somebody
            return True
        self.now_ms = min(stalled) if settled else min(sleeping)
        self.world.clock(self.now_ms)
        self.moves += 1
        return self.now_ms < BEGIN_MS + self.world.time_max_ms

    def _sleeping(self) -> list[int]:
        return [actor.until_ms for actor in self.actors if actor.until_ms > self.now_ms]

    def _step(self, actor: Actor, forced: bool) -> None:
        """Make the call that an actor asks for, and bring its program to the next."""
        function, arguments = actor.function, actor.arguments
        self.turn = actor
        actor.steps += 1
        if self.timeline is not None:
            self._tell(actor, self.world.describe(function, arguments))
        try:
            if actor.waiting is not None:
                result = self._wait(actor, *actor.waiting)
            else:
                result = function(*arguments)
                if type(result) is CoroutineType:
                    result = self._wait(actor, result, None)
        except Blocked:
            actor.blocked_at = self.moves
            self._tell(actor, "  blocked")
            self.pointless = forced
        except _PASS:
            raise
        except Crash:
            self._tell(actor, "  dies")
            self._end(actor)
        except BaseException as error:
            self._tell(actor, f"  raises {type(error).__name__}: {error}"[:100])
            self._advance(actor, actor.program.throw, error)
        else:
            if actor.until_ms > self.now_ms:  # it rests: what it does then sees a later clock
                actor.asleep, actor.result = True, result
            else:
                self._advance(actor, actor.program.send, result)

    def _advance(self, actor: Actor, resume: Callable[[Any], Call], value: Any) -> None:
        self.moves += 1
        actor.asleep = False
        try:
            actor.function, actor.arguments = resume(value)
        except StopIteration as stop:
            self._ended(actor, stop.value)
        except _PASS:
            raise
        except BaseException as error:
            raise Broken(f"{actor.name} ended with {type(error).__name__}: {error}") from error

    def _wait(self, actor: Actor, coroutine: CoroutineType[Any, Any, Any], token: Any) -> Any:
        """Drive a coroutine by hand. Raises Blocked when what it waits for needs another actor."""
        try:
            while token is None or self.world.ready(token):
                token = coroutine.send(None)
        except StopIteration as stop:
            actor.waiting = None
            return stop.value
        except BaseException:
            actor.waiting = None
            raise
        actor.waiting = coroutine, token
        self._waiting = True
        raise Blocked

    def _look(self) -> None:
        """After a step: whose wait it has ended is found out now, so that it does not depend on
        when somebody happens to look.
        """
        if self._looked == self.moves:
            return
        self._looked = self.moves
        for actor in self.actors:
            if actor.waiting is not None and not self.world.ready(actor.waiting[1]):
                actor.blocked_at = self.moves
        self._waiting = any(actor.waiting is not None for actor in self.actors)

    def _ended(self, actor: Actor, result: Any) -> None:
        actor.result, actor.alive = result, False
        self.actors.remove(actor)
        self._tell(actor, "ends")

    def _crash(self, actor: Actor) -> None:
        what = self.world.describe(actor.function, actor.arguments)
        self._tell(actor, f"crashes before: {what}", deviation=True)
        self._end(actor)
        if self.was_left is not None and self.choices.at == len(self.choices.tape):
            left = self._left_by(actor)
            self.pointless = left is not None and self.was_left(left)

    def _left_by(self, dead: Actor) -> object:
        """All that goes on after a crash, as a value; None if that cannot be told.

        The memory of the others is not looked into: after as many steps of the same schedule it is
        the same, and before its first step an actor has none.
        """
        try:
            state = self.world.state()
        except Blocked:
            return None
        if state is None:
            return None
        others = [
            (other.name, other.steps, other.until_ms, other.stalled, other.asleep)
            for other in self.actors
        ]
        begun = any(other.steps for other in self.actors)
        before = without_last(self.choices.tape) if begun else None
        return state, self.now_ms, dead.name, before, *others

    def _end(self, actor: Actor) -> None:
        """A process dies."""
        self.moves += 1
        self.actors.remove(actor)
        unwind(actor)
        self.world.crashed(actor)

    def _tell(self, actor: Actor, what: str, *, deviation: bool = False) -> None:
        if self.timeline is not None:
            self.timeline.append(Moment(self.now_ms, actor.name, what, deviation))


def unwind(actor: Actor) -> None:
    """End a program as a crash does: whatever it asks for on its way out is not had."""
    actor.alive = False
    if actor.waiting is not None:
        actor.waiting[0].close()
        actor.waiting = None
    for _ in range(UNWIND_MAX):
        try:
            actor.program.throw(Crash())
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            return
    raise Broken(f"{actor.name} does not end when it crashes")
