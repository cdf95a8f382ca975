"""`oncebox run` and `relay` as processes of their own: started twice, stopped, killed, operated."""

from __future__ import annotations

import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec import json

from conftest import hint_if_missing
from engines.postgres import postgres as own_postgres

WAIT_S = 60.0
TICK_S = 0.05

SERVICES = """
import os, sqlite3, time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from oncebox import Service, event

STORE, LOG = os.environ["STORE_URL"], os.environ["LOG_URL"]
MARK = "?" if STORE.startswith("sqlite") else "%s"


@event("order.paid", stream="orders", key="order", version=1)
@dataclass(frozen=True)
class Paid:
    order: str
    n: int


shop = Service("shop", store=STORE, log=LOG)
billing = Service("billing", store=STORE, log=LOG)


@billing.on(Paid)
def book(tx: Any, paid: Paid) -> None:
    if Path("slow").exists():
        Path("in-handler").touch()
        time.sleep(30)
    if Path("broken").exists() and paid.order in Path("broken").read_text().split():
        raise ValueError(f"no account {paid.order}")
    tx.execute(f"INSERT INTO ledger (who, n) VALUES ({MARK}, {MARK})", (paid.order, paid.n))
"""


class Site:
    """A folder with an application, its database and log, and the processes that run there."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder = folder
        self.store = store
        self.log = f"sqlite:///{folder}/events.db"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("ONCEBOX_")},
            "STORE_URL": store,
            "LOG_URL": self.log,
            "ONCEBOX_APP": "services",
        }
        self.processes: list[subprocess.Popen[str]] = []
        (folder / "services.py").write_text(SERVICES)
        self.execute("CREATE TABLE ledger (who TEXT, n INTEGER)")

    def connect(self) -> Any:
        if self.store.startswith("sqlite"):
            path = self.store.removeprefix("sqlite:///")
            return sqlite3.connect(path, isolation_level=None, timeout=30)
        return psycopg.connect(self.store, autocommit=True)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(self.connect()) as connection:
            cursor = connection.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def emit(self, *events: tuple[str, int]) -> None:
        """In a process of its own, a transaction each, as an application would."""
        code = (
            "import json, sys; import services; from oncebox.stores.adapt import open_store\n"
            "session = open_store(services.STORE).open()\n"
            "for order, n in json.loads(sys.argv[1]):\n"
            "    session.begin()\n"
            "    services.shop.emit(session.handle, services.Paid(order, n))\n"
            "    session.commit()\n"
        )
        given = json.encode(events).decode()
        subprocess.run([sys.executable, "-c", code, given], cwd=self.folder, check=True,
                       env=self.environment)  # fmt: skip

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A process that goes on."""
        process = subprocess.Popen(
            [sys.executable, "-m", "oncebox", *arguments], cwd=self.folder, env=self.environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def oncebox(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command that ends."""
        return subprocess.run(
            [sys.executable, "-m", "oncebox", *arguments], cwd=self.folder, env=self.environment,
            capture_output=True, text=True, timeout=WAIT_S, check=False,
        )  # fmt: skip

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        done = self.oncebox(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return [json.decode(text) for text in done.stdout.splitlines()]

    def ledger(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        order = "rowid" if self.store.startswith("sqlite") else "ctid"
        for who, n in self.execute(f"SELECT who, n FROM ledger ORDER BY {order}"):
            found.setdefault(who, []).append(n)
        return found

    def until(self, what: Callable[[], bool]) -> None:
        """Wait for a condition; a process that died meanwhile fails the test."""
        pause = threading.Event()
        for _ in range(int(WAIT_S / TICK_S)):
            if what():
                return
            pause.wait(TICK_S)
        shown = self.oncebox("parked", "billing").stdout
        raise AssertionError(f"not within {WAIT_S} s; {self.ledger()}; {shown}")

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture(params=["sqlite", "postgres"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    url = f"sqlite:///{tmp_path}/store.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    made = Site(tmp_path, url)
    assert made.oncebox("db", "migrate").returncode == 0
    yield made
    made.end()


def orders(count: int, each: int) -> list[tuple[str, int]]:
    return [(f"o{i}", n) for n in range(1, each + 1) for i in range(count)]


def expected(events: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for who, n in events:
        found.setdefault(who, []).append(n)
    return found


def stop(process: subprocess.Popen[str], number: int) -> tuple[int, str]:
    process.send_signal(number)
    out, _ = process.communicate(timeout=WAIT_S)
    return process.returncode, out


def wait_for(process: subprocess.Popen[str], text: str) -> str:
    """The first line of a process that holds the text."""
    assert process.stdout is not None
    return next(shown for shown in process.stdout if text in shown)


def test_run_relays_and_consumes_until_it_is_stopped(site: Site) -> None:
    process = site.start("run")
    events = orders(5, 4)
    site.emit(*events)
    wait_for(process, "billing: partitions read: 4 by ")
    site.until(lambda: site.ledger() == expected(events))
    code, _ = stop(process, signal.SIGTERM)
    assert code == 0
    (billing,) = [r for r in site.rows("status") if r["kind"] == "consumer"]
    assert billing["holders"] == []
    assert billing["lag"] == 0


def test_an_interrupt_ends_gracefully_with_130(site: Site) -> None:
    process = site.start("run", "--json")
    first = json.decode(wait_for(process, "partitions"))
    assert (first["consumer"], first["what"]) == ("billing", "partitions")
    code, _ = stop(process, signal.SIGINT)
    assert code == 130


def test_a_second_signal_ends_at_once_and_loses_nothing(site: Site) -> None:
    (site.folder / "slow").touch()
    process = site.start("run")
    site.emit(("a", 1), ("a", 2))
    site.until((site.folder / "in-handler").exists)
    process.send_signal(signal.SIGTERM)
    wait_for(process, "once more")
    code, _ = stop(process, signal.SIGTERM)
    assert code == 130
    assert site.ledger() == {}
    (site.folder / "slow").unlink()
    site.start("run")
    site.until(lambda: site.ledger() == {"a": [1, 2]})


def test_a_graceful_stop_has_a_limit(site: Site) -> None:
    (site.folder / "slow").touch()
    process = site.start("run", "--stop-s", "0.2")
    site.emit(("a", 1))
    site.until((site.folder / "in-handler").exists)
    code, out = stop(process, signal.SIGTERM)
    assert "still running" in out
    assert code == 0
    (site.folder / "slow").unlink()
    site.start("run")
    site.until(lambda: site.ledger() == {"a": [1]})


def test_two_processes_share_and_one_takes_over_from_a_killed_one(site: Site) -> None:
    first, second = site.start("run"), site.start("run")
    site.until(lambda: len({h for r in site.rows("status") for h in r.get("holders", ())}) == 2)
    events = orders(20, 3)
    site.emit(*events)
    site.until(lambda: sum(map(len, site.ledger().values())) > 5)
    first.kill()
    site.until(lambda: site.ledger() == expected(events))
    assert stop(second, signal.SIGTERM)[0] == 0


def test_relay_alone_needs_no_application(site: Site) -> None:
    site.emit(("a", 1), ("b", 2))
    (relay,) = [r for r in site.rows("status") if r["kind"] == "relay"]
    assert relay["backlog"] == 2
    assert relay["holder"] is None
    del site.environment["ONCEBOX_APP"]
    process = site.start("relay", "shop", "--store", site.store, "--log", site.log)
    flags = ("--store", site.store, "--log", site.log)
    site.until(lambda: site.rows("status", "shop", *flags)[0]["backlog"] == 0)
    assert stop(process, signal.SIGTERM)[0] == 0
    assert site.ledger() == {}


def test_run_refuses_without_tables_and_makes_them_when_told(tmp_path: Path) -> None:
    site = Site(tmp_path, f"sqlite:///{tmp_path}/store.db")
    done = site.oncebox("run")
    assert done.returncode == 3
    assert "oncebox db migrate" in done.stderr
    process = site.start("run", "--migrate")
    site.until(lambda: site.oncebox("db", "check").returncode == 0)
    site.emit(("a", 1))
    site.until(lambda: site.ledger() == {"a": [1]})
    assert stop(process, signal.SIGTERM)[0] == 0


def test_a_store_that_is_away_at_the_start_is_waited_for(tmp_path: Path) -> None:
    with hint_if_missing(), own_postgres() as server:
        site = Site(tmp_path, server.url_of(server.create_database()))
        assert site.oncebox("db", "migrate").returncode == 0
        site.emit(("a", 1))
        server.stop()
        process = site.start("run")
        wait_for(process, "billing: waiting: ")
        code, said = stop(process, signal.SIGTERM)
        assert code == 0
        assert "Traceback" not in said
        assert "ended" not in said
        process = site.start("run", "--migrate")
        wait_for(process, ": waiting: ")
        server.start()
        site.until(lambda: site.ledger() == {"a": [1]})
        assert stop(process, signal.SIGTERM)[0] == 0


def test_what_init_makes_works_as_it_says(tmp_path: Path) -> None:
    def oncebox(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    made = oncebox("-m", "oncebox", "init")
    assert made.returncode == 0
    assert "oncebox run --migrate" in made.stdout
    process = subprocess.Popen(
        [sys.executable, "-m", "oncebox", "run", "--migrate"], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    wait_for(process, "billing: partitions read: 4 by ")
    assert oncebox("services.py", "o-1", "1250").returncode == 0
    with closing(sqlite3.connect(tmp_path / "billing.db")) as billing:
        found: list[tuple[str, int]] = []
        pause = threading.Event()
        for _ in range(int(WAIT_S / TICK_S)):
            tables = billing.execute("SELECT 1 FROM sqlite_master WHERE name = 'owed'").fetchall()
            found = billing.execute("SELECT * FROM owed").fetchall() if tables else []
            if found:
                break
            pause.wait(TICK_S)
    assert found == [("o-1", 1250)]
    assert stop(process, signal.SIGTERM)[0] == 0


def test_settings_and_names_reach_the_consumers(site: Site) -> None:
    (site.folder / "broken").write_text("a")
    process = site.start("run", "shop", "billing", "--settings.attempts-max", "1")
    site.emit(("a", 1), ("b", 1))
    site.until(lambda: [r["due_ms"] for r in site.rows("parked", "billing")] == [None])
    assert site.rows("parked", "billing")[0]["attempts"] == 1
    stop(process, signal.SIGTERM)
    done = site.oncebox("run", "nobody")
    assert done.returncode == 2
    assert "one of billing, shop" in done.stderr


ENGINE = """
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

KIND = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
scheme, _, place = STORE.partition("://")
billing.store = create_async_engine(f"{KIND[scheme]}://{place}")
billing.consumers.clear()


@billing.on(Paid)
async def book_async(tx: Any, paid: Paid) -> None:
    await tx.execute(text("INSERT INTO ledger VALUES (:who, :n)"), {"who": paid.order, "n": paid.n})
"""


def test_an_applications_asynchronous_engine_serves_every_command(site: Site) -> None:
    """It belongs to one event loop: the one in which a command used it first."""
    with (site.folder / "services.py").open("a") as file:
        file.write(ENGINE)
    process = site.start("run")
    events = orders(3, 2)
    site.emit(*events)
    site.until(lambda: site.ledger() == expected(events))
    done = site.oncebox("replay", "billing", "--from", "start", "--wait")
    assert f"billing has read {len(events)} records again" in done.stderr, done.stderr
    (billing,) = site.rows("status", "billing")
    assert billing["counts"]["duplicates"] == len(events)
    (report,) = site.rows("audit", "--younger-s=-60")
    assert (report["clean"], report["rows"]) == (True, len(events))
    assert stop(process, signal.SIGTERM)[0] == 0


# ---- operated while they run


def test_redrive_while_two_processes_run(site: Site) -> None:
    """Keys fail; operators redrive all of them from two processes again and again while consumers
    work, until what made them fail is mended. Each event takes effect once, in order.
    """
    (site.folder / "broken").write_text(" ".join(f"o{i}" for i in range(6)))
    for _ in range(2):
        site.start("run", "--settings.backoff-s", "0.05", "--settings.attempts-max", "3")
    events = orders(12, 4)
    site.emit(*events)
    site.until(lambda: len(site.rows("parked", "billing")) == 6)
    operators = [
        threading.Thread(
            target=lambda: [site.oncebox("redrive", "billing", "--all") for _ in range(6)]
        )
        for _ in range(2)
    ]
    for operator in operators:
        operator.start()
    site.emit(*[(f"o{i}", 5) for i in range(12)])
    (site.folder / "broken").unlink()
    for operator in operators:
        operator.join(WAIT_S)
    assert site.oncebox("redrive", "billing", "--all").returncode == 0
    site.until(lambda: site.ledger() == expected([*events, *[(f"o{i}", 5) for i in range(12)]]))
    assert site.rows("parked", "billing") == []


def test_replay_and_rebuild_while_two_processes_run(site: Site) -> None:
    for _ in range(2):
        site.start("run")
    events = orders(10, 5)
    site.emit(*events)
    site.until(lambda: site.ledger() == expected(events))
    before = site.rows("status", "billing")[0]["counts"]
    done = site.oncebox("replay", "billing", "--from", "start", "--wait")
    assert done.returncode == 0, done.stderr
    assert f"billing has read {len(events)} records again" in done.stderr
    after = site.rows("status", "billing")[0]["counts"]
    assert after["duplicates"] == before["duplicates"] + len(events)
    assert site.ledger() == expected(events)
    done = site.oncebox("rebuild", "billing", "--clear", "DELETE FROM ledger", "--yes", "--wait")
    assert done.returncode == 0, done.stderr
    assert site.ledger() == expected(events)
    assert site.rows("status", "billing")[0]["counts"]["applied"] == len(events)


V2 = """

@event("order.booked", stream="bookings", key="order", version=1)
@dataclass(frozen=True)
class Booked:
    order: str


def book_anew(tx: Any, paid: Paid, context: Any) -> None:
    called = context.once("call", lambda _: Path("called").open("a").write(f"{paid.n} "))
    tx.execute(f"INSERT INTO anew (who, n) VALUES ({MARK}, {MARK})", (paid.order, paid.n))
    billing.emit(tx, Booked(paid.order))


billing.consumer("v2").on(Paid)(book_anew)
"""


def test_a_new_consumer_begins_like_a_rebuild(site: Site) -> None:
    """It makes its state of all that is in the log; what was had before it calls nobody."""
    running = site.start("run")
    events = orders(3, 4)
    site.emit(*events)
    site.until(lambda: site.ledger() == expected(events))
    assert stop(running, signal.SIGTERM)[0] == 0

    with (site.folder / "services.py").open("a") as services:
        services.write(V2)
    site.execute("CREATE TABLE anew (who TEXT, n INTEGER)")
    (made,) = site.rows("rebuild", "billing.v2", "--new", "--because", "a second view")
    assert made == {"action": "new", "consumer": "billing.v2", "partitions": 4}
    site.start("run")
    site.until(lambda: site.execute("SELECT count(*) FROM anew") == [(len(events),)])
    site.emit(("o1", 5))
    site.until(lambda: site.execute("SELECT count(*) FROM anew") == [(len(events) + 1,)])
    mark = "_" if site.store.startswith("sqlite") else "."
    emitted = f"SELECT count(*) FROM oncebox{mark}event WHERE type = 'order.booked'"
    assert site.execute(emitted) == [(1,)]
    assert (site.folder / "called").read_text() == "5 "
    assert site.ledger() == expected([*events, ("o1", 5)])
    refused = site.oncebox("rebuild", "billing.v2", "--new")
    assert refused.returncode == 1
    assert "billing.v2 has begun to read" in refused.stderr


def test_accept_after_the_source_forgot(site: Site) -> None:
    """The producer's rows are taken back to an earlier state, as by a restore."""
    tables = ("event", "counter") if site.store.startswith("sqlite") else (
        "event", "chain", "counter")  # fmt: skip
    mark = "_" if site.store.startswith("sqlite") else "."
    process = site.start("run", "--settings.attempts-max", "1")
    site.emit(("a", 1), ("a", 2), ("b", 1))
    site.until(lambda: site.ledger() == {"a": [1, 2], "b": [1]})
    if mark == "_":
        site.execute("DROP TRIGGER oncebox_newest")  # which lets nobody do it by hand
    for table in tables:
        site.execute(f"DELETE FROM oncebox{mark}{table}")
    site.execute(f"DELETE FROM oncebox{mark}cursor WHERE reader = 'relay:shop'")
    site.emit(("a", 10))
    site.until(lambda: [r["kind"] for r in site.rows("parked", "billing")] == ["fork"])
    done = site.oncebox("accept", "billing", "--source", "/shop/orders", "--because", "restored")
    assert done.returncode == 0, done.stderr
    site.until(lambda: site.ledger() == {"a": [1, 2, 10], "b": [1]})
    assert site.rows("parked", "billing") == []
    stop(process, signal.SIGTERM)


# ---- terminals


def on_a_terminal(site: Site, *arguments: str, **more: str) -> str:
    """What a command draws on a terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "oncebox", *arguments], cwd=site.folder,
        stdout=follower, stderr=follower,
        env={**site.environment, "TERM": "xterm-256color", "COLUMNS": "120", **more},
    )  # fmt: skip
    os.close(follower)
    drawn = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:
            break
        if not part:
            break
        drawn += part
    os.close(leader)
    assert process.wait(WAIT_S) == 0
    return drawn.decode()


COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def test_tables_are_drawn_on_terminals_only_and_colour_can_be_refused(tmp_path: Path) -> None:
    site = Site(tmp_path, f"sqlite:///{tmp_path}/store.db")
    site.oncebox("db", "migrate")
    drawn = on_a_terminal(site, "db", "status")
    assert COLOUR.search(drawn)
    plain = on_a_terminal(site, "db", "status", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", plain)
    assert "\x1b" not in site.oncebox("db", "status").stdout
    assert "─" in drawn
    assert "─" not in site.oncebox("db", "status").stdout


def test_progress_is_a_bar_on_a_terminal(site: Site) -> None:
    """Drawn where errors go, and gone at the end; elsewhere not a byte of it."""
    events = orders(3, 20)
    site.emit(*events)
    republish = ("republish", "--source", "/shop/orders", "--key", "o1", "--store", site.store,
                 "--log", site.log)  # fmt: skip
    site.start("run")
    site.until(lambda: site.ledger() == expected(events))
    for command, done in (
        (republish, r"20/20\b"),
        (("replay", "billing", "--from", "start", "--wait"), r"\b(\d+)/\1\b"),
        (("audit", "--younger-s=-60"), r"\b(\d{3})/\1\b"),
    ):
        drawn = on_a_terminal(site, *command)
        assert "━" in drawn
        assert re.search(done, COLOUR.sub("", drawn))
        assert "\x1b[2K" in drawn, "the bar is wiped out"
        elsewhere = site.oncebox(*command)
        assert elsewhere.returncode == 0
        assert not re.search("[\x1b━]", elsewhere.stdout + elsewhere.stderr)
    dumb = on_a_terminal(site, *republish, TERM="dumb")
    assert not re.search("[\x1b━]", dumb)
