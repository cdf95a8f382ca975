"""The world of a consumer: a producer's records in a log, owners that consume them, an operator.

What may happen to it is the tape's. What has to come of it, whatever happened: each event's effect
once, in the order of its key; nothing left waiting but what was meant to; nothing done by an owner
that had lost its partition.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self

from msgspec import json

from oncebox.codecs.payload import decode
from oncebox.consumer.loop import ConsumerLoop
from oncebox.consumer.reading import Handler, Reading, Settings
from oncebox.envelope import Reference, after_text, chain_text, event_headers
from oncebox.event import event, event_type
from oncebox.explorer import Actor, Blocked, Broken, Run, World, arrivals
from oncebox.explorer.run import BEGIN_MS
from oncebox.explorer.tape import Choices
from oncebox.lease import Held
from oncebox.operate.actions import redrive
from oncebox.operate.desk import Desk
from oncebox.operate.waiting import Where, waiting
from oncebox.ports import Outgoing, Reader, TopicPartition
from oncebox.program import Program, call

from .broker import Broker
from .engines import Engine

TOPIC = "orders"
SOURCE = "/shop/orders"
CONSUMER = "billing"

QUICK = Settings(
    lease_s=0.8, fetch_wait_s=0.2, backoff_s=0.2, attempts_max=2, handler_timeout_s=1.5
)
"""Few idle turns until a lease is over or a retry is due: they are steps, and cost time."""


@event("order.paid", stream=TOPIC, key="order", version=1)
@dataclass(frozen=True)
class Paid:
    order: str
    cents: int


class Fact(NamedTuple):
    """An event as the producer committed it: its key's number `sequence`, which is also what it
    adds; `partition` of the log; `after`: key and sequence of one that has to be first. `branch`:
    0, or another history of the key, from a database that was restored; `behind`: the branch of
    the event before it.
    """

    key: str
    sequence: int
    partition: int = 0
    after: tuple[str, int] | None = None
    branch: int = 0
    behind: int = 0

    @property
    def value(self) -> int:
        return self.sequence + 5 * self.branch

    @property
    def id(self) -> str:
        return f"{self.key}{self.value}"


def stamp(sequence: int, branch: int = 0) -> int:
    """When it was committed: a minute before the run begins, later branches later."""
    return (BEGIN_MS - 60_000 + sequence * 10 + branch * 100) * 1000 * 1024


def outgoing(fact: Fact, at_ms: int) -> Outgoing:
    """The record that a relay would publish of it."""
    previous = None if fact.sequence == 1 else stamp(fact.sequence - 1, fact.behind)
    chain = chain_text(fact.sequence, stamp(fact.sequence, fact.branch), previous)
    extra = []
    if fact.after is not None:
        key, sequence = fact.after
        extra.append(("after", after_text(Reference(SOURCE, key, stamp(sequence)))))
    headers = event_headers(fact.id, SOURCE, "order.paid", 1, chain, extra)
    value = json.encode(Paid(fact.key, fact.value))
    return Outgoing(TOPIC, fact.key.encode(), value, headers, at_ms)


FIVE = (Fact("a", 1), Fact("b", 1, 1), Fact("a", 2), Fact("b", 2, 1), Fact("a", 3))
"""Two keys on two partitions."""


class Shop(World):
    """Override `cast` to say who acts. `failing`: (key, value) that the handler refuses until an
    operator mends it. `every_step`: without it, a transaction that keeps everybody else out is
    deviated from only before it begins and before it commits, since nobody could tell.
    """

    time_max_ms = 30_000

    def __init__(
        self,
        engine: Engine,
        facts: Sequence[Fact] = FIVE,
        *,
        settings: Settings = QUICK,
        failing: Iterable[tuple[str, int]] = (),
        duplicates: bool = True,
        every_step: bool = True,
    ) -> None:
        self.engine = engine
        self.every_step = every_step
        self.settings = settings
        self.stall_ms = int(settings.lease_s * 1600)
        self.duplicates = duplicates
        self.facts = [(fact, outgoing(fact, at)) for at, fact in enumerate(facts)]
        self.broker = Broker(TOPIC, 1 + max((fact.partition for fact in facts), default=0))
        self.breaks = frozenset(failing)
        self.failing: set[tuple[str, int]] = set()
        self.arranging = False
        self.past: list[tuple[Fact, Outgoing]] = []
        self.held: dict[str, dict[TopicPartition, Held]] = {}
        self.starts = 0
        pay: Callable[..., Any] = self.pay_async if engine.asynchronous else self.pay
        paid = event_type(Paid)
        self.handlers: Mapping[str, Handler] = {
            paid.type: Handler(pay, paid, partial(decode, Paid), with_context=False)
        }
        self.names = {text: name for name, text in engine.sql.items()}

        engine.change(f"UPDATE bound SET attempts = {settings.attempts_max}")
        engine.remember()

    def arranged(self, past: Sequence[Fact] = (), *changes: str) -> Self:
        """With a beginning where one owner is at work, and has done these events; `changes` of
        rows come on top of that.
        """
        self.past = [(fact, outgoing(fact, -1)) for fact in past]
        self.arranging = True
        Run(self, Choices(())).go()
        self.arranging = False
        for change in changes:
            self.engine.change(change)
        rows = self.engine.rows(
            "SELECT holder, topic, partition, term, position, identity FROM oncebox.cursor"
        )
        for holder, topic, at, term, position, identity in rows:
            held = Held(term, position, identity, 0, None)
            self.held.setdefault(holder, {})[topic, at] = held
        self.engine.remember()
        return self

    # ---- what happens

    def begin(self, run: Run) -> None:
        self.run = run
        random.seed(0)  # jitter of pauses
        self.starts = 0
        self.failing = set(self.breaks)
        self.engine.begin()
        self.broker.begin(run)
        for fact, record in self.past:
            self.broker.append(record, fact.partition)
        if self.arranging:
            self.arrange(run)
        else:
            self.publish(run)
            self.cast(run)

    def arrange(self, run: Run) -> None:
        """Who makes the beginning."""
        run.start("one", self.life)

    def publish(self, run: Run) -> None:
        """Fill the log; a relay that was restarted publishes again what it had published."""
        for fact, record in arrivals(
            run.choose, self.facts, lambda _: 0, duplicates=self.duplicates
        ):
            self.broker.append(record, fact.partition)

    def cast(self, run: Run) -> None:
        run.start("one", self.life)

    def may_deviate(self, actor: Actor) -> bool:
        if self.every_step or getattr(actor.function, "__name__", "") == "commit":
            return True
        return not self.engine.excludes(actor)

    def state(self) -> Hashable:
        return self.engine.state(), self.broker.state(), frozenset(self.failing), self.starts

    def crashed(self, actor: Actor) -> None:
        """Its sessions end. Jitter begins anew, so that it does not remember what was before."""
        self.engine.crashed(actor)
        random.seed(0)
        self.restart(actor)

    def restart(self, actor: Actor) -> None:
        """Somebody starts the process again, when its lease is over."""
        self.starts += 1
        actor.run.start(f"new{self.starts}", self.life, rest_s=self.settings.lease_s + 0.1)

    def clock(self, now_ms: int) -> None:
        self.engine.clock(now_ms)

    def ready(self, waits_for: Any) -> bool:
        return self.engine.ready(waits_for)

    # ---- who acts

    def loop(self, actor: Actor) -> Program[ConsumerLoop]:
        """A consumer's loop in a process of its own."""
        store = self.engine.store(actor)
        session = yield from call(store.open)
        reading = Reading(
            consumer=CONSUMER, session=session, sql=self.engine.sql, handlers=self.handlers_of(actor),
            topics=(TOPIC,), settings=self.settings, now_ms=lambda: self.run.now_ms,
        )  # fmt: skip

        def fetch(reader: Reader) -> Callable[..., Any]:
            def fetch_or_rest(count_max: int, bytes_max: int, wait_s: float) -> Any:
                found = reader.fetch(count_max, bytes_max, wait_s)
                if not found:
                    actor.rest(wait_s)
                return found

            return fetch_or_rest

        return self.loop_of(
            actor, reading, store, self.broker, actor.name,
            stopping=lambda: self.stopping(actor), sleep=actor.rest, fetch=fetch,
        )  # fmt: skip

    def handlers_of(self, actor: Actor) -> Mapping[str, Handler]:
        """The code that a process runs."""
        return self.handlers

    def loop_of(self, actor: Actor, *arguments: Any, **more: Any) -> ConsumerLoop:
        return ConsumerLoop(*arguments, **more)

    def stopping(self, actor: Actor) -> bool:
        return False

    def life(self, actor: Actor) -> Program[None]:
        """An owner from its start."""
        loop = yield from self.loop(actor)
        yield from loop.run()

    def work(self, actor: Actor) -> Program[None]:
        """An owner in the middle of its life: what it holds, the beginning's rows say."""
        loop = yield from self.loop(actor)
        self.resume(loop)
        yield from loop.run()

    def resume(self, loop: ConsumerLoop) -> None:
        loop.held = dict(self.held.get(loop.holder, {}))
        loop.reader.assign({p: int(held.position or 0) for p, held in loop.held.items()})
        loop.partitions = {TOPIC: len(self.broker.parts)}
        now_ms = self.run.now_ms
        loop.pruning.next_ms = now_ms + 60_000
        loop.next_upkeep_ms = now_ms + int(self.settings.lease_s * 250)
        loop.next_describe_ms = loop.next_sweep_ms = now_ms + 5_000

    def desk(self, actor: Actor) -> Program[Desk]:
        store = self.engine.store(actor)
        session = yield from call(store.open)
        return Desk(CONSUMER, session, self.engine.sql, lambda: self.run.now_ms)

    def operator(self, actor: Actor) -> Program[int]:
        """Mends what handlers fail at, when keys are parked for good, and redrives these keys: until
        none is parked, since processes that die spend tries, too.
        """
        desk = yield from self.desk(actor)
        done = 0
        while True:
            found, _ = yield from waiting(desk, Where())
            parked = [one for one in found if one.kind == "poison"]
            if parked and all(one.due_ms is None for one in parked):
                yield self.failing.clear, ()
                done += len((yield from redrive(desk, parked)))
            elif done and not parked:
                return done
            yield actor.rest, (self.settings.lease_s / 2,)

    # ---- effects

    def refuse(self, paid: Paid) -> None:
        if (paid.order, paid.cents) in self.failing:
            raise ValueError(f"no account {paid.order}")

    def pay(self, tx: Any, paid: Paid) -> None:
        tx.execute("INSERT INTO ledger (key, value) VALUES (?, ?)", (paid.order, paid.cents))
        self.refuse(paid)
        tx.execute(
            "INSERT INTO account (key, total) VALUES (?, ?)"
            " ON CONFLICT (key) DO UPDATE SET total = total * 100 + excluded.total",
            (paid.order, paid.cents),
        )

    async def pay_async(self, tx: Any, paid: Paid) -> None:
        await tx.execute(
            "INSERT INTO ledger (key, value) VALUES (%s, %s)", (paid.order, paid.cents)
        )
        self.refuse(paid)
        await tx.execute(
            "INSERT INTO account AS a (key, total) VALUES (%s, %s)"
            " ON CONFLICT (key) DO UPDATE SET total = a.total * 100 + excluded.total",
            (paid.order, paid.cents),
        )

    # ---- the end

    def settled(self) -> bool:
        """Nothing to read, nothing that will be tried again by itself."""
        try:
            return self.is_read() and (self.arranging or self.is_quiet())
        except Blocked:  # by a transaction of somebody who stands still
            return False

    def is_read(self) -> bool:
        parts = self.broker.parts
        rows = self.engine.rows("SELECT partition, position FROM oncebox.cursor")
        return len(rows) == len(parts) and all(p == str(len(parts[at])) for at, p in rows)

    def is_quiet(self) -> bool:
        """Whether no key waits for what will happen by itself."""
        rows = self.engine.rows(
            "SELECT count(*) FROM oncebox.key WHERE park IS NOT NULL OR kept > 0"
        )
        return rows == [(0,)]

    def check(self) -> object:
        self.check_effects()
        self.check_pending()
        self.check_owners()
        return tuple(self.engine.rows("SELECT key, total FROM account ORDER BY key"))

    def expected(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for fact, _ in self.past + self.facts:
            found.setdefault(fact.key, []).append(fact.value)
        return {key: sorted(values) for key, values in found.items()}

    def check_effects(self) -> None:
        """Each event's effect once, in the order of its key."""
        found: dict[str, list[int]] = {}
        for key, value in self.engine.rows("SELECT key, value FROM ledger ORDER BY n"):
            found.setdefault(key, []).append(value)
        expected = self.expected()
        for key in sorted(expected.keys() | found.keys()):
            had, due = found.get(key, []), expected.get(key, [])
            if had != due:
                raise Broken(f"effects of key {key}: {had}, expected {due}")

    def check_pending(self) -> None:
        """Nothing waits, and every position is at the end of what was published."""
        rows = self.engine.rows(
            "SELECT key, park, kept, due_ms, reason FROM oncebox.key"
            " WHERE park IS NOT NULL OR kept > 0 OR due_ms IS NOT NULL ORDER BY key"
        )
        if rows:
            raise Broken(f"waiting at the end: {rows}")
        ((kept,),) = self.engine.rows("SELECT count(*) FROM oncebox.kept")
        if kept:
            raise Broken(f"{kept} events kept that no key knows of")
        for partition, position in self.engine.rows(
            "SELECT partition, position FROM oncebox.cursor"
        ):
            if position != str(len(self.broker.parts[partition])):
                raise Broken(f"partition {partition} read up to {position} only")

    def check_owners(self) -> None:
        """Positions were moved by their owners, forwards; every record was counted once."""
        rows = self.engine.rows("SELECT what FROM violation")
        if rows:
            raise Broken(rows[0][0])

    def describe(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> str:
        function = getattr(function, "func", function)
        name = getattr(function, "__name__", str(function))
        shown = []
        for argument in arguments:
            if isinstance(argument, str):
                shown.append(self.names.get(argument, argument.split("\n")[0]))
            elif isinstance(argument, Paid):
                shown.append(f"{argument.order} {argument.cents}")
            elif isinstance(argument, int | float) or (
                isinstance(argument, Sequence) and len(str(argument)) < 60
            ):
                shown.append(str(argument))
        return f"{name} {' '.join(shown)}".strip()
