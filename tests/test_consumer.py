"""The consumer on real stores over the embedded log: each verdict, each way to fail."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from chains import TOPIC, Noted, Opened, Paid, Producer, World, make_store
from oncebox.consumer.loop import DRAIN_MAX
from oncebox.context import Context
from oncebox.envelope import Reference
from oncebox.event import event
from oncebox.operate.actions import redrive
from oncebox.program import drive
from operating import desk_of, failing_for_all, wait_list


def test_events_take_effect_once_and_in_order(world: World) -> None:
    world.handles_paid()
    a, b = world.producer.paid("a", 1, 2, 3), world.producer.paid("b", 10, 20)
    world.deliver(a[0], b[0], a[0], a[1], b[0], b[1], a[2], a[1], b[1])
    world.settle()
    assert world.of("a") == [1, 2, 3]
    assert world.of("b") == [10, 20]
    assert world.count("applied") == 5
    assert world.count("duplicates") == 4
    assert world.kept() == 0


def test_a_second_full_delivery_changes_nothing(world: World) -> None:
    world.handles_paid()
    sent = world.producer.paid("a", 1, 2, 3)
    world.deliver(*sent)
    loop = world.settle()
    world.deliver(*sent)
    world.settle(loop)
    assert world.of("a") == [1, 2, 3]
    assert world.count("duplicates") == 3


def test_a_gap_holds_its_key_only_and_closes_when_the_event_comes(world: World) -> None:
    world.handles_paid()
    a, b = world.producer.paid("a", 1, 2, 3, 4), world.producer.paid("b", 10)
    world.deliver(a[0], a[2], a[3], b[0])
    loop = world.settle()
    assert world.of("a") == [1]
    assert world.of("b") == [10]
    assert world.kept() == 2
    world.deliver(a[1])
    world.settle(loop)
    assert world.of("a") == [1, 2, 3, 4]
    assert world.kept() == 0


def test_a_failing_handler_parks_its_key_and_the_rest_flows(world: World) -> None:
    broken = {"a"}

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        world.record(tx, paid.order, paid.cents)
        if paid.order in broken:
            raise ValueError(f"no account {paid.order}")

    a, b = world.producer.paid("a", 1, 2), world.producer.paid("b", 10, 20)
    world.deliver(a[0], b[0], a[1], b[1])
    loop = world.settle()
    assert world.ledger() == [("b", 10), ("b", 20)]
    assert world.parked() == {"a": ("poison", "ValueError: no account a", 1)}
    assert world.kept() == 2
    world.after(1.0, loop)
    assert world.parked()["a"][2] == 2
    broken.clear()
    world.after(2.0, loop)
    assert world.of("a") == [1, 2]
    assert world.parked() == {}
    assert world.kept() == 0
    assert world.count("applied") == 4


def test_attempts_end_and_the_key_waits_for_somebody(world: World) -> None:
    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        raise ValueError("never")

    world.deliver(*world.producer.paid("a", 1))
    loop = world.settle(world.loop(attempts_max=3))
    for _ in range(5):
        world.after(60.0, loop)
    assert world.parked()["a"][2] == 3
    assert world.rows("SELECT due_ms FROM oncebox.key WHERE key = 'a'") == [(None,)]


def test_a_number_used_twice_parks_the_key_as_a_fork(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3)
    world.deliver(*a)
    loop = world.settle()
    world.producer.restore("a", 1)
    other = world.producer.paid("a", 20, 30)
    world.deliver(*other)
    world.settle(loop)
    assert world.of("a") == [1, 2, 3]
    assert world.parked()["a"][0] == "fork"
    assert world.count("forks") >= 1
    assert world.rows("SELECT what, key FROM oncebox.journal")[0] == ("fork", "a")


def test_one_id_with_other_bytes_is_a_fork(world: World) -> None:
    world.handles_paid()
    (a,) = world.producer.paid("a", 1)
    world.deliver(a, a.altered(value=b'{"order":"a","cents":100}'))
    world.settle()
    assert world.of("a") == [1]
    assert world.parked()["a"][0] == "fork"


def test_a_void_advances_its_key(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3)
    world.deliver(a[0], a[1].void(), a[2], a[1])
    world.settle()
    assert world.of("a") == [1, 3]
    assert world.count("voided") == 1
    assert world.count("duplicates") == 1


def test_a_type_without_handler_is_ignored_and_advances(world: World) -> None:
    world.handles_paid()
    first, (second,) = world.producer.commit(Noted("a", "hi")), world.producer.paid("a", 2)
    world.deliver(second, first)
    world.settle()
    assert world.of("a") == [2]
    assert world.count("ignored") == 1


def test_events_without_key_take_effect_once_by_id(world: World) -> None:
    @world.consumer.on(Opened)
    def opened(tx: Any, event: Opened) -> None:
        world.record(tx, "shop", event.cents)

    one, two = world.producer.commit(Opened(1)), world.producer.commit(Opened(2))
    late = one.altered(time_ms=one.outgoing.time_ms + 60_000)
    world.deliver(one, two, late, two)
    world.settle()
    assert sorted(world.of("shop")) == [1, 2]
    assert world.count("duplicates") == 2


def test_a_payload_that_does_not_fit_parks_its_key_with_the_path(world: World) -> None:
    world.handles_paid()
    a, (b,) = world.producer.paid("a", 1, 2), world.producer.paid("b", 10)
    world.deliver(a[0].altered(value=b'{"order":"a","cents":"many"}'), a[1], b)
    world.settle()
    assert world.ledger() == [("b", 10)]
    assert "$.cents" in world.parked()["a"][1]
    assert world.kept() == 2


def test_an_unknown_version_parks_its_key_until_somebody_deploys(world: World) -> None:
    world.handles_paid()
    (a,) = world.producer.paid("a", 1)
    world.deliver(a.with_header("ce_dataschema", "oncebox:order.paid/7"))
    world.settle()
    assert "version 7" in world.parked()["a"][1]


def test_a_record_that_cannot_be_read_is_kept_in_quarantine(world: World) -> None:
    world.handles_paid()
    a, b = world.producer.paid("a", 1), world.producer.paid("b", 10)
    world.deliver(a[0].with_header("ce_chain", "1:x"), b[0])
    world.settle()
    assert world.ledger() == [("b", 10)]
    ((reason, topic),) = world.rows("SELECT reason, topic FROM oncebox.quarantine")
    assert "chain" in reason
    assert topic == TOPIC
    assert world.count("quarantined") == 1


def test_after_waits_for_an_event_of_another_key(world: World) -> None:
    world.handles_paid()
    a, b = world.producer.paid("a", 1, 2), world.producer.paid("b", 10)
    waits = world.producer.commit(Paid("b", 20), after=a[1].reference)
    world.deliver(b[0], waits, a[0])
    loop = world.settle()
    assert world.of("b") == [10]
    world.deliver(a[1])
    world.settle(loop)
    assert world.ledger() == [("b", 10), ("a", 1), ("a", 2), ("b", 20)]
    assert world.count("applied") == 4


def test_after_a_source_that_nobody_here_reads_is_satisfied(world: World) -> None:
    world.handles_paid()
    far = Reference("/bank/transfers", "t-1", 2**60)
    world.deliver(world.producer.commit(Paid("b", 20), after=far))
    world.settle()
    assert world.of("b") == [20]


def test_a_wake_up_that_a_crash_lost_is_made_good(world: World) -> None:
    world.handles_paid()
    (a,) = world.producer.paid("a", 1)
    waits = world.producer.commit(Paid("b", 20), after=a.reference)
    world.deliver(waits)
    loop = world.settle()
    world.deliver(a)
    while not world.of("a"):
        drive(loop.turn())
    assert world.of("b") == []
    drive(loop.leave())
    world.settle(world.loop("two"))
    assert world.of("b") == [20]


@pytest.mark.parametrize("misdeed", ["commit", "rollback", "swallow"])
def test_a_handler_that_breaks_its_transaction_is_named_and_parked(
    world: World, misdeed: str
) -> None:
    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        world.record(tx, paid.order, paid.cents)
        if paid.order != "a":
            return
        if misdeed == "commit":
            tx.commit()
        elif misdeed == "rollback":
            tx.rollback()
        else:
            try:
                tx.execute("SELECT * FROM no_such_table")
            except Exception:
                pass

    a, b = world.producer.paid("a", 1), world.producer.paid("b", 10, 20)
    world.deliver(b[0], a[0], b[1])
    loop = world.settle()
    assert world.of("b") == [10, 20]
    if misdeed == "swallow" and world.store.dialect == "sqlite":
        assert world.of("a") == [1]  # SQLite undoes the statement alone: nothing is broken
        return
    assert world.of("a") == []
    park, reason, _ = world.parked()["a"]
    assert park == "poison"
    assert "pay" in reason or "FOREIGN KEY" in reason  # the open batch refuses a COMMIT
    for _ in range(3):
        world.after(60.0, loop)
        drive(redrive(desk_of(world), wait_list(world)))  # nor does one that is tried again
    world.after(1.0, loop)
    assert world.of("a") == []
    assert world.parked()["a"][0] == "poison"


def test_a_constraint_that_fails_at_commit_parks_the_event_that_broke_it(world: World) -> None:
    world.session.run("CREATE TABLE account (id TEXT PRIMARY KEY)")
    world.session.run(
        "CREATE TABLE payment (account TEXT REFERENCES account (id) DEFERRABLE INITIALLY DEFERRED)"
    )
    world.session.run("INSERT INTO account (id) VALUES ('b')")

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        world.record(tx, paid.order, paid.cents)
        tx.execute(f"INSERT INTO payment (account) VALUES ('{paid.order}')")

    a, b = world.producer.paid("a", 1), world.producer.paid("b", 10, 20)
    world.deliver(b[0], a[0], b[1])
    world.settle()
    assert world.of("b") == [10, 20]
    assert world.of("a") == []
    assert "at its end" in world.parked()["a"][1]


def test_an_outage_spends_no_attempts(world: World) -> None:
    down = [True, True, True]

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if down:
            down.pop()
            raise ConnectionError("the bank does not answer")
        world.record(tx, paid.order, paid.cents)

    world.deliver(*world.producer.paid("a", 1, 2))
    world.settle()
    assert world.of("a") == [1, 2]
    assert world.parked() == {}
    assert len([s for s in world.slept if s > 0]) == 3


def test_once_has_an_effect_outside_exactly_once(world: World) -> None:
    charges: list[tuple[str, int]] = []
    fail = [True]

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid, context: Context[None]) -> None:
        world.record(tx, paid.order, -1)

        def charge(key: str) -> str:
            charges.append((key, paid.cents))
            return f"receipt {paid.cents}"

        receipt = context.once("charge", charge)
        if fail:
            fail.pop()
            raise ValueError("after the charge")
        assert receipt == f"receipt {paid.cents}"
        world.record(tx, paid.order, paid.cents)

    world.deliver(*world.producer.paid("a", 1, 2))
    loop = world.settle()
    world.after(5.0, loop)
    assert world.of("a") == [-1, 1, -1, 2]
    assert [cents for _, cents in charges] == [1, 2]
    assert len({key for key, _ in charges}) == 2


def test_once_calls_again_with_the_same_key_when_its_result_is_not_known(world: World) -> None:
    keys: list[str] = []

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid, context: Context[None]) -> None:
        def charge(key: str) -> int:
            keys.append(key)
            if len(keys) == 1:
                raise ConnectionError("no answer: charged or not, who knows")
            return paid.cents

        world.record(tx, paid.order, context.once("charge", charge))

    world.deliver(*world.producer.paid("a", 7))
    loop = world.settle()
    world.after(5.0, loop)
    assert world.of("a") == [7]
    assert len(keys) == 2
    assert keys[0] == keys[1]
    assert world.rows("SELECT tries FROM oncebox.effect") == [(1,)]  # since it was last heard of


def test_a_zombie_commits_nothing(world: World) -> None:
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1))
    zombie = world.loop("zombie")
    drive(zombie.upkeep(world.now_ms))
    assert zombie.held
    world.rows("UPDATE oncebox.cursor SET lease_until = 0 RETURNING 1")
    world.rows("DELETE FROM oncebox.member RETURNING 1")
    world.settle(world.loop("owner"))
    zombie.next_upkeep_ms = zombie.next_sweep_ms = world.now_ms + 10_000
    with pytest.raises(Exception, match="another owner"):
        drive(zombie.turn())
    assert world.of("a") == [1]
    assert world.count("applied") == 1


def test_the_event_that_kills_its_process_is_found_and_parked(world: World) -> None:
    deadly = {"a"}

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if paid.order in deadly:
            raise SystemExit(137)
        world.record(tx, paid.order, paid.cents)

    a, b = world.producer.paid("a", 1), world.producer.paid("b", 10, 20)
    world.deliver(b[0], a[0], b[1])
    for life in range(8):
        world.rows("UPDATE oncebox.cursor SET lease_until = 0 RETURNING 1")
        world.rows("DELETE FROM oncebox.member RETURNING 1")
        try:
            loop = world.settle(world.loop(f"life {life}"))
        except SystemExit:
            continue
        break
    else:
        pytest.fail("the process died eight times")
    assert world.of("b") == [10, 20]
    assert "died" in world.parked()["a"][1]
    assert world.rows("SELECT due_ms FROM oncebox.key WHERE key = 'a'") == [(None,)]
    for _ in range(5):
        world.after(3600.0, loop)  # it is not tried again by itself: it would kill once more
    deadly.clear()
    drive(redrive(desk_of(world), wait_list(world)))
    world.after(1.0, loop)
    assert world.of("a") == [1]


def test_too_many_parked_keys_pause_the_consumer(world: World) -> None:
    missing_column = failing_for_all(world)
    sent = [world.producer.paid(f"k{i}", i)[0] for i in range(40)]
    world.deliver(*sent)
    loop = world.settle(world.loop(parked_max=10, batch_max=5))
    assert loop.paused
    assert 10 < len(world.parked()) < 40
    missing_column.clear()
    for _ in range(10):
        world.after(60.0, loop)
    assert len(world.ledger()) == 40
    assert not loop.paused


def test_a_consumer_that_starts_at_a_time_runs_nothing_from_before(world: World) -> None:
    world.handles_paid()
    world.producer.clock -= 300_000_000  # within the margin: they are read, and not run
    old = world.producer.paid("a", 1, 2)
    world.producer.clock += 60_000_000
    start = datetime.fromtimestamp(world.producer.clock / 1e6, UTC)
    new = world.producer.paid("a", 3) + world.producer.paid("b", 10)
    unkeyed = world.producer.commit(Opened(1)).with_header("ce_time", "2020-01-01T00:00:00Z")
    world.deliver(*old, unkeyed, *new)
    world.settle(world.loop(start=start))
    assert world.of("a") == [3]
    assert world.of("b") == [10]
    assert world.count("before_start") == 3
    assert world.parked() == {}


def test_a_topic_made_anew_is_read_from_its_start(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2)
    world.deliver(*a)
    loop = world.settle()
    drive(loop.leave())
    world.log.drop(TOPIC)  # type: ignore[attr-defined]
    world.log.create(TOPIC, 1)
    world.deliver(*a, *world.producer.paid("a", 3))
    world.settle(world.loop("two"))
    assert world.of("a") == [1, 2, 3]
    assert world.count("duplicates") == 2


def test_records_that_expired_unread_show_as_a_gap(world: World) -> None:
    world.handles_paid()
    a = world.producer.paid("a", 1, 2, 3)
    world.deliver(a[0])
    loop = world.settle()
    drive(loop.leave())
    world.deliver(a[1])
    world.deliver(a[2])
    world.log.truncate(TOPIC, 0, 2)  # type: ignore[attr-defined]
    world.settle(world.loop("two"))
    assert world.of("a") == [1]
    assert world.kept() == 1


def test_two_sources_have_chains_of_their_own(world: World) -> None:
    world.handles_paid()
    other = Producer("/shop/eu/orders")
    world.deliver(*world.producer.paid("a", 1, 2), *other.paid("a", 10, 20))
    world.settle()
    assert sorted(world.of("a")) == [1, 2, 10, 20]
    assert world.count("forks") == 0


def test_a_long_batch_commits_what_it_has(world: World) -> None:
    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        world.record(tx, paid.order, paid.cents)
        world.now_ms += 100

    world.deliver(*(world.producer.paid(f"k{i}", i)[0] for i in range(300)))
    loop = world.loop(batch_time_s=1.0)
    drive(loop.turn())
    world.settle(loop)
    assert len(world.ledger()) == 300


def test_sqlite_file_of_the_store_may_hold_the_log_too(tmp_path: Path) -> None:
    store = make_store("sqlite", tmp_path, None)
    world = World(store, tmp_path)
    world.handles_paid()
    world.deliver(*world.producer.paid("a", 1))
    world.settle()
    assert world.of("a") == [1]
    world.close()
    with sqlite3.connect(tmp_path / "store.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_version_two_handler_gets_version_two(world: World) -> None:
    @event("order.paid", stream=TOPIC, key="order", version=2)
    @dataclass(frozen=True)
    class PaidV2:
        order: str
        cents: int
        currency: str

    @world.consumer.on(PaidV2)
    def pay(tx: Any, paid: PaidV2) -> None:
        world.record(tx, paid.currency, paid.cents)

    world.deliver(world.producer.commit(PaidV2("a", 1, "EUR")))
    world.settle()
    assert world.of("EUR") == [1]


def test_wake_ups_that_cannot_help_are_in_nobodys_way(world: World) -> None:
    """A hundred keys with a gap, whose waits are over, filled every page of the lost wake-ups."""
    world.handles_paid()
    (first,) = world.producer.paid("first", 1)
    for key in range(DRAIN_MAX):
        world.producer.paid(f"a{key}", 1)
        world.deliver(world.producer.commit(Paid(f"a{key}", 2), after=first.reference))
    world.deliver(world.producer.commit(Paid("z", 1), after=first.reference))
    loop = world.settle()
    world.deliver(first)
    while not world.of("first"):
        drive(loop.turn())
    drive(loop.leave())
    assert world.of("z") == []
    world.settle(world.loop("two"))
    assert world.of("z") == [1]


def deadly(world: World, *events: tuple[str, int]) -> None:
    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if (paid.order, paid.cents) in events:
            raise SystemExit(137)
        world.record(tx, paid.order, paid.cents)


def test_an_event_that_kills_when_it_is_woken_is_found(world: World) -> None:
    deadly(world, ("b", 20))
    (a,) = world.producer.paid("a", 1)
    waits = world.producer.commit(Paid("b", 20), after=a.reference)
    world.deliver(waits, world.producer.commit(Paid("c", 30), after=a.reference))
    drive(world.settle().leave())
    world.deliver(a)
    loop = world.lives()
    assert world.ledger() == [("a", 1), ("c", 30)]
    assert "died" in world.parked()["b"][1]
    world.after(3600.0, loop)  # nor is it tried again by itself


def test_an_event_that_kills_behind_a_filled_gap_is_found(world: World) -> None:
    deadly(world, ("a", 3))
    a = world.producer.paid("a", 1, 2, 3, 4)
    world.deliver(a[0], a[2], a[3])
    drive(world.settle().leave())
    world.deliver(*world.producer.paid("b", 10), a[1], *world.producer.paid("b", 20))
    world.lives()
    assert world.of("a") == [1, 2]
    assert world.of("b") == [10, 20]
    assert "died" in world.parked()["a"][1]
    assert world.kept() == 2


def test_who_dies_once_while_an_event_is_noted_does_not_park_it(world: World) -> None:
    """Its process may have been killed by something else."""
    left = [4]  # deaths, the last of them while the event is noted

    @world.consumer.on(Paid)
    def pay(tx: Any, paid: Paid) -> None:
        if paid.order == "a" and left[0]:
            left[0] -= 1
            raise SystemExit(137)
        world.record(tx, paid.order, paid.cents)

    world.deliver(*world.producer.paid("a", 1, 2), *world.producer.paid("b", 10))
    world.lives()
    assert world.ledger() == [("a", 1), ("a", 2), ("b", 10)]
    assert world.parked() == {}
