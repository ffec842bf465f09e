"""How far a stream may run ahead of its page."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from app.streams.credits import Credits


@given(st.integers(1, 1000), st.integers(0, 5), st.lists(st.tuples(st.booleans(), st.integers(0, 500)), max_size=50))
def test_what_is_out_is_what_was_sent_and_not_shown(window: int, start: int, moves: list[tuple[bool, int]]) -> None:
    credits = Credits(window, start)
    sizes = dict[int, int]()
    last, shown = start, start
    for sends, value in moves:
        if sends:
            last += 1
            sizes[last] = value
            credits.sent(last, value)
        else:
            shown = max(shown, min(value % (last + 1), last))
            credits.shown(value % (last + 1))
        out = sum(size for frame, size in sizes.items() if frame > shown)
        assert credits.exhausted == (out >= window)
        assert credits.shown_bytes == sum(sizes.values()) - out


def test_what_is_sent_again_to_who_has_shown_it_costs_nothing() -> None:
    credits = Credits(10, shown_id=5)
    credits.sent(5, 100)
    before = credits.exhausted
    credits.sent(6, 100)
    assert (before, credits.exhausted) == (False, True), "one frame passes alone, whatever its size"
    credits.shown(6)
    assert credits.shown_bytes == 100


def test_a_page_is_held_to_its_newest_word_alone() -> None:
    credits = Credits(10, shown_id=0)
    promised = []
    for next_word_by in (math.inf, 1009.0, 1012.0, math.inf):  # the last one is a page that is hidden now
        credits.shown(0, next_word_by)
        promised.append(credits.next_word_by)
    assert promised == [math.inf, 1009.0, 1012.0, math.inf]
