"""Handlers that run too long: `handler_timeout_s`, for plain functions and coroutines.

A coroutine is cancelled. A plain function cannot be stopped from outside but by an exception that
Python delivers between two of its bytecodes, so a call that hangs in C returns first; the
database's own statement timeout bounds those. Wherever the exception lands, the batch's
transaction is rolled back, so nothing is half done.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

from .errors import HandlerTimeout

LOOK_S = 0.25
"""How often the watch looks: a handler may run this much longer."""


class Watch:
    """One thread that watches the plain handlers of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[int, tuple[float, float]] = {}
        self._thread: threading.Thread | None = None

    def limited(self, function: Callable[..., Any], timeout_s: float) -> Callable[..., Any]:
        """The function, interrupted by HandlerTimeout in its own thread when it runs too long."""
        running, clock, thread_id = self._running, time.monotonic, threading.get_ident
        self._start()

        def call(*arguments: Any) -> Any:
            me = thread_id()
            running[me] = (clock() + timeout_s, timeout_s)
            try:
                return function(*arguments)
            finally:
                running.pop(me, None)

        call.__qualname__ = getattr(function, "__qualname__", "handler")
        return call

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="handlers", daemon=True)
                self._thread.start()

    def _look(self) -> None:
        while True:
            time.sleep(LOOK_S)
            now = time.monotonic()
            for thread, (deadline, timeout_s) in list(self._running.items()):
                if now > deadline:
                    self._running[thread] = (now + timeout_s, timeout_s)
                    error = ctypes.py_object(HandlerTimeout)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), error)


watch = Watch()


def limited_async(function: Callable[..., Any], timeout_s: float) -> Callable[..., Any]:
    """The coroutine function, cancelled when it runs too long."""

    async def call(*arguments: Any) -> Any:
        limit = asyncio.timeout(timeout_s)
        try:
            async with limit:
                return await function(*arguments)
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise HandlerTimeout(f"still running after {timeout_s:g} s") from error

    call.__qualname__ = getattr(function, "__qualname__", "handler")
    return call
