"""The simulated Claude's faults as they look on the wire, its sense of time, backpressure and gone peers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
import uvloop

from app.tools.simulator.answer import numbered_text
from app.tools.simulator.performance import RequestRecord
from app.tools.simulator.server import Simulator
from tests.support.peer import Peer, body_of, eventually, simulated, streamed, text_of, with_jumping_clock
from tests.support.readers import AT_ONCE_S, steady

pytestmark = pytest.mark.real

# --- faults in the middle ------------------------------------------------------------------------------------------


async def test_overloaded_in_the_middle_is_the_last_event() -> None:
    async with simulated() as (simulator, session):
        events = await streamed(session, "tokens=9 text=numbered fault=overloaded after=4")

    assert text_of(events) == numbered_text(4)
    assert events[-1]["error"] == {"type": "overloaded_error", "message": "Overloaded"}
    book = simulator.books[0]
    assert (book.tokens, book.would_have, book.finished, book.gone_at) == (4, 9, False, None)
    assert book.usage["output_tokens"] == 1, "the placeholder: the true figure was never reported"


async def test_error_first_is_the_only_event() -> None:
    async with simulated() as (_, session):
        events = await streamed(session, "fault=error_first")
    assert [event["type"] for event in events] == ["error"]


async def test_no_message_stop_ends_the_body_properly_but_early() -> None:
    async with simulated() as (simulator, session):
        events = await streamed(session, "tokens=9 text=numbered fault=no_message_stop after=4")

    assert text_of(events) == numbered_text(4)
    assert events[-1]["type"] == "content_block_delta"
    assert not simulator.books[0].finished


async def test_a_refusal_keeps_the_text_before_it_and_ends_the_message() -> None:
    async with simulated() as (simulator, session):
        events = await streamed(session, "tokens=9 text=numbered fault=refuse after=4")

    assert text_of(events) == numbered_text(4)
    assert events[-2]["delta"]["stop_reason"] == "refusal"
    assert events[-2]["usage"]["output_tokens"] == 4
    assert (simulator.books[0].finished, simulator.books[0].would_have) == (True, 4)


async def test_html_is_a_page_of_another_server_with_status_200() -> None:
    async with simulated() as (_, session), session.post("/v1/messages", json=body_of("fault=html")) as response:
        assert (response.status, response.content_type) == (200, "text/html")
        assert (await response.text()).startswith("<!doctype html>")


async def test_a_cut_is_a_reset_after_the_last_token() -> None:
    async with Simulator() as simulator:
        peer = await Peer.connect(simulator)
        await peer.ask("tokens=9 text=numbered fault=cut after=4")
        with pytest.raises(ConnectionResetError):
            await peer.read_to_end()
        peer.close()

    assert b"token0004" in peer.received
    assert b"token0005" not in peer.received
    book = simulator.books[0]
    assert (book.tokens, book.finished, book.gone_at, book.live) == (4, False, None, False)


async def test_a_cut_by_fin_leaves_a_chunk_unfinished() -> None:
    async with Simulator() as simulator:
        peer = await Peer.connect(simulator)
        await peer.ask("tokens=9 text=numbered fault=cut_fin after=4")
        wire = await peer.read_to_end()
        peer.close()

    size, _, rest = wire.rpartition(b"\n\n\r\n")[2].partition(b"\r\n")
    assert len(rest) < int(size, 16)
    assert b"token0004" in wire


@pytest.mark.parametrize("fault", ["cut", "cut_fin", "no_message_stop"])
async def test_a_cut_leaves_a_request_without_stream_unanswered(fault: str) -> None:
    async with simulated() as (simulator, session):
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.post("/v1/messages", json=body_of(f"tokens=5 fault={fault} after=2", stream=False))
    assert simulator.books[0].tokens == 2


async def test_garbage_without_stream_is_a_body_that_does_not_parse() -> None:
    async with (
        simulated() as (simulator, session),
        session.post("/v1/messages", json=body_of("fault=garbage", stream=False)) as response,
    ):
        with pytest.raises(json.JSONDecodeError):
            await response.json()
    assert not simulator.books[0].finished


@pytest.mark.parametrize("fault", ["overloaded", "error_first"])
async def test_overload_without_stream_is_a_529(fault: str) -> None:
    async with (
        simulated() as (simulator, session),
        session.post("/v1/messages", json=body_of(f"fault={fault}", stream=False)) as response,
    ):
        assert response.status == simulator.books[0].status == 529


# --- time ----------------------------------------------------------------------------------------------------------


def test_the_rate_is_kept_over_virtual_minutes() -> None:
    async def scene() -> None:
        async with simulated() as (simulator, session):
            loop = asyncio.get_running_loop()
            began = loop.time()
            assert len(await streamed(session, "tokens=101 rate=2 tokens_per_delta=1-5 ttft_s=3 first_event_s=4")) > 20
            took_s = loop.time() - began
            # The last delta, of up to five tokens, is due when those before it are.
            assert 3 + 4 + (101 - 5) / 2 <= took_s <= 3 + 4 + 101 / 2 + 1
            assert simulator.books[0].paused_s == 0

    with_jumping_clock(scene)


def test_pings_come_at_their_interval_before_the_first_event_and_between_tokens() -> None:
    async def scene() -> None:
        async with simulated() as (_, session):
            events = await streamed(session, "tokens=2 rate=0.05 first_event_s=10.5 pings_s=2")
            kinds = [event["type"] for event in events]
            assert kinds[:6] == ["ping"] * 5 + ["message_start"]
            between = kinds[kinds.index("content_block_delta") + 1 :]
            assert 8 <= between.index("content_block_delta") <= 10

    with_jumping_clock(scene)


def test_ping_only_sends_pings_and_nothing_else_for_as_long_as_one_listens() -> None:
    async def scene() -> None:
        async with Simulator() as simulator:
            peer = await Peer.connect(simulator)
            await peer.ask("tokens=9 text=numbered fault=ping_only after=3 pings_s=20")
            await peer.read_until(b"token0003")
            began = asyncio.get_running_loop().time()
            for _ in range(10):
                assert b"token" not in await peer.read_until(b'{"type":"ping"}')
            assert 180 <= asyncio.get_running_loop().time() - began <= 220
            peer.close()
            await simulator.books[0].ended.wait()

    with_jumping_clock(scene)


def test_silence_is_silent_for_virtual_hours() -> None:
    async def scene() -> None:
        async with Simulator() as simulator:
            peer = await Peer.connect(simulator)
            await peer.ask("tokens=9 text=numbered fault=silence after=3")
            await peer.read_until(b"token0003")
            await peer.read_until(b"\r\n")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(7200):
                    await peer.read_to_end()
            assert peer.received == b""
            assert simulator.books[0].live
            peer.close()

    with_jumping_clock(scene)


def test_what_a_stalled_reader_held_up_is_not_made_up_for() -> None:
    async def scene() -> None:
        async with Simulator() as simulator:
            loop = asyncio.get_running_loop()
            peer = await Peer.connect(simulator, rcvbuf_bytes=4096)
            began = loop.time()
            await peer.ask("tokens=2000 rate=10")
            book = await simulator.book()
            await book.is_blocked.wait()
            await asyncio.sleep(3600)
            assert book.is_blocked.is_set()
            await peer.read_until(b"message_stop")
            await book.ended.wait()
            assert book.paused_s > 3500
            # As long as it would have taken, and as long as it was held up.
            assert loop.time() - began >= 1999 / 10 + book.paused_s
            peer.close()

    with_jumping_clock(scene)


# --- backpressure and gone peers -----------------------------------------------------------------------------------


async def blocked_peer(simulator: Simulator) -> tuple[Peer, RequestRecord]:
    """A peer that reads nothing, after the drain has blocked for good."""
    peer = await Peer.connect(simulator, rcvbuf_bytes=4096)
    await peer.ask("tokens=200000 text=numbered")
    book = await simulator.book(len(simulator.books))
    tokens = -1
    while tokens != book.tokens:
        tokens = book.tokens
        await book.is_blocked.wait()
        await steady(lambda: book.tokens, 0.1)  # whatever the kernel can take, it takes now
    return peer, book


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_reader_that_stops_reading_halts_generation(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def scene() -> None:
        async with Simulator() as simulator:
            peer, book = await blocked_peer(simulator)
            held = book.tokens
            # What the kernel's two buffers take, and nothing above them: 138 events of 142 bytes when measured.
            assert 10 < held < 600
            assert book.live
            await eventually(lambda: book.entry(asyncio.get_running_loop().time())["paused_s"] > 0)
            assert book.tokens == held

            await peer.read_until(f"token{held - 10:04d}".encode())
            await eventually(lambda: book.tokens > held)
            assert book.paused_s > 0
            peer.close()
            await book.ended.wait()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scene())


async def _before_headers(simulator: Simulator) -> tuple[Peer, RequestRecord]:
    peer = await Peer.connect(simulator)
    await peer.ask("ttft_s=60")
    return peer, await simulator.book()


def _after(directive: str, mark: bytes) -> Callable[[Simulator], Awaitable[tuple[Peer, RequestRecord]]]:
    async def arrange(simulator: Simulator) -> tuple[Peer, RequestRecord]:
        peer = await Peer.connect(simulator)
        await peer.ask(directive)
        await peer.read_until(mark)
        return peer, await simulator.book()

    return arrange


async def _without_stream(simulator: Simulator) -> tuple[Peer, RequestRecord]:
    peer = await Peer.connect(simulator)
    await peer.ask("rate=0.01", stream=False)
    return peer, await simulator.book()


PHASES = {
    "before headers": _before_headers,
    "before the first event": _after("first_event_s=60", b"\r\n\r\n"),
    "between pings": _after("first_event_s=60 pings_s=0.001", b'{"type":"ping"}'),
    "hidden thinking": _after("thinking=50 hidden rate=0.01", b"content_block_start"),
    "hidden thinking, as fast as can be": _after("thinking=1000000 hidden", b"content_block_start"),
    "between tokens": _after("rate=0.01", b"text_delta"),
    "as fast as can be": _after("tokens=1000000 text=numbered", b"token0100"),
    "a byte a write": _after("tokens=1000000 chunking=bytes", b"\r\n1\r\n\n\r\n"),
    "silence": _after("fault=silence after=1", b"text_delta"),
    "only pings": _after("fault=ping_only after=1", b"text_delta"),
    "blocked": blocked_peer,
    "without stream": _without_stream,
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("leave", [Peer.close, Peer.reset])
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_gone_peer_ends_generation_at_once_in_every_phase(
    phase: str, leave: Callable[[Peer], None], loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def scene() -> None:
        async with Simulator() as simulator:
            peer, book = await PHASES[phase](simulator)
            assert book.live
            left_at = time.time()
            leave(peer)
            await book.ended.wait()

            assert book.gone_at is not None
            assert book.gone_at - left_at < AT_ONCE_S
            assert book.gone_reason in ("eof", "reset")
            assert (book.finished, book.live) == (False, False)
            assert book.tokens < book.would_have

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scene())


async def test_stopping_the_simulator_ends_every_stream_and_says_why() -> None:
    simulator = Simulator()
    await simulator.start()
    peer = await Peer.connect(simulator)
    await peer.ask("rate=0.01")
    await peer.read_until(b"text_delta")
    await simulator.stop()
    await simulator.stop()

    assert (simulator.books[0].gone_reason, simulator.books[0].live) == ("stopped", False)
    peer.close()
