"""Emit against the same transaction with a plain insert; opposite orders; a hot key; bulk.

The transaction is a service's usual one: it updates a row, inserts a row, and emits (or inserts
the same bytes into a plain table) before it commits. On PostgreSQL with default durability, eight
writers, by pgbench with prepared statements, so that the server is measured and not a client.
"""

from __future__ import annotations

import random
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from msgspec import json

from bench.measure import Figure, figure, paired
from engines.lookup import EngineMissing, postgres_programs
from oncebox.event import event
from oncebox.program import drive
from oncebox.service.service import Service
from oncebox.stores.adapt import adapt, open_store
from oncebox.tables.migrate import migrate

WRITERS = 8
KEYS = 1_000
SECONDS = 4
BULK = 1_000
BULK_COUNT = 100_000
COUNT = 4_000
DATA = '{"order_id":"' + "x" * 285 + '"}'
IN_SQL = DATA.replace(":", "_")  # a colon begins a variable of pgbench

TABLES = """
create table account (id text primary key, owed bigint not null) {half_full};
create table entry (n {serial}, account text not null, cents bigint not null);
create table plain (n {serial}, id {uuid} not null, source text not null, type text not null,
                    version int not null, key text, data {bytes} not null)
"""


@event("order.placed", stream="orders", key="order_id")
@dataclass(frozen=True)
class Placed:
    order_id: str
    note: str


shop = Service("shop")


def tables(execute: Callable[..., Any], **types: str) -> None:
    for statement in TABLES.format(**types).split(";"):
        execute(statement)
    for i in range(KEYS):
        execute(f"insert into account values ('order-{i:06d}', 0)")


# ---- PostgreSQL

KEY = "'order-' || lpad((:k)::text, 6, '0')"
WORK = f"""
update account set owed = owed + 1 where id = {KEY};
insert into entry (account, cents) values ({KEY}, 5);
"""


def emitted(key: str) -> str:
    """What `emit` sends, with literals: pgbench passes no binary parameters."""
    return (
        "insert into oncebox.event (source, id, key, type, version, data) values"
        f" ('/shop/orders', gen_random_uuid(), {key}, 'order.placed', 1, '{IN_SQL}');"
    )


def inserted(key: str) -> str:
    return (
        "insert into plain (id, source, type, version, key, data) values (gen_random_uuid(),"
        f" '/shop/orders', 'order.placed', 1, {key}, '{IN_SQL}');"
    )


OTHER = KEY.replace(":k", f"{KEYS - 1} - :k")
PICK = f"\\set k random(0, {KEYS - 1})\n"
SLEEP = "\\sleep 5 ms\n"
HOT = "'order-000001'"
HELD = f"update account set owed = owed + 1 where id = {HOT};\n"
SCRIPTS = {
    "emit": f"{PICK}begin;{WORK}{emitted(KEY)}\ncommit;\n",
    "plain": f"{PICK}begin;{WORK}{inserted(KEY)}\ncommit;\n",
    "opposite": f"{PICK}begin;\n{emitted(KEY)}\n{emitted(OTHER)}\ncommit;\n",
    "hot": f"begin;\n{emitted(HOT)}\n{SLEEP}commit;\n",
    "held": f"begin;\n{HELD}{inserted(HOT)}\n{SLEEP}commit;\n",
}


class Pgbench:
    """Transactions per second of a script of ours against a database."""

    def __init__(self, url: str, folder: Path, scripts: Mapping[str, str] = SCRIPTS) -> None:
        self.url, self.folder = url, folder
        self.program = postgres_programs() / "pgbench"
        if not self.program.exists():
            raise EngineMissing("pgbench", str(self.program.parent))
        for name, script in scripts.items():
            (folder / name).write_text(script)

    def rate(self, name: str, seconds: int = SECONDS, *options: str) -> float:
        command = [
            self.program, "--no-vacuum", f"--client={WRITERS}", "--protocol=prepared",
            f"--time={seconds}", f"--file={self.folder / name}", *options, self.url,
        ]  # fmt: skip
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "ERROR" not in ended.stderr, ended.stderr
        rate = re.search(r"^tps = ([\d.]+)", ended.stdout, re.MULTILINE)
        assert rate, ended.stdout
        return float(rate[1])


def bulk(url: str) -> float:
    """Events per second through `emit_many`, BULK of them in a transaction, one writer."""
    keys = random.Random(1)
    with psycopg.connect(url) as connection:
        began = time.perf_counter()
        for _ in range(0, BULK_COUNT, BULK):
            events = [Placed(f"order-{keys.randrange(KEYS):06d}", "x" * 265) for _ in range(BULK)]
            shop.emit_many(connection, events)
            connection.commit()
        return BULK_COUNT / (time.perf_counter() - began)


def deadlocks(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("select pg_stat_clear_snapshot()")
        sql = "select deadlocks from pg_stat_database where datname = current_database()"
        row = connection.execute(sql).fetchone()
        assert row
        return int(row[0])


def on_postgres(url: str, folder: Path, rounds: int) -> list[Figure]:
    with psycopg.connect(url, autocommit=True) as connection:
        drive(migrate(adapt(connection)))
        tables(
            connection.execute, serial="bigserial primary key", uuid="uuid", bytes="bytea",
            half_full="with (fillfactor = 50)",
        )  # fmt: skip
        pgbench = Pgbench(url, folder)
        pgbench.rate("emit"), pgbench.rate("plain")  # so that all keys are there
        connection.execute("vacuum analyze")
    figures = paired(
        "emit, PostgreSQL, 8 writers",
        lambda: pgbench.rate("emit"),
        lambda: pgbench.rate("plain"),
        rounds=rounds,
        unit="tx/s",
        target="0.75",
        against="plain insert",
    )
    before = deadlocks(url)
    rate = pgbench.rate("opposite")
    time.sleep(1.0)  # statistics come late
    figures += [
        figure("two emits in opposite orders", "tx/s", [rate]),
        figure("two emits in opposite orders: deadlocks", "", [deadlocks(url) - before], "0"),
    ]
    figures += paired(
        "emit for one key, 5 ms of work after it",
        lambda: pgbench.rate("hot", 2),
        lambda: pgbench.rate("held", 2),
        rounds=rounds,
        unit="tx/s",
        target="5",
        against="a lock held",
    )
    rates = [bulk(url) for _ in range(rounds)]
    return [*figures, figure("emit_many, 1,000 in a transaction", "events/s", rates, "40,000")]


# ---- SQLite


def on_sqlite(folder: Path, synchronous: str, rounds: int, target: str) -> list[Figure]:
    store = open_store(f"sqlite:///{folder}/{synchronous}.db")
    session: Any = store.open()
    drive(migrate(session))
    connection = session.handle
    tables(
        connection.execute, serial="integer primary key", uuid="text", bytes="blob", half_full=""
    )
    connection.execute(f"pragma synchronous = {synchronous}")
    keys = random.Random(1)
    insert = "insert into plain (id, source, type, version, key, data) values (?, ?, ?, ?, ?, ?)"

    def plain(key: str) -> None:
        """As services write it by hand, with the same encoder."""
        data = json.encode(Placed(key, "x" * 265))
        connection.execute(insert, (str(uuid4()), "/shop/orders", "order.placed", 1, key, data))

    def emit(key: str) -> None:
        shop.emit(connection, Placed(key, "x" * 265))

    def rate(last: Callable[[str], None]) -> float:
        began = time.perf_counter()
        for _ in range(COUNT):
            key = f"order-{keys.randrange(KEYS):06d}"
            connection.execute("begin immediate")
            connection.execute("update account set owed = owed + 1 where id = ?", (key,))
            connection.execute("insert into entry (account, cents) values (?, 5)", (key,))
            last(key)
            connection.execute("commit")
        return COUNT / (time.perf_counter() - began)

    with closing(session):
        return paired(
            f"emit, SQLite, synchronous={synchronous}",
            lambda: rate(emit),
            lambda: rate(plain),
            rounds=rounds,
            unit="tx/s",
            target=target,
            against="plain insert",
        )


def run(engines: Any = None, rounds: int = 5) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if engines is None:
            normal = on_sqlite(folder, "NORMAL", rounds, "0.65")
            return normal + on_sqlite(folder, "FULL", rounds, "0.9")
        with engines.postgres.database() as url:
            return on_postgres(url, folder, rounds)
