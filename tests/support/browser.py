"""Debian's Chromium for the tests, driven by playwright."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright, expect

# Playwright's five seconds are little for a busy machine.
expect.set_options(timeout=20_000)

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
async def chromium(*, without: Iterable[str] = (), executable: Path | None = None) -> AsyncIterator[Browser]:
    """A headless Chromium for as long as the block lasts; cancelling is safe, the process ends with the block.

    Args:
        without: switches of playwright's that this browser is started without.
        executable: what starts it somewhere else.
    """
    found = executable or shutil.which("chromium")
    assert found is not None, "the browser tests need Debian's package chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=QUIET, ignore_default_args=list(without))
        try:
            yield browser
        finally:
            await browser.close()


@contextmanager
def standing_chromium(profile: Path) -> Iterator[str]:
    """A headless Chromium that several connections share; yields where its DevTools listen."""
    executable = shutil.which("chromium")
    assert executable is not None, "the browser tests need Debian's package chromium"
    command = [executable, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", *QUIET]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:  # its own word that it is ready: nothing to poll
                if line.startswith("DevTools listening on "):
                    # Whatever else it says goes nowhere; an unread pipe would stop it.
                    threading.Thread(target=process.stderr.read, daemon=True).start()
                    yield line.removeprefix("DevTools listening on ").strip()
                    return
            raise AssertionError("Chromium ended before it was ready")
        finally:
            process.terminate()
            process.wait(30)


@asynccontextmanager
async def blameless(page: Page) -> AsyncIterator[list[str]]:
    """Fails where the page met an uncaught error or an unhandled rejection during the block.

    Yields the list of those met so far; a test that expects one takes it out.
    """
    met: list[str] = []
    missed: list[str] = []
    page.on("pageerror", lambda error: met.append(str(error)))
    page.on("requestfailed", lambda request: missed.append(f"{request.url}: {request.failure}"))
    try:
        yield met
    except Exception as error:
        # A page whose script did not come stands still without a word of its own.
        error.add_note(f"uncaught in the page: {met}; requests that failed: {missed}")
        raise
    assert met == [], f"uncaught in the page: {met}"


async def open_page(page: Page, url: str) -> None:
    """Opens `url` and waits for its first frame: Chromium drops a key that comes before it, as nobody can press one."""
    await page.goto(url)
    await page.evaluate("new Promise((shown) => requestAnimationFrame(() => requestAnimationFrame(shown)))")
