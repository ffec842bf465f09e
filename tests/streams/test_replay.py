"""The kept frames of one answer: in order, within their bounds, from any place that is still there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Expired
from app.streams.replay import FRAME_OVERHEAD_BYTES, Replay, ReplayBudget

BATCHES = st.lists(st.lists(st.binary(max_size=60), max_size=4), max_size=20)


def cost(*frames: bytes) -> int:
    return sum(len(frame) + FRAME_OVERHEAD_BYTES for frame in frames)


@given(BATCHES, st.integers(1, 2000), st.integers(0, 4000), st.integers(0, 100), st.integers(0, 200))
def test_what_is_kept_is_the_newest_without_a_gap_and_the_newest_batch_is_whole(
    batches: list[list[bytes]], max_bytes: int, total_bytes: int, after: int, most_bytes: int
) -> None:
    budget = ReplayBudget(total_bytes)
    replay = Replay(max_bytes, budget)
    frames: list[bytes] = []
    for batch in batches:
        replay.extend(batch)
        frames += batch
        kept = frames[replay.first_id - 1 :]
        assert replay.last_id == len(frames)
        assert replay.size_bytes == budget.used_bytes == cost(*kept)
        assert len(kept) >= len(batch)
        assert replay.size_bytes <= max(min(max_bytes, total_bytes), cost(*batch))
    place = min(after, len(frames))
    if place + 1 < replay.first_id:
        with pytest.raises(Expired):
            replay.after(place, most_bytes)
    else:
        given = replay.after(place, most_bytes)
        assert given == frames[place : place + len(given)]
        assert bool(given) == (place < len(frames))
        assert sum(map(len, given)) <= most_bytes or len(given) == 1
    replay.clear()
    replay.clear()
    assert replay.size_bytes == budget.used_bytes == 0


@given(BATCHES, st.integers(0, 100))
def test_a_stream_that_keeps_nothing_forgets_what_is_delivered(batches: list[list[bytes]], delivered: int) -> None:
    budget = ReplayBudget(0)
    replay = Replay(0, budget)
    frames = [frame for batch in batches for frame in batch]
    for batch in batches:
        replay.extend(batch)
    place = min(delivered, len(frames))
    replay.delivered(place)
    replay.delivered(max(0, place - 1))
    assert not replay.keeps
    assert replay.after(place, 10_000) == frames[place:]
    assert replay.size_bytes == cost(*frames[place:])
    assert budget.used_bytes == 0, "what is on its way is bounded elsewhere"


def test_a_delivered_frame_is_kept_where_a_reader_may_come_back() -> None:
    replay = Replay(1000, ReplayBudget(1000))
    replay.extend([b"a", b"b"])
    replay.delivered(2)
    assert replay.after(0, 100) == [b"a", b"b"]


def test_what_nobody_reads_is_freed_before_a_stream_loses_its_own() -> None:
    budget = ReplayBudget(3 * cost(b"x"))
    old, replay = Replay(1000, budget), Replay(1000, budget)
    old.extend([b"1", b"2"])

    def relieve() -> bool:
        had = old.size_bytes > 0
        old.clear()
        return had

    budget.relieve = relieve
    replay.extend([b"a"])
    assert old.size_bytes > 0
    replay.extend([b"b"])
    assert old.size_bytes == 0
    assert replay.after(0, 100) == [b"a", b"b"]
    replay.extend([b"c"])
    replay.extend([b"d"])
    assert replay.first_id == 2, "with nothing left to free, it loses its oldest"


def test_new_streams_leave_the_last_eighth_to_those_that_run() -> None:
    budget, room = ReplayBudget(8000), list[bool]()
    for budget.used_bytes in (0, 6999, 7000, 8000):
        room.append(budget.has_room)
    assert room == [True, True, False, False]
    assert not ReplayBudget(0).has_room


def test_news_are_what_follows_joined_with_its_last_id_and_the_oldest_that_is_kept() -> None:
    held = Replay(10**6, ReplayBudget(10**9))
    assert held.news(0, 100) == (b"", 0, 1)
    held.extend([b"one", b"two", b"three"])
    assert held.news(0, 100) == (b"onetwothree", 3, 1)
    assert held.news(2, 100) == (b"three", 3, 1)
    assert held.news(3, 100) == (b"", 3, 1)


@pytest.mark.parametrize("count", [3, 100])
def test_news_are_no_more_than_may_be_but_one_frame_at_least(count: int) -> None:
    held = Replay(10**6, ReplayBudget(10**9))
    held.extend([b"x" * 10] * count)
    assert held.news(0, 25) == (b"x" * 20, 2, 1)
    assert held.news(1, 5) == (b"x" * 10, 2, 1)


def test_there_are_no_news_where_some_are_gone() -> None:
    held = Replay(100 + 2 * FRAME_OVERHEAD_BYTES, ReplayBudget(10**9))
    for _ in range(3):
        held.extend([b"x" * 50])
    assert held.first_id == 2
    assert held.news(0, 100) is None
    assert held.news(1, 100) == (b"x" * 100, 3, 2)
