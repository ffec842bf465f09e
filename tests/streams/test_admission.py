"""Who is let in, and how late the loop is."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

import pytest
from aiohttp import ClientSession

from app.errors import Overloaded
from app.settings.sections import AdmissionLimits
from app.streams.admission import SUSTAINED_S, LagMeter, check_room, saturation
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.readers import Reader, eventually
from tests.support.scrape import scrape


def test_there_is_room_up_to_the_bound_and_not_beyond() -> None:
    limits = AdmissionLimits(max_streams=2, max_lag_s=0.5)
    check_room(limits, 1, 0.0)
    with pytest.raises(Overloaded) as refused:
        check_room(limits, 2, 0.0)
    assert refused.value.status == 503
    assert refused.value.retry_after_s
    assert "2 streams" in refused.value.message


@pytest.mark.parametrize(
    ("held_of", "full"),
    [
        (((0, 10), (0, 1.0)), 0.0),
        (((5, 10), (0.1, 1.0)), 0.5),
        (((1, 10), (0.9, 1.0)), 0.9),
        (((10, 10), (0, 1.0)), 1.0),
        (((0, 10), (7.5, 1.0)), 1.0),  # a loop may be later than its bound; nothing is fuller than full
    ],
)
def test_a_process_is_as_full_as_the_fullest_of_what_it_bounds(
    held_of: tuple[tuple[float, float], ...], full: float
) -> None:
    assert saturation(*held_of) == full


def _runs(service: Running, count: int) -> bool:
    return len(service.streams.live) == count


async def test_the_gauge_of_saturation_follows_the_places_taken(serve: Serve) -> None:
    service = await serve(max_streams=4)
    readers = [await Reader.connect(service.url) for _ in range(3)]
    seen = []
    for count, reader in enumerate(readers, 1):
        await reader.ask("tokens=60000 rate=5")
        await reader.head()
        await eventually(partial(_runs, service, count))
        seen.append((await scrape(service)).value("saturation"))
    assert seen == [0.25, 0.5, 0.75]
    for reader in readers:
        reader.leave()
    await eventually(lambda: not service.streams.live)
    assert (await scrape(service)).value("saturation") < 0.25


def test_no_one_comes_in_once_the_loop_has_been_late_for_a_while() -> None:
    limits = AdmissionLimits(max_streams=2)
    check_room(limits, 0, SUSTAINED_S * 0.99)
    with pytest.raises(Overloaded) as refused:
        check_room(limits, 0, SUSTAINED_S)
    assert refused.value.retryable
    assert refused.value.retry_after_s


class _Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_beat_that_is_overdue_counts_before_it_comes() -> None:
    clock = _Clock()
    meter = LagMeter(clock, 0.1)
    assert meter.lag_s <= 0
    clock.now += LagMeter.BEAT_S + 0.7
    assert meter.lag_s == pytest.approx(0.14)
    assert meter.late_for_s == pytest.approx(0.7)


def test_a_hiccup_is_not_late_and_one_turn_that_lasts_is() -> None:
    """A turn of the loop in which a thousand requests arrive is found while it goes on."""
    clock = _Clock()
    meter = LagMeter(clock, 0.03)
    clock.now += LagMeter.BEAT_S + 0.15
    assert meter.late_for_s < SUSTAINED_S
    clock.now += 1.0
    assert meter.late_for_s > SUSTAINED_S


async def test_the_average_follows_late_beats_and_forgets_them() -> None:
    clock = _Clock()
    beats: list[float] = []
    late_for_s: list[float] = []
    averages: list[float] = []
    enough = asyncio.Event()
    late_s = [1.0, 1.0, 1.0, *[0.0] * 12]

    def on_beat(seconds: float) -> None:
        beats.append(seconds)
        averages.append(meter.lag_s)
        late_for_s.append(meter.late_for_s)
        if len(beats) == len(late_s):
            enough.set()

    meter = LagMeter(clock, 0.1, on_beat)

    async def time_passes() -> None:
        # The meter's clock moves on while its own short sleep runs on the loop's.
        for seconds in late_s:
            count = len(beats)
            clock.now += LagMeter.BEAT_S + seconds
            while len(beats) == count:  # noqa: ASYNC110 - the meter has no event to wait for
                await asyncio.sleep(0)  # lets the meter's sleep end

    running = asyncio.create_task(meter.run())
    passing = asyncio.create_task(time_passes())
    await enough.wait()
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await passing
    assert beats == pytest.approx(late_s, abs=1e-6)
    assert averages[0] == pytest.approx(0.2, abs=1e-6), "whoever hears of a beat finds it in the average once"
    assert 0 < meter.lag_s < 0.1  # three beats of a second, a dozen in time: on its way down
    assert late_for_s[:3] == pytest.approx([1.0, 2.05, 3.1], abs=0.06)
    assert late_for_s[-1] == 0.0


async def test_a_stream_too_many_is_refused_and_the_next_one_served_when_one_has_ended(
    serve: Serve, client: ClientSession
) -> None:
    service = await serve(max_streams=1)
    url = f"{service.url}/api/stream"
    first = await client.post(url, json={"prompt": "{{tokens=5 fault=silence after=5}}"})
    assert first.status == 200
    refused = await client.post(url, json={"prompt": "hello"})
    assert refused.status == 503
    assert int(refused.headers["Retry-After"]) >= 1
    assert (await refused.json())["retryable"] is True
    first.close()
    while service.streams.live:  # noqa: ASYNC110 - nothing tells of the last stream's end
        await asyncio.sleep(0)  # lets the service see that the first reader left
    again = await client.post(url, json={"prompt": "{{tokens=5}}"})
    assert again.status == 200
    await again.read()
