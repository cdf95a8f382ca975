"""The README is executed: its files are written, its commands run, its test passes."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
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
    """The README's Python files, and the business tables that they assume."""
    for text in blocks("python"):
        name = re.match(r"# (\w+\.py)\n", text)
        assert name is not None, "each Python block begins with the name of its file"
        (tmp_path / name[1]).write_text(text)
    for database, table in (
        ("shop.db", "orders (order_id, cents)"),
        ("billing.db", "owed (order_id, cents)"),
    ):
        connection = sqlite3.connect(tmp_path / database)
        connection.execute(f"CREATE TABLE {table}")
        connection.close()
    (tmp_path / "conftest.py").write_text(
        "import sqlite3, pytest\n"
        "@pytest.fixture\n"
        "def tx():\n"
        "    connection = sqlite3.connect('billing.db')\n"
        "    yield connection\n"
        "    connection.close()\n"
    )
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(folder), "PATH": path, "NO_COLOR": "1"}


def run(folder: Path, command: str) -> str:
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment(folder), capture_output=True,
        text=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def owed(folder: Path) -> list[tuple[str, int]]:
    connection = sqlite3.connect(folder / "billing.db")
    rows = connection.execute("SELECT order_id, cents FROM owed ORDER BY rowid").fetchall()
    connection.close()
    return rows


def test_it_begins_with_the_two_commands() -> None:
    first = blocks("sh")[0].split()
    assert first[:2] == ["make", "demo"]
    assert first[first.index("test") - 1 : first.index("test") + 1] == ["make", "test"]


def test_its_code_and_commands_work(folder: Path) -> None:
    migrate, serve, *operate = commands()
    assert migrate.startswith("oncebox db migrate")
    assert serve.startswith("oncebox run")
    run(folder, migrate)
    run(
        folder,
        """python -c "
import sqlite3, shop
tx = sqlite3.connect('shop.db')
shop.place(tx, 'o-1', 1250); shop.place(tx, 'o-2', 300)
tx.commit(); tx.close()
" """,
    )
    with (folder / "run.txt").open("w") as output:
        server = subprocess.Popen(
            ["bash", "-c", f"exec {serve}"], cwd=folder, env=environment(folder), stdout=output,
            stderr=output,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + WAIT_S
        while len(owed(folder)) < 2:
            assert time.monotonic() < deadline, (folder / "run.txt").read_text()
            assert server.poll() is None, (folder / "run.txt").read_text()
            time.sleep(0.05)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(WAIT_S) == 0
    assert owed(folder) == [("o-1", 1250), ("o-2", 300)]

    for command in operate:
        if "redrive" in command:
            continue  # nothing waits; test_operate has it
        run(folder, f"{command} --store sqlite:///billing.db --log sqlite:///events.db")
    run(
        folder,
        """python -c "
import sqlite3, webhook
tx = sqlite3.connect('billing.db')
webhook.on_webhook(tx, 'h-1'); webhook.on_webhook(tx, 'h-1')
tx.commit(); tx.close()
" """,
    )
    assert owed(folder)[2:] == [("h-1", 100)]


def test_its_test_passes(folder: Path) -> None:
    run(folder, commands()[0])
    done = run(folder, "python -m pytest -q -p no:cacheprovider test_billing.py")
    assert "1 passed" in done
