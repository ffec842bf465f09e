"""What the tests of client.js share: one Chromium, and for each test a scripted server and a page on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from tests.support.scripted import Site, blank, static
from tests.support.shared_chromium import chrome, chromium_address, driven_chromium, profile, standing_profile

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Page


@pytest.fixture
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


@pytest.fixture
async def page(profile: BrowserContext, site: Site) -> AsyncIterator[Page]:
    from tests.support.browser import blameless

    page = await profile.new_page()
    async with blameless(page):
        await page.goto(site.url)
        yield page
        await page.close()


__all__ = ["chrome", "chromium_address", "driven_chromium", "profile", "standing_profile"]  # fixtures
