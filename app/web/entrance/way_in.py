"""The one way in: who asks, from which site and with what body is settled here, before any handler runs.

A route is declared with what it demands. One that is not declared is closed: it demands a caller's key, and its body is
not read. A body is read only after its sender is known, within a bound and a deadline; who is refused is refused by the
request's head alone.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from aiohttp import hdrs, web

from ...access.callers import Caller
from ...access.sites import check_content_type, check_host, check_site
from ...errors import BadRequest, Unauthorized
from ..http.bodies import Bodies, BodyBound
from ..http.errors import Handler
from ..http.operation import Operation
from ..http.requests import parse_object
from ..http.slashes import DoubledSlashes
from .identity import Identity

# A control request's body holds a number or a token, so that a small bound and a short deadline will do.
_CONTROL_BYTES = 4096
_CONTROL_S = 10.0


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
        told: what `/openapi.json` says of it.
        of_a_stream: it concerns one stream, whose own browser token may have expired meanwhile.
    """

    method: str
    path: str
    handler: Handler
    who: Who = Who.CALLER
    body: Body = Body.NONE
    told: Operation = field(default_factory=Operation)
    of_a_stream: bool = False


# An id in a route's path: any segment, also with braces, which aiohttp's own expression leaves out.
ID = "{id:[^/]+}"
# Who asks, and what that caller may; without a name where nobody is known.
CALLER = web.RequestKey("caller", Caller)
# The whole body, for as long as it is needed: a handler that is done with it takes it out.
BODY = web.RequestKey("body", bytes)
# The stop token that came in the head or the body of a control request.
STOP_TOKEN = web.RequestKey("stop_token", str)


class Entrance:
    """Lets requests in.

    Args:
        identity: says who asks.
        bodies: reads them.
        bounds: of the bodies, by kind; of those of a control request it knows itself.
        origins: of other sites' pages that may call.
        hosts: the names that it answers to where there are no keys, beside this machine's own; None for any.
    """

    def __init__(
        self,
        identity: Identity,
        bodies: Bodies,
        bounds: Mapping[Body, BodyBound],
        origins: Iterable[str] = (),
        hosts: Collection[str] | None = None,
    ) -> None:
        self._identity, self._bodies = identity, bodies
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
        if self._hosts is not None and not self._identity.demands_keys and not _is_unix(request):
            check_host(request.headers.get(hdrs.HOST, ""), self._hosts)
        route = self._routes.get(request.match_info.route) or Route("", "", handler)
        if route.who is Who.STEERER:
            await self._let_steer(request)
        else:
            request[CALLER] = await self._identity.of(request.headers) if route.who is Who.CALLER else Caller()
        token = request[CALLER].token
        if token is not None and token.expired and not route.of_a_stream:
            raise Unauthorized("this token has expired")
        if route.body in (Body.QUESTION, Body.MESSAGES) or (route.body is Body.CONTROL and route.who is Who.CALLER):
            check_content_type(request.headers)
            request[BODY] = await self._bodies.read(request, self._bounds[route.body])
        elif STOP_TOKEN not in request:
            self._check_site(request)
        return await handler(request)

    def _check_site(self, request: web.Request) -> None:
        """Where there are no keys, a request proves nothing: it must not be one that any site's page can send."""
        changes = request.method not in (hdrs.METH_GET, hdrs.METH_HEAD)
        allowed = "*" in self._origins or request.headers.get(hdrs.ORIGIN) in self._origins
        if changes and not self._identity.demands_keys and not allowed:
            check_site(request.headers)

    async def _let_steer(self, request: web.Request) -> None:
        """Lets in whoever has the key or the stop token; a beacon has no headers, so its body may hold the token."""
        bound = self._bounds[Body.CONTROL]
        token = request.headers.get("X-Stop-Token")
        if token is not None:
            request[CALLER], request[STOP_TOKEN] = Caller(), token
            request[BODY] = await self._bodies.read(request, bound)
            return
        refusal: Unauthorized | None = None
        try:
            request[CALLER] = await self._identity.of(request.headers)
        except Unauthorized as error:
            refusal = error
        request[BODY] = await self._bodies.read(request, bound)
        try:
            token = _token_in(request[BODY])
        except BadRequest:
            if refusal is None:
                raise
        if token is not None:
            request[CALLER], request[STOP_TOKEN] = Caller(), token
        elif refusal is not None:
            raise refusal


def _is_unix(request: web.Request) -> bool:
    """Whether it came over a unix socket, which no browser reaches: a proxy's, or another worker's."""
    sock: socket.socket | None = request.get_extra_info("socket")
    return sock is not None and sock.family == socket.AF_UNIX


def _token_in(body: bytes) -> str | None:
    token = parse_object(body).get("stop_token") if body else None
    return token if isinstance(token, str) else None


async def _wait_for_leave(_request: web.Request) -> None:
    """Leaves an `Expect: 100-continue` open until the sender is known (RFC 9110, 10.1.1)."""
