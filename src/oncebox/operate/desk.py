"""An operator's place at a consumer: one session, its statements, and transactions that are run
again when they lose against a consumer that goes on meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..consumer.reading import Reading, Settings, load_subscriptions
from ..order import KeyState, Link
from ..program import Program, T, call
from ..session import Session, Store
from ..statements import statements
from ..stores.base import trouble, typed

NOTES_MAX = 1_000
"""Lines of the journal that one statement brings."""

TRIES_MAX = 8
"""How often a transaction that lost against a consumer's is run again."""


class Note(NamedTuple):
    """A line of the journal: what was done to an event, or to a consumer (key and numbers None)."""

    n: int
    at_ms: int
    what: str
    source: str
    key: str
    sequence: int | None
    stamp: int | None
    id: str | None
    detail: str | None


@dataclass
class Desk:
    """An operator's place: one consumer's rows in one store. `by` goes into the journal."""

    consumer: str
    session: Session
    sql: Mapping[str, str]
    now_ms: Callable[[], int]
    by: str = ""

    def reading(self) -> Program[Reading]:
        """The consumer as its own loop sees it, but without handlers."""
        rows = yield from call(self.session.run, self.sql["cursor_rows"], (self.consumer,))
        topics = tuple(sorted({row[0] for row in rows}))
        reading = Reading(
            consumer=self.consumer, session=self.session, sql=self.sql, handlers={},
            topics=topics, settings=Settings(), now_ms=self.now_ms,
        )  # fmt: skip
        yield from load_subscriptions(reading)
        known = reading.subscriptions.get("")
        reading.floor = 0 if known is None else known.floor
        return reading

    def note(
        self, what: str, source: str, key: str, at: Link | KeyState | None, detail: str
    ) -> Program[None]:
        """A line in the journal: what was done to which event, and by whom."""
        by = f" (by {self.by})" if self.by else ""
        detail = detail if what == "orphaned" else detail + by
        numbers = (None, None, None) if at is None else (at.sequence, at.stamp, str(at.id))
        row = (self.now_ms(), what, self.consumer, source, key, *numbers, detail[:2000])
        yield from call(self.session.run, self.sql["note"], row)


def journal(
    desk: Desk, what: str | None = None, key: str | None = None, count_max: int | None = None
) -> Program[list[Note]]:
    """A consumer's journal, newest first: the newest `count_max` lines, or all; of one kind
    (`what`) or key where they are given.
    """
    found: list[Note] = []
    while count_max is None or len(found) < count_max:
        below = found[-1].n if found else 2**63 - 1
        parameters = (desk.consumer, below, what, key, NOTES_MAX)
        rows = yield from call(desk.session.run, desk.sql["journal"], parameters)
        if not rows:
            break
        found += [Note(*row) for row in rows]
    return found[:count_max]


def at_store(store: Store, make: Callable[[Session], Program[T]]) -> Program[T]:
    """A program over a session of its own. A driver's error becomes one of ours, with what to do,
    where there is something to do.
    """
    session = yield from call(store.open)
    try:
        return (yield from make(session))
    except Exception as error:
        known = typed(error, session)
        if known is error:
            raise
        raise known from error
    finally:
        yield from call(session.close)


def desk_at(store: Store, session: Session, consumer: str, by: str = "") -> Desk:
    """A place at a consumer in this store, by the real clock."""
    sql = statements(store.dialect, store.schema)
    return Desk(consumer, session, sql, now_ms, by)


def belongs(consumer: str, name: str) -> bool:
    """Whether a consumer, `billing.mail`, is of that name, or of the service of that name."""
    return consumer == name or consumer.startswith(f"{name}.")


def now_ms() -> int:
    """Unix milliseconds."""
    return time.time_ns() // 1_000_000


def transact(desk: Desk, work: Callable[[], Program[T]]) -> Program[T]:
    """A program in a transaction of its own; run again when it lost against another."""
    for tries in range(1, TRIES_MAX + 1):
        try:
            yield from call(desk.session.begin)
            result = yield from work()
            yield from call(desk.session.commit)
        except BaseException as error:
            yield from call(desk.session.rollback)
            if trouble(error) != "retry" or tries == TRIES_MAX:
                raise
        else:
            return result
    raise AssertionError("the last try returns or raises")
