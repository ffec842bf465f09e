"""What client.js says when a stream fails, in a real browser."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Page

from tests.support.browser import chromium
from tests.support.scripted import DONE, Script, Site, forever, frame, opened, run, says

pytestmark = pytest.mark.browser


def refuses(status: int, body: str, headers: dict[str, str] | None = None) -> Script:
    async def script(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body, headers=headers, content_type="application/json")

    return script


async def cut(request: web.Request) -> web.StreamResponse:
    """The connection is reset after the headers, without the end of the chunked body."""
    response = await opened(request)
    await response.write(b": keep-alive\n")
    assert request.transport is not None
    request.transport.abort()
    return response


async def hung_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def garbled(request: web.Request) -> web.StreamResponse:
    response = await opened(request)
    await response.write(b"data: {nonsense\n\n")
    await forever()
    return response


async def page_instead(request: web.Request) -> web.StreamResponse:
    return web.Response(text="<p>Welcome to the hotel's network", content_type="text/html")


OVERLOADED = {"error": "Overloaded", "type": "overloaded_error", "retryable": True, "source": "upstream"}
INVALID = {
    "error": "max_tokens: too large",
    "type": "invalid_request_error",
    "retryable": False,
    "source": "service",
    "field": "max_tokens",
}
LIMITED = {"error": "Too many streams", "type": "rate_limit_error", "retryable": True}


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        pytest.param(says({"text": "a"}, OVERLOADED), ["StreamError", "overloaded_error", None, True, None, "upstream", None, "a"], id="stream"),
        pytest.param(refuses(400, json.dumps(INVALID)), ["HttpError", "invalid_request_error", 400, False, "max_tokens", "service", None, ""], id="400"),
        pytest.param(refuses(429, json.dumps(LIMITED), {"Retry-After": "12"}), ["HttpError", "rate_limit_error", 429, True, None, None, 12, ""], id="429"),
        pytest.param(
            refuses(503, json.dumps(LIMITED), {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}),
            ["HttpError", "rate_limit_error", 503, True, None, None, 0, ""],
            id="a date gone by",
        ),
        pytest.param(refuses(502, "<html>nginx"), ["HttpError", "http_error", 502, True, None, None, None, ""], id="a proxy's page"),
        pytest.param(refuses(404, ""), ["HttpError", "http_error", 404, False, None, None, None, ""], id="404 without a body"),
        pytest.param(refuses(401, "null"), ["HttpError", "http_error", 401, False, None, None, None, ""], id="401 null"),
        pytest.param(says({"text": "a"}), ["InterruptedError", "interrupted", None, True, None, None, None, "a"], id="end without done"),
        pytest.param(cut, ["InterruptedError", "interrupted", None, True, None, None, None, ""], id="cut"),
        pytest.param(hung_up, ["ConnectError", "connect_error", None, True, None, None, None, ""], id="hung up"),
        pytest.param(garbled, ["ProtocolError", "protocol_error", None, False, None, None, None, ""], id="not JSON"),
        pytest.param(page_instead, ["ProtocolError", "protocol_error", 200, False, None, None, None, ""], id="not a stream"),
    ],
)  # fmt: skip
async def test_each_failure_has_its_class_and_its_words(
    page: Page, site: Site, script: Script, wanted: list[Any]
) -> None:
    site.script = script
    by_loop, by_callback, fetches = await run(
        page,
        """
        const tell = (e, handle) => [e.name, e.type, e.status, e.retryable, e.field, e.source, e.retryAfterS, handle.result.text,
          e instanceof client.SluicewayError && e instanceof Error && e.message.length > 5];
        // Counted here: on a connection kept alive, Chromium itself sends again what was cut off before an answer.
        let fetches = 0;
        const plain = window.fetch;
        window.fetch = (...args) => { fetches += 1; return plain(...args); };
        const looped = stream("hi");
        let thrown;
        try { for await (const event of looped); } catch (error) { thrown = error; }
        const rejected = await looped.done.catch((error) => error);
        if (rejected !== thrown || looped.state !== "failed") throw new Error("not the same error");
        const called = await new Promise((resolve) => {
          const handle = stream("hi", { onError: (error) => resolve(tell(error, handle)), onDone: () => resolve("done") });
        });
        return [tell(thrown, looped), called, fetches];
        """,
    )
    assert by_loop == [*wanted, True]
    assert by_callback == [*wanted, True]
    assert fetches == 2, "a failed request was sent again"


async def test_what_came_before_a_failure_is_delivered_before_it(page: Page, site: Site) -> None:
    site.script = says({"text": "a"}, OVERLOADED)
    calls = await run(
        page,
        """
        const calls = [];
        await new Promise((resolve) => stream("hi", {
          onText: (text) => calls.push(text),
          onError: (error) => { calls.push(error.type); resolve(); },
        }));
        return calls;
        """,
    )
    assert calls == ["a", "overloaded_error"]


async def test_a_failure_nobody_asks_about_is_no_unhandled_rejection(page: Page, site: Site) -> None:
    """The page fixture fails where one was met; the second stream gives the first one's rejection time to be noticed."""
    site.script = refuses(500, "{}")
    await run(
        page, "stream('1', { onText() {} }); stream('2'); await stream('3').done.catch(() => {}); stream('4').abort()"
    )
    site.script = says(DONE)
    await run(
        page,
        "await stream('5').done; await new Promise(requestAnimationFrame); await new Promise(requestAnimationFrame)",
    )


async def test_leaving_for_another_page_ends_the_request_though_the_browser_keeps_the_page(site: Site) -> None:
    """With the back-forward cache on, as readers have it and playwright has not."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = await opened(request)
        await response.write(frame({"text": "a"}))
        await forever()
        return response

    site.script = script
    async with chromium(without=["--disable-back-forward-cache"]) as browser:
        page = await browser.new_page()
        await page.goto(site.url)
        await run(page, "window.handle = stream('hi'); await handle[Symbol.asyncIterator]().next()")
        await page.goto(f"{site.url}/client.js")
        await asyncio.wait_for(site.left.wait(), 20)
