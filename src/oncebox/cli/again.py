"""Commands that have events come again: republish, replay, rebuild."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

from ..envelope import STAMP_UNITS_PER_US
from ..errors import ConfigurationError, NotFound, Refused
from ..operate import rewind
from ..operate.desk import Desk, now_ms
from ..operate.rewind import Moved
from ..operate.summary import summary
from ..ports import Extent, TopicPartition
from ..program import Program
from ..service.places import Place, chosen, locate
from ..session import Session
from ..statements import statements
from .options import UNSAID, Because, DryRun, Name, Texts, said
from .output import counted, note, progress, say, tell

FromNumber = Annotated[int, said("The first number.", name="--from")]
ToNumber = Annotated[int | None, said("The last number; else up to the newest.")]
Since = Annotated[str, said("start, an ISO time, or 90s, 30min, 2h, 7d.", name="--from")]
Topic = Annotated[str | None, said("This topic only.")]
Wait = Annotated[bool, said("Stay until it is read, and say how far it is.")]
LOOK_S = 0.5
ALONE_LOOKS = 10
"""After how many looks without any reader it is said that there is none: leases change hands."""


def republish(
    *,
    source: str,
    key: str,
    from_: FromNumber = 1,
    to: ToNumber = None,
    dry_run: DryRun = False,
) -> None:
    """Publish events of a source's key again, for consumers that miss some.

    Whoever has them already drops them as duplicates. What retention has taken out
    of the outbox cannot be published again.

    For example:

        oncebox republish --source /shop/orders --key o-1 --from 3 --to 4
    """
    place = locate(source.strip("/").partition("/")[0])
    with place.open_log() as log, progress(key) as told:

        def work(session: Session) -> Program[list[int]]:
            sql, numbers = statements(session.dialect, place.schema), (from_, to)
            return rewind.republish(
                session, sql, log, source, key, numbers, dry_run=dry_run, told=told
            )

        done = place.perform(work)
    if not done:
        raise NotFound(
            f"the outbox has no event of {key} from {from_} on", source=source, key=key,
            hint="retention may have dropped it: give it up with oncebox skip",
        )  # fmt: skip
    text = f"{key}: #{done[0]} to #{done[-1]} {'would be ' if dry_run else ''}published again"
    tell({"source": source, "key": key, "numbers": done, "dry_run": dry_run}, text)


# ---- replay


def replay(
    consumer: Name,
    /,
    *,
    from_: Since,
    topic: Topic = None,
    because: Because = UNSAID,
    wait: Wait = False,
    dry_run: DryRun = False,
) -> None:
    """Read the log again from an earlier place. Changes no state.

    What was done is a duplicate. For filling in what expired or was lost on the
    way, and for checking that nothing changes. Positions are only ever set back.

    For example:

        oncebox replay billing --from start --wait
        oncebox replay billing --from 2026-05-03T10:00:00Z --dry-run
        oncebox replay billing --topic orders --from 2h
    """
    place, time_ms = locate(consumer), when_ms(from_)
    with place.open_log() as log:

        def work(desk: Desk) -> Program[list[Moved]]:
            offsets = yield from rewind.offsets_at(desk, log, time_ms, topic)
            return (yield from rewind.replay(desk, offsets, because, dry_run=dry_run))

        moved = place.at_desk(consumer, work)
    for one in moved:
        text = f"{one.topic}/{one.partition}: from {one.to:,} instead of {one.position:,}"
        tell({"consumer": consumer, "dry_run": dry_run, **one._asdict()}, text)
    if not moved:
        say("nothing to read again from there")
    elif wait and not dry_run:
        _wait(place, consumer, {(m.topic, m.partition): (m.to, m.position or 0) for m in moved})


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
            f"{text!r} is no time", expected="start, a time such as 2026-05-03T10:00:00Z, or 2h"
        ) from None
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def _wait(place: Place, consumer: str, spans: Mapping[TopicPartition, tuple[int, int]]) -> None:
    """Say how far a consumer is, until it has read its partitions from the first of these offsets
    up to the second.
    """
    total = sum(end - start for start, end in spans.values())
    alone = 0
    with progress(consumer) as told:
        while True:
            one = place.at_desk(consumer, summary)
            at = {(p.topic, p.partition): p.position or 0 for p in one.partitions}
            done = sum(min(max(at[p], start), end) - start for p, (start, end) in spans.items())
            told(done, total)
            if done >= total:
                break
            alone = 0 if one.holders else alone + 1
            if alone == ALONE_LOOKS:
                note(f"nobody reads for {consumer} now: oncebox run")
            time.sleep(LOOK_S)
    note(f"{consumer} has read {counted(total, 'record')} again")


# ---- rebuild

Clear = Annotated[Texts, said("A statement that empties what handlers write; repeatable.")]
Cleared = Annotated[bool, said("Nothing to empty, or done, with the consumer stopped.")]
New = Annotated[bool, said("A consumer that never ran: it begins like a rebuild.")]
Adopt = Annotated[str | None, said("A database without its tables: all before this is done.")]
Finish = Annotated[bool, said("From now on everything is performed, also in a rebuild.")]
Effects = Annotated[bool, said("Emit, and have outside effects, again for every event.")]
Yes = Annotated[bool, said("Do not ask.")]


def rebuild(
    consumer: Name,
    /,
    *,
    clear: Clear = None,
    cleared: Cleared = False,
    new: New = False,
    adopt: Adopt = None,
    finish: Finish = False,
    perform_effects: Effects = False,
    because: Because = UNSAID,
    wait: Wait = False,
    yes: Yes = False,
) -> None:
    """Make a consumer's state anew from the log: its handlers run for every event.

    What the consumer has done is forgotten, so what its handlers wrote has to be
    emptied too: by --clear, in the same transaction. While it catches up, what its
    handlers emit is left out, and effects outside the database reuse the results
    of the first time. Safe while it runs.

    For example:

        oncebox rebuild billing --clear "DELETE FROM owed" --yes --wait
        oncebox rebuild billing.v2 --new
        oncebox rebuild billing --adopt 2026-05-03T10:00:00Z
        oncebox rebuild billing --finish

    --adopt is for a database that was restored without oncebox's tables, where the
    consumer refuses to begin: start (nothing is done there), an ISO time, or 2h.
    """
    if new:
        _begin(consumer, because)
    elif adopt is not None:
        _adopt(consumer, adopt, because)
    elif finish:
        _finish(consumer, because)
    elif not clear and not cleared:
        raise ConfigurationError(
            "a rebuild applies every event again, on top of what is there",
            expected='--clear "DELETE FROM …" for what its handlers write, or --cleared',
        )
    elif not yes and not _agreed(f"Forget what {consumer} has done, and build it anew?"):
        raise Refused("nothing was changed")
    else:
        spans = _rebuild(consumer, clear or [], because, perform=perform_effects)
        if wait:
            _wait(locate(consumer), consumer, spans)


def _rebuild(
    consumer: str, clear: list[str], because: str, *, perform: bool
) -> dict[TopicPartition, Extent]:
    place = locate(consumer)
    with place.open_log() as log:

        def work(desk: Desk) -> Program[dict[TopicPartition, Extent]]:
            known = yield from rewind.extents(desk, log)
            ends = {at: extent.end for at, extent in known.items()}
            yield from rewind.rebuild(desk, ends, clear, because, perform=perform)
            return known

        known = place.at_desk(consumer, work)
    for (topic, partition), extent in known.items():
        if extent.start:
            note(f"{topic}/{partition}: the log begins at {extent.start:,}: keys with older events"
                 " will wait as gaps")  # fmt: skip
    _report("rebuild", consumer, len(known), f"are read anew: oncebox status {consumer}")
    return known


def _begin(consumer: str, because: str) -> None:
    known = {name: found for service in chosen(()) for name, found in service.consumers.items()}
    if consumer not in known:
        raise NotFound(f"no consumer {consumer}", expected=f"one of {', '.join(sorted(known))}")
    place, found, start = locate(consumer), known[consumer], known[consumer].settings.start
    with place.open_log() as log:
        ends = {
            (topic, partition): extent.end
            for topic in found.streams
            for partition, extent in enumerate(log.extents(topic))
        }
    floor = 0 if start is None else _stamp_at(int(start.timestamp() * 1000))
    had = _stamp_at(now_ms())
    place.at_desk(consumer, lambda desk: rewind.prepare(desk, floor, had, ends, because))
    _report("new", consumer, len(ends), "will be read as in a rebuild, when it runs")


def _adopt(consumer: str, before: str, because: str) -> None:
    floor = _stamp_at(when_ms(before))
    why = f"{because}; what was emitted before {before} is done here"
    locate(consumer).at_desk(consumer, lambda desk: rewind.prepare(desk, floor, -1, {}, why))
    document = {"action": "adopt", "consumer": consumer, "before": before}
    done = "nothing" if before == "start" else f"what was emitted before {before}"
    tell(document, f"{consumer}: {done} is done here; it begins when it runs")


def _finish(consumer: str, because: str) -> None:
    count = locate(consumer).at_desk(consumer, lambda desk: rewind.finish(desk, because))
    _report("finish", consumer, count, "were in a rebuild; from now on all is performed")


def _report(action: str, consumer: str, count: int, text: str) -> None:
    document = {"action": action, "consumer": consumer, "partitions": count}
    tell(document, f"{consumer}: {counted(count, 'partition')} {text}")


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
