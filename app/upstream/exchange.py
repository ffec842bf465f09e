"""One request and its response on a resting socket: HTTP/1.1, parsed once a read (RFC 9112)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import httptools
import httpx2

from .resting_socket import RestingSocket

if TYPE_CHECKING:
    from .pool import Pool

# By default this much is taken from the socket at once, because a TLS record holds as much.
READ_BYTES = 16_384
# A response's head may take at most this much, and so may what frames its body, between two bytes of that. Claude's own
# head takes some 2 kB, and thirty times that bounds what a broken peer can send.
MAX_HEAD_BYTES = 65_536


class HeadTooLarge(ValueError):
    """A response's head, or what frames its body, passed its bound without an end."""


class BrokeOff(httpx2.ReadError):
    """The body of a good response ended before its end: an answer had begun."""


class Parser:
    """What a response says: its head once that is whole, and its body as it comes. Pure.

    Attributes:
        status: of the final response, 0 until its head is whole; interim ones (1xx) are passed over.
        headers: as they came, names and values as bytes.
        broken: what is wrong with the bytes after the body's last good ones, once such came.
        complete: the body has ended, by its own framing.
        keep_alive: the connection can carry another request after it.
    """

    __slots__ = (
        "_framed_twice", "_framing_bytes", "_parser", "_parts", "_until_close", "broken", "complete", "headers", "keep_alive", "status",
    )  # fmt: skip

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        # Some servers send blanks after a chunk's size, or a length beside chunks, which then count (RFC 9112, section 6.3):
        # every browser and SDK takes them.
        self._parser.set_dangerous_leniencies(lenient_chunked_length=True, lenient_spaces_after_chunk_size=True)
        self._parts: list[bytes] = []
        # So many came since the last byte of the body: the head, chunks' sizes and extensions, trailers.
        self._framing_bytes = 0
        self._until_close = False  # nothing frames the body but the connection's end
        self._framed_twice = False  # by a length and by chunks
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.complete = self.keep_alive = False
        self.broken: httptools.HttpParserError | None = None

    def feed(self, data: bytes) -> bytes:
        """Takes the next bytes and returns what of the body they hold.

        What was good before the bytes that are no HTTP still counts: it was paid. Bytes after the response's end are
        none of its own.

        Raises:
            httptools.HttpParserError: this is no HTTP. HeadTooLarge: it may be, but goes on for ever.
        """
        if self.broken is not None:
            raise self.broken
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if self.complete:
                self.keep_alive = False
            elif self._parts:
                self.broken = error
            else:
                raise
        parts = self._parts
        if not parts:
            self._framing_bytes += len(data)
            if self._framing_bytes > MAX_HEAD_BYTES and not self.complete:
                raise HeadTooLarge(f"the response has more than {MAX_HEAD_BYTES} bytes without one of its body")
            return b""
        self._framing_bytes = 0
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return body

    def end(self) -> bool:
        """The connection has ended; tells whether the response has with it, as it should."""
        self.complete = self.complete or (self._until_close and bool(self.status))
        self.keep_alive = False
        return self.complete

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # a trailer is none of them (RFC 9110, section 6.5.1)
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self.headers = []
            return
        names = {name.lower() for name, _ in self.headers}
        framed = names & {b"content-length", b"transfer-encoding"}
        self._until_close = not framed
        self._framed_twice = len(framed) > 1
        self.status = status

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        if self.status:
            self.complete = True
            # Who frames a body twice may mean another end by the other.
            self.keep_alive = self._parser.should_keep_alive() and not self._framed_twice


class Body(httpx2.AsyncByteStream):
    """A response's body: the SDK may iterate over it; whoever paces reads takes what came by `take`.

    Args:
        socket: where it comes from, given back to `transport` as soon as the body has ended.
        parser: has the head already.
        early: what of the body came with the head.
        transport: the socket's owner.

    Attributes:
        socket: None once it was given back.
    """

    def __init__(self, socket: RestingSocket, parser: Parser, early: bytes, transport: Pool) -> None:
        self.socket: RestingSocket | None = socket
        self._parser = parser
        self._early = early
        self._transport = transport
        self._flowed_at = math.inf  # when the last bytes were taken; not yet
        self._buffer_bytes = socket.buffer_bytes
        if parser.complete:
            self._give_back()

    @property
    def complete(self) -> bool:
        """Whether the body has ended as its framing says, and everything of it was taken."""
        return self._parser.complete and not self._early

    def take(self, most_bytes: int = READ_BYTES) -> bytes:
        """What of the body has come, at once.

        Raises:
            httpx2.ReadError: the connection broke, or ended before the body did; BrokeOff where the status was good.
                httpx2.RemoteProtocolError: what came is no HTTP.
        """
        early, self._early = self._early, b""
        socket = self.socket
        if early or socket is None:
            return early
        try:
            if self._parser.broken is not None:
                raise self._parser.broken
            while True:
                data = socket.take(most_bytes)
                if not data:
                    if socket.ended and not self._parser.end():
                        raise self._broke("the connection ended before the answer did")
                    break
                body = self._parser.feed(data)
                if body or self._parser.complete:
                    break
        except OSError as error:  # ssl.SSLError is one
            raise self._broke(f"the connection broke: {error}") from error
        except (httptools.HttpParserError, ValueError) as error:
            raise httpx2.RemoteProtocolError(f"what came is no HTTP: {error}") from error
        if self._parser.complete:
            self._give_back()
        return body if data else b""

    def _broke(self, words: str) -> httpx2.ReadError:
        return BrokeOff(words) if 200 <= self._parser.status < 300 else httpx2.ReadError(words)

    @property
    def more(self) -> bool:
        """Whether the last `take` had as much as it might, so that more may lie there."""
        return self.socket is not None and self.socket.more

    def put_back(self, taken: bytes) -> None:
        """What was taken last comes again with the next `take`, all of it at once."""
        self._early = taken + self._early

    async def readable(self) -> None:
        """Returns when there may be something to `take`. Cancelling is safe."""
        if self.socket is not None and not self._early:
            await self.socket.readable()

    def wake(self) -> None:
        """Lets a waiting `readable()` return."""
        if self.socket is not None:
            self.socket.wake()

    def flowed(self, size_bytes: int, now: float) -> int:
        """Hears that these bytes were taken at loop time `now`; returns the receive buffer's size, which may have grown."""
        elapsed_s, self._flowed_at = now - self._flowed_at, now
        if self.socket is None:
            return self._buffer_bytes
        self.socket.flowed(size_bytes, elapsed_s)
        self._buffer_bytes = self.socket.buffer_bytes
        return self._buffer_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not self.complete:
            if chunk := self.take():
                yield chunk
                await asyncio.sleep(0)  # else all others would wait while the peer is as fast as we are
            elif not self.complete:
                await self.readable()

    async def aclose(self) -> None:
        """Lets go of the connection: it is aborted unless the body has ended. Idempotent."""
        self.abort()

    def abort(self) -> None:
        """Ends the connection at once, where it is still ours. Idempotent."""
        socket, self.socket = self.socket, None
        if socket is not None:
            socket.abort()

    def _give_back(self) -> None:
        socket, self.socket = self.socket, None
        if socket is not None:
            self._transport.give_back(socket, reusable=self._parser.keep_alive)
