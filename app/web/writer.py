"""The reader's connection: an SSE response with small buffers and one writer.

What differs from aiohttp-sse's `EventSourceResponse`, and why:
1. Any method: the question travels in a POST's body.
2. Line feeds only: the simplest readers split on a bare blank line.
3. No ping task: two tasks that drain one connection cancel each other; the consumer's own timeout is the heartbeat.
4. No send timeout: it would end slow readers, and `TCP_USER_TIMEOUT` counts acknowledged zero-window probes too.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest
from aiohttp_sse import EventSourceResponse

from app.errors import SluicewayError
from app.events import ClaudeEvent
from app.sse import numbered
from app.wire import WireFormat


@dataclass(frozen=True, slots=True)
class SendBuffers:
    """The bounds of what may wait for a reader below us.

    Attributes:
        send_buffer_bytes: `SO_SNDBUF`; Linux doubles it for its own book-keeping.
        notsent_lowat_bytes: `TCP_NOTSENT_LOWAT`, how much of it may be unsent before a write waits.
    """

    send_buffer_bytes: int
    notsent_lowat_bytes: int


class EventStream(EventSourceResponse):
    """The response of one stream; see the module's list of differences."""

    def __init__(self, headers: Mapping[str, str], buffers: SendBuffers) -> None:
        super().__init__(headers=headers, sep="\n", allow_all_methods=True, send_timeout=None)
        self._buffers = buffers
        self._writer: AbstractStreamWriter | None = None

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Sends the status and headers, and bounds every buffer below this connection. Idempotent."""
        if self._writer is None:
            transport = request.transport
            if transport is None:
                raise ConnectionResetError("the reader left before the answer began")
            transport.set_write_buffer_limits(high=0)
            sock: socket.socket = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._buffers.send_buffer_bytes)
            if sock.family != socket.AF_UNIX and hasattr(socket, "TCP_NOTSENT_LOWAT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, self._buffers.notsent_lowat_bytes)
            if request.version < HttpVersion11:
                self.headers["Connection"] = "close"  # its only way to see the end
            # Past the parent's own prepare(), which starts the ping task.
            self._writer = await web.StreamResponse.prepare(self, request)
        return self._writer

    async def write_and_drain(self, data: bytes) -> None:
        """Writes, and waits until the kernel has taken all of it. Raises ConnectionError if the reader is gone."""
        assert self._writer is not None, "prepare() comes first"
        await self._writer.write(data)
        await self._writer.drain()


class SseReader:
    """One reader in one wire format: what the consumer writes to.

    Args:
        request: the reader's request.
        wire: the format it reads.
        headers: of the response, beside those of every event stream.
        buffers: the bounds below.
    """

    def __init__(
        self, request: web.Request, wire: WireFormat, headers: Mapping[str, str], buffers: SendBuffers
    ) -> None:
        self._request = request
        self._wire = wire
        self._last_id = 0
        self.response = EventStream(headers, buffers)

    @property
    def committed(self) -> bool:
        """Whether status and headers have been sent."""
        return self.response.prepared

    async def send(self, events: list[ClaudeEvent]) -> None:
        """Writes one batch and drains; commits the status, even where the format has no frame for the events."""
        await self._write(self._numbered(self._wire.encode(events)))

    async def keep_alive(self) -> None:
        """Writes a sign of life and drains."""
        await self._write(self._wire.keep_alive)

    async def finish(self, error: SluicewayError | None) -> None:
        """Writes the last event and drains."""
        await self._write(self._numbered(self._wire.end(error)))

    def _numbered(self, frames: list[bytes]) -> bytes:
        first_id = self._last_id + 1
        self._last_id += len(frames)
        return b"".join([numbered(frame_id, frame) for frame_id, frame in enumerate(frames, first_id)])

    async def _write(self, data: bytes) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
        if data:
            await self.response.write_and_drain(data)
