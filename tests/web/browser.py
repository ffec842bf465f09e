"""Debian's Chromium for the tests, driven by playwright."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright

STATIC = Path(__file__).resolve().parents[2] / "app/web/static"

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@asynccontextmanager
async def chromium(*, without: Iterable[str] = ()) -> AsyncIterator[Browser]:
    """A headless Chromium for as long as the block lasts; cancelling is safe, the process ends with the block.

    Args:
        without: switches of playwright's that this browser is started without.
    """
    executable = shutil.which("chromium")
    assert executable is not None, "the browser tests need Debian's package chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable, args=QUIET, ignore_default_args=list(without)
        )
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def blameless(page: Page) -> AsyncIterator[list[str]]:
    """Fails where the page met an uncaught error or an unhandled rejection during the block.

    Yields the list of those met so far; a test that expects one takes it out.
    """
    met: list[str] = []
    page.on("pageerror", lambda error: met.append(str(error)))
    yield met
    assert met == [], f"uncaught in the page: {met}"
