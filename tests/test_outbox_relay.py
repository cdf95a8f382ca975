"""Properties 5 to 7 of the outbox: what its relay publishes, who relays, what stays readable.

On real engines; see `docs/design.md`.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from oncebox.envelope import USUAL
from oncebox.errors import Unreachable
from oncebox.outbox import history
from oncebox.ports import Refusal
from oncebox.program import drive
from producing import SOURCE, Outbox, Published, await_true, check_chains

# ---- 5


class Died(BaseException):
    """What ends a relay at once, in place of SIGKILL."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_property_05_a_crash_around_publishing_loses_nothing(outbox: Outbox, when: str) -> None:
    outbox.emit("a", "b", "a")
    first = outbox.rest(outbox.relay())
    outbox.emit("a", "c")

    def die(records: Any) -> None:
        raise Died

    setattr(outbox.log, when, die)
    with pytest.raises(Died):
        outbox.settle(first)
    setattr(outbox.log, when, lambda _: None)
    outbox.emit("a")
    outbox.settle(outbox.relay())
    ids = outbox.ids()
    assert len(set(ids)) == 6
    assert len(ids) == (6 if when == "before" else 8), "what was not stored is published again"
    assert order_of_first_seen(outbox.of_key("a")) == [1, 2, 3, 4]


def order_of_first_seen(published: list[Published]) -> list[int]:
    return list(dict.fromkeys(one.chain.sequence for one in published))


def test_property_05_the_cursor_moves_only_over_what_was_acknowledged(outbox: Outbox) -> None:
    outbox.emit("a", "b")
    relay = outbox.rest(outbox.relay())
    watch, seen = outbox.open(), []
    dot = "." if outbox.dialect == "postgres" else "_"

    def look(records: Any) -> None:
        ((position,),) = watch.run(f"select position from oncebox{dot}cursor")
        seen.append(position)

    outbox.log.before = outbox.log.after = look
    outbox.emit("a", "b")
    outbox.settle(relay)
    assert seen == ["[3,2,[]]"] * 2
    outbox.rest(relay)
    assert outbox.stored(relay) == "[5,4,[]]"


def test_property_05_a_refused_key_waits_and_all_others_go_on(outbox: Outbox) -> None:
    poor = {b"b"}
    outbox.log.refuse = lambda r: Refusal(0, "no", permanent=False) if r.key in poor else None
    relay = outbox.relay(retry_s=10.0)
    outbox.emit("a", "b", "a", "b", None, "c")
    outbox.settle(relay)
    outbox.emit("b", "a")
    outbox.settle(relay)
    assert [len(outbox.of_key(key)) for key in "abc"] == [3, 0, 1]
    poor.clear()
    outbox.settle(relay)
    assert outbox.of_key("b") == [], "it waits for its time"
    outbox.clock.sleep(11.0)
    outbox.emit("b")
    outbox.settle(relay)
    assert [one.chain.sequence for one in outbox.of_key("b")] == [1, 2, 3, 4]
    assert outbox.run("select count(*) from oncebox.refused") == [(0,)]
    check_chains(outbox.published())


def test_property_05_an_outage_of_the_log_is_waited_out(outbox: Outbox) -> None:
    failures = 3

    def fail(records: Any) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise Unreachable("nobody answers")

    outbox.log.before = fail
    outbox.emit("a", "b")
    began = outbox.clock.now
    relay = outbox.relay()
    drive(relay.run(lambda: bool(outbox.ids())))
    assert len(outbox.ids()) == 2
    assert outbox.clock.now - began >= 0.1 + 0.2 + 0.4
    assert outbox.run("select count(*) from oncebox.refused") == [(0,)]


# ---- 6


def test_property_06_one_relays_and_another_takes_over(outbox: Outbox) -> None:
    outbox.emit("a")
    first, second = outbox.relay("first", lease_s=0.3), outbox.relay("second", lease_s=0.3)
    outbox.rest(first)  # what it has not stored would be published twice
    outbox.emit("a")
    drive(second.turn())
    assert second.held is None
    assert len(outbox.ids()) == 1

    # The first falls silent: the second takes over when the lease has run out.
    await_true(lambda: drive(second.turn()) and second.held is not None, "the second to lead")
    outbox.emit("a")
    outbox.settle(second)
    outbox.settle(second)
    stored = outbox.stored(second)

    # The first wakes up: its term has ended, so it reads and publishes nothing.
    outbox.emit("a")
    drive(first.run(lambda: first.held is None))
    assert outbox.stored(second) == stored
    outbox.settle(second)
    assert [one.chain.sequence for one in outbox.of_key("a")] == [1, 2, 3, 4]


def test_property_06_a_zombie_is_stopped_and_its_duplicates_are_in_order(outbox: Outbox) -> None:
    outbox.emit("a")
    first, second = outbox.relay("first", lease_s=0.3), outbox.relay("second", lease_s=0.3)
    outbox.rest(first)

    def stall(records: Any) -> None:
        """What the first has read, the second publishes; then the first goes on."""
        outbox.log.before = lambda _: None
        await_true(lambda: drive(second.turn()) and second.held is not None, "the second to lead")
        outbox.emit("a")
        outbox.rest(second)

    outbox.log.before = stall
    outbox.emit("a", "a")
    drive(first.run(lambda: first.held is None))
    assert outbox.stored(second) == "[5,4,[]]"
    assert [one.chain.sequence for one in outbox.of_key("a")] == [1, 2, 3, 4, 2, 3]


def test_property_06_a_relay_that_ends_makes_room_at_once(outbox: Outbox) -> None:
    outbox.emit("a")
    first = outbox.relay("first", lease_s=60.0)
    turns = iter(range(3))
    drive(first.run(lambda: next(turns, None) is None))
    outbox.emit("a")
    outbox.settle(outbox.relay("second", lease_s=60.0))
    assert [one.chain.sequence for one in outbox.of_key("a")] == [1, 2]


# ---- 7


PARTITION = 2_000
LIMITS: dict[str, Any] = {"partition_events": PARTITION, "upkeep_s": 0.0}
BATCH = [f"k{i % 20}" for i in range(1_500)]


def size(outbox: Outbox) -> int:
    ((count,),) = outbox.run("select count(*) from oncebox.event")
    return int(count)


def test_property_07_published_events_stay_readable_and_size_stays_flat(outbox: Outbox) -> None:
    outbox.small_partitions(PARTITION)
    relay = outbox.relay(retention_s=3600.0, **LIMITS)
    for _ in range(3):
        outbox.emit_many(BATCH)
        outbox.rest(relay)
    found = drive(history(outbox.session, outbox.sql, SOURCE, "k7"))
    assert [link.sequence for link in found.links] == list(range(1, 3 * 75 + 1))
    assert len(found.records) == 3 * 75

    drive(relay.run(lambda: True))
    relay = outbox.relay(retention_s=0.0, **LIMITS)
    sizes = []
    for _ in range(12):
        outbox.emit_many(BATCH)
        outbox.rest(relay)
        sizes.append(size(outbox))
    assert len(outbox.ids()) == 15 * 1_500
    check_chains(outbox.published())
    assert max(sizes) <= PARTITION, sizes
    if outbox.dialect == "postgres":
        ((tables,),) = outbox.run("select count(*) from oncebox.partition")
        assert tables <= 6
        assert outbox.run("select count(*) from oncebox.event_default") == [(0,)]
    outbox.emit("k7")
    found = drive(history(outbox.session, outbox.sql, SOURCE, "k7"))
    assert found.links[-1].sequence == 15 * 75 + 1
    assert 1 <= len(found.links) <= PARTITION // 20 + 1


def test_property_07_what_no_relay_has_published_is_never_dropped(outbox: Outbox) -> None:
    outbox.small_partitions(PARTITION)
    outbox.log.refuse = lambda r: Refusal(0, "no", permanent=True) if r.key == b"poor" else None
    relay = outbox.relay(retention_s=0.0, **LIMITS)
    outbox.emit("poor")
    for i in range(3):
        outbox.emit_many(BATCH)
        outbox.rest(relay)
        assert size(outbox) == (i + 1) * 1_500 + 1
    outbox.log.refuse = lambda _: None
    outbox.clock.sleep(3600.0)
    outbox.rest(relay)
    assert len(outbox.of_key("poor")) == 1
    before = size(outbox)
    assert before <= PARTITION

    outbox.emit("z", source="/mail/letters")  # another service, which has no relay yet
    for _ in range(3):
        outbox.emit_many(BATCH)
        outbox.rest(relay)
    assert size(outbox) == before + 3 * 1_500 + 1
    other = outbox.rest(outbox.relay("other", service="mail", retention_s=0.0, **LIMITS))
    assert len(outbox.ids("letters")) == 1
    outbox.rest(relay)
    outbox.rest(other)
    assert size(outbox) <= PARTITION


def test_property_07_dropping_waits_for_nobody_long(on_postgres: Outbox) -> None:
    outbox = on_postgres
    outbox.small_partitions(100)
    relay = outbox.rest(
        outbox.relay(retention_s=0.0, partition_events=100, upkeep_s=0.0, lock_wait_s=0.02)
    )
    session = outbox.open()
    session.begin()
    outbox.put(session, "open")  # uses the table until it commits
    outbox.emit_many(["a"] * 250)
    outbox.rest(relay)
    oldest = "select min(lower) from oncebox.partition where parent = 'event'"
    assert outbox.run(oldest) == [(0,)]
    outbox.emit("a")
    session.commit()
    outbox.rest(relay)
    assert outbox.run(oldest) == [(100,)]
    assert len(outbox.ids()) == 252


def test_property_07_what_commits_while_dropping_waits_is_kept(on_postgres: Outbox) -> None:
    outbox = on_postgres
    outbox.small_partitions(100)
    relay = outbox.relay(retention_s=0.0, partition_events=100, upkeep_s=0.0, lock_wait_s=20.0)
    outbox.emit_many(["a"] * 60)
    session = outbox.open()
    session.begin()
    outbox.put(session, "open")
    outbox.emit_many(["a"] * 60)
    outbox.settle(relay)
    drive(relay._save())
    dropping = threading.Thread(target=drive, args=(relay.turn(),))
    dropping.start()
    waits = (
        "select exists (select from pg_locks where mode = 'AccessExclusiveLock' and not granted)"
    )
    await_true(lambda: outbox.run(waits) == [(True,)], "the drop to wait")
    session.commit()
    dropping.join()
    outbox.rest(relay)
    assert len(outbox.of_key("open")) == 1
    assert len(outbox.ids()) == 121


def test_records_are_what_was_emitted(outbox: Outbox) -> None:
    """Bytes, key, headers: nothing added, nothing decoded."""
    session = outbox.session
    session.begin()
    id = outbox.put(session, "ключ/1", b"\xff\x00not json", attributes='{"traceparent": "00-a"}')
    outbox.put(session, "x", after=(SOURCE, "ключ/1", None))
    session.commit()
    outbox.settle(outbox.relay())
    (one,) = outbox.of_key("ключ/1")
    record: Any = one.record
    assert record.value == b"\xff\x00not json"
    assert record.key == "ключ/1".encode()
    assert dict(record.headers) == {
        "ce_specversion": b"1.0", "ce_id": id.encode(), "ce_source": b"/shop/orders",
        "ce_type": b"order.placed", "content-type": b"application/json",
        "ce_dataschema": b"oncebox:order.placed/1", "traceparent": b"00-a",
        "ce_chain": f"1:{one.chain.stamp}:".encode(),
    }  # fmt: skip
    assert record.time_ms == one.chain.stamp // 1024 // 1000
    (other,) = outbox.of_key("x")
    assert other.envelope.after == (SOURCE, "ключ/1", one.chain.stamp)


def test_headers_stand_where_readers_look_first(outbox: Outbox) -> None:
    """They looked for another order than the relay's, and each record was read the slow way."""
    seen: list[Any] = []
    outbox.log.before = seen.extend
    outbox.emit("a")
    outbox.settle(outbox.relay())
    assert tuple(name for name, _ in seen[0].headers) == USUAL
