"""When client.js calls back, and when it reads: frames, hidden pages and backpressure, in a real browser."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from playwright.async_api import Browser, Page

from tests.support.browser import blameless
from tests.support.scripted import DONE, Site, forever, frame, opened, run, says

pytestmark = pytest.mark.browser


# --- frames ----------------------------------------------------------------------------------------------------------


async def test_callbacks_are_called_at_most_once_a_frame_with_the_text_joined(page: Page, site: Site) -> None:
    words = [f"w{n} " for n in range(400)]

    async def script(request: web.Request) -> web.StreamResponse:
        response = await opened(request)
        for number, word in enumerate(words, 1):
            await response.write(frame({"text": word}, number))
            await asyncio.sleep(0)  # lets the transport write, so that the browser gets many small pieces
        await response.write(frame(DONE, 401))
        return response

    site.script = script
    text, frames = await run(
        page,
        """
        const timers = window.setTimeout; // without the timer for pages whose frames do not come
        window.setTimeout = (work, ms) => (ms === 250 ? 0 : timers(work, ms));
        let now = 0, text = "";
        const frames = [], count = () => { now += 1; requestAnimationFrame(count); };
        count();
        await new Promise((resolve) => stream("hi", {
          onText: (more) => { frames.push(now); text += more; },
          onDone: resolve,
        }));
        return [text, frames];
        """,
    )
    assert text == "".join(words)
    assert len(set(frames)) == len(frames)
    assert len(frames) < len(words) / 2


async def test_without_batching_every_event_is_a_call(page: Page, site: Site) -> None:
    site.script = says(*[{"text": str(n)} for n in range(50)], DONE)
    calls = await run(
        page, "const calls = []; await stream('hi', { batch: false, onText: (t) => calls.push(t) }).done; return calls"
    )
    assert calls == [str(n) for n in range(50)]


@pytest.mark.parametrize(
    "circumstances",
    [
        # Hidden: no frames at all, and timers that fire once a second or once a minute.
        "Object.defineProperty(document, 'hidden', { value: true }); window.setTimeout = () => 0;",
        # Visible and not painted, as an iframe out of sight: no frames, but timers.
        "",
    ],
    ids=["hidden", "not painted"],
)
async def test_a_page_without_frames_gets_the_text_while_the_stream_goes_on(
    page: Page, site: Site, circumstances: str
) -> None:
    seen = asyncio.Event()

    async def script(request: web.Request) -> web.StreamResponse:
        response = await opened(request)
        await response.write(frame({"text": "first"}))
        await asyncio.wait_for(seen.wait(), 20)
        await response.write(frame(DONE, 2))
        return response

    site.script = script
    await page.expose_function("seen", lambda text: seen.set())
    text = await run(
        page,
        f"window.requestAnimationFrame = () => 0; {circumstances}"
        "return (await stream('hi', { onText: (text) => window.seen(text) }).done).text;",
    )
    assert text == "first"


async def test_a_callback_that_returns_a_promise_holds_the_next_one_back(page: Page, site: Site) -> None:
    site.script = says(*[{"text": str(n)} for n in range(20)], DONE)
    got = await run(
        page,
        """
        let inside = 0, most = 0, text = "";
        await new Promise((resolve) => stream("hi", {
          onText: async (more) => {
            most = Math.max(most, ++inside);
            await new Promise(requestAnimationFrame);
            text += more;
            inside -= 1;
          },
          onDone: resolve,
        }));
        return [most, text];
        """,
    )
    assert got == [1, "".join(map(str, range(20)))]


@pytest.mark.parametrize("way", ["throw new Error('mine')", "return Promise.reject(new Error('mine'))"])
@pytest.mark.parametrize("batch", ["true", "false"])
async def test_a_callback_that_throws_is_reported_and_the_stream_goes_on(
    chrome: Browser, site: Site, way: str, batch: str
) -> None:
    site.script = says({"text": "a"}, {"thinking": "b"}, {"text": "c"}, DONE)
    page = await chrome.new_page()
    async with blameless(page) as met:
        await page.goto(site.url)
        done, heard = await run(
            page,
            f"""
            const heard = [];
            const handle = stream("hi", {{
              batch: {batch},
              onText(text) {{ heard.push(text); {way}; }},
              onThinking(text) {{ heard.push(text); }},
              onDone(result) {{ heard.push("done"); throw new Error("mine"); }},
            }});
            const {{ text, thinking }} = await handle.done;
            await new Promise((resolve) => setTimeout(resolve));
            while (heard.at(-1) !== "done") await new Promise(requestAnimationFrame);
            return [[text, thinking, handle.state], heard];
            """,
        )
        await page.close()
        assert (done, heard) == (["ac", "b", "done"], ["a", "b", "c", "done"])
        assert met == ["mine", "mine", "mine"]
        met.clear()


# --- backpressure ----------------------------------------------------------------------------------------------------


COUNTED = """
let pulls = 0;
const frames = new ReadableStream({
  pull(controller) {
    pulls += 1;
    controller.enqueue(new TextEncoder().encode(pulls > 20 ? 'data: {"done": true}\\n\\n' : 'data: {"text": "x"}\\n\\n'));
  },
}, { highWaterMark: 0 });
const counted = async () => new Response(frames, { headers: { "Content-Type": "text/event-stream" } });
const settled = () => new Promise((resolve) => { let n = 50; const f = () => (n-- ? Promise.resolve().then(f) : resolve()); f(); });
"""


async def test_the_network_is_read_once_for_each_event_the_loop_asks_for(page: Page) -> None:
    pulls = await run(
        page,
        COUNTED
        + """
        const loop = stream("hi", { fetch: counted })[Symbol.asyncIterator](), seen = [];
        await settled();
        seen.push(pulls);
        for (let n = 0; n < 5; n += 1) { await loop.next(); await settled(); seen.push(pulls); }
        for await (const event of loop) { await settled(); seen.push(pulls); }
        return seen;
        """,
    )
    # After the last event the end of the body is read too, so that the connection can be used again.
    assert pulls == [*range(21), 22]


async def test_the_network_is_not_read_while_a_callback_is_busy(page: Page) -> None:
    during, after = await run(
        page,
        COUNTED
        + """
        let go, during;
        const called = new Promise((resolve) => {
          const handle = stream("hi", { fetch: counted, batch: false, onText() {
            if (!go) return new Promise((release) => { go = release; resolve(handle); });
          }});
        });
        const handle = await called;
        await settled();
        during = pulls;
        go();
        await handle.done;
        return [during, pulls];
        """,
    )
    assert (during, after) == (1, 22)


async def test_the_network_is_not_read_while_a_full_batch_waits_for_its_frame(page: Page) -> None:
    during, text = await run(
        page,
        COUNTED.replace('"text": "x"', '"text": "\' + "x".repeat(16384) + \'"')
        + """
        let paint;
        window.requestAnimationFrame = (work) => { paint = work; return 1; };
        window.setTimeout = () => 0;
        const handle = stream("hi", { fetch: counted, onText() {} });
        await settled();
        await settled();
        const during = pulls;
        while (handle.state !== "done") { paint?.(); await settled(); }
        return [during, (await handle.done).text.length];
        """,
    )
    # 64 Ki characters are the high water of a batch.
    assert (during, text) == (4, 20 * 16384)


@pytest.mark.soak
async def test_a_loop_that_stops_asking_stops_the_server_once_the_browser_is_full(page: Page, site: Site) -> None:
    """Chromium 156 on Linux takes over about 60 MB of a body that nobody reads; after that the pressure is real."""
    blocked: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def script(request: web.Request) -> web.StreamResponse:
        response = await opened(request)
        for number in range(12_000):
            try:
                # Two seconds in which not one byte was taken: a time limit, not a pause.
                await asyncio.wait_for(response.write(frame({"text": "x" * 16_000})), 2)
            except TimeoutError:
                blocked.set_result(number * 16_000)
                await forever()
        raise AssertionError("the browser took everything")

    site.script = script
    await run(page, "window.handle = stream('hi'); window.loop = handle[Symbol.asyncIterator](); await loop.next()")
    swallowed = await asyncio.wait_for(blocked, 50)
    assert swallowed < 100_000_000
    await run(page, "handle.abort()")
    await asyncio.wait_for(site.left.wait(), 20)
