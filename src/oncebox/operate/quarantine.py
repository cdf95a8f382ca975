"""The quarantine: records that could not be read, as they came."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..consumer.batch import Batch
from ..consumer.keys import Entry
from ..consumer.reading import record_of, subscribe, take_in
from ..errors import NotFound, Refused
from ..order import Park
from ..program import Program, call
from .desk import Desk, transact
from .waiting import PAGE_MAX


class Quarantined(NamedTuple):
    """A record that could not be read. `position`: `topic/partition@offset`; `size`: bytes."""

    n: int
    position: str
    reason: str
    at_ms: int
    size: int


def everything(desk: Desk, count_max: int | None = None) -> Program[list[Quarantined]]:
    """A consumer's quarantine, oldest first: the first `count_max`, or all."""
    found: list[Quarantined] = []
    while count_max is None or len(found) < count_max:
        page = yield from quarantined(desk, found[-1].n if found else 0)
        if not page:
            break
        found += page
    return found[:count_max]


def quarantined(desk: Desk, behind: int = 0) -> Program[list[Quarantined]]:
    """Up to PAGE_MAX records of a consumer's quarantine, in the order in which they came."""
    parameters = (desk.consumer, behind, PAGE_MAX)
    rows = yield from call(desk.session.run, desk.sql["quarantine_numbers"], parameters)
    return [Quarantined(n, f"{t}/{p}@{o}", why, ms, size) for n, t, p, o, why, ms, size in rows]


def shown(desk: Desk, n: int) -> Program[Any]:
    """One record of the quarantine, as it came. Raises NotFound."""
    rows = yield from call(desk.session.run, desk.sql["lock_quarantined"], (desk.consumer, n))
    if not rows:
        raise NotFound(
            f"{desk.consumer} has no record {n} in quarantine",
            hint=f"oncebox quarantine list {desk.consumer}",
        )
    return record_of(rows[0][0])


class TakenIn(Batch):
    """Takes events in without running a handler: a running consumer goes on with them."""

    def go_on(self, entry: Entry, *, release: bool = False) -> Program[None]:
        del release
        if entry.state.park is None:
            entry.due_ms, entry.other = self.now_ms, True
        yield from ()


def retry(desk: Desk, n: int) -> Program[str]:
    """Read a record again, as if it came from the log now; what the verdict was.

    Raises Refused while it still cannot be read, and NotFound.
    """

    def work() -> Program[str]:
        record = yield from shown(desk, n)
        reading = yield from desk.reading()
        if record.topic in reading.subscriptions:
            raise Refused(
                f"record {n} is of topic {record.topic}, which others write",
                hint="mend the expressions of its `foreign`, then read it again: oncebox replay"
                f" {desk.consumer}",
            )
        taken = take_in(reading, [record])
        (item,) = taken.items
        if item.bad is not None:
            raise Refused(
                f"record {n} still cannot be read: {item.bad}",
                hint=f"mend what reads it, or: oncebox quarantine drop {desk.consumer} {n}",
            )
        for source, new in taken.new:
            subscription = yield from subscribe(reading, source)
            new.place = (subscription.id, new.place[1])
        batch = TakenIn(reading, [item], {}, {}, careful=True)
        yield from batch.keys.load([item], {})
        entry = batch.keys.entries[item.place]
        before = entry.state
        yield from batch.settle_item(entry, item)
        yield from batch.keys.write()
        for note in batch.notes:
            yield from call(desk.session.run, desk.sql["note"], note)
        yield from call(desk.session.run, desk.sql["drop_quarantined"], (desk.consumer, n))
        if entry.state.park is Park.FORK:
            return "fork"
        return "kept" if len(entry.state.kept) > len(before.kept) else "dropped"

    return (yield from transact(desk, work))


def drop(desk: Desk, n: int, why: str) -> Program[None]:
    """Give a record of the quarantine up; noted in the journal. Raises NotFound."""

    def work() -> Program[None]:
        record = yield from shown(desk, n)
        yield from call(desk.session.run, desk.sql["drop_quarantined"], (desk.consumer, n))
        at = f"{record.topic}/{record.partition}@{record.offset}"
        yield from desk.note("drop", "", "", None, f"{why}; record {n} of quarantine, {at}")

    yield from transact(desk, work)
