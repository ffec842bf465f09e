"""What the tests of client.js share: one Chromium a module, and for each test a scripted server and a page on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, Page, async_playwright

from tests.support.browser import blameless, chromium, standing_chromium
from tests.support.scripted import Site, blank, static


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
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
    page = await browser.new_page()
    async with blameless(page):
        await page.goto(site.url)
        yield page
        await page.close()


@pytest.fixture(scope="session")
def chromium_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Chromium for the whole run, for the tests that each have a loop of their own."""
    with standing_chromium(tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest.fixture
async def chrome(chromium_address: str) -> AsyncIterator[Browser]:
    """A connection to it; every page made by it has a profile of its own."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(chromium_address)
        yield browser
        await browser.close()
