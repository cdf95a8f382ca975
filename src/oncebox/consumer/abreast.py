"""The concurrent consumer: events of different keys side by side, each in its own transaction.

What is fetched goes into lanes, a lane per key; N workers, each with a session of its own, take
from them and settle one event at a time: a batch of one, decided by the rows of its key and id,
which are locked meanwhile. The loop only reads, keeps its partitions, and moves positions behind
what is decided. Whatever is decided beyond a position is a duplicate when it comes again, so a
crash, a lost partition or a second owner costs reading, and never an effect.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from ..errors import CorruptStore, Fenced
from ..lease import Held
from ..ports import Record, TopicPartition
from ..program import Program, call
from ..session import Session, lookup
from ..stores.base import of_database, refused, trouble, typed
from .batch import APPLIED, Batch, Broken, Outcome, Wanted
from .calling import Setback, blame, describe, is_outage
from .crew import Crew, Tasks, Threads
from .effects import have_effect
from .lanes import Job, Lanes, lane_of
from .loop import OUTAGE_PAUSE_MAX_S, OUTAGE_PAUSE_S, ConsumerLoop
from .reading import ANY_EVENT, Item, Place, Reading, Taken, items_of, take_in

logger = logging.getLogger("oncebox.consumer")

AHEAD_MAX = 50
"""Events that are read ahead for each worker: with fewer, one busy key holds up the others."""

MOVE_S = 0.25
"""How often positions move."""

FULL_S = 0.01
"""How long to wait for room in the lanes."""


class AbreastLoop(ConsumerLoop):
    """The loop of one consumer with `concurrency` workers. Where owners died at one position, it
    works like any other until the event that kills is found.
    """

    def __init__(self, *arguments: Any, crew: Crew | None = None, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.crew: Crew = crew or (Tasks() if self.store.asynchronous else Threads())
        self.lanes = Lanes(self.crew.give, self.crew.lock)
        self.working = False
        self.next_move_ms = 0

    # ---- the loop

    def turn(self) -> Program[bool]:
        if self.lanes.trouble is not None:
            error, self.lanes.trouble = self.lanes.trouble, None
            raise error
        if self.single:
            if self.lanes.jobs:  # so that no other event is at work beside one under suspicion
                yield self.sleep, (FULL_S,)
                return True
            return (yield from super().turn())
        if not self.working:
            self.working = True
            workers = [Worker(self).run() for _ in range(self.settings.concurrency)]
            self.crew.start(f"handlers:{self.reading.consumer}", workers)
        yield from self.keep_up()
        self.positions()
        yield from self.catch_up()
        if self.reading.now_ms() >= self.next_move_ms:
            yield from self.move()
        busy, room = bool(self.lanes.jobs), self.room()
        if not room or not self.held or self.single:
            yield self.sleep, (FULL_S if self.held else min(self.settings.lease_s / 4, 0.2),)
            return busy
        wait_s = min(self.settings.fetch_wait_s, self.settings.lease_s / 4, MOVE_S)
        count_max = min(room, self.settings.batch_max)
        return (yield from self.fetch_records(count_max, wait_s)) or busy

    def room(self) -> int:
        """How many more events may be read."""
        if self.lanes.size > self.settings.batch_bytes_max:
            return 0
        return max(AHEAD_MAX * self.settings.concurrency - self.lanes.jobs, 0)

    def handle(self, records: Sequence[Record], taken: Taken | None = None) -> Program[None]:
        if self.single:
            yield from super().handle(records, taken)
            return
        for item in (yield from items_of(self.reading, taken or take_in(self.reading, records))):
            record = item.record
            partition = (record.topic, record.partition)
            term, lane = self.held[partition].term, lane_of(self.reading, item)
            self.lanes.add(Job(partition, term, lane, item=item), record.offset + 1)

    def drain(
        self, drains: dict[Place, bool], items: Sequence[Item] = (), *, filling: bool = False
    ) -> Program[None]:
        if self.single or not self.held:
            yield from super().drain(drains, items, filling=filling)
            return
        partition = min(self.held)
        term = self.held[partition].term
        for place, release in drains.items():
            self.lanes.add(Job(partition, term, place, drain=place, release=release))
        for item in items:
            lane = lane_of(self.reading, item)
            self.lanes.add(Job(partition, term, lane, item=item, filling=filling))

    # ---- partitions

    def upkeep(self, now_ms: int) -> Program[None]:
        yield from self.move()  # before a partition is given to somebody else
        yield from super().upkeep(now_ms)

    def taken(self, place: TopicPartition, held: Held) -> Program[Held]:
        if held.position is None:
            self.lanes.collected()  # a rebuild counts anew
        return (yield from super().taken(place, held))

    def positions(self) -> dict[TopicPartition, int]:
        """Where to read on: behind what is in the lanes."""
        stored = self.stored()
        if self.single:
            self.lanes.keep({})
            return stored
        self.lanes.keep({p: (self.held[p].term, stored[p]) for p in self.held})
        return {partition: self.lanes.ends[partition] for partition in stored}

    def move(self) -> Program[None]:
        """Move positions behind all that is decided, and count what became of it."""
        self.next_move_ms = self.reading.now_ms() + int(MOVE_S * 1000)
        counts, parked, kept_bytes = self.lanes.collected()
        self.note_kept(parked, kept_bytes, moved_on=any(counts))
        reached = {}
        for partition, held in self.held.items():
            if self.lanes.terms.get(partition) == held.term:
                position = str(self.lanes.position(partition))
                if position != held.position:
                    reached[partition] = position
        if any(counts) and not reached and self.held:
            partition = min(self.held)
            reached[partition] = self.held[partition].position or "0"
        if not reached:
            self.lanes.collect(Outcome(0, counts, [], [], 0, 0))
            return
        try:
            yield from self.transact(self.write_positions(reached, counts))
        except BaseException:
            self.lanes.collect(Outcome(0, counts, [], [], 0, 0))
            raise
        self.reading.done.add(counts)
        for partition, position in reached.items():
            held = self.held[partition]
            if held.position != position:
                self.held[partition] = held._replace(position=position, takeovers=0, suspect=None)

    def write_positions(
        self, reached: dict[TopicPartition, str], counts: Sequence[int]
    ) -> Program[None]:
        session, sql, name = self.reading.session, self.reading.sql, self.reading.consumer
        rows = [(*p, self.held[p].term, self.held[p].position) for p in sorted(reached)]
        ours = yield from lookup(session, sql["fence"], rows, (name,))
        if len(ours) != len(rows):
            raise Fenced("another owner took a partition", expected="our term and position")
        lease_ms = int(self.settings.lease_s * 1000)
        for topic, partition, term, _ in rows:
            position = reached[topic, partition]
            parameters = (name, topic, partition, term, position, lease_ms, *counts)
            yield from call(session.run, sql["close_batch"], parameters)
            counts = [0] * len(counts)

    def leave(self) -> Program[None]:
        """Let the handlers that run end, then give everything back. Never raises."""
        if self.working:
            yield from call(self.crew.stop)
        try:
            yield from self.move()
        except Exception:
            logger.debug("positions did not move at the end", exc_info=True)
        yield from super().leave()


class Worker:
    """One of those who settle events: a session of its own, opened when it is first needed."""

    def __init__(self, loop: AbreastLoop) -> None:
        self.loop = loop
        self.lanes = loop.lanes
        self.opened = False
        self.terms: dict[TopicPartition, int] = {}
        self.pause_s = OUTAGE_PAUSE_S
        self.reading: Reading = replace(
            loop.reading, session=cast("Session", None), subscriptions={}, sources={},
            condemned={}, outages={}, effects={},
        )  # fmt: skip

    def run(self) -> Program[None]:
        """Settle what is given until it is time to end."""
        try:
            while (job := (yield from call(self.loop.crew.take))) is not None:
                yield from self.work_on(job)
        finally:
            if self.opened:
                yield from self.close()

    def work_on(self, job: Job) -> Program[None]:
        """Settle it, if it is still to be done; what is in the way ends the loop, or its turn."""
        decided = False
        try:
            if self.lanes.begin(job):
                decided = yield from self.settle(job)
        except Fenced as error:
            if self.lanes.is_ours(job):
                self.lanes.trouble = error
        except BaseException as error:  # not of this worker alone: nobody would know
            self.lanes.trouble = error
            if isinstance(error, GeneratorExit | asyncio.CancelledError):
                raise
        finally:
            self.lanes.end(job, decided=decided)

    def settle(self, job: Job) -> Program[bool]:
        """One event, or the next of a key, with the effects that it asks for; whether it is
        decided. Raises Fenced, and what no waiting mends.
        """
        reading = self.reading
        if self.terms.get(job.partition) != job.term:  # what is known of sources may be of a past
            self.terms[job.partition] = job.term
            reading.subscriptions.clear()
        reading.floor = self.loop.reading.floor
        reading.condemned.clear()
        outcome = yield from self.settle_one(job)
        decided = outcome is not None
        while outcome is not None and outcome.wanted:
            (one,) = outcome.wanted
            reading.condemned.clear()
            if not (yield from self.have(one)):
                break
            again = Job(job.partition, job.term, job.lane, drain=one.item.place)
            outcome = yield from self.settle_one(again)
        reading.effects.clear()
        return decided

    def settle_one(self, job: Job) -> Program[Outcome | None]:
        """A batch of one, tried until it commits. None: it need not any more."""
        careful = False
        while self.lanes.is_ours(job):
            batch = None
            try:
                if not self.opened:
                    self.reading.session = yield from call(self.loop.store.open)
                    self.opened = True
                    self.loop.crew.opened(self.reading.session)
                batch = self.batch(job, careful=careful)
                outcome = yield from batch.run()
            except Fenced:
                raise
            except Setback as setback:
                careful = self.judge_setback(setback) or careful
            except Broken as broken:
                self.reading.condemn(broken.item, broken.error.what, again=False)
                careful = True
            except Exception as error:
                if not (yield from self.wait(error)):
                    if careful:
                        self.judge_failure(job, batch, error)
                    careful = True  # it may be a handler that ended the transaction
                elif self.loop.stopping():
                    return None
            else:
                self.pause_s = OUTAGE_PAUSE_S
                self.follow(job, outcome)
                return outcome
        return None

    def batch(self, job: Job, *, careful: bool) -> Batch:
        items = () if job.item is None else (job.item,)
        drains = {} if job.drain is None else {job.drain: job.release}
        in_line = job.item is not None and job.item.in_line  # its place in the line is one more
        return Batch(
            self.reading, items, {}, drains, careful=careful, filling=job.filling,
            events_max=1 + in_line, guard=(job.partition, job.term),
        )  # fmt: skip

    def follow(self, job: Job, outcome: Outcome) -> None:
        """What a committed event leaves to do."""
        self.lanes.collect(outcome)
        for place in outcome.wakes:
            self.lanes.add(Job(job.partition, job.term, place, drain=place))

    # ---- failures

    def judge_setback(self, setback: Setback) -> bool:
        """The handler failed, and its transaction is undone: that is noted in another, where it
        does not run. True: it has to run again, carefully, for us to know what it did: an outage,
        an effect that it waits for, an end of its transaction.
        """
        error = setback.__cause__
        if error is None or setback.event is None or is_outage(error) or of_database(error):
            return True
        if refused(error):
            return True
        self.reading.condemned[setback.event] = (blame(error), True)
        return False

    def judge_failure(self, job: Job, batch: Batch | None, error: Exception) -> None:
        """It failed outside any handler, at its commit perhaps."""
        place = job.drain if job.item is None else job.item.place
        if batch is None or place is None or self.reading.condemned or not batch.counts[APPLIED]:
            raise error  # not the handler: it did not run
        reason = f"the transaction failed at its end: {describe(error)}"
        self.reading.condemned[place, *ANY_EVENT] = (reason, True)

    def wait(self, failure: Exception) -> Program[bool]:
        """Nobody's fault: wait, longer each time. False: it is something else. Raises what no
        waiting mends.
        """
        error = typed(failure, self.reading.session) if self.opened else failure
        if isinstance(error, CorruptStore):
            raise error
        if not is_outage(error):  # a statement of ours that waited too long is one, too
            return False
        logger.warning("%s: waiting: %s", self.reading.consumer, describe(error))
        self.reading.done.outages += 1
        if trouble(failure) != "retry" and self.opened:
            yield from self.close()
        yield self.loop.sleep, (self.pause_s * random.uniform(0.5, 1.0),)
        self.pause_s = min(self.pause_s * 2, OUTAGE_PAUSE_MAX_S)
        return True

    def close(self) -> Program[None]:
        self.opened = False
        try:
            yield from call(self.reading.session.close)
        except Exception:
            logger.debug("closing a session failed", exc_info=True)

    # ---- effects outside the database

    def have(self, one: Wanted) -> Program[bool]:
        """Have the effect that a handler waits for. False: not now, its row says when."""
        reading, item = self.reading, one.item
        while not self.loop.stopping():
            try:
                failure = yield from have_effect(reading, one)
            except Exception as error:
                met = is_outage(error) and reading.gives_up(item.place, item.link)
                if not (yield from self.wait(error)):
                    raise
                if met:
                    return False
            else:
                if failure is not None:
                    self.reading.condemn(item, failure[0], again=failure[1])
                return True
        return False
