"""A fleet of real processes behind nginx, cut ten thousand times, while processes and Redis die, sleep, forget and lose each other.

What the model holds every answer to: its frames come once and in order, whatever a reader missed; it ends once, and says how;
`done` with every byte, unless its own process was killed or taken for dead. None is said to be unknown but where its process was
killed and Redis has forgotten it besides. Nobody waits longer than five seconds for a word where nothing was broken, nor for a
process that runs while another one sleeps, whosever the answer is; who does elsewhere is counted, and by which process he was
kept waiting: one that sleeps cannot speak, and nginx has sent him there. No key stays for ever; no place is lost.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

from app.fleet.member import BEAT_S
from app.fleet.names import owner_of
from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from tests.service.test_fleet import ids, last_event
from tests.service.test_fleet_cuts import text_of, upstreams
from tests.support.nginx import free_port, nginx
from tests.support.process import Service, Start
from tests.support.readers import eventually
from tests.support.redis_server import RedisServer, redis_server
from tests.support.scrape import scrape_of
from tests.support.wire import Wire

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

TOKENS = 400
READERS = 30
KEY = {"Authorization": "Bearer key-of-acme"}
# What nobody should wait for a word, and how long after the last trouble somebody still may.
WORD_S = 5.0
WORD_TICKS = 10
RECOVERY_S = 8.0
# No answer of two seconds takes longer, whatever happens to it.
WHOLE_S = 90.0
# nginx may send a reader to a process that sleeps, again and again, as to the one with the fewest connections: nobody reads his
# answer until that wakes.
GRACE_S = 60
# What a process has of places Redis knows within this; it is told of every change at once, also again by who forgot it.
TOLD_S = 20.0


@dataclass
class Fleet:
    """The processes, and what has happened to them.

    Attributes:
        wires: each process's to Redis, by its port.
        folder, replicas: where those live that take over, and what ends them.
        of: every process that ever was, by its incarnation.
        killed, stopped: incarnations that were; those that were cut off from Redis are among the latter.
        emptied_at: when Redis last forgot everything, in monotonic time.
        calm: nothing is being broken; `calm_at` is since when, in monotonic time.
        asleep: the port of the process that is stopped, or was last; `woke_at` is until when, in monotonic time.
        hangs: by what happened then, how often nobody said a word.
        longest_s: for how long, at most, a process that ran let a reader wait for a word while another one slept, in seconds.
    """

    start: Start
    environ: dict[str, str]
    redis: RedisServer
    wires: dict[int, Wire]
    folder: Path
    replicas: ExitStack
    services: dict[int, Service] = field(default_factory=dict)
    of: dict[str, Service] = field(default_factory=dict)
    killed: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)
    emptied_at: float = -math.inf
    calm: asyncio.Event = field(default_factory=asyncio.Event)
    calm_at: float = 0.0
    asleep: int = 0
    woke_at: float = -math.inf
    troubles: list[str] = field(default_factory=list)
    hangs: Counter[str] = field(default_factory=Counter)
    longest_s: float = 0.0
    ends: dict[str, int] = field(default_factory=dict)

    @property
    def ports(self) -> list[int]:
        return list(self.wires)

    async def begin(self, port: int) -> None:
        environ = self.environ | {"SLUICEWAY_REDIS_URL": f"redis://127.0.0.1:{self.wires[port].address[1]}/0"}
        service = await self.start("--port", str(port), "--admin-port", "0", environ=environ)
        self.services[port] = service
        self.of[await self.incarnation(port)] = service

    def may_end_as(self, kind: str, owner: str, began_at: float) -> bool:
        """Whether an answer of that process, begun then, may end so, by what has happened to the process and to Redis."""
        slept = owner in self.stopped or "did not run for" in self.of[owner].logged  # a busy machine's doing
        forgotten = self.emptied_at > began_at - 2 * BEAT_S  # so soon at least Redis knows the processes again
        match kind:
            case "worker_lost":
                return slept or owner in self.killed
            case "expired":  # it was lost while its process slept, which nobody knows any more
                return slept and forgotten
            case "not_found_error":
                return owner in self.killed and forgotten
        return False

    def told_of(self, stream_id: str) -> list[str]:
        """What the processes have logged of a stream."""
        logged = [line for service in self.of.values() for line in service.logged.splitlines()]
        return [line for line in logged if stream_id in line]

    async def incarnation(self, port: int) -> str:
        """Of the process at a port, as the id of a stream of its own tells; it starts none while Redis does not answer."""
        async with asyncio.timeout(WHOLE_S), aiohttp.ClientSession() as client:
            url, status = f"http://127.0.0.1:{port}/api/stream", 503
            while status == 503:
                async with client.post(url, json={"prompt": "{{tokens=1}}"}, headers=KEY) as answer:
                    await answer.read()
                    status = answer.status
            assert status == 200, await answer.text()
            owner = owner_of(answer.headers["X-Stream-Id"])
        assert owner is not None
        return owner

    @property
    def well(self) -> bool:
        """Nothing was broken for a while."""
        return self.calm.is_set() and time.monotonic() - self.calm_at > RECOVERY_S

    def sleeps(self, address: str) -> bool:
        """Whether a reader may have waited for the process at this address because it was stopped; without one, for any."""
        stopped = time.monotonic() - self.woke_at < WORD_S
        return stopped and (not address or address.endswith(f":{self.asleep}"))

    def lets_wait(self, address: str, since: float) -> bool:
        """Hears that a reader has waited since then; whether for one that runs, while another one sleeps."""
        while_one_sleeps = self.woke_at == math.inf and bool(address) and not self.sleeps(address)
        if while_one_sleeps:
            self.longest_s = max(self.longest_s, time.monotonic() - since)
        return while_one_sleeps

    async def trouble(self, chance: random.Random) -> None:
        """One of what can happen."""
        self.calm.clear()
        try:
            kinds = (
                self._flush,
                self._pause,
                self._restart_redis,
                self._fill,
                self._kill,
                self._stop_for_ten_seconds,
                self._cut_off,
                self._part,
                self._promote,
            )
            kind = chance.choice(kinds)
            self.troubles.append(kind.__name__)
            await kind(chance)
        finally:
            self.calm_at = time.monotonic()
            self.calm.set()

    async def _flush(self, _chance: random.Random) -> None:
        self.redis.client.flushall()
        self.emptied_at = time.monotonic()

    async def _pause(self, chance: random.Random) -> None:
        paused_s = chance.choice((0.2, 0.7, 2.0))
        self.redis.client.client_pause(int(paused_s * 1000))
        await asyncio.sleep(paused_s)

    async def _restart_redis(self, chance: random.Random) -> None:
        self.redis.kill()
        await asyncio.sleep(chance.choice((0.0, 1.0, 4.0)))
        await asyncio.to_thread(self.redis.start)
        self.emptied_at = time.monotonic()

    async def _fill(self, chance: random.Random) -> None:
        """Redis takes nothing more, for longer than a lease perhaps."""
        self.redis.client.config_set("maxmemory", 1)
        await asyncio.sleep(chance.choice((0.5, 2.0, 5.0)))
        self.redis.client.config_set("maxmemory", 0)

    async def _kill(self, chance: random.Random) -> None:
        port = chance.choice(self.ports)
        self.killed.add(await self.incarnation(port))
        self.services[port].kill()
        await self.services[port].ended()
        await self.begin(port)

    async def _stop_for_ten_seconds(self, chance: random.Random) -> None:
        port = chance.choice(self.ports)
        self.stopped.add(await self.incarnation(port))
        (worker,) = self.services[port].workers
        self.asleep, self.woke_at = port, math.inf
        os.kill(worker, signal.SIGSTOP)
        await asyncio.sleep(10)
        os.kill(worker, signal.SIGCONT)
        self.woke_at = time.monotonic()

    async def _cut_off(self, _chance: random.Random) -> None:
        """Every connection to Redis breaks at once."""
        self.redis.client.client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(0)

    async def _part(self, chance: random.Random) -> None:
        """The network carries nothing between Redis and one process, or all of them; what was on its way comes later."""
        ports = chance.choice((self.ports, [chance.choice(self.ports)]))
        if len(ports) == 1:
            self.stopped.add(await self.incarnation(ports[0]))
        for port in ports:
            self.wires[port].stall()
        await asyncio.sleep(chance.choice((0.5, 2.0, 6.0)))
        for port in ports:
            self.wires[port].mend()

    async def _promote(self, chance: random.Random) -> None:
        """The primary dies, and its replica takes its place, at once or after a while in which it takes nothing."""
        folder = self.folder / f"replica-{len(self.troubles)}"
        folder.mkdir()
        primary, replica = self.redis, await asyncio.to_thread(self.replicas.enter_context, redis_server(folder))
        primary.client.config_set("repl-diskless-sync-delay", 0)
        replica.client.replicaof("127.0.0.1", str(primary.port))
        await eventually(lambda: replica.client.info("replication")["master_link_status"] == "up")
        primary.kill()
        for wire in self.wires.values():
            wire.to = ("127.0.0.1", replica.port)
        await asyncio.sleep(chance.choice((0.0, 2.0)))
        replica.client.replicaof("NO", "ONE")
        self.redis = replica


T = TypeVar("T")


async def word(coming: Coroutine[Any, Any, T]) -> T:
    """What comes within `WORD_S` of a loop that runs: one that was held up itself has kept nobody waiting.

    Raises:
        TimeoutError: nothing does.
    """
    task = asyncio.create_task(coming)
    try:
        for _ in range(WORD_TICKS):
            if (await asyncio.wait({task}, timeout=WORD_S / WORD_TICKS))[0]:
                return task.result()
        raise TimeoutError
    finally:
        task.cancel()


class Answer:
    """One answer, as its reader knows it."""

    def __init__(self, fleet: Fleet, url: str, chance: random.Random) -> None:
        self._fleet = fleet
        self._url = url
        self._chance = chance
        self.stream_id = ""
        self.text = b""
        self.last_id = 0
        self.cuts = 0
        self._began_at = self._heard_at = time.monotonic()

    async def read(self) -> None:
        """Reads it to its end, in pieces."""
        async with asyncio.timeout(WHOLE_S), aiohttp.ClientSession(headers=KEY) as client:
            while not await self._read_some(client):
                self.cuts += 1

    async def _asked(self, client: aiohttp.ClientSession) -> aiohttp.ClientResponse:
        if not self.stream_id:
            asked = {"prompt": f"{{{{tokens={TOKENS} rate=200 text=numbered}}}}", "resumable": True, "grace_s": GRACE_S}
            return await client.post(f"{self._url}/api/stream", json=asked)
        had = {"Last-Event-ID": str(self.last_id)} if self.last_id else {}
        return await client.get(f"{self._url}/api/stream/{self.stream_id}", headers=had)

    async def _read_some(self, client: aiohttp.ClientSession) -> bool:
        raw, by = b"", ""
        response: aiohttp.ClientResponse | None = None
        since = time.monotonic()
        try:
            response = await word(self._asked(client))
            by = response.headers["X-Process"]
            self._fleet.lets_wait(by, since)
            since = time.monotonic()
            if response.status in (502, 503, 504):
                await asyncio.sleep(0.1)
                return False
            if response.status in (404, 410):
                return self._failed(await response.text())
            assert response.status == 200, await response.text()
            self.stream_id = response.headers["X-Stream-Id"]
            most = self._chance.randrange(1, 400)
            while len(raw) < most and (piece := await word(response.content.readany())):
                raw += piece
                self._fleet.lets_wait(by, since)
                self._heard_at = since = time.monotonic()
        except TimeoutError:
            who = "one that slept" if self._fleet.sleeps(by) else "one that ran"
            self._fleet.hangs[f"{'in the middle' if by else 'at once'}, by {who}, {self._fleet.troubles[-1:]}"] += 1
            told = f"nobody said a word of {self.stream_id} for {WORD_S} s, nor {by}, after {self._fleet.troubles}"
            assert not self._fleet.well, told
            assert not self._fleet.lets_wait(by, since), told
        except aiohttp.ClientError:
            pass  # it broke off: the reader comes back
        finally:
            if response is not None:
                response.close()
        return self._taken(raw)

    def _taken(self, raw: bytes) -> bool:
        whole = raw[: raw.rfind(b"\n\n") + 2] if b"\n\n" in raw else b""  # an event that was cut never came
        had = ids(whole)
        assert had == list(range(self.last_id + 1, self.last_id + 1 + len(had))), (self.stream_id, self.last_id, had)
        self.last_id += len(had)
        self.text += whole
        if b'"done":true' in whole:
            assert text_of(self.text) == numbered_text(TOKENS)
            return self._ended("done")
        assert numbered_text(TOKENS).startswith(text_of(self.text))
        if b'"error":' in whole:
            return self._failed(json.dumps(last_event(whole)))
        return False

    def _failed(self, said: str) -> bool:
        """An end that is none of a whole answer: only what was broken may have it."""
        kind = json.loads(said)["type"]
        owner = owner_of(self.stream_id)
        assert owner is not None
        silent_s = time.monotonic() - self._heard_at
        told = f"{self.stream_id} ended as {said} after {silent_s:.1f} s without a byte and {self._fleet.troubles}"
        assert self._fleet.may_end_as(kind, owner, self._began_at), f"{told}: {self._fleet.told_of(self.stream_id)}"
        return self._ended(kind)

    def _ended(self, how: str) -> bool:
        self._fleet.ends[how] = self._fleet.ends.get(how, 0) + 1
        return True


async def told_exactly(fleet: Fleet, owners: dict[int, str]) -> bool:
    """Whether of each process just those places stand in Redis that its streams have, under the caller's name and in all."""
    for port, owner in owners.items():
        streams = int((await scrape_of(fleet.services[port].admin_url)).value("streams_active"))
        client: Any = fleet.redis.client  # its stub knows replies of text alone
        of = [client.hgetall(name) for name in fleet.redis.names() if ":{l}:p" in name]
        told = [int(each[owner.encode()].partition(b":")[0]) for each in of if owner.encode() in each]
        if told != ([streams] * 2 if streams else []):
            return False
    return True


def places_left(redis: RedisServer, owners: set[str]) -> list[str]:
    """Places that stand in Redis for these processes."""
    living = {owner.encode() for owner in owners}
    return [name for name in redis.names() if ":{l}:p" in name and living & set(redis.client.hgetall(name))]


@pytest.mark.parametrize("count", [2, 4])
async def test_ten_thousand_cuts_while_everything_breaks(
    count: int, start: Start, simulator: Simulator, tmp_path: Path
) -> None:
    chance = random.Random(count)
    (tmp_path / "callers.toml").write_text("[callers.acme]\nstreams = 1000\n")
    (tmp_path / "callers.toml").chmod(0o600)
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path))
        environ = {
            "ANTHROPIC_BASE_URL": simulator.url,
            "SLUICEWAY_REDIS_TIMEOUT_S": "1",  # a busy machine is no dead Redis
            "SLUICEWAY_CALLERS_FILE": str(tmp_path / "callers.toml"),
            "SLUICEWAY_API_KEYS": "acme:key-of-acme",
        }
        wires = {free_port(): await stack.enter_async_context(Wire(("127.0.0.1", redis.port))) for _ in range(count)}
        fleet = Fleet(start, environ, redis, wires, tmp_path, stack.enter_context(ExitStack()))
        for port in fleet.ports:
            await fleet.begin(port)
        entrance = free_port()
        servers = [f"127.0.0.1:{port}" for port in fleet.ports]
        # It tells who answers.
        conf = upstreams(tmp_path, entrance, servers)
        assert conf.count("    location / {\n") == 1
        conf = conf.replace(
            "    location / {\n", "    location / {\n        add_header X-Process $upstream_addr always;\n"
        )
        async with nginx(tmp_path, conf, entrance) as url:
            cuts = await cut(fleet, url, chance)
        assert fleet.ends["done"] > 0
        assert fleet.redis.without_expiry() == []
        owners = {port: await fleet.incarnation(port) for port in fleet.ports}
        async with asyncio.timeout(TOLD_S):
            while not await told_exactly(fleet, owners):  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.1)
        # Who gave up just when the process woke for which he had waited left an answer whose head nginx alone had: it waits for
        # him as long as he asked, and holds Claude still.
        await eventually(lambda: not places_left(fleet.redis, set(owners.values())), GRACE_S + TOLD_S)
        await eventually(lambda: not any(book.live for book in simulator.books))
        print(
            f"{cuts} cuts in {Counter(fleet.troubles)}; {fleet.ends}; nobody spoke for {WORD_S} s: {dict(fleet.hangs)}"
        )
        print(f"while another one slept, a process that ran was silent for {fleet.longest_s:.1f} s at most")


async def cut(fleet: Fleet, url: str, chance: random.Random, most: int = 10_000) -> int:
    """Reads answers until there were so many cuts; returns how many."""
    cuts = 0

    async def reads(number: int) -> None:
        nonlocal cuts
        own = random.Random(number)
        while cuts < most:
            answer = Answer(fleet, url, own)
            await answer.read()
            cuts += answer.cuts

    async def breaks() -> None:
        while True:
            await asyncio.sleep(chance.choice((1.0, 3.0, RECOVERY_S + 4)))
            await fleet.trouble(chance)
            assert fleet.redis.without_expiry() == []

    async with asyncio.TaskGroup() as tasks:
        breaking = tasks.create_task(breaks())
        async with asyncio.TaskGroup() as readers:
            for number in range(READERS):
                readers.create_task(reads(number))
        await fleet.calm.wait()  # what is being broken is mended first
        breaking.cancel()
    return cuts
