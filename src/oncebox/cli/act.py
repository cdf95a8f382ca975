"""Commands that act on keys that wait: redrive, skip, accept."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated

from ..errors import ConfigurationError, Refused
from ..operate import actions
from ..operate.actions import Given
from ..operate.desk import Desk
from ..operate.origins import Origins, follow, forked, source_of
from ..operate.waiting import Waiting, Where, pages, unfit
from ..program import Program
from ..service.places import Place, locate
from .options import EVERY_KEY, UNSAID, Because, DryRun, Name, SourceStore, Which, said
from .output import complain, counted, note, plain, tell

All = Annotated[bool, said("Every key that is parked for a failure.")]
Key = Annotated[str | None, said("This key; else all forks of the source.")]
Source = Annotated[str | None, said("The source, also where several have this key.")]
After = Annotated[int | None, said("The last number whose effect is here; 0: none.")]


def redrive(
    consumer: Name,
    /,
    *,
    which: Which = EVERY_KEY,
    all: All = False,
    because: Because = UNSAID,
    dry_run: DryRun = False,
) -> None:
    """Try failed events again, now, with their attempts counted anew.

    A running consumer takes them up within a second, each key in its order. It is
    safe at any time: what took effect does not again. Noted in the journal.

    For example:

        oncebox redrive billing --key o-1
        oncebox redrive billing --reason Timeout --dry-run
        oncebox redrive billing --all
    """

    def act(desk: Desk, found: list[Waiting]) -> Program[int]:
        return len((yield from actions.redrive(desk, found, because)))

    where = _meant(which, everything=all)
    _act("redriven", locate(consumer), consumer, where, ("poison",), act, dry_run=dry_run)


def skip(
    consumer: Name,
    /,
    *,
    which: Which = EVERY_KEY,
    because: Because = UNSAID,
    source_store: SourceStore = None,
    dry_run: DryRun = False,
) -> None:
    """Give up what a key waits for, and let it go on. Noted in the journal.

    Of a key that fails: the failing event. Of a gap: the missing events, after the
    source was asked whether it still has that history. Of a key that waits for
    another: the wait. What was given up has no effect, also if it comes later.

    For example:

        oncebox skip billing --key o-1 --because "test order, ticket 812"
        oncebox skip billing --where type=order.legacy --where reason~KeyError --dry-run
    """
    where, place = _meant(which), locate(consumer)

    def act(desk: Desk, found: list[Waiting]) -> Program[int]:
        origins, done = Origins(desk, partial(place.store_of, desk, source_store)), 0
        for one in found:
            ask = None
            if one.kind == "gap":
                ask = yield from origins.ask(one.source)
                if ask is None:
                    note(f"{one.key}: the store of {one.source} is not known, so it is not asked")
            given = yield from actions.skip(desk, one, ask, because)
            at = {"consumer": consumer, "source": one.source, "key": one.key}
            tell(at | plain(given), f"{one.key}: {_words(given, consumer)}")
            done += given.what in ("event", "missing", "wait")
        yield from origins.close()
        return done

    _act("skipped", place, consumer, where, ("poison", "gap", "waits"), act, dry_run=dry_run)


def _words(given: Given, consumer: str) -> str:
    match given.what:
        case "event":
            return f"gave up #{given.first}"
        case "missing":
            return f"gave up #{given.first} to #{given.last}, which have not come"
        case "wait":
            return f"#{given.first} no longer waits for another key"
        case "fork":
            return f"its source has another history: oncebox accept {consumer}"
        case "changed":
            return "went on meanwhile, and was left alone"


def accept(
    consumer: Name,
    /,
    *,
    key: Key = None,
    source: Source = None,
    after: After = None,
    because: Because = UNSAID,
    source_store: SourceStore = None,
    dry_run: DryRun = False,
) -> int:
    """Follow a source that forgot what it had published, as after a restore.

    The key goes on with the source's present history. Events that are not in it
    are given up and listed. Where it cannot be known which effects are here,
    nothing is done: look in your own tables, and give --after.

    For example:

        oncebox accept billing --key o-1
        oncebox accept billing --source /shop/orders --because "restore of 3 May"
        oncebox accept billing --key o-1 --after 3
    """
    if key is None and (source is None or after is not None):
        raise ConfigurationError("which keys?", expected="--key, or --source without --after")
    place = locate(consumer)

    def work(desk: Desk) -> Program[tuple[int, int]]:
        origins, done = Origins(desk, partial(place.store_of, desk, source_store)), 0
        if key is None:
            meant = yield from forked(desk, source or "")
        else:
            meant = [((yield from source_of(desk, key, source)), key)]
        for one in meant:
            try:
                found = yield from follow(desk, origins, one, after, because, dry_run=dry_run)
            except Refused as error:
                if key is not None:
                    raise
                complain(error)
                continue
            done += 1
            if found is not None:
                at = {"consumer": consumer, "source": one[0], "key": one[1]}
                todo = f"{counted(found.kept, 'event')} to do, {len(found.orphans)} given up"
                tell(at | plain(found), f"{one[1]}: goes on after #{found.sequence}: {todo}")
        yield from origins.close()
        return len(meant), done

    count, done = place.at_desk(consumer, work)
    _report("accepted", consumer, count, done, dry_run=dry_run)
    return 1 if done < count else 0


# ---- what they share

Act = Callable[[Desk, list[Waiting]], Program[int]]
"""Acts on keys that wait; how many of them it did something to."""


def _meant(which: Which, *, everything: bool = False) -> Where:
    """Which keys are meant; something has to be said."""
    where = which.chosen()
    if not (where.key or where.source or where.conditions or everything):
        raise ConfigurationError(
            "which keys?",
            expected="--key, --source, --reason, --where, or for redrive --all",
            hint="--dry-run counts them first",
        )
    return where


def _act(
    what: str,
    place: Place,
    consumer: str,
    where: Where,
    kinds: tuple[str, ...],
    act: Act,
    *,
    dry_run: bool,
) -> None:
    """Act on the keys that are meant and wait like this. Where one key was named and is none of
    them, raises Refused with what it waits for, or NotFound.
    """
    count = done = 0
    seen: Waiting | None = None

    def page(desk: Desk, found: list[Waiting]) -> Program[None]:
        nonlocal count, done, seen
        fit = [one for one in found if one.kind in kinds]
        seen = next((one for one in found if one.kind not in kinds), seen)
        count += len(fit)
        done += 0 if dry_run else (yield from act(desk, fit))

    def work(desk: Desk) -> Program[None]:
        yield from pages(desk, where, partial(page, desk))
        if where.key is not None and not count:
            raise (yield from unfit(desk, where.key, where.source, seen))

    place.at_desk(consumer, work)
    _report(what, consumer, count, done, dry_run=dry_run)


def _report(what: str, consumer: str, count: int, done: int, *, dry_run: bool) -> None:
    text = f"{done:,} of {counted(count, 'key')} {what}"
    text += "; a running consumer goes on within a second" if done else ""
    if dry_run:
        text = f"{counted(count, 'key')} would be {what}"
    report = {"action": what, "consumer": consumer, "found": count, "done": done}
    tell({**report, "dry_run": dry_run}, text)
