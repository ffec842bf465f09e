"""The watch over the readers: how many are stalled, and for how long each was."""

from __future__ import annotations

import asyncio

from app.streams.liveness import Finding
from tests.support.clock import jumping
from tests.support.connections import FakeConnection, StreamsUnderTest, streams_under_test
from tests.support.fakes import Step, text

ENDLESS: list[Step] = [[text("x" * 10)] for _ in range(1000)]


def observed(opened: StreamsUnderTest) -> tuple[float | None, float | None, float | None]:
    """Readers stalled now, stalls that ended, and their seconds in all."""
    value = opened.registry.get_sample_value
    return (
        value("sluiceway_readers_stalled"),
        value("sluiceway_stall_seconds_count"),
        value("sluiceway_stall_seconds_sum"),
    )


@jumping
async def test_a_stall_is_counted_while_it_lasts_and_observed_when_the_reader_goes_on() -> None:
    async with streams_under_test() as opened:
        opened.start(ENDLESS, connection := FakeConnection(stalls_at=20))
        await asyncio.sleep(1)
        assert observed(opened) == (0, 0, 0)
        connection.stuck_s = 3.5
        await asyncio.sleep(1)
        assert observed(opened) == (1, 0, 0)
        connection.stuck_s = 0.0
        await asyncio.sleep(1)
        assert observed(opened) == (0, 1, 3.5)


@jumping
async def test_a_reader_that_is_given_up_has_stalled_until_then() -> None:
    async with streams_under_test() as opened:
        opened.start(ENDLESS, connection := FakeConnection(stalls_at=20))
        await asyncio.sleep(1)
        connection.stuck_s, connection.finding = 60.0, Finding.STALLED
        await asyncio.sleep(1.1)
        assert connection.aborted
        assert observed(opened) == (0, 1, 60.0)
