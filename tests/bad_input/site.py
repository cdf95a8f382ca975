"""A shop and whoever bills for it, on real engines, with a wire between them that can be hurt.

What is emitted goes the whole way: outbox, relay, log, consumer. `Site.hurt` changes a record as it
leaves the relay, which is where most bad input comes from; all else is what runs in production.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import make_dataclass, replace
from itertools import count
from typing import Any, NamedTuple, cast

from oncebox.consumer.batch import COUNTS
from oncebox.consumer.gaps import Gaps, asker
from oncebox.consumer.loop import ConsumerLoop
from oncebox.consumer.reading import Reading, Settings, record_of
from oncebox.context import Context
from oncebox.event import event
from oncebox.operate.actions import accept, consider
from oncebox.operate.desk import Desk
from oncebox.operate.rewind import republish
from oncebox.operate.waiting import START, Waiting, Where, waiting
from oncebox.ports import Log, Outgoing, Record, Refusal
from oncebox.program import drive
from oncebox.relay import Relay, RelaySettings
from oncebox.service.connect import open_log
from oncebox.service.service import Service
from oncebox.statements import statements
from oncebox.stores.adapt import open_store
from oncebox.stores.base import typed
from oncebox.tables.migrate import migrate
from producing import WAIT_S

SETTINGS = Settings(fetch_wait_s=0.05, backoff_s=1.0)

Change = Callable[[Outgoing], Outgoing | None]
"""What happens to a record on its way; None: it is lost."""


class Place(NamedTuple):
    """Where a site's parts are, by URL."""

    shop: str
    billing: str
    log: str
    topic: str

    @property
    def on_kafka(self) -> bool:
        return self.log.startswith("kafka:")

    @property
    def dialect(self) -> str:
        return "sqlite" if self.billing.startswith("sqlite:") else "postgres"


class Clock:
    """Unix seconds: the machine's, and what was slept or set."""

    ahead_s = 0.0

    @property
    def now(self) -> float:
        return time.time() + self.ahead_s

    @now.setter
    def now(self, seconds: float) -> None:
        self.ahead_s = seconds - time.time()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.ahead_s += seconds


class Wire:
    """The log as the relay sees it: what is published may be hurt on its way."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.hurts: dict[str, list[Change]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)

    def publish(self, records: Sequence[Outgoing], timeout_s: float) -> list[Refusal]:
        carried = [one for one in map(self.carried, records) if one is not None]
        refusals = self.log.publish(carried, timeout_s)
        assert not refusals or len(carried) == len(records), "a refusal names a place in the call"
        return refusals

    def carried(self, record: Outgoing) -> Outgoing | None:
        changes = self.hurts.get((record.key or b"").decode())
        return changes.pop(0)(record) if changes else record


class Site:
    """A service that emits and relays, and a consumer with a ledger of what took effect."""

    shop: Any
    billing: Any

    def __init__(self, place: Place, partitions: int = 2, *, anew: bool = True) -> None:
        self.place = place
        self.source = f"/shop/{place.topic}"
        made = make_dataclass("Paid", [("order", str), ("cents", int)], frozen=True)
        self.Paid: Any = event("order.paid", stream=place.topic, key="order")(made)
        made = make_dataclass("Noted", [("order", str), ("note", str)], frozen=True)
        self.Noted: Any = event("order.noted", stream=place.topic, key="order")(made)
        made = make_dataclass("Opened", [("cents", int)], frozen=True)
        self.Opened: Any = event("shop.opened", stream=place.topic, key=None)(made)
        self.service = Service("shop")
        self.clock = Clock()
        self.shop_store: Any = open_store(place.shop)
        self.billing_store: Any = open_store(place.billing)
        self.processes = count()
        self.waited: list[Exception] = []
        """What relay and consumer waited out, as they say it."""
        self.connect()
        if anew:
            self.make(partitions)

        billing = Service("billing")
        insert = "INSERT INTO ledger (who, what) VALUES (?, ?)"
        self.insert = insert if place.dialect == "sqlite" else insert.replace("?", "%s")
        self.failing: set[str] = set()
        """Keys whose handler fails."""

        @billing.on(self.Paid)
        def pay(tx: Any, paid: Any, context: Context[None]) -> None:
            if context.key in self.failing:
                raise ValueError(f"no account {context.key}")
            tx.execute(self.insert, (context.key, paid.cents))

        @billing.on(self.Noted)
        def note(tx: Any, noted: Any) -> None:
            tx.execute(self.insert, (noted.order, len(noted.note)))

        @billing.on(self.Opened)
        def opened(tx: Any, event: Any) -> None:
            tx.execute(self.insert, ("shop", event.cents))

        self.handlers = billing.consumer().handlers

    def make(self, partitions: int) -> None:
        """Tables and topic."""
        drive(migrate(self.shop))
        drive(migrate(self.billing))
        number = "INTEGER" if self.place.dialect == "sqlite" else "bigserial"
        self.billing.run(f"CREATE TABLE ledger (n {number} PRIMARY KEY, who TEXT, what BIGINT)")
        self.log.create(self.place.topic, partitions)

    def connect(self) -> None:
        """Open everything."""
        self.relays: list[Relay] = []
        self.loops: list[ConsumerLoop] = []
        self.logs: list[Log] = []
        self.shop = self.billing = None
        self.log: Log = self.reopened()
        self.wire = Wire(self.log)
        self.shop = self.shop_store.open()
        self.billing = self.billing_store.open()

    def reopened(self) -> Log:
        """The log as a process that starts now sees it."""
        self.logs.append(open_log(self.place.log))
        return self.logs[-1]

    # ---- the shop

    def emit(self, *events: Any) -> None:
        """Commit events together."""
        self.shop.begin()
        self.service.emit_many(self.shop.handle, events)
        self.shop.commit()

    def paid(self, order: str, *cents: int) -> None:
        self.emit(*(self.Paid(order, one) for one in cents))

    def hurt(self, order: str, *changes: Change) -> None:
        """Change the next records of a key on their way: the first by the first, and so on."""
        self.wire.hurts.setdefault(order, []).extend(changes)

    def relay(self, **settings: Any) -> Relay:
        """Publish what was emitted; the relay, at rest."""
        if not self.relays:
            made = RelaySettings(**{"upkeep_s": 1e9, **settings})
            wire = cast("Log", self.wire)
            relay = Relay(self.shop_store, wire, "shop", "one", made, self.clock, self.clock.sleep)
            self.relays.append(relay)
        until(lambda: not self.relay_turn(), "the relay comes to rest")
        return self.relays[-1]

    def relay_turn(self) -> bool:
        """One turn of the relay; what was an outage is noted, and waited out."""
        relay = self.relays[-1]
        try:
            return drive(relay.turn())
        except Exception as error:
            self.waited.append(typed(error, relay.session if relay.is_open else None))
            drive(relay._outage(error))
            return True

    def republish(self, order: str, first: int = 1, last: int | None = None) -> list[int]:
        """What `oncebox republish` does: a key's events once more, from the outbox."""
        sql = statements(self.place.dialect)
        numbers = (first, last)
        return drive(
            republish(self.shop, sql, self.log, self.source, order, numbers, dry_run=False)
        )

    # ---- the consumer

    def loop(self, **changes: Any) -> ConsumerLoop:
        """A process of the consumer; `ask=True`: it may read the shop's store."""
        ask = changes.pop("ask", False)
        session: Any = self.billing_store.open()
        reading = Reading(
            consumer="billing",
            session=session,
            sql=statements(self.place.dialect),
            handlers=self.handlers,
            topics=(self.place.topic,),
            settings=replace(SETTINGS, **changes),
            now_ms=lambda: int(self.clock.now * 1000),
        )
        gaps = Gaps(reading, {self.source: self.shop_store}) if ask else None
        holder = f"process {next(self.processes)}"
        loop = ConsumerLoop(
            reading, self.billing_store, self.log, holder,
            stopping=lambda: False, sleep=self.clock.sleep, gaps=gaps,
        )  # fmt: skip
        self.loops.append(loop)
        return loop

    def consume(self, **changes: Any) -> ConsumerLoop:
        """Read to the log's end; what was an outage is noted, and waited out."""
        loop = self.loops[-1] if self.loops and not changes else self.loop(**changes)
        until(lambda: not self.turn(loop) and self.at_end(), "the consumer reads to the end")
        return loop

    def turn(self, loop: ConsumerLoop) -> bool:
        """One turn; whether there is more to do at once."""
        try:
            return drive(loop.turn())
        except Exception as error:
            self.waited.append(typed(error, loop.reading.session))
            drive(loop.outage(error))
            return True

    def at_end(self) -> bool:
        """Whether every partition is read to its end."""
        ends = [str(extent.end) for extent in self.log.extents(self.place.topic)]
        rows = self.rows(
            "SELECT position FROM oncebox.cursor WHERE reader = 'billing' ORDER BY partition"
        )
        return [position for (position,) in rows][: len(ends)] == ends

    def leave(self) -> None:
        """The consumer's processes end in order."""
        for loop in self.loops:
            drive(loop.leave())
        self.loops.clear()

    def flow(self) -> ConsumerLoop:
        """What was emitted is published and consumed."""
        self.relay()
        return self.consume()

    def later(self, seconds: float) -> None:
        """Let time pass, and do what is due then."""
        self.clock.now += seconds
        self.flow()

    # ---- who operates it

    def desk(self) -> Desk:
        sql = statements(self.place.dialect)
        return Desk("billing", self.billing, sql, lambda: int(self.clock.now * 1000))

    def waiting(self) -> dict[str, Waiting]:
        """What `oncebox parked` shows, by key."""
        found: dict[str, Waiting] = {}
        behind: tuple[int, str] | None = START
        while behind is not None:
            page = drive(waiting(self.desk(), Where(), behind))
            found |= {one.key: one for one in page.found}
            behind = page.behind
        return found

    def accept(self, order: str, after: int | None = None) -> None:
        """What `oncebox accept` does: the shop's history of the key counts, and its stamps go on
        above all that was published.
        """
        sql, desk = statements(self.place.dialect), self.desk()
        ask = asker(self.shop, sql)
        low = drive(consider(desk, self.source, order, ask, after))
        self.shop.run(sql["raise_low"], (self.source, low))
        drive(accept(desk, self.source, order, ask, after, "it is right"))

    # ---- what became of it

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        if self.place.dialect == "sqlite":
            sql = sql.replace("oncebox.", "oncebox_")
        rows: list[tuple[Any, ...]] = self.billing.run(sql)
        return rows

    def of(self, who: str) -> list[int]:
        """A key's effects in order."""
        rows = self.rows("SELECT who, what FROM ledger ORDER BY n")
        return [what for name, what in rows if name == who]

    def parked(self) -> dict[str, tuple[str, str]]:
        """By key: why it is parked, and the reason."""
        rows = self.rows("SELECT key, park, reason FROM oncebox.key WHERE park IS NOT NULL")
        return {key: (park, reason) for key, park, reason in rows}

    def delivered(self) -> int:
        """All records of the log."""
        return sum(extent.end - extent.start for extent in self.log.extents(self.place.topic))

    def accounted(self) -> int:
        """All records that the consumer knows of: each once, whatever became of it."""
        (kept,) = self.rows("SELECT count(*) FROM oncebox.kept")[0]
        return sum(map(self.count, COUNTS)) + int(kept) - self.count("forks")  # forks are kept

    def kept(self, order: str) -> list[Record]:
        """The records that are kept behind a key, as they came."""
        rows = self.rows("SELECT key, record FROM oncebox.kept ORDER BY sequence, stamp")
        return [record_of(record) for key, record in rows if key == order]

    def quarantined(self) -> list[tuple[str, Record]]:
        """Reason and record, in the order in which they came."""
        rows = self.rows("SELECT reason, record FROM oncebox.quarantine ORDER BY n")
        return [(reason, record_of(record)) for reason, record in rows]

    def count(self, name: str) -> int:
        return int(self.rows(f"SELECT coalesce(sum({name}), 0) FROM oncebox.cursor")[0][0])

    def close(self) -> None:
        """Close everything, as processes that end do."""
        for loop in self.loops:
            loop.reader.close()
            if loop.gaps is not None:
                drive(loop.gaps.leave())
            loop.reading.session.close()
        relays = [relay.session for relay in self.relays if relay.is_open]
        for session in (*relays, self.shop, self.billing):
            if session is not None:
                session.close()
        for log in self.logs:
            log.close()
        self.relays, self.loops, self.logs, self.shop, self.billing = [], [], [], None, None


def until(condition: Callable[[], bool], what: str) -> None:
    """Ask again and again until it holds."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {WAIT_S:g} s: {what}"
