"""Limits and budgets of two processes on one Redis: together they let in what one alone would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.streams.lifecycle import ReaderState
from app.web.runner import Running
from tests.conftest import Serve
from tests.service.test_fleet import lose_redis, part
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
    options: dict[str, Any] = {
        "callers_file": str(file),
        "api_keys": "acme:key-of-acme",
        "redis_url": redis.url,
        "redis_timeout_s": 5.0,
    }
    services = [await serve(**(options | given)) for _ in range(2)]
    for service in services:
        await eventually(lambda service=service: not part(service).member.contact.away)  # type: ignore[misc]
    return services


async def asked(
    client: aiohttp.ClientSession, service: Running, prompt: str, caller: str = "acme"
) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer key-of-{caller}"}
    async with client.post(f"{service.url}/api/stream", json={"prompt": prompt}, headers=headers) as response:
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


async def test_who_leaves_with_nothing_but_the_head_has_a_place_until_his_grace_is_over(
    serve: Serve, redis: RedisServer, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    """He may have had the stream's id and come back; nobody can tell him from one whose proxy alone had it."""
    service, _ = await fleet(serve, redis, tmp_path, "streams = 10")
    body = {"prompt": "{{tokens=400 rate=200}}", "resumable": True, "grace_s": 1}
    answer = await client.post(f"{service.url}/api/stream", json=body, headers=ACME)
    answer.close()
    key, owner = part(service).limits._place("acme"), part(service).member.incarnation
    await eventually(lambda: [one.lifecycle.reader for one in service.streams.live.values()] == [ReaderState.HELD])
    assert str(redis.client.hget(key, owner)).startswith("b'1:")
    await eventually(lambda: not redis.client.exists(key))
    assert not service.streams.live


async def test_two_processes_spend_one_budget_and_no_more(
    serve: Serve, redis: RedisServer, tmp_path: Path, client: aiohttp.ClientSession
) -> None:
    services = await fleet(serve, redis, tmp_path, "budget_usd_per_day = 0.02")

    async def ask(service: Running) -> int:
        return (await asked(client, service, "{{tokens=60 rate=400}}"))[0]

    statuses = {200}
    while 200 in statuses:
        statuses = set(await asyncio.gather(*(ask(services[n % 2]) for n in range(6))))
    assert statuses <= {402, 429}, statuses  # spent, or too little for one more of six
    await eventually(lambda: not any(service.streams.live for service in services))

    async def spent_usd() -> float:
        return sum(
            [(await scrape_of(one.admin_url)).value("caller_spent_usd_total", caller="acme") for one in services]
        )

    # What one process has drawn and not spent comes free for the other.
    async with asyncio.timeout(20):
        while await spent_usd() <= 0.015:
            await ask(services[0])
    assert 0.015 < await spent_usd() <= 0.02
    assert redis.without_expiry() == []


@pytest.mark.parametrize(
    ("policy", "known", "unknown", "places"), [("local", 200, 503, 2), ("closed", 503, 503, 0), ("open", 200, 200, 4)]
)
async def test_without_redis_each_process_lets_in_what_the_policy_says(
    serve: Serve, redis: RedisServer, tmp_path: Path, policy: str, known: int, unknown: int, places: int
) -> None:
    bounds = "budget_usd_per_day = 1\n[callers.new]\nbudget_usd_per_day = 1\n[callers.free]\nstreams = 4"
    keys = "acme:key-of-acme,new:key-of-new,free:key-of-free"
    # Of callers without a name in the metrics, as all but the first, a budget is not known before they ask.
    options = {"redis_away": policy, "api_keys": keys, "named_callers": 1}
    service, other = await fleet(serve, redis, tmp_path, bounds, **options)
    await eventually(lambda: part(service).member.processes == 2)
    async with aiohttp.ClientSession() as client:
        assert (await asked(client, service, "{{tokens=3}}"))[0] == 200
        await lose_redis(redis, service)
        assert (await asked(client, service, "{{tokens=3}}"))[0] == known
        assert (await asked(client, service, "{{tokens=3}}", "new"))[0] == unknown
        body = {"prompt": "{{tokens=5000 rate=20}}"}
        free = {"Authorization": "Bearer key-of-free"}
        answers = [await client.post(f"{service.url}/api/stream", json=body, headers=free) for _ in range(6)]
        assert [answer.status for answer in answers].count(200) == places
        # What was let in meanwhile counts for all as soon as Redis is back.
        redis.start()
        await eventually(lambda: not part(other).member.contact.away and not part(service).member.contact.away)
        if places:
            await eventually(lambda: any(":p:" in name for name in redis.names()))
        body = {"prompt": "{{tokens=5000 rate=20}}"}
        more = [await client.post(f"{other.url}/api/stream", json=body, headers=free) for _ in range(5)]
        assert [answer.status for answer in more].count(200) == 4 - places
        for answer in (*answers, *more):
            answer.close()


@pytest.mark.parametrize(("policy", "status", "places"), [("local", 200, 2), ("closed", 503, 0), ("open", 200, 4)])
async def test_a_full_redis_lets_in_what_the_policy_says_and_what_is_paid_goes_on(
    policy: str,
    status: int,
    places: int,
    serve: Serve,
    redis: RedisServer,
    tmp_path: Path,
    client: aiohttp.ClientSession,
) -> None:
    bounds = "budget_usd_per_day = 100\n[callers.free]\nstreams = 4"
    options = {"redis_away": policy, "api_keys": "acme:key-of-acme,free:key-of-free"}
    service, other = await fleet(serve, redis, tmp_path, bounds, **options)
    await eventually(lambda: part(service).member.processes == 2)
    contact = part(service).member.contact
    body = {"prompt": "{{tokens=3000 rate=2000}}"}
    paid = await client.post(f"{service.url}/api/stream", json=body, headers=ACME)
    await paid.content.readuntil(b"id: 5\n")
    redis.client.config_set("maxmemory", 1)
    free = {"Authorization": "Bearer key-of-free"}
    body = {"prompt": "{{tokens=5000 rate=20}}"}
    answers = [await client.post(f"{service.url}/api/stream", json=body, headers=free) for _ in range(6)]
    assert [answer.status for answer in answers].count(200) == places
    told = {(await answer.json())["type"] for answer in answers if answer.status != 200}
    assert told == {"fleet_away" if policy == "closed" else "rate_limit_error"}
    assert (await asked(client, service, "{{tokens=3}}"))[0] == status
    if policy != "closed":  # else it has what was drawn for it
        assert b'"done":true' in (await paid.read()).replace(b" ", b"")
    await eventually(lambda: contact.refuses == "OOM")
    async with client.get(f"{service.admin_url}/readyz") as ready:
        said = (ready.status, await ready.text())
    assert said[0] == (503 if policy == "closed" else 200)
    assert "Redis refuses limits and budgets (OOM)" in said[1]
    assert (await scrape_of(service.admin_url)).value("fleet_redis_away") == 1
    redis.client.config_set("maxmemory", 0)
    await eventually(lambda: not contact.troubled)
    assert (await scrape_of(service.admin_url)).value("fleet_redis_away") == 0
    more = [await client.post(f"{other.url}/api/stream", json=body, headers=free) for _ in range(5)]
    assert [answer.status for answer in more].count(200) == 4 - places
    for answer in (paid, *answers, *more):
        answer.close()
