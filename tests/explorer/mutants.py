"""Bugs planted in the core, from outside: other SQL, other functions, calls in another order.

Each is a mistake that has cost others data. The production code has no switch for any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import pytest

from oncebox import inbox, order, relay
from oncebox.consumer import batch, effects
from oncebox.consumer import loop as consumer
from oncebox.consumer.batch import Batch, Outcome
from oncebox.consumer.keys import Keys
from oncebox.consumer.reading import Place, Reading
from oncebox.operate.desk import Desk
from oncebox.operate.waiting import Waiting
from oncebox.order import KeyState, Link
from oncebox.outbox import Reached, reached_text
from oncebox.ports import TopicPartition
from oncebox.program import Call, Program, call
from oncebox.session import Rows, Session, Statement
from oncebox.session import asked as answered

from . import worlds
from .engines import Engine
from .shop import Shop

Plant = Callable[[pytest.MonkeyPatch, Shop], None]

original_run = Batch.run


def through(program: Program[Any], change: Callable[[Call], Program[Any] | None]) -> Program[Any]:
    """A program with some of its calls replaced; None leaves a call as it is."""
    try:
        asked = next(program)
        while True:
            instead = change(asked)
            try:
                if instead is None:
                    result = yield asked
                else:
                    result = yield from instead
            except BaseException as error:
                asked = program.throw(error)
            else:
                asked = program.send(result)
    except StopIteration as stop:
        return stop.value


def nothing() -> Program[None]:
    """A call that is not made."""
    yield from ()


def other_sql(patch: pytest.MonkeyPatch, engine: Engine, name: str, old: str, new: str) -> None:
    """A statement with other text; what is replaced has to be there."""
    text = engine.sql[name]
    assert old in text, f"{name} does not hold {old!r}"
    patch.setitem(engine.sql, name, text.replace(old, new))


def is_effect(loop: Batch, asked: Call) -> bool:
    return any(asked[0] == handler.function for handler in loop.reading.handlers.values())


# ---- effect and mark


def mark_before_effect(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """Rows and position are committed, then the handlers run, in a transaction of their own."""

    def run(self: Batch) -> Program[Outcome]:
        late: list[Call] = []

        def change(asked: Call) -> Program[Any] | None:
            if not is_effect(self, asked):
                return None
            late.append(asked)
            return nothing()

        outcome: Outcome = yield from through(original_run(self), change)
        yield from in_transaction(self, late)
        return outcome

    patch.setattr(Batch, "run", run)


def in_transaction(self: Batch, calls: list[Call]) -> Program[None]:
    session = self.reading.session
    yield from call(session.begin)
    for asked in calls:
        yield asked
    yield from call(session.commit)


def effect_apart_from_mark(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """The handlers' transaction is committed, then rows and position in another."""

    def run(self: Batch) -> Program[Outcome]:
        effects: list[Call] = []
        session = self.reading.session

        def collect(asked: Call) -> Program[Any] | None:
            if is_effect(self, asked):
                effects.append(asked)
                return nothing()
            return call(session.rollback) if asked[0] == session.commit else None

        def leave_out(asked: Call) -> Program[Any] | None:
            return nothing() if is_effect(self, asked) else None

        first = Batch(self.reading, self.items, dict(self.fence), self.drains, careful=self.careful)
        yield from through(original_run(first), collect)
        yield from in_transaction(self, effects)
        outcome: Outcome = yield from through(original_run(self), leave_out)
        return outcome

    patch.setattr(Batch, "run", run)


def position_before_effect(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """The position is committed before the work: acknowledged first."""

    def run(self: Batch) -> Program[Outcome]:
        if self.fence:
            session = self.reading.session
            yield from call(session.begin)
            yield from answered(session, self.opening())
            yield from self.close_fence(len(self.items))
            yield from call(session.commit)
            after = dict(self.fence)
            self.fence.clear()
            outcome = yield from original_run(self)
            self.fence.update(after)
            return outcome
        return (yield from original_run(self))

    patch.setattr(Batch, "run", run)


def position_of_what_was_fetched(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """The position moves to where the reader stands, though only a part is settled."""
    patch.setattr(consumer, "CAREFUL_MAX", 2)
    original = Batch.close_fence

    def close_fence(self: Batch, settled: int) -> Program[None]:
        fetched: dict[TopicPartition, int] = {}
        for reader in shop.broker.readers:
            for place, at in reader.positions.items():
                fetched[place] = max(at, fetched.get(place, 0))
        shown = self.items[:settled]
        last = {(i.record.topic, i.record.partition): i for i in shown}
        self.items = [with_offset(item, fetched[place] - 1) for place, item in last.items()]
        yield from original(self, len(self.items))

    patch.setattr(Batch, "close_fence", close_fence)


def with_offset(item: Any, offset: int) -> Any:
    moved = copy(item)
    moved.record = item.record._replace(offset=offset)
    return moved


def kept_in_another_transaction(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """Events that wait are stored after the commit that moved the position over them."""
    later(patch, lambda self, asked: asked[1][:1] == (self.reading.sql["add_kept"],))


def parked_in_another_transaction(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """A failure is noted after the batch's commit: forgotten by a crash in between."""

    def is_park(self: Batch, asked: Call) -> bool:
        _, arguments = asked
        return arguments[:1] == (self.reading.sql["write_key"],) and arguments[1][7] is not None

    later(patch, is_park)


def later(patch: pytest.MonkeyPatch, which: Callable[[Batch, Call], bool]) -> None:
    """Some calls of a batch are made behind its commit, in a transaction of their own."""

    def run(self: Batch) -> Program[Outcome]:
        late: list[Call] = []

        def change(asked: Call) -> Program[Any] | None:
            if not which(self, asked):
                return None
            late.append(asked)
            return nothing()

        outcome: Outcome = yield from through(original_run(self), change)
        if late:
            yield from in_transaction(self, late)
        return outcome

    patch.setattr(Batch, "run", run)


# ---- records that cannot be read


def malformed_noted_later(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """A record that cannot be read is stored after the commit that moved the position over it."""
    later(patch, lambda self, asked: asked[1][:1] == (self.reading.sql["quarantine"],))


def malformed_dropped(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """What cannot be read is passed over, as many clients do."""
    patch.setattr(Batch, "quarantine", lambda self, item: nothing())


# ---- order


def above_the_last_one(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """`> last` instead of `= last + 1`."""

    def is_next(state: KeyState, link: Link, floor: int) -> bool:
        return state.park is None and not state.kept and link.sequence > max(state.sequence, 0)

    patch.setattr(batch, "is_next", is_next)


def previous_not_compared(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """What waits is released by its number alone: the histories of a fork mix."""

    def is_next(state: KeyState, link: Link, floor: int) -> bool:
        return link.sequence == max(state.sequence, 0) + 1

    patch.setattr(order, "_is_next", is_next)
    patch.setattr(order, "_contradicts", lambda sequence, stamp, later: later.sequence <= sequence)
    patch.setattr(
        batch,
        "is_next",
        lambda state, link, floor: (
            not state.kept and state.park is None and is_next(state, link, floor)
        ),
    )


def only_the_last_id(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """Duplicates are known by the id that was last: a window of one."""
    patch.setattr(batch, "is_next", lambda state, link, floor: link.id != state.id)


def failing_events_go_behind(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """A retry topic: what fails is published again, and its key goes on."""

    def fail(self: Batch, entry: Any, link: Link, reason: str) -> bool:
        record = entry.items[link].record
        shop.broker.append(
            shop.facts[0][1]._replace(key=record.key, value=record.value, headers=record.headers),
            record.partition,
        )
        shop.failing.clear()
        return True

    patch.setattr(Batch, "fail", fail)
    only_the_last_id(patch, shop)


# ---- ownership


def term_not_compared(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """A fence by position alone."""
    engine = shop.engine
    if engine.dialect == "sqlite":
        other_sql(
            patch,
            engine,
            "fence",
            "(topic, partition, term, position)",
            "(topic, partition, position)",
        )
        other_sql(
            patch,
            engine,
            "fence",
            "value ->> 1, value ->> 2, value ->> 3",
            "value ->> 1, value ->> 3",
        )
        other_sql(patch, engine, "close_batch", "AND term = ?4 ", "AND ?4 > 0 ")
    else:
        other_sql(patch, engine, "fence", "and c.term = v.term", "")
        other_sql(patch, engine, "close_batch", "and term = $4 ", "and $4 > 0 ")


def lease_is_truth(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """No fence at all: whoever took the lease once believes that it is the owner."""
    engine = shop.engine
    term_not_compared(patch, shop)
    if engine.dialect == "sqlite":
        other_sql(patch, engine, "fence", "(topic, partition, position)", "(topic, partition)")
        other_sql(patch, engine, "fence", ", value ->> 3", "")
    else:
        other_sql(patch, engine, "fence", "and c.position = v.position", "")


def deaths_not_counted(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """Taking over from a dead owner does not count: an event that kills does so for ever."""
    other_sql(patch, shop.engine, "acquire", "else takeovers + 1 end", "else takeovers end")


# ---- waiting


def no_sweep_for_lost_wakes(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """Wake-ups are only in the memory of the owner that committed what they wait for."""
    engine = shop.engine
    first = "?2" if engine.dialect == "sqlite" else "$2"
    old = f"LIMIT {first}" if engine.dialect == "sqlite" else f"limit {first}"
    other_sql(
        patch,
        engine,
        "released_waiters",
        old,
        f"{old[:5]} least({first}, 0)"
        if engine.dialect == "postgres"
        else f"LIMIT min({first}, 0)",
    )


def awaited_not_noted(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """Whoever waits does not tell the row that it waits for."""
    no_sweep_for_lost_wakes(patch, shop)

    def waits(self: Batch, item: Any) -> Program[bool]:
        waits = yield from original_waits(self, item)
        for entry in self.keys.entries.values():
            entry.awaited = False
        return waits

    patch.setattr(Batch, "waits", waits)


original_waits = Batch.waits


# ---- effects outside


def fresh_key_for_every_try(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """An idempotency key that is new each time."""
    assert isinstance(shop, worlds.Charging)
    patch.setattr(effects, "idempotency_key", lambda *_: f"try {shop.calls}")


def result_before_the_call(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """The effect counts as had before it is had; its result comes when it is there."""
    original = effects._intend
    other_sql(patch, shop.engine, "effect_done", "coalesce(result, ?6)", "?6")

    def intend(reading: Reading, event: Any, step: str, key: str) -> Program[Any]:
        known, deaths = yield from original(reading, event, step, key)
        if step not in known:
            done = (*event, step, reading.now_ms(), b'"nothing"')
            yield from call(reading.session.run, reading.sql["effect_done"], done)
        return known, deaths

    patch.setattr(effects, "_intend", intend)


def others_have_the_effect_too(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """While an owner has the effect that a handler waits for, its key is free for the others."""
    patch.setattr(shop, "settings", replace(shop.settings, handler_timeout_s=1e-9))


# ---- retries


def due_keys_not_taken(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """Whoever sees that a key is due tries it, and a try counts only when it is over."""
    first = {
        "sqlite": "attempts = attempts + 1, due_ms = CASE",
        "postgres": "attempts = k.attempts + 1, due_ms = case",
    }[shop.engine.dialect]
    other_sql(
        patch,
        shop.engine,
        "take_due",
        first,
        "due_ms = case when true then due_ms "
        if shop.engine.dialect == "postgres"
        else "due_ms = CASE WHEN true THEN due_ms ",
    )
    original = Batch.go_on

    def go_on(self: Batch, entry: Any, *, release: bool = False) -> Program[None]:
        entry.attempts += release
        yield from original(self, entry, release=release)

    patch.setattr(Batch, "go_on", go_on)


# ---- the relay


def cursor_before_publishing(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """The cursor is stored, then the batch is published."""
    original = relay.Relay._publish

    def publish(self: relay.Relay, rows: Any) -> Program[Any]:
        self.published = self.reached
        yield from self._save()
        return (yield from original(self, rows))

    patch.setattr(relay.Relay, "_publish", publish)


def cursor_over_what_is_ahead(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """The cursor moves over what is read, before it is published."""

    def position(self: relay.Relay) -> str:
        return reached_text(self.reached, (r.position for r in self.refused.values()))

    patch.setattr(relay.Relay, "_position", position)


def cursor_over_refused(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """The cursor moves over what the log did not take."""

    def hold(self: relay.Relay, rows: Any, refusals: Any) -> Program[None]:
        yield from self._save()

    patch.setattr(relay.Relay, "_hold", hold)


def refused_key_goes_on(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """A refused record waits, and those of its key behind it are published."""
    patch.setattr(relay, "_name", lambda row: (row[2], row[0]))
    patch.setattr(relay.Refused, "name", property(lambda one: (one.source, one.position)))


def relay_term_not_compared(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """A relay that was replaced moves the cursor."""
    sign = "?" if shop.engine.dialect == "sqlite" else "$"
    other_sql(patch, shop.engine, "move", f"term = {sign}3", f"{sign}3 > 0")


def above_the_last_position(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """Reading the outbox by `position > last`: what commits late is never seen."""
    patch.setattr(
        relay, "pass_over", lambda reached, found: Reached(max([reached.position, *found]))
    )


# ---- locks, which only a database with more than one writer needs


def rows_read_before_locked(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """A key's row is read without its lock, and locked when it is written."""
    other_sql(patch, shop.engine, "lock_keys", " for update)", ")")
    other_sql(patch, shop.engine, "lock_key", " for update", "")


def locks_in_any_order(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """Owners lock their keys one by one, each in an order of its own."""

    def load_rows(
        self: Keys, places: Iterable[Place], first: Sequence[Statement] = ()
    ) -> Program[list[Rows]]:
        info = self.reading.session.handle.info
        backwards = info.parameter_status("application_name") == "two"
        answers = yield from original_load_rows(self, [], first)
        for place in sorted(places, reverse=backwards):
            yield from original_load_rows(self, [place])
        return answers

    patch.setattr(Keys, "load_rows", load_rows)


original_load_rows = Keys.load_rows


def redrive_without_the_lock(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """The operator's command writes back the row that it had read."""

    def redrive(desk: Desk, chosen: Collection[Waiting]) -> Program[None]:
        for one in chosen:
            row = (*one.place, one.sequence, one.stamp, "", 0, 0, "poison", None, one.kept,
                   False, 0, one.reason, one.since_ms, desk.now_ms(), -1)  # fmt: skip
            yield from call(desk.session.run, desk.sql["write_key"], row)

    patch.setattr(worlds, "redrive", redrive)


def select_then_insert(patch: pytest.MonkeyPatch, shop: Shop) -> None:
    """A claim looks whether the id is there, and then inserts it."""

    def claim(session: Session, *which: Any) -> Program[bool]:
        schema, consumer, source, id, stamp = which
        native, sql = shop.engine.native, shop.engine.sql
        yield from call(session.run, sql["subscribe"], (consumer, source, 0))
        ((subscription, *_),) = yield from call(
            session.run, native("SELECT id FROM oncebox.subscription WHERE source = ?"), (source,)
        )
        look = native("SELECT 1 FROM oncebox.inbox WHERE subscription = ? AND id = ?")
        if (yield from call(session.run, look, (subscription, id))):
            return False
        insert = native("INSERT INTO oncebox.inbox VALUES (?, ?, 0)")
        yield from call(session.run, insert, (subscription, id))
        return True

    patch.setattr(inbox, "_claim", claim)
