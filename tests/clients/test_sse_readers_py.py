"""Python's readers of server-sent events, on an answer with long silences in it: one request, every word, no more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from typing import Any

import aiohttp
import httpx

from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from tests.conftest import Serve

BODY = {"prompt": "{{tokens=4 rate=1.5 text=numbered first_event_s=1}}"}
# By name, since they bring no types; each is the newest there is.
httpx_sse, sseclient = import_module("httpx_sse"), import_module("sseclient")
aiohttp_sse_client = import_module("aiohttp_sse_client.client")

Told = list[tuple[str, str]]


async def by_httpx_sse(url: str) -> Told:
    async with httpx.AsyncClient() as client, httpx_sse.aconnect_sse(client, "POST", url, json=BODY) as source:
        return [(event.id, event.data) async for event in source.aiter_sse()]


async def by_sseclient_py(url: str) -> Told:
    def chunks() -> Iterator[bytes]:
        with httpx.stream("POST", url, json=BODY) as response:
            yield from response.iter_raw()

    return await asyncio.to_thread(lambda: [(event.id, event.data) for event in sseclient.SSEClient(chunks()).events()])


async def by_aiohttp_sse_client(url: str) -> Told:
    messages: Told = []
    async with (
        aiohttp.ClientSession() as session,
        aiohttp_sse_client.EventSource(url, option={"method": "POST"}, session=session, json=BODY) as source,
    ):
        async for event in source:
            messages.append((event.last_event_id, event.data))
            if "done" in json.loads(event.data):
                break  # else it asks anew
    return messages


async def test_silence_is_no_message_to_any_reader(serve: Serve, simulator: Simulator) -> None:
    service = await serve(commit_s=0.2, heartbeat_s=0.2)
    readers: list[Callable[[str], Awaitable[Told]]] = [by_httpx_sse, by_sseclient_py, by_aiohttp_sse_client]
    told = await asyncio.gather(*(read(f"{service.url}/api/stream") for read in readers))
    for read, messages in zip(readers, told, strict=True):
        frames: list[dict[str, Any]] = [json.loads(data) for _, data in messages]
        assert [number for number, _ in messages] == ["1", "2", "3", "4", "5"], read
        assert "".join(frame["text"] for frame in frames[:-1]) == numbered_text(4), read
        assert frames[-1]["done"] is True, read
    assert len(simulator.books) == len(readers), "a question was asked again"
