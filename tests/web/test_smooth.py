"""The playground while 30,000 tokens come, by the browser's own tracing: how long its main thread works. Nothing moves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from app.web.runner import Running
from tests.support.browser import chromium

TOKENS, TOKENS_PER_S = 30_000, 1000
LONGEST_TASK_MS = 50  # three frames: from there on people notice

# What moved by itself: when, in milliseconds, and from where to where.
_SHIFTS = """
  window.shifts = [];
  const place = ({ x, y, width, height }) => [x, y, width, height].map(Math.round).join(" ");
  new PerformanceObserver((list) => {
    for (const { startTime, hadRecentInput, sources } of list.getEntries()) {
      const moved = sources.map((s) => `${s.node?.id || s.node?.nodeName} ${place(s.previousRect)} to ${place(s.currentRect)}`);
      if (!hadRecentInput) shifts.push([Math.round(startTime), ...moved]);
    }
  }).observe({ type: "layout-shift", buffered: true });
"""


@asynccontextmanager
async def traced(page: Page) -> AsyncIterator[list[dict[str, Any]]]:
    """The browser's trace of what the page does in the block, whole once the block is left."""
    devtools = await page.context.new_cdp_session(page)
    events: list[dict[str, Any]] = []
    whole = asyncio.Event()
    devtools.on("Tracing.dataCollected", lambda data: events.extend(data["value"]))
    devtools.on("Tracing.tracingComplete", lambda _: whole.set())
    config = {"includedCategories": ["devtools.timeline", "toplevel"]}
    await devtools.send("Tracing.start", {"traceConfig": config, "transferMode": "ReportEvents"})
    yield events
    await devtools.send("Tracing.end")
    await whole.wait()


def tasks_ms(events: list[dict[str, Any]]) -> list[float]:
    """How long each task of the page's main thread had the processor, longest first: what others took of it is not counted."""
    layouts = Counter((event["pid"], event["tid"]) for event in events if event["name"] == "UpdateLayoutTree")
    ((main, _),) = layouts.most_common(1)
    of_main = [event for event in events if (event["pid"], event["tid"]) == main]
    return sorted(
        (event["tdur"] / 1000 for event in of_main if event["name"].endswith("RunTask") and "tdur" in event),
        reverse=True,
    )


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 900, 1280])
async def test_nothing_moves_by_itself_while_an_answer_comes(chrome: Browser, service: Running, width: int) -> None:
    page = await chrome.new_page(viewport={"width": width, "height": 800})
    await page.add_init_script(_SHIFTS)
    await page.goto(service.url)
    await page.fill("#prompt", "Go. {{tokens=800 rate=800}}")
    await page.click("#send")
    await expect(page.locator("#state")).to_have_attribute("data-state", "done")
    assert await page.evaluate("shifts") == []
    await page.close()


@pytest.mark.soak
@pytest.mark.browser
@pytest.mark.timeout(300)
async def test_thirty_thousand_tokens_take_no_long_task_and_move_nothing(service: Running) -> None:
    async with chromium() as browser:
        page = await browser.new_page(viewport={"width": 1280, "height": 800})
        await page.add_init_script(_SHIFTS)
        await page.goto(service.url)
        await expect(page.locator("#about")).not_to_be_empty()
        async with traced(page) as events:
            await page.fill("#prompt", f"Go. {{{{tokens={TOKENS} rate={TOKENS_PER_S}}}}}")
            await page.click("#send")
            await expect(page.locator("#state")).to_have_attribute("data-state", "done", timeout=200_000)
        moved = await page.evaluate("shifts")
    longest = tasks_ms(events)[:5]
    print(f"{TOKENS} tokens: longest tasks {[round(ms, 1) for ms in longest]} ms of processor")
    assert longest[0] <= LONGEST_TASK_MS
    assert moved == []
