"""Wrong credentials, missing rights and tables, from the issue's list."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka import admin as _untyped_admin

from audited import FUTURE_S, PARTITIONS, System
from bad_input.site import Place, Site, until
from conftest import hint_if_missing
from engines.kafka import OwnKafka, kafka
from engines.postgres import Postgres
from oncebox.audit.survey import Side, audit
from oncebox.consumer.loop import ConsumerLoop
from oncebox.errors import MissingRight, MissingTables, Unreachable
from oncebox.event import event, new_id
from oncebox.logs.kafka import KafkaLog
from oncebox.ports import Log, Outgoing
from oncebox.program import call, drive
from oncebox.service import places
from oncebox.service.connect import open_log
from oncebox.service.running import running
from oncebox.service.service import Service
from oncebox.statements import migrations, statements
from oncebox.stores.adapt import open_store
from oncebox.tables.migrate import check, migrate

ANSWER_TIMEOUT_S = 20.0
PASSWORD = "s3cret"

admin: Any = _untyped_admin


@pytest.fixture(scope="module")
def broker() -> Iterator[OwnKafka]:
    """A broker that knows its users."""
    with (
        hint_if_missing(),
        kafka(users=dict.fromkeys(("shop", "nobody", "auditor"), PASSWORD)) as own,
    ):
        yield own


@pytest.fixture
def on_broker(on_files: Place, broker: OwnKafka, topic: str) -> Iterator[Site]:
    """Files, and a log that user `shop` may use."""
    name = f"{topic}-orders"
    broker.create_topic(name, 2)
    grant(broker, name, "shop")
    made = Site(on_files._replace(log=broker.url_of("shop", PASSWORD), topic=name))
    yield made
    made.close()


@pytest.fixture
def role(postgres_server: Postgres, postgres_url: str) -> Iterator[str]:
    """A role that may log in, and nothing else."""
    name = f"role_{new_id().hex}"
    with psycopg.connect(postgres_url, autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'".encode())
        yield name
        superuser.execute(f"DROP OWNED BY {name}; DROP ROLE {name}".encode())


def url_as(url: str, role: str, password: str = PASSWORD) -> str:
    return f"postgresql://{role}:{password}@{url.partition('@')[2]}"


# ---- wrong credentials


def test_wrong_credentials_of_postgres(
    on_servers: Place, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Wrong credentials: whoever starts is told what to check, whoever runs waits; the password is
    never shown.
    """
    wrong = open_store(url_as(on_servers.billing, role, "wr0ng"))
    with pytest.raises(Unreachable, match="check user and password") as refused:
        drive(call(wrong.open))
    assert role in str(refused.value)
    assert "wr0ng" not in str(refused.value)

    superuser = psycopg.connect(on_servers.billing, autocommit=True)
    superuser.execute(f"ALTER ROLE {role} SUPERUSER".encode())
    site = Site(on_servers._replace(billing=url_as(on_servers.billing, role)))
    site.paid("good", 1)
    loop = site.flow()
    site.paid("good", 2)
    site.relay()
    superuser.execute(f"ALTER ROLE {role} PASSWORD 'another'".encode())
    superuser.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (role,)
    )
    for _ in range(3):
        site.turn(loop)
    assert "check user and password" in caplog.text
    assert PASSWORD not in caplog.text
    superuser.execute(f"ALTER ROLE {role} PASSWORD '{PASSWORD}'".encode())
    site.billing.close()  # it was ended by the server
    site.billing = site.billing_store.open()
    site.flow()
    assert site.of("good") == [1, 2]
    assert site.waiting() == {}
    site.close()
    superuser.execute(f"ALTER ROLE {role} NOSUPERUSER".encode())
    superuser.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER".encode())
    superuser.close()


def test_wrong_credentials_of_kafka(on_broker: Site, broker: OwnKafka) -> None:
    """Wrong credentials: what is emitted waits, and goes out when they are right."""
    site = on_broker
    site.paid("good", 1)
    site.flow()
    right, wrong = site.log, open_log(broker.url_of("shop", "wr0ng"))
    site.logs.append(wrong)
    with pytest.raises(Unreachable, match="Authentication failed") as refused:
        wrong.describe(site.place.topic)
    assert "wr0ng" not in str(refused.value)
    assert "credentials" in str(refused.value.hint)
    site.wire.log = wrong
    site.paid("good", 2)
    while not site.waited:
        site.relay_turn()
    assert isinstance(site.waited[0], Unreachable)
    site.wire.log = right
    site.flow()
    assert site.of("good") == [1, 2]


# ---- missing rights


def test_missing_rights_of_postgres(on_servers: Place, role: str) -> None:
    """Missing rights: the error names the right and the role; nothing is done by half."""
    site = Site(on_servers)
    superuser = psycopg.connect(on_servers.billing, autocommit=True)
    superuser.execute(f"GRANT SELECT, INSERT ON ledger TO {role}".encode())
    superuser.execute(f"GRANT USAGE ON ledger_n_seq TO {role}".encode())
    as_role = open_store(url_as(on_servers.billing, role))
    session: Any = as_role.open()
    with pytest.raises(MissingRight, match="permission denied for schema oncebox") as refused:
        drive(check(session))
    assert role in str(refused.value)
    superuser.execute(f"GRANT USAGE ON SCHEMA oncebox TO {role}".encode())
    for table in ("migration", "subscription", "cursor", "member"):
        superuser.execute(f"GRANT SELECT, INSERT, UPDATE ON oncebox.{table} TO {role}".encode())

    with pytest.raises(MissingRight) as lacks:
        drive(check(session, rights=True))
    for part in (f"role {role} lacks", "select, update on table key", "delete on table cursor",
                 "usage on sequence event_n"):  # fmt: skip
        assert part.replace("select, update", "delete, insert, select, update") in str(lacks.value)
    session.begin()
    with pytest.raises(MissingRight, match=f"permission denied for table .*{role}") as unwritten:
        site.service.emit(session.handle, site.Paid("bad", 1))
    assert "insert" in str(unwritten.value.expected)
    session.rollback()

    site.paid("good", 1)
    site.relay()
    site.billing_store = as_role
    loop = site.loop()
    with pytest.raises(MissingRight, match=f"permission denied for table .*{role}") as unread:
        turn_for_ever(site, loop)
    assert unread.value.hint == unwritten.value.hint
    assert site.of("good") == []
    assert site.count("applied") == 0

    for statement in str(lacks.value.hint).removeprefix("grant ").split("; grant "):
        superuser.execute(f"GRANT {statement}".encode())
    drive(check(session, rights=True))
    site.flow()
    assert site.of("good") == [1]
    session.close()
    site.close()
    superuser.close()


def test_missing_rights_of_kafka(on_broker: Site, broker: OwnKafka) -> None:
    """Missing rights: the error names the right and the user; the outbox keeps what is refused."""
    site, topic = on_broker, on_broker.place.topic
    site.paid("good", 1)
    site.flow()
    right, poor = site.log, open_log(broker.url_of("nobody", PASSWORD))
    site.logs.append(poor)
    site.wire.log = poor
    site.paid("good", 2)
    site.relay()
    ((key, reason),) = site.shop.run("SELECT key, reason FROM oncebox_refused")
    assert key == "good"
    for part in ("Kafka does not let nobody", "User:nobody may READ, WRITE", "kafka-acls.sh"):
        assert part in reason

    loop = site.loops[-1]
    loop.log = poor
    reader = poor.reader("billing")
    reader.assign({(topic, 0): 0})
    with pytest.raises(MissingRight, match=f"let nobody .* topic {topic}"):
        until(lambda: bool(reader.fetch(1, 1000, 1.0)), "a record comes")
    reader.close()
    loop.next_describe_ms = 0
    site.clock.now += 60.0
    with pytest.raises(MissingRight, match=f"let nobody describe topic '{topic}'"):
        site.turn(loop)
    loop.log = right

    grant(broker, topic, "nobody")
    site.clock.now += 60.0
    while site.of("good") != [1, 2]:
        site.later(1.0)


# ---- missing tables, tables of another version


def test_who_may_read_and_describe_a_topic_may_audit_it(
    broker: OwnKafka, topic: str, tmp_path: Path
) -> None:
    broker.create_topic(topic, PARTITIONS)
    system = System(f"sqlite:///{tmp_path}/store.db", broker.url, topic, tmp_path)
    system.pays("a", 1, 2)
    system.drain()
    grant(broker, topic, "auditor", ("READ", "DESCRIBE"))
    place = places.Place(system.store_url, None, "oncebox", {})
    with closing(open_log(broker.url_of("auditor", PASSWORD))) as log:
        report = audit([Side(lambda work: place.at_desk("", work), log)], younger_s=FUTURE_S)
        assert (report.clean, report.rows, report.records) == (True, 2, 2)
        try:
            said = log.publish([Outgoing(topic, b"a", b"1", [], 0)], 10.0)[0].reason
        except MissingRight as error:  # the client gave up in the midst of its reports
            said = str(error)
        assert "does not let auditor" in said
    assert sum(extent.end for extent in system.log.extents(topic)) == 2
    system.close()


@pytest.fixture(params=["sqlite", "postgres"])
def bare(request: pytest.FixtureRequest, on_files: Place) -> Place:
    """No tables at all."""
    if request.param == "sqlite":
        return on_files
    url = request.getfixturevalue("postgres_url")
    return on_files._replace(shop=url, billing=url)


def turn_for_ever(site: Site, loop: ConsumerLoop) -> None:
    until(lambda: site.turn(loop) and False, "it ends")


def service_on(place: Place) -> Service:
    service = Service("billing", store=place.billing, log=place.log)

    @event("order.paid", stream=place.topic, key="order")
    @dataclass(frozen=True)
    class Paid:
        order: str

    @service.on(Paid)
    def pay(tx: Any, paid: Paid) -> None: ...

    return service


async def run(service: Service) -> None:
    async with running([service]) as work:
        await work.ended.wait()


async def test_missing_tables(bare: Place) -> None:
    """Missing tables: said before anything runs, or is emitted, with the command that makes them."""
    service = service_on(bare)
    with pytest.raises(MissingTables, match="not there; .*oncebox db migrate"):
        await run(service)
    store: Any = open_store(bare.billing)
    session = store.open()
    session.begin()
    with pytest.raises(MissingTables, match="oncebox db migrate"):
        service.emit(session.handle, next(iter(service.consumer().handlers.values())).type.cls("a"))
    session.rollback()
    session.close()


def test_tables_that_go_while_it_runs(site: Site) -> None:
    """Missing tables, in the middle of the work: the loop ends with an error that says so, and
    what it had not done is done when they are back.
    """
    site.paid("good", 1)
    loop = site.flow()
    site.paid("good", 2)
    site.relay()
    table = "oncebox_key" if site.place.dialect == "sqlite" else "oncebox.key"
    away = table.replace("key", "kez") if site.place.dialect == "sqlite" else "kez"
    back = "oncebox.kez" if site.place.dialect == "postgres" else away
    site.billing.run(f"ALTER TABLE {table} RENAME TO {away}")
    with pytest.raises(MissingTables, match="oncebox db migrate"):
        turn_for_ever(site, loop)
    assert site.of("good") == [1]
    site.leave()
    name = "key" if site.place.dialect == "postgres" else table
    site.billing.run(f"ALTER TABLE {back} RENAME TO {name}")
    site.flow()
    assert site.of("good") == [1, 2]


async def test_tables_of_a_newer_version(bare: Place) -> None:
    """Tables of a newer version: the next one fits, the one after it does not."""
    store: Any = open_store(bare.billing)
    session = store.open()
    await asyncio.to_thread(drive, migrate(session))
    newest = migrations(store.dialect)[-1].version
    add = statements(store.dialect)["add_migration"]
    session.run(add, (newest + 1, "next"))
    drive(check(session))
    session.run(add, (newest + 2, "after next"))
    with pytest.raises(
        MissingTables, match=f"version {newest + 2}; expected .*{newest + 1}"
    ) as newer:
        await run(service_on(bare))
    assert "newer oncebox" in str(newer.value.hint)
    session.close()


SERVICE = ("READ", "WRITE", "DESCRIBE", "DESCRIBE_CONFIGS")
"""What a service needs of a topic."""


def grant(broker: OwnKafka, topic: str, user: str, rights: Sequence[str] = SERVICE) -> None:
    acls = [
        admin.AclBinding(
            admin.ResourceType.TOPIC, topic, admin.ResourcePatternType.LITERAL, f"User:{user}",
            "*", getattr(admin.AclOperation, right), admin.AclPermissionType.ALLOW,
        )
        for right in rights
    ]  # fmt: skip
    for answer in broker.admin.create_acls(acls).values():
        answer.result(ANSWER_TIMEOUT_S)
    with closing(open_log(broker.url_of(user, PASSWORD))) as log:
        until(lambda: may_describe(log, topic), "the broker heeds what was granted")


def may_describe(log: Log, topic: str) -> bool:
    try:
        return log.describe(topic) is not None
    except MissingRight:
        return False


class GivesUp:
    """A producer whose next look for news says that it can send nothing any more."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def poll(self, _: float) -> int:
        raise KafkaException(KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED, "no idempotence"))


def test_a_kafka_client_that_gives_up_refuses_what_it_was_not_handed(
    kafka_url: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so at any moment; the relay goes on with all that was not refused."""
    log = KafkaLog(kafka_url)
    log.create(topic, 1)
    make = log._new_producer
    monkeypatch.setattr(log, "_new_producer", lambda: GivesUp(make()))
    records = [Outgoing(topic, f"k{n}".encode(), b"{}", [], 0) for n in range(3)]
    refused = {one.at: one for one in log.publish(records, 10.0)}
    assert {1, 2} <= set(refused)
    assert all(refused[at].permanent and "does not let" in refused[at].reason for at in (1, 2))
    monkeypatch.undo()
    assert log.publish(records, 10.0) == []
    log.close()
