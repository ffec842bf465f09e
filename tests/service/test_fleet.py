"""Several processes on one Redis: what a reader meets that comes back to another one than it left."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from yarl import URL

from app.errors import Overloaded
from app.fleet.contact import RedisAway
from app.fleet.names import Keys
from app.fleet.proof import PROOF, proof
from app.settings.sections import ReaderBounds
from app.streams.lifecycle import ReaderState
from app.tools.simulator.server import Simulator
from app.web.elsewhere.carrying import ANSWERED, Carrier, Place
from app.web.fleet import Fleet
from app.web.http.errors import error_response
from app.web.runner import Running
from tests.conftest import Serve
from tests.support.readers import Reader, eventually
from tests.support.redis_server import RedisServer, redis_server
from tests.support.scrape import scrape_of
from tests.support.wire import Wire

KEYS = "one:key-of-one,two:key-of-two"
ONE = {"Authorization": "Bearer key-of-one"}
TWO = {"Authorization": "Bearer key-of-two"}
ENDLESS = "{{tokens=5000 rate=100}}"

Processes = Callable[..., Awaitable[list[Running]]]


@pytest.fixture(scope="module")
def redis_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis(redis_of_module: RedisServer) -> RedisServer:
    redis_of_module.client.flushall()
    return redis_of_module


@pytest.fixture
def processes(serve: Serve, redis: RedisServer) -> Processes:
    """Starts so many processes of a fleet, in this one, and waits until each can reach the others."""

    async def start(count: int = 2, **given: object) -> list[Running]:
        # Long deadlines: the loop that all of them share also runs the test.
        options = {"redis_url": redis.url, "redis_timeout_s": 5.0, "mirror_s": 0.05, "api_keys": KEYS} | given
        started = [await serve(**options) for _ in range(count)]
        for one in started:
            member = part(one).member
            await eventually(lambda member=member: member.address is not None and member.secret is not None)  # type: ignore[misc]
            await member.beat()
        redis.client.expire(Keys("slw").born, 600)  # as if it had been there for days
        return started

    return start


def part(service: Running) -> Fleet:
    found = service.service.part
    assert isinstance(found, Fleet)
    return found


async def ask(
    client: aiohttp.ClientSession, service: Running, prompt: str = ENDLESS, **body: object
) -> aiohttp.ClientResponse:
    asked = {"prompt": prompt, "resumable": True} | body
    response = await client.post(f"{service.url}/api/stream", json=asked, headers=ONE)
    assert response.status == 200, await response.text()
    return response


def chat(prompt: str, resumable: bool = True) -> dict[str, Any]:
    said = {"id": "u", "role": "user", "parts": [{"type": "text", "text": prompt}]}
    return {"id": "c/1", "messages": [said], "resumable": resumable}


def path(response: aiohttp.ClientResponse) -> str:
    return f"/api/stream/{response.headers['X-Stream-Id']}"


def ids(raw: bytes) -> list[int]:
    return [int(line[4:]) for line in raw.split(b"\n") if line.startswith(b"id: ")]


def last_event(raw: bytes) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(raw.strip().rpartition(b"data: ")[2])
    return told


async def lose_redis(redis: RedisServer, *services: Running) -> None:
    """Redis is killed, and the processes have found it out."""
    redis.kill()
    for service in services:
        while not part(service).member.contact.away:
            with suppress(RedisAway):
                await part(service).member.beat()


@asynccontextmanager
async def before(service: Running) -> AsyncIterator[Wire]:
    """A wire before a process's port for the others, by which it says that it is reached."""
    member = part(service).member
    assert member.address is not None, "it listens"
    async with Wire(member.address) as wire:
        member.address = wire.address
        yield wire


async def forget_leases(owner: Running, other: Running) -> None:
    """What the owner says of itself now is what the other one believes."""
    await part(owner).member.beat()
    part(other).member._believed.clear()
    part(other).member._last_known.clear()


async def test_a_process_that_serves_is_found_at_once_also_by_a_redis_that_is_as_new_as_it_is(
    serve: Serve, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, b = [await serve(redis_url=redis.url, redis_timeout_s=5.0, mirror_s=10.0, api_keys=KEYS) for _ in range(2)]
    for member in (part(a).member, part(b).member):
        for key in (member.keys.lease(member.incarnation), member.keys.place(member.incarnation)):
            assert json.loads(redis.client.get(key) or "{}").get("port"), "it is told before anybody is served"
    reader = await ask(client, a)
    async with client.get(b.url + path(reader), headers=ONE) as resumed:
        assert resumed.status == 200, await resumed.text()
    async with client.post(f"{b.url}{path(reader)}/stop", headers=ONE) as stopped:
        assert await stopped.json() == {"stopped": True}
    await reader.read()


async def mirrored(redis: RedisServer, service: Running) -> None:
    """Waits until everything of the process's streams is in Redis."""
    await eventually(lambda: not part(service).shadow._open)
    assert redis.without_expiry() == []


async def test_a_reader_comes_back_anywhere_and_has_every_frame_once(
    processes: Processes, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()
    reader = await ask(client, a, "{{tokens=60 rate=200}}")
    had = await reader.content.readuntil(b"id: 4\n")
    reader.close()
    async with client.get(b.url + path(reader), headers=ONE | {"Last-Event-ID": "3"}) as rest:
        assert (rest.status, rest.headers["X-Stream-Id"]) == (200, reader.headers["X-Stream-Id"])
        raw = await rest.read()
    assert ids(had)[:3] == [1, 2, 3]
    assert ids(raw) == list(range(4, 4 + len(ids(raw))))
    assert last_event(raw)["done"] is True


async def test_a_stream_is_stopped_steered_and_looked_at_from_anywhere(
    processes: Processes, client: aiohttp.ClientSession, simulator: Simulator
) -> None:
    a, b = await processes()
    reader = await ask(client, a, credits=True)
    await reader.content.readuntil(b"id: 2\n")
    session = a.streams.live[reader.headers["X-Stream-Id"]]
    for slashes in ("", "/"):
        url = URL(f"{b.url}{slashes}{path(reader)}/gauges", encoded=True)
        async with client.get(url, headers=ONE) as gauges:
            assert (await gauges.json())["basis"] == "estimated"
    connection = session.delivery.connection
    assert connection is not None
    assert connection.credits is not None
    async with client.post(f"{b.url}{path(reader)}/shown", json={"id": 1}, headers=ONE) as shown:
        assert shown.status == 204
    assert connection.credits.shown_bytes > 0
    token = {"stop_token": reader.headers["X-Stop-Token"]}
    async with client.post(f"{b.url}{path(reader)}/stop", json=token) as stopped:
        assert await stopped.json() == {"stopped": True}
    assert last_event(await reader.read())["type"] == "stopped"
    await eventually(lambda: not a.streams.live)


async def test_a_request_whose_reader_has_left_is_passed_on_to_nobody(
    processes: Processes, client: aiohttp.ClientSession
) -> None:
    """As those that wait at a process while it sleeps: to their stream's owner they would come as if their reader were there."""
    a, b = await processes()
    reader = await ask(client, a, "{{tokens=100 rate=100}}")
    raw = await reader.content.readuntil(b"id: 3\n")
    url = URL(b.url)
    asked = f"GET {path(reader)} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer key-of-one\r\n\r\n"
    async with before(a) as wire:
        await forget_leases(a, b)
        for _ in range(20):
            await part(b).member.lease_of(part(a).member.incarnation)  # so that nothing else holds the request up
            with socket.create_connection((url.host, url.port)) as left:  # in one go, before the loop runs again
                left.sendall(asked.encode())
            await asyncio.sleep(0.02)
        assert wire.carried == 0
    raw += await reader.read()
    assert b'"taken_over"' not in raw
    assert b'"done":true' in raw


async def test_a_slow_reader_through_another_process_holds_claude_still(
    processes: Processes, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()
    reader = await ask(client, a, "{{tokens=60000}}")
    await reader.content.readuntil(b"id: 2\n")
    through = await Reader.connect(b.url, 4096)
    await through.send(through.request(b"", method="GET", path=path(reader), headers=ONE))
    assert await through.head() == 200  # it takes over, and then takes nothing
    session = a.streams.live[reader.headers["X-Stream-Id"]]
    chars = session.page.account.tally.chars
    before = chars["text"]  # what the first reader had, more on a busy machine
    assert last_event(await reader.read())["type"] == "taken_over"
    await eventually(lambda: session.channel.paused)
    # What waits below a reader at the owner, and as much again on each side of the hop.
    assert chars["text"] - before <= 32_768
    assert session.lifecycle.reader is ReaderState.ATTACHED
    scrape = await scrape_of(b.admin_url)
    assert scrape.value("fleet_relayed_readers") == 1
    through.leave()
    await eventually(lambda: session.lifecycle.reader is not ReaderState.ATTACHED)


async def test_nobody_reads_or_stops_anothers_stream_from_anywhere(
    processes: Processes, client: aiohttp.ClientSession, redis: RedisServer
) -> None:
    a, b = await processes()
    reader = await ask(client, a, "{{tokens=5}}")
    await reader.read()
    await mirrored(redis, a)

    async def answers() -> list[int]:
        calls = [("GET", "", TWO), ("POST", "/stop", TWO), ("POST", "/shown", TWO), ("POST", "/stop", wrong)]
        return [
            (await client.request(method, b.url + path(reader) + end, headers=headers, json={"id": 1})).status
            for method, end, headers in calls
        ]

    wrong = {"X-Stop-Token": "x" * 24}
    assert await answers() == [404, 404, 404, 404]
    part(a).member.address = None  # it cannot be reached any more: Redis tells the same
    await forget_leases(a, b)
    assert await answers() == [404, 404, 404, 404]
    assert (await client.get(b.url + path(reader), headers=ONE)).status == 200


async def test_what_has_ended_is_read_from_redis_when_its_process_is_gone(
    serve: Serve, processes: Processes, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()
    whole = []
    for prompt in ("{{tokens=40}}", "{{tokens=4000}}"):
        reader = await ask(client, a, prompt)
        whole.append((path(reader), await reader.read()))
    await mirrored(redis, a)
    part(a).member.address = None
    await forget_leases(a, b)
    for where, raw in whole:
        async with client.get(b.url + where, headers=ONE) as again:
            assert await again.read() == raw
        async with client.get(b.url + where, headers=ONE | {"Last-Event-ID": "1"}) as rest:
            assert await rest.read() == raw[raw.index(b"id: 2\n") :]
        async with client.head(b.url + where, headers=ONE) as head:
            assert head.status == 200
        async with client.post(f"{b.url}{where}/stop", headers=ONE) as stopped:
            assert await stopped.json() == {"stopped": False}
    assert (await client.get(f"{b.url}/api/stream/st0_abcdefgh.never", headers=ONE)).status == 404


async def test_a_stream_that_nobody_came_back_for_has_expired_everywhere(
    processes: Processes, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()
    reader = await ask(client, a, grace_s=0.1)
    await reader.content.readuntil(b"id: 3\n")
    reader.close()
    await eventually(lambda: not a.streams.live)
    await mirrored(redis, a)
    part(a).member.address = None
    await forget_leases(a, b)
    async with client.get(b.url + path(reader), headers=ONE) as gone:
        assert (gone.status, (await gone.json())["type"]) == (410, "expired")


@pytest.mark.parametrize("policy", ["grace", "drain"])
@pytest.mark.parametrize("way", ["drained", "stopped"])
async def test_what_ended_while_its_reader_was_away_is_read_everywhere_with_the_reason(
    policy: str, way: str, processes: Processes, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()
    reader = await ask(client, a, policy=policy)
    had = await reader.content.readuntil(b"id: 3\n")
    reader.close()
    session = a.streams.live[path(reader).rpartition("/")[2]]
    await eventually(lambda: session.lifecycle.reader in (ReaderState.HELD, ReaderState.DRAINING))
    if way == "drained":
        await a.streams.drain(0.0)
    else:
        async with client.post(f"{b.url}{path(reader)}/stop", headers=ONE) as stopped:
            assert await stopped.json() == {"stopped": True}
    await eventually(lambda: not a.streams.live)
    await mirrored(redis, a)
    raws = []
    for service in (a, b, b):
        async with client.get(service.url + path(reader), headers=ONE) as again:
            assert again.status == 200
            raws.append(await again.read())
        part(a).member.address = None  # from now on it is read from Redis
        await forget_leases(a, b)
    assert raws[0] == raws[1] == raws[2]
    assert raws[0].startswith(had)
    assert ids(raws[0]) == list(range(1, 1 + len(ids(raws[0]))))
    assert last_event(raws[0])["type"] == ("shutdown" if way == "drained" else "stopped")


async def test_a_chats_next_question_ends_its_answer_wherever_that_runs(
    processes: Processes, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()
    older = await client.post(f"{a.url}/api/chat", json=chat(ENDLESS), headers=ONE)
    await older.content.readuntil(b"text-delta")
    newer = await client.post(f"{b.url}/api/chat", json=chat("{{tokens=20}}"), headers=ONE)
    assert b'"taken_over"' in await older.read()
    raw = await newer.read()
    assert raw.endswith(b"data: [DONE]\n\n")
    async with client.get(f"{a.url}/api/chat/c%2F1/stream", headers=ONE) as again:
        assert (again.status, await again.read()) == (200, raw)
    async with client.get(f"{a.url}/api/chat/c%2F1/stream", headers=TWO) as others:
        assert others.status == 204


async def test_a_stream_that_is_not_resumable_costs_no_command(
    processes: Processes, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    (a,) = await processes(1)
    before = redis.names()
    reader = await ask(client, a, "{{tokens=50}}", resumable=False)
    await reader.read()
    await part(a).shadow.flush()
    assert redis.names() == before


async def test_the_peers_port_answers_only_who_proves_to_mean_it(
    processes: Processes, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()
    reader = await ask(client, a, "{{tokens=5}}")
    await reader.read()
    member = part(a).member
    assert member.address is not None
    assert member.secret is not None
    assert member.secret == part(b).member.secret
    at = f"http://{member.address[0]}:{member.address[1]}"

    async def status(target: str, said: str, method: str = "GET") -> int:
        async with client.request(method, at + target, headers=ONE | {PROOF: said}) as answer:
            assert (ANSWERED in answer.headers) is (answer.status == 404)  # of a stream's head its content says enough
            return answer.status

    good = proof(member.secret, member.incarnation, "GET", path(reader))
    assert await status(path(reader), good) == 200
    assert await status(path(reader), "") == 421
    assert await status(path(reader), proof(b"another secret", member.incarnation, "GET", path(reader))) == 421
    assert await status(path(reader), proof(member.secret, "abcdefgh", "GET", path(reader))) == 421
    assert await status(path(reader) + "/stop", good, "POST") == 421
    ours = proof(member.secret, member.incarnation, "POST", "/api/stream")
    assert await status("/api/stream", ours, "POST") == 404  # nothing is started there
    async with client.get(a.url + path(reader), headers=TWO | {PROOF: good}) as public:
        assert public.status == 404  # and on the public port it means nothing
    carrier, secret = Carrier(ReaderBounds()), member.secret
    for name, there in ((member.incarnation, True), ("abcdefgh", False)):  # who died may have had that port before
        proven = lambda method, target, name=name: {PROOF: proof(secret, name, method, target)}  # noqa: E731
        place = Place(host=member.address[0], port=member.address[1], headers=proven)
        assert await carrier.answers(place) is there
    for session in carrier._sessions.values():
        await session.close()


async def test_without_redis_streams_start_or_not_as_it_is_set_and_readers_are_told(
    processes: Processes, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    local, closed = [(await processes(1, redis_away=policy))[0] for policy in ("local", "closed")]
    await lose_redis(redis, local, closed)
    try:
        reader = await ask(client, local, "{{tokens=5}}")
        assert last_event(await reader.read())["done"] is True
        async with client.get(f"{local.url}/api/stream/st0_abcdefgh.elsewhere", headers=ONE) as elsewhere:
            assert (elsewhere.status, (await elsewhere.json())["type"]) == (503, "fleet_away")
            assert elsewhere.headers["Retry-After"] == "1"
        async with client.post(f"{closed.url}/api/stream", json={"prompt": "Go."}, headers=ONE) as refused:
            assert (refused.status, (await refused.json())["type"]) == (503, "fleet_away")
        probes = []
        for service in (local, closed):
            async with client.get(f"{service.admin_url}/readyz") as probe:
                probes.append((probe.status, await probe.text()))
        assert probes == [(200, "ready\nRedis is away\n"), (503, "Redis is away\n")]
        assert (await scrape_of(local.admin_url)).value("fleet_redis_away") == 1
    finally:
        redis.start()
    await eventually(lambda: not part(closed).member.contact.away)
    assert last_event(await (await ask(client, closed, "{{tokens=5}}")).read())["done"] is True


async def test_what_redis_forgot_is_written_again(
    processes: Processes, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()
    reader = await ask(client, a, "{{tokens=300 rate=100}}")
    await reader.content.readuntil(b"id: 8\n")
    redis.kill()
    redis.start()
    raw_rest = await reader.read()
    assert last_event(raw_rest)["done"] is True
    await mirrored(redis, a)
    part(a).member.address = None
    await eventually(lambda: not part(b).member.contact.away)
    await forget_leases(a, b)
    async with client.get(b.url + path(reader), headers=ONE) as again:
        raw = await again.read()
    assert raw.endswith(raw_rest)
    assert ids(raw) == list(range(1, 1 + len(ids(raw))))
    assert (await scrape_of(a.admin_url)).value("fleet_redis_healed_frames_total") > 0


async def test_readers_take_two_connections_to_redis_however_many_they_are(
    processes: Processes, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()
    reader = await ask(client, a, policy="drain")
    await reader.content.readuntil(b"id: 3\n")
    part(a).member.address = None
    await forget_leases(a, b)
    readers = [await client.get(b.url + path(reader), headers=ONE) for _ in range(30)]
    for one in readers:
        await one.content.readuntil(b"id: 12\n")
    assert redis.connections() == 4  # two of each process
    assert (await scrape_of(b.admin_url)).value("fleet_copied_readers") == 30
    for one in readers:
        one.close()


async def test_a_stream_that_another_process_ended_lets_go_of_claude_and_is_booked_so(
    processes: Processes, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, _ = await processes()
    reader = await ask(client, a)
    await reader.content.readuntil(b"id: 3\n")
    key = part(a).member.keys.stream(reader.headers["X-Stream-Id"]).log
    await eventually(lambda: redis.client.exists(key) == 1)
    redis.client.xadd(key, {"e": "worker_lost", "n": 2}, id=f"{2**53 - 1}-0")
    raw = await reader.read()
    told = last_event(raw)
    assert (told["type"], told["retryable"], told["complete"]) == ("worker_lost", True, False)
    await eventually(lambda: not a.streams.live)
    assert (await scrape_of(a.admin_url)).value("upstreams_active") == 0


async def test_what_its_owner_has_let_go_of_ends_where_redis_ends(
    processes: Processes, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()
    reader = await ask(client, a, policy="drain")
    await reader.content.readuntil(b"id: 4\n")
    stream_id = reader.headers["X-Stream-Id"]
    log = part(a).member.keys.stream(stream_id).log
    await eventually(lambda: redis.client.xlen(log) > 1)
    part(a).shadow.forgotten(a.streams.live[stream_id].terms)
    async with client.post(f"{a.url}{path(reader)}/stop", headers=ONE) as stopped:
        assert await stopped.json() == {"stopped": True}
    await eventually(lambda: not a.streams.live)
    a.streams._archive.forget(a.streams._archive.after(stream_id).terms)  # type: ignore[union-attr]
    async with client.get(b.url + path(reader), headers=ONE) as rest:
        raw = await rest.read()
    assert ids(raw) == list(range(1, 1 + len(ids(raw))))
    assert len(ids(raw)) >= 3
    assert last_event(raw)["type"] == "expired"


async def test_a_process_that_was_asleep_learns_of_streams_that_have_nothing_to_write_too(
    processes: Processes, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()
    reader = await ask(client, a, "{{tokens=50 rate=0.02}}")
    await reader.content.readuntil(b"id: 1\n")
    key = part(a).member.keys.stream(reader.headers["X-Stream-Id"]).log
    await eventually(lambda: redis.client.xlen(key) == 2)
    redis.client.xadd(key, {"e": "worker_lost", "n": 1}, id=f"{2**53 - 1}-0")
    mirror = part(a).shadow
    mirror.look_anew(asleep=True)
    async with client.get(b.url + path(reader), headers=ONE) as elsewhere:  # a takes nobody before it knows
        assert last_event(await elsewhere.read())["type"] == "worker_lost"
    assert last_event(await reader.read())["type"] == "worker_lost"
    await eventually(lambda: not mirror.in_doubt)


@pytest.mark.parametrize("harm", [Wire.cut, Wire.stall])
async def test_a_reader_whose_owner_is_cut_off_in_the_middle_is_served_on_from_redis_and_by_the_owner_again(
    harm: Callable[[Wire], None], processes: Processes, client: aiohttp.ClientSession
) -> None:
    """Also where no FIN and no RST tells of it."""
    a, b = await processes()
    async with before(a) as wire:
        await forget_leases(a, b)
        reader = await ask(client, a, "{{tokens=5000 rate=100}}")
        await reader.content.readuntil(b"id: 3\n")
        async with client.get(b.url + path(reader), headers=ONE) as through:
            raw = await through.content.readuntil(b"id: 9\n")
            harm(wire)
            while (await scrape_of(b.admin_url)).value("fleet_relayed_readers"):
                raw += await through.content.readany()
            harmed, wire.carried = len(ids(raw)), 0
            while len(ids(raw)) < harmed + 10:
                raw += await through.content.readany()
            wire.mend()
            await eventually(lambda: wire.carried > 0)
            while not (await scrape_of(b.admin_url)).value("fleet_relayed_readers"):
                raw += await through.content.readany()
            async with client.post(f"{b.url}{path(reader)}/stop", headers=ONE) as stopped:
                assert await stopped.json() == {"stopped": True}
            raw += await through.read()
        assert ids(raw) == list(range(1, 1 + len(ids(raw))))
        assert last_event(raw)["type"] == "stopped"
        reader.close()


async def test_who_cannot_reach_a_living_owner_reads_redis_while_it_is_waited_for_and_stops_it_there(
    processes: Processes, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()
    async with before(a) as wire:
        wire.cut()
        await forget_leases(a, b)
        reader = await ask(client, a, grace_s=20)
        await reader.content.readuntil(b"id: 3\n")
        reader.close()
        session = a.streams.live[reader.headers["X-Stream-Id"]]
        await eventually(lambda: session.held_until is not None and session.channel.paused)
        async with client.get(b.url + path(reader), headers=ONE) as elsewhere:
            raw = await elsewhere.content.readuntil(b"id: 40\n")  # far more than Claude was held still at
            assert ids(raw) == list(range(1, 41))
            assert session.lifecycle.reader is ReaderState.ATTACHED
            token = {"stop_token": reader.headers["X-Stop-Token"]}
            async with client.post(f"{b.url}{path(reader)}/stop", json=token) as stopped:
                assert await stopped.json() == {"stopped": True}
            assert last_event(await elsewhere.read())["type"] == "stopped"
        async with client.post(f"{b.url}{path(reader)}/stop", json=token) as stopped:
            assert await stopped.json() == {"stopped": False}


async def test_who_is_turned_away_by_a_crowd_at_the_owners_port_reads_redis_and_stops_the_stream_there(
    processes: Processes, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()
    refusal = error_response(Overloaded("all 60 connections of this service are in use"), "/").body

    async def turn_away(_request: web.BaseRequest) -> web.Response:
        return web.Response(status=503, body=refusal, content_type="application/json")

    async with RawTestServer(turn_away) as crowded:
        part(a).member.address = ("127.0.0.1", crowded.port or 0)
        await forget_leases(a, b)
        reader = await ask(client, a)
        await reader.content.readuntil(b"id: 3\n")
        async with client.get(b.url + path(reader), headers=ONE) as elsewhere:
            assert elsewhere.status == 200
            assert ids(await elsewhere.content.readuntil(b"id: 5\n")) == [1, 2, 3, 4, 5]
            async with client.post(f"{b.url}{path(reader)}/stop", headers=ONE) as stopped:
                assert (stopped.status, await stopped.json()) == (200, {"stopped": True})
        reader.close()


async def test_who_reads_redis_is_given_signs_of_life_while_nothing_comes(
    processes: Processes, client: aiohttp.ClientSession
) -> None:
    a, b = await processes(heartbeat_s=300)
    async with before(a) as wire:
        wire.cut()
        await forget_leases(a, b)
        reader = await ask(client, a, "{{tokens=5 rate=0.01}}")
        await reader.content.readuntil(b"id: 1\n")
        await eventually(lambda: all(one.standing.written_id > 0 for one in part(a).shadow._open.values()))
        async with client.get(b.url + path(reader), headers=ONE) as elsewhere:
            raw = b""
            while raw.count(b": keep-alive\n") < 2:
                raw += await elsewhere.content.readany()
        assert ids(raw) == [1]
        reader.close()


async def test_a_chats_next_question_ends_its_answer_also_at_a_process_that_cannot_be_reached(
    processes: Processes, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()
    async with before(a) as wire:
        wire.cut()
        await forget_leases(a, b)
        for resumable in (True, False):
            older = await client.post(f"{a.url}/api/chat", json=chat(ENDLESS, resumable), headers=ONE)
            await older.content.readuntil(b"text-delta")
            newer = await client.post(f"{b.url}/api/chat", json=chat("{{tokens=20}}", resumable), headers=ONE)
            assert b'"taken_over"' in await older.read()
            raw = await newer.read()
            assert raw.endswith(b"data: [DONE]\n\n")
            await eventually(lambda: not a.streams.live)
        assert not a.streams._archive.names()


async def test_a_chat_is_found_again_by_its_name_after_redis_has_forgotten_everything(
    processes: Processes, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, b = await processes()
    said = {"id": "u", "role": "user", "parts": [{"type": "text", "text": "{{tokens=20}}"}]}
    asked = {"id": "c", "messages": [said], "resumable": True}
    answer = await client.post(f"{a.url}/api/chat", json=asked, headers=ONE)
    raw = await answer.read()
    log = part(a).member.keys.stream(answer.headers["X-Stream-Id"]).log
    await mirrored(redis, a)
    redis.client.flushall()
    async with client.get(f"{b.url}/api/chat/c/stream", headers=ONE) as early:  # unless it has been told meanwhile
        assert (early.status, await early.read()) == (200, raw) or early.status == 503
    await part(a).member.beat()
    async with client.get(f"{b.url}/api/chat/c/stream", headers=ONE) as again:
        assert (again.status, await again.read()) == (200, raw)
    await eventually(lambda: redis.client.exists(log) == 1)  # what has ended is written again too
    assert redis.without_expiry() == []


async def test_what_memory_was_needed_for_others_redis_still_has(
    processes: Processes, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    a, b = await processes(replay_total_bytes=20_000)
    kept = await ask(client, a, "{{tokens=400}}")
    raw = await kept.read()
    await mirrored(redis, a)
    while a.streams._archive.after(kept.headers["X-Stream-Id"]).frames.replay.size_bytes:  # type: ignore[union-attr]
        await (await ask(client, a, "{{tokens=400}}")).read()
    for service in (a, b):
        async with client.get(service.url + path(kept), headers=ONE) as again:
            assert (again.status, await again.read()) == (200, raw)
    redis.client.delete(part(a).member.keys.stream(kept.headers["X-Stream-Id"]).about)
    for service in (a, b):
        async with client.get(service.url + path(kept), headers=ONE) as gone:
            assert (gone.status, (await gone.json())["type"]) == (410, "expired")


async def test_who_is_served_first_is_not_told_that_redis_is_away_and_is_passed_on(
    serve: Serve, redis: RedisServer, client: aiohttp.ClientSession
) -> None:
    for mode in ("closed", "local"):
        service = await serve(redis_url=redis.url, redis_timeout_s=5.0, redis_away=mode, api_keys=KEYS)
        assert not part(service).member.contact.away
        assert part(service).member.secret is not None, "else others' streams are only known by their copies"
        (await ask(client, service)).close()
