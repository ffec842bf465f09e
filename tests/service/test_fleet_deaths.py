"""Processes of a fleet that die, or seem to: what their readers are told elsewhere, and what a process is told that was not dead."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from app.tools.simulator.server import Simulator
from tests.conftest import ROOT
from tests.service.test_fleet import ids, last_event
from tests.support.long_link import LongLink, long_link
from tests.support.nginx import free_port
from tests.support.process import Service, Start
from tests.support.readers import eventually
from tests.support.redis_server import RedisServer, redis_server
from tests.support.scrape import scrape_of

pytestmark = pytest.mark.timeout(240)

# A lease lasts 3 s, and whoever finds none must have had contact himself for as long, and a beat.
JUDGES_AFTER_S = 4.5
# Within which everybody is told that a stream's process is gone.
TOLD_S = 3.5


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


async def fleet(start: Start, simulator: Simulator, redis: RedisServer, count: int) -> list[Service]:
    environ = {
        "ANTHROPIC_BASE_URL": simulator.url,
        "SLUICEWAY_REDIS_URL": redis.url,
        "SLUICEWAY_REDIS_TIMEOUT_S": "5",  # a busy machine is no dead Redis
    }
    ports = ("--port", "0", "--admin-port", "0")
    started = await asyncio.gather(*(start(*ports, environ=environ) for _ in range(count)))
    # Each has said where it is reached.
    await eventually(lambda: sum(key.endswith(":p") for key in redis.names()) == count)
    await asyncio.sleep(JUDGES_AFTER_S)  # real time: Redis's own clock ends a lease
    return started


async def asked(client: aiohttp.ClientSession, service: Service) -> aiohttp.ClientResponse:
    body = {"prompt": "{{tokens=5000 rate=50}}", "resumable": True}
    reader = await client.post(f"{service.url}/api/stream", json=body)
    assert reader.status == 200
    await reader.content.readuntil(b"id: 25\n")
    return reader


async def test_of_one_that_died_and_one_that_sleeps_everybody_is_told_the_same_end(
    start: Start, simulator: Simulator, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    dead, zombie, b, c = await fleet(start, simulator, redis, 4)
    reader, sleeper = await asked(client, dead), await asked(client, zombie)
    path = f"/api/stream/{reader.headers['X-Stream-Id']}"
    through = await client.get(b.url + path)  # takes over, and is served by b when its owner dies
    had = await through.content.readuntil(b"id: 40\n")
    (asleep,) = zombie.workers
    dead.kill()
    os.kill(asleep, signal.SIGSTOP)
    died_at = time.monotonic()
    try:
        async with client.get(f"{b.url}/api/stream/{sleeper.headers['X-Stream-Id']}") as rest:
            of_zombie, raw = await asyncio.gather(rest.read(), through.read())
        print(f"told after {time.monotonic() - died_at:.2f} s")
    finally:
        os.kill(asleep, signal.SIGCONT)
    raw = had + raw
    assert ids(raw) == list(range(1, 1 + len(ids(raw))))
    ends = [last_event(raw)]
    assert raw.count(b'"error"') == 1
    had_id = ids(raw)[-1]  # it may have had what was never written
    for service, last_id in ((b, 0), (c, 4), (b, 10_000)):
        async with client.get(service.url + path, headers={"Last-Event-ID": str(last_id)}) as rest:
            raw = await rest.read()
        assert ids(raw) == list(range(last_id + 1, last_id + 1 + len(ids(raw))))
        ends.append(last_event(raw))
        if last_id == 0:
            assert ends[1]["last_id"] == ids(raw)[-1] >= 20
    written_id = ends[1]["last_id"]
    assert [end.pop("last_id") for end in ends] == [had_id, written_id, written_id, 10_000]
    assert ends[0] == ends[1] == ends[2] == ends[3]
    assert (ends[0]["type"], ends[0]["retryable"], ends[0]["complete"]) == ("worker_lost", True, False)
    # And the one that was only asleep lets go of Claude, and books it so.
    told = last_event(await sleeper.read())
    assert (told["type"], told["complete"]) == (last_event(of_zombie)["type"], False) == ("worker_lost", False)
    await eventually(lambda: not any(book.live for book in simulator.books))
    assert (await scrape_of(zombie.admin_url)).value("streams_total", outcome="fenced") == 1
    assert sum([(await scrape_of(one.admin_url)).value("fleet_lost_streams_total") for one in (b, c)]) == 2
    assert redis.without_expiry() == []


@pytest.mark.soak
async def test_redis_that_was_away_for_longer_than_a_lease_has_killed_nobody(
    start: Start, simulator: Simulator, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, b = await fleet(start, simulator, redis, 2)
    reader = await asked(client, a)
    path = f"/api/stream/{reader.headers['X-Stream-Id']}"
    redis.send(signal.SIGSTOP)
    await asyncio.sleep(5)
    redis.send(signal.SIGCONT)
    through = await client.get(b.url + path)  # at once, while no lease is there
    await through.content.readuntil(b"id: 60\n")
    async with client.post(f"{b.url}{path}/stop", json={"stop_token": reader.headers["X-Stop-Token"]}) as stopped:
        assert await stopped.json() == {"stopped": True}
    assert last_event(await through.read())["type"] == "stopped"
    reader.close()


@contextmanager
def claude_within(link: LongLink) -> Iterator[str]:
    """A simulated Claude at the link's far end, for who is there too; its address."""
    port = free_port()
    command = [*link.within, sys.executable, "-m", "app", "simulate", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None, "it was asked for"
            assert running.stdout.readline(), "it says where it listens"
            yield f"http://127.0.0.1:{port}"
        finally:
            running.kill()


@pytest.mark.soak
async def test_of_a_machine_that_is_gone_without_a_word_everybody_is_told_in_time(
    start: Start, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    """Its address refuses no connection: none is answered."""
    with (
        long_link(0.0004) as link,
        claude_within(link) as claude,
        redis_server(tmp_path, "--bind", "0.0.0.0", "--protected-mode", "no") as redis,
    ):
        environ = {"ANTHROPIC_BASE_URL": claude, "SLUICEWAY_AUTH": "none", "SLUICEWAY_REDIS_TIMEOUT_S": "1"}
        gone = await start(
            *("--host", link.there, "--port", "8080", "--admin-port", "0"),
            environ=environ | {"SLUICEWAY_REDIS_URL": f"redis://{link.here}:{redis.port}/0"},
            under=link.within,
        )
        here = await start("--port", "0", "--admin-port", "0", environ=environ | {"SLUICEWAY_REDIS_URL": redis.url})
        await eventually(lambda: sum(key.endswith(":p") for key in redis.names()) == 2)
        await asyncio.sleep(JUDGES_AFTER_S)  # real time: Redis's own clock ends a lease
        comes_after_s = (0.0, 0.3, 1.0, 2.0, 2.5, 3.0)
        readers = [await asked(client, gone) for _ in comes_after_s]
        paths = [f"/api/stream/{reader.headers['X-Stream-Id']}" for reader in readers]
        through = await client.get(here.url + paths[0])
        had = await through.content.readuntil(b"id: 40\n")
        link.stall()
        gone_at = time.monotonic()

        async def told(number: int) -> tuple[float, str]:
            await asyncio.sleep(comes_after_s[number])
            again = await client.get(here.url + paths[number]) if number else through
            raw = (b"" if number else had) + await again.read()
            assert ids(raw) == list(range(1, 1 + len(ids(raw))))
            return time.monotonic() - gone_at, last_event(raw)["type"]

        ends = await asyncio.gather(*map(told, range(len(paths))))
        link.mend()
        print([f"{took_s:.2f} s" for took_s, _ in ends])
        assert {kind for _, kind in ends} == {"worker_lost"}
        assert max(took_s for took_s, _ in ends) <= TOLD_S
        for reader in readers:
            reader.close()
