"""A reader who is lost and comes back, in Chromium, on the real service: the answer is whole, and paid for once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from playwright.async_api import BrowserContext, Page, expect

from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.support.browser import blameless, open_page
from tests.support.link import Link, link
from tests.support.readers import eventually, steady

pytestmark = pytest.mark.browser

TOKENS = 1500  # more than comes before a test has done what it does, on any machine; then it is hurried
PROMPT = f"{{{{tokens={TOKENS} rate=75 text=numbered}}}}"
WHOLE = "".join(f" token{n:04d}" for n in range(1, TOKENS + 1))


@pytest.fixture
async def line(service: Running) -> AsyncIterator[Link]:
    async with link(service.url) as made:
        yield made


@pytest.fixture
async def page(profile: BrowserContext) -> AsyncIterator[Page]:
    page = await profile.new_page()
    async with blameless(page):
        yield page
        await page.close()


async def send(page: Page, url: str) -> None:
    await open_page(page, url)
    await page.get_by_label("Your prompt").fill(PROMPT)
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#text")).to_contain_text("token0030", timeout=20_000)


async def state(page: Page, name: str) -> None:
    await expect(page.locator("#state")).to_have_attribute("data-state", name, timeout=25_000)


async def whole(page: Page, simulator: Simulator) -> None:
    simulator.books[0].hurried = True
    await state(page, "done")
    assert await page.locator("#text").text_content() == WHOLE
    assert len(simulator.books) == 1
    assert simulator.books[0].finished


async def test_a_line_that_is_cut_again_and_again_leaves_the_answer_whole(
    page: Page, line: Link, simulator: Simulator
) -> None:
    await send(page, line.url)
    for mark in ("token0080", "token0150", "token0220"):
        line.cut()
        await expect(page.locator("#text")).to_contain_text(mark, timeout=20_000)
    assert simulator.books[0].live
    await whole(page, simulator)


async def test_five_seconds_offline_in_mid_answer_leave_the_answer_whole(
    page: Page, line: Link, simulator: Simulator
) -> None:
    await send(page, line.url)
    line.up = False
    line.cut()
    await page.context.set_offline(True)
    await state(page, "reconnecting")
    await asyncio.sleep(5)  # the length of the outage is what is tested
    held = simulator.books[0].tokens
    shown = len(await page.locator("#text").text_content() or "") // len(" token0001")
    assert not simulator.books[0].finished or held - shown <= 2500
    line.up = True
    await page.context.set_offline(False)
    await state(page, "open")
    await whole(page, simulator)


async def test_a_tab_that_is_loaded_anew_shows_the_answer_from_its_beginning_also_once_it_is_whole(
    page: Page, line: Link, simulator: Simulator
) -> None:
    await send(page, line.url)
    await page.reload()
    await state(page, "open")
    await whole(page, simulator)
    await page.reload()
    await whole(page, simulator)
    assert len(simulator.books) == 1


VISIBILITY = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


async def test_a_phone_s_background_leaves_the_answer_whole(page: Page, line: Link, simulator: Simulator) -> None:
    """Hidden, then not one step of its scripts is run, as a phone does it, while the connection goes away."""
    await send(page, line.url)
    phone = await page.context.new_cdp_session(page)
    await phone.send("Debugger.enable")
    await page.evaluate(VISIBILITY, True)
    paused = asyncio.Event()
    phone.on("Debugger.paused", lambda _where: paused.set())
    await phone.send("Debugger.pause")  # headless Chromium does not freeze a page, whatever its lifecycle is set to
    line.cut()
    await asyncio.wait_for(paused.wait(), 20)  # at the first step that its scripts would do
    assert line.connections == 0, "the page was not frozen"
    await phone.send("Debugger.resume")
    await phone.send("Debugger.disable")
    await page.evaluate(VISIBILITY, False)
    await eventually(lambda: line.connections > 0)
    await whole(page, simulator)


async def test_a_second_tab_takes_the_stream_over_whole_and_the_first_one_says_so(
    page: Page, line: Link, simulator: Simulator
) -> None:
    await send(page, line.url)
    saved = await page.evaluate("sessionStorage.getItem('sluiceway:playground')")
    second = await page.context.new_page()
    await second.add_init_script(f"sessionStorage.setItem('sluiceway:playground', {saved!r})")
    await open_page(second, line.url)
    await expect(page.get_by_role("heading", name="Another tab reads this answer now")).to_be_visible(timeout=20_000)
    await whole(second, simulator)
    text = await page.locator("#text").text_content() or ""
    assert WHOLE.startswith(text)
    assert len(text) >= 300


async def test_cut_and_resume_are_buttons_and_the_service_holds_still_between_them(
    page: Page, service: Running, simulator: Simulator
) -> None:
    await send(page, service.url)
    await page.get_by_role("button", name="Cut").click()
    await state(page, "detached")
    await expect(page.get_by_role("button", name="Resume")).to_be_focused()
    assert [session.delivery.connection for session in service.streams.live.values()] == [None]
    await page.get_by_role("button", name="Resume").click()
    await state(page, "open")
    await whole(page, simulator)


# --- credits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credits", [True, False])
async def test_a_page_that_stops_consuming_holds_generation_only_with_credits(
    page: Page, service: Running, simulator: Simulator, credits: bool, record_property: Callable[[str, object], None]
) -> None:
    """64,000 tokens; without credits Chromium itself takes them all, and that is stated, not hidden."""
    await open_page(page, service.url)
    await page.evaluate(
        """async (credits) => {
          const { stream } = await import("/client.js");
          window.handle = stream("{{tokens=64000 text=numbered}}", { credits });
          window.loop = handle[Symbol.asyncIterator]();
          await loop.next();
        }""",
        credits,
    )
    book = await simulator.book()
    if credits:
        await asyncio.wait_for(book.is_blocked.wait(), 20)
        # 64 kB of frames are some 6,000 tokens of ten characters; queue and sockets hold the rest.
        assert await steady(lambda: book.tokens) <= 6_600 + 1_500
    else:
        await asyncio.wait_for(book.ended.wait(), 50)
        assert book.finished
    print(f"credits={credits}: {book.tokens} of {book.would_have} tokens generated")
    record_property("tokens_generated", book.tokens)
    await page.evaluate("handle.stop()")
    await asyncio.wait_for(book.ended.wait(), 20)
