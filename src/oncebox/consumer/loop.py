"""The consumer: it owns partitions, fetches records, and has them settled batch by batch.

A program: one loop that runs under `drive`, `drive_async` and the explorer. Leases say which
partitions to read; the fence of every batch decides. Work that waits is done between batches.
"""

from __future__ import annotations

import logging
import random
from asyncio import to_thread
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ..errors import CorruptStore, Fenced, LogTruncated, Unreachable
from ..lease import Held, acquire, add_cursor, fair_share, release, renew
from ..ports import Log, Reader, Record, TopicPartition
from ..program import Program, T, call
from ..session import Store
from ..stores.base import trouble, typed
from .ahead import Ahead
from .batch import DONE, Batch, Broken, Outcome, Wanted
from .beginning import begin, first_offset, of_partition, set_position
from .calling import Setback, describe, is_outage
from .effects import have_effect
from .gaps import Gaps, of_gaps
from .prune import Pruning
from .reading import (
    ANY_EVENT,
    Item,
    Place,
    Reading,
    Settings,
    Taken,
    items_of,
    know_subscriptions,
    take_in,
    transact,
)
from .suspects import DEADLY, TAKEOVERS_MAX, suspected

logger = logging.getLogger("oncebox.consumer")

CAREFUL_MAX = 50
"""Events in a careful batch: each has a savepoint, and PostgreSQL caches 64 of them."""

DRAIN_MAX = 100
"""Waiting keys that are gone on with in one batch."""

DESCRIBE_S = 10.0
"""How often a topic is asked for its partitions, which may have grown."""

TELL_S = 300.0
TELL_FIRST_S = 10.0
"""How often the log is told how far this consumer is, for its tools and for a database that is made
anew: nothing else goes by it."""

SWEEP_S = 5.0
"""How often wake-ups that a crash lost are looked for."""

OUTAGE_PAUSE_S = 0.1
OUTAGE_PAUSE_MAX_S = 5.0


class ConsumerLoop:
    """The loop of one consumer in one process. `sleep` returns early when it is to stop."""

    def __init__(
        self,
        reading: Reading,
        store: Store,
        log: Log,
        holder: str,
        *,
        stopping: Callable[[], bool],
        sleep: Callable[[float], Awaitable[None] | None],
        fetch: Callable[[Reader], Callable[..., Any]] = lambda reader: reader.fetch,
        gaps: Gaps | None = None,
    ) -> None:
        self.reading = reading
        self.store = store
        self.log = log
        self.holder = holder
        self.stopping = stopping
        self.sleep = sleep
        self.reader = log.reader(reading.consumer)
        self.fetch = fetch(self.reader)
        self.gaps = gaps
        self.held: dict[TopicPartition, Held] = {}
        self.ahead = Ahead(reading, self.fetch, self.held)
        self.pruning = Pruning(reading, log, self.ask_log)
        self.single: dict[TopicPartition, int] = {}  # events still to run one by one
        self.drains: dict[Place, bool] = {}
        self.wanted: list[Wanted] = []
        self.paused = self.look_again = self.truncated = False
        self.looked: dict[TopicPartition, int] = {}  # while paused: how far was looked
        self.pause_s = OUTAGE_PAUSE_S
        self.now_ms = self.next_upkeep_ms = self.next_describe_ms = self.next_sweep_ms = 0
        self.partitions: dict[str, int] = {}  # of each topic; 0: it does not exist
        self.next_tell_ms = reading.now_ms() + int(TELL_FIRST_S * 1000)
        self.together_max = 1  # fewer than were fetched where a list failed
        self.parked = 1  # at least what `look_what_is_due` last counted, and more since
        self.kept_bytes = 0

    @property
    def settings(self) -> Settings:
        return self.reading.settings

    # ---- the loop

    def run(self) -> Program[None]:
        """Read until `stopping`, then give partitions back."""
        try:
            while not self.stopping():
                try:
                    yield from self.turn()
                    self.pause_s = OUTAGE_PAUSE_S
                except Fenced:
                    # Perhaps by ourselves: a commit may succeed and raise all the same.
                    logger.info("%s: lost a partition", self.reading.consumer)
                    self.begin_anew()
                except Exception as error:
                    yield from self.outage(error)
        except BaseException:
            self.held.clear()  # not given back: who comes next has to know that it ended here
            raise
        finally:
            yield from self.leave()

    def turn(self) -> Program[bool]:
        """Upkeep if due, then one fetch and what it brings; whether there was anything to do."""
        yield from self.keep_up()
        caught_up = yield from self.catch_up()
        if not self.held:
            yield self.sleep, (min(self.settings.lease_s / 4, 0.2),)
        if not self.held or self.wanted:
            return caught_up
        settings = self.settings
        wait_s = 0.0 if self.drains else min(settings.fetch_wait_s, settings.lease_s / 4)
        count_max = 1 if self.single else settings.batch_max
        return (yield from self.fetch_records(count_max, wait_s)) or caught_up

    def keep_up(self) -> Program[None]:
        """Upkeep, if it is time."""
        now_ms = self.reading.now_ms()
        if now_ms < self.now_ms:  # the clock was set back: nothing is due as late as it says
            self.next_upkeep_ms = self.next_describe_ms = self.next_sweep_ms = 0
            if self.gaps is not None:
                self.gaps.forget_times()
        self.now_ms = now_ms
        if now_ms >= self.next_upkeep_ms:
            yield from self.upkeep(now_ms)
            self.next_upkeep_ms = now_ms + int(self.settings.lease_s * 1000 / 4)

    def fetch_records(self, count_max: int, wait_s: float) -> Program[bool]:
        """One fetch and what it brings; whether it brought anything."""
        records, taken = self.ahead.take()
        try:
            if not records:
                records = yield self.fetch, (count_max, self.settings.batch_bytes_max, wait_s)
        except LogTruncated as error:
            logger.warning("%s: %s", self.reading.consumer, error)
            yield from self.transact(self.give_back(self.terms()))
            self.truncated = True  # partitions are taken anew, as the log has them now
            self.next_describe_ms = self.next_upkeep_ms = 0
            return True
        records = [r for r in records if (r.topic, r.partition) in self.held]
        if records:
            yield from (self.look_ahead(records) if self.paused else self.handle(records, taken))
        return bool(records)

    def outage(self, error: Exception) -> Program[None]:
        """Nobody's fault: wait, longer each time, and begin again where the store says. Raises
        what no waiting mends, as our own error where there is one.
        """
        error, cause = typed(error, self.reading.session), error
        if isinstance(error, CorruptStore) or not is_outage(error):
            raise error from (None if error is cause else cause)
        logger.warning("%s: waiting: %s", self.reading.consumer, describe(error))
        self.reading.done.outages += 1
        yield self.sleep, (self.pause_s * random.uniform(0.5, 1.0),)
        self.pause_s = min(self.pause_s * 2, OUTAGE_PAUSE_MAX_S)
        if trouble(cause) != "retry":
            yield from self.reopen()
        self.begin_anew()

    def begin_anew(self) -> None:
        """Ask the store what is ours, and read from there."""
        self.held.clear()
        self.ahead.drop()
        self.next_upkeep_ms = 0

    def reopen(self) -> Program[None]:
        """A fresh session in place of one that may be broken."""
        try:
            yield from call(self.reading.session.close)
        except Exception:
            logger.debug("closing a broken session failed", exc_info=True)
        try:
            self.reading.session = yield from call(self.store.open)
        except Unreachable as error:
            logger.warning("%s: %s", self.reading.consumer, error)
        self.reading.subscriptions.clear()

    def leave(self) -> Program[None]:
        """Give back what is held, so that others take over at once. Never raises."""
        try:
            self.reader.acknowledge(self.stored())
            yield from self.transact(self.give_back(self.terms(), leave=True))
        except Exception:
            logger.debug("leaving failed", exc_info=True)
        if self.gaps is not None:
            yield from self.gaps.leave()
        self.reader.close()
        try:
            yield from call(self.reading.session.close)
        except Exception:  # it may be closed, or broken, already
            logger.debug("closing a session failed", exc_info=True)

    def transact(self, program: Program[T]) -> Program[T]:
        """A program inside a transaction of its own."""
        return transact(self.reading, program)

    # ---- partitions

    def upkeep(self, now_ms: int) -> Program[None]:
        """Keep leases, share partitions, look what is due."""
        if not self.reading.subscriptions:
            yield from begin(self.reading, self.log, self.reader, self.ask_log)
        if now_ms >= self.next_describe_ms:
            complete = yield from self.look_at_topics()
            yield from self.transact(self.add_cursors())
            self.next_describe_ms = now_ms + int(DESCRIBE_S * 1000) if complete else 0
        acquired = yield from self.transact(self.share())
        for place, held in acquired:
            self.held[place] = yield from self.taken(place, held)
        self.ahead.keep(() if self.single else self.held.keys() - {place for place, _ in acquired})
        self.truncated = False
        yield from self.transact(self.look_what_is_due(now_ms))
        looked = self.looked if self.paused and not acquired else {}
        positions = self.positions()
        self.looked = {p: max(at, positions[p]) for p, at in looked.items() if p in positions}
        self.single = {p: count for p, count in self.single.items() if p in positions}
        self.reader.assign(positions | self.looked)
        if now_ms >= self.next_tell_ms:
            self.next_tell_ms = now_ms + int(TELL_S * 1000)
            self.reader.acknowledge(self.stored())
        yield from self.fill_gaps(now_ms)
        if self.pruning.first() in self.held:
            yield from self.pruning.step(now_ms)

    def stored(self) -> dict[TopicPartition, int]:
        """Where each partition that is ours stands."""
        return {p: int(held.position or 0) for p, held in self.held.items()}

    def positions(self) -> dict[TopicPartition, int]:
        """Where to read on: behind what is fetched already."""
        return self.stored() | self.ahead.ends()

    def ask_log(self, function: Callable[..., T], *arguments: Any) -> Program[T]:
        """What the log says. It may take long: in no transaction, others wait for its locks; and on
        a thread where programs share an event loop.
        """
        if self.store.asynchronous:
            in_thread: T = yield to_thread, (function, *arguments)
            return in_thread
        return function(*arguments)

    def look_at_topics(self) -> Program[bool]:
        """Learn how many partitions there are; False while a topic does not exist."""
        name = self.reading.consumer
        for topic in self.reading.topics:
            found = yield from self.ask_log(self.log.describe, topic)
            count = 0 if found is None else found.partitions
            if count == 0 != self.partitions.get(topic):
                logger.warning("%s: there is no topic %s yet: oncebox topics create", name, topic)
            elif count < self.partitions.get(topic, 0):
                logger.error("%s: topic %s has fewer partitions", name, topic)
            self.partitions[topic] = count
        return all(self.partitions.values())

    def add_cursors(self) -> Program[None]:
        """A cursor for each partition there is."""
        session, sql, name = self.reading.session, self.reading.sql, self.reading.consumer
        for topic in self.reading.topics:
            for partition in range(self.partitions[topic]):
                yield from add_cursor(session, sql, name, (topic, partition))

    def share(self) -> Program[list[tuple[TopicPartition, Held]]]:
        """Renew what is ours, give back what is too much, take what is free: that is returned."""
        session, sql, name = self.reading.session, self.reading.sql, self.reading.consumer
        lease_ms = int(self.settings.lease_s * 1000)
        yield from call(session.run, sql["heartbeat"], (name, self.holder, lease_ms))
        terms = yield from renew(session, sql, name, self.holder, self.settings.lease_s)
        for place in [p for p, held in self.held.items() if terms.get(p) != held.term]:
            del self.held[place]
        members = yield from call(session.run, sql["members"], (name, lease_ms))
        rows = yield from call(session.run, sql["cursors"], (name, lease_ms))
        # Beyond those that there are: deleted, so that nobody reads them.
        holders = {(t, n): holder for t, n, holder, _ in rows if n < self.partitions.get(t, 0)}
        take, give = fair_share(holders, self.holder, [name for (name,) in members])
        yield from self.give_back({place: terms[place] for place in give})
        # Ours, but a session that broke has made us forget it: all others go by the store.
        mine = {place for place, holder in holders.items() if holder == self.holder}
        acquired = []
        for place in [*take, *sorted(mine - self.held.keys() - set(give))]:
            held = yield from acquire(session, sql, name, place, self.holder, *self.settings.times)
            if held is not None:
                acquired.append((place, held))
        return acquired

    def taken(self, place: TopicPartition, held: Held) -> Program[Held]:
        """What a new partition's past asks for: where to begin, and whether events there kill."""
        found = yield from self.ask_log(self.log.describe, place[0])
        if found is None or place[1] >= found.partitions:
            raise Unreachable(f"topic {place[0]} was deleted just now")
        start = why = None
        if held.position is None:
            start = yield from first_offset(self.settings, self.log, place, self.ask_log)
        elif held.identity != found.identity:
            start, why = 0, "the topic was made anew"
        elif self.truncated:
            extent = of_partition((yield from self.ask_log(self.log.extents, place[0])), place)
            if not extent.start <= int(held.position) <= extent.end:
                start, why = extent.start, f"the log has {extent.start} to {extent.end}"
        if start is not None:
            position = set_position(self.reading, place, held, start, found.identity, why)
            yield from self.transact(position)
            held = held._replace(position=str(start), identity=found.identity)
        if held.takeovers >= TAKEOVERS_MAX:
            logger.error(
                "%s: %d owners died at %s/%d@%s: events there run one by one",
                self.reading.consumer, held.takeovers, *place, held.position,
            )  # fmt: skip
            self.single[place] = self.settings.batch_max
        return held

    def terms(self) -> dict[TopicPartition, int]:
        """Of what is ours, as far as we remember."""
        return {place: self.held[place].term for place in sorted(self.held)}

    def give_back(self, terms: dict[TopicPartition, int], *, leave: bool = False) -> Program[None]:
        session, sql, name = self.reading.session, self.reading.sql, self.reading.consumer
        for place, term in terms.items():
            self.held.pop(place, None)
            yield from release(session, sql, name, place, self.holder, term)
        if leave:
            stale_ms = int(self.settings.lease_s * 10_000)
            yield from call(session.run, sql["leave"], (name, self.holder, stale_ms))

    # ---- work

    def handle(self, records: Sequence[Record], taken: Taken | None = None) -> Program[None]:
        """Settle fetched records, in as many batches as it takes."""
        items = yield from items_of(self.reading, taken or take_in(self.reading, records))
        at = (records[0].topic, records[0].partition)
        if at in self.single and (yield from self.look_out(at, f"@{records[0].offset}")):
            self.reading.condemn(items[0], DEADLY, again=False)
        self.together_max = len(items)
        while items and not self.stopping():
            settled = yield from self.settle(items)
            items = items[settled:]
            if items and self.reading.now_ms() >= self.next_upkeep_ms:
                self.ahead.put_back(items)
                return
        if items:  # stopped in between: the rest is fetched again by whoever goes on
            self.begin_anew()

    def meanwhile(self) -> Program[None]:
        """While the store works on a batch; not when partitions may change hands then."""
        if not (self.single or self.paused or self.reading.now_ms() >= self.next_upkeep_ms):
            yield from self.ahead.step()

    def look_out(self, place: TopicPartition, name: str) -> Program[bool]:
        """Before an event that may kill the process: note it at this partition. Whether it has
        killed often enough: then it is parked instead.
        """
        reading, held = self.reading, self.held[place]
        note, deadly = suspected(held, name)
        parameters = (reading.consumer, *place, held.term, note)
        note_it = call(reading.session.run, reading.sql["suspect"], parameters)
        if not (yield from self.transact(note_it)):
            raise Fenced(f"{place[0]}/{place[1]} has another owner")
        self.held[place] = held._replace(suspect=note)
        self.single[place] -= 1
        if not self.single[place]:
            del self.single[place]
        return deadly

    def look_ahead(self, records: Sequence[Record]) -> Program[None]:
        """Too much waits to take in more. But what fills a gap, or is waited for, lets others go
        on: that is done wherever it comes; all else is read again when there is room.
        """
        for record in records:
            self.looked[record.topic, record.partition] = record.offset + 1
        yield from know_subscriptions(self.reading)
        items = yield from of_gaps(self.reading, records)
        yield from self.drain_in_parts({}, items, CAREFUL_MAX, filling=True)

    def settle(self, items: Sequence[Item]) -> Program[int]:
        """One committed batch over the first of these items; how many it settled."""
        careful = bool(self.single)
        count = min(len(items), self.together_max)
        while True:
            chunk = items[: min(count, CAREFUL_MAX)] if careful else items[:count]
            places = {(item.record.topic, item.record.partition) for item in chunk}
            fence = {place: self.held[place] for place in places}
            one = careful and len(chunk) == 1  # so that it is known which one failed
            events_max = 1 + chunk[0].in_line if one else None
            batch = Batch(
                self.reading, chunk, fence, {}, careful=careful, events_max=events_max,
                meanwhile=self.meanwhile,
            )  # fmt: skip
            try:
                outcome = yield from batch.run()
            except Setback as setback:
                if setback.several and len(chunk) > 1:
                    count = self.together_max = len(chunk) // 2
                elif before := setback.before(chunk):
                    count = before  # committed first, together
                else:
                    careful = True
            except Broken as broken:
                self.reading.condemn(broken.item, broken.error.what, again=False)
                careful = True
            except Exception as error:
                if is_outage(error):
                    raise
                count = self.narrow(chunk, careful=careful, error=error)
                careful = True
            else:
                self.held.update(fence)
                self.follow(outcome)
                self.together_max = min(self.together_max * 2, self.settings.batch_max)
                return outcome.settled

    def narrow(self, chunk: Sequence[Item], *, careful: bool, error: Exception) -> int:
        """A batch failed outside any handler, at its commit perhaps: find the event, then park it.
        Returns how many events to try next.
        """
        if not careful:
            return CAREFUL_MAX
        if len(chunk) == 1:
            if chunk[0].bad is not None or not self.condemn_next(chunk[0].place, error):
                raise error
            return 1
        return len(chunk) // 2

    def condemn_next(self, place: Place, error: Exception) -> bool:
        """Have the event that is next of a key parked, as its transaction failed at its end. False:
        it did not run then, so it is not its handler.
        """
        reason = f"the transaction failed at its end: {describe(error)}", True
        return self.reading.condemned.setdefault((place, *ANY_EVENT), reason) is reason

    def follow(self, outcome: Outcome) -> None:
        """What a committed batch leaves to do."""
        self.reading.condemned.clear()
        self.reading.done.add(outcome.counts)
        self.wanted += outcome.wanted
        for place in outcome.wakes:
            self.drains.setdefault(place, False)
        self.note_kept(outcome.parked, outcome.kept_bytes, moved_on=any(outcome.counts[:DONE]))

    def note_kept(self, parked: int, kept_bytes: int, *, moved_on: bool) -> None:
        """So much more waits, as far as this process knows; some keys have `moved_on`."""
        settings = self.settings
        self.parked += parked
        self.kept_bytes += kept_bytes
        self.look_again |= self.paused and moved_on
        much = self.parked > settings.parked_max or self.kept_bytes > settings.kept_bytes_max
        if much and not self.paused:
            self.next_upkeep_ms = 0  # perhaps too much waits: count it

    def catch_up(self) -> Program[bool]:
        """Effects that handlers wait for, then some keys that can go on; whether there were any."""
        busy = bool(self.wanted or self.drains)
        for one in list(self.wanted):
            yield from self.go_on_with(one)
            self.wanted.remove(one)  # only now: after an outage its effect is asked for again
            if self.reading.now_ms() >= self.next_upkeep_ms:
                return True
        drains = dict(list(self.drains.items())[:DRAIN_MAX])
        self.drains = {place: r for place, r in self.drains.items() if place not in drains}
        if drains:
            try:
                yield from self.drain(drains)
            except Exception:
                self.drains = drains | self.drains  # their tries are counted, and were not made
                raise
        return busy

    def drain(
        self, drains: dict[Place, bool], items: Sequence[Item] = (), *, filling: bool = False
    ) -> Program[None]:
        """Go on with waiting keys, and settle events that fill gaps (only these: `filling`).

        Under the fence of one of our partitions, whichever, which does not move: so a handler that
        commits is stopped here too, a rebuild waits for us, and what is done is counted. Without
        one, those who hold the partitions go on with these keys.
        """
        if not self.held:
            return
        yield from know_subscriptions(self.reading)
        place, alone = min(self.single or self.held), len(drains) + len(items) == 1
        if self.single and not alone:
            yield from self.drain_in_parts(drains, items, 1, filling=filling)
            return
        key = items[0].place if items else next(iter(drains))
        if self.single and (yield from self.look_out(place, f"{key[0]}:{key[1]}")):
            self.reading.condemned[key, *ANY_EVENT] = (DEADLY, False)
        fence = {place: self.held[place]}
        events_max = 1 if self.single else CAREFUL_MAX + len(items)
        while True:
            batch = Batch(
                self.reading, items, fence, drains, careful=True, filling=filling,
                events_max=events_max,
            )  # fmt: skip
            try:
                outcome = yield from batch.run()
            except Broken as broken:
                self.reading.condemn(broken.item, broken.error.what, again=False)
            except Exception as error:
                if is_outage(error):
                    raise
                if not alone:
                    yield from self.drain_in_parts(drains, items, 1, filling=filling)
                    return
                if events_max == 1 and not self.condemn_next(key, error):
                    logger.exception("%s: a key cannot go on: %s", self.reading.consumer, key)
                    self.reading.condemned.clear()
                    return
                events_max = 1
            else:
                self.held[place] = fence[place]._replace(suspect=None)
                self.follow(outcome)
                return

    def drain_in_parts(
        self, drains: dict[Place, bool], items: Sequence[Item], size: int, *, filling: bool = False
    ) -> Program[None]:
        for place, forced in drains.items():
            yield from self.drain({place: forced})
        for at in range(0, len(items), size):
            yield from self.drain({}, items[at : at + size], filling=filling)

    def fill_gaps(self, now_ms: int) -> Program[None]:
        """Ask the sources whose stores we may read for what is missing, and settle it."""
        if self.gaps is None:
            return
        records = yield from self.gaps.close(now_ms)
        yield from know_subscriptions(self.reading)
        items = take_in(self.reading, records).items
        yield from self.drain_in_parts({}, items, CAREFUL_MAX)

    def go_on_with(self, one: Wanted) -> Program[None]:
        """Have the effect that a handler waits for, then run the handler again."""
        reading, item = self.reading, one.item
        try:
            failure = yield from have_effect(reading, one)
        except Exception as error:
            if not is_outage(error) or not reading.gives_up(item.place, item.link):
                raise
            logger.warning("%s: %s waits: %s", reading.consumer, item.place[1], describe(error))
            return  # its row says when to try again
        if failure is not None:
            self.reading.condemn(item, failure[0], again=failure[1])
        yield from self.drain({item.place: False})
        reading.effects.pop((item.envelope.source, item.envelope.id), None)

    def look_what_is_due(self, now_ms: int) -> Program[None]:
        """Retries whose time has come, wake-ups that a crash lost, and whether too much waits."""
        reading, settings = self.reading, self.settings
        session, sql, name = reading.session, reading.sql, reading.consumer
        if self.held:  # else `drain` could do nothing, and a try would be spent
            tries = (settings.attempts_max, int(settings.backoff_s * 1000))
            longest_s = max(settings.backoff_max_s, settings.handler_timeout_s)
            waits = (int(settings.backoff_max_s * 1000), int(longest_s * 1000))
            rows = yield from call(
                session.run, sql["take_due"], (name, now_ms, DRAIN_MAX, *tries, *waits)
            )
            for place in rows:
                self.drains[place] = True
        if self.held and now_ms >= self.next_sweep_ms:
            self.next_sweep_ms = now_ms + int(SWEEP_S * 1000)
            if self.look_again:  # what was passed over may be next now
                self.looked, self.look_again = {}, False
            rows = yield from call(session.run, sql["released_waiters"], (name, DRAIN_MAX))
            for place in rows:
                self.drains.setdefault(place, False)
        if self.paused or self.parked or self.kept_bytes:
            ((parked, _, _, kept_bytes),) = yield from call(session.run, sql["held"], (name,))
            paused = parked > settings.parked_max or kept_bytes > settings.kept_bytes_max
            if paused and not self.paused:
                logger.error(
                    "%s: paused: %d keys parked, %d bytes kept; see: oncebox parked %s",
                    name, parked, kept_bytes, name,
                )  # fmt: skip
            self.paused = paused
            self.parked, self.kept_bytes = parked, kept_bytes
