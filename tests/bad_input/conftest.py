"""The two places where bad input is tried: SQLite files, and PostgreSQL with Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bad_input.site import Place, Site
from engines.kafka import Kafka

RECORD_BYTES_MAX = "12000000"


@pytest.fixture
def on_files(tmp_path: Path) -> Place:
    return Place(
        f"sqlite:///{tmp_path}/shop.db",
        f"sqlite:///{tmp_path}/billing.db",
        f"sqlite:///{tmp_path}/log.db",
        "orders",
    )


@pytest.fixture
def on_servers(postgres_url: str, kafka_url: str, topic: str) -> Place:
    return Place(postgres_url, postgres_url, kafka_url, f"{topic}-orders")


@pytest.fixture(params=["sqlite, embedded", "postgres, kafka"])
def place(request: pytest.FixtureRequest) -> Place:
    """Each of the two, with a topic that takes large records."""
    name = "on_files" if request.param == "sqlite, embedded" else "on_servers"
    made: Place = request.getfixturevalue(name)
    if made.on_kafka:
        kafka: Kafka = request.getfixturevalue("kafka_server")
        kafka.create_topic(made.topic, 2, {"max.message.bytes": RECORD_BYTES_MAX})
    return made


@pytest.fixture
def site(place: Place) -> Iterator[Site]:
    made = Site(place)
    yield made
    made.close()
