"""A page in TypeScript and React, bundled by Vite from the packed client, on another site than the service behind nginx."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import copyfile
from urllib.parse import urlencode

import pytest
from aiohttp import web
from playwright.async_api import Page, expect

from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from tests.conftest import ROOT, Serve
from tests.support.browser import blameless, chromium
from tests.support.client_package import install
from tests.support.link import link
from tests.support.nginx import free_port, nginx, shipped
from tests.support.node import program

pytestmark = pytest.mark.clients

SOURCES = Path(__file__).parent
# Made by `make clients` from the lock beside this file.
INSTALLED = ROOT / "build" / "clients" / "vite" / "node_modules"
KEY = "a-key-of-the-page"


async def built(folder: Path) -> Path:
    """The page, type-checked and bundled."""
    modules = install(folder)
    for package in INSTALLED.iterdir():
        (modules / package.name).symlink_to(package)
    for name in ("index.html", "main.tsx", "package.json", "tsconfig.json", "vite.config.ts"):
        copyfile(SOURCES / name, folder / name)
    await program(modules / "typescript" / "bin" / "tsc", "-p", ".", cwd=folder)
    await program(modules / "vite" / "bin" / "vite.js", "build", cwd=folder)
    return folder / "dist"


@asynccontextmanager
async def site(dist: Path) -> AsyncIterator[str]:
    """Serves the bundle; yields the site's origin."""

    async def index(_request: web.Request) -> web.FileResponse:
        return web.FileResponse(dist / "index.html")

    app = web.Application()
    app.add_routes([web.get("/", index), web.static("/assets", dist / "assets")])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def ask(page: Page, say: str) -> None:
    await page.locator("#say").fill(say)
    await page.locator("#send").click()


async def test_a_page_bundled_from_the_package_streams_resumes_and_stops_through_nginx(
    serve: Serve, simulator: Simulator, tmp_path: Path
) -> None:
    port = free_port()
    async with site(await built(tmp_path)) as origin, chromium() as browser:
        service = await serve(unix=str(tmp_path / "s.sock"), cors_origins=(origin,), api_keys=KEY)
        async with nginx(tmp_path, shipped(tmp_path, service.url, port), port) as front, link(front) as way:
            page = await browser.new_page()
            async with blameless(page):
                await page.goto(f"{origin}/?{urlencode({'service': way.url, 'key': KEY})}")
                text, state = page.locator("#text"), page.locator("#state")
                await ask(page, "{{tokens=1000 text=numbered rate=300}}")
                await expect(text).to_contain_text("token0010")
                way.cut()
                await expect(text).to_contain_text("token0200")
                await page.reload()
                await expect(state).to_have_text("done")
                assert await text.text_content() == numbered_text(1000)
                assert len(simulator.books) == 1
                await ask(page, "{{tokens=20000 text=numbered rate=100}}")
                await expect(text).to_contain_text("token0005")
                await page.locator("#stop").click()
                await expect(state).to_have_text("aborted")
                book = await simulator.book(1)
                await asyncio.wait_for(book.ended.wait(), 20)
                assert not book.finished
