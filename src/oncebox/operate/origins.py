"""The stores of sources, as an operator asks them: each is opened when it is needed.

Where a source is one of the consumer's own store, nobody has to say where it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from ..consumer.gaps import Ask, asker
from ..envelope import STAMP_UNITS_PER_US
from ..errors import NotFound, Refused
from ..program import Program, call
from ..session import Session, Store
from ..statements import statements
from .actions import Adopted, accept, consider
from .desk import Desk
from .waiting import Condition, Waiting, Where, pages

logger = logging.getLogger("oncebox.operate")

Opened = tuple[Session, Mapping[str, str]]


class Origins:
    """Sources as seen from a desk. `store_of`: the store of a source, None where nobody said it."""

    def __init__(self, desk: Desk, store_of: Callable[[str], Store | None]) -> None:
        self.desk = desk
        self.store_of = store_of
        self.opened: dict[str, Opened | None] = {}

    def at(self, source: str) -> Program[Opened | None]:
        """A session at the source's store with its statements; None where it is not known."""
        if source not in self.opened:
            desk, store = self.desk, self.store_of(source)
            if store is not None:
                session = yield from call(store.open)
                self.opened[source] = session, statements(store.dialect, store.schema)
            else:
                rows = yield from call(desk.session.run, desk.sql["sources"])
                own = (source,) in rows
                self.opened[source] = (desk.session, desk.sql) if own else None
        return self.opened[source]

    def ask(self, source: str) -> Program[Ask | None]:
        """How to ask a source, or None where its store is not known."""
        found = yield from self.at(source)
        return None if found is None else asker(*found)

    def close(self) -> Program[None]:
        """Close what was opened."""
        for found in self.opened.values():
            if found is not None and found[0] is not self.desk.session:
                yield from call(found[0].close)
        self.opened.clear()


def follow(
    desk: Desk, origins: Origins, place: tuple[str, str], after: int | None, why: str,
    *, dry_run: bool,
) -> Program[Adopted | None]:  # fmt: skip
    """Accept the present history of a (source, key), and have the source give no stamp that would
    look like one of those that were given up. None on a dry run. Raises as `accept` does.
    """
    source, key = place
    found = yield from origins.at(source)
    if found is None:
        raise NotFound(
            f"the store of {source} is not known, and its history is what is accepted",
            source=source,
            hint="--source-store URL, or [services.NAME.sources] in oncebox.toml",
        )
    ask = asker(*found)
    low = yield from consider(desk, source, key, ask, after)
    if dry_run:
        return None
    yield from _raise_low(found, source, max(low, desk.now_ms() * 1000 * STAMP_UNITS_PER_US))
    return (yield from accept(desk, source, key, ask, after, why))


def _raise_low(found: Opened, source: str, low: int) -> Program[None]:
    """Only a clock that is behind could give a stamp below now."""
    session, sql = found
    try:
        yield from call(session.run, sql["raise_low"], (source, low))
    except Exception as error:
        logger.warning(
            "%s could not be told to give no stamp below %d: %s; it matters only if the clock of "
            "that database is behind", source, low, error,
        )  # fmt: skip


def forked(desk: Desk, source: str) -> Program[list[tuple[str, str]]]:
    """(source, key) of all keys of a source that are parked as forks."""
    found: list[tuple[str, str]] = []
    where = Where(source, None, (Condition("kind", contains=False, value="fork"),))

    def note(page: list[Waiting]) -> Program[None]:
        found.extend((one.source, one.key) for one in page)
        yield from ()

    yield from pages(desk, where, note)
    return found


def source_of(desk: Desk, key: str, source: str | None) -> Program[str]:
    """The source of a key that the consumer knows. Raises NotFound, and Refused where several
    sources have it and none was named.
    """
    rows = yield from call(desk.session.run, desk.sql["known_key"], (desk.consumer, key, source))
    if not rows:
        raise NotFound(
            f"{desk.consumer} knows no key {key}", key=key, hint=f"oncebox parked {desk.consumer}"
        )
    if len(rows) > 1:
        raise Refused(
            f"several sources have the key {key}", key=key,
            expected="--source with one of " + ", ".join(row[0] for row in rows),
        )  # fmt: skip
    return str(rows[0][0])
