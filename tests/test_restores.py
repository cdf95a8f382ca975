"""Databases that forget: restored, promoted, made anew. On real servers; each ends applied, or parked
with the command that decides it, which is run as it is printed. See docs/restores.md.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import OFFSET_END, TopicPartition

from engines.kafka import Kafka
from engines.lookup import postgres_programs
from engines.postgres import OwnPostgres, Postgres, postgres
from oncebox.errors import Refused
from oncebox.event import event
from oncebox.operate.waiting import Waiting
from oncebox.program import drive
from oncebox.service.service import Service
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import migrate
from oncebox.testing import drain
from operating import Run

LEDGER = "CREATE TABLE ledger (n bigserial, who text, what int)"


class Trade:
    """`shop` emits in one database, `billing` handles in another; Kafka is between them. Each may
    be moved to another database, as an operator does after a restore.
    """

    def __init__(self, shop: str, billing: str, log: str, stream: str, oncebox: Run) -> None:
        self.log, self.stream, self.oncebox = log, stream, oncebox
        self.source = f"/shop/{stream}"

        @event("order.paid", stream=stream, key="order", version=1)
        @dataclass(frozen=True)
        class Paid:
            order: str
            cents: int

        self.paid = Paid
        for url in (shop, billing):
            make_tables(url)
        with psycopg.connect(billing) as connection:
            connection.execute(LEDGER)
        self.move(shop=shop, billing=billing)

    def move(self, *, shop: str | None = None, billing: str | None = None) -> None:
        """The services are started on these databases from now on."""
        self.shop_url: str = shop or self.shop_url
        self.billing_url: str = billing or self.billing_url
        sources = {self.source: self.shop_url}
        self.shop = Service("shop", store=self.shop_url, log=self.log)
        self.billing: Any = Service(
            "billing", store=self.billing_url, log=self.log, sources=sources
        )

        @self.billing.on(self.paid)
        def pay(tx: Any, paid: Any) -> None:
            tx.execute("INSERT INTO ledger (who, what) VALUES (%s, %s)", (paid.order, paid.cents))

        Path("oncebox.toml").write_text(
            f'log = "{self.log}"\n[services.shop]\nstore = "{self.shop_url}"\n'
            f'[services.billing]\nstore = "{self.billing_url}"\n'
            f'[services.billing.sources]\n"{self.source}" = "{self.shop_url}"\n'
        )

    def pays(self, key: str, *cents: int) -> None:
        with psycopg.connect(self.shop_url) as connection:
            for one in cents:
                self.shop.emit(connection, self.paid(key, one))
                connection.commit()

    def drain(self) -> dict[str, Waiting]:
        """All is published and handled; what waits, by key."""
        return {one.key: one for one in drain(self.shop, self.billing)}

    def ledger(self, key: str) -> list[int]:
        with psycopg.connect(self.billing_url) as connection:
            rows = connection.execute("SELECT what FROM ledger WHERE who = %s ORDER BY n", (key,))
            return [what for (what,) in rows]

    def decide(self, *waiting: Waiting) -> None:
        """Do for each what it says would release it, as it says it."""
        for one in waiting:
            self.command(one.release()[0])

    def command(self, text: str) -> None:
        done = self.oncebox(*shlex.split(text)[1:])
        assert done.code == 0, f"{text}\n{done.out}{done.err}"


def make_tables(url: str) -> None:
    session: Any = open_store(url).open()
    drive(migrate(session))
    session.close()


def dump(url: str, file: Path, *options: str) -> Path:
    run("pg_dump", "--format=custom", f"--file={file}", *options, url)
    return file


def run(program: str, *arguments: str) -> None:
    command = [str(postgres_programs() / program), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture
def new_database(postgres_server: Postgres) -> Iterator[Callable[[], str]]:
    """Makes databases, which are dropped at the end."""
    names: list[str] = []

    def make() -> str:
        names.append(postgres_server.create_database())
        return postgres_server.url_of(names[-1])

    yield make
    for name in names:
        postgres_server.drop_database(name)


@pytest.fixture
def trade(new_database: Callable[[], str], kafka_url: str, topic: str, oncebox: Run) -> Trade:
    return Trade(new_database(), new_database(), kafka_url, f"{topic}-orders", oncebox)


@pytest.fixture
def server() -> Iterator[OwnPostgres]:
    """A server for the shop alone."""
    with postgres() as own:
        yield own


def forgotten(trade: Trade) -> None:
    """What every producer that forgot comes to: `a` had 4 and 5, `c` had 1, which are forgotten."""
    assert trade.drain() == {}  # what is published again is dropped
    assert trade.ledger("a") == [1, 2, 3, 4, 5]
    audit = trade.oncebox("audit", "shop", "billing", "--younger-s=0")
    assert audit.code == 3, audit.out
    trade.pays("a", 40, 50)
    trade.pays("b", 2)
    trade.pays("c", 10)
    waiting = trade.drain()
    assert {key: one.kind for key, one in waiting.items()} == {"a": "fork", "c": "fork"}
    assert trade.ledger("b") == [1, 2]  # what was not forgotten goes on
    trade.decide(*waiting.values())
    assert trade.drain() == {}
    assert trade.ledger("a") == [1, 2, 3, 4, 5, 40, 50]
    assert trade.ledger("c") == [1, 10]
    trade.pays("a", 60)
    assert trade.drain() == {}
    assert trade.ledger("a")[-1] == 60


def test_the_producer_is_restored_from_a_dump(
    trade: Trade, new_database: Callable[[], str], tmp_path: Path
) -> None:
    trade.pays("a", 1, 2, 3)
    trade.pays("b", 1)
    trade.drain()
    file = dump(trade.shop_url, tmp_path / "shop.dump")
    trade.pays("a", 4, 5)
    trade.pays("c", 1)
    trade.drain()
    restored = new_database()
    run("pg_restore", f"--dbname={restored}", str(file))
    trade.move(shop=restored)
    forgotten(trade)


def test_the_producer_is_restored_from_a_base_backup(trade: Trade, server: OwnPostgres) -> None:
    """The server, its databases and its timeline are the same: only the chains show it."""
    make_tables(server.url)
    trade.move(shop=server.url)
    trade.pays("a", 1, 2, 3)
    trade.pays("b", 1)
    trade.drain()
    backup = server.beside / "backup"
    server.base_backup(backup)
    trade.pays("a", 4, 5)
    trade.pays("c", 1)
    trade.drain()
    server.restore(backup)
    forgotten(trade)


def test_a_standby_that_lags_is_promoted(trade: Trade, server: OwnPostgres) -> None:
    make_tables(server.url)
    trade.move(shop=server.url)
    with postgres(standby_of=server) as standby:
        trade.pays("a", 1, 2, 3)
        trade.pays("b", 1)
        trade.drain()
        caught_up(server, standby)
        standby.stop()
        trade.pays("a", 4, 5)
        trade.pays("c", 1)
        trade.drain()
        server.stop(immediate=True)
        standby.start()
        with psycopg.connect(standby.url, autocommit=True) as connection:
            connection.execute("select pg_promote()")
        trade.move(shop=standby.url)
        forgotten(trade)


def caught_up(primary: OwnPostgres, standby: OwnPostgres) -> None:
    """Wait until a standby has all that was written so far."""
    with psycopg.connect(primary.url) as ours, psycopg.connect(standby.url) as theirs:
        row = ours.execute("select pg_current_wal_flush_lsn()").fetchone()
        assert row is not None
        while theirs.execute("select pg_last_wal_replay_lsn() >= %s::pg_lsn", row).fetchone() != (
            True,
        ):
            theirs.rollback()


def test_the_producer_is_made_anew(trade: Trade, new_database: Callable[[], str]) -> None:
    trade.pays("a", 1, 2, 3)
    trade.drain()
    anew = new_database()
    make_tables(anew)
    trade.move(shop=anew)
    trade.pays("a", 10, 20)
    trade.pays("b", 1)
    waiting = trade.drain()
    assert {key: one.kind for key, one in waiting.items()} == {"a": "fork"}
    assert (trade.ledger("a"), trade.ledger("b")) == ([1, 2, 3], [1])
    trade.decide(*waiting.values())
    assert trade.drain() == {}
    trade.pays("a", 30)
    assert trade.drain() == {}
    assert trade.ledger("a") == [1, 2, 3, 10, 20, 30]


def test_the_consumer_is_restored(
    trade: Trade, new_database: Callable[[], str], tmp_path: Path
) -> None:
    trade.pays("a", 1, 2, 3)
    trade.drain()
    file = dump(trade.billing_url, tmp_path / "billing.dump")
    trade.pays("a", 4, 5)
    trade.pays("b", 1)
    trade.drain()
    restored = new_database()
    run("pg_restore", f"--dbname={restored}", str(file))
    trade.move(billing=restored)
    assert trade.drain() == {}  # it reads on where it was, and does what it lacks
    assert (trade.ledger("a"), trade.ledger("b")) == ([1, 2, 3, 4, 5], [1])


def test_the_consumer_is_restored_and_the_log_has_dropped_what_it_lacks(
    trade: Trade,
    new_database: Callable[[], str],
    tmp_path: Path,
    kafka_server: Kafka,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trade.pays("a", 1, 2, 3)
    trade.pays("b", 1)
    trade.drain()
    file = dump(trade.billing_url, tmp_path / "billing.dump")
    trade.pays("a", 4, 5)
    trade.pays("b", 2)
    trade.drain()
    ends = [TopicPartition(trade.stream, n, OFFSET_END) for n in range(4)]
    for answer in kafka_server.admin.delete_records(ends).values():
        answer.result(10)
    restored = new_database()
    run("pg_restore", f"--dbname={restored}", str(file))
    trade.move(billing=restored)
    trade.pays("a", 6)
    for one in trade.drain().values():  # unless the consumer has asked the source by itself
        assert (one.key, one.kind, one.missing) == ("a", "gap", (4, 5))
        trade.decide(one)
    assert trade.drain() == {}
    assert (trade.ledger("a"), trade.ledger("b")) == ([1, 2, 3, 4, 5, 6], [1])
    assert "truncated" in trade.oncebox("journal", "billing").out
    monkeypatch.setattr(
        "oncebox.audit.examine.MARGIN", 0
    )  # an audit judges nothing of the last minute
    audit = trade.oncebox("audit", "shop", "billing", "--younger-s=0", "--json")
    (finding,) = [row for row in audit.rows() if row.get("key")]
    assert (finding["kind"], finding["key"]) == ("unapplied", "b")
    trade.command(finding["decide"])
    assert trade.drain() == {}
    assert trade.ledger("b") == [1, 2]
    assert trade.oncebox("audit", "shop", "billing", "--younger-s=0").code == 0


def test_two_databases_emit_for_one_source_by_mistake(
    trade: Trade, new_database: Callable[[], str]
) -> None:
    first, second = trade.shop_url, new_database()
    make_tables(second)
    trade.pays("a", 1, 2)
    trade.drain()
    trade.move(shop=second)
    trade.pays("a", 10)
    trade.pays("b", 1)
    waiting = trade.drain()
    assert waiting["a"].kind == "fork"
    trade.move(shop=first)
    trade.pays("a", 3)
    waiting = trade.drain()  # while both go on, the key waits
    assert waiting["a"].kind == "fork"
    # The second one is given a name of its own; the key follows the first.
    trade.decide(waiting["a"])
    assert trade.drain() == {}
    assert (trade.ledger("a"), trade.ledger("b")) == ([1, 2, 3], [1])
    trade.pays("a", 4)
    assert trade.drain() == {}
    assert trade.ledger("a") == [1, 2, 3, 4]


# ---- restored without oncebox's schema


def without_our_tables(url: str, restored: str, file: Path) -> None:
    dump(url, file, "--exclude-schema=oncebox")
    run("pg_restore", f"--dbname={restored}", str(file))
    make_tables(restored)


def test_a_consumer_without_its_tables_does_not_begin_by_itself(
    trade: Trade, new_database: Callable[[], str], tmp_path: Path
) -> None:
    trade.pays("a", 1, 2, 3)
    trade.pays("b", 1)
    trade.drain()
    restored, moment = new_database(), datetime.now(UTC)
    without_our_tables(trade.billing_url, restored, tmp_path / "billing.dump")
    trade.pays("a", 4)
    trade.drain()
    trade.move(billing=restored)
    trade.pays("a", 5)
    with pytest.raises(Refused, match="this database knows nothing of it") as refused:
        trade.drain()
    assert trade.ledger("a") == [1, 2, 3]
    command, _, _ = str(refused.value.hint).partition(",")
    trade.command(command.replace("TIME", moment.isoformat()))
    assert trade.drain() == {}
    assert (trade.ledger("a"), trade.ledger("b")) == ([1, 2, 3, 4, 5], [1])


def test_a_consumer_whose_database_is_made_anew_does_it_all_when_told(
    trade: Trade, new_database: Callable[[], str]
) -> None:
    trade.pays("a", 1, 2)
    trade.drain()
    anew = new_database()
    make_tables(anew)
    with psycopg.connect(anew) as connection:
        connection.execute(LEDGER)
    trade.move(billing=anew)
    with pytest.raises(Refused) as refused:
        trade.drain()
    command = str(refused.value.hint).partition("; ")[2].partition(",")[0]
    trade.command(command)
    assert trade.drain() == {}
    assert trade.ledger("a") == [1, 2]


def test_a_producer_without_its_tables_begins_another_history(
    trade: Trade, new_database: Callable[[], str], tmp_path: Path
) -> None:
    trade.pays("a", 1, 2)
    trade.drain()
    restored = new_database()
    without_our_tables(trade.shop_url, restored, tmp_path / "shop.dump")
    trade.move(shop=restored)
    trade.pays("a", 3)
    waiting = trade.drain()
    assert {key: one.kind for key, one in waiting.items()} == {"a": "fork"}
    trade.decide(*waiting.values())
    assert trade.drain() == {}
    assert trade.ledger("a") == [1, 2, 3]


def test_the_page_names_the_tests_that_hold_it() -> None:
    page = (Path(__file__).parents[1] / "docs" / "restores.md").read_text()
    ours = {name for name in globals() if name.startswith("test_")}
    named = set(re.findall(r"\btest_\w+", page)) - {Path(__file__).stem}
    assert named == ours - {"test_the_page_names_the_tests_that_hold_it"}
