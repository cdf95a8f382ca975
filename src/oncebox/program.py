"""Programs: logic that asks for every effect instead of performing it.

A program is a generator that yields calls, `(function, arguments)`, and is sent their results.
The few lines below run one synchronously or asynchronously; the explorer runs the same programs
with crashes and preemptions between any two calls. So relay and consumer exist once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from inspect import isawaitable
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

Call = tuple[Callable[..., Any], tuple[Any, ...]]
Program = Generator[Call, Any, T]


def call(function: Callable[..., Awaitable[T] | T], *arguments: Any) -> Program[T]:
    """`result = yield from call(f, x)`: ask for one effect, typed."""
    result: T = yield function, arguments
    return result


def drive(
    program: Program[T], called: Callable[[Callable[..., Any], tuple[Any, ...]], Any] | None = None
) -> T:
    """Run a program whose calls are plain functions; `called`: who calls them, if not we."""
    try:
        function, arguments = next(program)
        while True:
            try:
                result = function(*arguments) if called is None else called(function, arguments)
            except BaseException as error:
                function, arguments = program.throw(error)
            else:
                function, arguments = program.send(result)
    except StopIteration as stop:
        done: T = stop.value
        return done


async def drive_async(program: Program[T]) -> T:
    """Run a program whose calls may return awaitables."""
    try:
        function, arguments = next(program)
        while True:
            try:
                result = function(*arguments)
                if isawaitable(result):
                    result = await result
            except BaseException as error:
                function, arguments = program.throw(error)
            else:
                function, arguments = program.send(result)
    except StopIteration as stop:
        done: T = stop.value
        return done


def perform(program: Program[Any], *, asynchronous: bool) -> Any:
    """Run a program now, or return the coroutine that does."""
    return drive_async(program) if asynchronous else drive(program)
