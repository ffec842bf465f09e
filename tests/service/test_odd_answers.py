"""Answers that are odd in one way each, through the real service on all three protocols: nothing of them is lost.

Where the folder of shared cases lies beside the repository, its answers are played too.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.answer.surrogates import mended
from app.web.runner import Running
from tests.support.answers import ROOT
from tests.support.raw_upstream import END, HELLO, MESSAGE, START, behind, delta, event, raw_upstream, stream
from tests.support.ways import WAYS, Said, asked

SHARED = ROOT.parent / "shared" / "cases"
STREAMED = [way for way in WAYS if way != "whole"]


def begin(**message: Any) -> bytes:
    return event({"type": "message_start", "message": MESSAGE | message})


def block(index: int, kind: str, *parts: bytes, **more: Any) -> bytes:
    start = {"type": "content_block_start", "index": index, "content_block": {"type": kind} | more}
    return event(start) + b"".join(parts) + event({"type": "content_block_stop", "index": index})


def piece(index: int, type: str, field: str, text: str, **more: Any) -> bytes:
    return event({"type": "content_block_delta", "index": index, "delta": {"type": type, field: text} | more})


def end(reason: Any = "end_turn", **usage: Any) -> bytes:
    told = {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 20} | usage}
    return event(told) + event({"type": "message_stop"})


DONE: dict[str, Any] = {"text": "Hello world", "end": "done"}
ROLL: dict[str, Any] = {"id": "toolu_1", "name": "roll", "input": {"player": ["é", 1.5, None, {"😀": True}]}}
CALLED: dict[str, Any] = {"text": "", "tools": [ROLL], "end": "done"}
HELLO_LINES = HELLO.split(b"\n")

OURS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "fields at every level": (
        HELLO.replace(b'"type": "text_delta"', b'"new": [1], "type": "text_delta"').replace(
            b'"index": 0', b'"index": 0, "later": {"a": null}'
        ),
        DONE,
    ),
    "no event lines": (b"\n".join(line for line in HELLO_LINES if not line.startswith(b"event")), DONE),
    "wrong event lines": (HELLO.replace(b"event: content_block", b"event: brand_new"), DONE),
    "every event called ping": (
        b"\n".join(b"event: ping" if line.startswith(b"event") else line for line in HELLO_LINES),
        DONE,
    ),
    "no types in the data": (
        b"\n".join(
            line.replace(b'"type": "' + name, b'"kind": "' + name)
            for line in HELLO_LINES
            for name in [json.loads(line[6:])["type"].encode() if line.startswith(b"data") else b"none"]
        ),
        DONE,
    ),
    "text on the start alone": (begin() + block(0, "text", text="Hello world") + end(), DONE),
    "thinking on the start": (
        begin() + block(0, "thinking", piece(0, "thinking_delta", "thinking", " so", n=1), thinking="hm") + end(),
        {"text": "", "thinking": "hm so", "end": "done"},
    ),
    "input on the start": (begin() + block(0, "tool_use", **ROLL) + end("tool_use"), CALLED),
    "input on the start of a block that does not end": (
        begin() + block(0, "tool_use", **ROLL).split(b"\n\n")[0] + b"\n\n" + end("tool_use"),
        CALLED,
    ),
    "input on the start and in pieces": (
        begin()
        + block(
            0, "tool_use", piece(0, "input_json_delta", "partial_json", json.dumps(ROLL["input"])), **ROLL | {"input": {"no": 1}}
        )
        + end("tool_use"),
        CALLED,
    ),
    "input of a tool on Claude's side": (
        begin() + block(0, "server_tool_use", **ROLL) + block(1, "text", text="Hello world") + end(),
        DONE,
    ),
    "blocks on the message's start": (
        begin(content=[{"type": "text", "text": "Hello"}, {"type": "tool_use"} | ROLL])
        + block(2, "text", piece(2, "text_delta", "text", " world"), text="")
        + end("tool_use"),
        DONE | {"tools": [ROLL]},
    ),
    "a pair of halves over the start": (
        begin() + block(0, "text", delta("\ude00!"), text="hi \ud83d") + end(),
        {"text": "hi 😀!", "end": "done"},
    ),
    "a pair of halves around another block": (
        START
        + delta("hi \ud83d")
        + block(1, "thinking", piece(1, "thinking_delta", "thinking", "\ud83d"), thinking="")
        + delta("\ude00")
        + END,
        {"text": "hi 😀", "thinking": "\ufffd", "end": "done"},
    ),
    "halves with new fields": (
        START + piece(0, "text_delta", "text", "\ud83d", n=1) + piece(0, "text_delta", "text", "\ude00", n=2) + END,
        {"text": "😀", "end": "done"},
    ),
    "numbers that JSON does not have": (
        HELLO.replace(b'"output_tokens": 2', b'"output_tokens": 20, "a": NaN, "b": [-Infinity]'),
        DONE | {"output_tokens": 20},
    ),
    "keys given twice": (HELLO.replace(b'"text": " world"', b'"text": "no", "text": " world"'), DONE),
    "unknown events and blocks": (
        begin()
        + event({"type": "brand_new", "text": "no", "index": 0})
        + block(0, "brand_new_block", piece(0, "brand_new_delta", "text", "no"), text="no")
        + block(1, "text", delta("Hello", 1), event({"type": "ping", "text": "no"}), delta(" world", 1), text="")
        + b'data: {"cost": 1}\n\n'
        + end(),
        DONE,
    ),
    "a stop reason that is a number": (START + delta("Hello world") + end(7), DONE),
    "a stop sequence that is a list": (
        START + delta("Hello world") + END.replace(b'"stop_reason": "end_turn"', b'"stop_reason": null, "stop_sequence": [1]'),
        DONE,
    ),
    "nulls": (
        event({"type": "message_start", "message": MESSAGE | {"usage": None, "content": None, "model": None}})
        + event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "", "citations": None}})
        + delta("Hello world")
        + event({"type": "content_block_stop", "index": 0, "content_block": None})
        + event({"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": None}})
        + event({"type": "message_stop", "message": None}),
        DONE,
    ),
    **{
        f"an error as {data.decode()}": (
            START + delta("Hello world") + (b"" if name is None else b"event: " + name + b"\n") + b"data: " + data + b"\n\n",
            {"text": "Hello world", "end": "error", "message_has": "context overflow"},
        )
        for name, data in [
            (b"error", b'{"type":"error","error":{"type":"brand_new_error","message":"context overflow","details":null}}'),
            (None, b'{"type":"error","error":{"type":null,"message":"context overflow"}}'),
            (b"content_block_delta", b'{"type":"error","error":{"message":"context overflow"}}'),
            (None, b'{"error":{"message":"context overflow","code":400}}'),
            (b"message", b'{"error":"context overflow"}'),
            (b"error", b'{"message":"context overflow"}'),
            (b"error", b'{"type":"invalid_request_error","message":"context overflow"}'),
            (b"error", b'{"detail":"context overflow"}'),
            (b"error", b"context overflow"),
        ]
    },
}  # fmt: skip


def shared() -> dict[str, tuple[bytes, dict[str, Any]]]:
    path = SHARED / "expected.json"
    if not path.exists():
        if os.environ.get("CI") == "true":
            raise FileNotFoundError(f"the shared cases are missing: {path}")
        return {}
    expected = json.loads(path.read_text("utf-8"))
    return {name: ((SHARED / f"{name}.sse").read_bytes(), told) for name, told in expected.items()}


CASES = OURS | shared()


def frames(said: Said) -> list[dict[str, Any]]:
    lines = [line[6:] for line in said.body.split(b"\n") if line.startswith(b"data: {")]
    return [json.loads(line) for line in lines]


def of_plain(said: Said) -> dict[str, Any]:
    told = frames(said)
    tools = {f["tool_use"]["index"]: f["tool_use"] | {"input": ""} for f in told if "id" in f.get("tool_use", {})}
    for frame in told:
        if "partial_json" in frame.get("tool_use", {}):
            tools[frame["tool_use"]["index"]]["input"] += frame["tool_use"]["partial_json"]
    usage = told[-1].get("usage", {})
    return {
        "text": "".join(frame.get("text", "") for frame in told),
        "thinking": "".join(frame.get("thinking", "") for frame in told),
        "tools": [{"id": t["id"], "name": t["name"], "input": json.loads(t["input"] or "{}")} for t in tools.values()],
        "end": "done" if told[-1].get("done") else "error",
        "message": str(told[-1].get("error")),
        "output_tokens": usage.get("output_tokens"),
        "input_tokens": usage.get("input_tokens"),
        "cache_read": usage.get("cache_read_input_tokens"),
        "web_searches": (usage.get("server_tool_use") or {}).get("web_search_requests"),
    }


def of_chat(said: Said) -> dict[str, Any]:
    told = frames(said)
    inputs = [chunk for chunk in told if chunk["type"] == "tool-input-available" and not chunk.get("providerExecuted")]
    return {
        "text": "".join(chunk["delta"] for chunk in told if chunk["type"] == "text-delta"),
        "thinking": "".join(chunk["delta"] for chunk in told if chunk["type"] == "reasoning-delta"),
        "tools": [{"id": c["toolCallId"], "name": c["toolName"], "input": c["input"]} for c in inputs],
        "end": "done" if told[-1]["type"] == "finish" else "error",
        "message": str(told[-1].get("errorText")),
    }


def of_messages(said: Said) -> dict[str, Any]:
    """As a client reads it that looks at what it knows; what the SDK makes of it, the tests of the formats say."""
    texts = {"text": "", "thinking": ""}
    tools: dict[int, dict[str, Any]] = {}
    last = name = ""
    for line in said.body.decode().split("\n"):
        field, _, value = line.partition(": ")
        name = value if field == "event" else name
        if field != "data":
            continue
        last = value
        data = json.loads(value) if value.startswith("{") else {}
        inner = data.get("content_block") or data.get("delta") or {}
        standing = data["message"].get("content") or [] if name == "message_start" else []
        for at, block in [*enumerate(standing), (int(data.get("index") or 0), inner)]:
            for kind in texts:
                if block.get("type") in (kind, f"{kind}_delta"):
                    texts[kind] += block[kind]
            if block.get("type") == "tool_use":
                tools[at] = {key: block[key] for key in ("id", "name", "input")} | {"json": ""}
            elif block.get("type") == "input_json_delta" and at in tools:
                tools[at]["json"] += block["partial_json"]
    return {
        **{kind: mended(text) for kind, text in texts.items()},
        "tools": [
            {"id": t["id"], "name": t["name"], "input": json.loads(t["json"]) if t["json"] else t["input"]}
            for t in tools.values()
        ],
        "end": "done" if name == "message_stop" else "error" if name == "error" else name,
        "message": last,
    }


READ = {"plain": of_plain, "chat": of_chat, "messages": of_messages}


async def wasted(service: Running) -> float:
    async with aiohttp.ClientSession() as client, client.get(f"{service.admin_url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("sluiceway_wasted_tokens_total{"))


@pytest.mark.parametrize("way", STREAMED)
@pytest.mark.parametrize("name", CASES)
async def test_nothing_of_an_odd_answer_is_lost(name: str, way: str) -> None:
    body, expected = CASES[name]
    async with raw_upstream([stream(body)]) as upstream, behind(upstream) as service:
        said = await asked(service, way)
        lost = await wasted(service)

    assert (said.status, len(upstream.requests)) == (200, 1)
    told = READ[way](said)
    assert expected["end"].startswith("done or") or told["end"] == expected["end"]
    assert (told["text"], told["thinking"]) == (expected["text"], expected.get("thinking", ""))
    assert told["tools"] == expected.get("tools", [])
    assert expected.get("message_has", "") in told["message"]
    if way == "plain":
        for figure in ("output_tokens", "input_tokens", "cache_read", "web_searches"):
            assert told[figure] == expected.get(figure, told[figure])
    if told["end"] == "done":
        assert lost == 0


def test_the_shared_cases_are_found_where_they_are_kept() -> None:
    assert not SHARED.exists() or set(shared()) == {Path(path).stem for path in SHARED.glob("*.sse")}
