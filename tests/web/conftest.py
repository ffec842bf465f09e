"""What the tests of client.js share: one Chromium a module, and for each test a scripted server and a page on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest_asyncio
from aiohttp import web

from tests.support.scripted import Site, blank, static
from tests.support.shared_chromium import chrome, chromium_address

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    from tests.support.browser import chromium

    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def site() -> AsyncIterator[Site]:
    site = Site()
    app = web.Application()
    app.router.add_get("/", blank)
    app.router.add_post("/api/stream", site.answer)
    app.router.add_get("/api/stream/{id}", site.resume)
    app.router.add_post("/api/stream/{id}/{verb}", site.steer)
    app.router.add_get("/{name}", static)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    tcp = web.TCPSite(runner, "127.0.0.1", 0)
    await tcp.start()
    assert runner.addresses
    site.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield site
    await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, site: Site) -> AsyncIterator[Page]:
    from tests.support.browser import blameless

    page = await browser.new_page()
    async with blameless(page):
        await page.goto(site.url)
        yield page
        await page.close()


__all__ = ["chrome", "chromium_address"]  # fixtures
