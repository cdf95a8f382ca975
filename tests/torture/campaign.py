"""A campaign: rounds of faults, each with databases and topics of its own, each compared at its end.

What is left to do and what has fired is kept in a file after every round, so a campaign that was
interrupted goes on with the round that it was in.
"""

from __future__ import annotations

import random
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import KafkaException
from msgspec import Struct, json

from engines.server import ServerFailed

from .ending import end_round
from .faults import KINDS, OUTAGES, Fault, Wish, aim, wishes
from .place import PARTITIONS, Databases, Place
from .points import BY_NAME
from .recovery import recoveries
from .stage import Stage, TortureFailed

STATE = "state.json"
ROUND_MAX = 60
"""Faults in a round."""

TOGETHER_MAX = 3
"""Faults on their way at once."""

FULL, POINT_MIN = 1_000, 10
"""In a full campaign, how often each crash point has to fire."""

RECOVERY_EVERY = 4
"""Rounds from one measurement of recovery to the next; the first is one of them."""

PAUSE_S = (0.05, 0.6)
TICK_S = 0.03
TRIES_MAX = 8
"""How often a fault may fail to fire."""

PROGRESS_S = 60.0
"""Effects have to come within this time after the last outage of a server."""

Say = Callable[[str], None]
Tell = Callable[[int, list[str], tuple[int, ...]], None]
"""Gets how many faults have fired, which are on their way, changes and effects."""


class Round(Struct):
    """A round that has passed. `fired`: name of the fault, and its evidence."""

    number: int
    seconds: float
    fired: list[tuple[Wish, dict[str, Any]]]
    unfired: int
    found: dict[str, Any]
    recovery_s: dict[str, float]


class State(Struct):
    """A campaign as it stands."""

    seed: int
    total: int
    wishes: list[Wish]
    rounds: list[Round] = []
    attempts: int = 0

    @property
    def in_vain(self) -> int:
        """Faults that did not fire, and were tried again."""
        return sum(one.unfired for one in self.rounds)

    @property
    def fired(self) -> list[Wish]:
        return [wish for one in self.rounds for wish, _ in one.fired]


class Campaign:
    """Runs rounds until every wish has come true. `say` gets lines of progress."""

    def __init__(self, place: Place, folder: Path, seed: int | None, total: int, say: Say) -> None:
        self.place = place
        self.folder = folder
        self.say = say
        self.recovery_every = RECOVERY_EVERY
        self.file = folder / STATE
        if self.file.exists():
            self.state = json.decode(self.file.read_bytes(), type=State)
            if self.state.total != total or seed not in (None, self.state.seed):
                raise TortureFailed(
                    f"{self.file} is of another campaign, seed {self.state.seed}, "
                    f"{self.state.total} faults; --anew forgets it"
                )
            say(f"seed {self.state.seed}: going on after round {len(self.state.rounds)}")
        else:
            seed = secrets.randbits(31) if seed is None else seed
            say(f"seed {seed}")
            self.state = State(seed, total, wishes(total, random.Random(seed)))
            self.save()

    def save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self.file.with_suffix(".new")
        new.write_bytes(json.encode(self.state))
        new.replace(self.file)

    def run(self) -> State:
        while self.state.wishes:
            self.state.attempts += 1
            self.save()
            self.round(len(self.state.rounds) + 1)
            self.save()
        self.check_coverage()
        return self.state

    def check_coverage(self) -> None:
        """Raises TortureFailed for a kind that never fired, or in a campaign that is large enough
        for a point that fired too rarely.
        """
        kinds = Counter(wish.kind for wish in self.state.fired)
        points = Counter(wish.point for wish in self.state.fired)
        rare = [kind for kind in KINDS if not kinds[kind]]
        if self.state.total >= FULL:
            rare += [point for point in BY_NAME if points[point] < POINT_MIN]
        if rare:
            raise TortureFailed(f"fired too rarely: {', '.join(rare)}")

    def round(self, number: int) -> None:
        """One round, from empty tables to the comparison. Raises TortureFailed."""
        begun = time.monotonic()
        folder = self.folder / f"round-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        tag = f"{self.state.seed}-{number}-{self.state.attempts}"
        databases = Databases(self.place)
        stage = Stage(self.place, databases, folder, tag)
        try:
            databases.make()
            for topic in stage.topics:
                self.place.kafka.create_topic(topic, PARTITIONS)
            stage.start_all()
            rng = random.Random(f"{self.state.seed} {number}")
            course = Course(stage, self.state.wishes[:ROUND_MAX], rng, self.told(number, begun))
            course.run()
            measured = self.recovery_every and number % self.recovery_every == 1
            recovery = recoveries(stage) if measured else {}
            self.say(f"round {number}: {len(course.fired)} faults fired, coming to rest")
            found = end_round(stage)
        except (TortureFailed, ServerFailed) as error:
            raise TortureFailed(f"seed {self.state.seed}, round {number}: {error}") from error
        finally:
            stage.kill_all()
            with suppress(KafkaException, psycopg.Error):  # where a server is away, it failed
                self.place.kafka.delete_topics(f"moves-{tag}")
                self.place.kafka.delete_topics(f"bookings-{tag}")
                databases.drop()
        seconds = time.monotonic() - begun
        self.state.wishes = self.state.wishes[ROUND_MAX:]
        self.state.rounds.append(
            Round(number, seconds, course.fired, course.in_vain, found, recovery)
        )
        self.say(
            f"round {number}: clean; {found['check']['changes']:,} changes, {seconds:.0f} s, "
            f"{len(self.state.fired)} of {self.state.total} faults"
        )
        shutil.rmtree(folder, ignore_errors=True)

    def told(self, number: int, begun: float) -> Tell:
        """Live progress of a round."""
        before = len(self.state.fired)

        def tell(fired: int, active: list[str], counts: tuple[int, ...]) -> None:
            self.say(
                f"round {number}, {time.monotonic() - begun:.0f} s: {before + fired} of"
                f" {self.state.total} faults, {counts[0]:,} changes, effects"
                f" {counts[1]:,} {counts[2]:,} {counts[3]:,}; {', '.join(active)}"
            )

        return tell


class Course:
    """The faults of one round, some at a time."""

    def __init__(
        self,
        stage: Stage,
        todo: list[Wish],
        rng: random.Random,
        tell: Tell,
    ) -> None:
        self.stage = stage
        self.todo = list(todo)
        self.rng = rng
        self.tell = tell
        self.active: list[Fault] = []
        self.fired: list[tuple[Wish, dict[str, Any]]] = []
        self.in_vain = 0
        self._number = 0
        self._next_at = time.monotonic() + 2.0
        self._told_at = self._moved_at = time.monotonic()
        self._counts: tuple[int, ...] = ()

    def run(self) -> None:
        while self.todo or self.active:
            self.stage.look_after()
            self.active = [fault for fault in self.active if self.step(fault)]
            if len(self.active) < TOGETHER_MAX and time.monotonic() >= self._next_at:
                self.begin()
            self.look()
            time.sleep(TICK_S)
        self.stage.look_after()

    def begin(self) -> None:
        """Begin the first fault of those to do that can be begun now."""
        busy = {target for fault in self.active for target in fault.targets}
        for at, wish in enumerate(self.todo):
            aimed = aim(wish, busy, self.stage, self.rng)
            if aimed is None:
                continue
            del self.todo[at]
            self._number += 1
            id, (target, needed) = f"f{self._number}", aimed
            course = KINDS[wish.kind].course(self.stage, target, id, wish, self.rng)
            self.active.append(Fault(id, wish, frozenset(needed), course))
            self._next_at = time.monotonic() + self.rng.uniform(*PAUSE_S)
            return

    def step(self, fault: Fault) -> bool:
        """Let a fault go on; whether it is still on its way."""
        try:
            next(fault.course)
        except StopIteration as done:
            if done.value is not None:
                self.fired.append((fault.wish, done.value))
                return False
            self.in_vain += 1
            again = fault.wish._replace(tries=fault.wish.tries + (not self.is_out()))
            if again.tries >= TRIES_MAX:
                raise TortureFailed(f"{again.name}: did not fire in {TRIES_MAX} tries") from None
            self.todo.append(again)
            return False
        return True

    def is_out(self) -> bool:
        """Whether a server is away just now."""
        return any(fault.wish.kind in OUTAGES for fault in self.active)

    def look(self) -> None:
        """Say how far it is; and see that effects come."""
        now = time.monotonic()
        if now < self._told_at + 5.0 or not self.stage.place.postgres.pid:
            return
        self._told_at = now
        counts = self.stage.count()
        if counts[1:] != self._counts[1:] or self.is_out():
            self._moved_at = now
        elif now > self._moved_at + PROGRESS_S:
            raise TortureFailed(f"no effect for {PROGRESS_S:g} s: {counts}")
        self._counts = counts
        self.tell(len(self.fired), [fault.wish.name for fault in self.active], counts)
