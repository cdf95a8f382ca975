"""The registry server, by the clients that Python programs use."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from engines.postgres import Postgres
from registry_server import Server, serving

ORDER = '{"type":"record","name":"Order","fields":[{"name":"id","type":"string"}]}'


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    if request.param == "sqlite":
        with serving(f"sqlite:///{tmp_path_factory.mktemp('registry')}/r.db") as running:
            yield running
        return
    engine: Postgres = request.getfixturevalue("postgres_server")
    with engine.database() as url, serving(url) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with SchemaRegistryClient({"url": server.url}) as client:
        yield client


@pytest.fixture
def subject() -> str:
    return f"s-{secrets.token_hex(4)}"


def test_a_schema_is_registered_and_had_back_by_its_id(client: Any, subject: str) -> None:
    id = client.register_schema(subject, Schema(ORDER, "AVRO"))
    client.clear_caches()
    assert client.get_schema(id).schema_str == ORDER
    assert client.get_latest_version(subject).version == 1
