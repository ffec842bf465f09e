"""The paths of the service and of its admin port. Thin: each reads the request, starts or asks a session, answers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from app.claude import Claude
from app.errors import InternalError, MethodNotAllowed, NotFound, SluicewayError, TooLarge
from app.outcome import Outcome
from app.sessions import Session, Sessions, new_stream_id
from app.web.auth import Keys, check_content_type
from app.web.bodies import Defaults, parse_question
from app.web.writer import SendBuffers, SseReader
from app.wire.text import PlainFormat

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_PAGES = {
    "/": ("index.html", "text/html"),
    "/client.js": ("client.js", "text/javascript"),
    "/client.d.ts": ("client.d.ts", "text/plain"),
    "/playground.js": ("playground.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
}
_PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Desk:
    """What the handlers work with.

    Attributes:
        claude: the way upstream.
        sessions: the running streams.
        keys: the callers' keys.
        defaults: what is asked where a request does not say.
        buffers: the bounds towards a reader.
        page: what the playground is told about the service.
    """

    claude: Claude
    sessions: Sessions
    keys: Keys
    defaults: Defaults
    buffers: SendBuffers
    page: dict[str, Any]

    def routes(self) -> list[web.RouteDef]:
        """The paths of the service."""
        pages = [web.get(path, _page(name, media_type)) for path, (name, media_type) in _PAGES.items()]
        return [web.post("/api/stream", self.stream), web.get("/config.json", self.config), *pages]

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """`POST /api/stream`: the plain protocol."""
        self.keys.check(request.headers)
        check_content_type(request.headers)
        question = parse_question(await request.read(), self.defaults)
        wire = PlainFormat(thinking=question.thinking)
        answer = self.claude.ask(question.params)
        stream_id = new_stream_id()
        reader = SseReader(request, wire, {"X-Stream-Id": stream_id}, self.buffers)
        return await serve(self.sessions.start(stream_id, answer, reader, question.model), reader)

    async def config(self, _request: web.Request) -> web.Response:
        """`GET /config.json`: what the playground needs to know."""
        return web.json_response(self.page, headers={"Cache-Control": "no-store"})


async def serve(session: Session, reader: SseReader) -> web.StreamResponse:
    """Runs a session for one reader, whose leaving ends it. Cancelling is how aiohttp tells that the reader left."""
    try:
        await session.served()
    except SluicewayError as error:
        return error_response(error)
    finally:
        session.stop(Outcome.DISCONNECTED)
    return reader.response


def error_response(error: SluicewayError) -> web.Response:
    """An error as the plain protocol tells it before a stream has begun."""
    headers = {"Cache-Control": "no-store"}
    if error.retry_after_s is not None:
        headers["Retry-After"] = f"{error.retry_after_s:.0f}"
    return web.json_response(error.as_dict(), status=error.status, headers=headers)


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The one place where whatever went wrong becomes a response; what was not foreseen goes to the log."""
    try:
        return await handler(request)
    except SluicewayError as error:
        return error_response(error)
    except web.HTTPRequestEntityTooLarge:
        bound = request.client_max_size
        return error_response(TooLarge(f"the body is above max_body_bytes, {bound} bytes", field="body"))
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        response = error_response(MethodNotAllowed(f"{request.method} is not for this path; it takes {allowed}"))
        response.headers["Allow"] = allowed
        return response
    except web.HTTPNotFound:
        return error_response(NotFound("nothing lives at this path"))
    except (web.HTTPException, ConnectionError):
        raise
    except Exception:
        log.exception("%s %s failed", request.method, request.path)
        return error_response(InternalError("the service failed; its log has the cause"))


def admin_routes(sessions: Sessions, registry: CollectorRegistry) -> list[web.RouteDef]:
    """The paths of the admin port."""

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        return web.Response(text="ready\n") if sessions.accepting else web.Response(text="draining\n", status=503)

    async def streams(_request: web.Request) -> web.Response:
        return web.json_response([session.as_dict() for session in sessions.live.values()])

    return [
        web.get("/metrics", make_aiohttp_handler(registry)),
        web.get("/healthz", healthz),
        web.get("/readyz", readyz),
        web.get("/streams", streams),
    ]


def _page(name: str, media_type: str) -> Handler:
    body = (resources.files("app.web") / "static" / name).read_bytes()

    async def page(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=media_type, charset="utf-8", headers=_PAGE_HEADERS)

    return page
