"""Commands that look: status, parked, journal."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from ..errors import NotFound, OnceboxError
from ..operate.desk import Desk, belongs, now_ms
from ..operate.desk import journal as notes
from ..operate.summary import Relay, Summary, consumers, relays, summary, with_lag
from ..operate.waiting import Waiting, pages
from ..program import Program
from ..service.places import Place, distinct, everywhere, locate
from .options import EVERY_KEY, Name, Which, said
from .output import ASKED, clipped, counted, moment, note, plain, remark, say, span, table, tell

Names = Annotated[str, said("Consumers or services; if none are named, all.")]
Limit = Annotated[int, said("How many are shown; --json shows all.")]


def status(*names: Names) -> int:
    """How far consumers and relays are, and what waits.

    Lag in events and seconds, parked keys, gaps open, duplicates dropped, the
    relay's backlog, and who holds the leases. Imports no application where the
    configuration says enough.

    For example:

        oncebox status
        oncebox status billing --json
        oncebox status --store postgresql://localhost/shop
    """
    exit_code = 0
    found: list[Summary] = []
    outboxes: list[Relay] = []
    for place in distinct([locate(name) for name in names]) if names else everywhere():
        summaries, of_services = place.at_desk("", partial(_summaries, names=names))
        outboxes += of_services
        for one in summaries:
            try:
                found.append(_with_lag(place, one))
            except OnceboxError as error:
                note(f"oncebox: lag of {one.name}: {error}")
                found.append(one)
                exit_code = error.exit_code
    shown = [*(one.name for one in found), *(one.service for one in outboxes)]
    missing = [name for name in names if not any(belongs(one, name) for one in shown)]
    if missing:
        raise NotFound(
            f"{', '.join(missing)} has no rows yet", hint="it appears when it has run once"
        )
    for one in found:
        tell({"kind": "consumer", **plain(one)})
    for relay in outboxes:
        tell({"kind": "relay", **plain(relay)})
    _tables(found, outboxes)
    seen: list[Summary | Relay] = [*found, *outboxes]
    for either in seen:
        for what, (value, text) in facts(either).items():
            if value and what not in ("partitions", "retrying", "holder"):
                remark(f"{either[0]}: {text}")
    return exit_code


def _summaries(desk: Desk, names: tuple[str, ...]) -> Program[tuple[list[Summary], list[Relay]]]:
    found = []
    for consumer in (yield from consumers(desk)):
        if not names or any(belongs(consumer, name) for name in names):
            found.append((yield from summary(replace(desk, consumer=consumer))))
    outboxes = yield from relays(desk)
    return found, [one for one in outboxes if not names or one.service in names]


def _with_lag(place: Place, one: Summary) -> Summary:
    if place.log is None or not one.partitions:
        return one
    with place.open_log() as log:
        return with_lag(one, log, now_ms())


def _age(since_ms: int | None) -> str | None:
    return None if since_ms is None else span((now_ms() - since_ms) / 1000)


def _tables(found: list[Summary], relays: list[Relay]) -> None:
    names = ("consumer", "lag", "applied", "duplicates", "parked", "gaps", "kept", "quarantine",
             "held by")  # fmt: skip
    rows = []
    for one in found:
        lag = "?" if one.lag is None else f"{one.lag:,}"
        parked = [f"{count} {kind}" for kind, count in one.parked._asdict().items() if count]
        rows.append((
            one.name, f"{lag} ({span(one.lag_s)})" if one.lag else lag,
            f"{one.counts['applied']:,}", f"{one.counts['duplicates']:,}",
            ", ".join(parked) or "0",
            f"{one.gaps.open} ({_age(one.gaps.since_ms)})" if one.gaps.open else "0",
            f"{one.kept:,}", one.quarantine, ", ".join(one.holders) or "nobody",
        ))  # fmt: skip
    table(names, rows)
    table(
        ("relay", "backlog", "oldest", "refused", "held by"),
        [(r.service, f"{r.backlog:,}", _age(r.oldest_ms), len(r.refused), r.holder or "nobody")
         for r in relays],
    )  # fmt: skip
    if not found and not relays:
        say("nothing has run yet")


Facts = dict[str, tuple[Any, str]]
"""What may be worth a sentence: its value, false where there is nothing to say; the sentence."""


def facts(one: Summary | Relay) -> Facts:
    """What somebody who operates this should hear of, and hear when it changes."""
    if isinstance(one, Relay):
        key, reason = one.refused[0][1:4:2] if one.refused else (None, "")
        refused = f"{counted(len(one.refused), 'key')} refused by the log, as {key}: {reason}"
        return {
            "holder": (one.holder, f"held by {one.holder or 'nobody'}"),
            "refused": (len(one.refused), refused),
        }
    holders = {f"{p.topic}/{p.partition}": p.holder for p in one.partitions if p.holder}
    counts = sorted(Counter(holders.values()).items())
    held = ", ".join(f"{count} by {who}" for who, count in counts) or "none"
    see, bad = f"oncebox parked {one.name}", f"oncebox quarantine list {one.name}"
    parked, gaps, effects, (done, total) = one.parked, one.gaps.open, one.effects, one.rebuilt
    lost = sum(p.lost or 0 for p in one.partitions)
    rebuilt = f"rebuilding: {done:,} of {counted(total, 'record')}" if total else "has been rebuilt"
    return {
        "partitions": (holders, f"partitions read: {held}"),
        "retrying": (parked.retrying, f"{counted(parked.retrying, 'key')} to be tried again"),
        "failed": (parked.failed, f"{counted(parked.failed, 'key')} failed for good: {see}"),
        "forked": (parked.forked, f"{counted(parked.forked, 'key')} forked: {see}"),
        "gaps": (gaps, f"{counted(gaps, 'key')} with an event missing: {see}"),
        "quarantine": (one.quarantine, f"{counted(one.quarantine, 'record')} unreadable: {bad}"),
        "effects": (effects.open, f"{counted(effects.open, 'effect')} outside begun, not finished"),
        "lost": (lost, f"{counted(lost, 'record')} expired before they were read"),
        "rebuilding": (bool(total), rebuilt),
    }


# ---- parked


def parked(consumer: Name, /, *, which: Which = EVERY_KEY, limit: Limit = 100) -> None:
    """Keys that wait: why, since when, and what would let them go on.

    Kinds: poison (its handler fails), fork (its source forgot what it had
    published), gap (an event has not come), waits (for an event of another key),
    next (nothing is in its way).

    For example:

        oncebox parked billing
        oncebox parked billing --where reason~Timeout --where type=order.paid
        oncebox parked billing --where kind=gap --json
    """
    shown: list[Waiting] = []
    count, where = 0, which.chosen()

    def show(found: list[Waiting]) -> Program[None]:
        nonlocal count
        count += len(found)
        for one in found:
            document = plain(one) | {"release": one.release()}
            del document["place"]
            tell(document)
        shown.extend(found[: max(limit - len(shown), 0)])
        yield from ()

    locate(consumer).at_desk(consumer, lambda desk: pages(desk, where, show))
    _parked_table(shown)
    if count > len(shown):
        remark(f"and {count - len(shown):,} more: --limit, or --json for all")
    if not count:
        say("nothing waits")


def _parked_table(shown: list[Waiting]) -> None:
    columns = ("key", "kind", "event", "why", "tries", "since", "again at", "kept")
    table(columns, [
        (
            one.key, one.kind, one.head and f"{one.head.type} #{one.head.sequence}",
            clipped(str(one)), one.attempts or None, _age(one.since_ms), moment(one.due_ms),
            one.kept,
        )
        for one in shown
    ])  # fmt: skip
    for kind in dict.fromkeys(one.kind for one in shown):
        example = next(one for one in shown if one.kind == kind)
        remark("\n  ".join((f"{kind}, for example:", *example.release())))


# ---- the journal


What = Annotated[str | None, said("One kind of line only: skip, accept, fork, late, orphan, …")]
Key = Annotated[str | None, said("Of this key only.")]


def journal(consumer: Name, /, *, what: What = None, key: Key = None, limit: Limit = 100) -> None:
    """What operators did, and what contradicted a chain: newest first.

    Redriven, skipped, accepted and dropped events with the reasons given, forks,
    orphans, late events, replays and rebuilds. Kept for 90 days (journal_s).

    For example:

        oncebox journal billing
        oncebox journal billing --what skip --json
        oncebox journal billing --key o-1
    """
    many = None if ASKED.json else limit
    found = locate(consumer).at_desk(consumer, lambda desk: notes(desk, what, key, many))
    for one in found if ASKED.json else ():
        tell(one)
    columns = ("at", "what", "key", "event", "detail")
    table(columns, [
        (moment(one.at_ms), one.what, one.key or None,
         None if one.sequence is None else f"#{one.sequence} {one.id}", one.detail)
        for one in found
    ])  # fmt: skip
    if not found:
        say("nothing is noted")
