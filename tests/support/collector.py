"""A collector's port: takes spans by OTLP over HTTP, and keeps what came."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """What came.

    Attributes:
        url: for `otlp_endpoint`.
        bodies: as they came.
        keys: the `Authorization` of each.
    """

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[bytes] = []
        self.keys: list[str | None] = []

    @property
    def spans(self) -> list[Span]:
        """All spans that came."""
        return [
            span
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    async def take(self, request: web.Request) -> web.Response:
        """`POST /v1/traces`."""
        self.bodies.append(await request.read())
        self.keys.append(request.headers.get("authorization"))
        return web.Response(body=b"", content_type="application/x-protobuf")


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector on a free port of loopback."""
    taking = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", taking.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        taking.url = f"http://{host}:{port}"
        yield taking
    finally:
        await runner.cleanup()
