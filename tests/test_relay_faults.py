"""What happens to a relay at the worst moment: each of these once lost an event, or stood still."""

from __future__ import annotations

import pytest

from oncebox.errors import BadEvent
from oncebox.outbox import history
from oncebox.ports import Outgoing, Refusal
from oncebox.program import drive
from producing import SOURCE, Outbox, check_chains


class Stopped(BaseException):
    """As a cancelled task or Ctrl-C: the program still leaves in good order."""


def test_a_relay_stopped_while_it_notes_a_refusal_does_not_pass_over_it(outbox: Outbox) -> None:
    """It stored that all of the batch was published, and left."""

    def refuse(record: Outgoing) -> Refusal | None:
        return None if record.key == b"b" else Refusal(0, "not now", permanent=False)

    outbox.log.refuse = refuse
    outbox.emit("a", "b", None, "a")
    relay = outbox.relay("first")

    def stop_at_the_next_transaction(_: object) -> None:
        session = relay.session
        begin = session.begin

        def stopped_begin() -> None:
            session.begin = begin  # type: ignore[method-assign]
            raise Stopped

        session.begin = stopped_begin  # type: ignore[method-assign]

    outbox.log.after = stop_at_the_next_transaction
    with pytest.raises(Stopped):
        drive(relay.run(lambda: False))
    outbox.log.refuse = lambda _: None
    outbox.run("update oncebox.cursor set lease_until = 0 returning 1")
    outbox.rest(outbox.relay("second"))
    assert [one.chain.sequence for one in outbox.of_key("a")] == [1, 2]
    assert len([one for one in outbox.published() if one.key is None]) == 1


def test_an_event_that_somebody_deleted_is_a_gap_and_nothing_else(outbox: Outbox) -> None:
    """It was published without a name, for every consumer's quarantine."""
    outbox.emit("a", "a", "b")
    outbox.run("delete from oncebox.event where n = 1 returning 1")
    outbox.settle_holes(outbox.relay())
    published = outbox.published()
    assert sorted((str(one.key), one.chain.sequence) for one in published) == [("a", 2), ("b", 1)]


BAD_ATTRIBUTES = [
    '{"a": 5}',
    "[]",
    "5",
    '{"chain": "1:2:"}',
    '{"A": "b"}',
    '{"a": "' + "b" * 9000 + '"}',
]


def test_a_row_that_is_no_event_waits_and_holds_nobody_else(outbox: Outbox) -> None:
    """Anybody may insert rows; one with attributes that are none ended the relay."""
    bad = [*BAD_ATTRIBUTES, *(["no json", ""] if outbox.dialect == "sqlite" else [])]
    relay = outbox.relay()
    session = outbox.session
    session.begin()
    outbox.put(session, "good")
    for number, attributes in enumerate(bad):
        outbox.put(session, f"bad{number}", attributes=attributes)
        outbox.put(session, f"bad{number}")
        outbox.put(session, None, attributes=attributes)
        outbox.put(session, "good")
    outbox.put(session, "good", source="/shop/or ders")
    session.commit()
    outbox.settle(relay)
    assert [one.chain.sequence for one in outbox.published()] == list(range(1, len(bad) + 2))
    rows = outbox.run("select source, key, permanent, reason from oncebox.refused")
    assert len(rows) == 2 * len(bad) + 1
    for source, key, permanent, reason in rows:
        assert permanent
        for part in ("a row of the outbox is no event", "event ", "position ", "; expected what emit",
                     "mend the row"):  # fmt: skip
            assert part in reason
        assert f"source {source}" in reason
        assert key is None or f"key {key}" in reason
    with pytest.raises(BadEvent, match="attributes"):
        drive(history(session, outbox.sql, SOURCE, "bad0"))

    outbox.run(
        "update oncebox.event set attributes = null where attributes is not null returning 1"
    )
    for _ in range(3):
        outbox.clock.sleep(61.0)
        outbox.settle(relay)
    assert outbox.run("select source from oncebox.refused") == [("/shop/or ders",)]
    check_chains(outbox.published())
    assert len(outbox.published()) == 1 + 4 * len(bad)
