"""Several workers on one port: real processes, real signals."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import ClientResponse, ClientSession

from app.tools.simulator.server import Simulator
from tests.conftest import ROOT
from tests.support.readers import eventually
from tests.support.scrape import scrape_of

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]


@dataclass
class Workers:
    url: str
    admin_urls: list[str]
    process: asyncio.subprocess.Process
    lines: list[str]


@asynccontextmanager
async def _workers(simulator: Simulator, **environment: str) -> AsyncIterator[Workers]:
    command = [sys.executable, "-m", "app", "serve", "--workers", "2", "--port", "0", "--admin-port", "0"]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={
            **os.environ,
            "ANTHROPIC_API_KEY": "sk-ant-workers",
            "ANTHROPIC_BASE_URL": simulator.url,
            "SLUICEWAY_DRAIN_S": "0.2",
            "SLUICEWAY_GRACE_S": "300",
            "SLUICEWAY_MAX_LAG_S": "60",
            **environment,
        },
    )
    assert process.stdout is not None
    lines: list[str] = []
    started: list[str] = []
    while len(started) < 2:
        line = (await process.stdout.readline()).decode()
        assert line, lines
        lines.append(line)
        if line.startswith("Sluiceway"):
            started.append(line)
    stdout = process.stdout

    async def read_on() -> None:
        while line := (await stdout.readline()).decode():
            lines.append(line)

    reading = asyncio.create_task(read_on())
    try:
        yield Workers(
            started[0].split()[3], [line.split("admin on ")[1].rstrip(")\n") for line in started], process, lines
        )
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
        await reading


async def _pids(workers: Workers) -> dict[str, int]:
    """The process of each worker, by its admin address."""
    parent = workers.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()  # noqa: ASYNC240
    return dict(zip(workers.admin_urls, map(int, children), strict=True))


async def _start(client: ClientSession, url: str, prompt: str) -> tuple[str, str]:
    """Starts a stream and leaves it: its id and its stop token."""
    async with client.post(f"{url}/api/stream", json={"prompt": prompt, "resumable": True}) as response:
        assert response.status == 200, await response.text()
        await response.content.readany()
        return response.headers["X-Stream-Id"], response.headers["X-Stop-Token"]


# --- two that run for all of these -------------------------------------------------------------------------------------

in_one_loop = pytest.mark.asyncio(loop_scope="module")
KEYS = ("key-one", "key-two")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def two() -> AsyncIterator[Workers]:
    async with Simulator() as simulator, _workers(simulator, SLUICEWAY_API_KEYS=",".join(KEYS)) as workers:
        yield workers


def somebody(key: str = KEYS[0]) -> ClientSession:
    """A caller; a new one each time is a new connection, so that the kernel picks the worker."""
    return ClientSession(headers={"x-api-key": key})


@in_one_loop
@pytest.mark.parametrize("path", ["/api/chat/unknown/stop", "/api/stream/st0_no/stop", "/api/stream/st1_no/stop"])
async def test_a_stream_that_no_worker_has_is_refused_once_whichever_is_asked(path: str, two: Workers) -> None:
    async def refused(**labels: str) -> float:
        return sum([(await scrape_of(url)).value("refused_total", **labels) for url in two.admin_urls])

    before = await refused(reason="not_found"), await refused()
    for asked in range(1, 9):
        async with somebody() as anyone, anyone.post(f"{two.url}{path}") as response:
            assert response.status == 404
            assert (await response.json())["type"] == "not_found_error"
        assert await refused(reason="not_found") == before[0] + asked
        assert await refused() == before[1] + asked


@in_one_loop
async def test_streams_are_spread_and_found_again_from_any_worker(two: Workers) -> None:
    chance = random.Random(4)
    async with somebody() as client:
        streams = [await _start(client, two.url, "{{tokens=400 text=numbered}}") for _ in range(150)]
    spread = Counter(stream_id.partition("_")[0] for stream_id, _ in streams)
    assert set(spread) == {"st0", "st1"}
    for stream_id, token in streams:
        async with somebody() as anyone:
            if chance.random() < 0.5:
                answer = await anyone.post(
                    f"{two.url}/api/stream/{stream_id}/stop", data=json.dumps({"stop_token": token})
                )
                assert answer.status == 200, await answer.text()
                continue
            resumed = await anyone.get(f"{two.url}/api/stream/{stream_id}")
            text = (await resumed.read()).decode()
            assert resumed.headers["X-Stream-Id"] == stream_id
            assert text.count("token0") == 400, text[-300:]
            assert '"done":true' in text


@in_one_loop
@pytest.mark.parametrize(
    ("chat_id", "resumable"), [("a chat", False), ("b/\N{LATIN SMALL LETTER E WITH ACUTE}?x=%2F", True)]
)
async def test_a_newer_question_in_a_chat_ends_its_older_answer_on_whichever_worker_it_runs(
    chat_id: str, resumable: bool, two: Workers
) -> None:
    path = f"/api/chat/{quote(chat_id, safe='')}"
    async with AsyncExitStack() as stack:

        async def ask(key: str = KEYS[0]) -> ClientResponse:
            client = await stack.enter_async_context(somebody(key))
            text = {"type": "text", "text": "{{tokens=5000 rate=20 text=numbered}}"}
            message = {"id": "u", "role": "user", "parts": [text]}
            body = {"id": chat_id, "messages": [message], "resumable": resumable}
            answer = await stack.enter_async_context(client.post(f"{two.url}/api/chat", json=body))
            assert answer.status == 200
            assert await answer.content.readuntil(b"\n\n")
            return answer

        others, older, seen = await ask(KEYS[1]), await ask(), set[str]()
        for _ in range(60):  # in which the kernel may pick the same one a dozen times, but not always
            newer = await ask()
            seen.add(newer.headers["X-Stream-Id"][:3])
            assert b'"abort","reason":"taken_over"' in await older.read()
            older = newer
            if len(seen) == 2:
                break
        assert seen == {"st0", "st1"}
        for _ in range(4 * resumable):
            async with somebody() as anyone, anyone.get(f"{two.url}{path}/stream") as again:
                assert again.headers["X-Stream-Id"] == older.headers["X-Stream-Id"]
        async with somebody() as anyone, anyone.post(f"{two.url}{path}/stop") as stopped:
            assert await stopped.json() == {"stopped": True}
        assert others.content.exception() is None
        assert not others.content.is_eof(), "another caller's chat of the same name goes on"


# --- two that end, in one way each -------------------------------------------------------------------------------------


async def test_while_one_worker_ends_a_stream_nobody_waits_for_the_one_that_has_none(
    simulator: Simulator, client: ClientSession
) -> None:
    async with _workers(simulator, SLUICEWAY_DRAIN_S="60") as workers:
        stream_id, token = await _start(client, workers.url, "{{tokens=9000 rate=20}}")
        pids = await _pids(workers)
        workers.process.send_signal(signal.SIGTERM)
        await eventually(lambda: sum(Path(f"/proc/{pid}").exists() for pid in pids.values()) == 1)
        async with asyncio.timeout(20):
            for _ in range(16):  # a new connection each time, so that the kernel picks the worker
                async with ClientSession() as anyone:
                    refused = await anyone.post(f"{workers.url}/api/stream", json={"prompt": "x"})
                    assert (refused.status, "Retry-After" in refused.headers) == (503, True)
                    gauges = await anyone.get(f"{workers.url}/api/stream/{stream_id}/gauges")
                    assert gauges.status == 200
            async with ClientSession() as anyone:
                stop = {"stop_token": token}
                assert (await anyone.post(f"{workers.url}/api/stream/{stream_id}/stop", json=stop)).status == 200
            assert await workers.process.wait() == 0


async def test_a_worker_that_is_killed_is_replaced_and_the_other_ones_streams_go_on(
    simulator: Simulator, client: ClientSession
) -> None:
    async with _workers(simulator) as workers:
        prompt = "{{tokens=900 rate=60 text=numbered}}"  # none is over before the kill
        responses = [await client.post(f"{workers.url}/api/stream", json={"prompt": prompt}) for _ in range(20)]
        by_worker = Counter(response.headers["X-Stream-Id"].partition("_")[0] for response in responses)
        assert len(by_worker) == 2
        victim = next(iter((await _pids(workers)).values()))
        # Whose it is shows by which streams break.
        os.kill(victim, signal.SIGKILL)
        for book in simulator.books:
            book.hurried = True

        async def read(response: object) -> str:
            try:
                return (await response.read()).decode()  # type: ignore[attr-defined, no-any-return]
            except Exception as error:
                return repr(error)

        texts = await asyncio.gather(*(read(response) for response in responses))
        whole = {
            response.headers["X-Stream-Id"].partition("_")[0]
            for response, text in zip(responses, texts, strict=True)
            if '"done":true' in text and text.count("token0") == 900
        }
        broken = {
            response.headers["X-Stream-Id"].partition("_")[0]
            for response, text in zip(responses, texts, strict=True)
            if '"done":true' not in text
        }
        assert len(whole) == 1
        assert whole.isdisjoint(broken)
        # New streams find both again: what waits for the dead one's successor is served by it.
        seen: set[str] = set()
        while len(seen) < 2:
            async with ClientSession() as anyone, anyone.post(f"{workers.url}/api/stream", json={"prompt": "hi"}) as r:
                assert r.status == 200
                seen.add(r.headers["X-Stream-Id"].partition("_")[0])
                await r.read()
        assert any("another one starts" in line for line in workers.lines)


@pytest.mark.parametrize("taken", [[1], [0, 1]])
async def test_workers_whose_admin_port_is_taken_end_all_with_one_line(taken: list[int], simulator: Simulator) -> None:
    with neighbouring_ports(taken) as port:
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "app", "serve", "--workers", "2", "--port", "0", "--admin-port", str(port)],
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "ANTHROPIC_API_KEY": "sk-ant-workers", "ANTHROPIC_BASE_URL": simulator.url},
        )
        told, errors = await process.communicate()
    assert (process.returncode, told) == (1, b"")
    line = f"Error: admin_port {port + taken[0]} on admin_host 127.0.0.1: address already in use\n"
    assert errors.decode() == line


@contextmanager
def neighbouring_ports(taken: list[int]) -> Iterator[int]:
    """The first of two ports side by side, of which these are taken."""
    while True:
        with ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = first.getsockname()[1]
            try:
                held = [first, stack.enter_context(socket.create_server(("127.0.0.1", port + 1)))]
            except (OSError, OverflowError):
                continue
            for number, sock in enumerate(held):
                if number not in taken:
                    sock.close()
            yield port
            return


async def test_a_signal_to_the_parent_ends_all_workers(simulator: Simulator, client: ClientSession) -> None:
    async with _workers(simulator) as workers:
        responses = [
            await client.post(f"{workers.url}/api/stream", json={"prompt": "{{tokens=9 fault=silence after=5}}"})
            for _ in range(6)
        ]
        workers.process.send_signal(signal.SIGTERM)
        texts = [(await response.read()).decode() for response in responses]
        assert all('"type":"shutdown"' in text for text in texts)
        assert await workers.process.wait() == 0
