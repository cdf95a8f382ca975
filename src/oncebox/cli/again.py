"""Commands that have events come again: republish, replay, rebuild."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from ..envelope import STAMP_UNITS_PER_US
from ..errors import ConfigurationError, NotFound
from ..program import Program, call
from .common import (
    NO_OPTIONS,
    Flag,
    Located,
    Many,
    Options,
    chosen,
    desk_of,
    locate,
    log_of,
    log_to_stderr,
    now_ms,
    perform,
    store_of,
)
from .output import line, note, say

if TYPE_CHECKING:
    from ..desk import Desk
    from ..ports import Log
    from ..session import Session


# ---- republish


def republish(
    *,
    source: str,
    key: str,
    from_: Annotated[int, Parameter(name="--from")] = 1,
    to: int | None = None,
    dry_run: Flag = False,
    options: Options = NO_OPTIONS,
) -> int:
    """Publish a source's events again, on the producer's side: for consumers that miss some.

    Whoever has them already drops them as duplicates. Events that retention has taken out of the
    outbox cannot be published again.

    For example:

        oncebox republish --source /shop/orders --key o-1 --from 3 --to 4

    Parameters
    ----------
    source:
        `/shop/orders`.
    key:
        The key.
    from_:
        The first number.
    to:
        The last number; the newest if left out.
    dry_run:
        Only say which.
    """
    from ..rewind import republish as publish
    from ..statements import statements

    log_to_stderr(options)
    located = locate(source.strip("/").partition("/")[0], options)
    store, log = store_of(located), _log(located)

    def work(session: Session) -> Program[list[int]]:
        sql = statements(store.dialect, store.schema)
        numbers = (from_, to)
        return (yield from publish(session, sql, log, source, key, numbers, dry_run=dry_run))

    try:
        done = perform(store, work)
    finally:
        log.close()
    if options.json:
        line({"source": source, "key": key, "numbers": done, "dry_run": dry_run})
    elif done:
        what = "would be published again" if dry_run else "published again"
        say(f"{key}: #{done[0]} to #{done[-1]} {what}")
    if not done:
        raise NotFound(
            f"the outbox has no event of {key} from {from_} on", source=source, key=key,
            hint="retention may have dropped it: give it up with oncebox skip",
        )  # fmt: skip
    return 0


# ---- replay, rebuild


def replay(
    consumer: str,
    /,
    *,
    from_: Annotated[str, Parameter(name="--from")],
    topic: str | None = None,
    because: str = "no reason given",
    dry_run: Flag = False,
    options: Options = NO_OPTIONS,
) -> int:
    """Read the log again from an earlier place. Changes no state: what was done is a duplicate.

    For filling in what expired or was lost on the way, and for checking that nothing changes.
    Positions are only ever set back.

    For example:

        oncebox replay billing --from start
        oncebox replay billing --from 2026-05-03T10:00:00Z --dry-run
        oncebox replay billing --topic orders --from 2h

    Parameters
    ----------
    consumer:
        `billing`, or `billing.mail`.
    from_:
        `start`, a time (ISO 8601), or how long ago: 90s, 30min, 2h, 7d.
    topic:
        This topic only.
    because:
        Why, for the journal.
    dry_run:
        Only say what would be read again.
    """
    from ..rewind import replay as set_back

    log_to_stderr(options)
    located = locate(consumer, options)
    store = store_of(located)
    log = _log(located)
    time_ms = when_ms(from_)

    def work(session: Session) -> Program[Any]:
        desk = desk_of(store, session, consumer)
        rows = yield from call(session.run, desk.sql["cursor_rows"], (consumer,))
        topics = {row[0] for row in rows if topic is None or row[0] == topic}
        offsets = {
            (name, partition): max(offset, extent.start)
            for name in topics
            for partition, (offset, extent) in enumerate(
                zip(log.offsets_at(name, time_ms), log.extents(name), strict=True)
            )
        }
        return (yield from set_back(desk, offsets, because, dry_run=dry_run))

    try:
        moved = perform(store, work)
    finally:
        log.close()
    for one in moved:
        if options.json:
            line({"consumer": consumer, "dry_run": dry_run, **one._asdict()})
        else:
            say(f"{one.topic}/{one.partition}: from {one.to:,} instead of {one.position:,}")
    if not moved and not options.json:
        say("nothing to read again from there")
    return 0


def _log(located: Located) -> Log:
    log = log_of(located)
    if log is None:
        raise ConfigurationError(
            "the log is not known", expected="--log URL, ONCEBOX_LOG, or the configuration"
        )
    return log


def when_ms(text: str) -> int:
    """`start`, a time, or how long ago, in Unix milliseconds. Raises ConfigurationError."""
    if text == "start":
        return 0
    ago = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)", text)
    if ago is not None:
        unit_s = {"s": 1, "min": 60, "h": 3600, "d": 86400}[ago[2]]
        return now_ms() - int(float(ago[1]) * unit_s * 1000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"--from {text!r}", expected="start, a time such as 2026-05-03T10:00:00Z, or 2h"
        ) from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def rebuild(
    consumer: str,
    /,
    *,
    clear: Many = None,
    cleared: Flag = False,
    new: Flag = False,
    finish: Flag = False,
    perform_effects: Flag = False,
    because: str = "no reason given",
    yes: Flag = False,
    options: Options = NO_OPTIONS,
) -> int:
    """Make a consumer's state anew from the log: its handlers run again for every event.

    What the consumer has done is forgotten, so what its handlers wrote has to be emptied too: by
    --clear, in the same transaction. While it catches up, what its handlers emit is left out, and
    effects outside the database reuse the results of the first time. Safe while it runs.

    For example:

        oncebox rebuild billing --clear "DELETE FROM owed" --yes
        oncebox rebuild billing.v2 --new
        oncebox rebuild billing --finish

    Parameters
    ----------
    consumer:
        `billing`, or `billing.v2`.
    clear:
        One SQL statement that empties what its handlers write; may be repeated.
    cleared:
        There is nothing to empty, or it was done, with the consumer stopped.
    new:
        A consumer that never ran: it begins like a rebuild.
    finish:
        From now on everything is performed, also for events that are still to be taken again.
    perform_effects:
        Emit, and have effects outside the database, again for every event.
    because:
        Why, for the journal.
    yes:
        Do not ask.
    """
    log_to_stderr(options)
    located = locate(consumer, options)
    if new or finish:
        return _begin_or_finish(located, consumer, options, because, new=new)
    if not clear and not cleared:
        raise ConfigurationError(
            "a rebuild applies every event again, on top of what is there",
            expected='--clear "DELETE FROM …" for what its handlers write, or --cleared',
        )
    if not yes and not _agreed(f"Forget what {consumer} has done, and build it anew?"):
        note("nothing was changed")
        return 1
    from ..rewind import rebuild as build

    store, log = store_of(located), _log(located)

    def work(session: Session) -> Program[Any]:
        desk = desk_of(store, session, consumer)
        ends = yield from _ends(desk, log)
        return (yield from build(desk, ends, clear or (), because, perform=perform_effects))

    try:
        moved = perform(store, work)
    finally:
        log.close()
    if options.json:
        line({"action": "rebuild", "consumer": consumer, "partitions": len(moved)})
    else:
        say(f"{consumer} reads {len(moved)} partitions anew; see: oncebox status {consumer}")
    return 0


def _ends(desk: Desk, log: Log) -> Program[dict[tuple[str, int], int]]:
    rows = yield from call(desk.session.run, desk.sql["cursor_rows"], (desk.consumer,))
    ends = {}
    for topic in sorted({row[0] for row in rows}):
        extents = log.extents(topic)
        ends.update({(topic, partition): e.end for partition, e in enumerate(extents)})
        lost = [p for p, extent in enumerate(extents) if extent.start > 0]
        if lost:
            note(f"{topic}: the log no longer begins at 0 in {len(lost)} partitions: keys with"
                 " older events will wait as gaps")  # fmt: skip
    return ends


def _begin_or_finish(
    located: Located, consumer: str, options: Options, because: str, *, new: bool
) -> int:
    from ..rewind import finish, prepare

    store = store_of(located)
    if not new:
        count = perform(store, lambda s: finish(desk_of(store, s, consumer), because))
        if options.json:
            line({"action": "finish", "consumer": consumer, "partitions": count})
        else:
            say(f"{consumer}: {count} partitions were being rebuilt")
        return 0
    service = located.service
    if service is None:
        service = next(s for s in chosen(options, ()) if s.name == located.name)
    found = service.consumers.get(consumer)
    if found is None:
        raise NotFound(f"no consumer {consumer}", expected=", ".join(sorted(service.consumers)))
    log = _log(located)
    try:
        ends = {
            (topic, partition): extent.end
            for topic in found.streams
            for partition, extent in enumerate(log.extents(topic))
        }
    finally:
        log.close()
    start = found.settings.start
    floor = 0 if start is None else stamp_at(int(start.timestamp() * 1000))
    desk = partial(desk_of, store, consumer=consumer)
    had = stamp_at(now_ms())
    perform(store, lambda s: prepare(desk(session=s), floor, had, ends, because))
    if options.json:
        line({"action": "new", "consumer": consumer, "partitions": len(ends)})
    else:
        say(f"{consumer} will build its state from {len(ends)} partitions when it runs")
    return 0


def stamp_at(ms: int) -> int:
    """The stamp of a moment, in Unix milliseconds."""
    return ms * 1000 * STAMP_UNITS_PER_US


def _agreed(question: str) -> bool:
    """Ask on a terminal; anywhere else, --yes has to be given."""
    if not sys.stdin.isatty():
        raise ConfigurationError(question, expected="--yes, since nobody can be asked here")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
