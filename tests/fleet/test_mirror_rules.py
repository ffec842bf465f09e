"""What is written of a stream next, by values."""

from __future__ import annotations

import pytest

from app.fleet.mirror_rules import REFRESH_S, Ending, Found, Memory, Standing, Step


def standing(written_id: int = 0, epoch: int = 1) -> Standing:
    """Of a log that is there, and has frames up to this one."""
    made = Standing()
    made.made(1, epoch, now=0.0)
    if written_id:
        made.appended(written_id, epoch)
    return made


def test_a_new_stream_makes_its_log_without_looking() -> None:
    assert Standing().next(Memory(1, 0), 1, 0.0) is Step.MAKE


def test_what_was_sent_and_not_answered_is_looked_at_before_anything_is_written() -> None:
    new = Standing()
    new.doubt()
    assert new.next(Memory(1, 0), 1, 0.0) is Step.LOOK


@pytest.mark.parametrize(
    ("written_id", "memory", "step"),
    [
        (0, Memory(1, 0), None),
        (0, Memory(1, 3), Step.APPEND),
        (3, Memory(1, 3), None),
        (3, Memory(4, 3), None),
        (3, Memory(4, 7), Step.APPEND),
        (3, Memory(5, 7), Step.REMAKE),
        (3, Memory(1, 3, Ending.ENDED), Step.CLOSE),
        (3, Memory(1, 4, Ending.ENDED), Step.APPEND),
        (3, Memory(8, 7, Ending.ENDED), Step.REMAKE),
        (3, Memory(8, 7, Ending.EXPIRED), Step.CLOSE),
    ],
)
def test_the_next_step_follows_from_where_the_log_stands(written_id: int, memory: Memory, step: Step | None) -> None:
    assert standing(written_id).next(memory, 1, 0.0) is step


def test_another_connection_puts_everything_in_doubt_also_what_has_ended() -> None:
    ended = standing(3)
    ended.closed(Ending.ENDED, 1)
    assert ended.done
    assert ended.next(Memory(1, 3, Ending.ENDED), 1, 0.0) is None
    assert ended.next(Memory(1, 3, Ending.ENDED), 2, 0.0) is Step.LOOK


def test_a_quiet_streams_time_to_live_is_given_anew_before_it_lapses() -> None:
    quiet = standing(3)
    assert quiet.next(Memory(1, 3), 1, REFRESH_S - 0.1) is None
    assert quiet.next(Memory(1, 3), 1, REFRESH_S) is Step.REFRESH
    quiet.refreshed(1, REFRESH_S)
    assert quiet.next(Memory(1, 3), 1, REFRESH_S + 1) is None


def test_what_is_new_is_appended_without_more_ado_only_where_nothing_else_is_due() -> None:
    going_on = standing(3)
    assert going_on.goes_on(1, REFRESH_S - 0.1)
    assert not going_on.goes_on(2, 0.0), "another connection"
    assert not going_on.goes_on(1, REFRESH_S), "its time to live"
    going_on.doubt()
    assert not going_on.goes_on(1, 0.0), "no answer yet"
    gone, ended = standing(3), standing(3)
    gone.looked(None, Memory(1, 3), 1)
    ended.closed(Ending.ENDED, 1)
    assert not gone.goes_on(1, 0.0)
    assert not ended.goes_on(1, 0.0)


def test_a_log_that_is_gone_is_made_again_and_what_was_lost_and_healed_is_counted() -> None:
    gone = standing(5)
    gone.looked(None, Memory(1, 6), 2)
    assert (gone.lost, gone.next(Memory(1, 6), 2, 0.0)) == (5, Step.MAKE)
    gone.made(1, 2, 0.0)
    gone.appended(6, 2)
    assert gone.healed == 5


def test_a_log_that_lost_its_newest_frames_gets_them_again() -> None:
    behind = standing(5)
    behind.looked(Found(2), Memory(1, 6), 2)
    assert (behind.lost, behind.written_id, behind.next(Memory(1, 6), 2, 0.0)) == (3, 2, Step.APPEND)
    behind.appended(4, 2)
    behind.appended(6, 2)
    assert behind.healed == 3


def test_a_write_that_was_thought_lost_and_had_arrived_is_no_loss() -> None:
    ahead = standing(5)
    ahead.looked(Found(8), Memory(1, 9), 2)
    assert (ahead.lost, ahead.written_id, ahead.next(Memory(1, 9), 2, 0.0)) == (0, 8, Step.APPEND)


def test_what_the_owner_never_had_is_put_right() -> None:
    foreign = standing(5)
    foreign.looked(Found(12), Memory(1, 9), 2)
    assert foreign.next(Memory(1, 9), 2, 0.0) is Step.REMAKE


def test_an_end_that_another_wrote_fences_for_good() -> None:
    zombie = standing(5)
    zombie.looked(Found(5, Ending.LOST), Memory(1, 9), 2)
    assert zombie.fenced
    assert zombie.next(Memory(1, 9), 3, 1000.0) is None


def test_an_end_of_ones_own_whose_answer_was_lost_is_found() -> None:
    ended = standing(5)
    ended.doubt()
    ended.looked(Found(5, Ending.ENDED), Memory(1, 5, Ending.ENDED), 2)
    assert ended.done
    assert not ended.fenced
