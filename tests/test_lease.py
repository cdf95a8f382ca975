"""Who reads what: partitions are shared evenly, and move only when they have to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from oncebox.lease import fair_share
from oncebox.ports import TopicPartition

NAMES = ("a", "b", "c", "d", "e")
ROUNDS_MAX = 12


def settle(holders: dict[TopicPartition, str | None], members: list[str]) -> int:
    """Let members decide in turn until nothing moves; how many partitions moved."""
    moved = 0
    for _ in range(ROUNDS_MAX):
        before = dict(holders)
        for me in members:
            take, back = fair_share(holders, me, members)
            for place in back:
                holders[place] = None
            for place in take:
                assert holders[place] is None or holders[place] not in members
                holders[place] = me
                moved += 1
        if holders == before:
            return moved
    raise AssertionError(f"still moving after {ROUNDS_MAX} rounds: {holders}")


@given(
    total=st.integers(0, 13),
    members=st.lists(st.sampled_from(NAMES), min_size=1, unique=True),
    data=st.data(),
)
def test_every_partition_has_a_reader_and_nobody_two_above_another(
    total: int, members: list[str], data: st.DataObject
) -> None:
    holder = st.sampled_from([None, "gone", *members])
    holders = {("t", i): data.draw(holder) for i in range(total)}
    settle(holders, members)
    counts = [sum(1 for h in holders.values() if h == name) for name in members]
    assert sum(counts) == total
    assert max(counts) - min(counts) <= 1


@given(total=st.integers(1, 13), members=st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
def test_what_is_shared_evenly_stays(total: int, members: list[str]) -> None:
    holders: dict[TopicPartition, str | None] = {("t", i): None for i in range(total)}
    settle(holders, members)
    assert settle(dict(holders), members) == 0


def test_a_member_that_leaves_moves_only_its_own() -> None:
    holders: dict[TopicPartition, str | None] = {("t", i): None for i in range(6)}
    settle(holders, ["a", "b", "c"])
    before = dict(holders)
    settle(holders, ["a", "b"])
    assert all(holders[p] == h for p, h in before.items() if h != "c")
