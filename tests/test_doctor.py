"""oncebox doctor on real engines: each misconfiguration is planted, and named with what to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from msgspec import json
from sqlalchemy import create_engine

from at_work import Place
from engines.kafka import Kafka
from oncebox import Service
from oncebox.cli import main
from oncebox.event import new_id
from oncebox.service.config import SOURCES, Sources
from oncebox.service.doctor import Finding, connections, examine

WEEK_MS = str(7 * 24 * 3600 * 1000)


@pytest.fixture(autouse=True)
def sources() -> Iterator[None]:
    token = SOURCES.set(Sources({}))
    yield
    SOURCES.reset(token)


@pytest.fixture
def place(postgres_url: str, tmp_path: Path) -> Place:
    made = Place(postgres_url, postgres_url, f"sqlite:///{tmp_path}/log.db", "orders")
    made.make()
    return made


def services(place: Place) -> list[Service]:
    shop, billing, _ = place.services(lambda tx, paid: None)
    return [shop, billing]


def found(place: Place, **options: Any) -> dict[str, Finding]:
    return {one.name: one for one in examine(services(place), **options)}


def test_what_is_fit_has_no_findings(place: Place) -> None:
    assert found(place) == {}


def test_more_connections_than_there_are(place: Place) -> None:
    """Two services: relay, look; consumer, relay, look. The server has 97."""
    assert connections(services(place)) == 5
    assert connections([services(place)[1]]) == 3
    one = found(place, instances=20)["connections"]
    assert one.weight == "wrong"
    assert "20 processes with 5 connections each need 100; max_connections" in one.what
    assert "PgBouncer" in one.hint
    assert found(place, instances=19)["connections"].weight == "doubtful"


def test_connection_limits_of_role_and_database(place: Place) -> None:
    role = f"role_{new_id().hex}"
    with psycopg.connect(place.shop, autocommit=True) as superuser:
        superuser.execute(
            f"CREATE ROLE {role} LOGIN SUPERUSER CONNECTION LIMIT 4 PASSWORD 'x'".encode()
        )
        try:
            url = f"postgresql://{role}:x@{place.shop.partition('@')[2]}"
            one = found(place._replace(shop=url, billing=url))["connections"]
            assert f"the limit of role {role} is 4" in one.what
        finally:
            superuser.execute(f"DROP ROLE {role}".encode())


def test_another_isolation(place: Place) -> None:
    with psycopg.connect(place.shop, autocommit=True) as superuser:
        name = superuser.info.dbname
        superuser.execute(
            f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'".encode()
        )
    one = found(place)["isolation"]
    assert "serializable" in one.what
    assert "read committed" in one.hint


def test_another_isolation_of_the_applications_engine(place: Place) -> None:
    url = place.shop.replace("postgresql:", "postgresql+psycopg:")
    engine = create_engine(url, isolation_level="REPEATABLE READ")
    shop = Service("shop", store=engine, log=place.log)
    assert "repeatable read" in {f.name: f for f in examine([shop])}["isolation"].what
    engine.dispose()


def test_tables_and_rights(place: Place) -> None:
    with psycopg.connect(place.shop, autocommit=True) as superuser:
        role = f"role_{new_id().hex}"
        superuser.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'".encode())
        try:
            url = f"postgresql://{role}:x@{place.shop.partition('@')[2]}"
            poor = place._replace(shop=url, billing=url)
            assert "permission denied for schema oncebox" in found(poor)["tables"].what
            superuser.execute(f"GRANT USAGE ON SCHEMA oncebox TO {role}".encode())
            superuser.execute(f"GRANT SELECT ON oncebox.migration TO {role}".encode())
            superuser.execute(f"GRANT SELECT ON oncebox.source TO {role}".encode())
            lacks = found(poor, parts=["consumer"])["rights"]
            assert f"role {role} lacks " in lacks.what
            assert "delete on table oncebox.effect" in lacks.what
            assert f"grant oncebox_consumer to {role}" in lacks.hint
        finally:
            superuser.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())
        superuser.execute("DROP SCHEMA oncebox CASCADE")
    assert "oncebox db migrate" in found(place)["tables"].hint


@pytest.mark.parametrize("apart_s", [-30.0, 30.0])
def test_clocks_that_differ(place: Place, apart_s: float) -> None:
    """This machine's, which a test may set."""
    one = found(place, clock=lambda: time.time() - apart_s)["clock"]
    way = "ahead of" if apart_s > 0 else "behind"
    assert f"{way} this machine's" in one.what
    assert 29 < float(one.what.split()[3]) < 31
    assert "NTP" in one.hint


def test_a_database_that_is_away(place: Place) -> None:
    away = place._replace(
        shop="postgresql://u:s3cret@127.0.0.1:1/x", billing="sqlite:///no/such.db"
    )
    names = [one.name for one in examine(services(away))]
    assert names == ["store", "store"]
    assert "s3cret" not in str(list(examine(services(away))))


def test_topics(place: Place, kafka_server: Kafka, topic: str) -> None:
    """Missing, compacted, short-lived, bounded by bytes, with one copy, and few partitions."""
    on_kafka = place._replace(log=kafka_server.url, stream=topic)
    assert "oncebox topics create" in found(on_kafka)["topic"].hint
    kafka_server.create_topic(
        topic,
        2,
        {"cleanup.policy": "compact", "retention.ms": "3600000", "retention.bytes": "1000"},
    )
    everything = list(examine(services(on_kafka), instances=3))
    names = {one.name for one in everything}
    assert names == {"compaction", "copies", "retention", "partitions"}
    assert all(topic in one.where and one.hint for one in everything)
    (compaction,) = (one for one in everything if one.name == "compaction")
    assert compaction.hint == "set cleanup.policy=delete"
    whats = " ".join(one.what for one in everything if one.name == "retention")
    assert "for 3600 s only" in whats
    assert "1000 bytes" in whats
    assert "the outbox events for 604800 s" in whats


def test_a_topic_that_keeps_less_than_the_outbox(
    place: Place, kafka_server: Kafka, topic: str
) -> None:
    on_kafka = place._replace(log=kafka_server.url, stream=topic)
    kafka_server.create_topic(topic, 4, {"retention.ms": str(2 * 24 * 3600 * 1000)})
    one = found(on_kafka)["retention"]
    assert one.weight == "doubtful"
    assert "oncebox republish" in one.hint


def test_the_brokers_clock(place: Place, kafka_server: Kafka, topic: str) -> None:
    on_kafka = place._replace(log=kafka_server.url, stream=topic)
    kafka_server.create_topic(topic, 4, {"retention.ms": WEEK_MS})
    before = kafka_server.topics()
    assert [one.what for one in found(on_kafka, probe=True).values() if one.name != "copies"] == []
    late = list(examine(services(on_kafka), probe=True, clock=lambda: time.time() + 60))
    late = [one for one in late if one.name != "copies"]
    assert [one.name for one in late] == ["clock", "clock"], late
    assert [one.where.split(":")[0] for one in late] == ["postgresql", "kafka"]
    assert "behind this machine's" in late[1].what
    assert not [
        t for t in kafka_server.topics() if t.startswith("oncebox-clock") and t not in before
    ]


def test_the_command(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "doctored.py").write_text(
        f"from oncebox import Service\nshop = Service('shop', store={place.shop!r}, log={place.log!r})\n"
    )
    app = ("--app", "doctored")
    assert main(("doctor", *app)) == 0
    assert capsys.readouterr().out == "fine\n"
    assert main(("doctor", "shop", "--instances", "90", "--json", *app)) == 3
    (row,) = [json.decode(line) for line in capsys.readouterr().out.splitlines()]
    assert (row["weight"], row["name"]) == ("wrong", "connections")
    assert main(("doctor", "--instances", "46", *app)) == 0
    assert capsys.readouterr().out.startswith("doubtful: postgresql://postgres:***@")
    (tmp_path / "oncebox.toml").write_text('[services.shpo]\nstore = "postgresql://x"\n')
    assert main(("doctor", *app)) == 0
    assert "[services.shpo] is of no service" in capsys.readouterr().out
    (tmp_path / "oncebox.toml").unlink()
    monkeypatch.setenv("ONCEBOX_SERVICES_SHOP_SCHEMA", "oncebox")
    monkeypatch.setenv("ONCEBOX_SERVICES_SHPO_STORE", "postgresql://x")
    assert main(("doctor", *app)) == 0
    out = capsys.readouterr().out
    assert "configuration: ONCEBOX_SERVICES_SHPO_STORE is of no service" in out
    assert "SERVICES_SHOP_" not in out
