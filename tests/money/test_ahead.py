"""How much may come before a cut works: by the rate of late, within what the buffers hold, and what was not seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.money.ahead import FIRST_TOKENS, RUN_AHEAD_TOKENS, SOME_TOKENS, Ahead


def flowing(rate: float, seconds: float = 2.0, every_s: float = 0.1) -> tuple[Ahead, float, float]:
    """A stream of so many tokens a second, read every so often; it, its tokens and the time."""
    ahead, now, tokens = Ahead(0.2), 10.0, 0.0
    while now < 10 + seconds:
        tokens += rate * every_s
        now += every_s
        ahead.seen(tokens, int(tokens), int(tokens * 4), now)
    return ahead, tokens, now


def test_before_a_rate_is_known_a_first_window_is_held_for() -> None:
    ahead = Ahead(0.2)
    assert ahead.tokens(0.0) == FIRST_TOKENS
    ahead.seen(0, 0, 0, 0.0)
    ahead.seen(2, 2, 8, 1.0)
    assert ahead.tokens(1.0) == FIRST_TOKENS
    ahead.seen(5, 5, 20, 1.01)  # too soon to tell more than a guess
    assert ahead.tokens(1.01) == FIRST_TOKENS


def test_a_first_read_that_brings_much_tells_of_a_fast_answer() -> None:
    ahead = Ahead(0.2)
    ahead.seen(40, 40, 160, 1.0)
    assert ahead.tokens(1.0) == pytest.approx(SOME_TOKENS + 80, abs=1)


@pytest.mark.parametrize(("rate", "tokens"), [(20, 4), (100, 20), (400, 80), (50_000, 161)])
def test_what_flows_is_held_for_by_its_rate_and_by_what_the_socket_holds(rate: float, tokens: int) -> None:
    ahead, _, now = flowing(rate)
    assert ahead.tokens(now) == pytest.approx(SOME_TOKENS + tokens, abs=1)


def test_a_faster_rate_is_believed_at_once_and_a_slower_one_by_and_by() -> None:
    ahead, tokens, now = flowing(100)
    ahead.seen(tokens + 50, int(tokens) + 50, int(tokens) * 4, now + 0.1)
    ahead.seen(tokens + 150, int(tokens) + 150, int(tokens) * 4, now + 0.3)
    assert ahead.tokens(now + 0.3) >= SOME_TOKENS + 99
    ahead.seen(tokens + 170, int(tokens) + 170, int(tokens) * 4, now + 0.5)
    assert SOME_TOKENS + 60 < ahead.tokens(now + 0.5) < SOME_TOKENS + 100


def test_a_fast_answer_is_known_as_one_from_its_second_read_on() -> None:
    ahead = Ahead(0.2)
    ahead.seen(4, 4, 16, 1.0)
    ahead.seen(44, 44, 176, 1.1)
    assert ahead.tokens(1.1) == pytest.approx(SOME_TOKENS + 80, abs=1)


def test_who_is_read_late_is_held_for_as_long_as_that_takes() -> None:
    ahead, tokens, now = flowing(100)
    assert ahead.tokens(now + 1.0) == pytest.approx(SOME_TOKENS + 100, abs=2), "it is overdue"
    ahead.seen(tokens + 60, int(tokens) + 60, int(tokens) * 4, now + 0.6)
    assert ahead.tokens(now + 0.6) == pytest.approx(SOME_TOKENS + 60, abs=2), "and may be again"


def test_what_is_generated_while_nobody_reads_is_held_for_up_to_what_the_buffers_hold() -> None:
    ahead, tokens, now = flowing(100)
    ahead.pause(now)
    ahead.pause(now + 0.5)
    assert ahead.unseen(now + 1.0) == pytest.approx(100, abs=1)
    assert ahead.tokens(now + 1.0) == pytest.approx(SOME_TOKENS + 20 + 100, abs=2)
    assert ahead.unseen(now + 3600) == RUN_AHEAD_TOKENS
    assert tokens == pytest.approx(200, abs=11)


def test_what_comes_out_of_the_buffers_after_a_pause_is_no_rate() -> None:
    ahead, tokens, now = flowing(100)
    ahead.pause(now)
    now += 4.0
    for _ in range(20):  # 400 tokens were generated meanwhile, and come at once
        tokens += 20
        now += 0.004
        ahead.seen(tokens, int(tokens), int(tokens) * 4, now)
    assert ahead.unseen(now) == pytest.approx(0, abs=1)
    ahead.seen(tokens + 10, int(tokens) + 10, int(tokens) * 4, now + 0.1)
    assert ahead.tokens(now + 0.1) <= SOME_TOKENS + 21


def test_what_does_not_come_after_a_pause_was_not_generated_in_it() -> None:
    ahead, tokens, now = flowing(100)
    ahead.pause(now)
    ahead.seen(tokens + 1, int(tokens), int(tokens) * 4, now + 2.0)
    assert ahead.unseen(now + 2.0) == pytest.approx(199, abs=2)
    ahead.seen(tokens + 2, int(tokens), int(tokens) * 4, now + 2.22)
    assert ahead.unseen(now + 2.22) > 190
    ahead.seen(tokens + 3, int(tokens), int(tokens) * 4, now + 2.4)
    assert ahead.unseen(now + 2.4) == 0


def test_a_whole_answer_is_held_for_by_the_time_it_takes_up_to_its_bound() -> None:
    ahead = Ahead(0.2, most=1000, rate=200.0)
    ahead.pause(5.0)
    assert ahead.tokens(5.0) <= SOME_TOKENS + 40
    assert ahead.unseen(7.0) == 400
    assert ahead.unseen(60.0) == 1000


def test_where_a_cut_does_not_stop_the_bill_all_that_can_come_is_held_for() -> None:
    ahead = Ahead(None, most=1000)
    assert ahead.tokens(0.0) == SOME_TOKENS + 1000
    ahead.seen(400, 400, 1600, 1.0)
    ahead.seen(1200, 1200, 4800, 2.0)
    assert ahead.tokens(2.0) == SOME_TOKENS
    ahead.seen(400, 400, 1600, 3.0)
    assert ahead.tokens(3.0) == SOME_TOKENS + 600


@given(
    steps=st.lists(st.tuples(st.floats(0, 5), st.integers(0, 300), st.booleans()), max_size=50),
)
def test_whatever_comes_the_hold_has_bounds(steps: list[tuple[float, int, bool]]) -> None:
    ahead, now, tokens = Ahead(0.2), 0.0, 0
    for passed_s, more, pauses in steps:
        now, tokens = now + passed_s, tokens + more
        ahead.seen(tokens, tokens, tokens * 4, now)
        if pauses:
            ahead.pause(now)
        assert 0 <= ahead.unseen(now) <= RUN_AHEAD_TOKENS
        assert SOME_TOKENS <= ahead.tokens(now) <= RUN_AHEAD_TOKENS + SOME_TOKENS + 18_432


def test_a_rate_that_is_known_is_not_guessed_anew() -> None:
    ahead = Ahead(0.2, most=1000, rate=200.0)
    ahead.seen(5, 5, 20, 1.0)
    assert ahead.tokens(1.0) == pytest.approx(SOME_TOKENS + 40, abs=1)
