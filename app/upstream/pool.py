"""The SDK's requests, carried over resting sockets: a pool of warm ones, and one resend where one had gone stale or deaf."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator

import httptools
import httpx2

from .exchange import READ_BYTES, Body, Parser
from .resting_socket import RestingSocket
from .understudy import Understudy
from .ways import ProxyFailed, Way, Ways, proxy_headers, way_to
from .window import Window

log = logging.getLogger(__name__)

# A connection that nobody used for this long, in seconds, is closed before proxies and load balancers would do it.
IDLE_S = 55.0
# A request is sent again only if its connection breaks within this time, in seconds. A stale one breaks within a round
# trip; after that Claude may have begun to work, and a second request would be a second bill.
_STALE_S = 1.0
# A kept connection whose peer acknowledges nothing for so long, in seconds, may be dead. Longer than most round trips, and
# than the kernel takes to send again what was lost twice: where it was none, another connection was made for nothing.
UNHEARD_S = 1.0
# At most this many idle connections are kept, 10 kB each and 30 kB under TLS, because more streams seldom end at once.
MOST_IDLE = 64
# How often the pool is looked at, in seconds.
_LOOK_S = 1.0


class Pool(httpx2.AsyncBaseTransport):
    """Carries requests for an `httpx2.AsyncClient`; a response's `extensions["body"]` is its `Body`.

    Args:
        window: how receive buffers grow.
        connect_timeout_s: for a connection, from the name to the end of TLS's handshake.
        unheard_s: after so long without an acknowledgement a kept connection is doubted, in seconds.
    """

    def __init__(self, window: Window, connect_timeout_s: float, unheard_s: float = UNHEARD_S) -> None:
        self._ways = Ways(window, connect_timeout_s)
        self._unheard_s = unheard_s
        self._idle: dict[Way, list[RestingSocket]] = {}
        self._way_of: dict[RestingSocket, Way] = {}  # of every open connection
        self._known: dict[tuple[bool, str, int], Way] = {}
        self._missed: dict[Way, float] = {}  # requests that lately found no connection ready, fading
        self._closed = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends the request and returns once the response's head is here.

        Raises:
            httpx2.ConnectError, httpx2.ConnectTimeout: no connection. httpx2.ReadError, httpx2.WriteError,
                httpx2.RemoteProtocolError: it broke, or speaks no HTTP.

        Cancelling is safe: the connection is aborted.
        """
        way = self._way(request.url)
        connection = self._ready(way)
        kept = connection is not None
        if connection is None:
            connection = await self._connected(way)
        while True:
            old, began = connection.used, asyncio.get_running_loop().time()
            understudy = self._understudy(connection, way) if kept and _can_repeat(request) else None
            try:
                body, parser = await self._exchange(connection, way, request)
                break
            except (OSError, httpx2.TransportError) as error:
                self._drop(connection)
                if understudy is not None and (other := understudy.taken_over()) is not None:
                    log.info("a kept connection to Claude was dead, and its request is sent again on another one")
                    connection, kept = other, False
                    for idle in self._idle.pop(way, []):  # what forgot the one seldom remembers those beside it
                        self._drop(idle)
                    continue
                # The connection was stale: the peer had closed it before it saw the request, so the request can be sent
                # again.
                stale = old and asyncio.get_running_loop().time() < began + _STALE_S
                if stale and not isinstance(error, httpx2.RemoteProtocolError) and _can_repeat(request):
                    # Not another old one: that may be as stale, and each time may be paid.
                    connection, kept = await self._connected(way), False
                    continue
                if isinstance(error, httpx2.TransportError):
                    raise
                raise httpx2.WriteError(f"the connection broke: {error}") from error
            except BaseException:
                self._drop(connection)
                raise
            finally:
                if understudy is not None and (left_over := await understudy.close()) is not None:
                    self._drop(left_over)
        if not old:  # one that was used before has taught its session, and each copy of that is dear
            self._ways.learn(way, connection)
        return httpx2.Response(parser.status, headers=parser.headers, stream=body, extensions={"body": body})

    def give_back(self, connection: RestingSocket, *, reusable: bool) -> None:
        """A response has ended: its connection waits for the next request, if it can carry one."""
        way = self._way_of.get(connection)
        idle = self._idle.setdefault(way, []) if way is not None else []
        if way is None or not reusable or len(idle) >= MOST_IDLE or not connection.put_by():
            self._drop(connection)
        else:
            idle.append(connection)

    async def keep_warm(self, base_url: httpx2.URL, most: int) -> None:
        """Keeps up to `most` connections to one origin ready, and closes idle ones. Runs until cancelled.

        As many as requests lately found none ready, and one at least. A failure is said once, and tried again.
        """
        way = self._way(base_url)
        wait_s, told = _LOOK_S, False
        while True:
            self._sweep()
            spare = min(most, max(1, round(self._missed.get(way, 0.0))))
            try:
                while len(self._idle.get(way, [])) < spare:
                    connection = await self._connected(way)
                    connection.put_by()
                    self._idle.setdefault(way, []).append(connection)
                wait_s, told = _LOOK_S, False
            except httpx2.TransportError as error:
                if not told:
                    log.warning("no connection to Claude could be made ready: %s", error)
                wait_s, told = min(30.0, wait_s * 2), True
            await asyncio.sleep(wait_s)
            self._missed = {way: missed * 0.9 for way, missed in self._missed.items()}

    async def aclose(self) -> None:
        """Closes every connection, busy ones too; none is made any more. Idempotent."""
        self._closed = True
        await self._ways.close()
        for connection in list(self._way_of):
            self._drop(connection)
        self._idle.clear()

    def _way(self, url: httpx2.URL) -> Way:
        secure = url.scheme == "https"
        origin = secure, url.host, url.port or (443 if secure else 80)
        if origin not in self._known:
            self._known[origin] = way_to(*origin)
        return self._known[origin]

    def _ready(self, way: Way) -> RestingSocket | None:
        idle = self._idle.get(way, [])
        while idle:
            connection = idle.pop()  # the most recently used one, so that the older ones age out
            if connection.put_by():
                return connection
            self._drop(connection)
        self._missed[way] = min(float(MOST_IDLE), self._missed.get(way, 0.0) + 1.0)
        return None

    async def _connected(self, way: Way) -> RestingSocket:
        try:
            connection = await self._ways.connect(way)
        except ProxyFailed as error:
            raise httpx2.ConnectError(f"{error} ({error.proxy})") from error
        except TimeoutError:
            raise httpx2.ConnectTimeout("no connection in time") from None
        except ssl.SSLCertVerificationError as error:
            raise httpx2.ConnectError(f"the certificate was refused: {error.verify_message}") from error
        except ssl.SSLError as error:
            raise httpx2.ConnectError(f"no TLS: {error.reason or error}") from error
        except OSError as error:
            raise httpx2.ConnectError(error.strerror or str(error)) from error
        if self._closed:
            # Meanwhile, or a request that the closing broke off took its connection for a stale one: a second request may
            # be paid, and nobody would close this connection.
            connection.abort()
            raise httpx2.ConnectError("the pool was closed")
        self._way_of[connection] = way
        return connection

    def _understudy(self, first: RestingSocket, way: Way) -> Understudy:
        return Understudy(first, lambda: self._connected(way), self._unheard_s)

    async def _exchange(self, connection: RestingSocket, way: Way, request: httpx2.Request) -> tuple[Body, Parser]:
        try:
            await self._send(connection, way, request)
        except OSError:
            # A peer that refuses a request may answer and close before it has read everything, so its answer is read.
            try:
                return await self._head(connection)
            except ssl.SSLError:
                raise  # an alert, which says why
            except (OSError, httpx2.TransportError):
                pass
            raise
        return await self._head(connection)

    async def _head(self, connection: RestingSocket) -> tuple[Body, Parser]:
        parser = Parser()
        early, began = b"", False
        while not parser.status:
            try:
                data = connection.take(READ_BYTES)
            except OSError as error:
                if began:  # so it is no stale one, and the request is not sent again
                    raise httpx2.RemoteProtocolError("the connection broke in the answer's head") from error
                raise
            if data:
                began = True
                try:
                    early = parser.feed(data)
                except (httptools.HttpParserError, httptools.HttpParserUpgrade, ValueError) as error:
                    raise httpx2.RemoteProtocolError(f"what came is no HTTP: {error}") from error
            elif connection.ended and began:
                raise httpx2.RemoteProtocolError("the connection was closed in the answer's head")
            elif connection.ended:
                raise httpx2.ReadError("the connection was closed before an answer came")
            else:
                await connection.readable()
        return Body(connection, parser, early, self), parser

    async def _send(self, connection: RestingSocket, way: Way, request: httpx2.Request) -> None:
        in_chunks = request.headers.get("transfer-encoding", "").lower() == "chunked"
        data = _head_of(way, request)
        async for part in _parts(request):
            if in_chunks:
                part = b"%x\r\n%b\r\n" % (len(part), part) if part else b""
            if data and len(part) > READ_BYTES:
                await connection.send(data)
                data = b""
            data += part
            if len(data) > READ_BYTES:
                await connection.send(data)
                data = b""
        await connection.send(data + b"0\r\n\r\n" if in_chunks else data)

    def _sweep(self) -> None:
        oldest_at = asyncio.get_running_loop().time() - IDLE_S
        for way, idle in self._idle.items():
            for connection in list(idle):
                since = connection.idle_since
                if since < oldest_at or not connection.put_by():
                    idle.remove(connection)
                    self._drop(connection)
                connection.idle_since = since
            if idle and not self._ways.knows(way):  # so the first requests after a start need no whole handshake either
                self._ways.learn(way, idle[-1])

    def _drop(self, connection: RestingSocket) -> None:
        connection.abort()
        self._way_of.pop(connection, None)


def _head_of(way: Way, request: httpx2.Request) -> bytes:
    url = request.url
    target = url.raw_path
    if way.proxy is not None and not way.secure:  # without the user that the URL may have (RFC 9110, section 4.2.4)
        target = b"http://" + url.netloc + target
    lines = [b"%b %b HTTP/1.1" % (request.method.encode("ascii"), target)]
    lines += [b"%b: %b" % header for header in request.headers.raw]
    if way.proxy is not None and not way.secure:
        lines += [b"%b: %b" % header for header in proxy_headers(way)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


async def _parts(request: httpx2.Request) -> AsyncIterator[bytes]:
    stream = request.stream
    assert isinstance(stream, httpx2.AsyncByteStream), "an async client makes async streams"
    async for part in stream:
        yield part


def _can_repeat(request: httpx2.Request) -> bool:
    """Whether the body can be sent again: bytes can, a stream that was read cannot."""
    return isinstance(request.stream, httpx2.ByteStream)
