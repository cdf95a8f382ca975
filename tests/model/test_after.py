"""`after=`: an event that waits for an event of another key.

The verdict knows nothing of it. The consumer asks, of the event that `following` names, whether the
row of the key that it waits for has reached it; if not, it stops there, and goes on with every key
that may wait whenever a row advances. Here that consumer is a dozen lines, under every order of
delivery of every small history of two keys.
"""

from __future__ import annotations

from collections import deque
from itertools import combinations, permutations
from typing import NamedTuple

from oncebox.order import (
    KeyState,
    Link,
    Park,
    advance,
    following,
    gap,
    judge,
    poison,
    redrive,
    skip,
)


class Event(NamedTuple):
    """An event of key x or y; `after` is the key and stamp of another that has to come first."""

    name: str
    key: str
    link: Link
    after: tuple[str, int] | None


class Desk(NamedTuple):
    """A consumer's rows for both keys, what took effect, and the waits an operator dropped."""

    x: KeyState = KeyState()
    y: KeyState = KeyState()
    effects: tuple[str, ...] = ()
    dropped: frozenset[str] = frozenset()

    def row(self, key: str) -> KeyState:
        return self.x if key == "x" else self.y

    def put(self, key: str, state: KeyState) -> Desk:
        return self._replace(x=state) if key == "x" else self._replace(y=state)


class Shop:
    """Decides as a consumer does. `failing`: the event whose handler fails until it is mended."""

    def __init__(self, events: tuple[Event, ...], floor: int = 0, failing: str = "") -> None:
        self.events = {event.name: event for event in events}
        self.floor = floor
        self.failing = failing

    def deliver(self, desk: Desk, event: Event) -> Desk:
        state = judge(desk.row(event.key), event.link, self.floor)[1]
        return self.drain(desk.put(event.key, state))

    def drain(self, desk: Desk, mended: bool = False) -> Desk:
        """Go on with both keys until neither moves: any advance may be what the other waits for."""
        moved = True
        while moved:
            moved = False
            for key in "xy":
                state = desk.row(key)
                step = following(state, self.floor)
                if not isinstance(step, Link) or self.waits(desk, str(step.id)):
                    continue
                if step.id == self.failing and not mended:
                    desk = desk.put(key, poison(state, step))
                    continue
                desk = desk.put(key, advance(state, step))
                desk = desk._replace(effects=(*desk.effects, str(step.id)))
                moved = True
        return desk

    def waits(self, desk: Desk, name: str) -> bool:
        after = self.events[name].after
        if after is None or name in desk.dropped:
            return False
        key, stamp = after
        return stamp >= self.floor and desk.row(key).stamp < stamp

    def drop_wait(self, desk: Desk, name: str) -> Desk:
        return self.drain(desk._replace(dropped=desk.dropped | {name}))


def history(order: str, waits: dict[int, int]) -> tuple[Event, ...]:
    """Events committed in this order of keys; `waits`: place of an event, place of the awaited."""
    events: list[Event] = []
    for place, key in enumerate(order):
        before = [event.link for event in events if event.key == key]
        stamp = 10 * (place + 1)
        name = f"{key}{len(before) + 1}"
        link = Link(len(before) + 1, stamp, before[-1].stamp if before else None, name, place + 1)
        awaited = events[waits[place]] if place in waits else None
        events.append(Event(name, key, link, awaited and (awaited.key, awaited.link.stamp)))
    return tuple(events)


def histories() -> list[tuple[Event, ...]]:
    """Three events of x and two of y in every order of commit, with up to two waits."""
    found = []
    for order in sorted({"".join(keys) for keys in permutations("xxxyy")}):
        pairs = [(b, a) for b in range(5) for a in range(b) if order[a] != order[b]]
        for count in (0, 1, 2):
            for chosen in combinations(pairs, count):
                if len({b for b, _ in chosen}) == count:
                    found.append(history(order, dict(chosen)))
    return found


def explore(events: tuple[Event, ...], shop: Shop) -> int:
    """Every order of delivery; how many states. No effect precedes what it waits for."""
    seen, queue = {Desk()}, deque([Desk()])
    while queue:
        desk = queue.popleft()
        check(desk, shop)
        after = [shop.deliver(desk, event) for event in events]
        for key in "xy":
            if desk.row(key).park is Park.POISON:
                again = desk.put(key, redrive(desk.row(key)))
                after.append(shop.drain(again, mended=True))
        fresh = [desk for desk in dict.fromkeys(after) if desk not in seen]
        seen.update(fresh)
        queue.extend(fresh)
        if set(after) == {desk}:  # nothing new can happen: all is delivered and mended
            expected = {event.name for event in events if event.link.stamp >= shop.floor}
            assert set(desk.effects) == expected, f"{desk} of {events}"
    return len(seen)


def check(desk: Desk, shop: Shop) -> None:
    assert len(set(desk.effects)) == len(desk.effects)
    for place, name in enumerate(desk.effects):
        for awaited in shop.events.values():
            if shop.events[name].after == (awaited.key, awaited.link.stamp):
                below = awaited.link.stamp < shop.floor
                assert below or awaited.name in desk.effects[:place], f"{name} too early: {desk}"
    for key in "xy":
        state, step = desk.row(key), following(desk.row(key), shop.floor)
        if state.kept and state.park is None:  # a gap, or a wait; never nothing
            waits = isinstance(step, Link) and shop.waits(desk, str(step.id))
            assert waits == (gap(state, shop.floor) is None)


def test_every_order_of_every_history_of_two_keys() -> None:
    runs = states = 0
    for events in histories():
        for floor, failing in ((0, ""), (25, ""), (0, "x1"), (0, "y2")):
            runs += 1
            states += explore(events, Shop(events, floor, failing))
    print(f"{runs} runs, {states} states")
    assert runs > 500


def test_any_advance_wakes_what_waits() -> None:
    events = history("xy", {1: 0})
    x1, y1 = events
    shop = Shop(events)
    desk = shop.deliver(Desk(), y1)
    assert (desk.effects, desk.y.park, gap(desk.y, 0)) == ((), None, None)
    assert shop.deliver(desk, x1).effects == ("x1", "y1")


def test_a_wait_for_what_a_restore_took_back_is_dropped_by_an_operator() -> None:
    events = history("xyy", {1: 0})
    _, y1, y2 = events
    shop = Shop(events)
    desk = shop.deliver(shop.deliver(Desk(), y1), y2)
    assert desk.effects == ()
    assert shop.drop_wait(desk, "y1").effects == ("y1", "y2")


def test_skipping_an_event_wakes_what_waits_for_it() -> None:
    events = history("xy", {1: 0})
    x1, y1 = events
    shop = Shop(events, failing="x1")
    desk = shop.deliver(shop.deliver(Desk(), y1), x1)
    assert (desk.x.park, desk.effects) == (Park.POISON, ())
    state, given_up = skip(desk.x, [x1.link], 0)
    assert given_up == (1, 1)
    assert shop.drain(desk.put("x", state)).effects == ("y1",)
