"""Paced reading: rests that cost no speed, and that share a timer."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.upstream.pacing import Pacer, ReadPace
from tests.support.clock import jumping, loop, run

WINDOW_S = 0.1
HALF_BYTES = 4096

reads = st.lists(st.tuples(st.floats(0, 10), st.integers(1, 100_000)), max_size=40)  # (time since the last, size)


@settings(deadline=None)
@given(st.floats(0, 5), st.integers(1, 1_000_000), reads)
def test_a_rest_is_never_longer_than_the_window_nor_too_short_for_its_timer(
    window_s: float, half_bytes: int, times: list[tuple[float, int]]
) -> None:
    pace, now = ReadPace(window_s), 0.0
    for elapsed_s, size_bytes in times:
        now += elapsed_s
        rest_s = pace.rest_s(size_bytes, now, half_bytes)
        assert rest_s == 0 or min(ReadPace.LEAST_S, window_s) <= rest_s <= window_s


@settings(deadline=None)
@given(st.integers(1, 2 * HALF_BYTES), st.floats(0.0, 60))
def test_the_first_rest_is_reckoned_as_if_a_window_had_passed(size_bytes: int, now: float) -> None:
    expected = min(WINDOW_S, HALF_BYTES * WINDOW_S / size_bytes)
    assert ReadPace(WINDOW_S).rest_s(size_bytes, now, HALF_BYTES) == pytest.approx(expected)


def arrivals(rate_bytes_s: float, buffer_bytes: int, count: int) -> list[float]:
    """The rests after `count` reads of a socket whose sender is that fast and waits while the buffer is full."""
    pace, now, rests = ReadPace(WINDOW_S), 0.0, [WINDOW_S]
    for _ in range(count):
        # A read without a rest waits for what one packet brings.
        waited_s = max(rests[-1], 1448 / rate_bytes_s)
        now += waited_s
        rests.append(pace.rest_s(max(1, min(buffer_bytes, int(rate_bytes_s * waited_s))), now, buffer_bytes // 2))
    return rests


@settings(deadline=None)
@given(st.floats(100, HALF_BYTES / WINDOW_S))
def test_a_slow_model_is_read_once_a_window(rate_bytes_s: float) -> None:
    assert arrivals(rate_bytes_s, 2 * HALF_BYTES, 30) == pytest.approx([WINDOW_S] * 31, rel=0.02)


@settings(deadline=None)
@given(st.floats(2 * HALF_BYTES / ReadPace.LEAST_S, 1e9))
def test_a_fast_model_soon_reaches_no_rest_and_keeps_it(rate_bytes_s: float) -> None:
    rests = arrivals(rate_bytes_s, 2 * HALF_BYTES, 30)
    assert rests[6:] == [0.0] * 25
    assert rests == sorted(rests, reverse=True)


def test_full_reads_reach_no_rest_however_seldom_they_come() -> None:
    """A full buffer gives only a lower bound of the rate: the time that it took must not count for the model."""
    pace, now = ReadPace(WINDOW_S), 0.0
    rests = []
    for _ in range(7):
        now += 10
        rests.append(pace.rest_s(2 * HALF_BYTES, now, HALF_BYTES))
    assert rests == [0.05, 0.025, 0.0125, 0.00625, 0, 0, 0]


def test_a_model_that_slows_down_is_rested_again() -> None:
    pace = ReadPace(WINDOW_S)
    for read in range(10):
        pace.rest_s(2 * HALF_BYTES, read * 0.01, HALF_BYTES)
    assert pace.rest_s(10, 0.2, HALF_BYTES) == WINDOW_S


# The ticker


async def ended_at(rest: asyncio.Future[None]) -> float:
    await rest
    return loop().time()


@settings(deadline=None)
@given(st.lists(st.floats(0.001, 0.3), min_size=1, max_size=20))
def test_each_rest_ends_within_half_a_slot_of_its_time(delays: list[float]) -> None:
    async def scene() -> None:
        pacer, began = Pacer(), loop().time()
        rests = [pacer.until(began + delay_s) for delay_s in delays]
        ends = await asyncio.gather(*map(ended_at, rests))
        for delay_s, end in zip(delays, ends, strict=True):
            slot_s = Pacer.WIDE_SLOT_S if delay_s >= Pacer.LONG_S else Pacer.SLOT_S
            assert abs(end - (began + delay_s)) <= slot_s / 2 + 1e-6

    run(scene())


@jumping
@pytest.mark.parametrize("slot_s", [Pacer.SLOT_S, Pacer.WIDE_SLOT_S])
async def test_all_of_one_slot_share_one_timer(slot_s: float) -> None:
    pacer, due_at = Pacer(), loop().time() + 2 * slot_s
    rests = [pacer.until(due_at + slot_s * (place - 50) * 0.0099) for place in range(100)]
    assert loop().timers() == 1
    assert set(await asyncio.gather(*map(ended_at, rests))) == {due_at}
    assert loop().timers() == 0


@jumping
async def test_streams_that_began_at_different_times_come_to_rest_together() -> None:
    """A window later each stream ends its rest with the others, and stays with them."""
    pacer, ends = Pacer(), []

    async def stream(begins_s: float) -> None:
        await asyncio.sleep(begins_s)
        for _ in range(5):
            await pacer.until(loop().time() + WINDOW_S)
        ends.append(loop().time())

    await asyncio.gather(*(stream(place * 0.0099) for place in range(10)))
    assert len(set(ends)) <= 3


@jumping
async def test_a_time_that_is_past_is_no_rest() -> None:
    began = loop().time()
    assert await ended_at(Pacer().until(began - 5)) == began


@jumping
async def test_a_rest_that_was_given_up_does_not_stop_its_neighbours() -> None:
    pacer = Pacer()
    given_up, kept = pacer.until(1000.5), pacer.until(1000.5)
    given_up.cancel()
    assert await ended_at(kept) == pytest.approx(1000.5)


@jumping
async def test_how_busy_the_processor_is_is_known_and_forgotten_again() -> None:
    used_s = 0.0
    pacer = Pacer(lambda: used_s)
    for _ in range(40):
        await pacer.until(loop().time() + 0.2)
        used_s += 0.1
    assert pacer.busy == pytest.approx(0.5, abs=0.03)
    for _ in range(40):
        await pacer.until(loop().time() + 0.2)
    assert pacer.busy < 0.001


@settings(deadline=None)
@given(st.floats(0, 5), st.floats(0, 1), st.floats(0, 1))
def test_rests_grow_with_the_share_of_the_processor_in_use_by_a_third_at_most(
    rest_s: float, busy: float, more: float
) -> None:
    pacer = Pacer()
    pacer.busy = busy
    stretched_s = pacer.stretched(rest_s)
    assert rest_s <= stretched_s <= rest_s * Pacer.MOST_BUSY
    assert busy > Pacer.FREE_SHARE or stretched_s == rest_s
    pacer.busy = busy + more
    assert pacer.stretched(rest_s) >= stretched_s


@settings(deadline=None)
@given(st.floats(0, 5), st.floats(0, 10), st.floats(0, 10))
def test_rests_grow_with_the_lag_within_bounds(rest_s: float, lag_s: float, more_s: float) -> None:
    pacer = Pacer()
    assert pacer.stretched(rest_s) == rest_s
    pacer.lag_s = lag_s
    stretched_s = pacer.stretched(rest_s)
    assert rest_s <= stretched_s <= 3 * rest_s
    assert lag_s > Pacer.ORDINARY_LAG_S or stretched_s == rest_s
    pacer.lag_s = lag_s + more_s
    assert pacer.stretched(rest_s) >= stretched_s


def test_a_rest_grows_by_four_times_what_the_lag_has_above_the_ordinary() -> None:
    pacer = Pacer()
    pacer.lag_s = 0.02
    assert pacer.stretched(0.1) == pytest.approx(0.14)
