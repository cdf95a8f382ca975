"""The page of guarantees speaks of tests that there are, and says what was seen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from guarantees import OTHERS, PROMISES, Promise, Seen, engines_of, name_of, page, promises

TESTS = Path(__file__).parent


def names() -> list[str]:
    """`file::test` of every test in the sources, those of parameters once."""
    return [
        f"{path.relative_to(TESTS).with_suffix('')}::{name}"
        for path in TESTS.rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    ]


@pytest.mark.parametrize("promise", promises(), ids=lambda promise: promise.words[:50])
def test_every_promise_has_tests(promise: Promise) -> None:
    assert any(re.search(promise.tests, name) for name in names())


def test_every_property_of_the_outbox_is_a_promise() -> None:
    properties = [name for name in names() if "test_property_" in name]
    for promise in PROMISES["The outbox"]:
        properties = [name for name in properties if not re.search(promise.tests, name)]
    assert len(PROMISES["The outbox"]) == 10
    assert properties == []


def test_engines_are_those_that_a_test_names() -> None:
    assert engines_of("tests/test_end_to_end.py::test_x[sqlite kafka]", ()) == ("SQLite", "Kafka")
    assert engines_of("tests/test_x.py::test_x[psycopg pool]", ()) == ("PostgreSQL",)
    assert engines_of("tests/test_x.py::test_x", ("request", "postgres_url")) == ("PostgreSQL",)
    assert engines_of("tests/model/test_x.py::test_x[1]", ("tmp_path",)) == (OTHERS,)


def test_the_page_says_what_was_seen() -> None:
    name = name_of("tests/test_claim.py::test_rivals[x]")
    assert name == "test_claim::test_rivals"
    text = page([
        Seen(name, ("SQLite",), passed=True),
        Seen(name, ("PostgreSQL",), passed=True),
        Seen(name, ("PostgreSQL",), passed=False),
    ])  # fmt: skip
    assert (
        "| A claim is given once, and only in its caller's transaction | 1 | 1 of 2 | - |" in text
    )
    assert all(f"## {title}" in text for title in PROMISES)
