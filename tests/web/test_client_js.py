"""The browser's half of the protocol, in a real browser, against a server that follows a script."""

from __future__ import annotations

import asyncio
import gzip
import re

import pytest
from aiohttp import web
from playwright.async_api import Page

from app.web.routes.pages import STATIC, trimmed
from tests.support.scripted import DONE, Site, forever, frame, opened, run, says

pytestmark = pytest.mark.browser


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
    await asyncio.wait_for(asked.wait(), 20)
    state = await run(page, "handle.abort(); handle.abort(); return handle.state")
    assert state == "aborted"
    await asyncio.wait_for(site.left.wait(), 20)
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
    await asyncio.wait_for(site.left.wait(), 20)


async def test_leaving_the_loop_ends_the_request(page: Page, site: Site) -> None:
    async def script(request: web.Request) -> web.StreamResponse:
        response = await opened(request)
        await response.write(frame({"text": "a"}))
        await forever()
        return response

    site.script = script
    assert await run(page, "const h = stream('hi'); for await (const e of h) break; return h.state") == "aborted"
    await asyncio.wait_for(site.left.wait(), 20)


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


# --- the files -------------------------------------------------------------------------------------------------------


async def test_the_types_name_what_the_module_exports(page: Page) -> None:
    exported = await run(page, "return Object.keys(client)")
    declared = re.findall(r"^export (?:class|function) (\w+)", (STATIC / "client.d.ts").read_text(), re.MULTILINE)
    assert sorted(exported) == sorted(declared)


async def test_the_client_is_small_and_stands_alone() -> None:
    served = trimmed((STATIC / "client.js").read_bytes())
    assert len(gzip.compress(served, 9)) <= 5 * 1024
    assert not re.search(rb"^\s*import\b|\bimport\(", served, re.MULTILINE)
