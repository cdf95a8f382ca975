"""Having events come again: `republish` on the producer's side, `replay` for a consumer that goes
on as it is, `rebuild` for one that makes its state anew.

Replay and rebuild change positions under a new term, so a batch that is running either commits
before, or is fenced. A replay changes no state: whatever comes again is a duplicate. A rebuild
forgets what the consumer had done, so its own tables have to be emptied in the same transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..errors import NotFound, PublishRefused, Refused
from ..outbox import Envelopes, locate, read_at
from ..ports import Extent, Log, TopicPartition
from ..program import Program, call
from ..session import Session
from ..stores.base import trouble
from .desk import Desk, transact

PUBLISH_S = 30.0

Offsets = Mapping[TopicPartition, int]


class Moved(NamedTuple):
    """A partition that is read again: from `to` instead of `position` (None: not begun)."""

    topic: str
    partition: int
    position: int | None
    to: int


def extents(
    desk: Desk, log: Log, topic: str | None = None
) -> Program[dict[TopicPartition, Extent]]:
    """What the log has of each partition that the consumer reads, or of one of its topics.

    Raises NotFound where it reads none, and Unreachable.
    """
    rows = yield from call(desk.session.run, desk.sql["cursor_rows"], (desk.consumer,))
    topics = sorted({row[0] for row in rows})
    if topic is not None and topic not in topics:
        raise NotFound(
            f"{desk.consumer} reads no topic {topic}", expected=", ".join(topics) or "one that runs"
        )
    found = {}
    for name in topics if topic is None else [topic]:
        known = yield from call(log.extents, name)
        found.update({(name, partition): extent for partition, extent in enumerate(known)})
    return found


def offsets_at(
    desk: Desk, log: Log, time_ms: int, topic: str | None = None
) -> Program[dict[TopicPartition, int]]:
    """Where a moment is in each partition that the consumer reads, or in one of its topics."""
    known = yield from extents(desk, log, topic)
    offsets = {}
    for name in {name for name, _ in known}:
        for partition, offset in enumerate((yield from call(log.offsets_at, name, time_ms))):
            offsets[name, partition] = max(offset, known[name, partition].start)
    return offsets


def replay(desk: Desk, offsets: Offsets, why: str, *, dry_run: bool) -> Program[list[Moved]]:
    """Set positions back to these offsets, never forward: what lies between would be lost.

    Returns the partitions that are read again. Raises NotFound for a consumer without positions.
    """

    def work() -> Program[list[Moved]]:
        moved = []
        for topic, partition, position, _ in (yield from _cursors(desk)):
            to = offsets.get((topic, partition))
            if to is None or position is None or to >= int(position):
                continue
            moved.append(Moved(topic, partition, int(position), to))
            if not dry_run:
                parameters = (desk.consumer, topic, partition, str(to))
                yield from call(desk.session.run, desk.sql["set_back"], parameters)
        if moved and not dry_run:
            places = ", ".join(f"{m.topic}/{m.partition}@{m.to}" for m in moved)
            yield from desk.note("replay", "", "", None, f"{why}; from {places}")
        return moved

    return (yield from transact(desk, work))


def rebuild(
    desk: Desk, ends: Offsets, clear: Sequence[str], why: str, *, perform: bool
) -> Program[list[Moved]]:
    """Forget what the consumer has done and have it read from its start again.

    `clear`: statements that empty what its handlers write, run in the same transaction. `ends`:
    where each partition ends now. Of events that were applied before, what handlers emit and what
    they ask for by `once` is left out, unless `perform`: `emit` writes nothing, `once` returns the
    result of the first time, `oncebox.emit` in their SQL and its triggers writes nothing (but in a
    trigger that is deferred to the commit). Claims stay: they are no events of a log.
    Raises NotFound for a consumer without positions, Refused for a statement that fails.
    """

    def work() -> Program[list[Moved]]:
        session, sql, name = desk.session, desk.sql, desk.consumer
        yield from call(session.run, sql["keep_out"], (name,))
        cursors = yield from _cursors(desk)
        for statement in clear:
            yield from _clear(desk, statement)
        for statement in ("forget_keys", "forget_floors"):  # from here on nobody keeps anything
            yield from call(session.run, sql[statement], (name, perform))
        for statement in ("clear_kept", "clear_quarantine", "end_rebuild", "reset_cursors"):
            yield from call(session.run, sql[statement], (name,))
        moved = []
        for topic, partition, position, _ in cursors:
            moved.append(Moved(topic, partition, None if position is None else int(position), 0))
            yield from _until(desk, {(topic, partition): ends.get((topic, partition), 0)})
        yield from desk.note("rebuild", "", "", None, why)
        return moved

    return (yield from transact(desk, work))


def _clear(desk: Desk, statement: str) -> Program[None]:
    try:
        yield from call(desk.session.run, statement)
    except Exception as error:
        if trouble(error) != "other":
            raise
        first_line = str(error).split("\n")[0]
        raise Refused(f"{statement}: {first_line}", hint="nothing was changed") from error


def prepare(desk: Desk, floor: int, had: int, ends: Offsets, why: str) -> Program[None]:
    """A consumer that never ran is to build its state from the log like a rebuild: of events up to
    the stamp `had`, what its handlers emit and ask for by `once` is left out. `floor`: events below
    that stamp are not run. Raises Refused for one that has begun.
    """

    def work() -> Program[None]:
        rows = yield from call(desk.session.run, desk.sql["cursor_rows"], (desk.consumer,))
        if any(row[2] is not None for row in rows):
            raise Refused(
                f"{desk.consumer} has begun to read",
                hint=f"empty what it writes: oncebox rebuild {desk.consumer} --clear 'DELETE …'",
            )
        parameters = (desk.consumer, floor, had)
        yield from call(desk.session.run, desk.sql["begin_quietly"], parameters)
        yield from _until(desk, ends)
        yield from desk.note("rebuild", "", "", None, why)

    yield from transact(desk, work)


def _until(desk: Desk, ends: Offsets) -> Program[None]:
    for (topic, partition), until in sorted(ends.items()):
        if until:
            parameters = (desk.consumer, topic, partition, until, desk.now_ms())
            yield from call(desk.session.run, desk.sql["begin_rebuild"], parameters)


def finish(desk: Desk, why: str) -> Program[int]:
    """From now on everything a handler asks for is performed, also for events that are taken
    again. Returns how many partitions were being rebuilt.
    """

    def work() -> Program[int]:
        for statement in ("finish_keys", "finish_subscriptions"):
            yield from call(desk.session.run, desk.sql[statement], (desk.consumer,))
        rows = yield from call(desk.session.run, desk.sql["end_rebuild"], (desk.consumer,))
        if rows:
            yield from desk.note("rebuild", "", "", None, f"{why}; finished")
        return len(rows)

    return (yield from transact(desk, work))


def _cursors(desk: Desk) -> Program[list[tuple[str, int, str | None, int]]]:
    rows = yield from call(desk.session.run, desk.sql["lock_cursors"], (desk.consumer,))
    if not rows:
        raise NotFound(
            f"{desk.consumer} has no position in any log",
            expected="a consumer that has run once", hint="oncebox status",
        )  # fmt: skip
    return list(rows)


# ---- the producer's side


def republish(
    session: Session,
    sql: Mapping[str, str],
    log: Log,
    source: str,
    key: str,
    numbers: tuple[int, int | None],
    *,
    dry_run: bool,
    told: Callable[[int, int], None] = lambda done, total: None,  # noqa: ARG005
) -> Program[list[int]]:
    """Publish events of a key again, from the outbox, by number: first and last (None: the newest).
    `told`: is called with how many are done, of how many.

    Consumers drop what they have. Returns the numbers that were published; those that retention
    has dropped are not among them. Raises NotFound for a source that is not one of this store's,
    PublishRefused, Unreachable.
    """
    first, last = numbers
    names = [name for (name,) in (yield from call(session.run, sql["sources"]))]
    if source not in names:
        known = ", ".join(names) or "none yet"
        raise NotFound(f"this store has no source {source}", expected=known)
    located = yield from locate(session, sql, source, key, first)
    wanted = [one for one in located if last is None or one.sequence <= last]
    if dry_run:
        return [one.sequence for one in wanted]
    envelopes = Envelopes()
    done: list[int] = []
    total = len(wanted)
    while wanted:
        page = yield from read_at(session, sql, [one.position for one in wanted])
        if not page:
            break
        rows = [row for row in page if row.id is not None and row.sequence is not None]
        records = [envelopes.record(row) for row in rows]
        refusals = yield from call(log.publish, records, PUBLISH_S)
        if refusals:
            refusal = min(refusals)
            raise PublishRefused(
                f"the log refused number {rows[refusal.at].sequence}: {refusal.reason}",
                source=source, key=key,
                hint=f"numbers up to {done[-1] if done else first - 1} were published",
            )  # fmt: skip
        done += [row.sequence for row in rows if row.sequence is not None]
        told(len(done), total)
        wanted = [one for one in wanted if one.position > page[-1].position]
    return done
