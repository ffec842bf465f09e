"""A body that comes as fast as it is taken: whoever else waits for the event loop has it between two pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

import httpx2
import pytest

from app.settings.sections import UpstreamOptions
from app.upstream.answer import Answer
from app.upstream.exchange import Body, Parser
from app.upstream.pacing import Pacer
from app.upstream.passing import Passed
from app.upstream.pool import Pool
from app.upstream.resting_socket import RestingSocket
from tests.support.clock import jumping


class Flood:
    """A socket in which more always lies: comments, which are no events."""

    buffer_bytes = 8192
    ended = False
    more = True
    taken = 0

    def take(self, _most_bytes: int) -> bytes:
        self.taken += 1
        assert self.taken < 1000, "nobody else had a turn"
        return b": x\n\n" * 200

    def abort(self) -> None:
        """Nothing holds it."""


class Flooded:
    """What an answer has of Claude: one that sends no end of comments."""

    options = UpstreamOptions()
    window_s = 0.1
    pacer = Pacer()

    def __init__(self) -> None:
        self.on_retry: Callable[[], None] = lambda: None

    async def post(self, *_: object) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, extensions={"body": flood()})

    def hide(self, said: bytes) -> bytes:
        return said

    def failed(self, *_: object) -> None:
        pytest.fail("it goes on")


def flood() -> Body:
    parser = Parser()
    parser.feed(b"HTTP/1.1 200 OK\r\n\r\n")
    return Body(cast(RestingSocket, Flood()), parser, b"", cast(Pool, None))


async def whole() -> None:
    async for _ in flood():
        pass


async def passed() -> None:
    async for _ in Passed(200, [], httpx2.Response(200, extensions={"body": flood()}), 1.0).pieces():
        pass


async def streamed() -> None:
    await Answer(Flooded(), "/v1/messages", b"{}", {}, Flooded.options).open()


@pytest.mark.parametrize("reading", [whole, passed, streamed])
@jumping
async def test_a_flood_leaves_the_event_loop_to_others(reading: Callable[[], Coroutine[Any, Any, None]]) -> None:
    flooded = asyncio.create_task(reading())
    for _ in range(100):
        await asyncio.sleep(0)  # which would not come back
    flooded.cancel()
    with pytest.raises(asyncio.CancelledError):
        await flooded
