"""The one way in: who asks, from which site and with what body is settled here, before any handler runs.

A route is declared with what it demands. One that is not declared is closed: it demands a caller's key, and its body is
not read. A body is read only after its sender is known, within a bound and a deadline; who is refused is refused by the
request's head alone.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from aiohttp import HttpVersion11, hdrs, web

from ..access.callers import Caller
from ..access.guard import Guard
from ..access.sites import check_content_type, check_host, check_site
from ..errors import BadRequest, SlowRequest, TooLarge, Unauthorized, WrongMediaType
from .errors import Handler
from .requests import parse_object
from .slashes import DoubledSlashes

# A body above this size, in bytes, is joined in a turn of the loop of its own: 32 MB take some 30 ms.
_LARGE_BYTES = 1_048_576
# A control request's body holds a number or a token, so that a small bound and a short deadline will do.
_CONTROL_BYTES = 4096
_CONTROL_S = 10.0
# What stands before each value of JSON but the first.
_BEFORE_VALUES = b",:[{"


class Who(Enum):
    """Who may ask."""

    ANYONE = "anyone"  # the pages, and what they are made of
    CALLER = "caller"  # a caller, by its key
    STEERER = "steerer"  # a caller, or whoever has the stream's own stop token


class Body(Enum):
    """What body a route takes."""

    NONE = "none"  # none is read
    CONTROL = "control"  # a few bytes of JSON, or a beacon's text
    QUESTION = "question"  # a question of our own protocols, in JSON
    MESSAGES = "messages"  # a request of the Messages API, in JSON
    STREAMED = "streamed"  # the handler reads it, within its own bounds


@dataclass(frozen=True, slots=True)
class Route:
    """A path of the service, and what it demands of a request.

    Attributes:
        method: `GET` stands for `HEAD` too, whose answer is the same without its body.
        path: as aiohttp writes it.
        handler: finds the request's caller under `CALLER` and its body under `BODY`.
        who: may ask.
        body: is taken.
    """

    method: str
    path: str
    handler: Handler
    who: Who = Who.CALLER
    body: Body = Body.NONE


@dataclass(frozen=True, slots=True)
class BodyBound:
    """The bound of a body.

    Attributes:
        max_bytes: its largest size.
        max_values: the most commas, colons and opening brackets in it, about as many as it has values; 0 for any number.
        timeout_s: how long it may take to arrive, in seconds.
        setting: the setting that the bound comes from, if it comes from one.
    """

    max_bytes: int
    timeout_s: float
    setting: str = ""
    max_values: int = 0


# Who asks, and what that caller may; without a name where nobody is known.
CALLER = web.RequestKey("caller", Caller)
# The whole body, for as long as it is needed: a handler that is done with it takes it out.
BODY = web.RequestKey("body", bytes)
# The stop token that came in the head or the body of a control request.
STOP_TOKEN = web.RequestKey("stop_token", str)


class Entrance:
    """Lets requests in.

    Args:
        guard: knows who calls.
        bounds: of the bodies, by kind; of those of a control request it knows itself.
        origins: of other sites' pages that may call.
        hosts: the names that it answers to where there are no keys, beside this machine's own; None for any.
    """

    def __init__(
        self,
        guard: Guard,
        bounds: Mapping[Body, BodyBound],
        origins: Iterable[str] = (),
        hosts: Collection[str] | None = None,
    ) -> None:
        self._guard = guard
        self._bounds = {Body.CONTROL: BodyBound(_CONTROL_BYTES, _CONTROL_S), **bounds}
        self._origins = frozenset(origins)
        self._hosts = hosts
        self._routes: dict[web.AbstractRoute, Route] = {}

    def install(self, app: web.Application, routes: Iterable[Route]) -> None:
        """Adds the routes to `app`, whose middlewares must hold `middleware`; once, and after all others."""
        for route in routes:
            for method in (hdrs.METH_GET, hdrs.METH_HEAD) if route.method == hdrs.METH_GET else (route.method,):
                added = app.router.add_route(method, route.path, route.handler, expect_handler=_wait_for_leave)
                self._routes[added] = route
        app.router.register_resource(DoubledSlashes(app.router))

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Passes on what may come in, with its caller and its body.

        Raises:
            CallerError: what may not. Cancelling is safe.
        """
        if request.match_info.http_exception is not None:
            return await handler(request)  # no route: there is nothing to guard
        if self._hosts is not None and not self._guard.demands_keys and not _is_unix(request):
            check_host(request.headers.get(hdrs.HOST, ""), self._hosts)
        route = self._routes.get(request.match_info.route) or Route("", "", handler)
        if route.who is Who.STEERER:
            await self._let_steer(request)
        else:
            request[CALLER] = (
                self._guard.identify(request.headers, time.time()) if route.who is Who.CALLER else Caller()
            )
        if route.body in (Body.QUESTION, Body.MESSAGES):
            check_content_type(request.headers)
            request[BODY] = await read_body(request, self._bounds[route.body])
        elif STOP_TOKEN not in request:
            self._check_site(request)
        return await handler(request)

    def _check_site(self, request: web.Request) -> None:
        """Where there are no keys, a request proves nothing: it must not be one that any site's page can send."""
        changes = request.method not in (hdrs.METH_GET, hdrs.METH_HEAD)
        allowed = "*" in self._origins or request.headers.get(hdrs.ORIGIN) in self._origins
        if changes and not self._guard.demands_keys and not allowed:
            check_site(request.headers)

    async def _let_steer(self, request: web.Request) -> None:
        """Lets in whoever has the key or the stop token; a beacon has no headers, so its body may hold the token."""
        bound = self._bounds[Body.CONTROL]
        token = request.headers.get("X-Stop-Token")
        if token is not None:
            request[CALLER], request[STOP_TOKEN] = Caller(), token
            request[BODY] = await read_body(request, bound)
            return
        refusal: Unauthorized | None = None
        try:
            request[CALLER] = self._guard.identify(request.headers, time.time())
        except Unauthorized as error:
            refusal = error
        request[BODY] = await read_body(request, bound)
        try:
            token = _token_in(request[BODY])
        except BadRequest:
            if refusal is None:
                raise
        if token is not None:
            request[CALLER], request[STOP_TOKEN] = Caller(), token
        elif refusal is not None:
            raise refusal


async def read_body(request: web.Request, bound: BodyBound) -> bytes:
    """The whole body.

    Raises:
        WrongMediaType: it is compressed: its size would be anyone's guess. TooLarge: it is above its bound.
        SlowRequest: it did not come in time. BadRequest: it broke off. Cancelling is safe.
    """
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() not in ("identity", ""):
        raise WrongMediaType("the body must not be compressed: Content-Encoding is not taken")
    if (request.content_length or 0) > bound.max_bytes:
        raise too_large(bound)
    await give_leave(request)
    pieces: list[bytes] = []
    size_bytes = values = 0
    try:
        async with asyncio.timeout(bound.timeout_s):
            while piece := await request.content.readany():
                pieces.append(piece)
                size_bytes += len(piece)
                if size_bytes > bound.max_bytes:
                    raise too_large(bound)
                # Values are counted as they come, because counting them in the whole body would block the loop as long
                # as reading.
                values += len(piece) - len(piece.translate(None, _BEFORE_VALUES)) if bound.max_values else 0
                if values > bound.max_values:
                    raise BadRequest(f"the body holds more than {bound.max_values} values")
    except TimeoutError:
        raise SlowRequest(f"the body did not come within {bound.timeout_s:g} s") from None
    except web.RequestPayloadError as error:
        raise BadRequest("the body broke off, or its framing is not HTTP's") from error
    body = b"".join(pieces)
    if size_bytes > _LARGE_BYTES:
        pieces.clear()
        await asyncio.sleep(0)  # joining megabytes takes milliseconds, and so does reading them: others go between
    return body


def too_large(bound: BodyBound) -> TooLarge:
    """The refusal of a body above its bound."""
    return TooLarge(f"the body is above {bound.setting or 'its bound'}, {bound.max_bytes} bytes", field="body")


def _is_unix(request: web.Request) -> bool:
    """Whether it came over a unix socket, which no browser reaches: a proxy's, or another worker's."""
    sock: socket.socket | None = request.get_extra_info("socket")
    return sock is not None and sock.family == socket.AF_UNIX


def _token_in(body: bytes) -> str | None:
    token = parse_object(body).get("stop_token") if body else None
    return token if isinstance(token, str) else None


async def _wait_for_leave(_request: web.Request) -> None:
    """Leaves an `Expect: 100-continue` open until the sender is known (RFC 9110, 10.1.1)."""


async def give_leave(request: web.Request) -> None:
    """Tells a client that waits for leave to send its body to do so (RFC 9110, 10.1.1)."""
    if request.version < HttpVersion11 or request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
        return
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # of the answer, which this is not
