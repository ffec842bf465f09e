"""Other people's readers of server-sent events, on answers with long silences in them: one request, every word, no more."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.conftest import ROOT, Serve
from tests.support.browser import blameless
from tests.support.node import bundle, node

# A sign of life every fifth of a second: before the first word, and between the words.
SILENT = {"commit_s": 0.2, "heartbeat_s": 0.2}
PROMPT = "{{tokens=4 rate=1.5 text=numbered first_event_s=1}}"


@pytest.fixture
async def service(serve: Serve) -> Running:
    return await serve(**SILENT)


@pytest.fixture
async def page(service: Running, chrome: Browser) -> AsyncIterator[Page]:
    """A page of the service's own origin, with the readers in it."""
    context = await chrome.new_context(bypass_csp=True)
    page = await context.new_page()
    async with blameless(page):
        await page.goto(service.url)
        await page.add_script_tag(content=(await bundle("sse_readers.mjs")).decode())
        yield page
    await context.close()


def told(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [json.loads(message["data"]) for message in messages]


# At once, for all they do is wait; a browser has six connections to a host.
@pytest.mark.browser
@pytest.mark.parametrize(
    "ways",
    [["fetch_event_source", "eventsource_parser", "eventsource_parser_stream", "eventsource_client"],
     ["event_source", "client_js", "lines"]],
    ids=["libraries", "what browsers have"],
)  # fmt: skip
async def test_silence_is_no_message_to_any_reader(ways: list[str], page: Page, simulator: Simulator) -> None:
    statuses: list[int] = []
    page.on("response", lambda answer: statuses.append(answer.status))
    heard = await page.evaluate(
        "([ways, body]) => Promise.all(ways.map((way) => window.ways[way]('/api/stream', body)))",
        [ways, json.dumps({"prompt": PROMPT})],
    )
    assert set(statuses) == {200}
    for way, messages in zip(ways, heard, strict=True):
        *texts, last = told(messages)
        assert "".join(frame["text"] for frame in texts) == numbered_text(4), way
        assert len(texts) == 4, f"a word each, nothing empty among them: {way}"
        assert last["done"] is True, way
        if "id" in messages[0]:
            assert [message["id"] for message in messages] == ["1", "2", "3", "4", "5"], way
    assert len(simulator.books) == len(ways), "a question was asked again"


def the_dozen_lines() -> str:
    """The README's reader without any library."""
    readme = (ROOT / "README.md").read_text("utf-8")
    found = re.search(r"### Without any library\n.*?```js\n(.*?)```", readme, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.browser
async def test_the_dozen_lines_of_the_readme_read_it_too(page: Page, simulator: Simulator) -> None:
    frames = await page.evaluate(
        """async ([code, prompt]) => {
          const frames = [], AsyncFunction = (async () => {}).constructor;
          await new AsyncFunction("prompt", "show", code)(prompt, (frame) => frames.push(frame));
          return frames;
        }""",
        [the_dozen_lines(), PROMPT],
    )
    assert "".join(frame.get("text", "") for frame in frames) == numbered_text(4)
    assert len(frames) == 5
    assert len(simulator.books) == 1


async def test_silence_is_nothing_to_a_chat(service: Running, simulator: Simulator) -> None:
    async def asked(version: int) -> None:
        case = {"way": "ask", "id": str(version), "say": PROMPT}
        (chat,) = await node("ai_sdk.mjs", {"base_url": service.url, "version": version, "cases": [case]})
        assert chat["errors"] == [], version
        assert [part["text"] for part in chat["messages"][1]["parts"] if part["type"] == "text"] == [numbered_text(4)]

    await asyncio.gather(asked(7), asked(6))
    assert len(simulator.books) == 2, "a question was asked again"
