"""What a fleet's Redis may do to it while a stream runs: be full, be slow, hand over to a replica, be out of one's reach."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest

from app.fleet.contact import RedisAway
from app.web.runner import Running
from tests.conftest import Serve
from tests.service.test_fleet import ENDLESS, KEYS, ONE, ask, forget_leases, ids, last_event, part, path
from tests.support.readers import eventually
from tests.support.redis_server import RedisServer, redis_server
from tests.support.scrape import scrape_of
from tests.support.wire import Wire


async def two(serve: Serve, *urls: str, timeout_s: float = 5.0) -> list[Running]:
    """Two processes, each with its way to Redis, that have met."""
    options = {"redis_timeout_s": timeout_s, "mirror_s": 0.05, "api_keys": KEYS}
    started = [await serve(**options, redis_url=url) for url in urls]
    for one in started:
        member = part(one).member
        await eventually(lambda member=member: member.address is not None and member.secret is not None)  # type: ignore[misc]
        await member.beat()
    for one, other in (started, started[::-1]):
        assert await part(one).member.lease_of(part(other).member.incarnation) is not None
    return started


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@asynccontextmanager
async def stream_of(client: aiohttp.ClientSession, service: Running, prompt: str) -> AsyncIterator[str]:
    """A stream that runs while somebody reads it; its path."""
    reader = await ask(client, service, prompt, policy="drain")
    await reader.content.readuntil(b"id: 5\n")
    yield path(reader)
    reader.close()


async def whole(client: aiohttp.ClientSession, service: Running, where: str) -> bytes:
    """A stream of two hundred tokens or more, through this process: every frame once, and its end."""
    async with client.get(service.url + where, headers=ONE) as through:
        raw = await through.read()
    assert ids(raw) == list(range(1, 1 + len(ids(raw))))
    assert last_event(raw)["done"] is True
    return raw


async def test_a_full_redis_refuses_the_copy_and_nothing_else(
    serve: Serve, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, b = await two(serve, redis.url, redis.url)
    async with stream_of(client, a, "{{tokens=200 rate=100}}") as where:
        log = part(a).member.keys.stream(where.rpartition("/")[2]).log
        await eventually(lambda: redis.client.exists(log) == 1)
        redis.client.config_set("maxmemory", 1)
        refused = 0.0
        while not refused:
            refused = (await scrape_of(a.admin_url)).value("fleet_redis_refused_total")
        async with stream_of(client, a, "{{tokens=20}}"):
            raw = await whole(client, b, where)
        redis.client.config_set("maxmemory", 0)
        await eventually(lambda: not part(a).shadow._open)
    part(a).member.address = None  # what was refused is written when there is room again
    await forget_leases(a, b)
    assert await whole(client, b, where) == raw


async def test_a_redis_that_pauses_holds_nobody_longer_than_its_timeout(
    serve: Serve, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, b = await two(serve, redis.url, redis.url, timeout_s=0.25)
    async with stream_of(client, a, "{{tokens=200 rate=100}}") as where:
        redis.client.client_pause(1500)
        async with client.get(b.url + where, headers=ONE) as through:  # whom it has met, it reaches all the same
            raw = await through.content.readuntil(b"id: 12\n")
            assert ids(raw) == list(range(1, 13))
        async with stream_of(client, b, "{{tokens=20}}"):
            await whole(client, b, where)
    assert (await scrape_of(b.admin_url)).value("fleet_lost_streams_total") == 0


@pytest.mark.soak
async def test_a_replica_that_takes_over_is_told_what_it_lacks(
    serve: Serve, redis: RedisServer, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    (tmp_path / "replica").mkdir()
    with redis_server(tmp_path / "replica", "--replicaof", "127.0.0.1", str(redis.port)) as replica:
        await eventually(lambda: replica.client.info("replication")["master_link_status"] == "up")
        async with Wire(("127.0.0.1", redis.port)) as wire:
            url = f"redis://127.0.0.1:{wire.address[1]}/0"
            a, b = await two(serve, url, url)
            async with stream_of(client, a, "{{tokens=400 rate=100}}") as where:
                replica.client.replicaof("127.0.0.1", "1")  # it has lost its primary, and lags
                await asyncio.sleep(0.5)
                redis.kill()
                wire.to = ("127.0.0.1", replica.port)
                await asyncio.sleep(0.5)  # it refuses to be written to, until it is the primary
                replica.client.replicaof("NO", "ONE")
                raw = await whole(client, b, where)
            await eventually(lambda: not part(a).shadow._open)
            part(a).member.address = None
            await forget_leases(a, b)
            assert await whole(client, b, where) == raw
            assert (await scrape_of(a.admin_url)).value("streams_total", outcome="fenced") == 0


@pytest.mark.soak
async def test_a_process_that_cannot_reach_redis_is_reached_by_those_who_know_it_and_fenced_by_those_who_do_not(
    serve: Serve, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    async with Wire(("127.0.0.1", redis.port)) as wire:
        a, b = await two(serve, f"redis://127.0.0.1:{wire.address[1]}/0", redis.url)
        redis.client.expire(part(b).member.keys.born, 600)
        async with stream_of(client, a, ENDLESS) as where:
            log = part(a).member.keys.stream(where.rpartition("/")[2]).log
            await eventually(lambda: redis.client.xlen(log) > 1)
            wire.cut()
            await eventually(lambda: redis.client.exists(part(a).member.keys.lease(part(a).member.incarnation)) == 0)
            async with client.get(b.url + where, headers=ONE) as through:
                await through.content.readuntil(b"id: 25\n")
            known = dict(part(b).member._last_known)
            part(b).member._last_known.clear()
            redis.client.delete(part(a).member.keys.place(part(a).member.incarnation))
            async with client.get(b.url + where, headers=ONE) as elsewhere:
                assert last_event(await elsewhere.read())["type"] == "worker_lost"
            part(b).member._last_known.update(known)
            wire.mend()
            with suppress(RedisAway):
                await part(a).member.beat()
            await eventually(lambda: not a.streams.live)
            assert (await scrape_of(a.admin_url)).value("streams_total", outcome="fenced") == 1
