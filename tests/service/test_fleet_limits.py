"""Limits and budgets of two processes on one Redis: together they let in what one alone would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.web.runner import Running
from tests.conftest import Serve
from tests.service.test_fleet import part
from tests.support.readers import eventually
from tests.support.redis_server import RedisServer, redis_server
from tests.support.scrape import scrape_of

ACME = {"Authorization": "Bearer key-of-acme"}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


async def fleet(serve: Serve, redis: RedisServer, folder: Path, bounds: str, **given: Any) -> list[Running]:
    file = folder / "callers.toml"
    file.write_text(f"[callers.acme]\n{bounds}\n")
    file.chmod(0o600)
    options = {
        "callers_file": str(file),
        "api_keys": "acme:key-of-acme",
        "redis_url": redis.url,
        "redis_timeout_s": 5.0,
    }
    services = [await serve(**options, **given) for _ in range(2)]
    for service in services:
        await eventually(lambda service=service: not part(service).member.contact.away)  # type: ignore[misc]
    return services


async def asked(client: aiohttp.ClientSession, service: Running, prompt: str) -> tuple[int, bytes]:
    async with client.post(f"{service.url}/api/stream", json={"prompt": prompt}, headers=ACME) as response:
        return response.status, await response.read()


async def test_as_many_streams_at_once_as_there_are_places_in_all(
    serve: Serve, redis: RedisServer, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    services = await fleet(serve, redis, tmp_path, "streams = 10")
    asking = [
        asyncio.create_task(
            client.post(f"{services[n % 2].url}/api/stream", json={"prompt": "{{tokens=5000 rate=20}}"}, headers=ACME)
        )
        for n in range(60)
    ]
    answers = await asyncio.gather(*asking)
    assert sorted(answer.status for answer in answers) == [200] * 10 + [429] * 50
    for answer in answers:
        answer.close()
    await eventually(lambda: not any(service.streams.live for service in services))
    for service in services:
        assert (await asked(client, service, "{{tokens=3}}"))[0] == 200  # the places are free again


async def test_two_processes_spend_one_budget_and_no_more(
    serve: Serve, redis: RedisServer, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    services = await fleet(serve, redis, tmp_path, "budget_usd_per_day = 0.02")
    for _ in range(30):
        asking = (asked(client, services[n % 2], "{{tokens=60 rate=400}}") for n in range(6))
        statuses = [status for status, _ in await asyncio.gather(*asking)]
        if 200 not in statuses:
            break
    assert set(statuses) <= {402, 429}, statuses  # spent, or too little for one more
    await eventually(lambda: not any(service.streams.live for service in services))
    spent = sum([(await scrape_of(one.admin_url)).value("caller_spent_usd_total", caller="acme") for one in services])
    assert 0.015 < spent <= 0.02
    assert redis.without_expiry() == []


async def test_without_redis_who_has_a_budget_is_refused_and_the_rest_is_not(
    serve: Serve, redis: RedisServer, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    service, _ = await fleet(
        serve, redis, tmp_path, "budget_usd_per_day = 1\n[callers.free]\nstreams = 1", max_streams=50
    )
    assert (await asked(client, service, "{{tokens=3}}"))[0] == 200
    redis.kill()
    await eventually(lambda: part(service).member.contact.away)
    await asyncio.sleep(0.1)
    status, said = await asked(client, service, "{{tokens=300000 rate=1}}")
    assert (status, b"budget_unavailable" in said) == (503, True)
