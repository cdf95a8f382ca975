"""What the customers do, and where things go wrong: all of it from one seed.

Nothing here knows which half of the demo will run it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from .contracts import Ordered, Returned

ARTICLES = 40
RETURNED_SHARE = 0.45
"""Of all lines: generous, since refunds are where order matters."""

EVENTS_PER_LINE = 3 + 2 * RETURNED_SHARE
"""Ordered, paid, sent; and for those that come back: returned, refunded."""

Line = tuple[str, int]
"""(order id, number of the line)."""


class Size(NamedTuple):
    """How much happens: at least so many events, over so many orders."""

    events: int
    keys: int
    seed: int


class Faults(NamedTuple):
    """Where things go wrong. Services by name; lines and orders as the customers made them."""

    between: frozenset[Line]
    """Lines whose order kills the shop between its two writes (table and event)."""
    between_returned: frozenset[Line]
    """The same for returns."""
    handled: dict[str, frozenset[Line]]
    """Lines whose handler kills its process when it has done its work."""
    published: frozenset[str]
    """Orders whose payment kills the relay when the log has taken it."""
    failing: dict[str, frozenset[Line]]
    """Lines whose handler raises for a while."""
    again: dict[str, frozenset[str]]
    """Orders at which the log goes back and delivers the last records again."""
    slow: dict[str, frozenset[str]]
    """Orders at which their partition of `orders` stalls for a while."""
    outside: dict[str, float]
    """Processes that are killed from outside, when this share of the customers was served."""
    frozen: dict[str, float]
    """Processes that stand still for longer than their lease, likewise."""


class Workload(NamedTuple):
    """Articles with their price in cents; what customers do, in order; what goes wrong."""

    articles: dict[str, int]
    actions: Sequence[Ordered | Returned]
    faults: Faults


def workload(size: Size) -> Workload:
    """The customers' actions in order, and the faults. The same for the same size and seed."""
    chance = random.Random(size.seed)
    articles = {f"sku-{n:02}": chance.randrange(300, 9000) for n in range(ARTICLES)}
    lines = _lines(chance, size, articles)
    names = [(line.order_id, line.line) for line in lines]
    faults, hasty = _faults(chance, names, size.events / 20_000)
    return Workload(articles, _with_returns(chance, lines, hasty), faults)


def _lines(chance: random.Random, size: Size, articles: dict[str, int]) -> list[Ordered]:
    """Every order has one line at least; further ones fall on any order."""
    count = max(size.keys, int(size.events * 1.03 / EVENTS_PER_LINE) + 1)
    owners = [*range(size.keys), *chance.choices(range(size.keys), k=count - size.keys)]
    chance.shuffle(owners)
    numbers = [0] * size.keys
    lines = []
    for owner in owners:
        numbers[owner] += 1
        sku, quantity = chance.choice(list(articles)), chance.randint(1, 4)
        cents = quantity * articles[sku]
        lines.append(Ordered(f"o-{owner + 1:04}", numbers[owner], sku, quantity, cents))
    return lines


def _with_returns(
    chance: random.Random, lines: list[Ordered], hasty: frozenset[Line]
) -> list[Ordered | Returned]:
    """Some lines come back a while later; those of hasty customers at once."""
    placed: list[tuple[float, Ordered | Returned]] = []
    for at, line in enumerate(lines):
        placed.append((at, line))
        soon = (line.order_id, line.line) in hasty
        if soon or chance.random() < RETURNED_SHARE:
            wait = chance.uniform(1, 4) if soon else chance.uniform(20, 400)
            fields = (line.order_id, line.line, line.sku, line.quantity, line.cents)
            placed.append((at + wait, Returned(*fields)))
    placed.sort(key=lambda pair: pair[0])
    return [action for _, action in placed]


def _faults(
    chance: random.Random, names: list[Line], scale: float
) -> tuple[Faults, frozenset[Line]]:
    """Faults on lines of the middle nine tenths, each line in one of them at most; and the lines
    that come back at once, since a fault that nothing follows is easily survived.
    """
    middle = names[len(names) // 20 : -len(names) // 20]
    pool = chance.sample(middle, len(middle))

    def some(count: int, least: int = 2) -> frozenset[Line]:
        wanted = max(least, min(round(count * scale), 3 * count))
        taken, pool[:] = pool[:wanted], pool[wanted:]
        return frozenset(taken)

    between_returned = some(6)
    failing = {"payments": some(24), "stock": some(24)}
    slow = some(8)
    faults = Faults(
        between=some(6),
        between_returned=between_returned,
        handled={"payments": some(4), "stock": some(3), "shipping": some(3)},
        published=_orders(some(4)),
        failing=failing,
        again={name: _orders(some(6)) for name in ("payments", "stock", "shipping")},
        slow={"payments": _orders(slow)},
        outside={"web": 0.5, "payments-0": 0.2, "payments-1": 0.4, "stock": 0.3,
                 "shipping": 0.6, "shop": 0.7},
        frozen={"payments-0": 0.55, "payments-1": 0.75},
    )  # fmt: skip
    return faults, between_returned | slow | failing["payments"] | failing["stock"]


def _orders(lines: frozenset[Line]) -> frozenset[str]:
    return frozenset(order_id for order_id, _ in lines)
