"""Commands that look: status, parked."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import NotFound, OnceboxError
from ..program import Program
from .common import (
    EVERY_KEY,
    NO_OPTIONS,
    Located,
    Options,
    Which,
    desk_of,
    distinct,
    everywhere,
    locate,
    log_of,
    log_to_stderr,
    now_ms,
    perform,
    store_of,
)
from .output import clipped, line, moment, note, say, span, table

if TYPE_CHECKING:
    from ..ports import TopicPartition
    from ..session import Session, Store
    from ..summary import Lag, Relay, Summary
    from ..waiting import Waiting, Where


def status(*names: str, options: Options = NO_OPTIONS) -> int:
    """How far consumers and relays are, and what waits.

    Lag in events and seconds, parked keys, gaps open, duplicates dropped, the relay's backlog,
    and who holds the leases. Imports no application where the configuration says enough.

    For example:

        oncebox status
        oncebox status billing --json
        oncebox status --store postgresql://localhost/shop

    Parameters
    ----------
    names:
        Consumers or services; all of the configured stores if none are named.
    """
    log_to_stderr(options)
    exit_code = 0
    found: list[tuple[Summary, dict[TopicPartition, Lag] | None]] = []
    relays: list[dict[str, Any]] = []
    places = [locate(name, options) for name in names] or everywhere(options)
    for located in distinct(places):
        store = store_of(located)
        summaries, backlogs = perform(store, partial(_summaries, store, names))
        relays += backlogs
        for one in summaries:
            try:
                found.append((one, _lag(located, one)))
            except OnceboxError as error:
                note(f"oncebox: lag of {one.consumer}: {error}")
                found.append((one, None))
                exit_code = error.exit_code
    missing = [n for n in names if not any(_belongs(s.consumer, n) for s, _ in found)]
    missing = [n for n in missing if not any(r["service"] == n for r in relays)]
    if missing:
        raise NotFound(
            f"{', '.join(missing)} has no rows yet", hint="it appears when it has run once"
        )
    if options.json:
        for one, lags in found:
            line(_status_json(one, lags))
        for relay in relays:
            line({"kind": "relay", **relay})
    else:
        _status_tables(found, relays)
    return exit_code


def _belongs(consumer: str, name: str) -> bool:
    return consumer == name or consumer.startswith(f"{name}.")


def _summaries(
    store: Store, names: tuple[str, ...], session: Session
) -> Program[tuple[list[Summary], list[dict[str, Any]]]]:
    from ..summary import consumers, relays, summary

    found = []
    for consumer in (yield from consumers(desk_of(store, session, ""))):
        if not names or any(_belongs(consumer, name) for name in names):
            found.append((yield from summary(desk_of(store, session, consumer))))
    outboxes = yield from relays(desk_of(store, session, ""))
    shown = [one for one in outboxes if not names or one.service in names]
    return found, [_relay_json(one) for one in shown]


def _relay_json(one: Relay) -> dict[str, Any]:
    return {
        "service": one.service, "backlog": one.backlog, "oldest_s": _age(one.oldest_ms),
        "holder": one.holder, "refused": [refused._asdict() for refused in one.refused],
    }  # fmt: skip


def _lag(located: Located, one: Summary) -> dict[TopicPartition, Lag] | None:
    from ..summary import lag

    log = log_of(located)
    if log is None or not one.cursors:
        return None
    try:
        return lag(log, one.cursors, now_ms())
    finally:
        log.close()


def _status_json(one: Summary, lags: dict[TopicPartition, Lag] | None) -> dict[str, Any]:
    partitions = []
    for cursor in one.cursors:
        known = None if lags is None else lags.get((cursor.topic, cursor.partition))
        partitions.append({
            "topic": cursor.topic, "partition": cursor.partition, "position": cursor.position,
            "lag": None if known is None else known.records,
            "lag_s": None if known is None else known.seconds,
            "lost": None if known is None else known.lost,
            "holder": cursor.holder, "lease_ms": cursor.lease_ms if cursor.holder else None,
            "takeovers": cursor.takeovers,
            "rebuild_until": one.rebuilding.get((cursor.topic, cursor.partition)),
        })  # fmt: skip
    records, seconds = _lag_total(lags)
    return {
        "kind": "consumer", "name": one.consumer, "lag": records, "lag_s": seconds,
        "parked": {"retrying": one.retrying, "failed": one.failed, "forked": one.forked},
        "gaps": {"open": one.gaps, "oldest_s": _age(one.gap_since_ms)},
        "behind": one.behind, "kept": one.kept, "quarantine": one.quarantined,
        "effects": {"open": one.effects_open, "oldest_s": _age(one.effects_since_ms)},
        "counts": {name: one.total(name) for name in _count_names(one)},
        "holders": sorted({c.holder for c in one.cursors if c.holder}),
        "partitions": partitions,
    }  # fmt: skip


def _count_names(one: Summary) -> list[str]:
    from ..batch import COUNTS

    del one
    return list(COUNTS)


def _lag_total(lags: dict[TopicPartition, Lag] | None) -> tuple[int | None, float | None]:
    """Records of all partitions, and the oldest of the next ones."""
    if lags is None:
        return None, None
    known = [lag.seconds for lag in lags.values() if lag.seconds is not None]
    return sum(lag.records for lag in lags.values()), max(known, default=0.0)


def _age(since_ms: int | None) -> float | None:
    return None if since_ms is None else max(now_ms() - since_ms, 0) / 1000


def _status_tables(
    found: list[tuple[Summary, dict[TopicPartition, Lag] | None]], relays: list[dict[str, Any]]
) -> None:
    rows = []
    for one, lags in found:
        records, seconds = _lag_total(lags)
        lag_text = (
            "?"
            if records is None
            else f"{records:,}"
            if not records
            else (f"{records:,} ({span(seconds)})")
        )
        parked = one.retrying + one.failed + one.forked
        gaps = f"{one.gaps} ({span(_age(one.gap_since_ms))})" if one.gaps else "0"
        holders = {c.holder for c in one.cursors if c.holder}
        rows.append((
            one.consumer, lag_text, f"{one.total('applied'):,}", f"{one.total('duplicates'):,}",
            _parked_text(one) if parked else "0", gaps, f"{one.kept:,}", one.quarantined,
            f"{len(holders)} ({', '.join(sorted(holders))})" if holders else "nobody",
        ))  # fmt: skip
    names = ("consumer", "lag", "applied", "duplicates", "parked", "gaps", "kept", "quarantine")
    if rows:
        table((*names, "held by"), rows)
    if relays:
        columns = ("relay", "backlog", "oldest", "refused", "held by")
        table(columns, [
            (r["service"], f"{r['backlog']:,}", span(r["oldest_s"]), len(r["refused"]),
             r["holder"] or "nobody")
            for r in relays
        ])  # fmt: skip
        for relay in relays:
            for refused in relay["refused"][:3]:
                note(
                    f"{relay['service']}: {refused['key']} waits in the outbox: {refused['reason']}"
                )
    if not rows and not relays:
        say("nothing has run yet")
    for one, lags in found:
        _remarks(one, lags)


def _parked_text(one: Summary) -> str:
    parts = ((one.retrying, "retrying"), (one.failed, "failed"), (one.forked, "forked"))
    return ", ".join(f"{count} {what}" for count, what in parts if count)


def _remarks(one: Summary, lags: dict[TopicPartition, Lag] | None) -> None:
    """What somebody should act on, in sentences."""
    name = one.consumer
    if one.failed or one.forked or one.gaps:
        note(f"{name}: keys wait for somebody: oncebox parked {name}")
    if one.quarantined:
        note(f"{name}: records that cannot be read: oncebox quarantine list {name}")
    if one.effects_open:
        age = span(_age(one.effects_since_ms))
        note(
            f"{name}: {one.effects_open} effects were begun and not finished, the oldest {age} ago"
        )
    lost = sum(lag.lost for lag in (lags or {}).values())
    if lost:
        note(f"{name}: {lost:,} records expired before they were read")
    for (topic, partition), until in sorted(one.rebuilding.items()):
        note(f"{name}: rebuilding {topic}/{partition} up to {until:,}")


# ---- parked


def parked(
    consumer: str,
    /,
    *,
    which: Which = EVERY_KEY,
    limit: int = 100,
    options: Options = NO_OPTIONS,
) -> int:
    """Keys that wait: why, since when, and what would let them go on.

    Kinds: `poison` (its handler fails), `fork` (its source forgot what it had published), `gap`
    (an event has not come), `waits` (for an event of another key), `next` (nothing is in its way).

    For example:

        oncebox parked billing
        oncebox parked billing --where reason~Timeout --where type=order.paid
        oncebox parked billing --where kind=gap --json

    Parameters
    ----------
    consumer:
        `billing`, or `billing.mail`.
    limit:
        How many are shown at most; the others are counted. With --json, all are shown.
    """
    log_to_stderr(options)
    chosen, store = which.chosen(), store_of(locate(consumer, options))
    shown: list[Waiting] = []

    def show(one: Waiting) -> None:
        if options.json:
            line(one.as_json())
        elif len(shown) < limit:
            shown.append(one)

    count = perform(store, lambda session: _each(store, session, consumer, chosen, show))
    if not options.json:
        _parked_table(shown)
        if count > len(shown):
            note(f"and {count - len(shown):,} more: --limit, or --json for all")
        if not count:
            say("nothing waits")
    return 0


def _each(store: Store, session: Session, consumer: str, chosen: Where, show: Any) -> Program[int]:
    """Show all that match, page by page; how many."""
    from ..waiting import START, waiting

    desk, count, behind = desk_of(store, session, consumer), 0, START
    while True:
        page = yield from waiting(desk, chosen, behind)
        for one in page.found:
            show(one)
        count += len(page.found)
        if page.behind is None:
            return count
        behind = page.behind


def _parked_table(shown: list[Waiting]) -> None:
    rows = []
    for one in shown:
        event = "" if one.head is None else f"{one.head.type} #{one.head.sequence}"
        why = one.reason
        if one.missing is not None:
            first, last = one.missing
            why = (
                f"#{first} has not come" if first == last else f"#{first} to #{last} have not come"
            )
        elif one.after is not None:
            why = f"waits for {one.after.key} of {one.after.source}"
        rows.append((
            one.key, one.kind, event, clipped(why), one.attempts or None, span(_age(one.since_ms)),
            moment(one.due_ms), one.kept,
        ))  # fmt: skip
    if rows:
        columns = ("key", "kind", "event", "why", "tries", "since", "again at", "kept")
        table(columns, rows)
        for kind in {one.kind for one in shown}:
            example = next(one for one in shown if one.kind == kind)
            note(f"{kind}, for example: {' | '.join(example.release())}")
