"""Commands that set up: tables, topics, a first service, versions, the application's state."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from oncebox.cli.run import _state
from oncebox.errors import ConfigurationError, UnknownId
from oncebox.inbox import claim
from oncebox.stores.adapt import open_store
from operating import Run


def test_versions(oncebox: Run) -> None:
    found = oncebox("version", "--json").rows()[0]
    assert found["sqlite"] == sqlite3.sqlite_version
    assert {"oncebox", "python", "msgspec", "psycopg"} <= found.keys()
    assert "oncebox " in oncebox("version").out


# ---- tables and topics


def test_tables_are_made_and_looked_at(oncebox: Run, postgres_url: str) -> None:
    for url in ("sqlite:///new.db", postgres_url):
        assert oncebox("db", "status", "--store", url, "--json").rows()[0]["made_ms"] is None
        done = oncebox("db", "migrate", "--store", url, "--json")
        assert done.code == 0
        assert done.rows()[0]["applied"][0] == 1
        assert oncebox("db", "migrate", "--store", url, "--json").rows()[0]["applied"] == []
        assert oncebox("db", "check", "--store", url).code == 0
        assert oncebox("db", "status", "--store", url, "--json").rows()[-1]["made_ms"] > 0
        assert "up to date" in oncebox("db", "migrate", "--store", url).out


def claims(session: Any, id: str, days: int, source: str = "stripe") -> bool:
    """Whether the id, so many days old, is claimed by this."""
    session.begin()
    try:
        time = datetime.now(UTC) - timedelta(days)
        made = claim(session.handle, "web", source=source, id=id, time=time)
        session.commit()
    except BaseException:
        session.rollback()
        raise
    return bool(made)


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_claims_are_pruned_where_no_consumer_runs(
    oncebox: Run, request: pytest.FixtureRequest, dialect: str
) -> None:
    url, table = "sqlite:///claims.db", "oncebox_inbox"
    if dialect == "postgres":
        url, table = request.getfixturevalue("postgres_url"), "oncebox.inbox"
    assert oncebox("db", "migrate", "--store", url).code == 0
    session: Any = open_store(url).open()
    for id, days, source in (("old", 9, "stripe"), ("old", 9, "paypal"), ("new", 1, "stripe")):
        assert claims(session, id, days, source)
    nine_days = 9 * 86_400_000_000 * 1024
    session.run(f"UPDATE {table} SET stamp = stamp - {nine_days} WHERE id = 'old'")
    prune = ("db", "prune", "web", "--before", "7d", "--store", url, "--json")
    assert oncebox(*prune, "--source", "stripe").rows()[0]["forgotten"] == 1
    with pytest.raises(UnknownId, match="older than the claims kept"):
        claims(session, "old", 9)
    assert not claims(session, "new", 1)
    assert not claims(session, "old", 9, "paypal")
    assert oncebox(*prune).rows()[0]["forgotten"] == 1
    with pytest.raises(UnknownId):
        claims(session, "old", 9, "paypal")
    assert "0 claims forgotten" in oncebox(*prune[:-1]).out
    assert oncebox("db", "prune", "web", "--store", url).code == 2
    session.close()


def test_the_sql_can_be_printed_and_run_by_hand(oncebox: Run, tmp_path: Path) -> None:
    text = oncebox("db", "sql", "--dialect", "sqlite").out
    connection = sqlite3.connect(tmp_path / "by-hand.db", isolation_level=None)
    connection.executescript(text)
    connection.close()
    assert oncebox("db", "check", "--store", "sqlite:///by-hand.db").code == 0
    assert "create schema" in oncebox("db", "sql", "--dialect", "postgres").out.lower()
    assert "create table mine.event" in oncebox(
        "db", "sql", "--dialect", "postgres", "--schema", "mine").out  # fmt: skip


def test_topics_are_made_and_checked(oncebox: Run) -> None:
    log = ("--log", "sqlite:///events.db")
    missing = oncebox("topics", "check", "orders", *log, "--json")
    assert missing.code == 3
    assert missing.rows()[0]["exists"] is False
    made = oncebox("topics", "create", "orders", "stock", "--partitions", "3", *log, "--json")
    assert [row["created"] for row in made.rows()] == [True, True]
    again = oncebox("topics", "create", "orders", *log, "--json")
    assert again.rows()[0]["created"] is False
    assert oncebox("topics", "check", "orders", "stock", *log).out == "orders: fine\nstock: fine\n"


def test_topics_of_kafka(oncebox: Run, kafka_url: str, topic: str) -> None:
    name = f"{topic}-orders"
    assert oncebox("topics", "check", name, "--log", kafka_url).code == 3
    assert oncebox("topics", "create", name, "--log", kafka_url).code == 0
    done = oncebox("topics", "check", name, "--log", kafka_url, "--json")
    assert done.rows()[0]["exists"] is True


def test_topics_of_services(oncebox: Run, tmp_path: Path) -> None:
    assert oncebox("init").code == 0
    made = oncebox("topics", "check", "--json", "--app", "services")
    assert made.code == 3


def test_init_never_overwrites(oncebox: Run, tmp_path: Path) -> None:
    assert oncebox("init", "shop").code == 0
    before = (tmp_path / "shop" / "services.py").read_text()
    (tmp_path / "shop" / "oncebox.toml").unlink()
    assert oncebox("init", "shop").code == 2
    assert (tmp_path / "shop" / "services.py").read_text() == before
    assert not (tmp_path / "shop" / "oncebox.toml").exists()


async def test_the_applications_state_is_had_and_left(tmp_path: Path, oncebox: Run) -> None:
    (tmp_path / "myapp.py").write_text(
        "from contextlib import asynccontextmanager, contextmanager\n"
        "value, log = {'plain': 1}, []\n"
        "def made():\n    return {'made': 1}\n"
        "async def awaited():\n    return {'awaited': 1}\n"
        "@contextmanager\ndef entered():\n    yield {'entered': 1}\n    log.append('left')\n"
        "@asynccontextmanager\nasync def both():\n    yield {'both': 1}\n    log.append('left')\n"
    )
    for name in ("value", "made", "awaited", "entered", "both"):
        async with AsyncExitStack() as stack:
            found = await _state(stack, f"myapp:{name}")
            assert found == {name.replace("value", "plain"): 1}
    assert sys.modules["myapp"].log == ["left", "left"]
    assert await _state(AsyncExitStack(), None) is None
    with pytest.raises(ConfigurationError, match="MODULE:NAME"):
        await _state(AsyncExitStack(), "myapp")
