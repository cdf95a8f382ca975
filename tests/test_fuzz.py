"""Hostile records through the real consumer: see `fuzz.py`, which runs a million outside the suite."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from fuzz import MUTATIONS, Tally, campaign, fuzz

SHORT, LONG = 3_000, 100_000


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_hostile_records_touch_nothing_else_and_none_is_lost(
    request: pytest.FixtureRequest, tmp_path: Path, rng: Random, store: str
) -> None:
    url = request.getfixturevalue("postgres_url") if store == "postgres" else None
    check_fired(campaign(tmp_path, str(rng.random()), SHORT, store, url))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_hostile_records(rng: Random) -> None:
    tally = fuzz(LONG, rng.randrange(2**32))
    check_fired(tally)
    assert tally.delivered >= LONG


def check_fired(tally: Tally) -> None:
    """A campaign in which a fault did not fire shows nothing."""
    for name in (*MUTATIONS, "drop", "repeat", "swap", "restore"):
        assert tally.fired[name], f"{name} never fired: {tally}"
    for name in ("applied", "duplicates", "forks", "ignored", "kept", "quarantined", "voided"):
        assert tally.became[name], f"nothing became {name}: {tally}"
