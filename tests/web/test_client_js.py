"""The browser's half of the protocol, in a real browser, against a server that follows a script."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Browser, Page

from .browser import STATIC, blameless, chromium

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

Script = Callable[[web.Request], Awaitable[web.StreamResponse]]

DONE: dict[str, Any] = {"done": True, "stop_reason": "end_turn", "usage": {"output_tokens": 3}}


@dataclass
class Site:
    """The static folder, and `/api/stream` as the test scripts it."""

    url: str = ""
    script: Script | None = None
    bodies: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    # Set when the browser has left a request that was being answered.
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        assert self.script is not None, "the test has set no script"
        try:
            return await self.script(request)
        except (asyncio.CancelledError, ConnectionResetError):
            self.left.set()
            raise


async def blank(request: web.Request) -> web.Response:
    return web.Response(text="<!doctype html><title>blank</title>", content_type="text/html")


async def static(request: web.Request) -> web.FileResponse:
    return web.FileResponse(STATIC / request.match_info["name"])


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def site() -> AsyncIterator[Site]:
    site = Site()
    app = web.Application()
    app.router.add_get("/", blank)
    app.router.add_post("/api/stream", site.answer)
    app.router.add_get("/{name}", static)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    tcp = web.TCPSite(runner, "127.0.0.1", 0)
    await tcp.start()
    assert runner.addresses
    site.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield site
    await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, site: Site) -> AsyncIterator[Page]:
    page = await browser.new_page()
    async with blameless(page):
        await page.goto(site.url)
        yield page
        await page.close()


async def run(page: Page, body: str, arg: object = None) -> Any:
    """Runs a function body in the page, with everything that client.js exports as `client`, and `stream` by name."""
    source = f"async (arg) => {{ const client = await import('/client.js'); const {{ stream }} = client; {body} }}"
    return await page.evaluate(source, arg)


async def opened(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Stream-Id": "s-1"})
    await response.prepare(request)
    return response


def frame(payload: dict[str, Any], number: int = 1) -> bytes:
    return f"id: {number}\ndata: {json.dumps(payload, ensure_ascii=False)}\n\n".encode()


def says(*payloads: dict[str, Any]) -> Script:
    """A script that sends these frames and ends."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = await opened(request)
        for number, payload in enumerate(payloads, 1):
            await response.write(frame(payload, number))
        return response

    return script


async def forever() -> None:
    """Blocks until the browser leaves, which cancels the handler."""
    await asyncio.Event().wait()


# --- the parser ------------------------------------------------------------------------------------------------------

PUSH = """
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
return arg.map(({ stream, cuts }) => {
  const parser = new client.SseParser(), whole = bytes(stream), events = [];
  for (let from = 0, i = 0; i <= cuts.length; from = cuts[i], i += 1) {
    events.push(...parser.push(whole.subarray(from, cuts[i] ?? whole.length)));
  }
  return [events, parser.lastEventId, parser.retryMs];
});
"""

Parsed = tuple[list[dict[str, str]], str, int | None]


def expected(stream: bytes) -> Parsed:
    """WHATWG HTML 9.2.6, read a second time: the whole stream at once, in the words of the specification."""
    text = stream.decode().removeprefix("\ufeff")
    events: list[dict[str, str]] = []
    data, event, last_id, id_buffer = "", "", "", ""
    retry: int | None = None
    for line in re.split("\r\n|\n|\r", text)[:-1]:
        if line == "":
            last_id = id_buffer
            if data:
                events.append({"id": last_id, "event": event or "message", "data": data.removesuffix("\n")})
            data, event = "", ""
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data += value + "\n"
        elif name == "event":
            event = value
        elif name == "id" and "\0" not in value:
            id_buffer = value
        elif name == "retry" and re.fullmatch("[0-9]+", value):
            retry = int(value)
    return events, last_id, retry


async def parse(page: Page, cases: list[tuple[bytes, list[int]]]) -> list[Parsed]:
    arg = [{"stream": base64.b64encode(stream).decode(), "cuts": cuts} for stream, cuts in cases]
    return [(events, last_id, retry) for events, last_id, retry in await run(page, PUSH, arg)]


PIECES = ["data", "data:", "data: ", "data:  ", ":", ": keep-alive", "id", "id: 7", "id: \0", "event: x", "retry: 20"]
PIECES += [
    "retry: 2s",
    "datax: no",
    "\ufeff",
    "é",
    "𝒳",
    "👩‍👩‍👧",
    "{}",
    "日本",
    "a",
    " ",
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\r\r",
    "\r\n\r\n",
]


async def test_the_parser_agrees_with_the_specification_under_any_chunking(page: Page) -> None:
    dice = random.Random(9_2_6)
    cases: list[tuple[bytes, list[int]]] = []
    for _ in range(600):
        stream = "".join(dice.choices(PIECES, k=dice.randrange(40))).encode()
        cuts = sorted(dice.choices(range(len(stream) + 1), k=dice.randrange(12)))
        cases += [(stream, cuts), (stream, list(range(1, len(stream))))]
    for (stream, cuts), got in zip(cases, await parse(page, cases), strict=True):
        assert got == expected(stream), (stream, cuts)


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n", None),
        (b"data\n\ndata\ndata\n\ndata:", ["", "\n"]),
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", ["YHOO\n+2\n10"]),
        (b"data:test\n\ndata: test\n\n", ["test", "test"]),
        ("data: 𝒳é👩‍👩‍👧\n\n".encode(), ["𝒳é👩‍👩‍👧"]),
        (b"data: not ended\n", []),
    ],
)
async def test_the_parser_reads_what_the_specification_shows(page: Page, stream: bytes, data: list[str] | None) -> None:
    wanted = ["first event", "second event", " third event"] if data is None else data
    every_cut: list[list[int]] = [[], *[[n] for n in range(len(stream))], list(range(1, len(stream)))]
    for events, _, _ in await parse(page, [(stream, cuts) for cuts in every_cut]):
        assert [event["data"] for event in events] == wanted


async def test_the_parser_takes_linear_time_for_a_huge_event_in_small_pieces(page: Page) -> None:
    """Sixteen times the bytes may take far longer than sixteen times the time only if the parser looks back."""
    small, large = await run(
        page,
        """
        const time = (size) => {
          const bytes = new TextEncoder().encode("data: " + "x".repeat(size) + "\\n\\n");
          const parser = new client.SseParser(), start = performance.now();
          let events = 0;
          for (let from = 0; from < bytes.length; from += 256) {
            events += parser.push(bytes.subarray(from, from + 256)).length;
          }
          if (events !== 1) throw new Error("lost the event");
          return performance.now() - start;
        };
        time(1 << 20);
        return [Math.min(time(1 << 20), time(1 << 20), time(1 << 20)), time(16 << 20)];
        """,
    )
    assert large < 80 * max(small, 2)


async def test_the_parser_takes_linear_time_for_many_lines_in_one_chunk(page: Page) -> None:
    small, large = await run(
        page,
        """
        const time = (lines) => {
          const bytes = new TextEncoder().encode("data: x\\n\\n".repeat(lines));
          const start = performance.now();
          if (new client.SseParser().push(bytes).length !== lines) throw new Error("lost an event");
          return performance.now() - start;
        };
        time(20000);
        return [Math.min(time(20000), time(20000), time(20000)), time(320000)];
        """,
    )
    assert large < 80 * max(small, 2)


# --- the stream ------------------------------------------------------------------------------------------------------


async def test_a_prompt_is_posted_once_with_the_key_and_comes_back_as_events(page: Page, site: Site) -> None:
    site.script = says(
        {"thinking": "Hm"},
        {"text": "Hé"},
        {"tool_use": {"index": 1, "id": "toolu_1", "name": "get"}},
        {"tool_use": {"index": 1, "partial_json": '{"a":'}},
        {"tool_use": {"index": 1, "partial_json": "1}"}},
        {"text": "llo", "unknown": 1},
        {"unknown": 2},
        DONE,
    )
    got = await run(
        page,
        """
        const handle = stream("hi", { key: "k1" }), events = [];
        for await (const event of handle) events.push(event);
        return { events, result: await handle.done, id: handle.id, last: handle.lastEventId, state: handle.state };
        """,
    )
    assert site.bodies == [{"prompt": "hi"}]
    assert site.headers[0]["Authorization"] == "Bearer k1"
    kinds = [event["type"] for event in got["events"]]
    assert kinds == ["thinking", "text", "tool", "tool", "tool", "text", "done"]
    assert got["events"][1] == {"type": "text", "id": "2", "text": "Hé"}
    assert got["events"][2] == {
        "type": "tool", "id": "3", "index": 1, "toolId": "toolu_1", "name": "get", "partialJson": "",
    }  # fmt: skip
    assert got["result"] == {
        "text": "Héllo",
        "thinking": "Hm",
        "tools": [{"index": 1, "toolId": "toolu_1", "name": "get", "json": '{"a":1}'}],
        "stopReason": "end_turn",
        "usage": {"output_tokens": 3},
    }
    assert (got["id"], got["last"], got["state"]) == ("s-1", "7", "done")


async def test_a_request_object_is_the_body_as_it_is(page: Page, site: Site) -> None:
    site.script = says(DONE)
    body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5, "later": {"field": None}}
    await run(page, "await stream(arg).done", body)
    assert site.bodies == [body]


async def test_callbacks_get_the_same_and_done_comes_last(page: Page, site: Site) -> None:
    site.script = says(
        {"thinking": "Hm"}, {"text": "a"}, {"tool_use": {"index": 1, "id": "t", "name": "n"}}, {"text": "b"}, DONE
    )
    calls = await run(
        page,
        """
        const calls = [];
        await new Promise((resolve) => stream("hi", {
          onThinking: (text) => calls.push(["thinking", text]),
          onText: (text) => calls.push(["text", text]),
          onTool: (event) => calls.push(["tool", event.name]),
          onDone: (result) => { calls.push(["done", result.text]); resolve(); },
          onError: () => calls.push(["error"]),
        }));
        return calls;
        """,
    )
    assert calls == [["thinking", "Hm"], ["text", "a"], ["tool", "n"], ["text", "b"], ["done", "ab"]]


async def test_the_handle_is_there_at_once_and_aborting_before_the_headers_ends_the_request(
    page: Page, site: Site
) -> None:
    asked = asyncio.Event()

    async def script(request: web.Request) -> web.StreamResponse:
        asked.set()
        await forever()
        raise AssertionError("never answered")

    site.script = script
    at_once = await run(
        page,
        """
        window.handle = stream("hi", { onError: () => { window.wrong = true; }, onText: () => { window.wrong = true; } });
        return [handle.state, handle.id, typeof handle.abort];
        """,
    )
    assert at_once == ["connecting", None, "function"]
    await asyncio.wait_for(asked.wait(), 10)
    state = await run(page, "handle.abort(); handle.abort(); return handle.state")
    assert state == "aborted"
    await asyncio.wait_for(site.left.wait(), 5)
    outcome = await run(
        page, "return handle.done.catch((e) => [e.name, e.type, e instanceof client.AbortedError, !window.wrong])"
    )
    assert outcome == ["AbortError", "aborted", True, True]


async def test_a_handle_dropped_in_the_breath_it_was_made_in_is_silent(page: Page, site: Site) -> None:
    """React's StrictMode mounts, cleans up and mounts again; an aborted signal may be there from the start."""
    site.script = says({"text": "a"}, DONE)
    texts = await run(
        page,
        """
        const texts = [];
        const mount = (signal) => stream("hi", { signal, onText: (text) => texts.push(text), onError: () => texts.push("error") });
        mount().abort();
        mount(AbortSignal.abort());
        const second = mount();
        const controller = new AbortController();
        mount(controller.signal);
        controller.abort();
        await second.done;
        await new Promise(requestAnimationFrame);
        await new Promise(requestAnimationFrame);
        return texts;
        """,
    )
    assert texts == ["a"]


async def test_nothing_is_called_after_an_abort_and_the_loop_ends_quietly(page: Page, site: Site) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        response = await opened(request)
        await response.write(frame({"text": "a"}) + frame({"text": "b"}, 2))
        await forever()
        return response

    site.script = script
    texts, name = await run(
        page,
        """
        const texts = [], handle = stream("hi");
        for await (const event of handle) { texts.push(event.text); handle.abort(); }
        return [texts, await handle.done.catch((error) => error.name)];
        """,
    )
    assert (texts, name) == (["a"], "AbortError")
    await asyncio.wait_for(site.left.wait(), 5)


async def test_leaving_the_loop_ends_the_request(page: Page, site: Site) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        response = await opened(request)
        await response.write(frame({"text": "a"}))
        await forever()
        return response

    site.script = script
    assert await run(page, "const h = stream('hi'); for await (const e of h) break; return h.state") == "aborted"
    await asyncio.wait_for(site.left.wait(), 5)


async def test_a_stream_has_one_reader(page: Page, site: Site) -> None:
    site.script = says({"text": "a"}, DONE)
    names = await run(
        page,
        """
        const again = (handle) => { try { handle[Symbol.asyncIterator](); return "taken"; } catch (e) { return e.name; } };
        const looped = stream("1");
        looped[Symbol.asyncIterator]();
        const asked = stream("2");
        await asked.done;
        const handles = [looped, asked, stream("3", { onText() {} })];
        const names = handles.map(again);
        for (const handle of handles) handle.abort();
        return names;
        """,
    )
    assert names == ["TypeError"] * 3


async def test_done_may_be_taken_in_the_breath_before_the_loop(page: Page, site: Site) -> None:
    site.script = says({"text": "a"}, DONE)
    got = await run(
        page,
        """
        const handle = stream("hi"), done = handle.done, types = [];
        for await (const event of handle) types.push(event.type);
        return [types, (await done).text];
        """,
    )
    assert got == [["text", "done"], "a"]


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
    assert len(frames) < len(words) / 4


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
        await asyncio.wait_for(seen.wait(), 10)
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


async def test_a_callback_that_throws_ends_the_stream_and_is_reported(browser: Browser, site: Site) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        response = await opened(request)
        await response.write(frame({"text": "a"}))
        await forever()
        return response

    site.script = script
    page = await browser.new_page()
    async with blameless(page) as met:
        await page.goto(site.url)
        message = await run(
            page, "return stream('hi', { onText() { throw new Error('mine'); } }).done.catch((e) => e.message)"
        )
        assert message == "mine"
        await asyncio.wait_for(site.left.wait(), 5)
        await page.close()
        assert met == ["mine"]
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
    await asyncio.wait_for(site.left.wait(), 5)


# --- errors ----------------------------------------------------------------------------------------------------------


def refuses(status: int, body: str, headers: dict[str, str] | None = None) -> Script:
    async def script(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=body, headers=headers, content_type="application/json")

    return script


async def cut(request: web.Request) -> web.StreamResponse:
    """The connection is reset after the headers, without the end of the chunked body."""
    response = await opened(request)
    await response.write(b": keep-alive\n\n")
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


OVERLOADED = {"error": "Overloaded", "type": "overloaded_error", "retryable": True}
INVALID = {"error": "max_tokens: too large", "type": "invalid_request_error", "retryable": False, "field": "max_tokens"}
LIMITED = {"error": "Too many streams", "type": "rate_limit_error", "retryable": True}


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        pytest.param(says({"text": "a"}, OVERLOADED), ["StreamError", "overloaded_error", None, True, None, None, "a"], id="stream"),
        pytest.param(refuses(400, json.dumps(INVALID)), ["HttpError", "invalid_request_error", 400, False, "max_tokens", None, ""], id="400"),
        pytest.param(refuses(429, json.dumps(LIMITED), {"Retry-After": "12"}), ["HttpError", "rate_limit_error", 429, True, None, 12, ""], id="429"),
        pytest.param(
            refuses(503, json.dumps(LIMITED), {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}),
            ["HttpError", "rate_limit_error", 503, True, None, 0, ""],
            id="a date gone by",
        ),
        pytest.param(refuses(502, "<html>nginx"), ["HttpError", "http_error", 502, True, None, None, ""], id="a proxy's page"),
        pytest.param(refuses(404, ""), ["HttpError", "http_error", 404, False, None, None, ""], id="404 without a body"),
        pytest.param(refuses(401, "null"), ["HttpError", "http_error", 401, False, None, None, ""], id="401 null"),
        pytest.param(says({"text": "a"}), ["InterruptedError", "interrupted", None, True, None, None, "a"], id="end without done"),
        pytest.param(cut, ["InterruptedError", "interrupted", None, True, None, None, ""], id="cut"),
        pytest.param(hung_up, ["ConnectError", "connect_error", None, True, None, None, ""], id="hung up"),
        pytest.param(garbled, ["ProtocolError", "protocol_error", None, False, None, None, ""], id="not JSON"),
        pytest.param(page_instead, ["ProtocolError", "protocol_error", 200, False, None, None, ""], id="not a stream"),
    ],
)  # fmt: skip
async def test_each_failure_has_its_class_and_its_words(
    page: Page, site: Site, script: Script, wanted: list[Any]
) -> None:
    site.script = script
    by_loop, by_callback, fetches = await run(
        page,
        """
        const tell = (e, handle) => [e.name, e.type, e.status, e.retryable, e.field, e.retryAfterS, handle.result.text,
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
        await asyncio.wait_for(site.left.wait(), 5)


# --- the files -------------------------------------------------------------------------------------------------------


async def test_the_types_name_what_the_module_exports(page: Page) -> None:
    exported = await run(page, "return Object.keys(client)")
    declared = re.findall(r"^export (?:class|function) (\w+)", (STATIC / "client.d.ts").read_text(), re.MULTILINE)
    assert sorted(exported) == sorted(declared)


async def test_the_client_is_small_and_stands_alone() -> None:
    source = (STATIC / "client.js").read_bytes()
    assert len(gzip.compress(source, 9)) <= 5 * 1024
    assert not re.search(rb"^\s*import\b|\bimport\(", source, re.MULTILINE)
