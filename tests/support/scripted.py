"""A server that follows a script, and how the tests of client.js speak to the page."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

from app.web.routes.pages import STATIC, trimmed

if TYPE_CHECKING:
    from playwright.async_api import Page

Script = Callable[[web.Request], Awaitable[web.StreamResponse]]

DONE: dict[str, Any] = {"done": True, "stop_reason": "end_turn", "usage": {"output_tokens": 3}}


@dataclass
class Site:
    """The static folder, and `/api/stream` as the test scripts it."""

    url: str = ""
    script: Script | None = None
    bodies: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    # Set when the browser has left a request that was being answered.
    left: asyncio.Event = field(default_factory=asyncio.Event)

    # Every word about a stream: its path, what it said, and the query of a resume.
    steered: list[tuple[str, Any]] = field(default_factory=list)
    resumed: list[tuple[str, str | None]] = field(default_factory=list)  # path with query, Last-Event-ID
    resume_script: Script | None = None
    told: asyncio.Event = field(default_factory=asyncio.Event)  # set at each word

    async def resume(self, request: web.Request) -> web.StreamResponse:
        self.resumed.append((request.path_qs, request.headers.get("Last-Event-ID")))
        assert self.resume_script is not None, "the test has set no script for a resume"
        return await self.resume_script(request)

    async def steer(self, request: web.Request) -> web.Response:
        self.steered.append((request.path, json.loads(await request.text())))
        self.told.set()
        return web.json_response({"stopped": True})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        assert self.script is not None, "the test has set no script"
        try:
            return await self.script(request)
        except (asyncio.CancelledError, ConnectionResetError):
            self.left.set()
            raise


async def blank(request: web.Request) -> web.Response:
    return web.Response(text="<!doctype html><title>blank</title>", content_type="text/html")


async def static(request: web.Request) -> web.StreamResponse:
    path = STATIC / request.match_info["name"]
    if path.name == "client.js":  # as the service serves it
        return web.Response(body=trimmed(path.read_bytes()), content_type="text/javascript", charset="utf-8")
    return web.FileResponse(Path(str(path)))


async def run(page: Page, body: str, arg: object = None) -> Any:
    """Runs a function body in the page, with everything that client.js exports as `client`, and `stream` by name."""
    source = f"async (arg) => {{ const client = await import('/client.js'); const {{ stream }} = client; {body} }}"
    return await page.evaluate(source, arg)


async def opened(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Stream-Id": "s-1"})
    await response.prepare(request)
    return response


def frame(payload: dict[str, Any], number: int = 1) -> bytes:
    return f"id: {number}\ndata: {json.dumps(payload, ensure_ascii=False)}\n\n".encode()


def says(*payloads: dict[str, Any]) -> Script:
    """A script that sends these frames and ends."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = await opened(request)
        for number, payload in enumerate(payloads, 1):
            await response.write(frame(payload, number))
        return response

    return script


async def forever() -> None:
    """Blocks until the browser leaves, which cancels the handler."""
    await asyncio.Event().wait()
