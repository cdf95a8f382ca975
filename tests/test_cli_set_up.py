"""Commands that set up: tables, topics, a first service, versions, the application's state."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from oncebox.cli.run import _state
from oncebox.errors import ConfigurationError
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
