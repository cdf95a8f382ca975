"""The relay: it reads what was emitted and publishes it, in the order of each key.

A program over a store and a log. One relay is active for a service; others stand by and take over
when its lease runs out. One transaction moves the cursor over what the log has acknowledged and
reads the next batch; its commit flushes every commit that it has seen, and only then the batch is
published. So nothing is published that a crash could take back, and the cursor never stands before
something unpublished, but for keys whose next event the log refused: they are noted, wait, and
hold nobody else. The cursor's update compares the term, so a relay that was replaced stops; what it
still sends, consumers drop.
"""

from __future__ import annotations

import logging
from asyncio import to_thread
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .envelope import STAMP_UNITS_PER_US
from .errors import CorruptStore, DecodeFailed, Fenced, Unreachable
from .event import stream_of
from .lease import LEASE_S, Held, acquire, add_cursor, release
from .lens.copies import Copies
from .outbox import (
    BEYOND_ALL,
    Envelopes,
    Hole,
    Reached,
    Suspects,
    holes_text,
    locate,
    pass_over,
    reached_text,
    read_reached,
)
from .ports import Log, Outgoing, Refusal
from .program import Program, T, call
from .session import Rows, Session, Store, ask
from .statements import statements
from .stores.base import trouble, typed

logger = logging.getLogger("oncebox.relay")

SETTLE_S = 0.05
"""When nothing came for so long, the cursor is stored without a batch."""

IDLE_AFTER_S = 1.0

SUSPECT_S = 0.2
"""How often transactions are looked at while positions are missing."""

OUTAGE_PAUSE_S = 0.1
OUTAGE_PAUSE_MAX_S = 5.0


class RelaySettings(NamedTuple):
    """`batch_max` events of `bytes_max` are read and published at once; while at least `ahead_min`
    are published, the next ones are read. New events are looked for every `poll_s`, and every
    `idle_poll_s` once there were none for IDLE_AFTER_S. `retry_s` doubles up to `retry_max_s` for a
    refused record; beyond `refused_max` keys or `holes_max` gaps in what was seen, nothing new is
    read. `topics` names topics of streams that are not called as the stream; `copies` are published
    beside the events.
    """

    batch_max: int = 5_000
    bytes_max: int = 8 * 1024 * 1024
    ahead_min: int = 200
    poll_s: float = 0.002
    idle_poll_s: float = 0.004
    publish_timeout_s: float = 30.0
    lease_s: float = LEASE_S
    retry_s: float = 0.5
    retry_max_s: float = 60.0
    refused_max: int = 1_000
    holes_max: int = 1_000
    partitions: int = 4
    topics: Mapping[str, str] = {}
    copies: Sequence[Copies] = ()
    retention_s: float = 7 * 24 * 3600.0
    partition_events: int = 1_000_000
    upkeep_s: float = 60.0
    lock_wait_s: float = 0.05


class Refused(NamedTuple):
    """A key whose event at `position` the log did not take; it waits until `retry_at`."""

    source: str
    key: str | None
    position: int
    sequence: int | None
    attempts: int
    permanent: bool
    retry_at: float
    reason: str

    @property
    def name(self) -> tuple[str, str | int]:
        """Whom it holds: its key, or the one event that has none."""
        return self.source, self.position if self.key is None else self.key


class Relay:
    """The relay of one service in one process, which `holder` names among its relays. `clock` gives
    Unix seconds, `sleep` returns early when it is to stop.
    """

    def __init__(
        self,
        store: Store,
        log: Log,
        service: str,
        holder: str,
        settings: RelaySettings,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None] | None],
    ) -> None:
        self.store = store
        self.log = log
        self.settings = settings
        self.clock = clock
        self.sleep = sleep
        self.holder = holder
        self.prefix = f"/{service}/"
        self.reader = f"relay:{service}"
        self.place = (service, 0)
        self.sql = statements(store.dialect, store.schema)
        self.session: Session
        self.is_open = False
        self.held: Held | None = None
        self.identity = ""
        self.reached = self.published = Reached()
        self.suspects = Suspects()
        self.ahead: Rows = []
        self.stored = self.asked = ""
        self.refused: dict[tuple[str, str | int], Refused] = {}
        self.met: set[str] = set()
        self.envelopes = Envelopes(self.settings.topics)
        self.pause_s = OUTAGE_PAUSE_S
        self.outages = 0
        self.now = self.renew_at = self.settle_at = self.suspect_at = self.upkeep_at = 0.0

    # ---- the loop

    def run(self, stopping: Callable[[], bool]) -> Program[None]:
        """Relay until `stopping`, then give the lease back. Outages of store and log are waited
        out. Raises MissingTables, MissingRight, errors of statements, ConfigurationError.
        """
        try:
            while not stopping():
                try:
                    if not (yield from self.turn()):
                        yield from call(self.sleep, self._poll_s())
                    self.pause_s = OUTAGE_PAUSE_S
                except Fenced as error:
                    logger.warning("%s: another relay has taken over: %s", self.reader, error)
                    self.held = None
                    yield from call(self.session.rollback)
                except Exception as error:
                    yield from self._outage(error)
        finally:
            yield from self._leave()

    def _poll_s(self) -> float:
        idle = self.clock() >= self.settle_at - SETTLE_S + IDLE_AFTER_S
        return self.settings.idle_poll_s if idle else self.settings.poll_s

    def turn(self) -> Program[bool]:
        """One step; whether there may be more to do at once."""
        if not self.is_open:
            self.session = yield from call(self.store.open)
            self.is_open = True
        if self.held is None and not (yield from self._lead()):
            yield from call(self.sleep, self.settings.lease_s / 8)
            return True
        now = self.clock()
        if now < self.now:  # the clock was set back: nothing is due as late as it says
            self.renew_at = self.settle_at = self.suspect_at = self.upkeep_at = 0.0
        self.now = now
        if now >= self.upkeep_at:
            more = yield from self._upkeep()
            self.upkeep_at = now if more else now + self.settings.upkeep_s
        if self.reached.holes and now >= self.suspect_at:
            self.suspect_at = now + SUSPECT_S
            rows = yield from call(self.session.run, self.sql["numbering"])
            self.reached = self.suspects.look(self.reached, rows)
        latest = now + self.settings.retry_max_s  # beyond: given before the clock was set back
        due = next((r for r in self.refused.values() if not now < r.retry_at <= latest), None)
        if due is not None:
            yield from self._retry(due)
        if (self.ahead or (yield from self._is_ready())) and (yield from self._relay()):
            return True
        if now >= self.renew_at or (now >= self.settle_at and self._position() != self.stored):
            yield from self._save()
        return due is not None

    def _lead(self) -> Program[bool]:
        """Take the lease if it is free, and find out where the last owner stood."""
        session, sql = self.session, self.sql
        yield from call(session.begin)
        yield from add_cursor(session, sql, self.reader, self.place)
        held = yield from acquire(
            session, sql, self.reader, self.place, self.holder, self.settings.lease_s
        )
        yield from call(session.commit)
        if held is None:
            return False
        ((self.identity,),) = yield from call(session.run, sql["identity"])
        self.met.clear()
        self.ahead, self.suspects = [], Suspects()
        self.reached = self.published = read_reached(held.position)
        rows = yield from call(session.run, sql["refused"], (self.prefix,))
        self.refused = {one.name: one for one in (Refused(*row) for row in rows)}
        if held.position is not None and held.identity != self.identity:
            yield from self._begin_again(held.identity)
        self.held = held
        yield from self._save()
        logger.info("%s: relaying from position %d", self.reader, self.reached.position)
        return True

    def _begin_again(self, before: str | None) -> Program[None]:
        """Another database than the one that was relayed: a restored or promoted copy, whose
        positions may mean other events. All that is there is published again, and stamps begin
        above the clock, so that consumers can tell what is new from what was lost.
        """
        logger.warning(
            "%s: this is another database than before (%s, now %s): publishing all that it has",
            self.reader, before, self.identity,
        )  # fmt: skip
        self.reached = self.published = Reached()
        low = int(self.clock() * 1_000_000) * STAMP_UNITS_PER_US
        yield from call(self.session.run, self.sql["raise_low"], (self.prefix, low))

    # ---- reading and publishing

    def _is_ready(self) -> Program[bool]:
        """Whether a read would change anything; asked without a transaction that writes."""
        holes = self.reached.holes
        if any(hole.suspects == frozenset() for hole in holes):
            return True
        if not holes and self._is_full():
            return False
        position = BEYOND_ALL if self._is_full() else self.reached.position
        parameters = (position, holes_text(holes))
        ((ready,),) = yield from call(self.session.run, self.sql["peek"], parameters)
        return bool(ready)

    def _is_full(self) -> bool:
        """Whether too much is open already to read anything new."""
        full = len(self.refused) > self.settings.refused_max
        return full or len(self.reached.holes) > self.settings.holes_max

    def _relay(self) -> Program[bool]:
        """Publish the next batch; whether there was anything. Behind a large one there is likely
        more: the store reads on while the log takes it.
        """
        if not self.ahead:
            self.ahead = yield from self._read_on((yield from self._ask_next()))
        elif self.clock() >= self.renew_at:  # it was read a while ago: are we still to publish it?
            yield from self._save()
        rows, up_to = self.ahead, self.reached
        more = len(rows) >= self.settings.ahead_min
        answers = (yield from self._ask_next()) if more else []
        mine = self._present(rows)
        if self.refused:
            mine = [row for row in mine if _name(row) not in self.refused]
        refusals = yield from self._publish(mine)
        self.ahead = (yield from self._read_on(answers)) if more else []
        self.published = up_to
        self.settle_at = self.clock() + SETTLE_S
        if refusals:
            yield from self._hold(mine, refusals)
        return bool(rows)

    def _ask_next(self) -> Program[list[Rows] | None]:
        start = BEYOND_ALL if self._is_full() else self.reached.position
        return (yield from self._ask(start, self.reached.holes))

    def _read_on(self, answers: list[Rows] | None) -> Program[Rows]:
        rows = yield from self._answered(answers)
        self.reached = pass_over(self.reached, [row[0] for row in rows])
        return rows

    def _present(self, rows: Rows) -> Rows:
        """Our events among rows of `read`. Of one that is gone there is only the place."""
        present = [row for row in rows if row[8] is not None]
        gone = [row[0] for row in rows if row[8] is None and row[2].startswith(self.prefix)]
        if gone:
            logger.error(
                "%s: %d events were deleted before they were published, at positions %d to %d: "
                "a gap for their consumers", self.reader, len(gone), gone[0], gone[-1],
            )  # fmt: skip
        return present

    def _ask(self, start: int, holes: Iterable[Hole]) -> Program[list[Rows] | None]:
        """Move the cursor over what is acknowledged and read on, in one transaction."""
        settings = self.settings
        parameters = (start, holes_text(holes), settings.batch_max, settings.bytes_max, self.prefix)
        self.asked = self._position()
        move = self.sql["move"], self._moved(self.asked)
        return (yield from ask(self.session, [move, (self.sql["read"], parameters)]))

    def _answered(self, answers: list[Rows] | None) -> Program[Rows]:
        if answers is None:
            answers = yield from call(self.session.answers)
        moved, rows = answers
        self._check_term(moved)
        self.stored = self.asked
        return rows

    def _publish(self, rows: Sequence[Any]) -> Program[list[Refusal]]:
        """Publish rows of `read`; refusals by their place among them."""
        records, places, unfit = self.envelopes.records(rows)
        if self.settings.copies:
            records, places, unfit = self._with_copies(rows, records, places, unfit)
        if not records:
            return unfit
        for source in {rows[at][2] for at in places} - self.met:
            yield from self._meet(source)
        timeout_s = self.settings.publish_timeout_s
        answer = yield from self.ask_log(self.log.publish, records, timeout_s)
        refusals = unfit + [refusal._replace(at=places[refusal.at]) for refusal in answer]
        if len(answer) == len(records) > 1 and not any(r.permanent for r in answer):
            self.met.clear()
            if len({_name(row) for row in rows}) > 1:  # not one key's fault
                raise Unreachable(f"nothing was published: {answer[0].reason}")
        return refusals

    def _with_copies(
        self,
        rows: Sequence[Any],
        records: list[Outgoing],
        places: Sequence[int],
        unfit: list[Refusal],
    ) -> tuple[list[Outgoing], Sequence[int], list[Refusal]]:
        """Records with their copies behind them. One that has none holds its key, in all topics: so
        each topic has the key's events in order.
        """
        found: list[Outgoing] = []
        at: list[int] = []
        held: set[tuple[str, str | int]] = set()
        for record, place in zip(records, places, strict=True):
            row = rows[place]
            if _name(row) in held:
                continue
            wanted = [one for one in self.settings.copies if one.stream == stream_of(row[2])]
            try:
                all_of_it = [record, *(one.of(record) for one in wanted)]
            except DecodeFailed as error:
                unfit.append(Refusal(place, str(error), permanent=True))
                held.add(_name(row))
                continue
            found += all_of_it
            at += [place] * len(all_of_it)
        return found, at, unfit

    def _meet(self, source: str) -> Program[None]:
        """Before its first event under this lease: see that its topics are there. The log goes by
        what it sees: an owner that slept knows fewer partitions than the one before it, and would
        send keys to and fro.
        """
        topic, partitions = self.envelopes.topic(source), self.settings.partitions
        copies = [one.topic for one in self.settings.copies if one.stream == stream_of(source)]
        for name in (topic, *copies):
            if (yield from self.ask_log(self.log.describe, name)) is None and partitions:
                like = yield from self.ask_log(self.log.describe, topic)
                count = partitions if like is None else like.partitions
                yield from self.ask_log(self.log.create, name, count)
                logger.info("%s: made topic %s", self.reader, name)
        self.met.add(source)

    def ask_log(self, function: Callable[..., T], *arguments: Any) -> Program[T]:
        """A call that may wait for the log: on a thread where programs share an event loop."""
        if self.store.asynchronous:
            in_thread: T = yield to_thread, (function, *arguments)
            return in_thread
        return (yield from call(function, *arguments))

    # ---- refused records

    def _hold(self, rows: Sequence[Any], refusals: Iterable[Refusal]) -> Program[None]:
        """Note keys whose record was refused: from that one on they wait."""
        new: dict[tuple[str, str | int], Refused] = {}
        for refusal in sorted(refusals):
            name = _name(rows[refusal.at])
            if name not in new:
                new[name] = self._refused(rows[refusal.at], refusal, 1)
        self.refused |= new
        yield from self._save(add=new.values())

    def _refused(self, row: Any, refusal: Refusal, attempts: int) -> Refused:
        settings = self.settings
        wait_s = min(settings.retry_s * 2 ** min(attempts - 1, 30), settings.retry_max_s)
        if refusal.permanent:
            wait_s = settings.retry_max_s
        logger.error(
            "%s: %s %s waits: event %s was refused %d times: %s",
            self.reader, row[2], row[3] or "", row[8], attempts, refusal.reason,
            extra={"event": row[8], "source": row[2], "key": row[3], "position": row[0]},
        )  # fmt: skip
        return Refused(
            row[2], row[3], row[0], row[4], attempts, refusal.permanent,
            self.clock() + wait_s, refusal.reason,
        )  # fmt: skip

    def _retry(self, due: Refused) -> Program[None]:
        """Publish what waits of a key, up to where all others are."""
        places = [(due.position, due.sequence)]
        if due.key is not None:
            first = due.sequence or 1
            located = yield from locate(self.session, self.sql, due.source, due.key, first)
            places = [(o.position, o.sequence) for o in located]
            places = [p for p in places if due.position <= p[0] <= self.published.position]
        page = [Hole(at, at) for at, _ in places[: self.settings.batch_max]]
        rows = yield from self._answered((yield from self._ask(BEYOND_ALL, page)))
        present = self._present(rows)
        refusals = yield from self._publish(present)
        left: list[Refused] = []
        behind = [p for p in places if rows and p[0] > rows[-1][0]]
        if refusals:
            first_one = min(refusals)
            row = present[first_one.at]
            attempts = due.attempts + 1 if row[0] == due.position else 1
            left.append(self._refused(row, first_one, attempts))
        elif behind:
            left.append(due._replace(position=behind[0][0], sequence=behind[0][1], retry_at=0.0))
        else:
            logger.info("%s: %s goes on", self.reader, due.key or due.position)
        del self.refused[due.name]
        self.refused |= {one.name: one for one in left}
        yield from self._save(drop=[due], add=left)

    # ---- the cursor

    def _position(self) -> str:
        return reached_text(self.published, (r.position for r in self.refused.values()))

    def _moved(self, position: str) -> tuple[Any, ...]:
        """What `move` takes: it stores `position` and runs the lease on, if the term is ours."""
        assert self.held is not None
        lease_ms = int(self.settings.lease_s * 1000)
        return (self.reader, self.place[0], self.held.term, position, self.identity, lease_ms)

    def _check_term(self, moved: Rows) -> None:
        """What `move` has answered: no row, and the lease is another's."""
        if not moved:
            raise Fenced("another relay has the lease", source=self.prefix)
        self.renew_at = self.clock() + self.settings.lease_s / 3

    def _save(self, drop: Iterable[Refused] = (), add: Iterable[Refused] = ()) -> Program[None]:
        """Store where we are, and which keys wait; if that fails, we do not know where we are."""
        session, sql = self.session, self.sql
        try:
            yield from call(session.begin)
            position = self._position()
            self._check_term((yield from call(session.run, sql["move"], self._moved(position))))
            for one in drop:
                yield from call(session.run, sql["forget_refusal"], (one.position,))
            for one in add:
                yield from call(session.run, sql["refuse"], one)
            yield from call(session.commit)
        except BaseException:
            self.held = None  # whoever goes on finds out again what was refused
            raise
        self.stored = position

    def _upkeep(self) -> Program[bool]:
        """A step: partitions ahead, nothing older than retention; whether there may be more."""
        settings, more = self.settings, False
        limits = (settings.retention_s, settings.partition_events, int(settings.lock_wait_s * 1000))
        for table in ("chain", "event"):
            try:
                yield from call(self.session.begin)
                rows = yield from call(self.session.run, self.sql["maintain"], (table, *limits))
                yield from call(self.session.commit)
                more = more or bool(rows)
            except Exception as error:
                if trouble(error) != "retry":  # retry: somebody holds the table
                    raise
                yield from call(self.session.rollback)
                logger.info("%s: upkeep of %s later: it is in use", self.reader, table)
        return more

    # ---- trouble

    def _outage(self, error: Exception) -> Program[None]:
        """Nobody's fault: wait, longer each time, and begin again where the store says. Raises
        what no waiting mends, as our own error where there is one.
        """
        kind = trouble(error)
        error, cause = typed(error, self.session if self.is_open else None), error
        outside = isinstance(error, ConnectionError | TimeoutError | Unreachable)
        if isinstance(error, CorruptStore) or (kind == "other" and not outside):
            raise error from (None if error is cause else cause)
        logger.warning("%s: waiting: %s", self.reader, str(error).strip() or type(error).__name__)
        self.outages += 1
        yield from call(self.sleep, self.pause_s)
        self.pause_s = min(self.pause_s * 2, OUTAGE_PAUSE_MAX_S)
        self.held = None  # what is not stored, such as a refusal, is found out again
        try:
            if self.is_open:
                yield from call(self.session.rollback)
        except Exception:
            kind = "unavailable"
        if kind == "unavailable":
            yield from self._close()

    def _close(self) -> Program[None]:
        if not self.is_open:
            return
        self.is_open, self.held = False, None
        try:
            yield from call(self.session.close)
        except Exception:
            logger.debug("closing a broken session failed", exc_info=True)

    def _leave(self) -> Program[None]:
        """Give the lease back, so that another takes over at once. Never raises."""
        try:
            if self.is_open and self.held is not None:
                yield from call(self.session.rollback)
                yield from self._save()
                yield from call(self.session.begin)
                yield from release(
                    self.session, self.sql, self.reader, self.place, self.holder, self.held.term
                )
                yield from call(self.session.commit)
        except Exception:
            logger.debug("leaving failed", exc_info=True)
        yield from self._close()


def _name(row: Any) -> tuple[str, str | int]:
    """Whom a row of `read` holds up when it is refused: see `Refused.name`."""
    return row[2], row[0] if row[3] is None else row[3]
