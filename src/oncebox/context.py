"""What a handler may know besides the event, and how it reaches systems outside its database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from hashlib import sha256
from typing import Any, Generic, NamedTuple, TypeVar

from .envelope import Envelope, Reference
from .errors import ConfigurationError
from .order import Chain
from .ports import Record

S = TypeVar("S")
R = TypeVar("R")


STEP_CHARACTERS_MAX = 200
"""Of the name of an effect, which is part of a key of the journal."""

rebuilding: ContextVar[bool] = ContextVar("oncebox_rebuilding", default=False)
"""Whether the handler that runs now runs again, in a rebuild: then `emit` writes nothing."""


class Suspend(BaseException):
    """Leaves a handler until the effect that it asked for has been had. Not for users.

    A BaseException, so that a handler's `except Exception` does not swallow it.
    """

    def __init__(self, step: str, effect: Callable[[str], Any]) -> None:
        super().__init__(step)
        self.step = step
        self.effect = effect


class Effect(NamedTuple):
    """A finished effect outside the database: what it returned, as JSON values."""

    result: Any


class Context(Generic[S]):
    """The optional third parameter of a handler, for batch handlers a list of them, one for each
    event; `S` is the type of the application's state.

    `id`, `source`, `key`, `type`, `version`, `time` (UTC), `chain`, `record` (bytes, headers and
    position) describe the event; `attempt` counts from 1; `state` is what the application passed
    to `running(state=…)` or `run`. `rebuilding`: the state is made anew and this event was had
    before (see `oncebox rebuild`), so `emit` writes nothing and `once` calls nobody; whatever
    else the handler does outside its database is for it to leave out.
    """

    __slots__ = (
        "_done", "_envelope", "_scope", "attempt", "listed", "rebuilding", "record", "state",
        "suspended",
    )  # fmt: skip

    def __init__(
        self,
        envelope: Envelope,
        record: Record,
        scope: str,
        attempt: int,
        state: S,
        done: Mapping[str, Effect],
        *,
        rebuilding: bool = False,
        listed: bool = False,
    ) -> None:
        self._envelope = envelope
        self._scope = scope
        self._done = done
        self.record = record
        self.attempt = attempt
        self.state = state
        self.rebuilding = rebuilding
        self.listed = listed
        self.suspended: Suspend | None = None

    @property
    def id(self) -> str:
        return self._envelope.id

    @property
    def source(self) -> str:
        return self._envelope.source

    @property
    def type(self) -> str:
        return self._envelope.type

    @property
    def version(self) -> int | None:
        return self._envelope.version

    @property
    def key(self) -> str | None:
        return self._envelope.key

    @property
    def time(self) -> datetime:
        return self._envelope.time

    @property
    def chain(self) -> Chain | None:
        return self._envelope.chain

    @property
    def traceparent(self) -> str | None:
        return self._envelope.traceparent

    @property
    def reference(self) -> Reference | None:
        """For `emit(…, after=ctx.reference)`: this event. None for events without a chain."""
        envelope = self._envelope
        if envelope.chain is None or envelope.key is None:
            return None
        return Reference(envelope.source, envelope.key, envelope.chain.stamp)

    @property
    def idempotency_key(self) -> str:
        """The same on every try of this event by this consumer, and different for every other."""
        return idempotency_key(self._scope, self._envelope, "")

    def once(self, step: str, effect: Callable[[str], R]) -> R:
        """Have an effect outside the database, and know its result ever after.

        `effect` gets an idempotency key, the same on every try; it may be a coroutine function.
        The first call leaves the handler: intent is committed, `effect` runs with no transaction
        open, its result (JSON values) is committed, and the handler runs again from its first
        line; now `once` returns the result. A crash in between calls `effect` again with the
        same key; so does one that takes longer than `handler_timeout_s`, which is a failure. `step`
        names the effect within this handler. In a rebuild it is not called again: `once` returns
        the result of the first time, or None where this consumer has none.
        Raises ConfigurationError for a name that is too long or not printable, and in a batch
        handler, whose list cannot be left for one event.
        """
        if self.listed:
            raise ConfigurationError(
                "once() in a batch handler", event=self.id, source=self.source, key=self.key,
                hint="an effect outside the database belongs to one event: handle it by on()",
            )  # fmt: skip
        if not 0 < len(step) <= STEP_CHARACTERS_MAX or not step.isprintable():
            raise ConfigurationError(
                f"once({step[:40]!r})", event=self.id, source=self.source, key=self.key,
                expected=f"a name of 1 to {STEP_CHARACTERS_MAX} printable letters",
            )  # fmt: skip
        done = self._done.get(step)
        if done is not None:
            result: R = done.result
            return result
        self.suspended = Suspend(step, effect)
        raise self.suspended


def idempotency_key(scope: str, envelope: Envelope, step: str) -> str:
    """32 hex digits of SHA-256 over consumer, source, id and step."""
    text = f"{scope}\0{envelope.source}\0{envelope.id}\0{step}"
    return sha256(text.encode()).hexdigest()[:32]
