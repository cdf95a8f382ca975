"""The audit against lives at random: whatever happens to a system, it is clean; and one thing
changed past oncebox, anywhere, is named. Seeds are in the names of the tests; AUDIT_SEED is the first.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from audited import System, append, flags, header, read_all, with_header
from oncebox.audit import examine
from oncebox.audit.survey import Side, audit
from oncebox.envelope import STAMP_UNITS_PER_US
from oncebox.errors import NotFound
from oncebox.operate.desk import now_ms
from oncebox.outbox import void
from oncebox.ports import Record
from oncebox.program import drive
from oncebox.service.connect import open_log
from oncebox.service.places import Place
from oncebox.service.service import Service
from oncebox.statements import statements
from oncebox.testing import drain
from operating import Run

pytestmark = pytest.mark.long

MARGIN_MS = 2
KEYS = [f"k-{n}" for n in range(5)]
STEPS = 15
FIRST = int(os.environ.get("AUDIT_SEED", "0"))
SEEDS = range(FIRST, FIRST + 20)


class Life:
    """A system, and what happens to it."""

    def __init__(self, system: System, command: Callable[..., Any], seed: int) -> None:
        self.system, self.command = system, command
        self.random = random.Random(seed)
        self.told: list[str] = []
        self.others = self.beside(system.log_url)
        self.partitions = 3

    def step(self) -> None:
        steps = [self.emit] * 4 + [self.drain] * 3 + [
            self.publish, self.broken, self.mended, self.skip, self.erase, self.begin_again,
            self.replay, self.forget_rows, self.forget_records, self.grow,
        ]  # fmt: skip
        step = self.random.choice(steps)
        self.told.append(step.__name__)
        step()
        self.wait()

    def wait(self) -> None:
        """What comes now is not at the edge of what was before."""
        began_ms = now_ms()
        while now_ms() <= began_ms + 2 * MARGIN_MS:
            pass

    def beside(self, log: str) -> tuple[Service, Service]:
        """Somebody else who writes to the stream, and somebody else who reads it."""
        store: Service = Service("store", store=self.system.store_url, log=log)
        mail: Service = Service("mail", store=self.system.store_url, log=log)

        def told(tx: Any, paid: Any) -> None:
            tx.execute("SELECT 1")

        mail.on(self.system.paid)(told)
        return store, mail

    def do(self, *arguments: str) -> None:
        self.command(*arguments, *flags(self.system))

    # ---- what happens every day

    def emit(self) -> None:
        system, chance = self.system, self.random.random
        for _ in range(self.random.randint(1, 4)):
            system.session.begin()
            before: Any = None
            for _ in range(self.random.randint(1, 4)):
                one: Any = system.paid(self.random.choice(KEYS), 1)
                if chance() < 0.2:
                    one = system.opened("monday")
                after: Any = before if chance() < 0.2 else None
                service = self.others[0] if chance() < 0.2 else system.services[0]
                made = service.emit(system.session.handle, one, after=after)
                before = made if hasattr(one, "cents") else before
            (system.session.rollback if chance() < 0.1 else system.session.commit)()

    def publish(self) -> None:
        drain(self.system.services[0], self.others[0])

    def drain(self) -> None:
        who = [self.others[1]] if self.random.random() < 0.3 else [*self.system.services]
        drain(*(who if self.random.random() < 0.5 else [*self.system.services, *self.others]))

    def settle(self) -> None:
        drain(*self.system.services, *self.others)

    def broken(self) -> None:
        self.system.broken.add(self.random.choice(KEYS))

    def mended(self) -> None:
        self.system.broken.clear()
        self.do("redrive", "billing", "--all")
        self.settle()

    def skip(self) -> None:
        self.settle()
        for key in sorted(self.system.broken)[:1]:
            self.do("skip", "billing", "--key", key)

    def erase(self) -> None:
        sql = "SELECT key, sequence FROM oncebox.event WHERE key IS NOT NULL"
        if self.system.store.dialect == "postgres":
            sql = "SELECT e.key, c.sequence FROM oncebox.event e JOIN oncebox.chain c ON c.n = e.n"
            sql += " WHERE e.key IS NOT NULL"
        if rows := self.system.run(sql):
            key, number = self.random.choice(rows)
            system = self.system
            system.session.begin()
            made = statements(system.store.dialect)
            with suppress(NotFound):  # it is of the other source, or stands alone before a hole
                drive(void(system.session, made, system.source, key, number))
            system.session.commit()

    def begin_again(self) -> None:
        self.system.run("UPDATE oncebox.cursor SET position = NULL WHERE reader LIKE 'relay:%'")

    def replay(self) -> None:
        self.settle()
        self.do("replay", "billing", "--from", "start")

    # ---- retention, and more partitions

    def forget_rows(self) -> None:
        self.publish()
        rows = self.system.run("SELECT n FROM oncebox.event ORDER BY n")
        if len(rows) > 1:
            n = rows[self.random.randrange(len(rows) - 1)][0]
            self.system.run(f"DELETE FROM oncebox.event WHERE n <= {n}")
            if self.system.store.dialect == "postgres":
                self.system.run(
                    f"UPDATE oncebox.partition SET lower = {n + 1}"
                    " WHERE parent = 'event' AND lower = (SELECT min(lower) FROM oncebox.partition"
                    " WHERE parent = 'event')"
                )

    def forget_records(self) -> None:
        self.settle()
        self.system.expire(self.random.randrange(self.partitions))

    def grow(self) -> None:
        if self.partitions < 6:
            self.partitions += self.random.randint(1, 2)
            self.system.grow(self.partitions)
            self.system.services = self.system.services_on(self.system.log_url)
            self.others = self.beside(self.system.log_url)


@pytest.fixture
def life(system: System, oncebox: Run, monkeypatch: pytest.MonkeyPatch, seed: int) -> Life:
    monkeypatch.setattr(examine, "MARGIN", MARGIN_MS * 1000 * STAMP_UNITS_PER_US)
    return Life(system, oncebox, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_life_without_faults_is_clean(life: Life) -> None:
    for _ in range(STEPS):
        life.step()
        report = life.system.audit(younger_s=life.random.choice([-60.0, 0.0, 10.0]))
        wrong = [one for one in report.findings if not one.settled]
        assert (wrong, report.clean) == ([], True), life.told


# ---- one thing changed past oncebox, on copies of SQLite's files

OTHER = '{"order":"k-0","cents":77}'
ROW, UNKEYED = "key = :key AND sequence = :number", "id = :id"
INBOX = "UPDATE oncebox_key SET {} WHERE key = :key"

IN_THE_STORE = {
    **{
        f"a row's {column}": f"UPDATE oncebox_event SET {column} = {value} WHERE {ROW}"
        for column, value in {
            "data": f"'{OTHER}'", "stamp": "stamp + 1", "previous": "previous + 1", "id": "'other'",
            "version": 2, "type": "'order.other'", "content_type": "'application/avro'",
            "key": "'k-other'", "sequence": "sequence + 50", "source": "'/shop/other'",
            "after_source": "source, after_key = key, after_stamp = stamp",
        }.items()
    },
    "a row": f"DELETE FROM oncebox_event WHERE {ROW}",
    "a row once more": "INSERT INTO oncebox_event (source, sequence, stamp, previous, id, version, type,"
        " key, data) SELECT source, sequence, stamp, previous, id, version, type, key, data"
        f" FROM oncebox_event WHERE {ROW}",
    "an id is given again": "UPDATE oncebox_event SET id = (SELECT min(id) FROM oncebox_event)"
        f" WHERE {ROW}",
    "the counter back": "UPDATE oncebox_counter SET sequence = sequence - 1 WHERE key = :key",
    "the counter ahead": "UPDATE oncebox_counter SET sequence = sequence + 1 WHERE key = :key",
    "the counter": "DELETE FROM oncebox_counter WHERE key = :key",
    "done": "DELETE FROM oncebox_key WHERE key = :key",
    "done back": INBOX.format("sequence = sequence - 1"),
    "done ahead": INBOX.format("sequence = sequence + 5"),
    "done stamp": INBOX.format("stamp = stamp + 1"),
    "done id": INBOX.format("id = 'other'"),
    "done bytes": INBOX.format("digest = digest + 1"),
    "done before": "UPDATE oncebox_key SET (sequence, stamp, id, digest) = (SELECT sequence, stamp, id,"
        " 0 FROM oncebox_event WHERE key = :key AND sequence = :number) WHERE key = :key",
    "done of nobody": "INSERT INTO oncebox_key (subscription, key, sequence, stamp, id) SELECT"
        " subscription, 'k-nobody', 1, stamp, 'other' FROM oncebox_key WHERE key = :key",
    "un-keyed row": f"DELETE FROM oncebox_event WHERE {UNKEYED}",
    "un-keyed bytes": f"UPDATE oncebox_event SET data = '{OTHER}' WHERE {UNKEYED}",
    "un-keyed id": f"UPDATE oncebox_event SET id = 'other' WHERE {UNKEYED}",
    "un-keyed type": f"UPDATE oncebox_event SET type = 'other' WHERE {UNKEYED}",
    "un-keyed done": "DELETE FROM oncebox_key WHERE key = :id",
    "un-keyed done bytes": "UPDATE oncebox_key SET digest = digest + 1 WHERE key = :id",
    "un-keyed done of nobody": "INSERT INTO oncebox_key (subscription, key, sequence, stamp, id)"
        " SELECT subscription, 'other', 1, stamp, 'other' FROM oncebox_key WHERE key = :id",
}  # fmt: skip

Edit = Callable[[Record], Record]


def chained(change: Callable[[int, int, int], tuple[int, int, int]]) -> Edit:
    def edit(record: Record) -> Record:
        numbers = change(*map(int, header(record, "ce_chain").split(b":")))
        return with_header(record, "ce_chain", b"%d:%d:%d" % numbers)

    return edit


RECORDS: dict[str, Edit] = {
    "value": lambda r: r._replace(value=OTHER.encode()),
    "id": lambda r: with_header(r, "ce_id", b"other"),
    "type": lambda r: with_header(with_header(r, "ce_type", b"x"), "ce_dataschema", b"oncebox:x/1"),
    "version": lambda r: with_header(r, "ce_dataschema", b"oncebox:order.paid/2"),
    "content type": lambda r: with_header(r, "content-type", b"application/avro"),
    "after": lambda r: with_header(r, "ce_after", b"1:/shop/orders:k-1"),
    "void": lambda r: with_header(r, "ce_void", b"1"),
    "source": lambda r: with_header(r, "ce_source", b"/shop/other"),
    "no source": lambda r: r._replace(headers=[h for h in r.headers if h[0] != "ce_source"]),
    "key": lambda r: r._replace(key=b"k-other"),
    "no key": lambda r: r._replace(key=None),
    "number": chained(lambda n, stamp, previous: (n + 1, stamp, previous)),
    "stamp": chained(lambda n, stamp, previous: (n, stamp + 1, previous)),
    "previous": chained(lambda n, stamp, previous: (n, stamp, previous - 1)),
    "chain": lambda r: with_header(r, "ce_chain", b"7"),
}


def in_place(file: sqlite3.Connection, record: Record, new: Record) -> None:
    headers = msgspec.msgpack.encode(new.headers)
    at = "(SELECT p.id << 40 | ? FROM oncebox_log_partition p WHERE p.number = ?)"
    file.execute(
        f"UPDATE oncebox_log_record SET key = ?, value = ?, headers = ? WHERE id = {at}",
        (new.key, new.value, headers, record.offset, record.partition),
    )


@pytest.mark.parametrize("system", ["sqlite embedded"], indirect=True)
@pytest.mark.parametrize("seed", SEEDS)
def test_one_thing_changed_is_named(life: Life, tmp_path: Path) -> None:
    for _ in range(STEPS):
        life.step()
    system = life.system
    life.mended()
    system.emit(*(system.opened("monday") for _ in range(8)))  # into each partition
    for n in range(3):
        life.wait()
        system.emit(*(system.paid(key, n) for key in KEYS), system.opened("monday"))
    life.settle()
    assert system.audit().clean, life.told
    rows = system.run("SELECT key, sequence, id, stamp FROM oncebox_event ORDER BY n DESC LIMIT 18")
    missed = []
    for name in [*IN_THE_STORE, *RECORDS, *(f"{name} again" for name in RECORDS), "tail", "swap"]:
        keyed = [row for row in rows[6:-6] if row[0] is not None]
        key, number, id, _ = life.random.choice(keyed)
        (other,) = life.random.sample([row for row in rows[1:] if row[0] is None], 1)
        kinds = planted(system, tmp_path, name, {"key": key, "number": number, "id": other[2]})
        if not kinds:
            missed.append((name, key, number))
    assert missed == [], (missed, life.told)


def planted(system: System, folder: Path, name: str, of: dict[str, Any]) -> set[str]:
    """What the audit says of copies in which one thing was changed."""
    paths = folder / "store-copy.db", folder / "log-copy.db"
    for path, url in zip(paths, (system.store_url, system.log_url), strict=True):
        path.unlink(missing_ok=True)
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file:
            file.execute(f"VACUUM INTO '{path}'")
    store, log = paths
    if name in IN_THE_STORE:
        with closing(sqlite3.connect(store)) as file, file:
            file.execute("DROP TRIGGER oncebox_newest")
            file.execute(IN_THE_STORE[name], of)
            assert file.total_changes, name
    else:
        change_log(system, log, name, of)
    place = Place(f"sqlite:///{store}", None, "oncebox", {})
    with closing(open_log(f"sqlite:///{log}")) as opened:
        report = audit([Side(lambda work: place.at_desk("", work), opened)], younger_s=-60)
    return {one.kind for one in report.findings if not one.settled}


def change_log(system: System, path: Path, name: str, of: dict[str, Any]) -> None:
    records = read_all(system.log, system.stream)
    mine = [
        r for r in records
        if r.key == of["key"].encode() and header(r, "ce_chain").startswith(b"%d:" % of["number"])
    ]  # fmt: skip
    record = mine[-1]
    with closing(sqlite3.connect(path)) as file, file:
        if name == "swap":
            other = next(r for r in reversed(records) if r.key == record.key and r != record)
            in_place(file, record, other)
            in_place(file, other, record)
        elif name == "tail":
            last = [r for r in records if r.partition == record.partition][-1]
            file.execute(
                "DELETE FROM oncebox_log_record WHERE id = (SELECT p.id << 40 | p.next - 1"
                " FROM oncebox_log_partition p WHERE p.number = ?)", (last.partition,)
            )  # fmt: skip
            file.execute(
                "UPDATE oncebox_log_partition SET next = next - 1 WHERE number = ?",
                (last.partition,),
            )
        elif name.endswith(" again"):
            append(file, system.stream, RECORDS[name.removesuffix(" again")](record))
        else:
            in_place(file, record, RECORDS[name](record))
