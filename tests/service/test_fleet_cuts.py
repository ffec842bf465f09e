"""Readers whose connections are cut at random, and who come back through nginx to any process, while Redis has its troubles."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import aiohttp
import pytest

from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from tests.conftest import ROOT, Serve
from tests.service.test_fleet import ids, last_event, part
from tests.support.nginx import free_port, nginx, shipped
from tests.support.readers import eventually
from tests.support.redis_server import RedisServer, redis_server

EXAMPLE = (ROOT / "config" / "nginx-fleet.conf").read_text("utf-8")
TOKENS = 400
# Answers that are read at the same time.
READERS = 40


def upstreams(folder: Path, port: int, servers: list[str]) -> str:
    """The shipped configuration with the fleet's upstream in place of its own, and our servers in place of the example's."""
    text = shipped(folder, "unix:/nowhere", port)
    begin, end = text.index("upstream sluiceway {"), text.index("# What tells streams apart.")
    upstream = EXAMPLE[EXAMPLE.index("upstream sluiceway {") :]
    (first, second) = (line for line in upstream.splitlines() if line.strip().startswith("server "))
    upstream = upstream.replace(second + "\n", "")
    ours = "\n".join(first.replace("10.0.0.11:8080", server) for server in servers)
    return text[:begin] + upstream.replace(first, ours) + text[end:]


async def read_in_pieces(url: str, chance: random.Random) -> int:
    """Reads one answer, cut again and again, each time through another process perhaps; how many cuts there were."""
    cuts, last_id, text, where = 0, 0, b"", f"{url}/api/stream"
    async with aiohttp.ClientSession() as client:
        while True:
            if not last_id:
                body = {"prompt": f"{{{{tokens={TOKENS} rate=200 text=numbered}}}}", "resumable": True}
                asked = client.post(where, json=body)
            else:
                asked = client.get(where, headers={"Last-Event-ID": str(last_id)})
            async with asked as response:
                if response.status == 503:  # Redis is away, and this process has never met the owner
                    await asyncio.sleep(0.1)
                    continue
                assert response.status == 200, await response.text()
                where = f"{url}/api/stream/{response.headers['X-Stream-Id']}"
                raw = b""
                most = chance.randrange(1, 300)
                while len(raw) < most and (piece := await response.content.readany()):
                    raw += piece
            whole = raw[: raw.rfind(b"\n\n") + 2] if b"\n\n" in raw else b""  # an event that was cut never came
            had = ids(whole)
            assert had == list(range(last_id + 1, last_id + 1 + len(had)))
            last_id, text = last_id + len(had), text + whole
            if b'"done":true' in text:
                assert text_of(text) == numbered_text(TOKENS)
                return cuts
            assert b'"error"' not in text, last_event(text)
            cuts += 1


def text_of(raw: bytes) -> str:
    events = [json.loads(line[6:]) for line in raw.split(b"\n") if line.startswith(b"data: ")]
    return "".join(event.get("text", "") for event in events)


async def troubles(redis: RedisServer, stop: asyncio.Event, chance: random.Random) -> None:
    """What a Redis has: it is flushed, paused, and killed to come back empty."""
    while not stop.is_set():
        match chance.randrange(4):
            case 0:
                redis.client.flushall()
            case 1:
                redis.client.client_pause(700)
            case 2:
                redis.kill()
                await asyncio.sleep(chance.random())
                redis.start()
            case _:
                pass
        await asyncio.sleep(0.3)


@pytest.mark.parametrize(
    "most", [pytest.param(500, id="500"), pytest.param(10_000, id="10000", marks=pytest.mark.soak)]
)
async def test_no_byte_is_lost_or_doubled_however_often_readers_are_cut(
    most: int, serve: Serve, simulator: Simulator, tmp_path: Path
) -> None:
    chance = random.Random(most)
    with redis_server(tmp_path) as redis:
        # Everything here shares one loop with the servers, so a late answer of Redis is no sign of its death.
        services = [
            await serve(redis_url=redis.url, redis_timeout_s=2.0, window_s=0.05, cors_origins="*") for _ in range(2)
        ]
        for service in services:
            member = part(service).member
            await eventually(lambda member=member: member.address is not None and member.secret is not None)  # type: ignore[misc]
        port = free_port()
        servers = [service.url.removeprefix("http://") for service in services]
        async with nginx(tmp_path, upstreams(tmp_path, port, servers), port) as url:
            stop = asyncio.Event()
            trouble = asyncio.create_task(troubles(redis, stop, chance))
            cuts = 0
            while cuts < most:
                cuts += sum(
                    await asyncio.gather(*(read_in_pieces(url, random.Random(cuts + n)) for n in range(READERS)))
                )
            stop.set()
            await trouble
        await eventually(lambda: not any(service.streams.live for service in services))
        assert redis.without_expiry() == []
