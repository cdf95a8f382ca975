"""Every order of five events of a key, with everything that can go wrong, ends well.

That is: each event took effect once and in order, or is in a state with a name and a command that
leaves it; and delivering the whole log again changes nothing. `explore` has the promises.
"""

from __future__ import annotations

from collections import Counter

import pytest

from .explore import deviations, explore, scripts
from .world import PLAIN, Setup

USUAL = [
    PLAIN,
    Setup(poison=2, skips=1),
    Setup(prunes=1),
    Setup(start=2, poison=3),
    Setup(ignored=2, poison=3),
]
QUICK = [PLAIN, *USUAL[3:]]
ALL = [
    *USUAL,
    Setup(poison=2),
    Setup(start=2),
    Setup(ignored=2),
    Setup(skips=1),
    Setup(start=2, skips=1),
    Setup(start=2, prunes=1),
    Setup(poison=1, prunes=1),
]


def explore_all(commits: int, wrong: int, setup: Setup) -> Counter[str]:
    """Explore all scripts of this size; the deviations must have happened."""
    seen = Counter[str]()
    for script in scripts(commits, wrong, deviations(commits)):
        seen += explore(script, setup)
    print(f"{commits} events, {wrong} deviations, {setup}: {dict(sorted(seen.items()))}")
    return seen


@pytest.mark.parametrize("setup", ALL, ids=str)
def test_every_order_of_five_events(setup: Setup) -> None:
    seen = explore_all(5, 0, setup)
    assert seen["ends"] >= 2**4
    assert seen["duplicate"] + seen["late"] + seen["before_start"] > 100


@pytest.mark.parametrize(
    "setup", [s if s in QUICK else pytest.param(s, marks=pytest.mark.long) for s in USUAL], ids=str
)
def test_every_order_of_five_events_with_every_deviation(setup: Setup) -> None:
    seen = explore_all(5, 1, setup)
    for verdict in ("keep", "replace", "duplicate", "fork", "orphan"):
        assert seen[verdict] > 100, f"{verdict} hardly happened"


def test_every_order_of_three_events_with_two_deviations() -> None:
    seen = explore_all(3, 2, PLAIN)
    for doubt in ("orphan_again", "below_cutoff", "branch_unclear"):
        assert seen[f"accept refused: {doubt}"] >= 10, f"{doubt} hardly happened"
    assert 0 < seen["blind spot"] < seen["states"] / 500


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("setup", ALL, ids=str)
@pytest.mark.parametrize(("commits", "wrong"), [(3, 2), (4, 2), (5, 1)])
def test_more_of_everything(commits: int, wrong: int, setup: Setup) -> None:
    assert explore_all(commits, wrong, setup)["ends"] > 1000


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_three_deviations() -> None:
    assert explore_all(3, 3, PLAIN)["ends"] > 1000
