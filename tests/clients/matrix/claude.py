"""The Claude of the clients' table: plays, to each request, the scenario whose name stands in its prompt.

A prompt holds `[[scenario/way]]`. All that it says is settled by that and by how often it came, ids too, so that what a
client makes of it straight and through can be compared whole. It counts what it is asked.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiohttp import web

from . import scenarios

MARK: Final = re.compile(rb"\[\[(\w+)/(\w+)\]\]")
MODELS: Final = [
    {"type": "model", "id": id, "display_name": id, "created_at": "2026-01-01T00:00:00Z"}
    for id in ("claude-opus-4-8", "claude-haiku-5-5")
]


class Claude:
    """The server.

    Attributes:
        url: where it listens.
        asked: how often what came: by scenario, then by way and path. A request without a mark belongs to `text`.
    """

    def __init__(self) -> None:
        self.url = ""
        self.asked: dict[str, Counter[str]] = {}

    async def respond(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        found = MARK.search(raw)
        scenario, way = (part.decode() for part in found.groups()) if found else ("text", "")
        counts = self.asked.setdefault(scenario, Counter())
        what = f"{way} {request.method} {request.path}".strip()
        counts[what] += 1
        headers = {"request-id": f"req_{scenario}_{way}_{counts[what]}", "anthropic-organization-id": "org_1"}
        play = scenarios.SCENARIOS[scenario].play
        body = json.loads(raw) if raw else {}
        match request.method, request.path:
            case "POST", "/v1/messages":
                act = play(body, counts[what])
            case "POST", "/v1/messages/count_tokens":
                act = play(body, counts[what])
                act.message = {"input_tokens": 42} if act.status == 200 else act.message
                act.cut = False
            case "GET", "/v1/models":
                page = {"data": MODELS, "has_more": False, "first_id": MODELS[0]["id"], "last_id": MODELS[-1]["id"]}
                return web.json_response(page, headers=headers)
            case _:
                return web.json_response(
                    scenarios.error("not_found_error", "no such path"), status=404, headers=headers
                )
        await self._pause(act.before_headers_s)
        headers |= act.headers
        if act.status != 200:
            return web.json_response(
                act.message | {"request_id": headers["request-id"]}, status=act.status, headers=headers
            )
        if body.get("stream") is True:
            return await self._stream(request, act, headers)
        if act.cut:
            return await self._half(request, act, headers)
        return web.json_response(act.message, headers=headers)

    async def _stream(self, request: web.Request, act: scenarios.Act, headers: dict[str, str]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"} | headers)
        await response.prepare(request)
        await self._pause(act.before_events_s)
        for event in act.events:
            payload = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
            await response.write(f"event: {event['type']}\ndata: {payload}\n\n".encode())
        return self._cut(request, response) if act.cut else response

    async def _half(self, request: web.Request, act: scenarios.Act, headers: dict[str, str]) -> web.StreamResponse:
        body = json.dumps(act.message).encode()
        response = web.StreamResponse(headers={"content-type": "application/json"} | headers)
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        return self._cut(request, response)

    def _cut(self, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        """A FIN in the middle of the body: unlike a reset it takes nothing back that was written."""
        assert request.transport is not None
        request.transport.close()
        return response

    async def _pause(self, seconds: float) -> None:
        if seconds:
            await asyncio.sleep(seconds)


@asynccontextmanager
async def claude() -> AsyncIterator[Claude]:
    """A `Claude` on a free port of the loopback."""
    made = Claude()
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_route("*", "/{path:.*}", made.respond)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield made
    finally:
        await runner.cleanup()
