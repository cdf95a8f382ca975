"""Fixtures of the whole suite: real engines, started when the first test asks for one."""

import contextlib
import os
import platform
import random
import secrets
import sqlite3
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import pytest

from engines.kafka import Kafka, shared_kafka
from engines.lookup import EngineMissing
from engines.postgres import Postgres, shared_postgres

# `producing` first: others import it, and assertions of a plugin are rewritten when it is named.
pytest_plugins = ["producing", "audited", "guarantees", "operating", "sampling"]

SEED_VARIABLE = "ONCEBOX_TEST_SEED"
REPORTED_PACKAGES = ("oncebox", "msgspec", "psycopg", "asyncpg", "confluent-kafka", "hypothesis")


SEED = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Choose the run's seed: the environment's, so that a run can be had again, or a new one."""
    given = os.environ.setdefault(SEED_VARIABLE, str(secrets.randbits(32)))  # for workers, too
    config.stash[SEED] = int(given)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what a reader needs to have the same run again."""
    return [
        f"python {platform.python_version()}, sqlite {sqlite3.sqlite_version}, "
        + ", ".join(f"{name} {_installed(name)}" for name in REPORTED_PACKAGES),
        f"seed {config.stash[SEED]} (again: {SEED_VARIABLE}={config.stash[SEED]})",
    ]


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """A generator of the run's seed and the test's name: the same alone as in the whole suite."""
    return random.Random(f"{request.config.stash[SEED]} {request.node.nodeid}")


@contextlib.contextmanager
def hint_if_missing() -> Iterator[None]:
    """Turn a missing engine into a failure that says what to do, without a traceback."""
    try:
        yield
    except EngineMissing as missing:
        pytest.fail(str(missing), pytrace=False)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """The session's PostgreSQL server."""
    with hint_if_missing(), shared_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> Iterator[str]:
    """The URL of an empty database for this test alone."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def kafka_server() -> Iterator[Kafka]:
    """The session's Kafka broker."""
    with hint_if_missing(), shared_kafka() as broker:
        yield broker


@pytest.fixture
def kafka_url(kafka_server: Kafka) -> str:
    """The broker's URL, `kafka://host:port`."""
    return kafka_server.url


@pytest.fixture
def topic(kafka_server: Kafka) -> Iterator[str]:
    """A prefix for topic names that is this test's own; such topics are deleted after it."""
    prefix = f"test-{secrets.token_hex(4)}"
    yield prefix
    kafka_server.delete_topics(prefix)
