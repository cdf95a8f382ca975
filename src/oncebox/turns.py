"""Turns: threads that run programs one at a time, and wait side by side.

Without them each of the many calls that let go of Python's lock for a microsecond hands it to some
other thread, and then has to wait for it: with 64 threads, a quarter of all processor time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Any

from .program import Program, T, drive


class Turn:
    """Whose turn it is: one thread runs, all others wait for a database, a handler, or a turn."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._whose: int | None = None

    @property
    def mine(self) -> bool:
        """Whether it is this thread's."""
        return self._whose == threading.get_ident()

    def take(self) -> None:
        self._lock.acquire()
        self._whose = threading.get_ident()

    def give_up(self) -> None:
        self._whose = None
        self._lock.release()

    def waits(self, steps: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        """The same generator, whose yields wait for something: others run meanwhile."""
        try:
            asked = next(steps)
            while True:
                self.give_up()
                try:
                    answer = yield asked
                finally:
                    self.take()
                asked = steps.send(answer)
        except StopIteration as stop:
            done: T = stop.value
            return done


def drive_in_turn(program: Program[T], turn: Turn) -> T:
    """As `drive`, on one of several threads that take turns. The turn is kept in calls to a session
    that gives it up itself (`Session.take_turns`), and given up for all others.
    """

    def called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if getattr(getattr(function, "__self__", None), "in_turn", False):
            return function(*arguments)
        turn.give_up()
        try:
            return function(*arguments)
        finally:
            turn.take()

    turn.take()
    try:
        return drive(program, called)
    finally:
        turn.give_up()
