"""The probes: streams without Claude, bounded, and nobody's but their caller's."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import aiohttp
import pytest

from app.tools.simulator.server import Simulator
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.readers import Reader, eventually


async def probed(url: str, client: aiohttp.ClientSession, **query: int) -> tuple[str, bytes]:
    async with client.get(f"{url}/api/probe", params=query) as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        return response.headers["X-Stream-Id"], await response.read()


def events(said: bytes) -> list[dict[str, Any]]:
    return [json.loads(event.removeprefix(b"data: ")) for event in said.split(b"\n\n") if event]


async def test_a_probe_is_what_was_asked_for_and_asks_nothing_of_claude(
    service: Running, simulator: Simulator, client: aiohttp.ClientSession
) -> None:
    probe_id, said = await probed(service.url, client, events=3, every_ms=10, size=50)
    first, *rest = events(said)
    assert first["probe"] == probe_id
    assert first["heartbeat_s"] == service.service.settings.streams.heartbeat_s
    assert [(event["event"], len(event["pad"])) for event in rest] == [(1, 50), (2, 50), (3, 50)]
    assert [event["at_s"] for event in rest] == sorted(event["at_s"] for event in rest)
    async with client.get(f"{service.url}/api/probe/{probe_id}") as response:
        told = await response.json()
    assert (told["sent"], told["over"], told["left"]) == (4, True, False)
    assert told["sha256"] == hashlib.sha256(said).hexdigest()
    assert not simulator.books


async def test_what_the_request_was_when_it_arrived_is_told(service: Running, client: aiohttp.ClientSession) -> None:
    headers = {"Last-Event-ID": "41", "X-Forwarded-For": "a, b", "Origin": "https://a.example"}
    async with client.get(f"{service.url}/api/probe", params={"events": 0}, headers=headers) as response:
        (first,) = events(await response.read())
    assert first["seen"] == {"http": "1.1", "last_event_id": "41", "origin": "https://a.example", "proxies": 2}


async def test_two_run_at_a_time_and_the_third_may_come_again(service: Running, client: aiohttp.ClientSession) -> None:
    long = [await Reader.connect(service.url) for _ in range(2)]
    for reader in long:
        await reader.send(reader.request(b"", method="GET", path="/api/probe?events=1&every_ms=60000"))
        assert await reader.head() == 200
    async with client.get(f"{service.url}/api/probe") as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "1")
        assert (await response.json())["retryable"] is True
    long[0].leave()
    long[1].leave()

    async def is_free() -> bool:
        async with client.get(f"{service.url}/api/probe", params={"events": 0}) as response:
            return response.status == 200

    async with asyncio.timeout(20):
        while not await is_free():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)


async def test_a_reader_that_leaves_in_a_silence_is_heard(service: Running, client: aiohttp.ClientSession) -> None:
    reader = await Reader.connect(service.url)
    await reader.send(reader.request(b"{}", path="/api/probe?events=1&every_ms=60000"))
    assert await reader.head() == 200
    async with client.get(f"{service.url}/api/probe/{reader.headers['x-stream-id']}") as response:
        assert (await response.json())["over"] is False
    reader.leave()
    told: dict[str, Any] = {}
    async with asyncio.timeout(20):
        while not told.get("over"):
            async with client.get(f"{service.url}/api/probe/{reader.headers['x-stream-id']}") as response:
                told = await response.json()
    assert (told["left"], told["sent"]) == (True, 1)


async def test_a_reader_that_reads_nothing_holds_it_within_its_small_sockets(
    service: Running, client: aiohttp.ClientSession
) -> None:
    reader = await Reader.connect(service.url, rcvbuf_bytes=4096)
    await reader.send(reader.request(b"", method="GET", path="/api/probe?events=1000&every_ms=0&size=16000"))
    assert await reader.head() == 200
    async with client.get(f"{service.url}/api/probe/{reader.headers['x-stream-id']}") as response:
        assert (await response.json())["taken_bytes"] < 131_072
    reader.leave()


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("events=1201", "events"),
        ("events=-1", "events"),
        ("every_ms=60001", "every_ms"),
        ("events=601&every_ms=100", "every_ms"),
        ("events=1200&every_ms=0&size=65536", "size"),
        ("size=%C2%B2", "size"),
        ("accel=2", "accel"),
    ],
)
async def test_a_probe_has_bounds(query: str, field: str, service: Running, client: aiohttp.ClientSession) -> None:
    async with client.get(f"{service.url}/api/probe?{query}") as response:
        assert (response.status, (await response.json())["field"]) == (400, field)


async def test_one_that_is_cut_has_no_end(service: Running) -> None:
    reader = await Reader.connect(service.url)
    await reader.send(reader.request(b"", method="GET", path="/api/probe?events=2&every_ms=1&cut=1"))
    assert await reader.head() == 200
    assert b'"event": 2' in await reader.rest()
    assert not reader.ended
    reader.leave()


async def test_a_post_fails_once_and_only_where_it_was_named(service: Running, client: aiohttp.ClientSession) -> None:
    _, said = await probed(service.url, client, events=0)
    instance = events(said)[0]["instance"]

    async def post(**query: str) -> tuple[int, int]:
        async with client.post(f"{service.url}/api/probe/posts", params=query, json={}) as response:
            return response.status, (await response.json())["attempts"] if response.status == 200 else 0

    assert await post(fail="a", on="elsewhere") == (200, 0)
    assert await post(fail="a", on=instance) == (503, 0)
    assert await post(fail="a", on=instance) == (200, 2)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await post(fail="b", on=instance, **{"as": "cut"})


async def test_only_its_caller_is_told_of_a_probe(serve: Serve, client: aiohttp.ClientSession) -> None:
    service = await serve(api_keys=("one", "two"))
    ours, theirs = ({"x-api-key": key} for key in ("one", "two"))
    async with client.get(f"{service.url}/api/probe", params={"events": 0}, headers=ours) as response:
        path = f"/api/probe/{response.headers['X-Stream-Id']}"
    for headers, status in ((ours, 200), (theirs, 404), ({}, 401)):
        async with client.get(f"{service.url}{path}", headers=headers) as response:
            assert response.status == status
    async with client.get(f"{service.url}/api/probe") as response:
        assert response.status == 401


async def test_what_is_over_is_remembered_within_bounds(service: Running, client: aiohttp.ClientSession) -> None:
    first, _ = await probed(service.url, client, events=0)
    for _ in range(32):
        last, _ = await probed(service.url, client, events=0)
    statuses = []
    for probe_id in (first, last):
        async with client.get(f"{service.url}/api/probe/{probe_id}") as response:
            statuses.append(response.status)
    assert statuses == [404, 200]
    await eventually(lambda: not service.streams.live)
