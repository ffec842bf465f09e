"""The paths of the service and of its admin port. Thin: each reads the request, starts or asks a session, answers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from ..access.keys import Keys, check_content_type
from ..answer.outcome import Outcome
from ..errors import BadRequest, InternalError, MethodNotAllowed, NotFound, SluicewayError, Stopped, TooLarge
from ..streams.credits import Credits
from ..streams.liveness import Liveness
from ..streams.registry import Streams
from ..streams.session import Session
from ..streams.terms import Policy, Terms, new_stop_token
from ..upstream.claude import Claude
from ..wire.messages import error_body
from ..wire.plain import PlainFormat
from .gauges import gauge_routes
from .pages import Pages
from .readers import SendBuffers, SseConnection
from .requests import Defaults, parse_object, parse_question

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Desk:
    """What the handlers work with.

    Attributes:
        claude: the way upstream.
        streams: the running ones, and those that can be read again.
        keys: the callers' keys.
        defaults: what is asked where a request does not say.
        reading: how readers' connections are made.
        page: what the playground is told about the service.
    """

    claude: Claude
    streams: Streams
    keys: Keys
    defaults: Defaults
    reading: Reading
    page: dict[str, Any]

    def routes(self) -> list[web.RouteDef]:
        """The paths of the service."""
        return [
            web.post("/api/stream", self.stream),
            web.get("/api/stream/{id}", self.resume, allow_head=False),
            web.delete("/api/stream/{id}", self.stop),
            web.post("/api/stream/{id}/stop", self.stop),
            web.post("/api/stream/{id}/shown", self.shown),
            *gauge_routes(self.streams, self.keys),
            *Pages().routes(self.page),
        ]

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """`POST /api/stream`: the plain protocol."""
        caller = self.keys.check(request.headers)
        check_content_type(request.headers)
        question = parse_question(await request.read(), self.defaults)
        terms = Terms(
            self.streams.new_id(),
            caller,
            question.model,
            question.policy,
            question.grace_s,
            stop_token=new_stop_token(),
        )
        resumable = question.policy is not Policy.ABORT and self.streams.has_room
        headers = {"X-Stream-Id": terms.stream_id, "X-Stop-Token": terms.stop_token}
        headers["X-Resumable"] = "true" if resumable else "false"
        connection = self.reading.connection(request, headers, credits=question.credits)
        answer = self.claude.ask(question.params)
        wire = PlainFormat(thinking=question.thinking)
        session = self.streams.start(terms, answer, wire, connection, question.max_tokens)
        return await until_released(connection, session)

    async def resume(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/stream/{id}`: every frame after `Last-Event-ID`, then what is still to come."""
        caller = self.keys.check(request.headers)
        sent_id = _last_event_id(request)
        stream_id = request.match_info["id"]
        headers = {"X-Stream-Id": stream_id, "X-Resumable": "true"}
        credits = request.query.get("credits") == "1"
        connection = self.reading.connection(request, headers, sent_id=sent_id, credits=credits)
        session = await self.streams.resume(stream_id, caller, connection)
        return await until_released(connection, session)

    async def stop(self, request: web.Request) -> web.Response:
        """`POST /api/stream/{id}/stop`, `DELETE /api/stream/{id}`: stop now, whoever reads."""
        session = await self._steered(request)
        if session is not None:
            session.stop(Outcome.STOPPED, Stopped("the stream was stopped"))
        return web.json_response({"stopped": session is not None})

    async def shown(self, request: web.Request) -> web.Response:
        """`POST /api/stream/{id}/shown`: the page has shown every frame up to this one."""
        body = parse_object(await request.read())
        session = await self._steered(request)
        frame_id = body.get("id")
        if not isinstance(frame_id, int) or isinstance(frame_id, bool) or frame_id < 0:
            raise BadRequest("id must be the number of a frame", field="id")
        if session is not None:
            session.delivery.shown(frame_id)
        return web.Response(status=204)

    async def _steered(self, request: web.Request) -> Session | None:
        """The stream that the caller, by its key or by the stream's own stop token, may steer."""
        token = request.headers.get("X-Stop-Token")
        raw = await request.read()
        if token is None and raw:  # a beacon cannot set headers, and its content type is its own affair
            given = parse_object(raw).get("stop_token")
            token = given if isinstance(given, str) else None
        caller = self.keys.check(request.headers) if token is None else ""
        return self.streams.find(request.match_info["id"], caller, token)


@dataclass(frozen=True, slots=True)
class Reading:
    """How readers' connections are made.

    Attributes:
        buffers: the bounds below each.
        stall_s, vanish_s: when a reader counts as stalled, and as vanished, in seconds.
        credit_bytes: how far to run ahead of a page that acknowledges.
    """

    buffers: SendBuffers
    stall_s: float
    vanish_s: float
    credit_bytes: int

    def connection(
        self, request: web.Request, headers: Mapping[str, str], *, sent_id: int = 0, credits: bool = False
    ) -> SseConnection:
        """A reader's connection that has every frame up to `sent_id`."""
        liveness = Liveness(self.stall_s, self.vanish_s)
        allowed = Credits(self.credit_bytes, sent_id) if credits else None
        return SseConnection(request, headers, self.buffers, liveness, sent_id, allowed)


async def until_released(connection: SseConnection, session: Session | None) -> web.StreamResponse:
    """Waits until the stream has no more for this reader. Cancelling is how aiohttp tells that the reader left.

    Raises:
        SluicewayError: the stream failed before a status was sent.
    """
    try:
        await connection.released()
    finally:
        if session is not None:
            session.lost(connection)
    return connection.response


def _last_event_id(request: web.Request) -> int:
    value = request.headers.get("Last-Event-ID", "").strip() or "0"
    if not value.isascii() or not value.isdigit() or len(value) > 12:
        raise BadRequest("Last-Event-ID must be the number of a frame", field="Last-Event-ID")
    return int(value)


def error_response(error: SluicewayError, path: str) -> web.Response:
    """An error before a stream has begun, in the shape of what lives at the path: the Messages API's, or our own."""
    headers = {"Cache-Control": "no-store"}
    if error.retry_after_s is not None:
        headers["Retry-After"] = f"{error.retry_after_s:.0f}"
    body = error_body(error) if path.startswith("/v1/") else error.as_dict()
    return web.json_response(body, status=error.status, headers=headers)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The one place where whatever went wrong becomes a response; what was not foreseen goes to the log."""
    try:
        return await handler(request)
    except SluicewayError as error:
        return error_response(error, request.path)
    except web.HTTPRequestEntityTooLarge:
        bound = request.client_max_size
        return error_response(TooLarge(f"the body is above max_body_bytes, {bound} bytes", field="body"), request.path)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        response = error_response(
            MethodNotAllowed(f"{request.method} is not for this path; it takes {allowed}"), request.path
        )
        response.headers["Allow"] = allowed
        return response
    except web.HTTPNotFound:
        return error_response(NotFound("nothing lives at this path"), request.path)
    except (web.HTTPException, ConnectionError):
        raise
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return error_response(InternalError("the service failed; its log has the cause"), request.path)


def admin_routes(streams: Streams, registry: CollectorRegistry) -> list[web.RouteDef]:
    """The paths of the admin port."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        return web.Response(text="ready\n") if streams.accepting else web.Response(text="draining\n", status=503)

    async def listing(_request: web.Request) -> web.Response:
        return web.json_response([session.as_dict() for session in streams.live.values()])

    return [
        web.get("/metrics", make_aiohttp_handler(registry)),
        web.get("/healthz", healthz),
        web.get("/readyz", readyz),
        web.get("/streams", listing),
    ]
