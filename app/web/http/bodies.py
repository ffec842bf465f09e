"""Bodies of requests: they arrive within a bound and at a pace, and a large one holds up nobody."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import HttpVersion11, hdrs, web

from ...errors import BadRequest, Overloaded, SlowRequest, TooLarge, WrongMediaType
from .json_shape import JsonShape

# A body above this size, in bytes, is decoded beside the loop, where it takes turns with it.
_LARGE_BYTES = 262_144

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BodyBound:
    """The bound of a body.

    Attributes:
        max_bytes: its largest size.
        timeout_s: how long it may take to arrive, in seconds.
        setting: the setting that the bound comes from, if it comes from one.
        max_values: the most values that its JSON may hold, counted as `JsonShape` does; 0 where it need be no JSON.
        grace_s: for how long it may be slow, in seconds.
        min_bytes_per_s: how fast it must be from then on; 0 for any speed.
    """

    max_bytes: int
    timeout_s: float
    setting: str = ""
    max_values: int = 0
    grace_s: float = 0.0
    min_bytes_per_s: int = 0

    def slow_after_s(self, size_bytes: int) -> float:
        """How long a body may have taken of which so much has come, in seconds, or it is too slow."""
        return self.grace_s + size_bytes / self.min_bytes_per_s if self.min_bytes_per_s else math.inf


class Bodies:
    """Reads bodies.

    Args:
        max_held_bytes: what those that are still arriving may hold together.

    Attributes:
        held_bytes: what they hold.
    """

    def __init__(self, max_held_bytes: int) -> None:
        self.max_held_bytes = max_held_bytes
        self.held_bytes = 0

    async def read(self, request: web.Request, bound: BodyBound) -> bytes:
        """The whole body.

        Raises:
            WrongMediaType: it is compressed: its size would be anyone's guess. TooLarge: it is above its bound.
            SlowRequest: it did not come in time. BadRequest: it broke off, or holds too much. Overloaded: too much is
            arriving. Cancelling is safe.
        """
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() not in ("identity", ""):
            raise WrongMediaType("the body must not be compressed: Content-Encoding is not taken")
        if (request.content_length or 0) > bound.max_bytes:
            raise too_large(bound)
        await give_leave(request)
        pieces: list[bytes] = []
        size_bytes = 0
        shape = JsonShape(bound.max_values) if bound.max_values else None
        try:
            async with _arriving(bound) as came:
                while piece := await request.content.readany():
                    pieces.append(piece)
                    size_bytes += len(piece)
                    self._hold(len(piece))
                    if size_bytes > bound.max_bytes:
                        raise too_large(bound)
                    if shape is not None:
                        await _look_over(piece, shape)
                    came(size_bytes)
        finally:
            self.held_bytes -= size_bytes
        return await _joined(pieces)

    def _hold(self, size_bytes: int) -> None:
        self.held_bytes += size_bytes
        if self.held_bytes > self.max_held_bytes:
            raise Overloaded("as many bodies are arriving as this service may hold", retry_after_s=2.0)


@asynccontextmanager
async def _arriving(bound: BodyBound) -> AsyncIterator[Callable[[int], None]]:
    """A block in which a body arrives; it is to be told how much has come. Raises what `Bodies.read` tells of."""
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    try:
        async with asyncio.timeout(min(bound.timeout_s, bound.slow_after_s(0))) as timeout:
            yield lambda size_bytes: timeout.reschedule(began_at + min(bound.timeout_s, bound.slow_after_s(size_bytes)))
    except TimeoutError:
        if loop.time() - began_at < bound.timeout_s:
            raise too_slow(bound) from None
        raise SlowRequest(f"the body did not come within {bound.timeout_s:g} s") from None
    except web.RequestPayloadError as error:
        raise BadRequest("the body broke off, or its framing is not HTTP's") from error


async def _look_over(piece: bytes, shape: JsonShape) -> None:
    for start in range(0, len(piece), shape.SLICE_BYTES):
        if start:
            await asyncio.sleep(0)
        shape.feed(piece[start : start + shape.SLICE_BYTES])


async def _joined(pieces: list[bytes]) -> bytes:
    body = b"".join(pieces)
    if len(body) > _LARGE_BYTES:
        pieces.clear()
        await asyncio.sleep(0)  # joining megabytes takes milliseconds, and so does decoding them: others go between
    return body


async def decoded(body: bytes, decode: Callable[[bytes], T]) -> T:
    """What a pure function makes of a body; a large one's beside the loop. Raises what it raises. Cancelling is safe."""
    return decode(body) if len(body) <= _LARGE_BYTES else await asyncio.to_thread(decode, body)


def too_large(bound: BodyBound) -> TooLarge:
    """The refusal of a body above its bound."""
    return TooLarge(f"the body is above {bound.setting or 'its bound'}, {bound.max_bytes} bytes", field="body")


def too_slow(bound: BodyBound) -> SlowRequest:
    """The refusal of a body that is below its speed."""
    return SlowRequest(
        f"the body came more slowly than {bound.min_bytes_per_s} bytes a second, after {bound.grace_s:g} s of grace"
    )


async def give_leave(request: web.Request) -> None:
    """Tells a client that waits for leave to send its body to do so (RFC 9110, 10.1.1)."""
    if request.version < HttpVersion11 or request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
        return
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # of the answer, which this is not
