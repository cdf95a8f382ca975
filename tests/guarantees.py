"""`pytest --guarantees docs/guarantees.md`: promise by engine, from the tests that passed.

A cell is written only when all tests behind it ran and passed in that very run; one that failed
leaves a dash, and the file is not written when a promise has no test at all.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

ENGINES = {
    "SQLite": r"\[.*sqlite(?!.*postgres)",
    "PostgreSQL": r"\[.*(postgres|psycopg|asyncpg|pg)",
    "embedded log": r"embedded",
    "Kafka": r"kafka",
}

PROMISES = {
    "effect once, whatever is redelivered": r"test_consumer.*(once|second_full|duplicate|zombie)",
    "in order per key; a hole holds its key alone": r"test_consumer.*(order|gap|parks_its_key)",
    "order across keys by `after=`": r"test_(consumer.*|outbox.*)after_",
    "a restored producer shows as a fork": r"test_consumer.*fork",
    "a handler cannot break its batch": r"test_consumer.*(breaks|ends_the_|commit_parks)",
    "effects outside, by `once`": r"test_consumer.*test_once",
    "the event that kills is found": r"test_consumer.*kills",
    "an outage spends no attempts": r"test_consumer.*outage",
    "event if and only if commit": r"test_(emit|outbox|relay).*(roll|commit|savepoint)",
    "claim: effect once for anything with an id": r"test_claim",
    "the log keeps order and what it acknowledged": r"test_log_contract",
    "end to end through SIGKILL": r"test_end_to_end",
}

Outcomes = dict[str, dict[str, list[bool]]]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--guarantees", metavar="FILE", help="write promise by engine to FILE")


class Guarantees:
    """Collects outcomes as the tests end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.outcomes: Outcomes = defaultdict(lambda: defaultdict(list))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        for promise, pattern in PROMISES.items():
            if re.search(pattern, report.nodeid):
                for engine, mark in ENGINES.items():
                    if re.search(mark, report.nodeid):
                        self.outcomes[promise][engine].append(report.passed)

    def pytest_sessionfinish(self) -> None:
        missing = [promise for promise in PROMISES if promise not in self.outcomes]
        if missing:
            raise pytest.UsageError(f"no test ran for: {', '.join(missing)}")
        self.path.write_text(page(self.outcomes))


def page(outcomes: Outcomes) -> str:
    """The document."""
    lines = [
        "# Guarantees",
        "",
        "What each engine was seen to keep: the number of tests that passed, all of them, in the",
        "run that wrote this page; a dash where none speaks of that engine. Made by",
        "`.venv/bin/python -m pytest --guarantees docs/guarantees.md`.",
        "",
        "| Promise | " + " | ".join(ENGINES) + " |",
        "|---|" + "---|" * len(ENGINES),
    ]
    for promise in PROMISES:
        cells = [cell(outcomes[promise].get(engine, [])) for engine in ENGINES]
        lines.append(f"| {promise} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "What is not promised: that a handler's code runs only once; that an effect outside the",
        "database happens once where the other system does not look at the idempotency key; when",
        "an event is published; anything about a database that loses commits silently (SQLite with",
        "`synchronous=OFF`, PostgreSQL with `fsync=off`).",
    ]
    return "\n".join(lines) + "\n"


def cell(passed: list[bool]) -> str:
    return str(len(passed)) if passed and all(passed) else "-"


def pytest_configure(config: pytest.Config) -> None:
    path: Any = config.getoption("--guarantees")
    if path:
        config.pluginmanager.register(Guarantees(Path(path)))
