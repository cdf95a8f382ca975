"""Handlers called: for one event, or for a list of them; and what their failures mean.

Batch handlers get their events as lists. An event is put on its handler's list where it would be
performed, and the list is run when something must come behind it: another handler's event of a key
on it, an event that waits for one of its keys, or the end. Carefully, each list has one event.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from traceback import walk_tb
from typing import Any

from ..context import Context, rebuilding
from ..errors import DecodeFailed, HandlerBroke, UnknownSchema
from ..program import Program, call
from ..stores.base import trouble
from .keys import Entry, Listed
from .reading import Handler, Item, Place, Reading, decoded


class Setback(Exception):
    """A handler failed in a batch that ran together: undo it and run carefully; or, if it was a
    list of `several` events that failed, with fewer. `event`: place, sequence and stamp, where one
    handler failed.
    """

    def __init__(
        self,
        what: str = "",
        *,
        event: tuple[Place, int, int] | None = None,
        several: bool = False,
    ) -> None:
        super().__init__(what)
        self.event = event
        self.several = several

    def before(self, items: Sequence[Item]) -> int:
        """How many of these items come before the one that failed; 0 if it is none of them."""
        events = ((item.place, *item.link[:2]) if item.bad is None else None for item in items)
        return next((n for n, event in enumerate(events) if event and event == self.event), 0)


class Calls:
    """The calls of one batch; `applied` counts the events of lists that have run."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.applied = 0
        self.lists: dict[str, Listed] = {}  # those that are open, by the type of their handler

    # ---- one event

    def invoke(self, entry: Entry, item: Item, handler: Handler) -> Program[None]:
        """Decode and call. Raises what the handler raises, DecodeFailed, Suspend."""
        had = item.link.stamp <= entry.had
        event = decoded(handler, item)
        arguments: tuple[Any, ...] = (self.reading.session.handle,)
        arguments += ([event] if handler.listed else event,)
        context: Context[Any] | None = None
        if handler.with_context:
            context = self.context(entry, item, had=had, listed=handler.listed)
            arguments += ([context] if handler.listed else context,)
        yield from self.run_handler(handler, arguments, had=had)
        if context is not None and context.suspended is not None:
            raise HandlerBroke(
                f"{handler.name} caught what `once` raised",
                event=context.id,
                hint="catch Exception, not BaseException, around once()",
            )

    def context(self, entry: Entry, item: Item, *, had: bool, listed: bool) -> Context[Any]:
        reading, envelope = self.reading, item.envelope
        done = reading.effects.get((envelope.source, envelope.id), {})
        return Context(
            envelope, item.record, reading.consumer, entry.attempts + 1, reading.state, done,
            rebuilding=had, listed=listed,
        )  # fmt: skip

    def run_handler(
        self, handler: Handler, arguments: tuple[Any, ...], *, had: bool
    ) -> Program[None]:
        """Call it; for what was had before, quietly."""
        reading = self.reading
        if had:  # what the handler's own SQL emits, too; a failure undoes this as well
            yield from call(reading.session.send, reading.sql["quiet"], ("on",))
        rebuilding.set(had)
        try:
            yield handler.function, arguments
        finally:
            rebuilding.set(False)
        if had:
            yield from call(reading.session.send, reading.sql["quiet"], ("off",))

    # ---- lists

    def join_list(self, entry: Entry, item: Item, handler: Handler) -> bool:
        """Put an event that was not had before on the open list of its type, if nothing has to run
        first and it can be read. False: that is for `put_on_list`.
        """
        mine, last = self.lists.get(handler.type.type), entry.listed
        if (
            mine is None
            or mine.had
            or handler.with_context
            or len(mine.events) >= self.reading.settings.list_max
            or (last is not None and last is not mine and last.open)
        ):
            return False
        try:
            event = decoded(handler, item)
        except DecodeFailed:
            return False
        entry.listed = mine
        mine.items.append(item)
        mine.events.append(event)
        return True

    def put_on_list(self, entry: Entry, item: Item, handler: Handler) -> Program[str | None]:
        """Have an event performed with others of its type. Why it cannot be: it is not as its
        handler takes it.
        """
        try:
            event = decoded(handler, item)
        except UnknownSchema:  # not its own fault, as others are: see `perform_alone`
            raise
        except DecodeFailed as error:
            return describe(error)
        yield from self.cut_list(entry, handler)
        had = item.link.stamp <= entry.had
        mine = self.lists.get(handler.type.type)
        if mine is not None and (
            mine.had is not had or len(mine.events) >= self.reading.settings.list_max
        ):
            yield from self.perform_list(mine)
            mine = None
        if mine is None:
            mine = self.lists[handler.type.type] = Listed(handler, had=had)
        entry.listed = mine
        mine.items.append(item)
        mine.events.append(event)
        if handler.with_context:
            mine.contexts.append(self.context(entry, item, had=had, listed=True))
        return None

    def cut_list(self, entry: Entry, handler: Handler | None = None) -> Program[None]:
        """Run the list that has an event of this key, unless it is the one of this handler."""
        listed = entry.listed
        if listed is not None and listed.open and listed.handler is not handler:
            yield from self.perform_list(listed)

    def perform_list(self, listed: Listed) -> Program[None]:
        """Run a batch handler for its list, without a savepoint; any failure undoes the batch."""
        handler, reading = listed.handler, self.reading
        listed.open = False
        del self.lists[handler.type.type]
        arguments: tuple[Any, ...] = (reading.session.handle, listed.events)
        if handler.with_context:
            arguments += (listed.contexts,)
        setback = Setback(several=len(listed.items) > 1)
        try:
            yield from self.run_handler(handler, arguments, had=listed.had)
        except Exception as error:
            if is_outage(error):  # counted for each: the one that meets it alone is soon found
                met = [reading.gives_up(item.place, item.link) for item in listed.items]
                if not any(met):
                    raise
            raise setback from error
        lost = reading.session.lost
        if lost is not None and lost():
            raise setback
        self.applied += len(listed.items)

    def perform_lists(self) -> Program[None]:
        """Run all that are open."""
        for listed in list(self.lists.values()):
            yield from self.perform_list(listed)


def describe(error: BaseException) -> str:
    """An exception in one line, for people who will decide what to do with the event."""
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


NOT_THEIRS = {"oncebox", *sys.stdlib_module_names}


def blame(error: BaseException) -> str:
    """A handler's failure in one line, with the last line of its own package that ran: all that
    whoever looks at parked keys can see.
    """
    lines = [(f.f_globals.get("__name__", ""), n) for f, n in walk_tb(error.__traceback__)]
    packages = [module.partition(".")[0] for module, _ in lines]
    theirs = next((package for package in packages if package not in NOT_THEIRS), None)
    ran = [line for package, line in zip(packages, lines, strict=True) if package == theirs]
    return describe(error) + (f" ({ran[-1][0]}:{ran[-1][1]})" if ran else "")


def is_outage(error: BaseException) -> bool:
    """Whether a handler's failure is nobody's fault: spend no attempt, wait and try again."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return getattr(error, "retryable", False) is True or trouble(error) != "other"
