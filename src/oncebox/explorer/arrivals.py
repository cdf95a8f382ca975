"""What a log may do with records: keep the order within each lane, and nothing else.

A lane is a partition (or a key, or a queue with one reader). Legal orders are the linear extensions
of the lanes' own orders; and any record may come again behind its first time. Swapping neighbours
freely would move records of one lane past each other, and call good programs bad.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from .tape import Kinds

T = TypeVar("T")

DUPLICATE, REORDERING = "duplicate", "reordering"


def arrivals(
    choose: Callable[[Kinds], int],
    records: Iterable[T],
    lane: Callable[[T], Hashable],
    *,
    duplicates: bool = True,
) -> list[T]:
    """Records in an order that the tape chooses; without deviations, in the order given.

    A deviation takes the first waiting record of another lane, or repeats one that came before.
    """
    waiting = [(lane(record), record) for record in records]
    came: list[T] = []
    order: list[T] = []
    while True:
        heads = _heads(waiting)
        others = max(len(heads) - 1, 0)
        kinds = (REORDERING,) * others + (DUPLICATE,) * (len(came) if duplicates else 0)
        picked = choose(kinds) if kinds else 0
        if picked > others:
            order.append(came[picked - others - 1])
        elif waiting:
            _, record = waiting.pop(heads[picked])
            came.append(record)
            order.append(record)
        else:
            return order


def _heads(waiting: list[tuple[Hashable, T]]) -> list[int]:
    """Where in `waiting` the first record of each lane is; the first of all comes first."""
    seen: set[Hashable] = set()
    heads = []
    for at, (name, _) in enumerate(waiting):
        if name not in seen:
            seen.add(name)
            heads.append(at)
    return heads
