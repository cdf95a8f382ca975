"""The engines that the suite runs on: they start, answer, restart with their data, and end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from engines import lookup
from engines.kafka import VARIABLE, Kafka, OwnKafka, kafka
from engines.postgres import OwnPostgres, Postgres, postgres

GONE_WITHIN_S = 20.0
ANSWER_TIMEOUT_S = 20.0


def test_each_test_has_an_empty_database(postgres_server: Postgres, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        tables = connection.execute(
            "select count(*) from information_schema.tables where table_schema = 'public'"
        ).fetchone()
    assert tables == (0,)
    assert postgres_url != postgres_server.url


def test_a_database_is_dropped_with_its_connections_and_slots(postgres_server: Postgres) -> None:
    with postgres_server.database() as url:
        left_open = psycopg.connect(url, autocommit=True)
        left_open.execute("select pg_create_logical_replication_slot('s', 'pgoutput')")
    with pytest.raises(psycopg.OperationalError):
        left_open.execute("select 1")
    left_open.close()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(url)


def test_a_database_can_copy_another(postgres_server: Postgres) -> None:
    with postgres_server.database() as url:
        with psycopg.connect(url) as connection:
            connection.execute("create table kept (n int)")
        name = url.rpartition("/")[2]
        with postgres_server.database(template=name) as copy, psycopg.connect(copy) as connection:
            assert connection.execute("select count(*) from kept").fetchone() == (0,)


def test_a_wrong_password_is_refused(postgres_url: str) -> None:
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres_url, password="wrong")


@pytest.mark.parametrize("immediate", [False, True])
def test_postgres_keeps_its_data_over_a_restart(immediate: bool) -> None:
    with postgres() as server:
        with psycopg.connect(server.url) as connection:
            connection.execute("create table kept (n int)")
            connection.execute("insert into kept values (1)")
        before = server.pid
        server.restart(immediate=immediate)
        assert server.pid != before
        with psycopg.connect(server.url) as connection:
            assert connection.execute("select n from kept").fetchone() == (1,)
        recovered = "was not properly shut down" in server.log.read_text()
        assert recovered == immediate


@pytest.mark.parametrize("version", lookup.POSTGRES_VERSIONS)
def test_every_postgres_version_answers(version: int) -> None:
    with postgres(version) as server, psycopg.connect(server.url) as connection:
        answer = connection.execute("select version()").fetchone()
        assert answer is not None
        assert str(answer[0]).startswith(f"PostgreSQL {version}.")
        durability = connection.execute(
            "select name, setting from pg_settings"
            " where name in ('fsync', 'synchronous_commit', 'full_page_writes', 'wal_level')"
        ).fetchall()
        assert dict(durability) == {
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "wal_level": "logical",
        }


def test_kafka_answers(kafka_server: Kafka, topic: str) -> None:
    kafka_server.create_topic(topic, partitions=1)
    assert topic in kafka_server.topics()
    produce(kafka_server, topic, b"one")
    assert read(kafka_server, topic, 1) == [b"one"]


@pytest.mark.parametrize("immediate", [False, True])
def test_kafka_keeps_its_data_over_a_restart(immediate: bool) -> None:
    with kafka() as broker:
        broker.create_topic("kept", partitions=1)
        produce(broker, "kept", b"before")
        before = broker.pid
        broker.restart(immediate=immediate)
        assert broker.pid != before
        produce(broker, "kept", b"after")
        assert read(broker, "kept", 2) == [b"before", b"after"]


@pytest.mark.parametrize("engine", [OwnPostgres, OwnKafka])
def test_a_server_dies_with_a_killed_test_run(engine: type) -> None:
    program = f"""if True:
        import signal
        from {engine.__module__} import {engine.__name__}
        server = {engine.__name__}()
        print(server.pid, server.log.parent, flush=True)
        signal.pause()
    """
    here = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=here, stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        pid, folder = run.stdout.readline().split()
        assert alive(int(pid))
        run.send_signal(signal.SIGKILL)
    until_gone(int(pid), Path(folder))


@pytest.mark.parametrize(
    ("find", "what"),
    [
        (lambda empty: lookup.postgres_programs(16, empty), "PostgreSQL 16"),
        (lookup.kafka_jars, "Kafka"),
    ],
)
def test_a_missing_engine_says_what_to_run(
    find: Callable[[Path], Path], what: str, tmp_path: Path
) -> None:
    with pytest.raises(lookup.EngineMissing) as caught:
        find(tmp_path)
    assert str(caught.value).startswith(f"{what} not found in {tmp_path}")
    assert str(caught.value).endswith("; run: make engines")


def test_a_missing_engine_fails_the_test_that_asks_for_it(tmp_path: Path) -> None:
    environment = os.environ | {lookup.VARIABLE: str(tmp_path)}
    environment.pop(VARIABLE, None)
    asking = f"{__file__}::{test_kafka_answers.__name__}"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--no-header", asking],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == pytest.ExitCode.TESTS_FAILED
    assert f"Kafka not found in {tmp_path / 'kafka'}; run: make engines" in run.stdout
    assert "1 error" in run.stdout
    assert "skipped" not in run.stdout


def produce(broker: Kafka, topic: str, value: bytes) -> None:
    refused = []
    producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all"})
    producer.produce(topic, value, partition=0, on_delivery=lambda error, _: refused.append(error))
    assert producer.flush(ANSWER_TIMEOUT_S) == 0
    assert refused == [None]


def read(broker: Kafka, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer(
        {"bootstrap.servers": broker.bootstrap, "group.id": "reader", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    try:
        records = consumer.consume(count, ANSWER_TIMEOUT_S)
    finally:
        consumer.close()
    return [record.value() for record in records]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def until_gone(pid: int, folder: Path) -> None:
    end = time.monotonic() + GONE_WITHIN_S
    while alive(pid) or folder.exists():
        assert time.monotonic() < end, f"process {pid} or {folder} outlived the test run"
        time.sleep(0.02)
