"""The list of bad input names its tests: see README.md beside this file."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
TEST = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)


def names(files: str) -> set[str]:
    """The tests in these files."""
    texts = (path.read_text() for path in HERE.glob(files))
    return {name for text in texts for name in TEST.findall(text)}


def test_every_bad_input_has_its_tests() -> None:
    table = [line for line in (HERE / "README.md").read_text().splitlines() if line[:2] == "| "]
    named = [set(re.findall(r"`(test_\w+)`", line)) for line in table[1:]]
    assert all(named), "a bad input without a test"
    here, anywhere = names("test_*.py"), names("../**/test_*.py")
    assert set().union(*named) <= anywhere, "a test that does not exist"
    assert here - {"test_every_bad_input_has_its_tests"} <= set().union(*named), "not listed"
