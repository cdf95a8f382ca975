"""Worlds: who acts, what may go wrong there, and what each is for."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

from oncebox import inbox
from oncebox.codecs.payload import decode
from oncebox.consumer.loop import ConsumerLoop
from oncebox.consumer.reading import Handler, Place
from oncebox.context import Context
from oncebox.errors import Fenced
from oncebox.event import event_type
from oncebox.explorer import Actor, Broken, Run
from oncebox.explorer.run import Crash
from oncebox.operate.actions import redrive
from oncebox.operate.waiting import Where, waiting
from oncebox.program import Program, call
from oncebox.stores.base import trouble

from .engines import Engine
from .shop import QUICK, Fact, Paid, Shop, outgoing


class Start(Shop):
    """One owner from its first moment on empty tables."""

    def cast(self, run: Run) -> None:
        run.start("one", self.life)


class AtWork(Shop):
    """One owner at work, as it mostly is."""

    def cast(self, run: Run) -> None:
        run.start("one", self.work)


class Rivals(Shop):
    """An owner at work, and a second that starts: partitions change hands."""

    def cast(self, run: Run) -> None:
        run.start("one", self.work)
        run.start("two", self.life)

    def is_quiet(self) -> bool:
        """Also, work is shared: everybody who is alive has a part of it."""
        rows = self.engine.rows("SELECT DISTINCT holder FROM oncebox.cursor WHERE holder > ''")
        return len(rows) == len(self.run.actors) and super().is_quiet()


class Leaving(Shop):
    """An owner that is asked to stop, at a moment that the tape chooses; another takes over."""

    asked = False

    def cast(self, run: Run) -> None:
        self.asked = False
        run.start("one", self.work)
        run.start("two", self.life)

    def state(self) -> Hashable:
        return super().state(), self.asked

    def stopping(self, actor: Actor) -> bool:
        if actor.name == "one" and not self.asked and not self.arranging:
            self.asked = bool(self.run.choose(("stop",)))
        return self.asked and actor.name == "one"

    def is_quiet(self) -> bool:
        leaving = self.asked and any(actor.name == "one" for actor in self.run.actors)
        return not leaving and super().is_quiet()

    def check_owners(self) -> None:
        """Also, who left in peace left nothing behind."""
        super().check_owners()
        rows = self.engine.rows(
            "SELECT 1 FROM oncebox.member WHERE holder = 'one'"
            " UNION SELECT 1 FROM oncebox.cursor WHERE holder = 'one'"
        )
        if self.asked and rows and "crash" not in self.run.choices.fired:
            raise Broken("one left, and still counts as a member")


class AtTwo(Shop):
    """Besides the others, a second owner, who looks at once what is due."""

    def cast(self, run: Run) -> None:
        super().cast(run)
        run.start("two", self.look)

    def look(self, actor: Actor) -> Program[None]:
        loop = yield from self.loop(actor)
        self.resume(loop)
        loop.next_upkeep_ms = 0
        yield from loop.run()


class Failing(Shop):
    """A handler that fails: its key is parked, tried again, given up, mended and redriven."""

    def cast(self, run: Run) -> None:
        run.start("one", self.work)
        run.start("desk", self.operator)

    def restart(self, actor: Actor) -> None:
        if actor.name.startswith("desk"):
            actor.run.start(actor.name + "'", self.operator)
        else:
            super().restart(actor)


class Causal(Shop):
    """Events that wait for those of other keys (`after=`), on partitions of two owners."""

    def cast(self, run: Run) -> None:
        run.start("one", self.work)


class Charging(Shop):
    """Handlers with an effect outside the database."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        paid = event_type(Paid)
        handler = Handler(self.charge, paid, partial(decode, Paid), with_context=True)
        self.handlers = {paid.type: handler}
        self.charged: dict[str, str] = {}
        self.calls = 0

    def cast(self, run: Run) -> None:
        self.charged = {}
        self.calls = 0
        run.start("one", self.work)

    def state(self) -> Hashable:
        return super().state(), frozenset(self.charged.items())

    def check_calls(self) -> None:
        """Where nobody died or stood still, each effect was asked for once."""
        if self.calls > len(self.facts) and not {"crash", "stall"} & set(self.run.choices.fired):
            raise Broken(f"{self.calls} calls for {len(self.facts)} effects")

    def charge(self, tx: Any, paid: Paid, context: Context[Any]) -> None:
        due = f"{paid.order}{paid.cents}"
        receipt = context.once("charge", partial(self.outside, due))
        if receipt != f"receipt {due}":
            raise Broken(f"{due} has {receipt}")
        self.pay(tx, paid)

    def outside(self, due: str, key: str) -> str:
        """A payment service that knows idempotency keys."""
        self.calls += 1
        if self.charged.setdefault(key, due) != due:
            raise Broken(f"{due} and {self.charged[key]} have one idempotency key")
        return f"receipt {due}"

    def check_effects(self) -> None:
        super().check_effects()
        self.check_calls()
        charged = sorted(self.charged.values())
        if charged != sorted(fact.id for fact, _ in self.facts):
            raise Broken(f"charged: {charged}")


class Killing(Shop):
    """An event whose handler kills its process, every time: its key has to end up parked, and
    nobody else's.
    """

    deadly = ("a", 2)

    def cast(self, run: Run) -> None:
        run.start("one", self.work)

    def refuse(self, paid: Paid) -> None:
        if (paid.order, paid.cents) == self.deadly and not self.arranging:
            raise Crash

    def is_quiet(self) -> bool:
        rows = self.engine.rows(
            "SELECT park, due_ms FROM oncebox.key WHERE park IS NOT NULL OR kept > 0"
        )
        return bool(rows) and all(park and not due_ms for park, due_ms in rows)

    def check(self) -> object:
        """Of a parked key nothing is done but what comes before. Somebody has to look at it: by
        itself it is not tried again. Whoever dies once by another hand, while an event is under
        suspicion, parks nothing.
        """
        key, number = self.deadly
        rows = self.engine.rows("SELECT key, park, due_ms FROM oncebox.key WHERE park IS NOT NULL")
        parked = {key for key, *why in rows if why == ["poison", None]}
        if len(parked) != len(rows) or parked != {key}:
            raise Broken(f"parked: {rows}")
        done = self.engine.rows("SELECT key, value FROM ledger ORDER BY n")
        for other, values in self.expected().items():
            mine = [value for k, value in done if k == other]
            least = 0 if other in parked else len(values)
            if mine != values[: len(mine)] or len(mine) < least:
                raise Broken(f"effects of key {other}: {mine}, parked: {parked}")
            if other == key and number in mine:
                raise Broken(f"the deadly event has an effect: {mine}")
        return None


class KillingWhenWoken(Killing):
    """The same of one that waits for another key: it kills whoever wakes it."""

    deadly = ("b", 1)


class Malformed(AtWork):
    """Among the records is one that nobody can read."""

    def publish(self, run: Run) -> None:
        good = outgoing(Fact("c", 1), 0)
        headers = [(n, "1:x" if n == "ce_chain" else v) for n, v in good.headers]
        self.broker.append(good._replace(headers=headers), 0)
        super().publish(run)

    def check_pending(self) -> None:
        super().check_pending()
        rows = self.engine.rows('SELECT partition, "offset" FROM oncebox.quarantine')
        if rows != [(0, len(self.past))]:
            raise Broken(f"in quarantine: {rows}")


class Forked(Shop):
    """A producer's database that was restored: what it emits then belongs to another history."""

    def cast(self, run: Run) -> None:
        run.start("one", self.work)

    def expected(self) -> dict[str, list[int]]:
        """The history that was seen first; of the other one, nothing."""
        return {"a": [fact.value for fact, _ in self.facts if not fact.branch]}

    def is_quiet(self) -> bool:
        return True

    def check_pending(self) -> None:
        rows = self.engine.rows("SELECT key, park FROM oncebox.key WHERE park IS NOT NULL")
        if rows != [("a", "fork")]:
            raise Broken(f"parked: {rows}, and the source forgot what it had published")


# ---- small enough for every interleaving on every engine


def once(loop: ConsumerLoop, work: Program[object]) -> Program[None]:
    """A part of the loop's work, with what the loop does when it fails."""
    try:
        yield from work
    except Fenced:
        return
    except Exception as error:
        yield from loop.outage(error)


class Duel(Shop):
    """Short programs, once each, and then an owner that goes on with whatever is left."""

    last = False
    swapped = False
    """Whether the second one has the first turn, which is no preemption then."""
    places: Sequence[Place] = ()
    persistent: Callable[[Actor], Program[None]] | None = None
    """A program that somebody starts again when it dies."""

    def begin(self, run: Run) -> None:
        self.last = False
        super().begin(run)
        if self.swapped:
            run.actors.reverse()

    def state(self) -> Hashable:
        return super().state(), self.last

    def restart(self, actor: Actor) -> None:
        if actor.name == "last":
            actor.run.start("last", self.life, rest_s=self.settings.lease_s + 0.1)
        elif self.persistent is not None and actor.name not in ("one", "two"):
            actor.run.start(actor.name + "'", self.persistent)

    def settled(self) -> bool:
        if self.arranging:
            return super().settled()
        if self.run.actors:
            return self.last and super().settled()
        if not self.last:
            self.last = True
            self.run.start("last", self.life, rest_s=self.settings.lease_s + 0.1)
            return False
        return True

    def turn(self, actor: Actor) -> Program[None]:
        """One fetch of an owner at work, and what it brings."""
        loop = yield from self.loop(actor)
        self.resume(loop)
        yield from once(loop, loop.turn())

    def first_turn(self, actor: Actor) -> Program[None]:
        """The same for an owner that starts."""
        loop = yield from self.loop(actor)
        yield from once(loop, loop.turn())

    def drain(self, actor: Actor) -> Program[None]:
        """A retry of every key."""
        loop = yield from self.loop(actor)
        self.resume(loop)
        yield from once(loop, loop.drain(dict.fromkeys(self.places, True)))

    def redrive(self, actor: Actor) -> Program[None]:
        """Mend the handler, and redrive whatever is parked."""
        desk = yield from self.desk(actor)
        found, _ = yield from waiting(desk, Where())
        yield self.failing.clear, ()
        yield from redrive(desk, found)

    def is_quiet(self) -> bool:
        return super().is_quiet() or not self.settling()

    def settling(self) -> bool:
        """Whether something that waits will be tried again by itself."""
        rows = self.engine.rows(
            "SELECT 1 FROM oncebox.key WHERE due_ms IS NOT NULL OR (kept > 0 AND park IS NULL)"
        )
        return bool(rows)


EXPIRED = "UPDATE oncebox.cursor SET lease_until = 0"
TWO_OWNERS = "UPDATE oncebox.cursor SET holder = 'two' WHERE partition = 1"
PARKED = "UPDATE oncebox.key SET due_ms = NULL, attempts = 4 WHERE park IS NOT NULL"
CLAIMED_BEFORE = "INSERT INTO oncebox.subscription (consumer, source) VALUES ('mail', 'hooks')"
DUE = "UPDATE oncebox.key SET due_ms = 1 WHERE park IS NOT NULL"


class TakeOver(Duel):
    """An owner whose lease has just run out, and the one that takes over."""

    @classmethod
    def make(cls, engine: Engine) -> Self:
        facts = (Fact("a", 1), Fact("a", 2))
        return cls(engine, facts, duplicates=False).arranged((), EXPIRED)

    def cast(self, run: Run) -> None:
        run.start("one", self.turn)
        run.start("two", self.first_turn)


class Redrive(Duel):
    """A key that is parked, an operator who redrives it, and its next event."""

    @classmethod
    def make(cls, engine: Engine) -> Self:
        failing = {("a", 1)}
        # Each crash behind a retry spends one of its tries: these are for two crashes.
        patient = replace(QUICK, attempts_max=4)
        facts = (Fact("a", 2),)
        shop = cls(engine, facts, failing=failing, settings=patient, duplicates=False)
        return shop.arranged((Fact("a", 1),), PARKED)

    def cast(self, run: Run) -> None:
        self.persistent = self.redrive
        run.start("one", self.turn)
        run.start("desk", self.redrive)


class RedriveLive(Duel):
    """The same key, redriven at the moment when its retry succeeds by itself; its next event comes
    later, and shows whether the row still knows what was done.
    """

    @classmethod
    def make(cls, engine: Engine) -> Self:
        shop = Retries.make(engine)
        other = cls(engine, (Fact("a", 3),), duplicates=False)
        other.past, other.places, other.held = shop.past, shop.places, shop.held
        other.broker.parts.append([])  # as many partitions as there
        return other

    def cast(self, run: Run) -> None:
        self.persistent = self.redrive
        run.start("one", self.drain)
        run.start("desk", self.redrive)


class Retries(Duel):
    """Two owners that have both seen the keys which are due."""

    due: tuple[Fact, ...] = (Fact("a", 1, 0), Fact("a", 2, 0))
    """What was delivered before; the first event of each key failed."""

    @classmethod
    def make(cls, engine: Engine) -> Self:
        failing = {(fact.key, 1) for fact in cls.due}
        shop = cls(engine, (), failing=failing, duplicates=False)
        shop.broker.parts.extend([] for _ in range(2 - len(shop.broker.parts)))
        shop.arranged(cls.due, DUE, TWO_OWNERS)
        shop.breaks = frozenset()
        rows = engine.rows("SELECT subscription, key FROM oncebox.key ORDER BY key")
        shop.places = [(subscription, key) for subscription, key in rows]
        return shop

    def cast(self, run: Run) -> None:
        run.start("one", self.drain)
        run.start("two", self.drain)


class Crossing(Retries):
    """Two owners that try the same two keys, each in its own order: nobody may be in the way of
    the other for good.
    """

    deadlocks = 0
    due = (Fact("a", 1, 0), Fact("b", 1, 0))

    def begin(self, run: Run) -> None:
        self.deadlocks = 0
        super().begin(run)

    def loop(self, actor: Actor) -> Program[ConsumerLoop]:
        loop = yield from super().loop(actor)
        outage = loop.outage

        def watched(error: Exception) -> Program[None]:
            self.deadlocks += trouble(error) == "retry"
            return outage(error)

        loop.outage = watched  # type: ignore[method-assign]
        return loop

    def check(self) -> object:
        if self.deadlocks:
            raise Broken("a deadlock")
        return super().check()


class Wake(Duel):
    """An event that waits for another key's, and that key's event, at two owners."""

    @classmethod
    def make(cls, engine: Engine) -> Self:
        facts = (Fact("b", 1, 1, ("a", 2)), Fact("a", 2, 0))
        shop = cls(engine, facts, duplicates=False)
        shop.broker.parts.extend([] for _ in range(2 - len(shop.broker.parts)))
        return shop.arranged((Fact("a", 1, 0),), TWO_OWNERS)

    def cast(self, run: Run) -> None:
        run.start("one", self.turn)
        run.start("two", self.turn)


class Claims(Duel):
    """Two callers that claim the same id."""

    @classmethod
    def make(cls, engine: Engine) -> Self:
        return cls(engine, (), duplicates=False).arranged((), CLAIMED_BEFORE)

    @classmethod
    def make_first(cls, engine: Engine) -> Self:
        """Nothing of this consumer and source was ever claimed."""
        return cls(engine, (), duplicates=False).arranged()

    def cast(self, run: Run) -> None:
        self.persistent = self.caller
        run.start("first", self.caller)
        run.start("second", self.caller)

    def caller(self, actor: Actor) -> Program[None]:
        store = self.engine.store(actor)
        session = yield from call(store.open)
        yield from call(session.begin)
        if (yield from inbox._claim(session, "oncebox", "mail", "hooks", "id-1", None)):
            insert = self.engine.native("INSERT INTO ledger (key, value) VALUES (?, ?)")
            yield from call(session.run, insert, ("a", 1))
        yield from call(session.commit)

    def is_read(self) -> bool:
        return True

    def expected(self) -> dict[str, list[int]]:
        return {"a": [1]}

    def check(self) -> object:
        self.check_effects()
        ((claims,),) = self.engine.rows("SELECT count(*) FROM oncebox.inbox")
        ((effects,),) = self.engine.rows("SELECT count(*) FROM ledger")
        if claims != effects:
            raise Broken(f"{claims} claims, {effects} effects")
        return None
