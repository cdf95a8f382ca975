"""The traces that broke the first version of the rules, one by one, and some that came later.

Each is the shortest that shows its hole. The words are explained in `world`: `c` commits, `R1`
restores the database to one event, `N` makes it anew, `>b2` delivers b2, the second event of the
second branch.
"""

from __future__ import annotations

import pytest

from .explore import forgets_what_was_pruned
from .trace import Story
from .world import Broken, Setup

ONE_PRUNE = Setup(prunes=1)


def test_a_pruned_event_does_not_run_again() -> None:
    story = Story("c >a1 prune >a1", ONE_PRUNE)
    assert story.effects == "a1"
    assert story.said[-1] == "before_start"


def test_a_new_database_with_the_clock_behind_is_no_duplicate() -> None:
    story = Story("c back N c >a1 >b1")
    assert (story.park, story.kept) == ("fork", "b1")


def test_the_same_number_of_another_branch_is_not_kept_already() -> None:
    story = Story("c c R1 c >a2 >b2")
    assert (story.park, story.kept) == ("fork", "a2 b2")


def test_what_is_kept_is_not_released_behind_another_branch() -> None:
    story = Story("c c R0 c >a2 >b1")
    assert story.effects == ""
    assert (story.park, story.kept) == ("fork", "b1 a2")


def test_a_void_does_not_overtake() -> None:
    story = Story("c c c E3 >a1 >v:a3")
    assert (story.effects, story.kept, story.gap) == ("a1", "v:a3", (2, 2))
    story.play(">a2")
    assert story.effects == "a1 a2"
    assert story.consumer.listed == {("a3", "void")}


@pytest.mark.parametrize("deliveries", [">a1 >v:a1 >a1", ">v:a1 >a1 >v:a1"])
def test_an_event_and_its_void_are_duplicates(deliveries: str) -> None:
    story = Story(f"c E1 {deliveries}")
    assert story.said == ["keep", "duplicate", "duplicate"]
    assert story.park == ""


def test_a_void_takes_the_place_of_kept_bytes() -> None:
    story = Story("c c E2 >a2 >v:a2")
    assert (story.said[-1], story.kept) == ("replace", "v:a2")


def test_a_gap_that_its_source_does_not_know_is_a_fork() -> None:
    story = Story("c c c R1 >a3")
    assert story.gap == (1, 2)
    assert story.play("ask").park == "fork"


def test_accept_adopts_the_history_instead_of_releasing_what_is_kept() -> None:
    story = Story("c c c R2 >a3 ask accept >a1")
    assert story.effects == "a1 a2"
    assert [orphan.id for orphan in story.consumer.orphans] == ["a3"]


def test_what_was_given_up_is_an_orphan_for_ever() -> None:
    story = Story("c c c N! >a1 >a3 ask accept >a1 >a3")
    assert story.effects == "a1"
    assert story.said[-2:] == ["orphan", "orphan"]


def test_skipping_a_gap_asks_first() -> None:
    story = Story("c R0 c c c >a1 >b3 skip", Setup(skips=1))
    assert (story.effects, story.park) == ("a1", "fork")


def test_stamps_are_unique_so_that_a_stopped_clock_hides_no_fork() -> None:
    story = Story("c back c R1 c c >a1 >b3 >a2")
    assert (story.effects, story.park) == ("a1", "fork")


def test_a_row_is_not_pruned_while_events_below_the_floor_are_on_their_way() -> None:
    story = Story("c c >a1 prune >a2", ONE_PRUNE)
    assert (story.said, story.effects) == (["keep", "refused", "keep"], "a1 a2")


def test_nobody_may_restore_below_the_floor_unannounced() -> None:
    story = Story("c >a1 prune", ONE_PRUNE)
    restored = story.producer.act("R0")
    assert restored is not None
    assert forgets_what_was_pruned(story.rig, story.producer, restored, story.consumer)
    with pytest.raises(Broken, match="another branch, unnoticed"):
        story.play("R0 c >b1")


def test_a_row_is_pruned_only_when_the_log_has_nothing_of_its_key_any_more() -> None:
    story = Story("c back c c R1 c >a1 >b2 prune", ONE_PRUNE)
    assert "a3" not in {str(record) for record in story.producer.log}
    with pytest.raises(Broken, match="a3 before a2"):
        story.play(">a3")


def test_accept_refuses_to_guess() -> None:
    story = Story("c back N c >a1 >b1 accept")
    assert (story.said[-1], story.park) == ("branch_unclear", "fork")
    story.play("accept:0 c >b2")
    assert story.effects == "a1 b1 b2"


def test_the_floor_covers_known_rows_too() -> None:
    story = Story("c c R1 >a1 prune c R1! >b2 ask >a2 >a1", ONE_PRUNE)
    assert story.effects == "a1 b2"
    assert story.said[-2:] == ["before_start", "before_start"]


def test_a_redrive_leaves_a_gap_a_gap() -> None:
    story = Story("c c c c >a1 >a2 >a4", Setup(poison=2))
    assert (story.park, story.gap) == ("poison", None)
    story.play("redrive")
    assert (story.park, story.gap, story.effects) == ("", (3, 3), "a1 a2")
    assert story.play(">a3").effects == "a1 a2 a3 a4"


# The two about `after=` are in test_after. From here on: found while this was built.


def test_one_id_with_two_contents_is_a_fork() -> None:
    story = Story("c T1 >t:a1 >a1")
    assert (story.effects, story.park, story.kept) == ("a1", "fork", "a1")
    story.play("accept c >a2 >>")
    assert (story.effects, story.park, story.kept) == ("a1 a2", "", "")


def test_two_contents_that_wait_stay_both_until_the_source_is_asked() -> None:
    story = Story("c c T2 >a2 >t:a2")
    assert (story.park, story.kept) == ("fork", "a2 a2")
    story.play("accept >>")
    assert (story.effects, story.park, story.kept) == ("a1 a2", "", "")


def test_a_void_removes_every_content_that_waits() -> None:
    story = Story("c c T2 E2 >a2 >t:a2 >v:a2")
    assert (story.park, story.kept) == ("fork", "v:a2")


def test_a_void_of_the_failing_event_unparks_its_key() -> None:
    story = Story("c c c E2 >a1 >a2 >a3", Setup(poison=2))
    assert (story.park, story.kept) == ("poison", "a2 a3")
    assert story.play(">v:a2").effects == "a1 a3"


def test_a_skipped_number_that_comes_after_all_is_late() -> None:
    story = Story("c c c >a1 >a3 skip >a2 >a3", Setup(skips=1))
    assert story.effects == "a1 a3"
    assert story.said[-2:] == ["late", "duplicate"]


def test_a_skipped_failure_is_late_when_it_comes_again() -> None:
    story = Story("c c >a1 >a2 skip >a2", Setup(poison=2, skips=1))
    assert (story.said[-1], story.park) == ("late", "")


def test_a_row_set_back_by_accept_forgets_what_was_skipped_beyond() -> None:
    story = Story("c c c >a1 >a3 skip R1! c >b2 accept", Setup(skips=1))
    assert (story.effects, story.consumer.state.skipped) == ("a1 a3 b2", ())
    assert story.play(">b2").said[-1] == "duplicate"


def test_a_fork_keeps_everything_that_still_comes() -> None:
    story = Story("c c R1 c c >a1 >a2 >b2 >b3 >a1")
    assert story.said == ["keep", "keep", "fork", "fork", "duplicate"]
    assert story.kept == "b2 b3"
    assert story.play("accept").effects == "a1 a2 b2 b3"
