"""`/v1` where it is ours: keys, refusals, readers that leave, signs of life, the ledger, the shutdown."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import anthropic
import pytest

from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.anthropic_sdk import (
    KEY,
    MODEL,
    asking,
    final,
    outcome,
    raw_events,
    sdk,
    whole,
)
from tests.support.readers import AT_ONCE_S, Reader, eventually


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "type"),
    [
        ("POST", "/v1/messages", "{", 400, "invalid_request_error"),
        ("POST", "/v1/messages", "[]", 400, "invalid_request_error"),
        ("POST", "/v1/messages/count_tokens", "", 400, "invalid_request_error"),
        ("GET", "/v1/messages", None, 405, "invalid_request_error"),
        ("GET", "/v1/nothing", None, 404, "not_served"),
        ("POST", "/v1/messages", json.dumps({"x": "y" * 2000}), 413, "request_too_large"),
    ],
)
async def test_our_own_errors_are_told_in_the_apis_shape(
    method: str, path: str, body: str | None, status: int, type: str, serve: Serve, client: aiohttp.ClientSession
) -> None:
    service = await serve(max_messages_bytes=1024)
    headers = {"Content-Type": "application/json"}
    async with client.request(method, f"{service.url}{path}", data=body, headers=headers) as response:
        told = await response.json()

    assert response.status == status
    assert told["type"] == "error"
    assert told["error"]["type"] == type
    assert told["error"]["message"]


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_callers_keys_are_taken_in_either_header(header: str, serve: Serve) -> None:
    service = await serve(api_keys=(KEY,))
    auth: dict[str, Any] = {} if header == "authorization" else {"Authorization": anthropic.omit, "X-Api-Key": KEY}
    async with (
        sdk(service.url, default_headers=auth) as client,
        anthropic.AsyncAnthropic(api_key="wrong", base_url=service.url, max_retries=0) as stranger,
    ):
        assert (await final(client, "tokens=2"))["stop_reason"] == "end_turn"
        assert (await whole(client, "tokens=2"))["stop_reason"] == "end_turn"
        for ask in (raw_events, whole):
            assert (await outcome(ask(stranger, "tokens=2")))[:3] == (
                anthropic.AuthenticationError,
                401,
                "authentication_error",
            )
        with pytest.raises(anthropic.AuthenticationError):
            await stranger.models.list()
        with pytest.raises(anthropic.AuthenticationError):
            await stranger.messages.count_tokens(model=MODEL, messages=asking(""))


async def ask_raw(service: Running, directive: str, *, stream: bool) -> Reader:
    reader = await Reader.connect(service.url)
    body = {"model": MODEL, "max_tokens": 99999, "messages": asking(directive), "stream": stream}
    await reader.send(reader.request(json.dumps(body).encode(), path="/v1/messages"))
    return reader


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("directive", ["tokens=9 ttft_s=30", "tokens=9999 rate=50"])
async def test_a_reader_that_leaves_ends_the_answer_at_once(
    stream: bool, directive: str, service: Running, simulator: Simulator
) -> None:
    reader = await ask_raw(service, directive, stream=stream)
    book = await simulator.book()
    if "rate" in directive:
        await eventually(lambda: book.tokens > 2)
    reader.leave()
    await book.ended.wait()

    assert book.gone_at is not None
    assert book.gone_at - reader.left_at <= AT_ONCE_S
    await eventually(lambda: not service.streams.live)


async def test_nothing_is_sent_before_claudes_own_headers(serve: Serve) -> None:
    service = await serve(commit_s=0.05, heartbeat_s=0.05, retries=0)
    reader = await ask_raw(service, "ttft_s=0.4 fault=http_529", stream=True)

    assert await reader.head() == 529
    reader.leave()


async def test_silence_in_a_stream_is_filled_with_pings(serve: Serve) -> None:
    service = await serve(heartbeat_s=0.2)
    reader = await ask_raw(service, "tokens=2 rate=0.5 text=numbered", stream=True)
    assert await reader.head() == 200
    body = await reader.rest()
    reader.leave()

    first, last = body.index(b"token0001"), body.index(b"token0002")
    pings = body[first:last].count(b'event: ping\ndata: {"type": "ping"}\n\n')
    assert 3 <= pings <= 15  # ten, on a machine that has time
    assert b": keep-alive" not in body


@pytest.mark.parametrize(
    ("directive", "labels"),
    [
        ("tokens=50", 'outcome="completed",phase="done"'),
        ("fault=http_529", 'outcome="upstream_error",phase="before_first_event"'),
        ("fault=html", 'outcome="upstream_error",phase="before_first_event"'),
    ],
)
async def test_a_whole_message_is_in_the_ledger(
    directive: str, labels: str, service: Running, client: aiohttp.ClientSession
) -> None:
    async with sdk(service.url) as caller:
        told = await outcome(whole(caller, directive))
    async with client.get(f"{service.admin_url}/metrics") as response:
        lines = (await response.text()).splitlines()

    generated = told["usage"]["output_tokens"] if isinstance(told, dict) else 0
    assert f'sluiceway_streams_total{{model="{MODEL}",{labels}}} 1.0' in sorted_labels(lines)
    assert f'sluiceway_output_tokens_total{{basis="exact",model="{MODEL}"}} {generated:.1f}' in sorted_labels(lines)
    assert f'sluiceway_wasted_tokens_total{{model="{MODEL}"}} 0.0' in sorted_labels(lines)


def sorted_labels(lines: list[str]) -> list[str]:
    """The series with their labels in the alphabet's order, but the model first among three."""
    made = []
    for line in lines:
        name, _, rest = line.partition("{")
        labels, _, value = rest.partition("}")
        parts = sorted(labels.split(","))
        parts.sort(key=lambda part: not part.startswith("model=") if len(parts) == 3 else 0)
        made.append(f"{name}{{{','.join(parts)}}}{value}")
    return made


async def test_a_shutdown_ends_a_whole_message_that_does_not_come(serve: Serve, simulator: Simulator) -> None:
    service = await serve(drain_s=0.1)
    async with sdk(service.url) as client:
        waiting = asyncio.create_task(outcome(whole(client, "tokens=9 ttft_s=30")))
        await simulator.book()
        await service.drain()
        error = await waiting

    assert error[:4] == (anthropic.ServiceUnavailableError, 503, "api_error", "shutdown")


async def test_a_shutdown_waits_for_a_whole_message(serve: Serve, simulator: Simulator) -> None:
    service = await serve(drain_s=20.0)
    async with sdk(service.url) as client:
        waiting = asyncio.create_task(whole(client, "tokens=9 ttft_s=0.3"))
        await simulator.book()
        await service.drain()

    assert (await waiting)["stop_reason"] == "end_turn"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/api/stream", "/api/chat"])
@pytest.mark.parametrize("stream", [b"true", b"false"])
@pytest.mark.parametrize("number", [b"9" * 400, b"-" + b"9" * 400, b"1" + b"0" * 30])
async def test_a_number_of_hundreds_of_digits_is_told_by_field_and_takes_no_place(
    path: str, stream: bytes, number: bytes, serve: Serve, client: aiohttp.ClientSession
) -> None:
    service = await serve(max_streams=1)
    messages = b'[{"id": "u", "role": "user", "content": "x", "parts": [{"type": "text", "text": "x"}]}]'
    body = b'{"id": "c", "model": "m", "messages": %b, "max_tokens": %b' % (messages, number)
    body += b', "stream": %b}' % stream if path.startswith("/v1/") else b"}"
    for _ in range(3):
        async with client.post(
            f"{service.url}{path}", data=body, headers={"Content-Type": "application/json"}
        ) as response:
            told = await response.text()
        assert response.status == 400
        assert "max_tokens" in told
        assert len(told) < 300
    assert not service.streams.live
    async with client.post(f"{service.url}/api/stream", json={"prompt": "{{tokens=1}}"}) as response:
        assert response.status == 200, "its place is free"


@pytest.mark.parametrize("stream", [b"1", b'"true"', b"[true]"])
async def test_a_stream_that_is_neither_true_nor_false_is_claudes_to_refuse(
    stream: bytes, service: Running, client: aiohttp.ClientSession, simulator: Simulator
) -> None:
    body = b'{"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}], "stream": %b}' % stream
    for url in (simulator.url, service.url):
        headers = {"Content-Type": "application/json", "x-api-key": "k"}
        async with client.post(f"{url}/v1/messages", data=body, headers=headers) as response:
            assert response.status == 400
            assert "stream: Input should be a valid boolean" in await response.text()
