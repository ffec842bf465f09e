"""What callers say that is not so: ids that nobody gave, frames that nobody wrote; and names of chats as odd as they come."""

from __future__ import annotations

import asyncio
import json
import logging
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from app.fleet.names import id_prefix
from app.fleet.proof import mark
from app.web.elsewhere.copying import MOST_UNWRITTEN
from app.web.runner import Running
from tests.service.test_fleet import (
    ENDLESS,
    ONE,
    TWO,
    Processes,
    ask,
    before,
    chat,
    forget_leases,
    ids,
    last_event,
    part,
    path,
)
from tests.service.test_fleet import processes as processes
from tests.service.test_fleet import redis as redis
from tests.service.test_fleet import redis_of_module as redis_of_module
from tests.support.readers import eventually
from tests.support.redis_server import RedisServer
from tests.support.scrape import scrape_of

DEAD = "deadabcd"
UNKNOWN = "no stream of yours has this id"
ABOVE = "Last-Event-ID is above the stream's last"


def bury(redis: RedisServer, judge: Running) -> None:
    """A process of that name died a moment ago, and the other one can say so."""
    member = part(judge).member
    redis.client.set(member.keys.place(DEAD), json.dumps({"v": 1, "host": "127.0.0.1", "port": 1}), ex=3600)
    member.contact._since = -100.0


async def told(client: aiohttp.ClientSession, url: str, last_id: int = 0) -> tuple[int, str]:
    """A status, and what a refusal says."""
    async with client.get(url, headers=ONE | {"Last-Event-ID": str(last_id)}) as answer:
        said = (await answer.json())["error"] if answer.content_type == "application/json" else ""
        return answer.status, said


async def test_of_a_dead_process_ids_that_it_never_gave_are_unknown_and_nothing_is_written_or_counted_for_them(
    processes: Processes, redis: RedisServer, client: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    (b,) = await processes(1)
    bury(redis, b)
    secret = part(b).member.secret
    assert secret is not None
    prefix = id_prefix(0, DEAD)
    real = f"{prefix}{'x' * 22}"
    real += mark(secret, real)
    other = id_prefix(0, part(b).member.incarnation) + "x" * 22
    guesses = [f"{prefix}{'x' * 22}", f"{prefix}g", real[:-1], f"{real}a", real.swapcase(), prefix + real[13:][::-1]]
    guesses += [prefix + (other + mark(secret, other))[13:]]
    keys = set(redis.names())
    caplog.set_level(logging.INFO, "app")
    for guess in guesses:
        where = f"{b.url}/api/stream/{guess}"
        assert await told(client, where) == (404, UNKNOWN)
        for method, at in (("HEAD", where), ("DELETE", where), ("POST", f"{where}/stop")):
            async with client.request(method, at, headers=TWO) as answer:
                assert answer.status == 404
    assert set(redis.names()) <= keys
    assert not any(DEAD in line for line in caplog.messages)
    for _ in range(2):
        async with client.get(f"{b.url}/api/stream/{real}", headers=TWO) as lost:
            assert last_event(await lost.read())["type"] == "worker_lost", (
                "it may have been about to write its first frame"
            )
    assert (await scrape_of(b.admin_url)).value("fleet_lost_streams_total") == 1


async def test_whose_a_stream_is_nobody_else_learns_nor_whether_its_process_lives(
    processes: Processes, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()
    bury(redis, b)
    reader = await ask(client, a)
    others = [
        path(reader),
        *(f"/api/stream/{id_prefix(0, name)}x" for name in (part(a).member.incarnation, DEAD, "neverwas")),
    ]
    for service in (a, b):
        for where in others:
            async with client.get(service.url + where, headers=TWO) as answer:
                assert (answer.status, (await answer.json())["error"]) == (404, UNKNOWN)
    reader.close()


async def test_who_says_that_he_has_more_than_was_written_is_refused_by_whoever_he_asks(
    processes: Processes, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()
    ended, runs = await ask(client, a, "{{tokens=20 rate=200}}"), await ask(client, a, policy="drain")
    last_id = ids(await ended.read())[-1]
    await runs.content.readuntil(b"id: 20\n")
    runs.close()
    await eventually(lambda: redis.client.xlen(part(a).member.keys.stream(ended.headers["X-Stream-Id"]).log) > 2)
    for service in (a, b):
        assert await told(client, service.url + path(ended), last_id + 1) == (400, f"{ABOVE}, {last_id}")
        assert (await told(client, service.url + path(runs), 99_999))[0] == 400
    async with before(a) as way:
        await forget_leases(a, b)
        way.cut()
        for beyond in (last_id + 1, 999_999_999_999):
            assert await told(client, b.url + path(ended), beyond) == (400, f"{ABOVE}, {last_id}")
            status, said = await told(client, b.url + path(runs), max(beyond, 90_000))
            assert (status, said.partition(", ")[0]) == (400, ABOVE)
    session = a.streams.live[runs.headers["X-Stream-Id"]]
    log = part(a).member.keys.stream(session.terms.stream_id).log
    redis.client.xadd(log, {"e": "worker_lost", "n": 20}, id=f"{2**53 - 1}-0")
    await eventually(lambda: not a.streams.live)
    async with before(a) as way:
        await forget_leases(a, b)
        way.cut()
        assert (await told(client, b.url + path(runs), session.replay.last_id + MOST_UNWRITTEN + 1))[0] == 400
        # What a dead process gave its reader and had no time to write, nobody knows.
        had = session.replay.last_id + 10
        async with client.get(b.url + path(runs), headers=ONE | {"Last-Event-ID": str(had)}) as lost:
            assert last_event(await lost.read())["last_id"] == had


async def test_who_has_more_than_is_written_yet_is_served_once_it_is(
    processes: Processes, client: aiohttp.ClientSession
) -> None:
    a, b = await processes(mirror_s=0.4)
    reader = await ask(client, a)
    async with before(a) as way:
        await forget_leases(a, b)
        way.cut()
        await reader.content.readuntil(b"id: 20\n")
        async with client.get(b.url + path(reader), headers=ONE | {"Last-Event-ID": "20"}) as rest:
            assert rest.status == 200
            assert ids(await rest.content.readuntil(b"id: 21\n")) == [21]
    reader.close()


async def test_a_reader_from_afar_who_is_said_to_have_more_than_was_written_is_none(
    processes: Processes, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    (a,) = await processes(1)
    reader = await ask(client, a)
    await reader.content.readuntil(b"id: 2\n")
    reader.close()
    stream_id = reader.headers["X-Stream-Id"]
    session = a.streams.live[stream_id]
    await eventually(lambda: session.delivery.connection is None)
    key = part(a).member.keys.far(part(a).member.incarnation)
    redis.client.hset(key, stream_id, "999999999999:1")
    await eventually(lambda: not redis.client.hexists(key, stream_id))
    assert session.delivery.connection is None
    redis.client.hset(key, stream_id, "1:2")
    await eventually(lambda: session.delivery.connection is not None)


ODD = [
    "a{b",
    "a}b",
    "{id}",
    "{",
    "%7B",
    "a%2Fb",
    "a/b",
    "🦄 ü",
    "a?b#c&d=e",
    "a+b;c",
    'a\\b|^`"<>',
    "é",
    "a:b@c",
    "%",
    "~.-_",
]


async def test_a_chat_of_any_name_is_resumed_and_stopped_from_anywhere(
    processes: Processes, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()

    async def used(name: str) -> None:
        async with client.post(f"{a.url}/api/chat", json=chat(ENDLESS) | {"id": name}, headers=ONE) as asked:
            assert asked.status == 200, name
            await asked.content.readuntil(b"\n\n")
            for service in (a, b):
                where = f"{service.url}/api/chat/{quote(name, safe='')}"
                again = await client.get(URL(f"{where}/stream", encoded=True), headers=ONE)
                assert again.status == 200, (name, service is a)
                await again.content.readuntil(b"\n\n")
            async with client.post(URL(f"{where}/stop", encoded=True), headers=ONE) as stopped:
                assert await stopped.json() == {"stopped": True}, name

    await asyncio.gather(*map(used, ODD))
    await eventually(lambda: not a.streams.live)
