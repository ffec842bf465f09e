"""One Chromium and one driver of it for many tests, as fixtures that a folder's conftest takes in: starting them takes seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from playwright.async_api import Browser, BrowserContext


@pytest.fixture(scope="session")
def chromium_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a Chromium for the whole run listens."""
    from tests.support.browser import standing_chromium

    with standing_chromium(tmp_path_factory.mktemp("chromium")) as address:
        yield address


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def driven_chromium(chromium_address: str) -> AsyncIterator[Browser]:
    """The one connection to it, by a loop that stands as long: the tests that ask for `chrome` run in it."""
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.connect_over_cdp(chromium_address)
        yield browser
        await browser.close()


@pytest.fixture
async def chrome(driven_chromium: Browser) -> AsyncIterator[Browser]:
    """The browser, in which every page and context is closed at the test's end; each has a profile of its own."""
    standing = list(driven_chromium.contexts)
    yield driven_chromium
    for context in driven_chromium.contexts:
        if context not in standing:
            await context.close()


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def standing_profile(driven_chromium: Browser) -> BrowserContext:
    """One profile: a new one for each test costs half a second and most of a second of processor time."""
    return await driven_chromium.new_context()


@pytest.fixture
async def profile(standing_profile: BrowserContext, chrome: Browser) -> AsyncIterator[BrowserContext]:
    """A profile for tests whose pages are of an origin of their own, a server's free port, so that they share nothing kept.

    What a context alone has is forgotten at the test's end; who sets its clock takes one from `chrome`.
    """
    yield standing_profile
    for page in standing_profile.pages:
        await page.close()
    await standing_profile.clear_cookies()
    await standing_profile.clear_permissions()
    await standing_profile.set_offline(False)
