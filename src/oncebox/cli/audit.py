"""audit: whether outbox, log and inbox agree."""

from __future__ import annotations

import gc
from contextlib import ExitStack
from typing import Annotated, Any

from ..audit.facts import Finding
from ..audit.report import Report
from ..audit.survey import YOUNGER_S, Side, Told
from ..audit.survey import audit as perform
from ..audit.topic import audit_topic
from ..consumer.others import is_foreign
from ..ports import Log
from ..service.places import Place, configured, distinct, everywhere, locate
from .again import when_ms
from .options import said
from .output import clipped, counted, plain, progress, remark, say, table, tell
from .run import GARBAGE_MIN

Names = Annotated[str, said("Services or consumers; if none are named, all.")]
Younger = Annotated[float, said("What is younger is unseen where it is missing, not lost.")]
Since = Annotated[str, said("What was committed from then on: start, an ISO time, 90s, 2h, 7d.")]
Limit = Annotated[int, said("How many findings are shown; --json shows all that are listed.")]


Topic = Annotated[str | None, said("A topic of others instead: by id, key and number.")]
Id = Annotated[str, said("Its ids: header:NAME, $.field of JSON, key, or offset.")]
Key = Annotated[str, said("Its keys.")]
Number = Annotated[str | None, said("What counts 1, 2, 3 along a key, if anything does.")]


def audit(
    *names: Names,
    younger_s: Younger = YOUNGER_S,
    since: Since = "start",
    limit: Limit = 50,
    topic: Topic = None,
    id: Id = "offset",
    key: Key = "key",
    number: Number = None,
) -> int:
    """Whether outbox, log and inbox of running services agree; exit code 3 if not.

    Reads all three once, and what looks wrong once more. Services go on meanwhile,
    and a role that may select is enough. Duplicates that consumers drop are no
    fault. What it may find, and what to do then, is in docs/audit.md.

    For example:

        oncebox audit
        oncebox audit shop billing --since 7d
        oncebox audit --store postgresql://localhost/shop --log kafka://localhost --json
        oncebox audit --topic legacy.payments --id header:x-id --key $.order
    """
    gc.set_threshold(GARBAGE_MIN)
    since_ms = when_ms(since)
    with progress("audit") as told:
        if topic is not None:
            with configured(None).open_log() as log:
                report = audit_topic(log, topic, id=id, key=key, number=number, told=told)
        else:
            report = _audit(names, younger_s, since_ms, told)
    for finding in report.findings:
        tell(plain(finding))
    summary = plain(report._replace(findings=[]))
    tell({"clean": report.clean, **summary})
    _show(report, limit)
    return 0 if report.clean else 3


def _audit(names: tuple[str, ...], younger_s: float, since_ms: int, told: Told) -> Report:
    places = distinct([locate(name) for name in names]) if names else everywhere()
    logs: dict[Any, Log] = {}
    with ExitStack() as stack:
        sides = [_side(place, names, logs, stack) for place in places]
        return perform(sides, younger_s=younger_s, since_ms=since_ms, told=told)


def _side(place: Place, names: tuple[str, ...], logs: dict[Any, Log], stack: ExitStack) -> Side:
    """A place as the audit sees it; a log is opened once for all places."""
    if place.log not in logs:
        logs[place.log] = stack.enter_context(place.open_log())
    return Side(lambda work: place.at_desk("", work), logs[place.log], names)


def _show(report: Report, limit: int) -> None:
    wrong = [one for one in report.findings if not one.settled]
    columns = ("what", "key", "event", "record", "row", "consumer", "why")
    table(columns, [_cells(one) for one in wrong[:limit]])
    for kind in dict.fromkeys(one.kind for one in wrong):
        example = next(one for one in wrong if one.kind == kind)
        remark(f"{kind}, for example:\n  {example.decide}")
    total = sum(report.counts.values())
    if total > limit:
        remark(f"and {total - limit:,} more: --limit, or --json")
    for kind, count in report.settled.items():
        remark(f"{counted(count, kind)}, settled")
    for consumer, count in report.lag.items():
        remark(f"{consumer}: {counted(count, 'record')} not read yet")
    for count, what in (
        (report.unseen, "not in the log yet"),
        (report.waiting, "kept by consumers"),
    ):
        if count:
            remark(f"{counted(count, 'event')} {what}")
    for source in report.unknown:
        what = "its outbox is not known here, so nothing can be called lost"
        if is_foreign(source):
            what = f"others write it, so it was left out: oncebox audit --topic {source}"
        remark(f"{source}: {what}")
    for source, since in report.since.items():
        remark(
            f"{source}: compared from {since} on, before that outbox or log may have dropped events"
        )
    if report.unexamined:
        remark(f"{counted(report.unexamined, 'key')} more differ, and were not looked at")
    read = ", ".join(
        counted(count, noun)
        for count, noun in ((report.rows, "row"), (report.records, "record"), (report.keys, "key"))
    )
    say(f"clean: {read}" if report.clean else f"not clean: {counted(total, 'finding')} in {read}")


def _cells(one: Finding) -> tuple[str | None, ...]:
    place = str(one.sequence) if one.stamp is None else f"{one.sequence}:{one.stamp}"
    return (
        one.kind, f"{one.source} {one.key}", place, one.record, one.row, one.consumer,
        clipped(one.what),
    )  # fmt: skip
