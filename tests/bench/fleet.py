"""A fleet of two processes on one Redis, and a crowd at one of them that reads the other one's streams."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

from app.tools.load import new_event_loop
from app.tools.load.protocols import PLAIN
from app.web.tasks import beside
from tests.bench.processes import BARE, LOOPBACK, Contender, Upstream, free_port, process, service, upstream
from tests.support.redis_server import RedisServer, redis_server

# Long enough for a stream to be in Redis, where a reader who cannot reach its owner looks for it.
_IN_REDIS_S = 1.0
# So many readers come a second: each is three connections to somebody.
_COMING_EACH_S = 150.0
_SETTLING_S = 5.0
# Who is told to come again, or comes before his stream is in Redis, does so after this long, so many times.
_AGAIN_S, _TIMES = 1.0, 20
# No network of a fleet is here, so that whoever is told so reaches no other process.
_NOWHERE = "192.0.2.0/24"
_TICK_S = 0.01


@dataclass(frozen=True, slots=True)
class Fleet:
    """What runs.

    Attributes:
        above: Claude.
        redis: the fleet's.
        owner: has the streams.
        other: is asked for them.
    """

    above: Upstream
    redis: RedisServer
    owner: Contender
    other: Contender


@contextmanager
def fleet(folder: Path, rate: float, *, reached: bool) -> Iterator[Fleet]:
    """Runs all of it.

    Args:
        folder: for Redis.
        rate: tokens a second of each answer, which has no end.
        reached: the other process reaches the owner; else it reads Redis.
    """
    with ExitStack() as stack:
        above = stack.enter_context(upstream())
        above.set(tokens=1_000_000, rate=rate)
        redis = stack.enter_context(redis_server(folder))
        owner = stack.enter_context(_member(above, redis, "owner", {}))
        nowhere = {} if reached else {"SLUICEWAY_PEER_NETWORKS": _NOWHERE}
        other = stack.enter_context(_member(above, redis, "other", nowhere))
        yield Fleet(above, redis, owner, other)


@contextmanager
def with_and_without(folder: Path) -> Iterator[tuple[Upstream, Contender, Contender]]:
    """Claude, a process that mirrors its streams into a Redis, and one that is alone."""
    with (
        upstream() as above,
        redis_server(folder) as redis,
        _member(above, redis, "mirrored", {}) as mirrored,
        service(above, BARE, "alone") as alone,
    ):
        yield above, mirrored, alone


@contextmanager
def _member(above: Upstream, redis: RedisServer, name: str, own: dict[str, str]) -> Iterator[Contender]:
    port = free_port()
    command = [sys.executable, "-m", "app", "serve", "--port", str(port), "--admin-port", str(free_port())]
    bounds = {"SLUICEWAY_MAX_STREAMS": "8000", "SLUICEWAY_MAX_LAG_S": "60", "SLUICEWAY_LOG_LEVEL": "warning"}
    given = {"SLUICEWAY_REDIS_URL": redis.url, **above.environ(BARE), **bounds, **own}
    with process(command, (LOOPBACK, port), given) as pid:
        yield Contender(name, BARE, f"http://{LOOPBACK}:{port}", PLAIN, pid)


@dataclass(slots=True)
class Crowd:
    """What a crowd of readers has met.

    Attributes:
        gaps_s: between two arrivals of text at one reader, of all, in seconds.
        reading: how many are.
        lost: readers whose connection ended, or to whom something else was said than their stream.
        cpu_s: of a second: the owner's, and the other one's.
        connections: to Redis, of both processes together.
        transports: the readers' connections.
        late_s: how late this bench itself was, by a timer that it sets all the time, in seconds.
        measures: gaps count now.
        goes: all of it is over, and the bench lets go of the readers.
    """

    gaps_s: list[float] = field(default_factory=list)
    reading: int = 0
    lost: list[str] = field(default_factory=list)
    cpu_s: tuple[float, float] = (0.0, 0.0)
    connections: int = 0
    late_s: list[float] = field(default_factory=list)
    transports: list[asyncio.Transport] = field(default_factory=list)
    measures: bool = False
    goes: bool = False

    @property
    def late_p99_s(self) -> float:
        """How late the bench itself was, but for one time in a hundred."""
        return _at(self.late_s, 0.99)

    def gap_s(self, share: float) -> float:
        """The gap that this share of all does not pass."""
        return _at(self.gaps_s, share)

    def __str__(self) -> str:
        p50, p99, most = (self.gap_s(share) for share in (0.5, 0.99, 1.0))
        told = f"gaps p50 {p50:.3f} s, p99 {p99:.3f} s, longest {most:.3f} s of {len(self.gaps_s)}"
        cpu = f"cores: owner {self.cpu_s[0]:.2f}, other {self.cpu_s[1]:.2f}"
        late = f"the bench itself late by {self.late_p99_s:.3f} s (p99)"
        return f"{self.reading} readers, {len(self.lost)} lost; {told}; {cpu}; {self.connections} connections to Redis; {late}"

    async def time_itself(self) -> None:
        """Until cancelled."""
        while True:
            due_at = time.perf_counter() + _TICK_S
            await asyncio.sleep(_TICK_S)
            self.late_s.append(time.perf_counter() - due_at)


def _at(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


class _Reader(asyncio.Protocol):
    """Reads one stream, of which it notes when text comes."""

    def __init__(self, crowd: Crowd, target: str) -> None:
        self._crowd = crowd
        self._asked = f"GET {target} HTTP/1.1\r\nHost: {LOOPBACK}\r\n\r\n".encode()
        self._began = False
        self._last_at = 0.0
        self.answered: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._asked)

    def data_received(self, data: bytes) -> None:
        if not self._began:
            self._began = True
            self.answered.set_result(int(data[9:12]))
            self._crowd.reading += self.answered.result() == 200
        if b"id: " not in data:
            return
        now = time.perf_counter()
        if self._crowd.measures and self._last_at:
            self._crowd.gaps_s.append(now - self._last_at)
        self._last_at = now if self._crowd.measures else 0.0

    def connection_lost(self, error: Exception | None) -> None:
        if not self.answered.done():
            self.answered.set_result(0)
        if self.answered.result() == 200 and not self._crowd.goes:
            self._crowd.lost.append(f"closed: {error}")


def crowd(of: Fleet, count: int, for_s: float) -> Crowd:
    """So many readers, each of a stream of its own that it has left at its owner; measured for so long once all read."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_crowd(of, count, for_s))


async def _crowd(of: Fleet, count: int, for_s: float) -> Crowd:
    found = Crowd()
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(_come(of, found))
            await asyncio.sleep(began + (number + 1) / _COMING_EACH_S - loop.time())
    await asyncio.sleep(_SETTLING_S)
    cpu_s = of.owner.cpu_s(), of.other.cpu_s()
    found.measures = True
    async with beside(found.time_itself()):
        await asyncio.sleep(for_s)
    found.measures = False
    found.cpu_s = (of.owner.cpu_s() - cpu_s[0]) / for_s, (of.other.cpu_s() - cpu_s[1]) / for_s
    found.connections = of.redis.connections()
    found.goes = True
    for transport in found.transports:
        transport.abort()
    return found


async def _come(of: Fleet, found: Crowd) -> None:
    """Asks for a stream, leaves it, and reads it elsewhere."""
    reader, writer = await asyncio.open_connection(LOOPBACK, urlsplit(of.owner.url).port)
    body = json.dumps({"prompt": "hello", "resumable": True, "max_tokens": 64_000}).encode()
    head = f"POST {PLAIN.path} HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    told = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    await asyncio.sleep(_IN_REDIS_S)
    writer.close()
    named = [line.partition(": ")[2] for line in told.split("\r\n") if line.lower().startswith("x-stream-id: ")]
    if not named:
        found.lost.append(told[:300])
        return
    target = f"{PLAIN.path}/{named[0]}"
    for _ in range(_TIMES):
        transport, again = await asyncio.get_running_loop().create_connection(
            lambda: _Reader(found, target), LOOPBACK, urlsplit(of.other.url).port or 0
        )
        status = await again.answered
        if status == 200:
            found.transports.append(transport)
            return
        transport.close()
        await asyncio.sleep(_AGAIN_S)
    found.lost.append(f"{status} {_TIMES} times")
