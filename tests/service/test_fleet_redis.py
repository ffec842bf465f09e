"""What a fleet's Redis may do to it while a stream runs: be full or slow, forget, hand over to a replica, be out of one's reach."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.fleet.contact import RedisAway, RedisRefused
from app.fleet.mirror_rules import END_ID
from app.web.runner import Running
from tests.conftest import Serve
from tests.service.test_fleet import (
    ENDLESS,
    KEYS,
    ONE,
    ask,
    before,
    chat,
    forget_leases,
    ids,
    last_event,
    mirrored,
    part,
    path,
)
from tests.support.readers import eventually
from tests.support.redis_server import RedisServer, redis_server
from tests.support.scrape import scrape_of
from tests.support.wire import Wire

ENDED = b"%d-0" % END_ID


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
        lease = part(a).member.keys.lease(part(a).member.incarnation)
        redis.client.pexpire(lease, 1000)
        with pytest.raises(RedisRefused):
            await part(a).member.renew()
        assert redis.client.pttl(lease) > 2000, "who lives keeps the lease that it has"
        async with stream_of(client, a, "{{tokens=20}}"):
            raw = await whole(client, b, where)
        redis.client.config_set("maxmemory", 0)
        await eventually(lambda: not part(a).shadow._open)
    part(a).member.address = None  # what was refused is written when there is room again
    await forget_leases(a, b)
    assert await whole(client, b, where) == raw


async def test_a_process_that_began_while_redis_was_full_is_not_said_to_have_nothing(
    serve: Serve, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a = await serve(redis_url=redis.url, redis_timeout_s=5.0, mirror_s=0.05, api_keys=KEYS)
    redis.client.expire(part(a).member.keys.born, 600)  # as if it had been there for days
    await asked_until(client, f"{a.url}/api/stream/st0_abcdefgh.{'x' * 22}", 404)
    redis.client.config_set("maxmemory", 1)
    b = await serve(redis_url=redis.url, redis_timeout_s=5.0, mirror_s=0.05, api_keys=KEYS)
    async with stream_of(client, b, ENDLESS) as where:
        await eventually(lambda: bool(part(a).member._refused))
        async with client.get(a.url + where, headers=ONE) as answer:
            assert (answer.status, (await answer.json())["type"]) == (503, "fleet_away")
        redis.client.config_set("maxmemory", 0)
        while True:  # from then on never 404
            async with client.get(a.url + where, headers=ONE) as answer:
                if answer.status == 200:
                    await answer.content.readuntil(b"id: 10\n")
                    break
                assert answer.status == 503
            await asyncio.sleep(0.05)


async def test_a_redis_that_lets_nobody_write_is_told_of_where_no_limits_are_asked_of_it_either(
    serve: Serve, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    redis.client.acl_setuser("meant", enabled=True, passwords=["+secret"], keys=["meant:*"], commands=["+@all"])
    url = redis.url.replace("//", "//meant:secret@")
    service = await serve(redis_url=url, redis_prefix="another", redis_timeout_s=5.0)
    await eventually(lambda: bool(part(service).member.contact.refuses_us))
    assert await readiness(client, service) == (200, "ready\nRedis refuses what this process says of itself (NOPERM)\n")
    assert (await scrape_of(service.admin_url)).value("fleet_redis_away") == 1
    redis.client.acl_setuser("meant", enabled=True, keys=["another:*"], commands=["+@all"])
    await eventually(lambda: not part(service).member.contact.troubled)
    assert await readiness(client, service) == (200, "ready\n")
    assert (await scrape_of(service.admin_url)).value("fleet_redis_away") == 0


async def test_a_redis_that_tells_nothing_either_fails_no_request_and_is_to_readers_as_one_that_is_away(
    serve: Serve, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    """A replica that has lost its primary, and was told not to serve what it has."""
    a, b = await two(serve, redis.url, redis.url)
    async with stream_of(client, a, ENDLESS) as where:
        redis.client.config_set("replica-serve-stale-data", "no")
        redis.client.replicaof("127.0.0.1", "1")
        await eventually(lambda: bool(part(b).member.contact.refuses_us))
        async with client.get(b.url + where, headers=ONE) as through:  # its owner is reached where it was last
            assert through.status == 200
            await through.content.readuntil(b"id: 8\n")
        for nowhere in (f"/api/stream/st0_abcdefgh.{'x' * 22}", "/api/chat/c9/stream"):
            async with client.get(b.url + nowhere, headers=ONE) as answer:
                assert (answer.status, (await answer.json())["type"]) == (503, "fleet_away")
                assert answer.headers["Retry-After"] == "1"
        async with client.post(f"{b.url}/api/chat", json=chat("{{tokens=3}}"), headers=ONE) as answer:
            assert answer.status == 200
            assert b'"finish"' in await answer.read()
        async with client.post(f"{b.url}{where}/stop", headers=ONE) as stopped:
            assert await stopped.json() == {"stopped": True}
        redis.client.replicaof("NO", "ONE")
        await eventually(lambda: not part(b).member.contact.troubled)


async def readiness(client: aiohttp.ClientSession, service: Running) -> tuple[int, str]:
    async with client.get(f"{service.admin_url}/readyz") as answer:
        return answer.status, await answer.text()


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


async def asked_until(client: aiohttp.ClientSession, url: str, status: int, last_id: int = 0) -> bytes:
    """What is answered with this status, at last; until then that it is to be tried again, and never anything else."""
    while True:
        async with client.get(url, headers=ONE | {"Last-Event-ID": str(last_id)}) as answer:
            if answer.status == status:
                return await answer.read()
            told = await answer.json()
            assert (answer.status, told["type"]) == (503, "fleet_away"), told
            assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize("flushed", [True, False], ids=["flushed, its owner is reached", "restarted, it is not"])
async def test_what_a_living_owner_has_is_there_again_for_who_has_never_met_it_when_redis_was_emptied(
    flushed: bool, serve: Serve, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, b = await two(serve, redis.url, redis.url)
    kept = await ask(client, a, "{{tokens=20}}")
    raw = await kept.read()
    await mirrored(redis, a)
    async with stream_of(client, a, "{{tokens=150 rate=100}}") as where:
        if flushed:
            redis.client.flushall()
        else:
            part(a).member.address = None
            redis.kill()
            redis.start()
        part(b).member._believed.clear()
        part(b).member._last_known.clear()
        assert await asked_until(client, b.url + path(kept), 200) == raw
        await whole(client, b, where)


async def test_what_redis_has_forgotten_and_no_process_knows_is_said_to_be_unknown_only_when_all_had_time_to_tell(
    serve: Serve, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, _ = await two(serve, redis.url, redis.url)
    redis.client.expire(part(a).member.keys.born, 600)  # as if it had been there for days
    of_the_dead = f"{a.url}/api/stream/st0_abcdefgh.{'x' * 22}"
    await asked_until(client, of_the_dead, 404)
    redis.client.flushall()
    async with client.get(of_the_dead, headers=ONE) as answer:
        assert (answer.status, (await answer.json())["type"]) == (503, "fleet_away")
    redis.client.set(part(a).member.keys.born, "a word", ex=600)
    await asked_until(client, of_the_dead, 404)


async def test_a_stream_that_was_never_written_is_waited_for_while_its_owner_seems_to_live_and_is_lost_for_all_then(
    serve: Serve, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    """As where its process is killed, or falls asleep, within the first quarter of a second."""
    async with Wire(("127.0.0.1", redis.port)) as wire:
        a, b = await two(serve, f"redis://127.0.0.1:{wire.address[1]}/0", redis.url)
        redis.client.expire(part(b).member.keys.born, 600)
        async with before(a) as way:
            await forget_leases(a, b)
            way.cut()
            wire.cut()
            reader = await ask(client, a)
            await reader.content.readuntil(b"id: 5\n")
            async with client.get(b.url + path(reader), headers=ONE) as answer:
                assert (answer.status, (await answer.json())["type"]) == (503, "fleet_away")
            redis.client.delete(part(a).member.keys.lease(part(a).member.incarnation))
            part(b).member.contact._since = -100.0  # it had contact for as long as a lease lasts
            ends = []
            for last_id in (0, 3):
                raw = await asked_until(client, b.url + path(reader), 200, last_id)
                assert ids(raw) == []
                ends.append(last_event(raw))
            async with client.post(f"{b.url}{path(reader)}/stop", headers=ONE) as stopped:
                assert await stopped.json() == {"stopped": False}
            assert redis.without_expiry() == []
            wire.mend()
            ends.append(last_event(await reader.read()))
            assert [(end["type"], end["retryable"], end["complete"]) for end in ends] == [
                ("worker_lost", True, False)
            ] * 3
            assert (ends[0]["last_id"], ends[1]["last_id"]) == (0, 3)
            await eventually(lambda: not a.streams.live)
        assert (await scrape_of(a.admin_url)).value("streams_total", outcome="fenced") == 1
        assert (await scrape_of(b.admin_url)).value("fleet_lost_streams_total") == 1


def newest(redis: RedisServer, log: str) -> bytes:
    """The id of a log's newest entry."""
    entries: Any = redis.client.xrevrange(log, count=1)
    newest_id: bytes = entries[0][0]
    return newest_id


REFUSALS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "full": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
    "forbidden": (("ACL", "SETUSER", "default", "-@write"), ("ACL", "SETUSER", "default", "+@write")),
    "forbidden scripts": (("ACL", "SETUSER", "default", "-eval"), ("ACL", "SETUSER", "default", "+eval")),
    "without its replicas": (
        ("CONFIG", "SET", "min-replicas-to-write", "1"),
        ("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
    "read-only": (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
}


@pytest.mark.parametrize(
    "refusal",
    [name if name in ("full", "read-only") else pytest.param(name, marks=pytest.mark.soak) for name in REFUSALS],
)
async def test_whose_process_dies_while_redis_takes_nothing_is_told_here_and_redis_once_it_takes_it(
    refusal: str, serve: Serve, redis: RedisServer, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound in ("_CONNECT_S", "_HEAD_S"):  # long ones: the loop that both processes share also runs the test
        monkeypatch.setattr(f"app.web.elsewhere.carrying.{bound}", 20.0)
    do: Callable[..., object] = redis.client.execute_command
    refuse, take = REFUSALS[refusal]
    async with Wire(("127.0.0.1", redis.port)) as wire:
        a, b = await two(serve, f"redis://127.0.0.1:{wire.address[1]}/0", redis.url)
        redis.client.expire(part(b).member.keys.born, 600)
        async with before(a) as way:
            await forget_leases(a, b)
            reader = await ask(client, a, ENDLESS)
            log = part(a).member.keys.stream(reader.headers["X-Stream-Id"]).log
            await eventually(lambda: redis.client.xlen(log) > 1)
            through = await client.get(b.url + path(reader), headers=ONE)
            wire.cut()
            lease = part(a).member.keys.lease(part(a).member.incarnation)
            redis.client.delete(lease)
            do(*refuse)
            await eventually(lambda: bool(part(b).member._refused))
            part(b).member.contact._heard_since = -100.0  # it had contact for as long as a lease lasts
            unwritten = await ask(client, a, ENDLESS)
            had = await through.content.readuntil(b"id: 6\n")
            way.cut()  # its owner is reached again, and no lease tells that it lives
            way.mend()
            had += await through.content.readuntil(b"id: 20\n")
            assert had.endswith(b"id: 20\n")
            way.cut()
            raw = had + await through.read()
            assert ids(raw) == list(range(1, 1 + len(ids(raw))))
            ends = [last_event(raw)]
            assert ends[0]["last_id"] == ids(raw)[-1]
            for other, last_id in ((reader, 3), (reader, 10_000), (unwritten, 0)):
                raw = await asked_until(client, b.url + path(other), 200, last_id)
                ends.append(last_event(raw))
                assert ends[-1]["last_id"] == (ids(raw) or [last_id])[-1]
            assert [(end["type"], end["retryable"], end["complete"]) for end in ends] == [
                ("worker_lost", True, False)
            ] * 4
            assert newest(redis, log) != ENDED
            do(*take)
            redis.client.set(lease, b"{}", px=60_000)  # as if its owner, who only slept, had been the first to say so
            await eventually(lambda: newest(redis, log) == ENDED)
            wire.mend()
            await eventually(lambda: not a.streams.live)
        assert (await scrape_of(a.admin_url)).value("streams_total", outcome="fenced") == 2
        assert (await scrape_of(b.admin_url)).value("fleet_lost_streams_total") == 2
    assert redis.without_expiry() == []


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
