"""The playground while 30,000 tokens come, by the browser's own tracing: how long its main thread works, and what moves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Page, expect

from app.web.runner import Running
from tests.support.browser import chromium

TOKENS, TOKENS_PER_S = 30_000, 1000
LONGEST_TASK_MS = 50  # three frames: from there on people notice
MOST_MOVED = 0.01  # in any five seconds; 0.1 is "good" by Web Vitals

_SHIFTS = """
  window.shifts = [];
  new PerformanceObserver((list) => {
    for (const { value, startTime, hadRecentInput } of list.getEntries()) shifts.push([startTime, value, hadRecentInput]);
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


def most_moved(shifts: list[tuple[float, float, bool]]) -> float:
    """The sum of what moved by itself within five seconds, where it was most."""
    own = [(at_ms, value) for at_ms, value, by_hand in shifts if not by_hand]
    return max((sum(value for at, value in own if 0 <= at - begin < 5000) for begin, _ in own), default=0.0)


@pytest.mark.soak
@pytest.mark.browser
@pytest.mark.timeout(300)
async def test_thirty_thousand_tokens_take_no_long_task_and_move_next_to_nothing(service: Running) -> None:
    async with chromium() as browser:
        page = await browser.new_page(viewport={"width": 1280, "height": 800})
        await page.add_init_script(_SHIFTS)
        await page.goto(service.url)
        await expect(page.locator("#about")).not_to_be_empty()
        before = await page.evaluate("shifts")
        async with traced(page) as events:
            await page.fill("#prompt", f"Go. {{{{tokens={TOKENS} rate={TOKENS_PER_S}}}}}")
            await page.click("#send")
            await expect(page.locator("#state")).to_have_attribute("data-state", "done", timeout=200_000)
        moved = most_moved(await page.evaluate("shifts"))
    longest = tasks_ms(events)[:5]
    print(
        f"{TOKENS} tokens: longest tasks {[round(ms, 1) for ms in longest]} ms of processor; moved {moved:.4f} in 5 s"
    )
    assert sum(value for _, value, _ in before) == 0, "loading moves nothing"
    assert longest[0] <= LONGEST_TASK_MS
    assert moved <= MOST_MOVED
