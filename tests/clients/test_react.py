"""The package's `useStream` with the real React, in StrictMode, on another site: in Chromium, on the real service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.async_api import Browser, Page, expect

from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from tests.conftest import Serve
from tests.support.browser import blameless
from tests.support.client_package import install
from tests.support.link import Link, link
from tests.support.node import bundle
from tests.support.other_site import site

pytestmark = pytest.mark.browser


@asynccontextmanager
async def opened(chrome: Browser, origin: str, api: str, **query: str) -> AsyncIterator[Page]:
    page = await chrome.new_page()
    async with blameless(page):
        await page.goto(f"{origin}/?{urlencode({'api': api, **query})}")
        yield page
        await page.close()


@pytest.fixture
async def origin(tmp_path: Path) -> AsyncIterator[str]:
    async with site(await bundle("use_stream.mjs", beside=install(tmp_path))) as served:
        yield served


@pytest.fixture
async def way(serve: Serve, origin: str) -> AsyncIterator[Link]:
    """The way to a service that the page's site may call."""
    async with link((await serve(cors_origins=(origin,))).url) as made:
        yield made


async def ask(page: Page, say: str) -> None:
    await page.locator("#say").fill(say)
    await page.locator("#send").click()


async def state(page: Page, name: str) -> None:
    await expect(page.locator("#state")).to_have_text(name)


async def test_an_answer_is_asked_once_and_drawn_at_most_once_a_frame(
    chrome: Browser, origin: str, way: Link, simulator: Simulator
) -> None:
    async with opened(chrome, origin, f"{way.url}/api/stream", save="chat") as page:
        await state(page, "idle")
        say = "{{tokens=400 thinking=10 tool=5 text=numbered}}"
        await ask(page, say)
        await state(page, "done")
        text = numbered_text(400)
        assert await page.locator("#text").text_content() == text
        await expect(page.locator("#tokens")).to_have_text("415")
        await expect(page.locator("#tools")).to_contain_text("search {")
        # The end is told once, with all of the text in the state and on the page, to the callback of the last rendering.
        assert await page.evaluate("ends") == [[len(text), len(text), say]]
        frames = [frame for frame, length in await page.evaluate("renders") if length]
        # StrictMode renders everything twice.
        assert all(frames.count(frame) <= 2 for frame in frames)
    assert len(simulator.books) == 1


async def test_it_stops_by_its_own_word_by_a_new_question_and_by_leaving(
    chrome: Browser, origin: str, way: Link, simulator: Simulator
) -> None:
    async with opened(chrome, origin, f"{way.url}/api/stream") as page:
        # The new question is the third, and gives way to the fourth.
        for number, hand, shown in ((0, "#stop", "aborted"), (1, "#send", "connecting"), (3, "#leave", "")):
            await ask(page, "{{tokens=9000 text=numbered rate=100}}")
            await state(page, "open")  # until then the text of the one before may be shown
            await expect(page.locator("#text")).to_contain_text("token0005")
            book = await simulator.book(number)
            if hand == "#send":
                await page.locator("#say").fill("{{tokens=3 ttft_s=60}}")
            await page.locator(hand).click()
            await asyncio.wait_for(book.ended.wait(), 20)
            assert not book.finished
            if shown:
                await state(page, shown)
            if hand == "#send":
                await simulator.book(2)


async def test_an_answer_goes_on_where_it_stood_after_a_cut_a_reload_and_by_hand(
    chrome: Browser, origin: str, way: Link, simulator: Simulator
) -> None:
    async with opened(chrome, origin, f"{way.url}/api/stream", save="chat") as page:
        await ask(page, "{{tokens=3000 text=numbered rate=100}}")
        await expect(page.locator("#text")).to_contain_text("token0010")
        way.cut()
        await expect(page.locator("#text")).to_contain_text("token0100")
        await page.reload()
        await expect(page.locator("#text")).to_contain_text("token0010")
        # The client gives up coming back by itself; the page's own hand does not.
        await page.evaluate("Math.random = () => -1")
        way.up = False
        way.cut()
        await state(page, "failed")
        await expect(page.locator("#error")).to_have_text("connect_error")
        way.up = True
        await page.locator("#resume").click()
        await state(page, "open")
        simulator.books[0].hurried = True
        await state(page, "done")
        assert await page.locator("#text").text_content() == numbered_text(3000)
    assert len(simulator.books) == 1
