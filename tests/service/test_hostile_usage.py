"""Whatever Claude's side says of its usage: the answer comes through, and is settled, on every protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from app.web.runner import Running
from tests.support.raw_upstream import MESSAGE, behind, delta, event, raw_upstream, response, stream
from tests.support.scrape import Scrape, scrape

MODEL = "claude-opus-4-8"
ASKED: dict[str, Any] = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "Go."}]}
CHAT = {"id": "c", "messages": [{"id": "u", "role": "user", "parts": [{"type": "text", "text": "Go."}]}]}
# How each protocol asks: its path and its body. The last is a whole message.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("/api/stream", {"prompt": "Go.", "model": MODEL}),
    "chat": ("/api/chat", CHAT | {"model": MODEL}),
    "messages": ("/v1/messages", ASKED | {"stream": True}),
    "whole": ("/v1/messages", ASKED),
}


@dataclass(frozen=True)
class Said:
    """What Claude's side says of one answer, "Hello world": JSON, as it is written.

    Attributes:
        start: the usage at the start.
        end: the usage at the end.
        model: of the message.
        stop_reason: at the end.
        spent_usd: what that comes to; None where the output is an estimate.
        unreadable: how many values of it cannot be read.
    """

    start: str = '{"input_tokens": 1000, "output_tokens": 1}'
    end: str = '{"output_tokens": 20}'
    model: str = f'"{MODEL}"'
    stop_reason: str = '"end_turn"'
    spent_usd: float | None = (1000 * 5 + 20 * 25) / 1e6  # Opus 4.8: 5 dollars a million in, 25 out
    unreadable: int = 1

    def stream(self) -> bytes:
        start = event({"type": "message_start", "message": MESSAGE | {"model": "<model>", "usage": "<usage>"}})
        block = event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        end = event({"type": "message_delta", "delta": {"stop_reason": "<stop>"}, "usage": "<usage>"})
        said = self._filled(start, self.start) + block + delta("Hello") + delta(" world") + self._filled(end, self.end)
        return stream(said + event({"type": "message_stop"}))

    def whole(self) -> bytes:
        content = [{"type": "text", "text": "Hello world"}]
        told = MESSAGE | {"model": "<model>", "content": content, "stop_reason": "<stop>", "usage": "<usage>"}
        usage = self.start[:-1].replace(', "output_tokens": 1', "") + ", " + self.end[1:]
        return response(self._filled(json.dumps(told).encode(), usage), content_type="application/json")

    def _filled(self, said: bytes, usage: str) -> bytes:
        for name, value in (("model", self.model), ("stop", self.stop_reason), ("usage", usage)):
            said = said.replace(b'"<%b>"' % name.encode(), value.encode())
        return said


SEARCHES = '{"output_tokens": 20, "server_tool_use": {"web_search_requests": 5, "web_fetch_requests": 2}}'
COMPACTED = (
    '{"output_tokens": 20, "iterations": [null, {"type": "compaction", "input_tokens": 9000, "output_tokens": 300}]}'
)
SAID = {
    "as ever": Said(unreadable=0),
    "below nought": Said(end='{"output_tokens": -5}', spent_usd=None),
    "a numeral in quotes": Said(end='{"output_tokens": "20"}', spent_usd=None),
    "a list": Said(end='{"output_tokens": [20]}', spent_usd=None),
    "NaN": Said(end='{"output_tokens": NaN}', spent_usd=None),
    "infinity": Said(end='{"output_tokens": Infinity}', spent_usd=None),
    "a fraction": Said(end='{"output_tokens": 20.5}', spent_usd=None),
    "a whole float": Said(end='{"output_tokens": 20.0}', unreadable=0),
    "four hundred digits": Said(end='{"output_tokens": %s}' % ("9" * 400), spent_usd=None),
    "five thousand digits": Said(end='{"output_tokens": %s}' % ("9" * 5000), spent_usd=None),
    "input of five thousand digits": Said(start='{"input_tokens": 1000, "output_tokens": 1, "x": %s}' % ("9" * 5000)),
    "input of four hundred digits": Said(end='{"output_tokens": 20, "cache_read_input_tokens": %s}' % ("9" * 400)),
    "a word for input": Said(end='{"output_tokens": 20, "cache_read_input_tokens": "ten"}'),
    "cache_creation a number": Said(end='{"output_tokens": 20, "cache_creation": 7}'),
    "details a word": Said(end='{"output_tokens": 20, "output_tokens_details": "many"}'),
    "server_tool_use a list": Said(end='{"output_tokens": 20, "server_tool_use": [5]}'),
    "iterations a word": Said(end='{"output_tokens": 20, "iterations": "none"}'),
    "service_tier a list": Said(end='{"output_tokens": 20, "service_tier": ["batch"]}'),
    "of tomorrow and odd": Said(end='{"output_tokens": 20, "tokens_of_tomorrow": -Infinity}'),
    "noughts at the end": Said(end='{"output_tokens": 20, "input_tokens": 0}', unreadable=0),
    "the model a list": Said(model='["x"]'),
    "the stop reason a list": Said(stop_reason='["end_turn"]'),
    "searches": Said(end=SEARCHES, spent_usd=0.05 + (1000 * 5 + 20 * 25) / 1e6, unreadable=0),
    "a compaction": Said(end=COMPACTED, spent_usd=(10_000 * 5 + 320 * 25) / 1e6),
}  # fmt: skip


@asynccontextmanager
async def answering(play: bytes, **settings: object) -> AsyncIterator[Running]:
    async with raw_upstream([play]) as upstream, behind(upstream, **settings) as service:
        yield service


async def ask(service: Running, way: str) -> tuple[int, bytes]:
    path, body = WAYS[way]
    async with aiohttp.ClientSession() as client, client.post(service.url + path, json=body) as answer:
        return answer.status, await answer.read()


async def settled(service: Running) -> Scrape:
    """What was counted, once every stream is settled."""
    while service.streams.live:  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0)
    return await scrape(service)


# In a whole message one usage says all: it has no noughts at its end.
CASES = [(name, way) for name in SAID for way in WAYS if (name, way) != ("noughts at the end", "whole")]


@pytest.mark.parametrize(("name", "way"), CASES)
async def test_the_answer_comes_through_and_is_settled(name: str, way: str) -> None:
    said = SAID[name]
    async with answering(said.whole() if way == "whole" else said.stream()) as service:
        status, body = await ask(service, way)
        counted = await settled(service)
    assert status == 200
    assert b"Hello" in body
    assert b"world" in body
    assert counted.by("streams_total", "outcome") == {"completed": 1}
    assert (counted.value("streams_active"), counted.value("upstreams_active")) == (0, 0)
    assert counted.value("usage_unreadable_total") == said.unreadable
    if said.spent_usd is None:
        assert counted.by("output_tokens_total", "basis") == {"estimated": 3}
    else:
        assert counted.by("output_tokens_total", "basis") == {"exact": 20}
        assert sum(counted.by("spent_usd_total", "type").values()) == pytest.approx(said.spent_usd)


async def test_a_whole_answer_that_is_too_deep_to_be_read_is_given_all_the_same() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    body = json.dumps(MESSAGE | {"usage": "<usage>"}).encode().replace(b'"<usage>"', deep)
    async with answering(response(body, content_type="application/json")) as service:
        assert await ask(service, "whole") == (200, body)
        counted = await settled(service)
    assert counted.by("streams_total", "outcome") == {"completed": 1}


async def test_the_last_frame_says_what_claude_said_less_what_nobody_can_read() -> None:
    said = Said(end='{"output_tokens": 20.0, "cache_read_input_tokens": NaN, "service_tier": "standard", "cost": 0.5}')
    async with answering(said.stream()) as service:
        _, body = await ask(service, "plain")
    done = json.loads(body.rpartition(b"data: ")[2])
    assert done["usage"] == {"input_tokens": 1000, "output_tokens": 20, "service_tier": "standard", "cost": 0.5}


@pytest.mark.parametrize("way", ["messages", "whole"])
async def test_the_messages_api_gets_the_usage_as_it_was_written(way: str) -> None:
    usage = '{"output_tokens": -5, "cache_creation": 7, "of_tomorrow": [NaN]'
    said = Said(end=usage + "}")
    async with answering(said.whole() if way == "whole" else said.stream()) as service:
        _, body = await ask(service, way)
    assert usage[1:].encode() in body


async def test_what_has_no_price_is_counted_in_tokens_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    end = '{"output_tokens": 20, "iterations": [{"type": "of_tomorrow", "input_tokens": 70, "output_tokens": 7}]}'
    async with answering(Said(end=end).stream()) as service:
        for _ in range(3):
            await ask(service, "plain")
        counted = await settled(service)
    assert counted.value("unpriced_tokens_total") == 3 * 77
    assert counted.value("unpriced_streams_total") == 0
    said = [record for record in caplog.records if "of_tomorrow" in record.getMessage()]
    assert [record.levelname for record in said] == ["WARNING"]


async def test_what_cannot_be_read_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    async with answering(SAID["below nought"].stream()) as service:
        for _ in range(3):
            await ask(service, "plain")
    assert sum("usage.output_tokens" in record.getMessage() for record in caplog.records) == 1
