"""A shop and a billing service on real engines, and what tests of the audit do to them."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from oncebox.audit.report import Report
from oncebox.audit.survey import Side, audit
from oncebox.event import event
from oncebox.operate.desk import now_ms
from oncebox.ports import Record
from oncebox.program import drive
from oncebox.service.connect import open_log
from oncebox.service.places import Place
from oncebox.service.service import Service
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate
from oncebox.testing import drain

PARTITIONS = 3
FUTURE_S = -60.0
"""Nothing is too young."""

Edit = Callable[[list[Record]], list[Record]]


class System:
    """`shop` emits, `billing` handles; both in one store. `broken`: what handlers refuse."""

    def __init__(self, store: str, log: str, stream: str, folder: Path) -> None:
        self.store_url, self.log_url, self.stream, self.folder = store, log, stream, folder
        self.source = f"/shop/{stream}"
        self.broken: set[str] = set()
        self.store: Any = open_store(store)
        opened: Any = self.store.open()
        self.session = opened
        drive(migrate(opened))
        self.run("CREATE TABLE ledger (who text, what int)")
        self.log = open_log(log)
        self.log.create(stream, PARTITIONS)
        self.copies = 0

        @event("order.paid", stream=stream, key="order", version=1)
        @dataclass(frozen=True)
        class Paid:
            order: str
            cents: int

        @event("shop.opened", stream=stream, key=None, version=1)
        @dataclass(frozen=True)
        class Opened:
            order: str

        self.paid, self.opened = Paid, Opened
        self.services = self.services_on(log)

    def services_on(self, log: str) -> tuple[Service, Service]:
        """The two services with another log."""
        mark = "?" if self.store.dialect == "sqlite" else "%s"
        shop = Service("shop", store=self.store_url, log=log)
        billing: Service = Service("billing", store=self.store_url, log=log)
        insert = f"INSERT INTO ledger VALUES ({mark}, {mark})"

        def pay(tx: Any, paid: Any) -> None:
            if paid.order in self.broken:
                raise ValueError(f"no account {paid.order}")
            tx.execute(insert, (paid.order, paid.cents))

        def opened(tx: Any, opened: Any) -> None:
            tx.execute(insert, (opened.order, 0))

        billing.on(self.paid)(pay)
        billing.on(self.opened)(opened)
        return shop, billing

    def close(self) -> None:
        self.session.close()
        self.log.close()

    def run(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """A statement by itself; tables are called as on PostgreSQL."""
        if self.store.dialect == "sqlite":
            sql = sql.replace("oncebox.", "oncebox_").replace("$", "?")
        rows: list[tuple[Any, ...]] = self.session.run(sql, parameters)
        return rows

    def emit(self, *events: Any, after: Any = None) -> Any:
        found = None
        self.session.begin()
        for one in events:
            found = self.services[0].emit(self.session.handle, one, after=after)
        self.session.commit()
        return found

    def pays(self, key: str, *cents: int) -> None:
        for one in cents:
            self.emit(self.paid(key, one))

    def drain(self) -> None:
        drain(*self.services)

    # ---- the log, written anew

    def consume_elsewhere(self) -> list[Record]:
        """Publish and consume through another log; its records, as a relay published them."""
        self.copies += 1
        url = f"sqlite:///{self.folder}/copy{self.copies}.db"
        with closing(open_log(url)) as log:
            log.create(self.stream, PARTITIONS)
            drain(*self.services_on(url))
            return read_all(log, self.stream)

    def publish(self, records: Sequence[Record]) -> None:
        """Put records into the partitions that they name."""
        if self.log_url.startswith("kafka"):
            producer = Producer({"bootstrap.servers": self.log_url.removeprefix("kafka://")})
            for _, partition, _, key, value, headers, time_ms in records:
                producer.produce(
                    self.stream, value, key, partition, timestamp=time_ms, headers=list(headers)
                )
                assert producer.flush(30) == 0
            return
        with closing(sqlite3.connect(self.log_url.removeprefix("sqlite:///"))) as file, file:
            for record in records:
                append(file, self.stream, record)

    def read_past(self) -> None:
        """The consumer's positions are at the end of the log."""
        for number, extent in enumerate(self.log.extents(self.stream)):
            where = f"reader = 'billing' and partition = {number}"
            self.run(f"UPDATE oncebox.cursor SET position = '{extent.end}' WHERE {where}")

    def grow(self, partitions: int) -> None:
        """The topic gets more partitions: keys move."""
        if self.log_url.startswith("kafka"):
            admin = AdminClient({"bootstrap.servers": self.log_url.removeprefix("kafka://")})
            for done in admin.create_partitions([NewPartitions(self.stream, partitions)]).values():
                done.result(30)
            while len(self.log.extents(self.stream)) < partitions:
                pass
            return
        log: Any = self.log
        log.grow(self.stream, partitions)

    def expire(self, only: int | None = None) -> None:
        """The log gives up all that it has, as by retention; or what one partition has."""
        ends = [
            extent.end if only in (None, number) else extent.start
            for number, extent in enumerate(self.log.extents(self.stream))
        ]
        if self.log_url.startswith("kafka"):
            admin = AdminClient({"bootstrap.servers": self.log_url.removeprefix("kafka://")})
            places = [TopicPartition(self.stream, number, end) for number, end in enumerate(ends)]
            for done in admin.delete_records(places).values():
                done.result(30)
            return
        log: Any = self.log
        for number, end in enumerate(ends):
            log.truncate(self.stream, number, end)

    # ---- the audit

    looks = 0
    """How often the last audit went through everything."""

    def audit(self, younger_s: float = FUTURE_S, **options: Any) -> Report:
        place = Place(self.store_url, None, "oncebox", {})
        looks: list[int] = []

        def clock_ms() -> int:
            looks.append(now_ms())
            return looks[-1]

        side = Side(lambda work: place.at_desk("", work), self.log)
        report = audit([side], younger_s=younger_s, clock_ms=clock_ms, **options)
        self.looks = len(looks)
        return report


def append(file: sqlite3.Connection, topic: str, record: Record) -> None:
    """A record into a partition of an embedded log, past the log itself."""
    ((id, offset),) = file.execute(
        "SELECT p.id, p.next FROM oncebox_log_partition p JOIN oncebox_log_topic t ON t.id = p.topic"
        " WHERE t.name = ? AND p.number = ?", (topic, record.partition)).fetchall()  # fmt: skip
    headers = msgspec.msgpack.encode(record.headers)
    row = (id << 40 | offset, record.time_ms, record.time_ms, record.key, record.value, headers)
    file.execute("INSERT INTO oncebox_log_record VALUES (?, ?, ?, ?, ?, ?)", row)
    file.execute("UPDATE oncebox_log_partition SET next = next + 1 WHERE id = ?", (id,))


def read_all(log: Any, topic: str) -> list[Record]:
    """Every record of a topic, as many partitions as there are."""
    extents = log.extents(topic)
    reader = log.reader("test")
    reader.assign({(topic, number): extent.start for number, extent in enumerate(extents)})
    records: list[Record] = []
    while len(records) < sum(extent.end - extent.start for extent in extents):
        records += reader.fetch(100, 1_000_000, 10.0)
    reader.close()
    return records


@pytest.fixture(params=["sqlite embedded", "postgres kafka"])
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[System]:
    store, log = request.param.split()
    stream = "orders"
    store_url = f"sqlite:///{tmp_path}/store.db"
    if store == "postgres":
        store_url = request.getfixturevalue("postgres_url")
    log_url = f"sqlite:///{tmp_path}/events.db"
    if log == "kafka":
        log_url = request.getfixturevalue("kafka_url")
        stream = request.getfixturevalue("topic") + "-orders"
    made = System(store_url, log_url, stream, tmp_path)
    yield made
    made.close()


# ---- what tests do to records


def of(records: list[Record], key: str, number: int) -> int:
    """The place in a list of a key's record by number."""
    start = f"{number}:".encode()
    (found,) = (
        at for at, record in enumerate(records)
        if record.key == key.encode() and header(record, "ce_chain").startswith(start)
    )  # fmt: skip
    return found


def header(record: Record, name: str) -> bytes:
    return dict(record.headers).get(name) or b""


def with_header(record: Record, name: str, value: bytes) -> Record:
    headers = [(n, v) for n, v in record.headers if n != name] + [(name, value)]
    return record._replace(headers=headers)


def partition_of(key: str) -> int:
    return zlib.crc32(key.encode()) % PARTITIONS


def kinds(report: Any) -> set[str]:
    return {one.kind for one in report.findings if not one.settled}


def flags(system: System) -> tuple[str, ...]:
    return "--store", system.store_url, "--log", system.log_url
