"""The admin port: metrics, probes, and the live streams as JSON."""

from __future__ import annotations

from collections.abc import Callable, Collection

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from prometheus_client.aiohttp import make_aiohttp_handler

from ...access.sites import check_host
from ...streams.registry import Streams
from ..elsewhere.heir import ALONE, Heir
from ..http.errors import Handler


def answering_to(names: Collection[str]) -> Middleware:
    """Refuses requests for any other host: a page that led its own name here would read which streams run."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        check_host(request.headers.get(hdrs.HOST, ""), names)
        return await handler(request)

    return middleware


def admin_routes(streams: Streams, heir: Heir, readiness: Callable[[], tuple[int, str]]) -> list[web.RouteDef]:
    """The paths of the admin port; `readiness` is a status and what there is to say beside that it is ready."""
    expose = make_aiohttp_handler(heir.shown)

    async def metrics(request: web.Request) -> web.StreamResponse:
        if ALONE not in request.headers:
            await heir.look()
        return await expose(request)

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        if not streams.accepting:
            return web.Response(text="draining\n", status=503)
        status, but = readiness()
        return web.Response(text=f"ready\n{but}" if status == 200 else but, status=status)

    async def listing(request: web.Request) -> web.Response:
        own = [session.as_dict() for session in streams.live.values()]
        return web.json_response(own if ALONE in request.headers else own + await heir.streams())

    return [
        web.get("/metrics", metrics),
        web.get("/healthz", healthz),
        web.get("/readyz", readyz),
        web.get("/streams", listing),
    ]
