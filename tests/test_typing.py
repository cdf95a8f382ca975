"""The types are a feature: a forgotten `await` is reported by mypy and by pyright."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "tests" / "typing" / "examples.py"

MISTAKES = """
import sqlite3
from typing import Any

import aiosqlite
import asyncpg
import psycopg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session, sessionmaker

from oncebox import Service
from oncebox.emit import Emitted, Emitter
from oncebox.inbox import claim


class Shop(Emitter):
    name, instance, schema = "shop", None, "oncebox"


shop = Shop()


async def forgets(
    one: aiosqlite.Connection,
    two: psycopg.AsyncConnection[Any],
    three: AsyncSession,
    four: AsyncConnection,
    five: "asyncpg.Connection[asyncpg.Record]",
    six: "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]",
    plain: sqlite3.Connection,
) -> None:
    shop.emit(one, "event")  # both
    shop.emit(two, "event")  # both
    shop.emit(three, "event")  # both
    shop.emit(four, "event")  # both
    shop.emit(five, "event")  # both
    shop.emit(six, "event")  # both
    shop.emit_many(three, ["event"])  # both
    placed: Emitted = shop.emit(three, "event")  # both
    await shop.emit(plain, "event")  # both
    shop.emit("no connection", "event")  # both
    await shop.emit(three, "event", after=shop.emit(three, "first"))  # both
    done: bool = claim(three, "billing", source="stripe", id="1")  # both
    if claim(three, "billing", source="stripe", id="1"):  # pyright
        print("an effect")  # mypy


class Paid:
    pass


billing = Service("billing", store=sessionmaker[Session]())


@billing.on(Paid)  # both
def of_another_kind(tx: AsyncSession, paid: Paid) -> None: ...


@billing.on(Paid)  # both
def of_another_event(tx: Session, paid: str) -> None: ...


@billing.on(Paid)  # both
def of_too_few(tx: Session) -> None: ...


@billing.on_batch(Paid)  # both
def of_one_event(tx: Session, paid: Paid) -> None: ...


@billing.on(Paid)  # both
def of_a_list(tx: Session, events: list[Paid]) -> None: ...


@billing.on_batch(Paid)  # both
def of_other_events(tx: Session, events: list[str]) -> None: ...
"""


def marked(*checkers: str) -> set[int]:
    lines, ends = MISTAKES.splitlines(), tuple(f"# {checker}" for checker in checkers)
    return {number for number, line in enumerate(lines, 1) if line.endswith(ends)}


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("typing").resolve() / "mistakes.py"
    path.write_text(MISTAKES)
    return path


def run(*command: str) -> str:
    """Run a checker of this environment in the project's folder; what it says."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def test_mypy_reports_each_mistake_and_nothing_else(mistakes: Path) -> None:
    said = run("mypy", "--strict", "--warn-unreachable", str(EXAMPLES), str(mistakes))
    found = {int(n) for n in re.findall(r"mistakes\.py:(\d+): error", said)}
    assert found == marked("both", "mypy"), said
    assert "examples.py" not in said


def test_pyright_reports_each_mistake_and_nothing_else(mistakes: Path) -> None:
    said = run("pyright", "--outputjson", str(EXAMPLES), str(mistakes))
    errors = [d for d in json.loads(said)["generalDiagnostics"] if d["severity"] == "error"]
    found = {d["range"]["start"]["line"] + 1 for d in errors if d["file"] == str(mistakes)}
    assert found == marked("both", "pyright"), said
    assert not [d for d in errors if d["file"] == str(EXAMPLES)], said
