"""Bodies arrive within a time, at a pace and within what all may hold together; a large one is decoded beside the loop."""

from __future__ import annotations

import asyncio
import json
import math
import threading

import aiohttp
import pytest

from app.tools.simulator.server import Simulator
from app.web.http.bodies import BodyBound, decoded
from tests.conftest import Serve
from tests.support.readers import Reader, eventually


def test_a_body_may_be_slow_for_a_grace_and_then_as_slow_as_its_bound() -> None:
    bound = BodyBound(10**6, 120.0, grace_s=10.0, min_bytes_per_s=500)
    assert [bound.slow_after_s(size) for size in (0, 500, 50_000)] == [10.0, 11.0, 110.0]
    assert BodyBound(10**6, 120.0).slow_after_s(0) == math.inf


async def dripped(reader: Reader, path: str, body: bytes, pause_s: float) -> int:
    """Sends a body byte by byte; the status of the answer."""
    head = reader.request(b"", path=path).replace(b"Content-Length: 0", b"Content-Length: %d" % len(body))
    await reader.send(head)

    async def drip() -> None:
        for byte in body:
            await reader.send(bytes([byte]))
            await asyncio.sleep(pause_s)

    dripping = asyncio.create_task(drip())
    status = await reader.head()
    dripping.cancel()
    await asyncio.wait([dripping])
    return status


@pytest.mark.parametrize(
    ("path", "said"), [("/api/stream", b"100000 bytes a second"), ("/v1/files", b"100000 bytes a second")]
)
async def test_a_body_that_drips_is_refused_long_before_its_time_is_over(path: str, said: bytes, serve: Serve) -> None:
    service = await serve(body_grace_s=0.2, min_body_bytes_per_s=100_000)
    reader = await Reader.connect(service.url)
    assert await dripped(reader, path, b" " * 10_000, 0.01) == 408
    assert said in await reader.rest()
    reader.leave()


async def test_a_body_that_keeps_its_pace_is_read(serve: Serve) -> None:
    service = await serve(body_grace_s=0.5, min_body_bytes_per_s=2)
    reader = await Reader.connect(service.url)
    assert await dripped(reader, "/api/stream", json.dumps({"prompt": "{{tokens=2}}"}).encode(), 0.04) == 200
    reader.leave()


async def test_what_is_arriving_is_bounded_in_all_and_let_go_of_again(
    serve: Serve, client: aiohttp.ClientSession, simulator: Simulator
) -> None:
    service = await serve(max_arriving_bytes=200_000)
    halves = []
    for _ in range(3):
        reader = await Reader.connect(service.url)
        await reader.send(reader.request(b"x" * 90_000)[:-1])
        halves.append(reader)
    assert await halves[-1].head() == 503
    halves[0].leave()
    body = {"prompt": "x" * 80_000 + "{{tokens=2}}"}
    statuses = []
    async with asyncio.timeout(20):
        while 200 not in statuses:
            async with client.post(f"{service.url}/api/stream", json=body) as response:
                statuses.append(response.status)
    assert set(statuses) <= {200, 503}
    for reader in halves:
        reader.leave()
    await eventually(lambda: not service.streams.live)
    assert len(simulator.books) == 1


async def test_a_large_body_is_decoded_beside_the_loop_and_a_small_one_at_once() -> None:
    def where(_body: bytes) -> threading.Thread:
        return threading.current_thread()

    assert await decoded(b"x" * 1000, where) is threading.current_thread()
    assert await decoded(b"x" * 1_000_000, where) is not threading.current_thread()
