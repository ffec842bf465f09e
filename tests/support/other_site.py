"""Another site than the service's, with one page of somebody's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

PAGE = '<!doctype html><meta charset="utf-8"><title>chat</title><div id="root"></div><script src="/page.js"></script>'


@asynccontextmanager
async def site(script: bytes) -> AsyncIterator[str]:
    """Serves a page that runs this script for as long as the block lasts; yields the site's origin."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=PAGE, content_type="text/html")

    async def bundled(_request: web.Request) -> web.Response:
        return web.Response(body=script, content_type="text/javascript", charset="utf-8")

    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/page.js", bundled)])
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
