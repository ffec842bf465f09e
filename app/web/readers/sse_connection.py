"""The reader's connection: an SSE response with small buffers and one writer.

What differs from aiohttp-sse's `EventSourceResponse`, and why:
1. Any method: the question travels in a POST's body.
2. Line feeds only: the simplest readers split on a bare blank line.
3. No ping task: two tasks that drain one connection cancel each other; the consumer's own timeout is the heartbeat.
4. No send timeout: it would end slow readers, and `TCP_USER_TIMEOUT` counts acknowledged zero-window probes too.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from dataclasses import replace

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest
from aiohttp_sse import EventSourceResponse

from ...errors import SluicewayError
from ...settings.sections import SendBuffers
from ...streams.connection import Interrupted
from ...streams.credits import Credits
from ...streams.liveness import Finding, Liveness
from .reader_socket import sample_of


def bound_buffers(request: BaseRequest, buffers: SendBuffers) -> None:
    """Makes every buffer between us and the reader small. Raises ConnectionResetError if the reader is gone."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the reader left before the answer began")
    transport.set_write_buffer_limits(high=0)
    sock: socket.socket = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffers.send_buffer_bytes)
    if sock.family != socket.AF_UNIX and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, buffers.notsent_lowat_bytes)


class EventStream(EventSourceResponse):
    """The response of one stream; see the module's list of differences."""

    def __init__(self, headers: Mapping[str, str], buffers: SendBuffers) -> None:
        super().__init__(headers=headers, sep="\n", allow_all_methods=True, send_timeout=None)
        self._buffers = buffers
        self._writer: AbstractStreamWriter | None = None
        self._in_chunks = False
        self._asked: BaseRequest | None = None  # the request, once prepared: its transport is None when the reader left

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Sends the status and headers, and bounds every buffer below this connection. Idempotent."""
        if self._writer is None:
            self._asked = request
            bound_buffers(request, self._buffers)
            if request.version < HttpVersion11:
                self.headers["Connection"] = "close"  # HTTP/1.0 knows no other way to see the end
            # This skips the parent's own prepare(), because that starts the ping task.
            self._writer = await web.StreamResponse.prepare(self, request)
            self._in_chunks = self.headers.get("Transfer-Encoding") == "chunked"
        return self._writer

    def put(self, data: bytes) -> bool:
        """Writes, and tells whether to `drain()`: the kernel has not taken everything. Raises ConnectionError.

        It writes the same bytes as the parent's `write()`, but skips four layers that cost more than the system call.
        """
        transport = self._asked.transport if self._asked is not None else None
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the reader left")
        if data:  # an empty chunk would be the last one
            transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._in_chunks else data)
        return self.waiting

    @property
    def waiting(self) -> bool:
        """Whether something is written that the kernel has not taken."""
        transport = self._asked.transport if self._asked is not None else None
        return transport is None or transport.get_write_buffer_size() > 0

    async def drain(self) -> None:
        """Returns when the kernel has taken all that was written. Raises ConnectionError if the reader is gone."""
        assert self._writer is not None, "prepare() comes first"
        await self._writer.drain()
        if self._asked is None or self._asked.transport is None:  # when a reader closes, the wait ends without an error
            raise ConnectionResetError("the reader left what it was sent")


class SseConnection:
    """One reader's connection, as the delivery of frames sees it.

    Args:
        request: the reader's request.
        response: not sent yet.
        liveness: follows what the reader takes.
        sent_id: the last frame that the reader has already.
        credits: how far to run ahead of what its page shows, if it asked.

    Attributes:
        response: what the handler returns once `released()` has returned.
    """

    def __init__(
        self,
        request: web.Request,
        response: EventStream,
        liveness: Liveness,
        sent_id: int = 0,
        credits: Credits | None = None,
    ) -> None:
        self._request = request
        self._liveness = liveness
        self._released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._interrupted = False
        self._draining: asyncio.Timeout | None = None  # set while a write waits
        self._written_bytes = 0
        self.stuck_s = 0.0
        self.ended = False
        self.sent_id = sent_id
        self.credits = credits
        self.response = response

    @property
    def committed(self) -> bool:
        """Whether status and headers have been sent."""
        return self.response.prepared

    async def write(self, data: bytes) -> None:
        """Sends the status if need be, writes, and drains.

        Raises:
            ConnectionError: the reader is gone. Interrupted: the stream has another reader, or none.

        Cancelling leaves it open how much of `data` was written.
        """
        if self._interrupted:
            raise Interrupted
        if not self.response.prepared:
            await self.response.prepare(self._request)  # does not wait
        self._written_bytes += len(data)
        if not self.response.put(data):
            return
        try:
            async with asyncio.timeout(None) as self._draining:
                await self.response.drain()
        except TimeoutError:
            raise Interrupted from None
        finally:
            self._draining = None

    def interrupt(self) -> None:
        """Breaks off a write that is waiting, and all later ones. Idempotent."""
        self._interrupted = True
        if self._draining is not None and not self._draining.expired():
            self._draining.reschedule(asyncio.get_running_loop().time())

    async def write_last(self, data: bytes) -> None:
        """Writes without waiting; nothing may follow. Does nothing where the connection is broken."""
        if self.response.prepared:
            with contextlib.suppress(ConnectionError):
                self.response.put(data)

    def release(self, error: SluicewayError | None) -> None:
        """Lets `released()` return, or raise `error` where no status was sent. Idempotent."""
        if self._released.done():
            return
        if error is None or self.committed:
            self._released.set_result(None)
        else:
            self._released.set_exception(error)
            self._released.exception()  # marked as seen: a handler that is gone will not ask for it

    async def released(self) -> None:
        """Returns when the stream has no more for this connection, and the response is ended.

        Raises what could not be told in the stream. Cancelling is safe.
        """
        await asyncio.shield(self._released)
        transport = self._request.transport
        if not self.committed or transport is None:
            return
        if self._interrupted and self.response.waiting:
            # Nobody can wait for this connection any more, because the drain that was broken off left aiohttp's one
            # waiter cancelled.
            asyncio.get_running_loop().call_later(self._liveness.stall_s, transport.abort)
            self.response.force_close()
            return
        try:
            with contextlib.suppress(ConnectionError):  # a reader that has left needs no end
                async with asyncio.timeout(self._liveness.stall_s):
                    await self.response.write_eof()
        except TimeoutError:  # the watch has let go of it, so a stalled reader that was taken over would stay for ever
            self.abort()

    def look(self, now: float) -> Finding | None:
        """Whether the reader still takes anything, at loop time `now`."""
        transport = self._request.transport
        if transport is None or not self.committed:
            return None
        sample = sample_of(transport, self._written_bytes)
        if sample is None:
            return None
        if self.credits is not None and self.credits.exhausted:
            # The page holds us by its credits: nothing waits in the socket, yet nothing is shown, which counts as a
            # stall.
            sample = replace(sample, waiting_bytes=1, taken_bytes=self.credits.shown_bytes)
        if self.credits is not None and now > self.credits.next_word_by:
            sample = replace(sample, late=True)
        finding = self._liveness.look(sample, now)
        self.stuck_s = self._liveness.stuck_s(now)
        return finding

    def abort(self) -> None:
        """Ends the connection at once. Idempotent."""
        if self._request.transport is not None:
            self._request.transport.abort()
