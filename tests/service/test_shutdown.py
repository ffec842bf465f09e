"""SIGTERM to the real process: every stream is told by a typed last event, all are settled, and the exit is in time."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import aiohttp
import pytest

from app.answer.outcome import Outcome
from app.errors import Stopped
from app.settings import Settings
from app.tools.simulator.server import Simulator
from app.web.credentials import Credentials
from app.web.runner import running
from tests.conftest import ROOT, Serve
from tests.support.readers import Reader, eventually, sockets, steady

# What a busy machine is given to end a process; one that forgets to end takes a minute.
LATE_S = 10.0


class HasUrl(Protocol):
    """A simulated Claude, wherever it runs."""

    @property
    def url(self) -> str: ...


@dataclass
class Served:
    """The service as a process of its own.

    Attributes:
        log: its standard error so far.
        logged: done when `log` is whole.
    """

    process: asyncio.subprocess.Process
    url: str
    admin_url: str
    log: list[str]
    logged: asyncio.Task[None]

    async def stopped(self) -> float:
        """Waits for its exit; seconds since the epoch."""
        async with asyncio.timeout(45):
            assert await self.process.wait() == 0, "".join(self.log)
            at = time.time()
            await self.logged
        return at


@asynccontextmanager
async def served(simulator: HasUrl, drain_s: float, **settings: object) -> AsyncIterator[Served]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEWAY_")}
    environ |= {"ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": simulator.url, "SLUICEWAY_DRAIN_S": str(drain_s)}
    environ["SLUICEWAY_MAX_LAG_S"] = "60"  # a busy machine refuses no one
    environ |= {f"SLUICEWAY_{name.upper()}": str(value) for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app", "serve", "--port", "0", "--admin-port", "0",
        cwd=ROOT, env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    log: list[str] = []

    async def collect(stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            log.append(line.decode())

    async with asyncio.TaskGroup() as tasks:
        logged = tasks.create_task(collect(process.stderr))
        try:
            async with asyncio.timeout(45):
                said = (await process.stdout.readline()).decode()
            urls = re.findall(r"http://[\d.:]+", said)
            assert len(urls) == 2, said
            yield Served(process, urls[0], urls[1], log, logged)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def begun(url: str, directive: str, **body: bool) -> Reader:
    reader = await Reader.connect(url)
    await reader.ask(directive, version="1.1", **body)
    assert await reader.head() == 200
    return reader


async def draining(service: Served) -> None:
    """Returns once the signal has arrived: no longer ready, and still alive."""
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{service.admin_url}/readyz") as response:
                if response.status == 503:
                    break
        async with session.get(f"{service.admin_url}/healthz") as response:
            assert response.status == 200


async def last_of(reader: Reader) -> dict[str, object]:
    body = await reader.rest()
    reader.leave()
    assert reader.ended, "the response ended as HTTP says it should"
    told: dict[str, object] = json.loads(body.rstrip().rpartition(b"data: ")[2])
    return told


async def test_200_streams_are_each_told_of_the_shutdown_and_settled(simulator: Simulator) -> None:
    drain_s = 3.0
    async with served(simulator, drain_s) as service:
        async with asyncio.TaskGroup() as tasks:
            asking = [
                tasks.create_task(begun(service.url, "tokens=60000 rate=20", resumable=n % 2 == 0)) for n in range(200)
            ]
        readers = [task.result() for task in asking]
        for gone in readers[:20:2]:  # ten are held for readers that have left
            gone.leave()
        short = await begun(service.url, "tokens=10 rate=20")
        service.process.send_signal(signal.SIGTERM)
        signalled_at = time.time()
        await draining(service)
        assert "done" in await last_of(short), "who ends within the drain time is whole"
        async with asyncio.TaskGroup() as tasks:
            lasts = [
                tasks.create_task(last_of(reader)) for place, reader in enumerate(readers) if place >= 20 or place % 2
            ]
        assert [task.result() for task in lasts] == [
            {"error": "the service is shutting down", "type": "shutdown", "retryable": True, "source": "service"}
        ] * 190
        exit_s = await service.stopped() - signalled_at
        print(f"exit {exit_s:.2f} s after SIGTERM, drain time {drain_s} s")
        assert drain_s <= exit_s <= drain_s + LATE_S
        assert sum("ended: shutdown" in line for line in service.log) == 200
        assert sum("ended: " in line for line in service.log) == 201
        assert not any("Traceback" in line for line in service.log), "".join(service.log)
    assert not any(book.live for book in simulator.books)
    assert [book.finished for book in simulator.books if book.gone_at is None] == [True]


async def test_a_second_signal_ends_at_once(simulator: Simulator) -> None:
    async with served(simulator, 60.0) as service:
        reader = await begun(service.url, "tokens=60000 rate=20")
        service.process.send_signal(signal.SIGTERM)
        await draining(service)  # two signals at once would be one
        service.process.send_signal(signal.SIGINT)
        signalled_at = time.time()
        assert (await last_of(reader))["type"] == "shutdown"
        exit_s = await service.stopped() - signalled_at
        print(f"exit {exit_s:.2f} s after the second signal")
        assert exit_s < LATE_S


async def test_without_streams_it_ends_at_once(simulator: Simulator) -> None:
    async with served(simulator, 60.0) as service:
        service.process.send_signal(signal.SIGTERM)
        signalled_at = time.time()
        assert await service.stopped() - signalled_at < LATE_S


async def test_a_stalled_reader_does_not_put_off_the_exit(simulator: Simulator) -> None:
    async with served(simulator, 0.5) as service:
        reader = await Reader.connect(service.url, rcvbuf_bytes=4096)
        await reader.ask("tokens=60000 text=numbered")
        await reader.head()
        await eventually(lambda: simulator.books[0].is_blocked.is_set())
        service.process.send_signal(signal.SIGTERM)
        signalled_at = time.time()
        exit_s = await service.stopped() - signalled_at
        print(f"exit {exit_s:.2f} s after SIGTERM with a stalled reader, drain time 0.5 s")
        assert exit_s <= 0.5 + LATE_S
        reader.leave()


async def test_a_service_that_has_ended_holds_no_socket_of_a_reader_that_takes_nothing(simulator: Simulator) -> None:
    idle = await steady(sockets)
    settings = Settings.model_validate({"port": 0, "admin_port": 0, "max_lag_s": 60.0})
    async with running(settings, Credentials("k", simulator.url, True)) as service:
        reader = await Reader.connect(service.url, rcvbuf_bytes=4096)
        await reader.ask("tokens=60000")
        await reader.head()
        book = await simulator.book()
        await steady(lambda: book.tokens)
    assert await steady(sockets) == idle + 1  # the reader's own end
    reader.leave()


async def test_a_drain_refuses_new_streams_by_type_and_serves_those_that_run(
    serve: Serve, simulator: Simulator, client: aiohttp.ClientSession
) -> None:
    service = await serve(drain_s=60)
    url, stays = service.url, await begun(service.url, "tokens=60000 rate=50 text=numbered", resumable=True)
    leaves = await begun(service.url, "tokens=60000 rate=50 text=numbered", resumable=True)
    drain = asyncio.create_task(service.drain())
    await eventually(lambda: not service.streams.accepting)

    async with client.get(f"{service.admin_url}/readyz") as response:
        assert response.status == 503
    for path, body in (
        ("/api/stream", {"prompt": "more"}),
        ("/api/chat", {"id": "c", "messages": [{"role": "user", "parts": [{"type": "text", "text": "more"}]}]}),
        ("/v1/messages", {"model": "m", "max_tokens": 9, "messages": [], "stream": True}),
        ("/v1/messages", {"model": "m", "max_tokens": 9, "messages": []}),
    ):
        async with client.post(f"{url}{path}", json=body) as response:
            assert response.status == 503, path
            assert response.headers["Retry-After"] == "1"
            assert response.headers["Connection"] == "close"
            assert "shutting down" in await response.text()

    where = f"{url}/api/stream/{leaves.headers['x-stream-id']}"
    await leaves.until(b"\n\n")
    leaves.leave()
    async with client.get(where, headers={"Last-Event-ID": "1"}) as back:
        assert back.status == 200
        while (line := await back.content.readline()).startswith(
            b":"
        ):  # a sign of life, where nothing new was there yet
            pass
        assert line == b"id: 2\n"
        async with client.get(f"{where}/gauges") as response:
            assert response.status == 200
        token = json.dumps({"stop_token": leaves.headers["x-stop-token"], "id": 1})
        async with client.post(f"{where}/shown", data=token) as response:
            assert response.status == 204
        async with client.post(f"{where}/stop", data=token) as response:
            assert await response.json() == {"stopped": True}
        assert b'"stopped"' in await back.read()
    assert not drain.done()
    await stays.until(b"token0100")
    service.streams.live[stays.headers["x-stream-id"]].stop(Outcome.STOPPED, Stopped("enough"))
    assert (await last_of(stays))["type"] == "stopped"
    await drain
    with pytest.raises(aiohttp.ClientConnectorError):
        await client.get(f"{url}/config.json")


async def test_a_connection_that_is_kept_meets_no_end_between_two_requests_of_a_drain(
    serve: Serve, simulator: Simulator
) -> None:
    """The first answer of the drain says that the connection closes, and it does."""
    service = await serve(drain_s=60)
    running = await begun(service.url, "tokens=60000 rate=50")
    kept = await Reader.connect(service.url)
    for closes in (None, "close"):
        await kept.send(kept.request(b"", method="GET", path="/config.json"))
        assert await kept.head() == 200
        assert kept.headers.get("connection") == closes
        await kept.rest()
        if closes is None:
            kept.body, kept.body_bytes, kept.ended = b"", 0, False
            drain = asyncio.create_task(service.drain())
            await eventually(lambda: not service.streams.accepting)
    kept.ended = False
    assert not await kept.some(), "it is closed"
    kept.leave()
    service.streams.patience.hurry()
    await drain
    running.leave()


END = ["drain", "leave"]  # SIGTERM, and another one that has this one's place


@pytest.mark.parametrize("end", END)
async def test_who_came_before_the_end_began_is_served_however_long_his_body_takes(
    end: str, serve: Serve, simulator: Simulator
) -> None:
    """Without that a proxy tells him 502, holds the host for failed, and refuses others where it is the last one."""
    service = await serve(drain_s=60)
    early, late = [await Reader.connect(service.url) for _ in range(2)]
    asked = early.request(json.dumps({"prompt": "{{tokens=3 text=numbered}}"}).encode())
    await early.send(asked[:-1])
    await eventually(lambda: not service.service.crowd.rests.is_set())
    await late.send(b"POST")  # it has a connection, and the rest of its head comes too late
    await eventually(lambda: len(service.service.crowd) == 2)
    ending = asyncio.create_task(getattr(service, end)())
    await eventually(lambda: not service.streams.accepting)
    await late.send(late.request(b'{"prompt": "more"}').removeprefix(b"POST"))
    assert await late.head() == 503
    assert not ending.done()
    await early.send(asked[-1:])
    assert await early.head() == 200
    assert "done" in await last_of(early)
    await ending
    late.leave()


async def test_an_answer_that_came_whole_is_under_way_until_its_reader_has_taken_it(
    serve: Serve, tmp_path: Path
) -> None:
    """Its place is free long before, since its reader is slow: a drain, which waits for places, would cut it."""
    service = await serve(unix=str(tmp_path / "s"), drain_s=60)
    asked = "{{tokens=60000 tokens_per_delta=100 text=numbered}}"
    body = {"model": "m", "max_tokens": 64_000, "messages": [{"role": "user", "content": asked}]}
    reader = await Reader.connect(service.url, rcvbuf_bytes=4096)
    await reader.send(reader.request(json.dumps(body).encode(), path="/v1/messages"))
    assert await reader.head() == 200
    await eventually(lambda: not service.streams.in_flight)
    drain = asyncio.create_task(service.drain())
    await eventually(lambda: not service.streams.accepting)
    assert not service.service.crowd.rests.is_set()
    assert json.loads(await reader.rest())["usage"]["output_tokens"] == 60_000
    await drain
    assert service.service.crowd.rests.is_set()
    reader.leave()
