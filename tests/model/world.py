"""The world around one key: a producer that may forget, a log that delivers anything, a consumer
that asks `oncebox.order` what to do, and an operator.

Everything is a value, so that an explorer can go back to any moment. The commands, which are also
the words of the traces in these tests:

    c          commit an event; the first branch names its events a1, a2 …, the next b1, b2 …
    back ahead the producer's clock jumps
    R2  R2!    the database is restored to its first two events; with "!" somebody noticed, and
               stamps go on above all that was published
    N   N!     the database is made anew, empty
    Z          a second restore, onto the branch that an earlier one abandoned
    E2         event 2 is erased: a void is published in its place
    Q2         event 2 was refused by the log: only a void is published
    T2         a copy of event 2 with other bytes gets into the log
    >a2        the log delivers a2, for the first time or again;  >v:a2 its void;  >t:a2 the copy
    redrive, skip, ask, accept, prune     what an operator does

A broken promise raises `Broken`. What is checked where: effects in `Consumer.do`, a delivery in
`explore.check_delivery`, the end of everything in `explore.check_end`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

from oncebox import order

TICK = 1000
ACCEPTED = "|"  # among the effects: here an operator accepted another history


class Broken(Exception):
    """A promise that the rules did not keep."""


class Event(NamedTuple):
    """An event that was committed once, whatever the producer remembers of it now."""

    id: str
    sequence: int
    stamp: int
    previous: int | None
    past: tuple[str, ...]
    """The events of its branch before it."""


class Record(NamedTuple):
    """An event as the log has it."""

    event: Event
    form: str = ""  # "v": void, "t": other bytes

    def __str__(self) -> str:
        return f"{self.form}:{self.event.id}" if self.form else self.event.id


class Setup(NamedTuple):
    """What is special about the consumer. Numbers are sequences; 0: none."""

    start: int = 0  # it begins at the time of this event
    poison: int = 0  # its handler fails on this number, on every branch
    ignored: int = 0  # it has no handler for the type of this number
    skips: int = 0  # how often an operator may skip
    prunes: int = 0  # how often rows may be pruned

    def __str__(self) -> str:
        special = [f"{name}={value}" for name, value in self._asdict().items() if value]
        return ", ".join(special) or "plain"


# --- the producer


class Producer(NamedTuple):
    """A producer's database: `history` is what it remembers, `log` what it ever published."""

    clock: int = 1000
    low: int = 0
    branch: int = 0
    history: tuple[Event, ...] = ()
    log: tuple[Record, ...] = ()
    made: tuple[Event, ...] = ()
    abandoned: tuple[Event, ...] = ()
    voids: frozenset[str] = frozenset()
    went_back: bool = False  # to an abandoned branch

    def act(self, command: str) -> Producer | None:
        """The producer after a command; None where it is impossible."""
        letter, noticed = command[0], command.endswith("!")
        number = int(command[1:].rstrip("!")) if command[1:2].isdigit() else 0
        if command in ("back", "ahead"):
            return self._replace(clock=self.clock + (-35 if command == "back" else 100))
        if command == "c":
            return self.commit()
        if letter == "Z":
            return self.restore_abandoned()
        if letter in "RN":
            return self.forget(number, noticed) if number < len(self.history) else None
        return self.spoil(letter, self.history[number - 1]) if number <= len(self.history) else None

    def spoil(self, letter: str, event: Event) -> Producer | None:
        """Erase an event, have it refused by the log, or let a forged copy in."""
        if letter == "T":
            return self._replace(log=(*self.log, Record(event, "t")))
        if event.id in self.voids:
            return None
        log = tuple(r for r in self.log if letter != "Q" or r != Record(event))
        return self._replace(log=(*log, Record(event, "v")), voids=self.voids | {event.id})

    def commit(self) -> Producer:
        """Commit and publish one event: stamp = max(clock, last + 1, low), and unique."""
        clock = self.clock + 10
        last = self.history[-1] if self.history else None
        base = max(clock, last.stamp // TICK + 1 if last else 0, -(-self.low // TICK))
        event = Event(
            f"{'abcdefgh'[self.branch]}{len(self.history) + 1}",
            len(self.history) + 1,
            base * TICK + len(self.made) + 1,
            last.stamp if last else None,
            (*last.past, last.id) if last else (),
        )
        return self._replace(
            clock=clock,
            history=(*self.history, event),
            log=(*self.log, Record(event)),
            made=(*self.made, event),
        )

    def forget(self, count: int, noticed: bool) -> Producer:
        """Restore the database to its first `count` events."""
        top = 1 + max(record.event.stamp for record in self.log)
        return self._replace(
            history=self.history[:count],
            abandoned=self.history,
            branch=self.branch + 1,
            low=max(self.low, top) if noticed else self.low,
        )

    def restore_abandoned(self) -> Producer | None:
        """Restore once more, to the branch that was abandoned, less its last event."""
        count = len(self.abandoned) - 1
        if count < 1 or self.history[:count] == self.abandoned[:count]:
            return None
        return self._replace(
            history=self.abandoned[:count],
            branch=self.branch + 1,
            went_back=True,
        )

    def links(self) -> tuple[Any, ...]:
        """What the producer answers when it is asked for its history."""
        return tuple(link(Record(e, "v" if e.id in self.voids else "")) for e in self.history)

    def clock_fell_behind(self) -> bool:
        """Whether a later branch has stamps below those of an earlier one."""
        return any(
            later.stamp <= event.stamp and event.id not in later.past
            for index, event in enumerate(self.made)
            for later in self.made[index + 1 :]
        )


@cache
def link(record: Record) -> Any:
    """A record as the verdict sees it. A text's hash stands for the bytes' hash."""
    event = record.event
    digest = 0 if record.form == "v" else 1 + sum(map(ord, str(record)))
    return order.Link(
        event.sequence, event.stamp, event.previous, event.id, digest, record.form == "v"
    )


# --- the consumer and its operator


class Consumer(NamedTuple):
    """One consumer's database: what `order` keeps, and what happened."""

    state: Any
    floor: int = 0
    effects: tuple[str, ...] = ()
    listed: frozenset[tuple[str, str]] = frozenset()
    """(id, why) of events that were voided, ignored, skipped or below the start."""
    orphans: frozenset[Any] = frozenset()
    """Given up by an accept, and not done since."""
    skips: int = 0
    prunes: int = 0

    def done(self) -> set[str]:
        """The events of which nothing more is owed."""
        return {*self.effects, *(id_ for id_, _ in self.listed)}


PLAIN = Setup()


def prunable(state: Any, history: Sequence[Any], floor: int) -> bool:
    """Whether a key's row may be forgotten when the floor rises to `floor`: the rule that the
    statement `prune_keys` keeps, with what its callers make sure of.

    Two things are not in these values: the source has promised no stamp below `floor`, and the log
    holds no event of the key any more.
    """
    if state.sequence <= 0 or state.park is not None or state.kept:
        return False
    if state.stamp >= floor or state.cutoff > floor or not order._has_row(history, state):
        return False
    return all(link.stamp >= floor for link in order._behind(history, state.sequence))


class Rig:
    """A consumer and its operator, deciding by `rules`: `oncebox.order`, or a broken copy."""

    def __init__(self, setup: Setup = PLAIN, rules: ModuleType = order) -> None:
        self.setup = setup
        self.rules: Any = rules

    def consumer(self) -> Consumer:
        start = (1000 + 10 * self.setup.start) * TICK if self.setup.start else 0
        return Consumer(self.rules.KeyState(), start)

    def deliver(
        self, producer: Producer, consumer: Consumer, record: Record
    ) -> tuple[str, Consumer]:
        """A delivery, as the pump would handle it. Returns the verdict too."""
        arrived = link(record)
        verdict, state = self.rules.judge(consumer.state, arrived, consumer.floor)
        if self.rules.is_next(consumer.state, arrived, consumer.floor):
            if (verdict, self.rules.following(state, consumer.floor)) != ("keep", arrived):
                raise Broken(f"is_next lets {record} pass, and judge does not")
            state = consumer.state  # the short way: it need not be kept first
            return verdict, self.drain(producer, consumer, first=arrived)
        if verdict == "before_start" and record.event.stamp < self.consumer().floor:
            consumer = consumer._replace(listed=consumer.listed | {(record.event.id, "before")})
        return verdict, self.drain(producer, consumer._replace(state=state))

    def drain(
        self, producer: Producer, consumer: Consumer, how: str = "", first: Any = None
    ) -> Consumer:
        """Do what is next for as long as something is. `how`: what becomes of poison."""
        state = consumer.state
        while True:
            step = first or self.rules.following(state, consumer.floor)
            first = None
            if step is None:
                return consumer._replace(state=state)
            if step == "fork":
                return consumer._replace(state=self.rules.fork(state))
            ignored = step.sequence == self.setup.ignored
            action = "void" if step.void else "ignore" if ignored else "apply"
            if action == "apply" and step.sequence == self.setup.poison:
                if not how:
                    return consumer._replace(state=self.rules.poison(state, step))
                action = how
            consumer = self.do(producer, consumer, step.id, action)
            state = self.rules.advance(state, step)

    def do(self, producer: Producer, consumer: Consumer, id_: str, action: str) -> Consumer:
        """An event takes effect, or is passed over: once, and in the order of its branch."""
        event = next(e for e in producer.made if e.id == id_)
        start, done = self.consumer().floor, consumer.done()
        for before in producer.made:
            if before.id in event.past and before.stamp >= start and before.id not in done:
                raise Broken(f"{id_} before {before.id}, which it follows")
        orphans = frozenset(o for o in consumer.orphans if o.id != id_)
        if action != "apply":
            listed = consumer.listed | {(id_, action)}
            return consumer._replace(listed=listed, orphans=orphans)
        if id_ in consumer.effects:
            raise Broken(f"{id_} took effect twice")
        for other in reversed(consumer.effects):
            if other == ACCEPTED:
                break
            if other not in event.past:
                raise Broken(f"{id_} applied after {other} of another branch, unnoticed")
        return consumer._replace(effects=(*consumer.effects, id_), orphans=orphans)

    # --- the operator

    def redrive(self, producer: Producer, consumer: Consumer) -> Consumer | None:
        """Whatever made the handler fail has been mended."""
        if consumer.state.park != "poison":
            return None
        mended = consumer._replace(state=self.rules.redrive(consumer.state))
        return self.drain(producer, mended, how="apply")

    def skip(self, producer: Producer, consumer: Consumer) -> Consumer | None:
        """Give up what fails or is missing."""
        if consumer.skips >= self.setup.skips:
            return None
        history, before = producer.links(), consumer.state
        state, given_up = self.rules.skip(before, history, consumer.floor, consumer.orphans)
        if given_up is None:
            return None if state == before else consumer._replace(state=state)
        first = before.kept[0]
        if before.park == "poison":
            consumer = self.do(producer, consumer, first.id, "skip")
        else:
            event = next(e for e in producer.made if e.id == first.id)
            missing = [e for e in producer.made if e.id in event.past]
            missing = [e for e in missing if e.stamp >= self.consumer().floor]
            gone = {(e.id, "skip") for e in missing if e.id not in consumer.done()}
            owed = {e.sequence for e in missing if (e.id, "skip") in gone}
            numbers = set(range(given_up[0], given_up[1] + 1))
            # Of a branch that was given up and came back, the row does not know what was done.
            if numbers != owed and not (producer.went_back and owed < numbers):
                raise Broken(f"skipped {given_up}, missing were {sorted(gone)}")
            consumer = consumer._replace(listed=consumer.listed | gone)
        return self.drain(producer, consumer._replace(state=state, skips=consumer.skips + 1))

    def ask(self, producer: Producer, consumer: Consumer) -> Consumer | None:
        """Ask the source for the missing events of a gap: None if it has the same history."""
        state = self.rules.ask(consumer.state, producer.links(), consumer.orphans)
        return None if state is None else consumer._replace(state=state)

    def accept(
        self, producer: Producer, consumer: Consumer, after: int | None = None
    ) -> tuple[Producer, Consumer] | str:
        """Adopt the source's history; a text: the doubt for which that was refused."""
        history, orphans = producer.links(), consumer.orphans
        found = self.rules.accept(consumer.state, history, consumer.floor, orphans, after=after)
        if hasattr(found, "doubt"):
            return str(found.doubt)
        claimed = {e.id for e in producer.history if e.sequence <= found.state.sequence}
        if after is None and any(orphan.id in claimed for orphan in orphans):
            raise Broken("accept took an event that it had given up for one that took effect")
        marked = consumer.effects[-1:] == (ACCEPTED,)
        published = (record.event.stamp + 1 for record in producer.log)
        accepted = consumer._replace(
            state=found.state,
            effects=consumer.effects if marked else (*consumer.effects, ACCEPTED),
            orphans=orphans | {o for o in found.orphans if o.id not in consumer.done()},
        )
        raised = producer._replace(low=max(producer.low, found.low, *published))
        return raised, self.drain(raised, accepted)

    def branch(self, producer: Producer, consumer: Consumer) -> int:
        """What an operator finds out: the last event of the history whose effect is here."""
        done, start = consumer.done(), self.consumer().floor
        count = 0
        for event in producer.history:
            if event.id not in done and event.stamp >= start:
                break
            count += 1
        return count

    def prune(self, producer: Producer, consumer: Consumer) -> tuple[Producer, Consumer] | None:
        """Forget the row of a key that is idle beyond the log's retention."""
        if consumer.prunes >= self.setup.prunes:
            return None
        floor = max(producer.clock * TICK + 5000, consumer.state.stamp + 1)
        history = producer.links()
        if floor <= consumer.floor or not prunable(consumer.state, history, floor):
            return None
        if consumer.state.kept or consumer.state.park:
            raise Broken("a row was pruned, and with it what was kept behind it")
        kept_in_log = tuple(r for r in producer.log if r.event in producer.history)
        return (
            producer._replace(low=max(producer.low, floor), log=kept_in_log),
            consumer._replace(state=self.rules.KeyState(), floor=floor, prunes=consumer.prunes + 1),
        )
