"""Commands that have events come again: republish, replay, rebuild."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ..envelope import STAMP_UNITS_PER_US
from ..errors import ConfigurationError, NotFound
from ..program import Program
from .common import UNSAID, Because, DryRun, Name, Place, chosen, locate, now_ms
from .output import counted, note, progress, say, tell

if TYPE_CHECKING:
    from ..desk import Desk
    from ..ports import Extent, TopicPartition
    from ..rewind import Moved
    from ..session import Session

Wait = Annotated[bool, Parameter(help="Stay until it is read, and say how far it is.")]
LOOK_S = 0.5


# ---- republish


def republish(
    *,
    source: str,
    key: str,
    from_: Annotated[int, Parameter(name="--from")] = 1,
    to: int | None = None,
    dry_run: DryRun = False,
) -> int:
    """Publish a source's events again, on the producer's side: for consumers that
    miss some.

    Whoever has them already drops them as duplicates. What retention has taken out of
    the outbox cannot be published again.

    For example:

        oncebox republish --source /shop/orders --key o-1 --from 3 --to 4

    Parameters
    ----------
    source:
        Such as /shop/orders.
    key:
        The key.
    from_:
        The first number.
    to:
        The last number; the newest if left out.
    """
    from ..rewind import republish as publish
    from ..statements import statements

    place = locate(source.strip("/").partition("/")[0])
    with place.open_log() as log, progress(key) as told:

        def work(session: Session) -> Program[list[int]]:
            sql = statements(session.dialect, place.schema)
            numbers = (from_, to)
            return publish(session, sql, log, source, key, numbers, dry_run=dry_run, told=told)

        done = place.perform(work)
    if not done:
        raise NotFound(
            f"the outbox has no event of {key} from {from_} on", source=source, key=key,
            hint="retention may have dropped it: give it up with oncebox skip",
        )  # fmt: skip
    what = "would be published again" if dry_run else "published again"
    text = f"{key}: #{done[0]} to #{done[-1]} {what}"
    tell({"source": source, "key": key, "numbers": done, "dry_run": dry_run}, text)
    return 0


# ---- replay


def replay(
    consumer: Name,
    /,
    *,
    from_: Annotated[str, Parameter(name="--from")],
    topic: str | None = None,
    because: Because = UNSAID,
    wait: Wait = False,
    dry_run: DryRun = False,
) -> int:
    """Read the log again from an earlier place. Changes no state: what was done is a
    duplicate.

    For filling in what expired or was lost on the way, and for checking that nothing
    changes. Positions are only ever set back.

    For example:

        oncebox replay billing --from start --wait
        oncebox replay billing --from 2026-05-03T10:00:00Z --dry-run
        oncebox replay billing --topic orders --from 2h

    Parameters
    ----------
    from_:
        start, a time (ISO 8601), or how long ago: 90s, 30min, 2h, 7d.
    topic:
        This topic only.
    """
    from ..rewind import offsets_at
    from ..rewind import replay as set_back

    place, time_ms = locate(consumer), when_ms(from_)
    with place.open_log() as log:

        def work(desk: Desk) -> Program[list[Moved]]:
            offsets = yield from offsets_at(desk, log, time_ms, topic)
            return (yield from set_back(desk, offsets, because, dry_run=dry_run))

        moved = place.at_desk(consumer, work)
    for one in moved:
        text = f"{one.topic}/{one.partition}: from {one.to:,} instead of {one.position:,}"
        tell({"consumer": consumer, "dry_run": dry_run, **one._asdict()}, text)
    if not moved:
        say("nothing to read again from there")
    elif wait and not dry_run:
        _wait(place, consumer, {(m.topic, m.partition): (m.to, m.position or 0) for m in moved})
    return 0


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


def _wait(place: Place, consumer: str, spans: Mapping[TopicPartition, tuple[int, int]]) -> None:
    """Say how far a consumer is, until it has read its partitions from the first of these offsets
    up to the second.
    """
    from ..summary import summary

    total = sum(end - start for start, end in spans.values())
    with progress(consumer) as told:
        idle = done = 0
        while done < total:
            one = place.at_desk(consumer, summary)
            at = {(p.topic, p.partition): p.position or 0 for p in one.partitions}
            done = sum(min(max(at[p], start), end) - start for p, (start, end) in spans.items())
            told(done, total)
            idle = 0 if one.holders else idle + 1
            if idle == 1:
                note(f"nobody reads for {consumer} now: oncebox run")
            time.sleep(LOOK_S if done < total else 0)
    note(f"{consumer} has read {counted(total, 'record')} again")


# ---- rebuild


def rebuild(
    consumer: Name,
    /,
    *,
    clear: list[str] | None = None,
    cleared: bool = False,
    new: bool = False,
    finish: bool = False,
    perform_effects: bool = False,
    because: Because = UNSAID,
    wait: Wait = False,
    yes: bool = False,
) -> int:
    """Make a consumer's state anew from the log: its handlers run again for every
    event.

    What the consumer has done is forgotten, so what its handlers wrote has to be
    emptied too: by --clear, in the same transaction. While it catches up, what its
    handlers emit is left out, and effects outside the database reuse the results of
    the first time. Safe while it runs.

    For example:

        oncebox rebuild billing --clear "DELETE FROM owed" --yes --wait
        oncebox rebuild billing.v2 --new
        oncebox rebuild billing --finish

    Parameters
    ----------
    clear:
        A statement that empties what its handlers write; may be repeated.
    cleared:
        There is nothing to empty, or it was done, with the consumer stopped.
    new:
        A consumer that never ran: it begins like a rebuild.
    finish:
        From now on everything is performed, also for events still to be taken again.
    perform_effects:
        Emit, and have effects outside the database, again for every event.
    yes:
        Do not ask.
    """
    if new:
        return _begin(consumer, because)
    if finish:
        return _finish(consumer, because)
    if not clear and not cleared:
        raise ConfigurationError(
            "a rebuild applies every event again, on top of what is there",
            expected='--clear "DELETE FROM …" for what its handlers write, or --cleared',
        )
    place = locate(consumer)
    if not yes and not _agreed(f"Forget what {consumer} has done, and build it anew?"):
        note("nothing was changed")
        return 1
    from ..rewind import extents
    from ..rewind import rebuild as build

    with place.open_log() as log:

        def work(desk: Desk) -> Program[dict[TopicPartition, Extent]]:
            known = yield from extents(desk, log)
            ends = {at: extent.end for at, extent in known.items()}
            yield from build(desk, ends, clear or (), because, perform=perform_effects)
            return known

        known = place.at_desk(consumer, work)
    for (topic, partition), extent in known.items():
        if extent.start:
            note(f"{topic}/{partition}: the log begins at {extent.start:,}: keys with older events"
                 " will wait as gaps")  # fmt: skip
    text = f"{consumer} reads {counted(len(known), 'partition')} anew: oncebox status {consumer}"
    tell({"action": "rebuild", "consumer": consumer, "partitions": len(known)}, text)
    if wait:
        _wait(place, consumer, known)
    return 0


def _begin(consumer: str, because: str) -> int:
    from ..rewind import prepare

    service = next((s for s in chosen(()) if consumer in s.consumers), None)
    if service is None:
        known = sorted(name for s in chosen(()) for name in s.consumers)
        raise NotFound(f"no consumer {consumer}", expected=", ".join(known))
    place, found = locate(consumer), service.consumers[consumer]
    with place.open_log() as log:
        ends = {
            (topic, partition): extent.end
            for topic in found.streams
            for partition, extent in enumerate(log.extents(topic))
        }
    start = found.settings.start
    floor = 0 if start is None else _stamp_at(int(start.timestamp() * 1000))
    had = _stamp_at(now_ms())
    place.at_desk(consumer, lambda desk: prepare(desk, floor, had, ends, because))
    text = f"{consumer} will build its state from {counted(len(ends), 'partition')} when it runs"
    tell({"action": "new", "consumer": consumer, "partitions": len(ends)}, text)
    return 0


def _finish(consumer: str, because: str) -> int:
    from ..rewind import finish

    count = locate(consumer).at_desk(consumer, lambda desk: finish(desk, because))
    text = f"{consumer}: {counted(count, 'partition')} had been read anew"
    tell({"action": "finish", "consumer": consumer, "partitions": count}, text)
    return 0


def _stamp_at(ms: int) -> int:
    """The stamp of a moment, in Unix milliseconds."""
    return ms * 1000 * STAMP_UNITS_PER_US


def _agreed(question: str) -> bool:
    """Ask on a terminal; anywhere else, --yes has to be given."""
    if not sys.stdin.isatty():
        raise ConfigurationError(question, expected="--yes, since nobody can be asked here")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
