"""Bugs planted in the core: each is found within the bounds in which the core itself is clean."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from oncebox.explorer import explore

from . import mutants
from .cases import CASES
from .engines import SqliteEngine

PLANTED = [
    (mutants.mark_before_effect, "an owner at work", ["crash"]),
    (mutants.effect_apart_from_mark, "an owner at work", ["crash"]),
    (mutants.position_before_effect, "an owner at work", ["crash"]),
    (mutants.position_of_what_was_fetched, "a handler that fails", ["crash"]),
    (mutants.kept_in_another_transaction, "an event that comes late", ["crash"]),
    (mutants.parked_in_another_transaction, "a handler that fails", ["crash"]),
    (mutants.malformed_noted_later, "a record that cannot be read", ["crash"]),
    (mutants.malformed_dropped, "a record that cannot be read", []),
    (mutants.above_the_last_one, "a key on two partitions", ["reordering"]),
    (mutants.previous_not_compared, "a history that forks", []),
    (mutants.only_the_last_id, "an owner at work", ["duplicate"]),
    (mutants.failing_events_go_behind, "a handler that fails", []),
    (mutants.term_not_compared, "two owners", ["stall", "crash"]),
    (mutants.lease_is_truth, "two owners", ["stall", "crash"]),
    (mutants.deaths_not_counted, "an event that kills", []),
    (mutants.no_sweep_for_lost_wakes, "events that wait for others", ["reordering", "crash"]),
    (mutants.awaited_not_noted, "events that wait for others", ["reordering"]),
    (mutants.fresh_key_for_every_try, "effects outside", ["crash"]),
    (mutants.result_before_the_call, "effects outside", ["crash"]),
    (mutants.others_have_the_effect_too, "effects outside, two owners", ["preemption"]),
    (mutants.due_keys_not_taken, "one that fails at two owners", ["preemption"]),
    (mutants.cursor_before_publishing, "a relay", ["crash"]),
    (mutants.cursor_over_what_is_ahead, "a relay that reads ahead", ["crash"]),
    (mutants.cursor_over_refused, "a relay", ["refusal"]),
    (mutants.refused_key_goes_on, "two relays", ["refusal"]),
    (mutants.relay_term_not_compared, "two relays", ["stall"]),
]


@pytest.fixture
def engine(caplog: pytest.LogCaptureFixture) -> Iterator[SqliteEngine]:
    caplog.set_level(logging.CRITICAL, logger="oncebox")
    made = SqliteEngine()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("plant", "name", "fired"), PLANTED, ids=[plant.__name__ for plant, _, _ in PLANTED]
)
def test_a_planted_bug_is_found(
    engine: SqliteEngine,
    monkeypatch: pytest.MonkeyPatch,
    plant: mutants.Plant,
    name: str,
    fired: list[str],
) -> None:
    make, bounds, _ = CASES[name]
    shop = make(engine)
    plant(monkeypatch, shop)
    report = explore(shop, bounds)
    print(report)
    assert report.failure is not None, "not found"
    assert sorted(report.failure.fired) == sorted(fired), "not by the smallest schedule"
