"""The playground under axe-core, in light and dark, wide and narrow, in each of its states."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.support.browser import blameless
from tests.support.node import JS, installed

pytestmark = pytest.mark.browser

RUN = "axe.run().then((found) => found.violations.map((v) => [v.id, v.nodes.map((n) => n.html.slice(0, 120))]))"


async def check(page: Page, state: str) -> None:
    await expect(page.locator("#state")).to_have_attribute("data-state", state, timeout=20_000)
    found: list[Any] = await page.evaluate(RUN)
    assert found == [], state


@pytest.mark.parametrize(("scheme", "width"), [("light", 360), ("dark", 1280)])
async def test_axe_finds_nothing_in_any_state_of_the_page(
    chrome: Browser, service: Running, simulator: Simulator, scheme: Any, width: int
) -> None:
    await installed()
    context = await chrome.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True, reduced_motion="reduce"
    )
    page = await context.new_page()
    async with blameless(page):
        await page.goto(service.url)
        await page.add_script_tag(path=JS / "node_modules/axe-core/axe.min.js")
        await check(page, "idle")
        await page.get_by_text("Request options").click()
        await page.get_by_label("Think first, and show it").check()
        await page.get_by_label("Your prompt").fill("{{tokens=1200 rate=100 thinking=20 tool=20}}")
        await page.get_by_role("button", name="Send").click()
        await check(page, "open")
        await page.get_by_label("Reader’s speed").fill("0")
        await check(page, "held")
        await page.get_by_label("Reader’s speed").fill("100")
        await page.get_by_role("button", name="Cut").click()
        await check(page, "detached")
        await page.get_by_role("button", name="Resume").click()
        simulator.books[0].hurried = True  # the states before took as long as they took
        await check(page, "done")
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        await page.reload()
        await page.add_script_tag(path=JS / "node_modules/axe-core/axe.min.js")
        await check(page, "done")
        await page.get_by_label("Your prompt").fill("{{tokens=30 fault=overloaded after=20}}")
        await page.get_by_role("button", name="Send").click()
        await check(page, "failed")
        await context.close()
