"""Handlers that run too long, `handler_timeout_s`, or would end their process: plain functions and
coroutines.

A coroutine is cancelled. A plain function cannot be stopped from outside but by an exception that
Python delivers between two of its bytecodes, so a call that hangs in C returns first; the
database's own statement timeout bounds those. Wherever the exception lands, the batch's
transaction is rolled back, so nothing is half done.

An effect of `once` has no transaction, and mostly waits for a network, in C: it runs in a thread of
its own, which is left behind where even the exception does not end it.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import copy_context
from inspect import isawaitable
from typing import Any

from ..context import Suspend
from ..errors import HandlerBroke, HandlerTimeout

LOOK_S = 0.25
"""How often the watch looks: a handler may run this much longer."""

LEFT_MAX = 50
"""Effects of a process that were left behind and go on; with more, no other is begun."""

_PASS = (Exception, Suspend, KeyboardInterrupt, GeneratorExit)
"""What a handler may raise, or we in it. All else is meant for a process or task: a `sys.exit()`, a
cancelled task that it waited for. It would end one owner after the other at its event.
"""


class Watch:
    """One thread that watches the plain handlers of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # who has it may interrupt, or end for good, a handler
        self._running: dict[int, tuple[float, float]] = {}
        self._interrupted: set[int] = set()
        self._thread: threading.Thread | None = None

    def limited(self, function: Callable[..., Any], timeout_s: float) -> Callable[..., Any]:
        """The function, interrupted by HandlerTimeout in its own thread when it runs too long.

        What returns something to be awaited fails: nobody would, and its effects never come.
        """
        running, clock, thread_id = self._running, time.monotonic, threading.get_ident
        self._start()

        def call(*arguments: Any) -> Any:
            me = thread_id()
            running[me] = (clock() + timeout_s, timeout_s)
            try:
                try:
                    result = function(*arguments)
                except _PASS:
                    raise
                except BaseException as error:
                    raise _ends_process(call.__qualname__, error) from error
                finally:
                    self._end(me)
            finally:  # once more, if the interruption came where `_end` begins
                running.pop(me, None)
            if result is not None and isawaitable(result):
                if isinstance(result, Coroutine):
                    result.close()  # else Python says once more that nobody awaited it
                raise HandlerBroke(
                    f"{call.__qualname__} returned a {type(result).__name__}, which nobody awaits",
                    expected="a plain function, or one that is declared with async def",
                )
            return result

        call.__qualname__ = getattr(function, "__qualname__", "handler")
        return call

    def _end(self, thread: int) -> None:
        """When this returns, nothing interrupts the thread any more, not even what was on its way:
        outside its handler it would end anything.
        """
        while True:
            try:
                with self._lock:
                    self._running.pop(thread, None)
                    if thread in self._interrupted:
                        _interrupt(thread, None)
                        self._interrupted.discard(thread)
            except HandlerTimeout:
                continue  # the handler had ended in time
            return

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="handlers", daemon=True)
                self._thread.start()

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_S)
            now = time.monotonic()
            with self._lock:
                for thread, (deadline, timeout_s) in list(self._running.items()):
                    if now > deadline:
                        self._running[thread] = (now + timeout_s, timeout_s)
                        self._interrupted.add(thread)
                        _interrupt(thread, HandlerTimeout)


def _interrupt(thread: int, error: type[BaseException] | None) -> None:
    """Raise an error in another thread, between two of its bytecodes; None: no error after all."""
    raised = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


def _ends_process(name: str, error: BaseException) -> HandlerBroke:
    return HandlerBroke(
        f"{name} raised {type(error).__name__}, which is not for one event",
        expected="an Exception: then its key waits, and all others go on",
    )


watch = Watch()


_left: list[threading.Thread] = []


def limited_aside(function: Callable[..., Any], timeout_s: float) -> Callable[..., Any]:
    """An effect, in a thread of its own that nobody waits for any longer when it runs too long.
    Where too many go on already, that is an outage: TimeoutError.
    """
    limited = watch.limited(function, timeout_s)

    def call(*arguments: Any) -> Any:
        _left[:] = [thread for thread in _left if thread.is_alive()]
        if len(_left) >= LEFT_MAX:
            raise TimeoutError(f"{len(_left)} effects have not returned")
        outcome = Future[Any]()

        def work() -> None:
            try:
                outcome.set_result(limited(*arguments))
            except BaseException as error:
                outcome.set_exception(error)

        thread = threading.Thread(
            target=copy_context().run, args=(work,), name="effect", daemon=True
        )
        thread.start()
        thread.join(timeout_s + 2 * LOOK_S)
        if not outcome.done():
            _left.append(thread)
            raise HandlerTimeout(f"still running after {timeout_s:g} s")
        return outcome.result()

    return call


def limited_async(function: Callable[..., Any], timeout_s: float) -> Callable[..., Any]:
    """The coroutine function, cancelled when it runs too long; an effect may be a plain one."""

    async def call(*arguments: Any) -> Any:
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                result = function(*arguments)
                return await result if isawaitable(result) else result
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise HandlerTimeout(f"still running after {timeout_s:g} s") from error
        except _PASS:
            raise
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # it is the consumer that is told to end
            raise _ends_process(call.__qualname__, error) from error

    call.__qualname__ = getattr(function, "__qualname__", "handler")
    return call
