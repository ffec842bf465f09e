"""`/api/chat` as the AI SDK's client sees it, unchanged: in Node, and as `useChat` in Chromium, from another site."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.async_api import Browser, FilePayload, Page, expect

from app.tools.simulator.answer import numbered_text
from app.tools.simulator.scenario import Scenario
from app.tools.simulator.server import Simulator
from app.web.runner import Running
from app.wire.ui_messages import to_claude
from tests.conftest import Serve
from tests.service.test_budgets import callers
from tests.support.answers import NAMES, events_in
from tests.support.browser import blameless
from tests.support.node import bundle, node
from tests.support.other_site import site
from tests.support.readers import eventually

# What the AI SDK's own provider for Claude calls the ends of an answer; "other" is what it does not know.
FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool-calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content-filter",
}
ENDED = {"isAbort": False, "isDisconnect": False, "isError": False}


RESUMABLE = {"resumable": True}


async def chats(service: Running, *cases: dict[str, Any], version: int = 7) -> list[Any]:
    results: list[Any] = await node("ai_sdk.mjs", {"base_url": service.url, "version": version, "cases": cases})
    return results


def text_of(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


def said(name: str) -> tuple[list[dict[str, Any]], str]:
    """The content blocks of a recorded answer, and its stop reason."""
    blocks: list[dict[str, Any]] = []
    reason = ""
    for event in events_in(name):
        match event:
            case {"type": "content_block_start", "content_block": block}:
                blocks.append(block)
            case {"index": index, "delta": {"type": "text_delta", "text": text}}:
                blocks[index]["text"] += text
            case {"index": index, "delta": {"type": "thinking_delta", "thinking": text}}:
                blocks[index]["thinking"] += text
            case {"index": index, "delta": {"type": "signature_delta", "signature": text}}:
                blocks[index]["signature"] = text
            case {"index": index, "delta": {"type": "citations_delta", "citation": citation}}:
                blocks[index]["citations"] = [*(blocks[index].get("citations") or []), citation]
            case {"index": index, "delta": {"type": "input_json_delta", "partial_json": text}}:
                blocks[index]["partial"] = blocks[index].get("partial", "") + text
            case {"index": index, "delta": {"type": _, **fields}} if blocks[index]["type"] != "text":
                blocks[index] |= fields  # what is not known replaces: `compaction_delta` does
            case {"type": "message_delta", "delta": {"stop_reason": str(stop)}}:
                reason = stop
    for block in blocks:
        if "partial" in block:
            block["input"] = json.loads(block.pop("partial") or "{}")
    return blocks, reason


def without_blank(blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [block for block in blocks if block["type"] != "text" or block["text"].strip()]


@pytest.mark.parametrize(("version", "share"), [(7, 1), (6, 4), pytest.param(6, 1, marks=pytest.mark.soak)])
async def test_every_recorded_answer_arrives_and_could_be_sent_back_as_it_was(
    service: Running, version: int, share: int
) -> None:
    names = NAMES[::share]
    cases = [{"way": "ask", "id": name, "say": f"{{{{transcript={name} chunking=random}}}}"} for name in names]

    for name, chat in zip(names, await chats(service, *cases, version=version), strict=True):
        blocks, reason = said(name)
        assert chat["errors"] == [], name
        assert chat["status"] == "ready", name
        assert chat["finishes"] == [ENDED | {"finishReason": FINISHES.get(reason, "other")}], name
        question, answer = chat["messages"]
        assert answer["metadata"]["stopReason"] == reason, name
        assert answer["metadata"]["usage"]["output_tokens"] == events_in(name)[-2]["usage"]["output_tokens"], name
        _, turns = to_claude([question, answer])
        content = without_blank(blocks)
        assert turns[1:2] == ([{"role": "assistant", "content": content}] if content else []), name
        assert all(part.get("state") != "streaming" for part in answer["parts"]), name


async def test_thinking_text_and_a_tool_call_arrive(service: Running) -> None:
    say = "{{thinking=20 tokens=30 tool=10 text=numbered tokens_per_delta=1-4 rate=200}}"
    (chat,) = await chats(service, {"way": "ask", "id": "1", "say": say})
    step, thinking, text, tool = chat["messages"][1]["parts"]

    assert chat["errors"] == []
    assert step == {"type": "step-start"}
    assert thinking["text"].endswith("thinking0020")
    assert text["text"] == numbered_text(30)
    assert tool["type"] == "tool-search"
    assert tool["state"] == "input-available"
    assert set(tool["input"]) == {"query"}
    metadata = chat["messages"][1]["metadata"]
    assert metadata["usage"]["output_tokens"] == 60
    assert metadata["costUsd"] > 60 * 25 / 1_000_000, "the output, and the question"


@pytest.mark.parametrize("version", [7, 6])
async def test_the_page_runs_its_tool_and_the_answer_goes_on(
    service: Running, simulator: Simulator, version: int
) -> None:
    tools = {"search": {"found": ["a", "b"]}}
    asked = {"way": "tools", "id": "1", "say": "{{tokens=3 tool=8}}", "tools": tools}
    (chat,) = await chats(service, asked, version=version)
    question, answer = chat["messages"]

    assert chat["errors"] == []
    assert [finish["finishReason"] for finish in chat["finishes"]] == ["tool-calls", "stop"]
    assert [part["type"] for part in answer["parts"]] == ["step-start", "text", "tool-search", "step-start", "text"]
    assert answer["parts"][2]["output"] == tools["search"]
    assert [book.finished for book in simulator.books] == [True, True]
    roles = [turn["role"] for turn in to_claude([question, answer])[1]]
    assert roles == ["user", "assistant", "user", "assistant"]


async def test_several_turns_with_a_picture_and_fields_of_the_messages_api(service: Running) -> None:
    picture = {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,QUJD"}
    body = {"model": "claude-haiku-5-5", "max_tokens": 20, "system": "Be kind."}
    asked = {"way": "ask", "id": "1", "say": "{{tokens=50 text=numbered}}", "file": picture, "body": body}
    (first,) = await chats(service, asked)
    (second,) = await chats(service, asked | {"messages": first["messages"], "say": "{{tokens=2 text=numbered}}"})

    assert second["errors"] == []
    assert first["finishes"] == [ENDED | {"finishReason": "length"}]
    assert [message["role"] for message in second["messages"]] == ["user", "assistant"] * 2
    assert text_of(second["messages"][1]) == numbered_text(20)
    assert text_of(second["messages"][3]) == numbered_text(2)
    assert second["messages"][3]["metadata"]["model"] == "claude-haiku-5-5"


@pytest.mark.parametrize("version", [7, 6])
async def test_a_budget_that_is_spent_ends_the_answer_with_what_came_and_refuses_the_next(
    serve: Serve, simulator: Simulator, tmp_path: Path, version: int
) -> None:
    service = await serve(**callers(tmp_path, "[callers.acme]\nbudget_usd_per_day = 0.02"))
    key = {"headers": {"Authorization": "Bearer acme-key"}, "body": {"model": "claude-fable-5", "max_tokens": 64_000}}
    asked = {"way": "ask", "id": "1", "say": "{{tokens=64000 rate=200 text=numbered}}", **key}
    (cut,) = await chats(service, asked, version=version)
    (refused,) = await chats(service, asked, version=version)

    assert cut["status"] == refused["status"] == "error"
    assert numbered_text(400).startswith(text_of(cut["messages"][1]))
    assert " token0020" in text_of(cut["messages"][1])
    assert "and the answer was cut" in cut["errors"][0]
    assert cut["finishes"][0]["isError"]
    assert "budget_exhausted" in refused["errors"][0]
    assert len(simulator.books) == 1, "the next was not asked of Claude"


async def hurry_once_another_reads(service: Running, simulator: Simulator) -> None:
    """Until the page has come back the answer takes its time, however long that is."""
    book = await simulator.book()
    (session,) = service.streams.live.values()
    await eventually(lambda: session.delivery.connection is not None)
    first = session.delivery.connection
    await eventually(lambda: session.delivery.connection not in (None, first))
    book.hurried = True


@pytest.mark.parametrize(("keeps_page", "version"), [(True, 7), (False, 7), (False, 6)])
async def test_a_page_that_comes_back_gets_the_whole_answer(
    keeps_page: bool, version: int, service: Running, simulator: Simulator
) -> None:
    say = "{{tokens=2000 rate=100 text=numbered}}"
    resumed = {"way": "resume", "id": "chat/1 ü", "say": say, "after": "token0020", "body": RESUMABLE}
    (chat,), _ = await asyncio.gather(
        chats(service, resumed | {"keeps_page": keeps_page}, version=version),
        hurry_once_another_reads(service, simulator),
    )

    assert chat["errors"] == []
    assert len(chat["partial"]) < len(numbered_text(2000))
    assert len(chat["messages"]) == 2
    assert text_of(chat["messages"][1]) == numbered_text(2000)
    assert len(simulator.books) == 1, "nothing was asked anew"


async def test_a_page_that_comes_back_in_the_second_step_gets_the_first_one_too(
    service: Running, simulator: Simulator
) -> None:
    messages = [
        {"id": "u1", "role": "user", "parts": [{"type": "text", "text": "go"}]},
        {
            "id": "a1",
            "role": "assistant",
            "metadata": {"seen": True},
            "parts": [
                {"type": "step-start"},
                {"type": "text", "text": "Let me look.", "state": "done"},
                {"type": "tool-look", "toolCallId": "t1", "state": "output-available", "input": {"a": 1}, "output": 2},
            ],
        },
    ]
    # A tool's result holds no directive, so the defaults say how the answer goes.
    simulator.defaults = Scenario(tokens=2000, rate=100, text="numbered")
    resumed = {"way": "resume_second_step", "id": "1", "messages": messages, "after": "token0020", "body": RESUMABLE}
    (chat,), _ = await asyncio.gather(chats(service, resumed), hurry_once_another_reads(service, simulator))
    question, answer = chat["messages"]

    assert chat["errors"] == []
    assert (question["id"], answer["id"]) == ("u1", "a1")
    assert answer["metadata"]["seen"] is True
    assert [part["type"] for part in answer["parts"]] == ["step-start", "text", "tool-look", "step-start", "text"]
    assert answer["parts"][2]["output"] == 2
    assert answer["parts"][4]["text"] == numbered_text(2000)
    assert len(simulator.books) == 1


async def test_where_nothing_runs_nothing_is_resumed(service: Running) -> None:
    messages = [{"id": "u", "role": "user", "parts": [{"type": "text", "text": "x"}]}]
    (chat,) = await chats(service, {"way": "only_resume", "id": "unknown", "messages": messages})

    assert (chat["status"], chat["errors"], chat["messages"]) == ("ready", [], messages)


@pytest.mark.parametrize("version", [7, 6])
@pytest.mark.parametrize("after", ["", "token0010"])
async def test_the_page_s_own_stop_stops_claude_and_the_chat_goes_on(
    after: str, version: int, service: Running, simulator: Simulator
) -> None:
    """Before the first word it leaves an answer without parts on the page, which is sent with every later question."""
    # Without a word of its own: a question that was not answered is one turn with the next one.
    simulator.defaults = Scenario(tokens=5000, rate=100, text="numbered", thinking=0 if after else 9000, hidden=True)
    asked = {"way": "stop", "id": "1", "say": "Go.", "after": after, "then": "{{tokens=3 thinking=0 rate=0}}"}
    (chat,) = await chats(service, asked, version=version)
    book = await simulator.book()
    await book.ended.wait()

    assert chat["errors"] == []
    assert [finish["isAbort"] for finish in chat["finishes"]] == [True, False]
    assert bool(text_of(chat["kept"][1])) is bool(after)
    assert text_of(chat["messages"][3]) == numbered_text(3)
    assert book.gone_at is not None
    assert book.tokens < 600
    assert [book.finished for book in simulator.books] == [False, True]


@pytest.mark.parametrize("version", [7, 6])
async def test_a_page_that_may_come_back_stops_claude_by_saying_so(
    version: int, service: Running, simulator: Simulator
) -> None:
    say = "{{tokens=5000 rate=100 text=numbered}}"
    stopped = {"way": "stop_resumable", "id": "chat/1 ü", "say": say, "after": "token0010"}
    (chat,) = await chats(service, stopped, version=version)
    book = await simulator.book()
    await book.ended.wait()

    assert chat["answer"] == {"stopped": True}
    assert (chat["status"], chat["errors"]) == ("ready", [])
    assert [finish["isAbort"] for finish in chat["finishes"]] == [True]
    assert book.gone_at is not None
    assert book.tokens < 600


async def test_an_answer_that_is_stopped_elsewhere_ends_on_the_page(service: Running, simulator: Simulator) -> None:
    say = "{{tokens=5000 rate=100 text=numbered}}"
    (chat,) = await chats(service, {"way": "stopped", "id": "1", "say": say, "after": "token0010"})
    book = await simulator.book()
    await book.ended.wait()

    assert chat["answer"] == {"stopped": True}
    assert chat["errors"] == []
    assert chat["finishes"] == [ENDED | {"finishReason": "interrupted"}]
    assert book.gone_at is not None
    assert book.tokens < 600


async def test_a_newer_question_in_a_chat_takes_the_older_ones_place(service: Running, simulator: Simulator) -> None:
    say = "{{tokens=5000 rate=100 text=numbered}}"
    (chat,) = await chats(
        service, {"way": "again", "id": "1", "say": say, "after": "token0010", "then": "{{tokens=3 text=numbered}}"}
    )

    assert chat["first"]["errors"] == chat["second"]["errors"] == []
    assert chat["first"]["finishes"] == [ENDED | {"finishReason": "interrupted"}]
    assert text_of(chat["second"]["messages"][1]) == numbered_text(3)
    assert [book.finished for book in simulator.books] == [False, True]


async def test_failures_are_told_before_and_within_the_stream(serve: Serve) -> None:
    service = await serve(retries=0)
    refused, broken, cut = await chats(
        service,
        {"way": "ask", "id": "1", "say": "{{fault=http_529}}"},
        {"way": "ask", "id": "2", "say": "{{tokens=30 rate=100 fault=overloaded after=10}}"},
        {"way": "ask", "id": "3", "say": "{{tokens=30 tool=20 rate=100 fault=cut after=40}}"},
    )

    assert [chat["status"] for chat in (refused, broken, cut)] == ["error"] * 3
    assert "was told to answer 529" in refused["errors"][0]
    assert broken["errors"] == ["Error: Overloaded"]
    assert text_of(broken["messages"][1])
    assert cut["errors"] == ["Error: Claude's answer was cut off"]


# --- in a browser --------------------------------------------------------------------------------------------------


async def ask(page: Page, say: str) -> None:
    await page.locator("#say").fill(say)
    await page.locator("#send").click()


@asynccontextmanager
async def opened(serve: Serve, chrome: Browser, query: dict[str, str]) -> AsyncIterator[tuple[Page, str]]:
    """A page with `useChat`, and its address."""
    async with site(await bundle("use_chat.mjs")) as origin:
        service = await serve(cors_origins=(origin,))
        page = await chrome.new_page()
        url = f"{origin}/?{urlencode({'api': f'{service.url}/api/chat'} | query)}"
        async with blameless(page):
            await page.goto(url)
            yield page, url
        await page.close()


async def status(page: Page, name: str) -> None:
    await expect(page.locator("#status")).to_have_text(name)
    await expect(page.locator("#error")).to_have_text("")


LAST = ".assistant:last-of-type .text"


@pytest.mark.browser
async def test_use_chat_stops_claude_by_stop_by_leaving_and_by_a_newer_question(
    serve: Serve, chrome: Browser, simulator: Simulator
) -> None:
    """As it comes, without an `id` and without a word about coming back."""
    async with opened(serve, chrome, {}) as (page, url):
        await ask(page, "{{tokens=30 thinking=10 tool=5 text=numbered rate=300}}")
        await expect(page.locator(LAST)).to_have_text(numbered_text(30))
        await expect(page.locator(".assistant .reasoning")).to_contain_text("thinking0010")
        await expect(page.locator(".assistant .part").last).to_have_text("tool-search")
        await status(page, "ready")

        await ask(page, "{{tokens=9000 text=numbered rate=100}}")
        await expect(page.locator(LAST)).to_contain_text("token0010")
        await page.locator("#stop").click()
        await status(page, "ready")
        await (await simulator.book(1)).ended.wait()

        simulator.defaults = Scenario(thinking=9000, hidden=True, rate=100)
        await ask(page, "Go.")
        await simulator.book(2)
        await expect(page.locator("#status")).to_have_text("streaming")
        await page.locator("#stop").click()  # before the first word
        await status(page, "ready")
        simulator.defaults = Scenario()

        await ask(page, "{{tokens=9000 text=numbered rate=100}}")
        await expect(page.locator(LAST)).to_contain_text("token0010")
        await ask(page, "{{tokens=9000 text=numbered rate=100}}")
        await (await simulator.book(3)).ended.wait()
        await simulator.book(4)
        await expect(page.locator(LAST)).to_contain_text("token0010")
        await page.goto(url)  # the page is loaded anew
        await (await simulator.book(4)).ended.wait()

    assert len(simulator.books) == 5
    assert [book.finished for book in simulator.books] == [True, False, False, False, False]
    assert all(book.tokens < 2000 for book in simulator.books)


@pytest.mark.browser
async def test_use_chat_resumes_after_a_reload_where_it_asked_to_and_stops_when_it_says_so(
    serve: Serve, chrome: Browser, simulator: Simulator
) -> None:
    async with opened(serve, chrome, {"id": "chat 1", "resumable": ""}) as (page, url):
        await ask(page, "{{tokens=2000 text=numbered rate=100}}")
        await expect(page.locator(LAST)).to_contain_text("token0020")
        await page.goto(url)
        await expect(page.locator(LAST)).to_contain_text("token0020")
        simulator.books[0].hurried = True
        await expect(page.locator(LAST)).to_have_text(numbered_text(2000))
        await status(page, "ready")

        await ask(page, "{{tokens=300 text=numbered rate=100 first_event_s=0.5}}")
        second = await simulator.book(1)
        await page.goto(url)  # before the first word
        await expect(page.locator(LAST)).to_contain_text("token0020")
        second.hurried = True
        await expect(page.locator(LAST)).to_have_text(numbered_text(300))

        await ask(page, "{{tokens=9000 text=numbered rate=100}}")
        await expect(page.locator(LAST)).to_contain_text("token0010")
        await page.locator("#stop").click()
        await status(page, "ready")
        await (await simulator.book(2)).ended.wait()

    assert [book.finished for book in simulator.books] == [True, True, False]


@pytest.mark.browser
async def test_files_go_up_as_a_browser_reads_them(serve: Serve, chrome: Browser, simulator: Simulator) -> None:
    """Their types are the browser's own guesses from the names."""
    files: list[FilePayload] = [
        {"name": "notes.md", "mimeType": "", "buffer": "# Größe".encode()},
        {"name": "data.json", "mimeType": "application/json", "buffer": b'{"a": 1}'},
        {"name": "main.ts", "mimeType": "video/mp2t", "buffer": b"let a = 1"},
        {"name": "empty.txt", "mimeType": "text/plain", "buffer": b""},
        {"name": "photo.png", "mimeType": "image/png", "buffer": b"\xff\xd8\xff\xe0 a JPEG"},
    ]
    async with opened(serve, chrome, {}) as (page, _):
        await page.locator("#files").set_input_files(files)
        async with page.expect_request("**/api/chat") as asked:
            await ask(page, "{{tokens=3 text=numbered}}")
        await expect(page.locator(LAST)).to_have_text(numbered_text(3))
        sent = json.loads((await asked.value).post_data or "")
    (turn,) = to_claude(sent["messages"])[1]
    told = [(block.get("title"), block.get("text") or block["source"]["data"]) for block in turn["content"][:4]]

    assert told == [
        ("notes.md", "# Größe"),
        ("data.json", '{"a": 1}'),
        ("main.ts", "let a = 1"),
        (None, "[empty.txt is empty]"),
    ]
    assert turn["content"][4]["source"]["media_type"] == "image/jpeg"


@pytest.mark.browser
async def test_a_file_that_claude_cannot_read_ends_its_question_and_not_the_chat(
    serve: Serve, chrome: Browser, simulator: Simulator
) -> None:
    zipped: FilePayload = {"name": "a.docx", "mimeType": "application/zip", "buffer": b"PK\x03\x04\x14\0"}
    async with opened(serve, chrome, {}) as (page, _):
        await page.locator("#files").set_input_files([zipped])
        await ask(page, "What is in it?")
        await expect(page.locator("#error")).to_contain_text("Claude reads images, PDF and text, not application/zip")
        await page.locator("#files").set_input_files([])
        await ask(page, "{{tokens=3 text=numbered}}")
        await expect(page.locator(LAST)).to_have_text(numbered_text(3))
        await status(page, "ready")
