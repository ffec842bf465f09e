"""The admin port: metrics, probes, and the live streams as JSON."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.aiohttp import make_aiohttp_handler

from ..streams.registry import Streams


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
