"""Clients' connections: what is no HTTP as this server takes it is refused in the service's own words.

No handler and no middleware sees such a request: aiohttp answers it with its parser's words, in plain text, which repeat
the request, cookies and keys too.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from aiohttp import StreamReader, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from ..errors import CallerError, HeadTooLarge, Malformed, SlowRequest, SluicewayError
from ..settings.connections import ConnectionBounds
from .crowd import Crowd, peer_of
from .http.errors import error_response
from .http.response_headers import guard
from .refusals import Refusals

# A request's first line begins with one of these. Only its path is needed, so no more of the line is kept than that
# takes.
_METHODS = (b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b"PUT ", b"PATCH ", b"DELETE ")
_LINE_BYTES = 256
# The end of a head.
_END = b"\r\n\r\n"
# How long the other side of a connection that was turned away is given to read why, in seconds.
_LINGER_S = 1.0
# A head whose time is over is looked for once more after this time, in seconds: uvloop runs timers before it reads.
_LOOK_S = 0.01
# The header that the parser names, in its first line; what follows is the request's.
_FIELD = re.compile(
    r"Duplicate '([\w-]+)' header|Missing '([\w-]+)' header|\b(Content-Length|Transfer-Encoding)\b", re.IGNORECASE
)


class ClientConnection(web.RequestHandler):
    """One client's connection.

    Args:
        server: whose handlers answer.
        refusals: hears of what is no HTTP.
        bounds: how large a head may be, and how long it may take.
        crowd: of which it is one.
    """

    __slots__ = (
        "_bounds",
        "_busy",
        "_content",
        "_crowd",
        "_ended",
        "_head_bytes",
        "_head_end",
        "_head_timer",
        "_last",
        "_line",
        "_refusals",
    )

    def __init__(self, server: web.Server, refusals: Refusals, bounds: ConnectionBounds, crowd: Crowd) -> None:
        # auto_decompress: aiohttp would unpack a compressed body before anyone has asked whose it is.
        # access_log: one line a stream is logged by the session.
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # as aiohttp's own documentation has it
            auto_decompress=False,
            keepalive_timeout=bounds.keepalive_timeout_s,
            max_line_size=bounds.max_head_bytes,
            max_field_size=bounds.max_head_bytes,
        )
        self._refusals, self._bounds, self._crowd = refusals, bounds, crowd
        self._line = b""  # of the newest request, as far as it is known
        self._head_bytes = 0  # that came of the head so far
        self._head_end = b""  # its last bytes; an end of the head may be split between two packets
        self._head_timer: asyncio.TimerHandle | None = None  # set while a head is waited for
        self._content: StreamReader | None = None  # the newest request's body, of which more may come after the answer
        self._busy = False  # a handler runs, or its answer is being sent
        self._last = False  # the next answer is the last one
        self._ended = False  # it was answered for the last time, and what still comes is dropped

    @property
    def address(self) -> str:
        """Of the other end; empty for a unix socket."""
        return peer_of(self.transport)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes a place among the others, and gives the first head its time."""
        super().connection_made(transport)
        # An answer is sent once the kernel has all of it: what this process still held would end with it.
        cast("asyncio.WriteTransport", transport).set_write_buffer_limits(high=0)
        self._wait_for_head()
        error = self._crowd.enter(self)
        if error is not None:
            self._turn_away(error, linger_s=0.0)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Leaves the others."""
        self._stop_waiting()
        self._crowd.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes in what came."""
        if self._ended:
            return
        if data.startswith(_METHODS):
            self._line = data[:_LINE_BYTES]
        if data and (self._content is None or self._content.is_eof()):
            if not self._busy:
                self._wait_for_head()
            if self._is_head_too_large(data):
                self._refuse_head()
                return
        super().data_received(data)
        # aiohttp's own queue, a private name: a head that came together with the end of another's body was not looked at.
        if self._messages:
            self._head_end = _END

    def begins(self, content: StreamReader) -> None:
        """A request's head is whole, and its handler begins."""
        self._stop_waiting()
        self._busy, self._content = True, content
        self._head_bytes, self._head_end = 0, b""  # of the next one, which may come before this one is answered
        self._crowd.is_busy(self)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Sends the answer; then the next request may come. Cancelling is safe."""
        try:
            sent = await super().finish_response(request, resp, start_time)
            if self._last:
                resp.force_close()  # its head may have said otherwise, long ago
            return sent
        finally:
            self._busy = False
            if self._head_bytes:
                self._wait_for_head()
            self._crowd.is_idle(self)

    def give_way(self) -> None:
        """Closes at once, since another connection needs the place."""
        if self.transport is not None:
            self.transport.abort()

    def end_soon(self) -> None:
        """Closes where no request is on its way as far as is known, else with the answer to it."""
        if self._line and not self._busy and not self._head_bytes and self.transport is not None:
            self.transport.close()
        self._last = True

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """Ends what still runs after `timeout` seconds, and closes; what the other side does not take is not waited for."""
        transport = cast("asyncio.WriteTransport | None", self.transport)
        await super().shutdown(timeout)
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to what is no request, in the shape of what lives at its path."""
        if not isinstance(exc, HttpProcessingError):
            response = super().handle_error(request, status, exc, message)
            guard(response.headers)
            return response
        error = malformed(exc)
        if error.refusal is not None:
            self._refusals.refused(error.refusal)
        response = error_response(error, self._path)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """Logs a defect. What is the client's fault is no defect: a body whose framing breaks off after its answer."""
        if not isinstance(kw.get("exc_info"), HttpProcessingError | web.RequestPayloadError):
            super().log_exception(*args, **kw)

    @property
    def _path(self) -> str:
        line = self._line.decode("latin-1").split(" ")
        return line[1] if len(line) > 1 else "/"

    def _wait_for_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(self._bounds.head_timeout_s, self._head_is_late)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self, *, looked: bool = False) -> None:
        self._head_timer = None
        if self._messages:
            return  # it is whole, and it is this process that is late: its handler has yet to begin
        if not looked:  # nor is it the client's fault where it lies unread
            self._head_timer = self._loop.call_later(_LOOK_S, partial(self._head_is_late, looked=True))
        elif self._head_bytes:
            self._turn_away(SlowRequest(f"the request's head did not come within {self._bounds.head_timeout_s:g} s"))
        elif self.transport is not None:
            self.transport.close()  # nothing was asked

    def _refuse_head(self) -> None:
        if not self._busy:
            most = self._bounds.max_head_bytes
            self._turn_away(HeadTooLarge(f"the request's head is above max_head_bytes, {most} bytes"))
        elif self.transport is not None:
            self.transport.abort()  # another answer is on its way, so that this one cannot be told

    def _is_head_too_large(self, data: bytes) -> bool:
        if self._head_end == _END:
            return False  # it is whole, and this is its body
        known = self._head_end + data
        end = known.find(_END)
        size_bytes = self._head_bytes + (len(data) if end < 0 else end + len(_END) - len(self._head_end))
        self._head_bytes += len(data)
        self._head_end = _END if end >= 0 else known[1 - len(_END) :]
        return size_bytes > self._bounds.max_head_bytes

    def _turn_away(self, error: SluicewayError, linger_s: float = _LINGER_S) -> None:
        """Answers in place of any handler and closes; not at once, or what still comes would destroy the answer on its way."""
        self._stop_waiting()
        self._ended = True
        if error.refusal is not None:
            self._refusals.refused(error.refusal)
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        transport.write(_raw(error_response(error, self._path)))
        if linger_s and transport.can_write_eof():
            transport.write_eof()
            self._loop.call_later(linger_s, transport.abort)
        else:
            transport.close()


class Runner(web.AppRunner):
    """Runs an application on such connections.

    Args:
        app: what answers.
        refusals: hears of what is no HTTP.
        bounds: of its connections, and of the heads of their requests.
        crowd: of its connections.
    """

    __slots__ = ("_bounds", "_crowd", "_refusals")

    def __init__(self, app: web.Application, refusals: Refusals, bounds: ConnectionBounds, crowd: Crowd) -> None:
        # handler_cancellation: without it a handler that waits is not told of a disconnect; aiohttp's test server sets
        # it by itself, so that tests with that one prove nothing.
        super().__init__(app, handler_cancellation=True, shutdown_timeout=1.0)
        self._refusals, self._bounds, self._crowd = refusals, bounds, crowd

    async def setup(self) -> None:
        """Gets ready; each connection is told when a handler begins."""
        await super().setup()
        server = super().server
        assert server is not None, "it was set up"
        handler = server.request_handler

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            connection = request.protocol
            assert isinstance(connection, ClientConnection), "they are made below"
            connection.begins(request.content)
            return await handler(request)

        server.request_handler = handle

    def end_soon(self) -> None:
        """Lets its connections end, each with the answer that it waits for."""
        self._crowd.end_soon()

    @property
    def server(self) -> web.Server | None:
        """What its sites make connections with: all that they use of a server."""
        server = super().server
        if server is None:
            return None
        connect: Callable[[], ClientConnection] = lambda: ClientConnection(  # noqa: E731
            server, self._refusals, self._bounds, self._crowd
        )
        return cast("web.Server", connect)


def _raw(response: web.Response) -> bytes:
    """An answer as it is sent where no request is that aiohttp could send one for."""
    body = response.body if isinstance(response.body, bytes) else b""
    headers = {**response.headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {response.status} {response.reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def malformed(error: HttpProcessingError) -> CallerError:
    """What aiohttp's parser refused, without its words, which repeat the request. Pure."""
    if isinstance(error, LineTooLong):
        return HeadTooLarge(f"a line of the request's head is above max_head_bytes, {error.args[1]} bytes")
    if error.message.startswith("Too many headers"):  # aiohttp's own bound
        return HeadTooLarge("the request has more than 128 headers")
    found = _FIELD.search(error.message.partition("\n")[0])
    if found is None:
        return Malformed("this is no HTTP request as this server takes it")
    duplicate, missing, other = found.groups()
    if duplicate:
        return Malformed(f"the request has more than one {duplicate.title()} header", field=duplicate.title())
    if missing:
        return Malformed(f"the request has no {missing.title()} header", field=missing.title())
    return Malformed(f"the request's {other.title()} header cannot be read", field=other.title())
