"""Worlds in their usual sizes, and the bounds within which each is explored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from oncebox.explorer import Bounds

from .engines import Engine
from .mixed import Mixed, MixedRivals, RelayingTwice
from .relaying import RELAY, Relaying
from .shop import FIVE, QUICK, Fact, Shop
from .worlds import (
    TWO_OWNERS,
    AtTwo,
    AtWork,
    Causal,
    Charging,
    Claims,
    Crossing,
    Duel,
    Failing,
    Forked,
    Killing,
    KillingWhenWoken,
    Leaving,
    Malformed,
    Redrive,
    RedriveLive,
    Retries,
    Rivals,
    Start,
    TakeOver,
    Wake,
)

Make = Callable[[Engine], Shop]


class Case(NamedTuple):
    """A world, its bounds, and the deviations that have to have happened there."""

    make: Make
    bounds: Bounds
    kinds: tuple[str, ...]


SPREAD = (Fact("a", 1), Fact("a", 2, 1), Fact("b", 1, 1), Fact("a", 3), Fact("b", 2))
"""A topic that got more partitions: events of one key are on two."""

LATE = (Fact("a", 1), Fact("a", 3), Fact("b", 1), Fact("a", 2), Fact("b", 2))
"""An event that was published late, by `republish`."""

MUCH = (Fact("a", 1), Fact("a", 3), Fact("a", 4), Fact("a", 5), Fact("a", 2))
"""More waits behind that one than is done in one batch."""

BACKWARDS = (Fact("a", 1), Fact("a", 4, 1), Fact("a", 3), Fact("b", 1, 1), Fact("a", 2, 1))
"""What is missing comes in the wrong order, from two partitions."""

AFTER = (Fact("a", 1), Fact("b", 1, 1, ("a", 2)), Fact("a", 2), Fact("b", 2, 1))
"""b 1 waits for a 2, which may come later and on another partition."""

RESTORED = (Fact("a", 1), Fact("a", 2), Fact("a", 3, branch=1, behind=1), Fact("a", 2, branch=1))
"""The source forgot a 2 and went on; of what it emitted then, the second comes first."""

ORDERS = {"ann": [[Fact("a", 1), Fact("b", 1)], [Fact("a", 2)]], "bob": [[Fact("a", 3)]]}
ONE_BY_ONE = replace(QUICK, batch_max=1, attempts_max=4)
NO_ROOM = replace(ONE_BY_ONE, kept_bytes_max=1)
ONE_AHEAD = RELAY._replace(batch_max=1, ahead_min=1)
TWO_BY_TWO = replace(QUICK, batch_max=2)
COARSE = {"stall": 1, "crash": 1}
OTHERS = ("crash", "stall", "reordering", "refusal", "half publish", "lost answer")
PREEMPTIONS = Bounds(2, dict.fromkeys(OTHERS, 0))


def failing(engine: Engine) -> Shop:
    shop = Failing(engine, FIVE, failing=[("a", 2)], duplicates=False, every_step=False)
    return shop.arranged()


class FailingAtTwo(AtTwo, Failing):
    """A key that fails, where both may try it."""


class ChargingAtTwo(AtTwo, Charging):
    """An effect outside that one has for a key, where another may go on with it."""


def rivals(engine: Engine) -> Shop:
    return Rivals(engine, FIVE[:4], duplicates=False, every_step=False).arranged()


def short(shop: Shop) -> Shop:
    """Fetches may bring less than there is."""
    shop.broker.short = True
    return shop


CASES = {
    "an owner from its first moment": Case(
        lambda e: Start(e, FIVE[:3], duplicates=False), Bounds(2), ("crash", "reordering")
    ),
    "an owner at work": Case(
        lambda e: short(AtWork(e).arranged()),
        Bounds(2),
        ("crash", "duplicate", "reordering", "short fetch"),
    ),
    "a key on two partitions": Case(
        lambda e: AtWork(e, SPREAD).arranged(), Bounds(2), ("crash", "duplicate", "reordering")
    ),
    "an event that comes late": Case(
        lambda e: AtWork(e, LATE, settings=TWO_BY_TWO).arranged(), Bounds(2), ("crash", "duplicate")
    ),
    "much that was kept": Case(
        lambda e: AtWork(e, MUCH, settings=ONE_BY_ONE, duplicates=False).arranged(),
        Bounds(2),
        ("crash",),
    ),
    "a pause behind a gap": Case(
        lambda e: AtWork(e, LATE, settings=NO_ROOM, duplicates=False).arranged(),
        Bounds(2),
        ("crash",),
    ),
    "a pause behind two gaps": Case(
        lambda e: AtWork(e, BACKWARDS, settings=NO_ROOM, duplicates=False).arranged(),
        Bounds(1),
        ("crash", "reordering"),
    ),
    "a pause behind what is waited for": Case(
        lambda e: Causal(e, AFTER, settings=NO_ROOM, duplicates=False).arranged(),
        Bounds(1),
        ("crash", "reordering"),
    ),
    "two owners": Case(rivals, Bounds(2, COARSE), ("crash", "stall", "preemption")),
    "an owner that leaves": Case(
        lambda e: Leaving(e, FIVE[:2], duplicates=False, every_step=False).arranged(),
        Bounds(2, {**COARSE, "stop": 1}),
        ("crash", "stall", "preemption", "stop"),
    ),
    "a handler that fails": Case(failing, Bounds(2, COARSE), ("crash", "stall", "preemption")),
    "one that fails at two owners": Case(
        lambda e: FailingAtTwo(
            e, FIVE[:3], failing=[("a", 2)], duplicates=False, every_step=False
        ).arranged((), TWO_OWNERS),
        Bounds(1),
        ("crash", "preemption"),
    ),
    "events that wait for others": Case(
        lambda e: Causal(e, AFTER, duplicates=False).arranged(), Bounds(2), ("crash", "reordering")
    ),
    "effects outside": Case(
        lambda e: Charging(e, FIVE[:3], duplicates=False, every_step=False).arranged(),
        Bounds(2),
        ("crash", "reordering"),
    ),
    "effects outside, two owners": Case(
        lambda e: ChargingAtTwo(e, FIVE[:3], duplicates=False, every_step=False).arranged(
            (), TWO_OWNERS
        ),
        Bounds(2, {"crash": 0, "stall": 0}),
        ("preemption",),
    ),
    "a history that forks": Case(
        lambda e: Forked(e, RESTORED).arranged(), Bounds(2), ("crash", "duplicate")
    ),
    "an event that kills": Case(
        lambda e: Killing(e, FIVE, every_step=False).arranged(), Bounds(1), ("crash", "duplicate")
    ),
    "an event that kills when it is woken": Case(
        lambda e: KillingWhenWoken(e, AFTER, every_step=False).arranged(), Bounds(1), ("crash",)
    ),
    "a record that cannot be read": Case(
        lambda e: Malformed(e, FIVE[:3], duplicates=False).arranged(),
        Bounds(2),
        ("crash", "reordering"),
    ),
    "versions mixed in one log": Case(
        lambda e: Mixed(e, FIVE, written=(1, 3, 2), read=(2, 1), duplicates=False).arranged(),
        Bounds(2),
        ("crash", "reordering"),
    ),
    "versions mixed while owners change": Case(
        lambda e: MixedRivals(
            e, FIVE[:3], written=(1, 3, 2), read=(1, 2), duplicates=False, every_step=False
        ).arranged(),
        Bounds(1),
        ("crash", "stall", "preemption"),
    ),
    "a relay": Case(
        lambda e: Relaying(e, ORDERS, every_step=False),
        Bounds(2),
        ("crash", "stall", "preemption", "refusal", "half publish", "lost answer"),
    ),
    "a relay with a legacy topic": Case(
        lambda e: RelayingTwice(e, ORDERS, every_step=False),
        Bounds(1),
        ("crash", "stall", "preemption", "refusal", "half publish", "lost answer"),
    ),
    "a relay that reads ahead": Case(
        lambda e: Relaying(e, {"ann": ORDERS["ann"]}, settings=ONE_AHEAD, every_step=False),
        Bounds(2),
        ("crash", "stall", "preemption", "refusal", "lost answer"),
    ),
    "two relays": Case(
        lambda e: Relaying(
            e, {"ann": ORDERS["ann"]}, relays=("r1", "r2"), pause_s=0.1, every_step=False
        ),
        Bounds(2, COARSE),
        ("crash", "stall", "preemption", "refusal", "half publish", "lost answer"),
    ),
}
DUELS: dict[str, Callable[[Engine], Duel]] = {
    "take over": TakeOver.make,
    "redrive": Redrive.make,
    "retries": Retries.make,
    "retries of two keys": Crossing.make,
    "wake": Wake.make,
    "redrive of what is retried": RedriveLive.make,
    "claims": Claims.make,
    "first claims": Claims.make_first,
}
