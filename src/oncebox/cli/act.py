"""Commands that act on what waits, and on positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, NotFound, OnceboxError, Refused
from ..program import Program, call
from .common import (
    EVERY_KEY,
    NO_OPTIONS,
    SOURCES,
    Flag,
    Located,
    Options,
    Which,
    desk_of,
    locate,
    log_to_stderr,
    now_ms,
    perform,
    store_of,
)
from .output import complain, line, note, say

if TYPE_CHECKING:
    from ..desk import Desk
    from ..gaps import Ask
    from ..reading import Place
    from ..session import Session, Store
    from ..waiting import Waiting, Where

CHOSEN_MAX = 10_000
"""Keys that one command acts on; the next call goes on with the rest."""


# ---- redrive


def redrive(
    consumer: str,
    /,
    *,
    which: Which = EVERY_KEY,
    all: Flag = False,
    dry_run: Flag = False,
    options: Options = NO_OPTIONS,
) -> int:
    """Try failed events again, now, with their attempts counted anew.

    A running consumer takes them up within a second, each key in its order. It is safe at any
    time: what took effect does not again, and a key that went on meanwhile is left alone.

    For example:

        oncebox redrive billing --key o-1
        oncebox redrive billing --reason Timeout --dry-run
        oncebox redrive billing --all

    Parameters
    ----------
    consumer:
        `billing`, or `billing.mail`.
    all:
        Every key that is parked for a failure.
    dry_run:
        Only say how many.
    """
    from ..operate import redrive as again

    log_to_stderr(options)
    chosen = _meant(which, everything=all)
    store = store_of(locate(consumer, options))

    def work(session: Session) -> Program[tuple[int, int]]:
        desk = desk_of(store, session, consumer)
        found = yield from _choose(desk, chosen, "poison")
        if dry_run:
            return len(found), 0
        return len(found), len((yield from again(desk, found)))

    count, done = perform(store, work)
    _report(options, "redrive", consumer, count, done, dry_run=dry_run)
    return 0


def _meant(which: Which, *, everything: bool) -> Where:
    """Which keys are meant; something has to be said."""
    chosen = which.chosen()
    if not (chosen.key or chosen.source or chosen.conditions or everything):
        raise ConfigurationError(
            "which keys?",
            expected="--key, --source, --reason, --where, or for redrive --all",
            hint="--dry-run counts them first",
        )
    return chosen


def _choose(desk: Desk, chosen: Where, *kinds: str) -> Program[list[Waiting]]:
    """What is meant of what waits. Where one key was named and cannot be acted on, raises Refused
    with what it waits for, or NotFound.
    """
    from ..waiting import START, waiting

    fit: list[Waiting] = []
    other: Waiting | None = None
    behind: Place | None = START
    while behind is not None and len(fit) < CHOSEN_MAX:
        found, behind = yield from waiting(desk, chosen, behind)
        fit += [one for one in found if one.kind in kinds]
        other = next((one for one in found if one.kind not in kinds), other)
    if len(fit) >= CHOSEN_MAX:
        note(f"only the first {CHOSEN_MAX:,} keys: run it again for the rest")
    if fit or chosen.key is None:
        return fit[:CHOSEN_MAX]
    if other is not None:
        raise Refused(
            f"this cannot be done for a key that waits like this: {other.kind}",
            source=other.source, key=other.key, hint=" | ".join(other.release()),
        )  # fmt: skip
    parameters = (desk.consumer, chosen.key, chosen.source)
    rows = yield from call(desk.session.run, desk.sql["known_key"], parameters)
    what = "does not wait" if rows else "is not known"
    raise NotFound(
        f"key {chosen.key} {what}", key=chosen.key, hint=f"oncebox parked {desk.consumer}"
    )


def _report(
    options: Options, what: str, consumer: str, count: int, done: int, *, dry_run: bool
) -> None:
    if options.json:
        line({"action": what, "consumer": consumer, "found": count, "done": done,
              "dry_run": dry_run})  # fmt: skip
    elif dry_run:
        say(f"{count} keys of {consumer} would be meant")
    else:
        say(f"{done} of {count} keys: {what}")
        if done:
            note("a running consumer goes on with them within a second")


# ---- skip


def skip(
    consumer: str,
    /,
    *,
    which: Which = EVERY_KEY,
    because: str = "no reason given",
    source_store: str | None = None,
    dry_run: Flag = False,
    options: Options = NO_OPTIONS,
) -> int:
    """Give up what a key waits for, and let it go on. Noted in the journal.

    Of a key that fails: the failing event. Of a gap: the missing events, after the source was
    asked whether it still has that history. Of a key that waits for another: the wait. It cannot
    be taken back: an event that is given up has no effect, also if it comes later.

    For example:

        oncebox skip billing --key o-1 --because "test order, support ticket 812"
        oncebox skip billing --where type=order.legacy --where reason~KeyError --dry-run

    Parameters
    ----------
    consumer:
        `billing`, or `billing.mail`.
    because:
        Why, for the journal.
    source_store:
        Database URL of the source, where the configuration does not name it.
    dry_run:
        Only say how many.
    """
    from ..operate import skip as give_up

    log_to_stderr(options)
    chosen = _meant(which, everything=False)
    located = locate(consumer, options)
    store = store_of(located)
    counts = {"event": 0, "missing": 0, "wait": 0, "fork": 0, "changed": 0}

    def work(session: Session) -> Program[int]:
        desk = desk_of(store, session, consumer)
        found = yield from _choose(desk, chosen, "poison", "gap", "waits")
        sources = Origins(located, store, session, options, source_store)
        for one in () if dry_run else found:
            ask = None
            if one.kind == "gap":
                ask = yield from sources.ask(one.source)
                if ask is None:
                    note(f"{one.key}: the store of {one.source} is not known, so it is not asked")
            given = yield from give_up(desk, one, ask, because)
            counts[given.what] += 1
            if options.json:
                line({"consumer": consumer, "source": one.source, "key": one.key,
                      **given._asdict()})  # fmt: skip
        yield from sources.close()
        return len(found)

    count = perform(store, work)
    done = counts["event"] + counts["missing"] + counts["wait"]
    if counts["fork"]:
        note(f"{counts['fork']} keys turned out to be forks: oncebox parked {consumer}")
    if counts["changed"]:
        note(f"{counts['changed']} keys went on meanwhile and were left alone")
    _report(options, "skip", consumer, count, done, dry_run=dry_run)
    return 0


class Origins:
    """The stores of sources, opened when they are asked for: the one that is named, the one of the
    configuration, the service's own if the source is one of its own.
    """

    def __init__(
        self, located: Located, store: Store, session: Session, options: Options, url: str | None
    ) -> None:
        self.located = located
        self.store = store
        self.session = session
        self.options = options
        self.url = url
        self.opened: dict[str, tuple[Store, Session] | None] = {}

    def ask(self, source: str) -> Program[Ask | None]:
        """How to ask a source, or None where its store is not known."""
        from ..gaps import asker
        from ..statements import statements

        found = yield from self.session_of(source)
        if found is None:
            return None
        store, session = found
        return asker(session, statements(store.dialect, store.schema))

    def session_of(self, source: str) -> Program[tuple[Store, Session] | None]:
        from ..statements import statements
        from ..stores.adapt import open_store

        if source in self.opened:
            return self.opened[source]
        known = self._known(source)
        if known is None:
            sql = statements(self.store.dialect, self.store.schema)
            rows = yield from call(self.session.run, sql["sources"])
            if source not in {name for _, name in rows}:
                self.opened[source] = None
                return None
            known = self.located.store.value
        asynchronous = self.store.asynchronous
        store = open_store(known, self.located.schema, asynchronous=asynchronous)
        session = yield from call(store.open)
        self.opened[source] = (store, session)
        return store, session

    def _known(self, source: str) -> Any:
        if self.url is not None:
            return self.url
        sources = SOURCES.get()
        named = sources.stores_of_sources(self.located.name).get(source)
        if named is not None:
            return named.value
        if self.located.service is not None and source in self.located.service.sources:
            return self.located.service.sources[source]
        own = sources.own(source.strip("/").partition("/")[0], "store")
        return None if own is None else own.value

    def close(self) -> Program[None]:
        for found in self.opened.values():
            if found is not None:
                yield from call(found[1].close)
        self.opened.clear()


# ---- accept


def accept(
    consumer: str,
    /,
    *,
    key: str | None = None,
    source: str | None = None,
    after: int | None = None,
    because: str = "no reason given",
    source_store: str | None = None,
    dry_run: Flag = False,
    options: Options = NO_OPTIONS,
) -> int:
    """Follow a source that forgot what it had published, as after a restore from a backup.

    The key goes on with the source's present history. Events that are not in it are given up and
    listed. Where it cannot be known which effects are here, nothing is done, and the answer is
    asked for: look in your own tables, and give --after.

    For example:

        oncebox accept billing --key o-1
        oncebox accept billing --source /shop/orders --because "restore of 3 May"
        oncebox accept billing --key o-1 --after 3

    Parameters
    ----------
    consumer:
        `billing`, or `billing.mail`.
    key:
        This key; with --source alone, all keys of the source that are parked as forks.
    source:
        The source; needed where several have this key.
    after:
        The number of the last event of the source's history whose effect is here; 0: none.
    because:
        Why, for the journal.
    source_store:
        Database URL of the source, where the configuration does not name it.
    dry_run:
        Only say what would be done.
    """
    log_to_stderr(options)
    if key is None and source is None:
        raise ConfigurationError("which keys?", expected="--key or --source")
    if after is not None and key is None:
        raise ConfigurationError("--after answers for one key", expected="--key")
    located = locate(consumer, options)
    store = store_of(located)
    counts, first = perform(
        store,
        lambda session: _accept_all(
            located, store, session, options, (consumer, key, source, after, because, source_store),
            dry_run=dry_run,
        ),
    )  # fmt: skip
    accepted, refused = counts
    if not options.json:
        say(f"{accepted} keys: accept" + (" (dry run)" if dry_run else ""))
    if refused and key is not None and first is not None:
        raise first
    return 1 if refused else 0


def _accept_all(
    located: Located,
    store: Store,
    session: Session,
    options: Options,
    given: tuple[str, str | None, str | None, int | None, str, str | None],
    *,
    dry_run: bool,
) -> Program[tuple[tuple[int, int], OnceboxError | None]]:
    from ..operate import accept as adopt
    from ..operate import consider

    consumer, key, source, after, because, source_store = given
    desk = desk_of(store, session, consumer)
    places = yield from _keys_to_accept(desk, key, source)
    origins = Origins(located, store, session, options, source_store)
    accepted, refused, first = 0, 0, None
    for name, one in places:
        ask = yield from origins.ask(name)
        if ask is None:
            raise Refused(
                f"the store of {name} is not known, and its history is what is accepted",
                source=name,
                hint=f"--source-store URL, or [services.{located.name}.sources] in oncebox.toml",
            )
        try:
            low = yield from consider(desk, name, one, ask, after)
            if not dry_run:
                yield from _raise_low(origins, name, low)
                done = yield from adopt(desk, name, one, ask, after, because)
                if options.json:
                    line({"consumer": consumer, "source": name, "key": one, **done._asdict()})
            accepted += 1
        except Refused as error:
            refused, first = refused + 1, first or error
            if key is None:
                complain(error, as_json=options.json)
    yield from origins.close()
    return (accepted, refused), first


def _keys_to_accept(
    desk: Desk, key: str | None, source: str | None
) -> Program[list[tuple[str, str]]]:
    """(source, key) of what is meant: one key, or the forks of a source."""
    from ..waiting import Condition, Where

    if key is None:
        forks = Where(source, None, (Condition("kind", contains=False, value="fork"),))
        found = yield from _choose(desk, forks, "fork")
        return [(one.source, one.key) for one in found]
    rows = yield from call(desk.session.run, desk.sql["known_key"], (desk.consumer, key, source))
    if len(rows) > 1:
        raise Refused(
            f"several sources have the key {key}", key=key,
            expected="--source with one of " + ", ".join(row[0] for row in rows),
        )  # fmt: skip
    if not rows:
        raise NotFound(f"{desk.consumer} knows no key {key}", key=key, hint="oncebox parked")
    return [(rows[0][0], key)]


def _raise_low(origins: Origins, source: str, low: int) -> Program[None]:
    """Have the source give no stamp below `low`, nor below now: later events would look like those
    that were given up. Only a clock that is behind could give one.
    """
    from ..envelope import STAMP_UNITS_PER_US
    from ..statements import statements

    found = yield from origins.session_of(source)
    assert found is not None, "it was asked"
    store, session = found
    low = max(low, now_ms() * 1000 * STAMP_UNITS_PER_US)
    sql = statements(store.dialect, store.schema)
    try:
        yield from call(session.run, sql["raise_low"], (source, low))
    except Exception as error:
        note(f"{source}: could not be told to give no stamp below {low}: {error}; it matters only"
             " if the clock of that database is behind")  # fmt: skip
