"""The short form of `make torture`, and what its crash points rest on."""

from __future__ import annotations

import ast
import os
import re
from functools import cache
from pathlib import Path

import pytest

from conftest import SEED_VARIABLE, hint_if_missing
from torture.campaign import Campaign
from torture.faults import KINDS
from torture.place import place
from torture.points import POINTS, Point

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "oncebox"
FAULTS = 60
GUARD_S = 600.0
"""A guard against hangs: on two free cores it takes two to three minutes."""


@cache
def programs() -> set[str]:
    """The qualified name of every function and method."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                found.add(node.name)
            elif isinstance(node, ast.ClassDef):
                inner = (part for part in node.body if isinstance(part, ast.FunctionDef))
                found |= {f"{node.name}.{function.name}" for function in inner}
    return found


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_a_crash_point_names_what_there_is(point: Point) -> None:
    for name in re.findall(r"[\w.]+", f"{point.program} {point.above}"):
        assert name in programs(), (
            f"{point.name}: {name} has another name now; see torture/points.py"
        )


@pytest.mark.timeout(GUARD_S)
def test_everything_is_right_after_sixty_faults(tmp_path: Path) -> None:
    with hint_if_missing(), place() as made:
        campaign = Campaign(made, tmp_path, int(os.environ[SEED_VARIABLE]), FAULTS, print)
        campaign.recovery_every = 0
        state = campaign.run()
    assert len(state.fired) == FAULTS
    assert {wish.kind for wish in state.fired} == KINDS.keys()
