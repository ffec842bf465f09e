"""One HTTP/1.x connection of the simulated Claude: requests in, bytes out, and true faults on the wire.

Written on asyncio's protocol because a simulator of backpressure and cuts must own the socket: aiohttp's server buffers
64 KiB above it, cannot send a reset and tells of a gone peer only at the next write.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol, cast

# The Messages API refuses larger bodies (Messages API, request size limits).
MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_HEAD_BYTES = 65_536


class HttpError(Exception):
    """The peer's HTTP cannot be understood (400) or is too large (413)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came.

    Attributes:
        path: without the query.
        query: what came after the `?`, as it came.
        headers: names in lower case.
        keep_alive: the connection stays open after the answer.
        chunks: the peer understands chunked bodies, that is, speaks HTTP/1.1.
    """

    method: str
    path: str
    headers: dict[str, str]
    keep_alive: bool
    chunks: bool
    body: bytes = b""
    query: str = ""


class Watcher(Protocol):
    """Hears what happens to the connection while an answer runs on it."""

    def gone(self, reason: str) -> None:
        """The peer is gone, the simulator stops, or the connection closed."""

    def blocked(self) -> None:
        """The kernel takes no more."""

    def unblocked(self) -> None:
        """The kernel took everything."""


class ServerConnection(asyncio.Protocol):
    """Answers one request after the other in a task of its own, which is cancelled as soon as the peer is gone.

    Attributes:
        watcher: who hears of the peer during an answer; None between answers.
    """

    def __init__(
        self,
        respond: Callable[[ServerConnection, Request], Awaitable[None]],
        refuse: Callable[[ServerConnection, HttpError], Awaitable[None]],
        living: set[ServerConnection],
    ) -> None:
        """
        Args:
            respond: answers one request, whole.
            refuse: answers what was no request; the connection closes after it.
            living: the connection keeps itself in this set until task and transport are over.
        """
        self.watcher: Watcher | None = None
        self._respond, self._refuse, self._living = respond, refuse, living
        self._loop = asyncio.get_running_loop()
        self._input = asyncio.StreamReader(limit=MAX_HEAD_BYTES, loop=self._loop)
        self._transport: asyncio.Transport
        self._task: asyncio.Task[None]
        self._closed: asyncio.Future[None] = self._loop.create_future()  # done when the transport is
        self._drained: asyncio.Future[None] | None = None  # while the transport holds bytes the kernel did not take

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, not an assertion: uvloop's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        # Nothing is buffered above the kernel, so that a write is over only when the kernel has it all.
        self._transport.set_write_buffer_limits(high=0)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._living.add(self)
        self._task = self._loop.create_task(self._serve())
        self._task.add_done_callback(self._served)

    def data_received(self, data: bytes) -> None:
        self._input.feed_data(data)

    def eof_received(self) -> bool:
        self.abandon("eof")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.abandon("reset" if isinstance(exc, ConnectionError) else "closed")
        self._closed.set_result(None)
        self._forget()

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None

    def abandon(self, reason: str) -> None:
        """Cancels whatever runs here and ends the TCP connection. Idempotent."""
        if self.watcher is not None:
            self.watcher.gone(reason)
        self._task.cancel()

    async def wait_closed(self) -> None:
        """Waits until task and transport are over. Cancelling is safe."""
        await asyncio.wait([self._task, self._closed])

    async def write(self, data: bytes) -> None:
        """Writes and waits until the kernel has taken everything. Cancelled, part of it may be out."""
        self._transport.write(data)
        if self._transport.is_closing():
            # The write failed and does not count: connection_lost is on its way and cancels this.
            await self._loop.create_future()
        if self._drained is None:
            return
        watcher = self.watcher
        if watcher is None:
            await self._drained
            return
        watcher.blocked()
        try:
            await self._drained
        finally:
            watcher.unblocked()

    def reset(self) -> None:
        """Ends the TCP connection with RST, whatever was promised."""
        linger_none = struct.pack("ii", 1, 0)
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_none)
        self._transport.abort()

    def close(self) -> None:
        """Ends the TCP connection with FIN, whatever was promised."""
        self._transport.close()

    async def _serve(self) -> None:
        try:
            keep_alive = True
            while keep_alive and not self._transport.is_closing():
                try:
                    request = await self._receive()
                except HttpError as error:
                    await self._refuse(self, error)
                    break
                await self._respond(self, request)
                keep_alive = request.keep_alive
        except BaseException:
            self._transport.abort()
            raise
        self._transport.close()

    def _served(self, task: asyncio.Task[None]) -> None:
        self._forget()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "the simulated Claude failed", "exception": error})

    def _forget(self) -> None:
        if self._task.done() and self._closed.done():
            self._living.discard(self)

    async def _receive(self) -> Request:
        try:
            lines = (await self._input.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, target, version = lines[0].split(" ")
            pairs = (line.partition(":") for line in lines[1:] if line)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            if headers.get("expect", "").lower() == "100-continue":
                await self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await self._receive_body(headers)
        except (ValueError, asyncio.LimitOverrunError) as error:
            raise HttpError(400, f"malformed HTTP: {error}") from error
        chunks = version != "HTTP/1.0"
        keep_alive = chunks and "close" not in headers.get("connection", "").lower()
        path, _, query = target.partition("?")
        return Request(method, path, headers, keep_alive, chunks, body, query)

    async def _receive_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            length = int(headers.get("content-length", 0))
            if length > MAX_BODY_BYTES:
                raise HttpError(413, f"request exceeds {MAX_BODY_BYTES} bytes")
            return await self._input.readexactly(length)
        body = bytearray()
        while size := int((await self._input.readline()).split(b";")[0], 16):
            if len(body) + size > MAX_BODY_BYTES:
                raise HttpError(413, f"request exceeds {MAX_BODY_BYTES} bytes")
            body += (await self._input.readexactly(size + 2))[:size]
        while (await self._input.readline()).strip():
            pass
        return bytes(body)


def head(status: int, headers: Iterable[tuple[str, str]], *, keep_alive: bool = True) -> bytes:
    """The head of an answer, with `date`, and `connection: close` unless it stays open."""
    phrase = HTTPStatus(status).phrase if status in HTTPStatus.__members__.values() else "Overloaded"
    lines = [f"HTTP/1.1 {status} {phrase}", f"date: {formatdate(usegmt=True)}"]
    lines += [f"{name}: {value}" for name, value in headers]
    if not keep_alive:
        lines.append("connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


async def send(
    connection: ServerConnection, request: Request, status: int, headers: Iterable[tuple[str, str]], body: bytes
) -> None:
    """Sends an answer whose whole body is known. Cancelled, part of it may be out."""
    framing = ("content-length", str(len(body)))
    await connection.write(head(status, [*headers, framing], keep_alive=request.keep_alive) + body)
