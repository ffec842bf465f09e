"""Readers that are slow: generation waits for them, nothing piles up on the way, and nothing is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest

from app.settings import Settings
from app.tools.simulator.answer import numbered_text
from app.tools.simulator.performance import RequestRecord
from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.readers import Reader, Told, events_of, eventually, steady

# As the README promises.
AHEAD_TOKENS = 1500


async def stalled(url: str, simulator: Simulator, directive: str, read_bytes: int = 0) -> Reader:
    """A reader with a small buffer that reads a little and stops; returns once Claude's side stands still."""
    reader = await Reader.connect(url, rcvbuf_bytes=4096)
    await reader.ask(directive)
    assert await reader.head() == 200
    while reader.body_bytes < read_bytes:
        await reader.some(512)
    await steady(lambda: simulator.books[-1].tokens)
    return reader


def paused_s(book: RequestRecord) -> float:
    """For how long Claude's side has been held still, up to now."""
    return float(book.entry(asyncio.get_running_loop().time())["paused_s"])


async def listed(service: Running) -> dict[str, Any]:
    """The one running stream as the admin port shows it."""
    async with aiohttp.ClientSession() as session, session.get(f"{service.admin_url}/streams") as response:
        (stream,) = await response.json()
        return dict(stream)


async def test_a_stalled_reader_stops_generation_and_then_gets_every_token_in_order(
    service: Running, simulator: Simulator
) -> None:
    reader = await stalled(service.url, simulator, "tokens=20000 text=numbered", read_bytes=20_000)
    read = reader.body.count(b"token") + 1
    book = simulator.books[0]
    overrun = book.tokens - read
    print(f"{overrun} tokens were made ahead of the stalled reader")
    assert overrun <= AHEAD_TOKENS
    assert book.is_blocked.is_set()
    stream = await listed(service)
    assert stream["paused"] is True

    told = Told.of(events_of(await reader.rest()))
    reader.leave()
    assert told.text == numbered_text(20_000)
    assert told.last["usage"]["output_tokens"] == 20_000


async def test_a_reader_a_hundred_times_too_slow_holds_claude_still(service: Running, simulator: Simulator) -> None:
    """10 tokens a second of a model that makes 1,000; when it hurries at last, nothing is missing."""
    bound = Settings.model_validate({}).streams.queue_bytes
    reader = await Reader.connect(service.url, rcvbuf_bytes=4096)
    await reader.ask("tokens=3000 rate=1000 text=numbered")
    await reader.head()
    await reader.at(bytes_per_s=10 * 16, duration_s=5)
    stream = await listed(service)
    book = simulator.books[0]
    await steady(lambda: book.tokens)
    made, held_s = book.tokens, paused_s(book)
    print(f"{made} tokens made in 5 s at 10/s, upstream paused {held_s:.1f} s, queue peak {stream['queue_peak_bytes']}")

    assert made <= 50 + AHEAD_TOKENS
    assert held_s > 2
    assert stream["pauses"] > 0
    assert bound / 2 < stream["queue_peak_bytes"] <= bound
    book.hurried = True
    told = Told.of(events_of(await reader.rest()))
    reader.leave()
    assert told.text == numbered_text(3000)


@pytest.mark.soak
async def test_ten_tokens_a_second_to_the_very_end(service: Running, simulator: Simulator) -> None:
    reader = await Reader.connect(service.url, rcvbuf_bytes=4096)
    await reader.ask("tokens=3000 rate=1000 text=numbered")
    await reader.head()
    while not reader.ended:
        await reader.at(bytes_per_s=10 * 16, duration_s=10)
    reader.leave()

    assert Told.of(events_of(reader.body)).text == numbered_text(3000)
    assert simulator.books[0].paused_s > 60


async def test_a_longer_answer_does_not_run_further_ahead(service: Running, simulator: Simulator) -> None:
    overruns = []
    for tokens in (20_000, 200_000):
        reader = await stalled(service.url, simulator, f"tokens={tokens} text=numbered", read_bytes=5000)
        overruns.append(simulator.books[-1].tokens - reader.body.count(b"token"))
        reader.leave()

    assert overruns[1] <= overruns[0] + AHEAD_TOKENS / 2


async def test_a_stall_longer_than_every_upstream_deadline_ends_well(serve: Serve, simulator: Simulator) -> None:
    service = await serve(idle_timeout_s=1.5, progress_timeout_s=1.8)
    reader = await stalled(service.url, simulator, "tokens=8000 text=numbered pings_s=0.1", read_bytes=1000)
    await eventually(lambda: paused_s(simulator.books[0]) > 2)
    assert simulator.books[0].live

    told = Told.of(events_of(await reader.rest()))
    reader.leave()
    assert told.text == numbered_text(8000)


async def test_keep_alives_do_not_pile_up_before_a_stalled_reader(serve: Serve, simulator: Simulator) -> None:
    service = await serve(heartbeat_s=0.2)
    reader = await stalled(service.url, simulator, "tokens=8000 text=numbered", read_bytes=1000)
    await eventually(lambda: paused_s(simulator.books[0]) > 2)  # ten heartbeats
    body = await reader.rest()
    reader.leave()

    assert body.count(b": keep-alive") <= 5
    assert Told.of(events_of(body)).text == numbered_text(8000)


async def test_a_stalled_reader_holds_up_no_other(service: Running, simulator: Simulator) -> None:
    slow = await stalled(service.url, simulator, "tokens=50000")
    quick = await Reader.connect(service.url)
    await quick.ask("tokens=500 text=numbered")
    await quick.head()
    assert Told.of(events_of(await quick.rest())).text == numbered_text(500)
    assert simulator.books[0].live
    slow.leave()
    quick.leave()


async def test_one_event_larger_than_the_queue_passes(serve: Serve) -> None:
    """A delta of 2,000 tokens is 20 kB; the queue holds 256 bytes."""
    service = await serve(queue_bytes=256, queue_items=1)
    reader = await Reader.connect(service.url, rcvbuf_bytes=4096)
    await reader.ask("tokens=6000 text=numbered tokens_per_delta=2000")
    await reader.head()
    told = Told.of(events_of(await reader.rest()))
    reader.leave()

    assert told.text == numbered_text(6000)


async def test_a_reader_of_small_sips_gets_every_byte(service: Running) -> None:
    reader = await Reader.connect(service.url, rcvbuf_bytes=4096)
    await reader.ask("tokens=3000 tokens_per_delta=1-30 thinking=200 tool=50 seed=5", thinking={"type": "adaptive"})
    await reader.head()
    while await reader.some(61):
        pass
    reader.leave()
    told = Told.of(events_of(reader.body))

    assert told.last["usage"]["output_tokens"] == 3250
    assert told.text
    assert told.thinking
    assert len(told.tools) == 1
