"""The bounded queue: its bounds hold, its order holds, and no cancellation loses or invents an item."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.answer.events import OVERHEAD_BYTES, End, Item
from app.errors import UpstreamCut
from app.flow.channel import Channel
from tests.support.clock import JumpingLoop, jumping, loop, run, settled
from tests.support.fakes import text


def sized(size_bytes: int, mark: int = 0) -> Item:
    """An item that counts `size_bytes`."""
    return text("x" * (size_bytes - OVERHEAD_BYTES), index=mark)


def marks(items: Sequence[Item | None]) -> list[Any]:
    return [getattr(item, "index", None) for item in items]


@settings(deadline=None)
@given(
    st.lists(st.integers(OVERHEAD_BYTES, 600), max_size=30),
    st.integers(1, 5),
    st.integers(OVERHEAD_BYTES, 500),
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=8),
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=8),
)
def test_the_bounds_hold_and_the_order_too_however_fast_both_sides_are(
    sizes: list[int], max_items: int, max_bytes: int, producer_s: list[float], consumer_s: list[float]
) -> None:
    async def scene() -> None:
        channel, taken = Channel(max_items, max_bytes), list[Item]()

        def check() -> None:
            now = channel.statistics()
            assert now.items <= max_items
            assert now.size_bytes <= max_bytes or now.items == 1
            assert now.items <= now.peak_items <= max_items
            assert now.size_bytes <= now.peak_bytes <= max(max_bytes, max(sizes, default=0))

        async def produce() -> None:
            for place, size in enumerate(sizes):
                await asyncio.sleep(producer_s[place % len(producer_s)])
                await channel.put(sized(size, place))
                check()

        async def consume() -> None:
            while len(taken) < len(sizes):
                await asyncio.sleep(consumer_s[len(taken) % len(consumer_s)])
                item = await channel.get_before(loop().time() + 1.5)
                if item is not None:
                    taken.append(item)
                check()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(produce())
            tasks.create_task(consume())
        assert marks(taken) == list(range(len(sizes)))
        assert (channel.statistics().items, channel.statistics().size_bytes) == (0, 0)

    run(scene())


async def blocked(channel: Channel, item: Item) -> asyncio.Task[None]:
    """A task that waits in `put`: it has started, and it is told so by the channel itself."""
    task = asyncio.create_task(channel.put(item))
    await settled()
    assert channel.paused
    assert not task.done()
    return task


@jumping
async def test_put_waits_while_the_channel_is_full_by_items() -> None:
    channel = Channel(2, 10_000)
    await channel.put(sized(64, 0))
    await channel.put(sized(64, 1))
    putting = await blocked(channel, sized(64, 2))
    assert marks([channel.get_nowait()]) == [0]
    await putting
    assert marks([channel.get_nowait(), channel.get_nowait()]) == [1, 2]


@jumping
async def test_put_waits_while_the_channel_is_full_by_bytes_until_there_is_room_enough() -> None:
    channel = Channel(10, 300)
    for mark in range(3):
        await channel.put(sized(100, mark))
    putting = await blocked(channel, sized(200, 3))
    channel.get_nowait()
    await settled()
    assert not putting.done()  # 100 bytes of room are not enough
    channel.get_nowait()
    await putting
    assert channel.statistics().size_bytes == 300


@jumping
async def test_an_item_above_the_bound_waits_for_an_empty_channel_and_passes_alone() -> None:
    channel = Channel(10, 300)
    await channel.put(sized(64, 0))
    putting = await blocked(channel, sized(5000, 1))
    channel.get_nowait()
    await putting
    assert channel.statistics().size_bytes == channel.statistics().peak_bytes == 5000
    following = await blocked(channel, sized(64, 2))
    assert marks([channel.get_nowait()]) == [1]
    await following


@jumping
async def test_a_put_that_is_cancelled_leaves_its_item_out() -> None:
    channel = Channel(1, 1000)
    await channel.put(sized(64, 0))
    putting = await blocked(channel, sized(64, 1))
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert not channel.paused
    assert marks([channel.get_nowait()]) == [0]
    assert channel.empty()
    await channel.put(sized(64, 2))
    assert marks([channel.get_nowait()]) == [2]


@jumping
async def test_a_put_that_is_cancelled_as_room_comes_leaves_its_item_out() -> None:
    channel = Channel(1, 1000)
    await channel.put(sized(64, 0))
    putting = await blocked(channel, sized(64, 1))
    channel.get_nowait()  # wakes the producer, which has not run yet
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert channel.empty()
    assert channel.statistics().size_bytes == 0


@jumping
async def test_put_nowait_refuses_what_has_no_room() -> None:
    channel = Channel(10, 100)
    channel.put_nowait(sized(64))
    with pytest.raises(asyncio.QueueFull):
        channel.put_nowait(sized(64))
    assert channel.statistics().items == 1


# get_before


@jumping
async def test_get_before_takes_what_is_there_even_after_its_deadline() -> None:
    channel = Channel(2, 1000)
    await channel.put(sized(64, 5))
    item = await channel.get_before(loop().time() - 1)
    assert item is not None
    assert marks([item]) == [5]


@jumping
async def test_get_before_waits_until_its_deadline_and_no_longer() -> None:
    channel, began = Channel(2, 1000), loop().time()
    assert await channel.get_before(began + 3) is None
    assert loop().time() == pytest.approx(began + 3)
    assert await channel.get_before(began + 3) is None  # past: at once
    assert loop().time() == pytest.approx(began + 3)


@jumping
async def test_get_before_returns_as_soon_as_an_item_comes() -> None:
    channel, began = Channel(2, 1000), loop().time()
    loop().call_at(began + 1, channel.put_nowait, sized(64, 7))
    item = await channel.get_before(began + 3)
    assert item is not None
    assert marks([item]) == [7]
    assert loop().time() == pytest.approx(began + 1)


@pytest.mark.parametrize("item_first", [True, False])
def test_an_item_that_comes_at_the_deadline_is_not_lost(item_first: bool) -> None:
    async def scene() -> None:
        channel, began = Channel(2, 1000), loop().time()
        if item_first:
            loop().call_at(began + 3, channel.put_nowait, sized(64, 7))
        getting = asyncio.create_task(channel.get_before(began + 3))
        await settled()
        if not item_first:
            loop().call_at(began + 3, channel.put_nowait, sized(64, 7))
        item = await getting or await channel.get_before(began + 3)
        assert item is not None
        assert marks([item]) == [7]

    run(scene())


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), max_size=25), st.integers(1, 4))
def test_no_timeout_and_no_cancellation_loses_an_item(gets: list[tuple[float, float, bool]], max_items: int) -> None:
    """Each get has a deadline, and some are cancelled at a moment of their own; items come all the while."""

    async def scene() -> None:
        channel, taken, count = Channel(max_items, 10_000), list[Item](), 12

        async def produce() -> None:
            for mark in range(count):
                await channel.put(sized(64, mark))
                await asyncio.sleep(0.25)

        producing = asyncio.create_task(produce())
        for timeout_s, cancel_s, cancels in gets:
            getting = asyncio.create_task(channel.get_before(loop().time() + timeout_s))
            if cancels:
                loop().call_later(cancel_s, getting.cancel)
            [outcome] = await asyncio.gather(getting, return_exceptions=True)
            if not isinstance(outcome, BaseException) and outcome is not None:
                taken.append(outcome)
        while len(taken) < count:
            item = await channel.get_before(loop().time() + 10)
            assert item is not None
            taken.append(item)
        await producing
        assert marks(taken) == list(range(count))
        assert channel.empty()

    run(scene())


@jumping
async def test_a_nudge_ends_a_waiting_get_before_and_nothing_else() -> None:
    channel, began = Channel(2, 1000), loop().time()
    channel.nudge()  # nobody waits
    getting = asyncio.create_task(channel.get_before(began + 60))
    await settled()
    assert not getting.done()
    channel.nudge()
    channel.nudge()
    assert await getting is None
    assert loop().time() == began
    await channel.put(sized(64, 1))
    assert await channel.get_before(began + 60) is not None
    channel.close()
    assert loop().timers() == 0


@jumping
async def test_many_waits_share_one_timer_and_end_each_at_its_own_deadline() -> None:
    channel, began = Channel(2, 1000), loop().time()
    for wait in range(100):
        loop().call_soon(channel.put_nowait, sized(64, wait))
        assert await channel.get_before(began + 60 + wait) is not None
        assert loop().timers() == 1
    assert await channel.get_before(began + 5) is None  # sooner than the timer was set for
    assert loop().time() == pytest.approx(began + 5)
    getting = asyncio.create_task(channel.get_before(began + 50))
    await settled()
    channel.nudge()
    assert await getting is None
    assert await channel.get_before(began + 170) is None  # later than the timer that the nudged wait left
    assert loop().time() == pytest.approx(began + 170)


class WholeMilliseconds(JumpingLoop):
    """Rounds its timers as uvloop does; `armed` counts them."""

    armed = 0

    def call_at(self, when: float, *args: Any, **how: Any) -> asyncio.TimerHandle:  # type: ignore[override]
        self.armed += 1
        return super().call_at(round(when, 3) if self.armed < 10 else when, *args, **how)


def test_a_timer_that_is_rounded_down_is_not_set_again_for_the_rest() -> None:
    async def scene() -> int:
        channel, clock = Channel(2, 1000), asyncio.get_running_loop()
        assert isinstance(clock, WholeMilliseconds)
        assert await channel.get_before(clock.time() + 0.1504) is None
        return clock.armed

    with asyncio.Runner(loop_factory=WholeMilliseconds) as runner:
        assert runner.run(scene()) == 1


@jumping
async def test_a_closed_channel_leaves_no_timer() -> None:
    channel = Channel(2, 1000)
    channel.close()
    getting = asyncio.create_task(channel.get_before(loop().time() + 60))
    await settled()
    assert loop().timers() == 1
    getting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await getting
    channel.close()
    channel.close()
    assert loop().timers() == 0


@jumping
async def test_a_timer_that_outlives_its_wait_disturbs_nobody() -> None:
    channel = Channel(2, 1000)
    loop().call_soon(channel.put_nowait, sized(64, 1))
    assert await channel.get_before(loop().time() + 5) is not None
    await asyncio.sleep(10)  # the timer fires meanwhile
    channel.put_nowait(sized(64, 2))
    assert marks([await channel.get_before(loop().time() + 5)]) == [2]
    assert loop().timers() == 0


@jumping
async def test_an_item_that_comes_with_a_nudge_is_not_lost() -> None:
    channel = Channel(2, 1000)
    getting = asyncio.create_task(channel.get_before(loop().time() + 60))
    await settled()
    channel.put_nowait(sized(64, 1))
    channel.nudge()
    item = await getting or channel.get_nowait()
    assert marks([item]) == [1]
    assert channel.empty()


@jumping
async def test_what_is_dropped_is_gone_and_an_end_finds_room_where_there_is_none() -> None:
    channel, end = Channel(1, 64), End(UpstreamCut("gone"))
    await channel.put(sized(64, 0))
    putting = await blocked(channel, sized(64, 1))
    putting.cancel()
    channel.end_now(end)
    channel.end_now(End(UpstreamCut("a later one")))
    assert channel.statistics().items == 2, "behind what was held, and once"
    channel.drop()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert channel.empty()
    channel.end_now(end)
    assert await channel.get_before(loop().time()) is end
    assert channel.empty()
    assert channel.statistics().size_bytes == 0


@jumping
async def test_who_waits_gets_an_end_at_once() -> None:
    channel, end = Channel(1, 64), End()
    began = loop().time()
    getting = asyncio.create_task(channel.get_before(began + 60))
    await settled()
    channel.end_now(end)
    assert await getting is end
    assert loop().time() == began


# What it tells


@jumping
async def test_the_statistics_tell_what_is_held_the_peaks_and_how_long_the_producer_waited() -> None:
    told = list[float]()
    channel = Channel(2, 1000, on_pause=told.append)
    await channel.put(sized(100))
    await channel.put(sized(200))
    assert (channel.statistics().pauses, channel.statistics().paused_s) == (0, 0.0)
    putting = await blocked(channel, sized(64))
    await asyncio.sleep(5)
    assert channel.statistics().paused_s == pytest.approx(5)  # while it still waits
    assert told == []
    channel.get_nowait()
    await putting
    await asyncio.sleep(5)
    now = channel.statistics()
    assert (now.items, now.size_bytes, now.peak_items, now.peak_bytes, now.pauses) == (2, 264, 2, 300, 1)
    assert now.paused_s == pytest.approx(5)
    assert told == pytest.approx([5])


@jumping
async def test_its_repr_shows_state_and_counts() -> None:
    channel = Channel(1, 100)
    assert repr(channel) == "<Channel 0/1 items 0/100 bytes>"
    await channel.put(sized(64))
    putting = await blocked(channel, sized(64))
    assert repr(channel) == "<Channel 1/1 items 64/100 bytes paused>"
    channel.get_nowait()
    await putting


@jumping
async def test_what_is_held_is_counted_in_bytes_not_in_characters() -> None:
    channel = Channel(10, 1000)
    await channel.put(text("漢" * 200))
    held_bytes = 600 + OVERHEAD_BYTES
    assert channel.statistics().size_bytes == held_bytes
    with pytest.raises(asyncio.QueueFull):
        channel.put_nowait(text("漢" * 100))
    channel.put_nowait(text("x" * 100))
    assert channel.statistics().peak_bytes == held_bytes + 100 + OVERHEAD_BYTES
    channel.get_nowait()
    channel.get_nowait()
    assert channel.statistics().size_bytes == 0
