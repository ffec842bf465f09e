"""A fleet of real processes behind nginx, cut ten thousand times, while processes and Redis die, sleep and forget.

What the model holds every answer to: its frames come once and in order, whatever a reader missed; it ends once, and says how;
`done` with every byte, unless its own process was killed or taken for dead. Nobody waits longer than five seconds for a word
where nothing was broken; who does elsewhere is counted, and by which process he was kept waiting: one that sleeps cannot speak,
and nginx has sent him there. No key stays for ever; no place is lost.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest

from app.fleet.names import owner_of
from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from tests.service.test_fleet import ids, last_event
from tests.service.test_fleet_cuts import text_of, upstreams
from tests.support.nginx import free_port, nginx
from tests.support.process import Service, Start
from tests.support.readers import eventually
from tests.support.redis_server import RedisServer, redis_server

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


@dataclass
class Fleet:
    """The processes, and what has happened to them.

    Attributes:
        of: every process that ever was, by its incarnation.
        harmed: incarnations that were killed or stopped.
        emptied: Redis has forgotten something.
        calm: nothing is being broken; `calm_at` is since when, in monotonic time.
        asleep: the port of the process that is stopped, or was last; `woke_at` is until when, in monotonic time.
        hangs: by what happened then, how often nobody said a word.
    """

    start: Start
    environ: dict[str, str]
    redis: RedisServer
    ports: list[int]
    services: dict[int, Service] = field(default_factory=dict)
    of: dict[str, Service] = field(default_factory=dict)
    harmed: set[str] = field(default_factory=set)
    emptied: bool = False
    calm: asyncio.Event = field(default_factory=asyncio.Event)
    calm_at: float = 0.0
    asleep: int = 0
    woke_at: float = -math.inf
    troubles: list[str] = field(default_factory=list)
    hangs: Counter[str] = field(default_factory=Counter)
    ends: dict[str, int] = field(default_factory=dict)

    async def begin(self, port: int) -> None:
        service = await self.start("--port", str(port), "--admin-port", "0", environ=self.environ)
        self.services[port] = service
        self.of[await self.incarnation(port)] = service

    def was_harmed(self, owner: str | None) -> bool:
        """Whether a process was killed or stopped; or was so by a busy machine, as it says itself."""
        return owner in self.harmed or (owner is not None and "did not run for" in self.of[owner].logged)

    def told_of(self, stream_id: str) -> list[str]:
        """What the processes have logged of a stream."""
        logged = [line for service in self.of.values() for line in service.logged.splitlines()]
        return [line for line in logged if stream_id in line]

    async def incarnation(self, port: int) -> str:
        """Of the process at a port, as the id of a stream of its own tells."""
        async with aiohttp.ClientSession() as client:
            url = f"http://127.0.0.1:{port}/api/stream"
            async with client.post(url, json={"prompt": "{{tokens=1}}"}, headers=KEY) as answer:
                await answer.read()
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

    async def trouble(self, chance: random.Random) -> None:
        """One of what can happen."""
        self.calm.clear()
        try:
            kinds = (
                self._flush,
                self._pause,
                self._restart_redis,
                self._kill,
                self._stop_for_ten_seconds,
                self._cut_off,
            )
            kind = chance.choice(kinds)
            self.troubles.append(kind.__name__)
            await kind(chance)
        finally:
            self.calm_at = time.monotonic()
            self.calm.set()

    async def _flush(self, _chance: random.Random) -> None:
        self.emptied = True
        self.redis.client.flushall()

    async def _pause(self, chance: random.Random) -> None:
        paused_s = chance.choice((0.2, 0.7, 2.0))
        self.redis.client.client_pause(int(paused_s * 1000))
        await asyncio.sleep(paused_s)

    async def _restart_redis(self, chance: random.Random) -> None:
        self.emptied = True
        self.redis.kill()
        await asyncio.sleep(chance.choice((0.0, 1.0, 4.0)))
        await asyncio.to_thread(self.redis.start)

    async def _kill(self, chance: random.Random) -> None:
        port = chance.choice(self.ports)
        self.harmed.add(await self.incarnation(port))
        self.services[port].kill()
        await self.services[port].ended()
        await self.begin(port)

    async def _stop_for_ten_seconds(self, chance: random.Random) -> None:
        port = chance.choice(self.ports)
        self.harmed.add(await self.incarnation(port))
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
        self._heard_at = time.monotonic()

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
        raw = b""
        response: aiohttp.ClientResponse | None = None
        try:
            response = await word(self._asked(client))
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
                self._heard_at = time.monotonic()
        except TimeoutError:
            by = response.headers["X-Process"] if response is not None else ""
            who = "one that slept" if self._fleet.sleeps(by) else "one that ran"
            self._fleet.hangs[f"{'in the middle' if by else 'at once'}, by {who}, {self._fleet.troubles[-1:]}"] += 1
            told = f"nobody said a word of {self.stream_id} for {WORD_S} s, nor {by}, after {self._fleet.troubles}"
            assert not self._fleet.well, told
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
        harmed = self._fleet.was_harmed(owner_of(self.stream_id))
        silent_s = time.monotonic() - self._heard_at
        told = f"{self.stream_id} ended as {said} after {silent_s:.1f} s without a byte and {self._fleet.troubles}"
        assert harmed, f"{told}, and nothing had happened to its process: {self._fleet.told_of(self.stream_id)}"
        assert kind == "worker_lost" or self._fleet.emptied, said
        return self._ended(kind)

    def _ended(self, how: str) -> bool:
        self._fleet.ends[how] = self._fleet.ends.get(how, 0) + 1
        return True


def places_left(redis: RedisServer, living: set[bytes]) -> list[str]:
    """Places that stand in Redis for processes that live."""
    return [name for name in redis.names() if ":{l}:p" in name and living & set(redis.client.hgetall(name))]


@pytest.mark.parametrize("count", [2, 4])
async def test_ten_thousand_cuts_while_everything_breaks(
    count: int, start: Start, simulator: Simulator, tmp_path: Path
) -> None:
    chance = random.Random(count)
    (tmp_path / "callers.toml").write_text("[callers.acme]\nstreams = 1000\n")
    (tmp_path / "callers.toml").chmod(0o600)
    with redis_server(tmp_path) as redis:
        environ = {
            "ANTHROPIC_BASE_URL": simulator.url,
            "SLUICEWAY_REDIS_URL": redis.url,
            "SLUICEWAY_REDIS_TIMEOUT_S": "1",  # a busy machine is no dead Redis
            "SLUICEWAY_CALLERS_FILE": str(tmp_path / "callers.toml"),
            "SLUICEWAY_API_KEYS": "acme:key-of-acme",
        }
        fleet = Fleet(start, environ, redis, [free_port() for _ in range(count)])
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
        await eventually(lambda: not any(book.live for book in simulator.books))
        assert redis.without_expiry() == []
        living = {(await fleet.incarnation(port)).encode() for port in fleet.ports}
        await eventually(lambda: not places_left(redis, living))
        print(f"{cuts} cuts; {fleet.ends}; nobody spoke for {WORD_S} s: {dict(fleet.hangs)}")


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
