"""`POST /api/stream` as its readers see it: the plain protocol, and real recorded answers that come out unchanged."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import Any

import aiohttp
import pytest

from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.answers import NAMES, events_in
from tests.support.readers import BrowserReader, Reader, Told, events_of

ADAPTIVE = {"type": "adaptive"}


def recorded(name: str) -> Told:
    """What a recording holds for a reader of the plain protocol, from its lines alone."""
    told = Told()
    usage: dict[str, Any] = {}
    stop: dict[str, Any] = {}
    for event in events_in(name):
        match event:
            case {"type": "message_start", "message": message}:
                usage = message["usage"]
            case {"type": "content_block_start", "index": int(at), "content_block": {"type": "tool_use"} as block}:
                told.tools[at] = (block["id"], block["name"], "")
            case {"delta": {"type": "text_delta", "text": text}}:
                told.text += text
            case {"delta": {"type": "thinking_delta", "thinking": thinking}}:
                told.thinking += thinking
            case {"index": int(at), "delta": {"type": "input_json_delta", "partial_json": piece}} if at in told.tools:
                tool = told.tools[at]
                told.tools[at] = (tool[0], tool[1], tool[2] + piece)
            case {"type": "message_delta"}:
                usage = usage | event["usage"]
                stop = {key: value for key, value in event["delta"].items() if key.startswith("stop_") and value}
    told.last = {"done": True, "stop_reason": None} | stop | {"usage": usage}
    return told


async def told(url: str, directive: str, **body: Any) -> Told:
    """Asks and reads to the end, as fast as it comes."""
    reader = await Reader.connect(url)
    await reader.ask(directive, **body)
    assert await reader.head() == 200
    events = events_of(await reader.rest())
    assert reader.ended
    reader.leave()
    return Told.of(events)


# --- recorded answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunking", ["events", "random"])
async def test_every_recorded_answer_comes_out_as_it_was_recorded(chunking: str, service: Running) -> None:
    async def compared(name: str) -> None:
        directive = f"transcript={name} chunking={chunking} seed={random.Random(name).randrange(1000)}"
        assert await told(service.url, directive, thinking=ADAPTIVE) == recorded(name), name

    await asyncio.gather(*map(compared, NAMES))  # at once, since each rests between its reads


@pytest.mark.parametrize("share", [7, pytest.param(1, marks=pytest.mark.soak)])
async def test_every_recorded_answer_survives_one_byte_at_a_time(serve: Serve, share: int) -> None:
    """Without rests between reads: for packets of one byte the kernel opens a window of some 20 bytes, 10 a second."""
    service = await serve(window_s=0)
    for name in NAMES[::share]:
        assert await told(service.url, f"transcript={name} chunking=bytes", thinking=ADAPTIVE) == recorded(name), name


@pytest.mark.parametrize("newline", ["lf", "crlf", "cr"])
async def test_every_line_ending_and_comment_of_the_event_stream_is_understood(newline: str, service: Running) -> None:
    directive = f"tokens=50 text=numbered thinking=10 newline={newline} comment chunking=random seed=3"

    assert (await told(service.url, directive)).text == numbered_text(50)


async def test_emoji_and_chinese_cut_anywhere_arrive_whole(service: Running, simulator: Simulator) -> None:
    directive = "tokens=800 seed={seed} tokens_per_delta=1-9 chunking=random"
    for seed in range(3):
        knobs = directive.format(seed=seed)
        asked = {"model": "m", "max_tokens": 9999, "messages": [{"role": "user", "content": f"{{{{{knobs}}}}}"}]}
        async with (
            aiohttp.ClientSession(headers={"x-api-key": "k"}) as direct,
            direct.post(f"{simulator.url}/v1/messages", json=asked) as response,
        ):
            whole = (await response.json())["content"][0]["text"]
        assert not whole.isascii()

        assert (await told(service.url, knobs)).text == whole


# --- the plain protocol --------------------------------------------------------------------------------------------


async def test_the_headers_are_those_of_an_unbuffered_event_stream(service: Running) -> None:
    reader = await Reader.connect(service.url)
    await reader.ask("tokens=3")
    assert await reader.head() == 200
    await reader.rest()
    reader.leave()

    assert reader.headers["content-type"] == "text/event-stream"
    assert reader.headers["cache-control"] == "no-cache"
    assert reader.headers["connection"] == "keep-alive"
    assert reader.headers["x-accel-buffering"] == "no"
    assert len(reader.headers["x-stream-id"]) > 20


async def test_thinking_is_sent_only_to_who_asked_for_it(service: Running) -> None:
    asked, unasked, off = [
        await told(service.url, "tokens=5 thinking=5 text=numbered", **body)
        for body in ({"thinking": ADAPTIVE}, {}, {"thinking": {"type": "disabled"}})
    ]

    assert asked.thinking == " thinking0001 thinking0002 thinking0003 thinking0004 thinking0005"
    assert asked.text == unasked.text == off.text == numbered_text(5)
    assert unasked.thinking == off.thinking == ""


async def test_a_tool_call_is_told_with_its_name_and_its_json(service: Running) -> None:
    tools = [{"name": "look_up", "input_schema": {"type": "object"}}]
    answer = await told(service.url, "tokens=2 tool=20", tools=tools)

    ((call_id, name, partial_json),) = answer.tools.values()
    assert call_id.startswith("toolu_")
    assert name == "look_up"
    assert set(json.loads(partial_json)) == {"query"}
    assert answer.last["stop_reason"] == "tool_use"


async def test_a_refusal_is_a_whole_answer_that_says_so(service: Running) -> None:
    answer = await told(service.url, "tokens=50 fault=refuse after=10")

    assert answer.last["stop_reason"] == "refusal"
    assert answer.last["stop_details"]["type"] == "refusal"


async def test_the_simplest_browser_code_reads_a_stream_unchanged(serve: Serve) -> None:
    """A POST without a content type from our own page, read at odd chunk sizes, with a keep-alive in it."""
    service = await serve(commit_s=0.2)
    reader, browser = await Reader.connect(service.url, rcvbuf_bytes=4096), BrowserReader()
    body = json.dumps({"prompt": "{{tokens=2000 text=numbered first_event_s=1 chunking=random}}"}).encode()
    page = {"Content-Type": "text/plain;charset=UTF-8", "Sec-Fetch-Site": "same-origin", "Accept": "*/*"}
    await reader.send(reader.request(body, headers=page))
    assert await reader.head() == 200
    sizes = random.Random(7)
    body = b""
    while await reader.some(sizes.randint(1, 300)):
        browser.push(reader.body)
        body, reader.body = body + reader.body, b""
    reader.leave()

    assert "".join(browser.tokens) == numbered_text(2000)
    assert browser.error is None
    assert body.startswith(b": keep-alive\n")


async def test_the_simplest_browser_code_is_told_of_a_failure(service: Running) -> None:
    reader, browser = await Reader.connect(service.url), BrowserReader()
    await reader.ask("tokens=9 text=numbered fault=overloaded after=4")
    await reader.head()
    browser.push(await reader.rest())
    reader.leave()

    assert "".join(browser.tokens) == numbered_text(4)
    assert browser.error == "Overloaded"


async def test_an_http_1_0_reader_sees_the_end_by_the_connection_closing(service: Running) -> None:
    reader = await Reader.connect(service.url)
    await reader.ask("tokens=30 text=numbered", version="1.0")
    assert await reader.head() == 200
    body = await reader.rest()
    reader.leave()

    assert "transfer-encoding" not in reader.headers
    assert Told.of(events_of(body)).text == numbered_text(30)
    assert reader.ended


async def test_one_connection_serves_one_stream_after_the_other(service: Running) -> None:
    reader = await Reader.connect(service.url)
    for tokens in (3, 40, 1):
        again = Reader(reader._sock, "localhost")
        await again.ask(f"tokens={tokens} text=numbered")
        assert await again.head() == 200
        assert Told.of(events_of(await again.rest())).text == numbered_text(tokens)
    reader.leave()


async def test_many_streams_at_once_do_not_mix(service: Running) -> None:
    counts = range(1, 60, 3)
    async with asyncio.TaskGroup() as tasks:
        asked = [
            tasks.create_task(told(service.url, f"tokens={n} text=numbered rate=200 tokens_per_delta=1-4 seed={n}"))
            for n in counts
        ]

    assert [task.result().text for task in asked] == [numbered_text(n) for n in counts]


# --- time ----------------------------------------------------------------------------------------------------------


async def test_the_first_token_is_not_held_back(serve: Serve) -> None:
    """With a window of five seconds and a token in three, the first one comes alone."""
    service = await serve(window_s=5.0)
    reader = await Reader.connect(service.url)
    await reader.ask("tokens=10 rate=0.33 text=numbered")
    await reader.head()
    first = await reader.until(b"\n\n")
    reader.leave()

    assert b'{"text":" token0001"}' in first


async def test_a_batch_goes_out_a_window_not_a_frame_a_token(service: Running) -> None:
    """50 tokens of 10 characters a second and the default window of 100 ms: 22 bytes a token on the wire, at most."""
    reader = await Reader.connect(service.url)
    await reader.ask("tokens=100 rate=50 text=numbered")
    await reader.head()
    head_bytes = reader.wire_bytes - reader.body_bytes
    events = events_of(await reader.rest())
    reader.leave()

    assert Told.of(events).text == numbered_text(100)
    last_bytes = len(json.dumps(events[-1]))
    assert (reader.wire_bytes - head_bytes - last_bytes) / 100 <= 22
    assert 7 <= len(events) <= 30  # 21, on a machine that has time: the window grows while the loop is late


async def test_paced_reading_does_not_cap_a_fast_model(serve: Serve) -> None:
    """One read a window would carry some 200 tokens: 50 seconds for these answers, which take a few."""
    service = await serve(window_s=1.0)
    began = time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(told(service.url, "tokens=10000 text=numbered")) for _ in range(4)]
    elapsed_s = time.monotonic() - began

    assert all(task.result().text == numbered_text(10_000) for task in asked)
    print(f"40,000 tokens in {elapsed_s:.1f} s")
    assert elapsed_s < 30


async def test_silence_is_broken_by_keep_alives_also_before_the_first_token(serve: Serve) -> None:
    service = await serve(commit_s=0.2, heartbeat_s=0.2)
    reader = await Reader.connect(service.url)
    await reader.ask("tokens=4 text=numbered ttft_s=2")
    assert await reader.head() == 200
    assert await reader.until(b"\n") == b": keep-alive\n"
    rest = await reader.rest()
    reader.leave()

    assert 2 <= rest.count(b": keep-alive\n") <= 14  # nine, on a machine that has time
    assert Told.of(events_of(rest)).text == numbered_text(4)


async def test_a_pause_in_mid_stream_is_filled_with_keep_alives(serve: Serve) -> None:
    service = await serve(heartbeat_s=0.2)
    reader = await Reader.connect(service.url)
    await reader.ask("tokens=2 rate=0.5 text=numbered")
    await reader.head()
    body = await reader.rest()
    reader.leave()

    first, last = body.index(b"token0001"), body.index(b"token0002")
    assert 3 <= body[first:last].count(b": keep-alive\n") <= 15  # ten, on a machine that has time


async def test_nothing_is_committed_before_the_first_event_or_commit_s(serve: Serve) -> None:
    service = await serve(commit_s=0.4)
    reader = await Reader.connect(service.url)
    began = time.monotonic()
    await reader.ask("tokens=1 first_event_s=60")
    await reader.head()
    committed_s = time.monotonic() - began
    assert await reader.until(b"\n") == b": keep-alive\n"
    reader.leave()

    assert committed_s >= 0.4
