"""The README is executed: its files are written, its commands run, its test passes."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WAIT_S = 60.0
NOT_HERE = ("make ", "pip install", "oncebox demo")
"""Commands that other tests and `.ci/run` run: they set up a machine, or take a minute."""


def blocks(kind: str) -> list[str]:
    return [text for name, text in BLOCK.findall(README.read_text()) if name == kind]


def commands() -> list[str]:
    lines = [line.partition("#")[0].strip() for text in blocks("sh") for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith(NOT_HERE)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The README's files, and the business tables that they assume."""
    for text in blocks("python") + blocks("toml"):
        name = re.match(r"# (\w+\.\w+)\n", text)
        assert name is not None, "each file's block begins with its name"
        (tmp_path / name[1]).write_text(text)
    sql(tmp_path, "shop.db", "CREATE TABLE orders (order_id, cents)")
    sql(tmp_path, "billing.db", "CREATE TABLE owed (order_id, cents)")
    (tmp_path / "conftest.py").write_text(
        "import sqlite3, pytest\n"
        "@pytest.fixture\n"
        "def tx():\n"
        "    connection = sqlite3.connect('billing.db')\n"
        "    yield connection\n"
        "    connection.close()\n"
    )
    return tmp_path


def sql(folder: Path, database: str, text: str) -> list[tuple[str, int]]:
    connection = sqlite3.connect(folder / database, timeout=WAIT_S)
    rows = connection.execute(text).fetchall()
    connection.commit()
    connection.close()
    return rows


def environment(folder: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    # No try comes by itself: it would race with the command that asks for one.
    bounds = {"ONCEBOX_SETTINGS_BACKOFF_S": "3600", "ONCEBOX_SETTINGS_BACKOFF_MAX_S": "3600"}
    return {**os.environ, "PYTHONPATH": str(folder), "PATH": path, "NO_COLOR": "1", **bounds}


def run(folder: Path, command: str) -> str:
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment(folder), capture_output=True,
        text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def python(folder: Path, database: str, *statements: str) -> None:
    """Run statements with a transaction `tx` of a database, as somebody at a prompt would."""
    lines = ["import sqlite3, shop, webhook", f"tx = sqlite3.connect({database!r})"]
    code = "\n".join([*lines, *statements, "tx.commit()", "tx.close()"])
    run(folder, f'python -c "{code}"')


def owed(folder: Path) -> list[tuple[str, int]]:
    return sql(folder, "billing.db", "SELECT order_id, cents FROM owed ORDER BY rowid")


@contextmanager
def serving(folder: Path, command: str) -> Iterator[Callable[[Callable[[], bool]], None]]:
    """A command that goes on until it is told to stop; gives what waits for something meanwhile."""
    words = folder / "run.txt"
    with words.open("w") as output:
        server = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=folder, env=environment(folder), stdout=output,
            stderr=output,
        )  # fmt: skip

    def until(done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < deadline, words.read_text()
            assert server.poll() is None, words.read_text()
            time.sleep(0.05)

    try:
        yield until
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(WAIT_S) == 0


def test_it_begins_with_the_two_commands() -> None:
    first = blocks("sh")[0].split()
    assert first[:2] == ["make", "demo"]
    assert first[first.index("test") - 1 : first.index("test") + 1] == ["make", "test"]


def test_its_code_and_commands_work(folder: Path) -> None:
    """Orders are owed; one that fails waits with its reason, and goes on when it is told to."""
    migrate, serve, lock, check, status, parked, redrive, audit, doctor = commands()
    run(folder, migrate)
    broken = "CREATE TRIGGER broken BEFORE INSERT ON owed WHEN new.order_id = 'o-1' BEGIN"
    sql(folder, "billing.db", f"{broken} SELECT raise(ABORT, 'no such customer'); END")
    python(folder, "shop.db", "shop.place(tx, 'o-1', 1250)", "shop.place(tx, 'o-2', 300)")
    with serving(folder, serve) as until:
        until(lambda: owed(folder) == [("o-2", 300)])
        until(lambda: "no such customer" in run(folder, parked))
        assert "o-1" in run(folder, parked)
        assert "billing" in run(folder, status)
        sql(folder, "billing.db", "DROP TRIGGER broken")
        run(folder, redrive)
        until(lambda: owed(folder) == [("o-2", 300), ("o-1", 1250)])
        assert run(folder, audit).startswith("clean: 2 rows, 2 records, 2 keys")
    assert run(folder, doctor).startswith(("fine", "doubtful"))
    run(folder, lock)
    assert "nobody breaks" in run(folder, check)
    run(folder, "python -c 'import versions'")
    python(folder, "billing.db", *["webhook.on_webhook(tx, 'h-1')"] * 2)
    assert owed(folder)[2:] == [("h-1", 100)]


def test_its_test_passes(folder: Path) -> None:
    run(folder, commands()[0])
    done = run(folder, "python -m pytest -q -p no:cacheprovider test_billing.py")
    assert "1 passed" in done


def test_what_it_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README.read_text())
    assert links
    for link in links:
        assert (README.parent / link).exists(), link
