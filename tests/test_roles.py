"""Roles with least privilege: each part runs a real flow with only its role's rights, and is refused
what is not its own.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from at_work import WAIT_S, Place, at_work, emit, until
from oncebox import Service
from oncebox.cli import main
from oncebox.consumer.reading import Settings
from oncebox.errors import MissingRight
from oncebox.program import drive
from oncebox.relay import Relay, RelaySettings
from oncebox.service.connect import open_log
from oncebox.service.running import running
from oncebox.stores.adapt import open_store
from oncebox.tables.roles import GRANTS, lacking, script

PASSWORD = "s3cret"


class Parts:
    """A database with roles: the URL for whoever plays some parts."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.superuser = psycopg.connect(url, autocommit=True)
        self.logins: list[str] = []

    def execute(self, sql: str) -> list[Any]:
        cursor = self.superuser.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []

    def url_of(self, *parts: str) -> str:
        name = f"login_{secrets.token_hex(4)}"
        self.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
        for part in parts:
            self.execute(f"GRANT oncebox_{part} TO {name}")
        self.logins.append(name)
        return f"postgresql://{name}:{PASSWORD}@{self.url.partition('@')[2]}"

    def grant(self, what: str) -> None:
        self.execute(f"GRANT {what} TO {self.logins[-1]}")

    def close(self) -> None:
        for login in self.logins:
            self.execute(f"DROP OWNED BY {login}; DROP ROLE {login}")
        for part in GRANTS:
            self.execute(f"DROP OWNED BY oncebox_{part}; DROP ROLE oncebox_{part}")
        self.superuser.close()


@pytest.fixture
def parts(postgres_url: str, tmp_path: Path) -> Iterator[Parts]:
    Place(postgres_url, postgres_url, f"sqlite:///{tmp_path}/log.db", "orders").make()
    made = Parts(postgres_url)
    made.execute(script())
    made.execute(script())  # again: nothing happens
    made.execute("CREATE TABLE ledger (who text, cents int)")
    yield made
    made.close()


@pytest.fixture
def place(parts: Parts, tmp_path: Path) -> Place:
    return Place(parts.url, parts.url, f"sqlite:///{tmp_path}/log.db", "orders")


def refused(url: str, *statements: str) -> None:
    """Each of these, and nothing of it happens."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


def pay(tx: Any, paid: Any) -> None:
    tx.execute("INSERT INTO ledger VALUES (%s, %s)", (paid.order, paid.cents))


def failing(tx: Any, paid: Any) -> None:
    raise ValueError("no account")


def flow(place: Place, handle: Callable[[Any, Any], Any], count: int) -> tuple[Service, Any]:
    """Some events through relay and consumer as the superuser; shop and the event class."""
    shop, billing, paid = place.services(handle)
    billing.consumer(settings=Settings(attempts_max=1))
    emit(shop, *(paid("a", n) for n in range(count)))
    with at_work(shop, billing) as at:
        done = (("oncebox_inbox_applied_total", count) if handle is pay
                else ("oncebox_keys_dead", 1))  # fmt: skip
        labels = ("billing",) if handle is pay else ("billing", "failed")
        until(lambda: at.metric(done[0], *labels) == done[1])
    return shop, paid


def test_a_producer_emits_and_nothing_else(parts: Parts, place: Place) -> None:
    url = parts.url_of("producer")
    parts.grant("INSERT ON ledger")
    paid = place.event()
    shop = Service("shop", store=url)
    with psycopg.connect(url) as tx:
        tx.execute("INSERT INTO ledger VALUES ('a', 1)")
        first = shop.emit(tx, paid("a", 1))
        shop.emit(tx, paid("b", 1), after=first)
        shop.emit_many(tx, [paid("a", 2), paid("c", 1)])
    with psycopg.connect(url) as tx:
        shop.emit(tx, paid("a", 3))
        tx.execute("SELECT oncebox.emit('/shop/orders', 'order.paid', 'a', '{}')")
    numbers = parts.execute("SELECT key, sequence FROM oncebox.counter ORDER BY key")
    assert numbers == [("a", 4), ("b", 1), ("c", 1)]
    refused(
        url, "DELETE FROM oncebox.event", "UPDATE oncebox.event SET data = null",
        "SELECT * FROM oncebox.chain", "SELECT * FROM oncebox.key", "SELECT * FROM oncebox.cursor",
        "UPDATE oncebox.source SET low = 0", "SELECT * FROM oncebox.quarantine",
        "SELECT oncebox.maintain('event', 0, 1, 1)", "CREATE TABLE oncebox.mine (n int)",
        "INSERT INTO oncebox.journal (at_ms, what, consumer) VALUES (0, '', '')",
    )  # fmt: skip


def test_a_relay_publishes_and_nothing_else(parts: Parts, place: Place) -> None:
    shop, billing, paid = place.services(pay)
    emit(shop, paid("a", 1), paid("a", 2))
    url = parts.url_of("relay")
    with at_work(Service("shop", store=url, log=place.log), billing):
        until(lambda: parts.execute("SELECT count(*) FROM ledger") == [(2,)])
    with pytest.raises(MissingRight, match="permission denied"):
        emit(Service("shop", store=url), paid("a", 3))
    refused(
        url, "DELETE FROM oncebox.event", "INSERT INTO oncebox.chain VALUES (1)",
        "SELECT * FROM oncebox.key", "SELECT * FROM oncebox.kept", "SELECT * FROM oncebox.inbox",
        "DELETE FROM oncebox.cursor", "SELECT * FROM ledger", "DROP TABLE oncebox.event_0",
    )  # fmt: skip


def test_a_relay_that_owns_nothing_makes_and_drops_partitions(parts: Parts, place: Place) -> None:
    """Through one function, with its owner's rights."""
    shop, paid = flow(place, pay, 3)
    parts.execute("UPDATE oncebox.partition SET upper = 2 WHERE lower = 0")
    store, log = open_store(parts.url_of("relay")), open_log(place.log)
    settings = RelaySettings(retention_s=0.0, partition_events=1000)
    relay = Relay(store, log, "shop", "one", settings, time.time, lambda _: None)
    turns = iter(range(20))
    drive(relay.run(lambda: next(turns, None) is None))
    log.close()
    names = {name for (name,) in parts.execute(
        "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")}  # fmt: skip
    assert not {"event_0", "chain_0"} & names, names
    assert len(names) > 2
    owners = parts.execute(
        "SELECT DISTINCT relowner = (SELECT oid FROM pg_roles WHERE rolname = current_user)"
        " FROM pg_class WHERE relispartition"
    )
    assert owners == [(True,)]
    emit(shop, paid("a", 9))


def test_a_consumer_handles_and_nothing_else(parts: Parts, place: Place) -> None:
    """It claims, too; to emit it has to play that part as well."""
    shop, _, paid = place.services(pay)
    emit(shop, paid("a", 1), paid("a", 2))
    url = parts.url_of("consumer")
    parts.grant("INSERT ON ledger")
    _, billing, _ = place._replace(billing=url).services(pay)
    with at_work(shop), at_work(billing, relay=False) as at:
        until(lambda: at.metric("oncebox_inbox_applied_total", "billing") == 2)
        until(lambda: at.fine("/ready"), lambda: at.get("/ready"))
    with pytest.raises(MissingRight, match="permission denied"):
        emit(Service("billing", store=url), paid("a", 3))
    refused(
        url, "SELECT * FROM oncebox.event", "SELECT * FROM oncebox.chain",
        "UPDATE oncebox.source SET low = 0", "UPDATE oncebox.journal SET what = ''",
        "UPDATE oncebox.quarantine SET reason = ''", "SELECT * FROM ledger",
        "DELETE FROM oncebox.subscription",
    )  # fmt: skip


async def test_a_consumer_that_relays_too_is_told_how_not_to(parts: Parts, place: Place) -> None:
    _, billing, _ = place._replace(billing=parts.url_of("consumer")).services(pay)

    async def work() -> None:
        async with running([billing]) as work:
            await asyncio.wait_for(work.ended.wait(), WAIT_S)

    with pytest.raises(MissingRight, match="permission denied.*oncebox run --no-relay"):
        await work()


async def test_a_consumer_that_emits_plays_two_parts(parts: Parts, place: Place) -> None:
    shop, _, paid = place.services(pay)
    emit(shop, paid("a", 1))
    url = parts.url_of("producer", "consumer")
    billing = Service("billing", store=url, log=place.log)

    @billing.on(paid)
    def again(tx: Any, one: Any) -> None:
        billing.emit(tx, paid(one.order, one.cents + 1)) if one.cents == 1 else None

    async with running([shop]), running([billing], relay=False):
        while parts.execute("SELECT sum(applied) FROM oncebox.cursor") != [(1,)]:
            await asyncio.sleep(0.02)
    sources = parts.execute("SELECT name FROM oncebox.source ORDER BY name")
    assert sources == [("/billing/orders",), ("/shop/orders",)]


def test_an_operator_looks_and_acts_and_does_not_emit(
    parts: Parts, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    _, paid = flow(place, failing, 3)
    url = parts.url_of("operator")
    at = ("--store", url, "--log", place.log)
    assert main(("status", *at)) == 0
    assert main(("parked", "billing", *at)) == 0
    assert main(("redrive", "billing", "--key", "a", *at)) == 0
    assert main(("skip", "billing", "--key", "a", "--because", "a test", *at)) == 0, (
        capsys.readouterr().err
    )
    assert main(("journal", "billing", *at)) == 0
    assert main(("replay", "billing", "--yes", *at)) in (0, 2)
    with pytest.raises(MissingRight, match="permission denied"):
        emit(Service("shop", store=url), paid("a", 3))
    refused(
        url, "DELETE FROM oncebox.event", "UPDATE oncebox.event SET data = null",
        "DELETE FROM oncebox.journal", "UPDATE oncebox.journal SET what = ''",
        "DELETE FROM oncebox.cursor", "SELECT * FROM ledger",
        "SELECT oncebox.maintain('event', 0, 1, 1)",
    )  # fmt: skip


def test_an_auditor_only_looks(
    parts: Parts, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    flow(place, pay, 3)
    url = parts.url_of("auditor")
    at = ("--store", url, "--log", place.log)
    assert main(("audit", "shop", "billing", "--younger-s", "0", *at)) == 0, capsys.readouterr().err
    assert main(("status", *at)) == 0
    assert main(("parked", "billing", *at)) == 0
    assert main(("db", "check", "--role", "auditor", "--store", url)) == 0
    capsys.readouterr()
    assert main(("db", "check", "--role", "producer", "--store", url)) == 3
    assert "insert on table oncebox.event" in capsys.readouterr().err
    refused(
        url, "UPDATE oncebox.key SET due_ms = 0", "DELETE FROM oncebox.kept",
        "UPDATE oncebox.cursor SET position = null", "INSERT INTO oncebox.source (name) VALUES ('/a/b')",
    )  # fmt: skip


@pytest.mark.parametrize("part", GRANTS)
def test_what_a_part_lacks_is_named(parts: Parts, part: str) -> None:
    session: Any = open_store(parts.url_of(part)).open()
    assert drive(lacking(session, "oncebox", part)) == []
    session.close()
    session = open_store(parts.url_of()).open()
    assert drive(lacking(session, "oncebox", part)) == ["usage on schema oncebox"]
    session.close()
    rights, kind, what = GRANTS[part][0]
    parts.execute(f"REVOKE {rights} ON {kind} oncebox.{what} FROM oncebox_{part}")
    session = open_store(parts.url_of(part)).open()
    lacks = drive(lacking(session, "oncebox", part))
    assert lacks == sorted(f"{right} on {kind} oncebox.{what}" for right in rights.split(", "))
    session.close()


def test_db_sql_prints_the_roles(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("db", "sql", "--roles", "--dialect", "postgres")) == 0
    assert capsys.readouterr().out == script()


def test_roles_of_another_schema() -> None:
    assert "oncebox_" not in script("other") and "oncebox." not in script("other")
