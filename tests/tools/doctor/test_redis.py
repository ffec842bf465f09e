"""The doctor and the fleet's Redis: one that forgets is found, whatever the way there is like."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from app.tools.doctor.way import Way
from app.tools.load.connection import Target
from tests.conftest import Serve
from tests.support.redis_server import redis_server

pytestmark = pytest.mark.real


async def ready(admin_url: str) -> str:
    async with aiohttp.ClientSession() as client, client.get(f"{admin_url}/readyz") as response:
        return await response.text()


@pytest.mark.parametrize("policy", ["noeviction", "allkeys-lru", "volatile-ttl"])
async def test_a_redis_that_forgets_when_it_is_full_says_so_and_one_that_does_not_does_not(
    policy: str, serve: Serve, tmp_path: Path
) -> None:
    with redis_server(tmp_path, "--maxmemory", "64mb", "--maxmemory-policy", policy) as redis:
        service = await serve(redis_url=redis.url)
        while "away" in await ready(service.admin_url):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)
        told = (await Way(Target.of(service.url), None).knock()).told
        assert told["redis_forgets"] == ("" if policy == "noeviction" else policy)
        redis.client.execute_command("ACL", "SETUSER", "default", "-info")  # type: ignore[no-untyped-call]
        told = (await Way(Target.of(service.url), None).knock()).told
        assert told["redis_forgets"] == "", "nobody may ask: nothing is said"


async def test_where_there_is_no_fleet_there_is_nothing_to_forget(serve: Serve) -> None:
    service = await serve()
    assert (await Way(Target.of(service.url), None).knock()).told["redis_forgets"] == ""
