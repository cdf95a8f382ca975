"""The explorer finds every rule that is broken.

Each mutant is a copy of `order.py` with one rule changed, and comes with the scripts that show it
at the latest; most fall earlier, to the small scripts that all are tried on.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import NamedTuple

import pytest

from oncebox import order

from .explore import Failure, deviations, explore, scripts
from .mutants import mutant
from .trace import Story
from .world import PLAIN, Broken, Setup


class Mutant(NamedTuple):
    """A broken rule: what is replaced by what.

    `script`: one that shows it, where the small ones do not. With deliveries in it, it is played
    as a trace; some need so many events that all of their orders would take too long.
    """

    name: str
    changes: tuple[tuple[str, str], ...]
    script: str = ""
    setup: Setup = PLAIN


MUTANTS = [
    Mutant("a first event always runs", (
        ("        return Verdict.BEFORE_START if stamp < floor else None\n",
         "        return Verdict.BEFORE_START if stamp < floor and link.previous else None\n"),
        ("        return previous < floor <= link.stamp\n", "        return previous < 0\n"),
        ("        return (NONE_BEFORE if previous is None else previous) < floor <= stamp\n",
         "        return previous is None\n")), "c", Setup(prunes=1)),
    Mutant("a lower sequence is a duplicate", (
        ("    if stamp < last and sequence < done:\n", "    if sequence < done:\n"),)),
    Mutant("a lower stamp is a duplicate", (
        ("    if stamp < last and sequence < done:\n", "    if stamp < last:\n"),),
        "c back N c c"),
    Mutant("the row's number is a duplicate", (
        ("    if stamp == last and sequence == done:\n", "    if sequence == done:\n"),
        ("(not state.id or link.id == state.id) and ", "")), "c c N c", Setup(poison=2, skips=1)),
    Mutant("the row's id is not compared with its bytes", (
        ("(not state.id or link.id == state.id) and _same_bytes(link, state.digest)",
         "(not state.id or link.id == state.id)"),)),
    Mutant("kept bytes are not compared", (
        ("any(k.void or _same_bytes(link, k.digest) for k in same)", "same"),)),
    Mutant("a void replaces nothing", (
        ("    if link.void and any(not k.void for k in same):\n", "    if False:\n"),)),
    Mutant("a void leaves its key parked", (
        ("park=None if poisonous else state.park", "park=state.park"),), "c c E2", Setup(poison=2)),
    Mutant("next by number alone", (
        (" + 1 and previous == state.stamp\n", " + 1\n"),
        (" + 1 and previous == last and", " + 1 and"),
        ("        return previous != stamp\n", "        return False\n")), "c c R1 c c"),
    Mutant("next by stamp alone", (
        ("    return link.sequence == state.sequence + 1 and previous == state.stamp\n",
         "    return link.stamp > state.stamp\n"),)),
    Mutant("what is kept contradicts nothing", (
        ("    if kept and state.park is not Park.FORK:\n", "    if False:\n"),)),
    Mutant("what is kept before contradicts nothing", (
        ("        if (before and ", "        if (False and "),)),
    Mutant("what is kept behind contradicts nothing", (
        ("            behind and _contra", "            False and _contra"),)),
    Mutant("a fork is dropped", (
        ("fork(state, link) if verdict is Verdict.FORK else state", "state"),)),
    Mutant("a fork parks, and keeps nothing", (
        ("        state = _keep(state, link)\n    return state._replace(park=Park.FORK)\n",
         "        pass\n    return state._replace(park=Park.FORK)\n"),)),
    Mutant("a failure is not kept", (
        ("        state = _keep(state, link)\n    return state._replace(park=Park.POISON)\n",
         "        pass\n    return state._replace(park=Park.POISON)\n"),), "c", Setup(poison=1)),
    Mutant("no cutoff", (
        ("    if stamp < state.cutoff:\n        return Verdict.ORPHAN\n", ""),
        ("and last < stamp >= cutoff", ""))),
    Mutant("is_next forgets the cutoff", (
        ("and last < stamp >= cutoff", "and last < stamp"),), "c c c R1 c", PLAIN),
    Mutant("accept raises no cutoff", (
        ("        *(link.stamp + 1 for link in lost),\n", ""),
        ("state.stamp + 1 if state.sequence >= 0 and not own else 0", "0"))),
    Mutant("a step forgets the cutoff", (("id_, known, cutoff,", "id_, known, 0,"),), "c c N c c N"),
    Mutant("the floor covers no known row", (
        ("    if stamp < floor and stamp < last:\n        return Verdict.BEFORE_START\n", ""),),
        "c c R1 >a1 prune c R1! >b2 ask >a2", Setup(prunes=1)),
    Mutant("accept guesses the branch", (
        ("    return Undecided(Doubt.BRANCH_UNCLEAR, doubtful) if doubtful else start + count\n",
         "    return start + count\n"),), "c back N c c"),
    Mutant("accept forgets the cutoff of what it adopts", (
        ("        return Undecided(Doubt.BELOW_CUTOFF, doubtful) if doubtful else state.sequence\n",
         "        return state.sequence\n"),),
        "c c c c >a1 >a2 >a4 R1! ask accept c Z c >c4 >b2 accept"),
    Mutant("accept forgets its orphans", (
        ("    if again:\n        return Undecided", "    if False:\n        return Undecided"),),
        "c c c >a2 R0! ask accept c c c >b1 >b2 >b3 Z c >c3 accept"),
    Mutant("accept runs what is kept, whatever the source has", (
        ("*(mine.get(link[:2], link) for link in _behind(history, branch))", "*state.kept"),)),
    Mutant("accept adopts nothing that is not kept", (
        ("*(mine.get(link[:2], link) for link in _behind(history, branch))",
         "*(mine[h[:2]] for h in _behind(history, branch) if h[:2] in mine)"),)),
    Mutant("asking finds no fork", (
        ("        return None\n    return fork(state)\n",
         "        return None\n    return None\n"),)),
    Mutant("asking forgets the row", (
        ("        (state.sequence < 0 or _has_row(history, state))\n        and all(",
         "        all("),), "c N c c c", Setup(skips=1)),
    Mutant("asking forgets what is kept", (
        ("        and all(_has(history, link) for link in state.kept)\n", ""),)),
    Mutant("skipping asks nobody", (
        ("    if forked is not None:\n        return forked, None\n", ""),),
        "c R0 c c c", Setup(skips=1)),
    Mutant("a gap has no name", (
        ("    return max(state.sequence, 0) + 1, state.kept[0].sequence - 1\n",
         "    return None\n"),)),
    Mutant("a skip misnames what is gone", (
        ("    return max(state.sequence, 0) + 1, state", "    return state.sequence, state"),),
        "c c c", Setup(skips=1)),
    Mutant("redrive does nothing", (
        ("    return state._replace(park=None) if state.park is Park.POISON else state\n",
         "    return state\n"),), "c", Setup(poison=1)),
]  # fmt: skip


def small() -> Iterator[tuple[tuple[str, ...], Setup]]:
    """What every mutant is tried on first: few events, few deviations."""
    for commits in (1, 2, 3):
        for wrong in (0, 1):
            for script in scripts(commits, wrong, deviations(commits)):
                yield script, PLAIN


def shown(broken: Mutant, rules: ModuleType) -> str | None:
    """How the explorer, or the trace, shows that rules are broken; None if it does not."""
    if ">" in broken.script:
        return played(broken, rules)
    given = [(tuple(broken.script.split()), broken.setup)] if broken.script else small()
    for script, setup in given:
        try:
            explore(script, setup, rules)
        except Failure as failure:
            return str(failure)
    return None


def played(broken: Mutant, rules: ModuleType) -> str | None:
    """Play the mutant's trace; anything else than with the real rules shows it."""
    real = Story(broken.script, broken.setup)
    try:
        story = Story(broken.script, broken.setup, rules)
    except Broken as promise:
        return str(promise)
    if (story.effects, story.park, story.said) == (real.effects, real.park, real.said):
        return None
    return f"{story.said} instead of {real.said}"


@pytest.mark.parametrize("broken", MUTANTS, ids=lambda broken: broken.name.replace(" ", "-"))
def test_a_broken_rule_is_found(broken: Mutant) -> None:
    name = "".join(c if c.isalnum() else "_" for c in broken.name)
    found = shown(broken, mutant(name, *broken.changes))
    print(found)
    assert found, f"nobody noticed that {broken.name}"


def test_the_rules_as_they_are_pass_wherever_a_mutant_fell() -> None:
    for broken in MUTANTS:
        if broken.script:
            assert shown(broken, order) is None
