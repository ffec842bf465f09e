"""Below the SDK: the pool of connections to Claude, and what every request through it is given, whoever asks.

1. A kept connection that Claude's side had closed in the meantime brings no error: the request goes out once more.
2. The body of an error is taken in, bounded and without secrets; a body in a coding that nobody asked for is refused.
3. Whoever waits for an answer gets hold of aiohttp's own response and connection, and a request that is cancelled
   before its answer aborts the transport, because a closing TLS handshake with a frozen peer takes 30 s.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import urllib.request
import zlib
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp
import httpx2
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import AddrInfoType, Connection
from aiohttp.tracing import Trace
from httpx_aiohttp.httpx2 import AiohttpTransport

from ..answer.refusals import MOST_BODY_BYTES

# A connection that was closed unseen says so within a round trip. What breaks later, Claude may have worked on: another
# request would be another bill. In seconds.
_STALE_S = 1.0
# How long the body of an error is waited for, in seconds; what has come by then says enough.
_ERROR_BODY_S = 0.5


@dataclass(slots=True)
class Call:
    """What one request in flight has got hold of.

    Attributes:
        connection: what it was sent on.
        reused: another request had used that connection before.
        response: its answer, once the head is here.
    """

    connection: Connection | None = None
    reused: bool = False
    response: aiohttp.ClientResponse | None = None

    def abort(self) -> None:
        """Ends the TCP connection at once, whatever its state. Idempotent."""
        if self.connection is not None and self.connection.transport is not None:
            self.connection.transport.abort()
        if self.response is not None:
            self.response.close()


# From the transport to the connector and the trace hooks of the request that it sends, and no further.
_sending: ContextVar[Call] = ContextVar("_sending")


class _Connector(aiohttp.TCPConnector):
    """Tells the call in flight which connection it was given."""

    async def connect(self, req: ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout) -> Connection:
        connection = await super().connect(req, traces, timeout)
        _sending.get().connection = connection
        return connection


async def _on_reuse(_s: aiohttp.ClientSession, _c: SimpleNamespace, _p: aiohttp.TraceConnectionReuseconnParams) -> None:
    _sending.get().reused = True


async def _on_request_end(_s: aiohttp.ClientSession, _c: SimpleNamespace, end: aiohttp.TraceRequestEndParams) -> None:
    _sending.get().response = end.response


class Transport(httpx2.AsyncBaseTransport):
    """What the SDK sends its requests through. Each response has its `Call` in its extensions, as `call`.

    Args:
        read_buffer_bytes: what aiohttp reads ahead of us, for each connection.
        receive_buffer_bytes: `SO_RCVBUF` of each.
        hide: takes the secrets out of what Claude's side says.
    """

    def __init__(self, read_buffer_bytes: int, receive_buffer_bytes: int, hide: Callable[[bytes], bytes]) -> None:
        self._read_buffer_bytes = read_buffer_bytes
        self._receive_buffer_bytes = receive_buffer_bytes
        self._hide = hide
        self._pool = AiohttpTransport(client=self._session)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends it, and returns when the head of the answer is here. Cancelling aborts the connection.

        Raises:
            httpx2.TransportError: there was no answer. httpx2.DecodingError: it is in a coding that nobody asked for.
        """
        call = Call()
        try:
            response = await self._sent(request, call)
            if not response.is_success:
                return await self._taken_in(response, call)
            if coding := _coding(response):
                raise httpx2.DecodingError(f"the answer is coded as {coding}, though none was asked for")
        except BaseException:
            call.abort()
            raise
        response.extensions["call"] = call
        return response

    async def aclose(self) -> None:
        """Closes the pool."""
        await self._pool.aclose()

    async def _sent(self, request: httpx2.Request, call: Call) -> httpx2.Response:
        clock = asyncio.get_running_loop().time
        while True:
            call.connection, call.reused, began = None, False, clock()
            token = _sending.set(call)
            try:
                return await self._pool.handle_async_request(request)
            except httpx2.TransportError as error:
                # Ends by itself: each time the pool has one connection less, and a new one is not `reused`.
                unseen = call.reused and _closed_before_any_byte(error.__cause__) and clock() - began < _STALE_S
                if not unseen or not isinstance(request.stream, httpx2.ByteStream):
                    raise
            finally:
                _sending.reset(token)

    async def _taken_in(self, response: httpx2.Response, call: Call) -> httpx2.Response:
        """The same answer with what is worth keeping of its body; the rest is not read."""
        assert isinstance(response.stream, httpx2.AsyncByteStream), "the pool's own are"
        body, whole = bytearray(), False
        with contextlib.suppress(TimeoutError, httpx2.TransportError):  # what came by then is what it said
            async with asyncio.timeout(_ERROR_BODY_S):
                async for chunk in response.stream:
                    body += chunk
                    if len(body) >= MOST_BODY_BYTES:
                        break
                else:
                    await response.aclose()
                    whole = True
        if not whole:
            call.abort()
        said, coding = bytes(body[:MOST_BODY_BYTES]), _coding(response)
        headers = httpx2.Headers(response.headers)
        for name in ("content-encoding", "content-length", "transfer-encoding"):
            headers.pop(name, None)
        return httpx2.Response(
            response.status_code,
            # The SDK's client would read where a redirect leads to, and fail where that is no address.
            extensions={"location": headers.pop("location", "")},
            headers=headers,
            content=self._hide(_decoded(said, coding) if coding else said),
            request=response.request,
        )

    def _session(self) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_on_reuse)
        trace.on_request_end.append(_on_request_end)
        return aiohttp.ClientSession(
            # No cap on connections: how many streams run is decided where they are let in, not by a queue down here.
            connector=_Connector(limit=0, keepalive_timeout=60, socket_factory=self._socket),
            read_bufsize=self._read_buffer_bytes,
            trace_configs=[trace],
            # Where a proxy is set in the environment; where none is, aiohttp would still ask in a thread each time.
            trust_env=bool(urllib.request.getproxies()),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def _socket(self, address: AddrInfoType) -> socket.socket:
        sock = socket.socket(*address[:3])
        # Set before connecting: the receive window is negotiated from it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer_bytes)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
        return sock


def _closed_before_any_byte(error: BaseException | None) -> bool:
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)  # else it is the part of a head that came
    return isinstance(error, aiohttp.ClientOSError)


def _coding(response: httpx2.Response) -> str:
    coding = response.headers.get("content-encoding", "").strip().lower()
    return "" if coding == "identity" else coding


def _decoded(said: bytes, coding: str) -> bytes:
    """The beginning of a coded body, at most as long as an uncoded one may be."""
    for wbits in {"gzip": (31,), "x-gzip": (31,), "deflate": (15, -15)}.get(coding, ()):
        try:
            return zlib.decompressobj(wbits).decompress(said, MOST_BODY_BYTES)
        except zlib.error:
            continue
    return f"(a body coded as {coding})".encode("utf-8", "replace")
