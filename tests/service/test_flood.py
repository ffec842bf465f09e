"""A service that may open few files, under more connections than that: readers and the admin port are served."""

from __future__ import annotations

import asyncio
import json
from itertools import chain

import aiohttp

from app.tools.simulator.server import Simulator
from tests.support import process
from tests.support.process import Start
from tests.support.readers import Reader

FEW_FILES = ("prlimit", "--nofile=256:256")
HEAD = b"GET /config.json HTTP/1.1\r\nHost: localhost\r\n"


async def in_flood(service: process.Service, admin: aiohttp.ClientSession, sent: bytes) -> list[Reader]:
    """More connections than files that send the beginning of a request."""
    flood = []
    for _ in range(400):
        flood.append(await Reader.connect(service.url))
        try:
            await flood[-1].send(sent)
        except ConnectionError:  # it had to give way
            continue
        if len(flood) % 100 == 0:
            async with admin.get(f"{service.admin_url}/healthz") as response:
                assert response.status == 200
    return flood


async def served(url: str) -> Reader:
    """A reader who is answered; one who comes within a second of a flood may be told to come again."""
    async with asyncio.timeout(20):
        while True:
            reader = await Reader.connect(url)
            await reader.send(reader.request(json.dumps({"prompt": "{{tokens=3}}"}).encode()))
            if (status := await reader.head()) == 200:
                return reader
            assert status == 503
            reader.leave()
            await asyncio.sleep(0.1)  # the flood grows old


async def test_with_256_files_a_flood_keeps_neither_readers_nor_the_admin_port_out(
    start: Start, simulator: Simulator
) -> None:
    environ = {"ANTHROPIC_BASE_URL": simulator.url, "ANTHROPIC_API_KEY": "k", "SLUICEWAY_PORT": "0"}
    service = await start("--admin-port=0", environ=environ, under=FEW_FILES)
    streaming = [await Reader.connect(service.url) for _ in range(40)]
    for reader in streaming:
        await reader.ask("tokens=90000 rate=50")
        assert await reader.head() == 200
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as admin:
        floods = [await in_flood(service, admin, sent) for sent in (b"", HEAD, HEAD + b"\r\n" + HEAD)]
        for reader in streaming:  # a batch that was not sent yet
            reader.body = b""
            await reader.until(b"data: ")
        late = await served(service.url)
        assert b'"done"' in await late.rest()
        async with admin.get(f"{service.admin_url}/metrics") as response:
            assert b"sluiceway_streams_active" in await response.read()
    for reader in (*streaming, *chain.from_iterable(floods), late):
        reader.leave()
    await asyncio.sleep(0)
    assert service.logged.count("\n") < 20, service.logged
