"""Records that could not be read: listed, shown, taken in again, given up."""

from __future__ import annotations

from typing import Any, cast

import pytest

from chains import TOPIC, World
from oncebox.errors import NotFound, Refused
from oncebox.operate.quarantine import drop, quarantined, retry, shown
from oncebox.program import drive
from oncebox.session import Session
from operating import desk_of, world_record


def bad_record(world: World) -> Any:
    (sent,) = world.producer.paid("a", 1)
    world.deliver(sent.with_header("ce_chain", "nonsense"))
    world.settle()
    return sent


def test_the_quarantine_lists_and_shows_what_came(world: World) -> None:
    world.handles_paid()
    bad_record(world)
    (one,) = drive(quarantined(desk_of(world)))
    assert one.position == f"{TOPIC}/0@0"
    assert "chain" in one.reason
    record = drive(shown(desk_of(world), one.n))
    assert (record.key, record.topic) == (b"a", TOPIC)
    with pytest.raises(NotFound):
        drive(shown(desk_of(world), one.n + 1))


def test_retry_refuses_what_still_cannot_be_read(world: World) -> None:
    world.handles_paid()
    bad_record(world)
    (one,) = drive(quarantined(desk_of(world)))
    with pytest.raises(Refused, match="still cannot be read"):
        drive(retry(desk_of(world), one.n))
    assert len(drive(quarantined(desk_of(world)))) == 1


@pytest.mark.parametrize("again", [False, True])
def test_retry_takes_a_record_in_that_can_be_read_now(world: World, again: bool) -> None:
    """As after an update that reads more: the row holds a record that is fine by now."""
    from oncebox.consumer.reading import record_bytes

    world.handles_paid()
    sent = bad_record(world)
    loop = world.loops[0]
    (one,) = drive(quarantined(desk_of(world)))
    good = record_bytes(world_record(sent))
    sql = "UPDATE oncebox.quarantine SET record = $1"
    if world.store.dialect == "sqlite":
        sql = sql.replace("oncebox.", "oncebox_").replace("$1", "?")
    cast("Session", world.session).run(sql, (good,))
    if again:
        world.deliver(sent)
        world.settle(loop)
    result = drive(retry(desk_of(world), one.n))
    assert result == ("dropped" if again else "kept")
    world.after(2, loop)
    assert world.of("a") == [1]
    assert drive(quarantined(desk_of(world))) == []


def test_drop_is_noted(world: World) -> None:
    world.handles_paid()
    bad_record(world)
    (one,) = drive(quarantined(desk_of(world)))
    drive(drop(desk_of(world), one.n, "a test sent it"))
    assert drive(quarantined(desk_of(world))) == []
    ((what, detail),) = world.rows("SELECT what, detail FROM oncebox.journal")
    assert what == "drop"
    assert "a test sent it" in detail
