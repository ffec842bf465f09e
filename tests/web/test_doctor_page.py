"""The doctor's page in a real browser: what it finds on ways with a fault, and that it finds nothing on the shipped one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.support.browser import blameless
from tests.support.node import JS, installed
from tests.support.planted import Fault, faults, planted

pytestmark = [pytest.mark.browser, pytest.mark.nginx]

SHORT = {"heartbeat_s": 1.0}
# Faults that show beside each other; buffers that delay nothing, and what sockets hold, no page can see.
PLANTED: tuple[dict[str, str], ...] = (
    {"buffering on": "buffering", "HTTP/1.0": "http-1.0", "Last-Event-ID dropped": "resume-header"},
    {"gzip on": "compressed", "leaving ignored": "leave-unheard"},
    {"impatient": "idle-limit"},
)
LOOK = "import('./doctor.js').then((doctor) => doctor.look(document.baseURI, '')).then((found) => found)"
AXE = "axe.run().then((found) => found.violations.map((v) => [v.id, v.nodes.map((n) => n.html.slice(0, 120))]))"


async def looked(chrome: Browser, plants: list[Fault]) -> dict[str, dict[str, str]]:
    """What the page finds, by its checks."""
    async with planted(plants, **SHORT) as url:
        page = await chrome.new_page()
        await page.goto(f"{url}/doctor")
        found: list[dict[str, str]] = await page.evaluate(LOOK)
        await page.close()
    return {one["check"]: one for one in found}


async def test_the_page_finds_what_the_command_finds_where_a_browser_can_see_it(chrome: Browser) -> None:
    plants = faults(read_timeout="1s")
    found = await asyncio.gather(*(looked(chrome, [plants[name] for name in names]) for names in PLANTED))
    for names, told in zip(PLANTED, found, strict=True):
        assert set(names.values()) <= told.keys() | {"cut-hidden"}, names
        assert told.keys() <= {*names.values(), "cut-hidden"}, "nothing that is not there"
        for name, check in names.items():
            assert any(char.isdigit() for char in told[check]["evidence"]), "it says figures"
            mend = told[check]["mend"].split()
            assert mend[0] == plants[name].line.split()[0], name


async def shown(page: Page) -> str:
    await page.get_by_role("button", name="Look").click()
    await expect(page.locator("#state")).not_to_have_attribute("data-state", "looking", timeout=30_000)
    return await page.locator("main").inner_text()


async def test_on_the_shipped_way_the_page_asks_for_the_key_finds_nothing_and_nor_does_axe_in_it(
    chrome: Browser,
) -> None:
    await installed()
    async with planted([], **SHORT, auth="", api_keys=("the-key-of-a-reader",)) as url:
        await asked_for_its_key(chrome, url)


async def asked_for_its_key(chrome: Browser, url: str) -> None:
    context = await chrome.new_context(viewport={"width": 360, "height": 800}, bypass_csp=True)
    page = await context.new_page()
    await page.goto(f"{url}/doctor")
    await page.add_script_tag(path=JS / "node_modules/axe-core/axe.min.js")
    await expect(page.get_by_label("Access key or token")).to_be_visible()
    assert "Could not look: 401" in await shown(page)
    async with blameless(page):
        await page.get_by_label("Access key or token").fill("the-key-of-a-reader")
        assert "Nothing found in" in await shown(page)
        found: list[Any] = await page.evaluate(AXE)
        assert found == []
        assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    await context.close()
