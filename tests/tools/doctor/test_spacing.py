"""How arrivals are judged: by their gaps alone."""

from __future__ import annotations

import pytest

from app.tools.doctor.spacing import Arrival, Spacing, spacing_of

# Two clocks that never agree.
OURS_S = 5000.0


def arrivals(came: list[float], size_bytes: int = 100) -> list[Arrival]:
    """Events that were sent a tenth of a second apart, and came at these times."""
    return [Arrival(number / 10, OURS_S + at_s, size_bytes) for number, at_s in enumerate(came)]


ONE_BY_ONE = [number / 10 for number in range(12)]


def test_events_that_keep_their_distance_are_not_held() -> None:
    spacing = spacing_of(arrivals(ONE_BY_ONE))
    assert (spacing.pairs, spacing.together, spacing.clumps, spacing.is_clumped) == (11, 0, 12, False)
    assert spacing.held_s == pytest.approx(0)


def test_events_that_come_all_at_the_end_were_held_the_first_one_longest() -> None:
    spacing = spacing_of(arrivals([1.1] * 12))
    assert (spacing.is_clumped, spacing.clumps, spacing.clump_bytes) == (True, 1, 0)
    assert spacing.held_s == pytest.approx(1.1)


def test_groups_tell_the_size_of_the_buffer() -> None:
    spacing = spacing_of(arrivals([0.3] * 4 + [0.7] * 4 + [1.1] * 4, size_bytes=1024))
    assert (spacing.is_clumped, spacing.clumps, spacing.clump_bytes) == (True, 3, 4096)


def test_a_few_events_that_a_busy_machine_joined_prove_nothing() -> None:
    joined = [*ONE_BY_ONE[:4], *[0.7] * 4, *ONE_BY_ONE[8:]]
    assert not spacing_of(arrivals(joined)).is_clumped


def test_what_came_while_this_process_was_late_is_left_out() -> None:
    spacing = spacing_of(arrivals([1.1] * 12), late=[(OURS_S + 0.1, OURS_S + 1.05)])
    assert (spacing.pairs, spacing.is_judged, spacing.is_clumped) == (0, False, False)
    early = spacing_of(arrivals([1.1] * 12), late=[(OURS_S, OURS_S + 0.5)])
    assert early.is_clumped


def test_events_that_the_service_itself_sent_together_are_left_out() -> None:
    """Its own lateness: three were due in one moment, and went at once."""
    late = [Arrival(0.3 if number < 3 else number / 10, OURS_S + max(0.3, number / 10), 50) for number in range(12)]
    spacing = spacing_of(late)
    assert (spacing.is_clumped, spacing.together) == (False, 0)


def test_a_delay_that_all_share_is_no_buffer() -> None:
    assert spacing_of(arrivals([at_s + 3 for at_s in ONE_BY_ONE])) == spacing_of(arrivals(ONE_BY_ONE))


def test_nothing_says_nothing() -> None:
    assert spacing_of([]) == Spacing(0, 0, 0, 0.0, 0, 0)
    assert not spacing_of(arrivals([0.0, 0.0])).is_judged
