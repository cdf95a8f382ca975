"""A service's outbox and its relay on real engines, step by step under a test's own clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from oncebox.envelope import Envelope, read_envelope
from oncebox.event import new_id
from oncebox.logs.embedded import EmbeddedLog
from oncebox.order import Chain
from oncebox.ports import Outgoing, Record, Refusal
from oncebox.program import drive
from oncebox.relay import Relay, RelaySettings
from oncebox.statements import statements
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate

SOURCE = "/shop/orders"
WAIT_S = 30.0
TURNS_MAX = 10_000


class Clock:
    """Unix seconds that pass only when a program sleeps."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Published(NamedTuple):
    """A record as a reader of the log sees it."""

    envelope: Envelope
    record: Record

    @property
    def key(self) -> str | None:
        return self.envelope.key

    @property
    def chain(self) -> Chain:
        assert self.envelope.chain is not None
        return self.envelope.chain


class FaultyLog(EmbeddedLog):
    """The embedded log, which refuses or fails as a test says. It counts its calls."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.refuse: Callable[[Outgoing], Refusal | None] = lambda _: None
        self.before: Callable[[Sequence[Outgoing]], None] = lambda _: None
        self.after: Callable[[Sequence[Outgoing]], None] = lambda _: None
        self.calls = 0

    def publish(self, records: Sequence[Outgoing], timeout_s: float) -> list[Refusal]:
        self.calls += 1
        self.before(records)
        refused: list[Refusal] = []
        keys: set[bytes | None] = set()
        for at, record in enumerate(records):
            refusal = self.refuse(record)
            if refusal is None and record.key in keys and record.key is not None:
                refusal = Refusal(at, "behind a refused record", permanent=False)
            if refusal is not None:
                refused.append(refusal._replace(at=at))
                keys.add(record.key)
        left_out = {refusal.at for refusal in refused}
        taken = [record for at, record in enumerate(records) if at not in left_out]
        assert super().publish(taken, timeout_s) == []
        self.after(records)
        return refused


class Outbox:
    """A database with oncebox's tables, a log, and what a test does with both."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.store = open_store(url)
        self.dialect = self.store.dialect
        self.sql = statements(self.dialect)
        self.log = FaultyLog(folder / "log.db")
        self.clock = Clock()
        self._sessions: list[Any] = []
        self._relays: list[Relay] = []
        self.session = self.open()
        drive(migrate(self.session))

    def open(self) -> Any:
        """One more connection."""
        session: Any = self.store.open()
        self._sessions.append(session)
        return session

    def close(self) -> None:
        for session in [*self._sessions, *(r.session for r in self._relays if r.is_open)]:
            session.close()
        self.log.close()

    def run(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """A statement by itself; tables are called as on PostgreSQL."""
        if self.dialect == "sqlite":
            sql = sql.replace("oncebox.", "oncebox_").replace("$", "?")
        rows: list[tuple[Any, ...]] = self.session.run(sql, parameters)
        return rows

    # ---- emit

    def put(
        self,
        session: Any,
        key: str | None,
        data: bytes | None = b"{}",
        *,
        source: str = SOURCE,
        after: tuple[str | None, str | None, int | None] | None = None,
        attributes: str | None = None,
    ) -> str:
        """One event in the transaction that is open; its id."""
        row: tuple[Any, ...] = (source, str(new_id()), key, "order.placed", 1, data)
        if after is None and attributes is None:
            session.run(self.sql["append"], row)
        else:
            more = (None, attributes, *(after or (None, None, None)))
            session.run(self.sql["append_with"], (*row, *more))
        return str(row[1])

    def emit(self, *keys: str | None, data: bytes = b"{}", source: str = SOURCE) -> list[str]:
        """One transaction with an event for each of these keys, in this order; their ids."""
        self.session.begin()
        ids = [self.put(self.session, key, data, source=source) for key in keys]
        self.session.commit()
        return ids

    def emit_many(self, keys: Sequence[str | None], data: bytes = b"{}") -> None:
        """The same by one statement."""
        rows = [(SOURCE, str(new_id()), key, "order.placed", 1, data) for key in keys]
        self.session.begin()
        if self.dialect == "postgres":
            columns = [list(column) for column in zip(*rows, strict=True)]
            self.session.run(self.sql["append_many"], columns)
        else:
            self.session.run_many(self.sql["append"], rows)
        self.session.commit()

    def chains(self, key: str | None) -> list[tuple[Any, ...]]:
        """(sequence, stamp, previous) of a key's events, in the order of their commits."""
        table, n = ("oncebox.event", "n")
        if self.dialect == "postgres":
            table, n = "oncebox.chain c join oncebox.event e on e.n = c.n", "c.position"
        same = "key is null" if key is None else "key = $1"
        parameters = () if key is None else (key,)
        columns = "sequence, stamp, previous"
        return self.run(f"select {columns} from {table} where {same} order by {n}", *parameters)

    # ---- relay

    def relay(self, holder: str = "me", service: str = "shop", **settings: Any) -> Relay:
        """A relay that has not begun. Its clock is the test's; leases go by the database's."""
        made = RelaySettings(**{"upkeep_s": 1e9, **settings})
        relay = Relay(self.store, self.log, service, holder, made, self.clock, self.clock.sleep)
        self._relays.append(relay)
        return relay

    def settle(self, relay: Relay) -> Relay:
        """Relay until nothing is to be done now."""
        for _ in range(TURNS_MAX):
            if not drive(relay.turn()):
                return relay
        raise AssertionError("the relay does not come to rest")

    def rest(self, relay: Relay) -> Relay:
        """Settle, store the cursor, and do the upkeep that is due."""
        for _ in range(3):
            self.settle(relay)
            self.clock.sleep(1.0)
        return relay

    def settle_holes(self, relay: Relay) -> Relay:
        """Relay until no position is missing any more."""
        for _ in range(TURNS_MAX):
            moved = drive(relay.turn())
            if not moved and not relay.reached.holes:
                return relay
            self.clock.sleep(1.0)
        raise AssertionError(f"still missing: {relay.reached.holes}")

    def small_partitions(self, rows: int) -> None:
        """Before the first event: partitions that are soon full."""
        if self.dialect == "postgres":
            for table in ("event", "chain"):
                self.run(f"drop table oncebox.{table}_0")
                self.run(f"delete from oncebox.partition where parent = '{table}'")
                self.run(f"select oncebox.add_partition('{table}', 0, {rows})")

    def stored(self, relay: Relay) -> str | None:
        """The position in the cursor's row."""
        ((position,),) = self.run(
            "select position from oncebox.cursor where reader = $1", relay.reader
        )
        return None if position is None else str(position)

    def published(self, topic: str = "orders") -> list[Published]:
        """All records of a topic, partition by partition."""
        if self.log.describe(topic) is None:
            return []
        extents = self.log.extents(topic)
        reader = self.log.reader("test")
        reader.assign({(topic, number): 0 for number in range(len(extents))})
        count = sum(extent.end for extent in extents)
        found: list[Record] = []
        deadline = time.monotonic() + WAIT_S
        while len(found) < count:
            assert time.monotonic() < deadline
            found += reader.fetch(10_000, 64 * 1024 * 1024, 1.0)
        reader.close()
        found.sort(key=lambda record: (record.partition, record.offset))
        return [Published(read_envelope(record), record) for record in found]

    def ids(self, topic: str = "orders") -> list[str]:
        return [one.envelope.id for one in self.published(topic)]

    def of_key(self, key: str, topic: str = "orders") -> list[Published]:
        return [one for one in self.published(topic) if one.key == key]


@pytest.fixture(params=["sqlite", "postgres"])
def outbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Outbox]:
    """An outbox on each store."""
    url = f"sqlite:///{tmp_path}/shop.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    made = Outbox(url, tmp_path)
    yield made
    made.close()


@pytest.fixture
def on_postgres(postgres_url: str, tmp_path: Path) -> Iterator[Outbox]:
    """An outbox on PostgreSQL."""
    made = Outbox(postgres_url, tmp_path)
    yield made
    made.close()


def check_chains(published: Iterable[Published]) -> None:
    """Along each key: 1, 2, 3 …, stamps that rise, each naming the one before."""
    last: dict[tuple[str, str], Chain] = {}
    for one in published:
        if one.key is None:
            continue
        place = (one.envelope.source, one.key)
        before, chain = last.get(place), one.chain
        if before is None:
            assert chain.sequence == 1, one
            assert chain.previous is None, one
        else:
            assert chain.sequence == before.sequence + 1, (before, one)
            assert chain.previous == before.stamp, (before, one)
            assert chain.stamp > before.stamp, (before, one)
        last[place] = chain


def await_true(condition: Callable[[], bool], what: str, wait_s: float = WAIT_S) -> None:
    """Wait until it holds, as long as `wait_s`."""
    deadline = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < deadline, f"not in {wait_s} s: {what}"
        time.sleep(0.005)
