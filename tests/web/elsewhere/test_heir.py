"""A worker that has another one's place shows both: no counter falls, no stream is missing, and none is there twice."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import Counter, generate_latest

from app.fleet.spec import WorkerSpec
from app.fleet.tcp import tcp_sockets
from app.settings import Settings
from app.tools.simulator.server import Simulator
from app.web.credentials import Credentials
from app.web.elsewhere.heir import Heir
from app.web.runner import Running, running
from tests.support.scrape import scrape_of


async def ask(client: aiohttp.ClientSession, service: Running, tokens: int) -> aiohttp.ClientResponse:
    prompt = f"{{{{tokens={tokens} rate=200 text=numbered}}}}"
    response = await client.post(f"{service.url}/api/stream", json={"prompt": prompt, "resumable": True})
    assert response.status == 200
    return response


async def test_the_newest_at_a_place_shows_what_all_before_it_have_and_had(
    tmp_path: Path, simulator: Simulator, client: aiohttp.ClientSession
) -> None:
    settings = Settings.model_validate({"port": 0, "admin_port": 0, "max_lag_s": 60.0, "drain_s": 60.0})
    ports = [tcp_sockets("127.0.0.1", 0)[0][0] for _ in range(2)]

    def at(number: int) -> WorkerSpec:
        fds = [(os.dup(port.fileno()),) for port in ports]
        return WorkerSpec(number, 1, str(tmp_path), fds[0], admin_fds=fds[1])

    async def streams(service: Running) -> list[str]:
        async with client.get(f"{service.admin_url}/streams") as listed:
            return sorted(stream["id"] for stream in await listed.json())

    async def completed(service: Running) -> float:
        return (await scrape_of(service.admin_url)).value("streams_total", outcome="completed")

    credentials = Credentials("k", simulator.url, True)
    async with running(settings, credentials, at(0)) as first:
        await (await ask(client, first, 5)).read()
        long = await ask(client, first, 100_000)
        leaving = asyncio.create_task(first.leave())
        async with running(settings, credentials, at(1)) as second:
            await (await ask(client, second, 5)).read()
            assert await completed(second) == 2
            assert (await scrape_of(second.admin_url)).value("streams_active") == 1
            assert await streams(second) == [long.headers["X-Stream-Id"]]
            again = asyncio.create_task(second.leave())
            async with running(settings, credentials, at(2)) as third:
                assert await completed(third) == 2
                assert await streams(third) == [long.headers["X-Stream-Id"]]
                first.streams.patience.hurry()
                await leaving
                assert b'"shutdown"' in await long.read()
                second.streams.patience.hurry()
                await again
                shown = await scrape_of(third.admin_url)
                assert (shown.value("streams_total"), shown.value("streams_active")) == (3, 0)
    for port in ports:
        port.close()


@pytest.mark.real
async def test_one_that_ends_while_it_is_asked_is_shown_by_the_figures_that_it_left_behind(tmp_path: Path) -> None:
    older, newer = Heir(WorkerSpec(0, 1, str(tmp_path))), Heir(WorkerSpec(1, 1, str(tmp_path)))
    counted, own = Counter("sluiceway_x", "X.", registry=older.own), Counter("sluiceway_x", "X.", registry=newer.own)
    counted.inc(5)
    own.inc()
    older.leave()

    async def end(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        older.leave_behind()
        writer.close()

    async with await asyncio.start_unix_server(end, older.socket):
        await newer.look()
    assert b"sluiceway_x_total 6.0" in generate_latest(newer.shown)


async def test_who_ends_always_answers_its_heir_or_has_left_its_figures_behind(
    tmp_path: Path, simulator: Simulator
) -> None:
    settings = Settings.model_validate({"port": 0, "admin_port": 0, "max_lag_s": 60.0, "drain_s": 0.0})

    def is_shown() -> bool:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.setblocking(False)
            try:
                asking.connect(str(next(tmp_path.glob("*.admin"))))
            except (OSError, StopIteration):
                return any(tmp_path.glob("*.ended"))
            return True

    async with AsyncExitStack() as stack:
        credentials = Credentials("k", simulator.url, True)
        old = await stack.enter_async_context(running(settings, credentials, WorkerSpec(0, 1, str(tmp_path))))
        await old.leave()
        assert is_shown()
        # The stack is left in this task, by steps of the loop between which another one looks.
        looks: list[bool] = []

        async def look() -> None:
            while True:
                looks.append(is_shown())
                await asyncio.sleep(0)

        looking = asyncio.create_task(look())
        await stack.aclose()
        looking.cancel()
    assert len(looks) > 1
    assert all(looks)


async def test_who_leaves_and_who_has_its_place_share_rates_and_places(
    tmp_path: Path, simulator: Simulator, client: aiohttp.ClientSession
) -> None:
    callers, folder = tmp_path / "callers.toml", tmp_path / "workers"
    folder.mkdir()
    callers.touch(0o600)
    callers.write_text("[callers.acme]\nstreams = 2\nrequests_per_minute = 3\n", "utf-8")
    given = {"callers_file": str(callers), "api_keys": ["acme:key"], "port": 0, "admin_port": 0, "max_lag_s": 60.0}
    settings, credentials = Settings.model_validate(given), Credentials("k", simulator.url, True)
    started: list[aiohttp.ClientResponse] = []

    async def refused(service: Running) -> str:
        """Why; empty where it begins."""
        body, headers = {"prompt": "{{tokens=100000 rate=20}}"}, {"x-api-key": "key"}
        response = await client.post(f"{service.url}/api/stream", json=body, headers=headers)
        if response.status == 200:
            started.append(response)
            return ""
        return str((await response.json())["error"])

    async with AsyncExitStack() as stack:
        services = [
            await stack.enter_async_context(running(settings, credentials, WorkerSpec(number, 1, str(folder))))
            for number in range(2)
        ]
        assert [await refused(service) for service in services] == ["", ""]
        assert "streams" in await refused(services[1])
        started[0].close()
        while "streams" in (told := await refused(services[1])):  # noqa: ASYNC110 - until its place is free
            await asyncio.sleep(0.01)
        assert told == ""
        started[1].close()
        while "streams" in (told := await refused(services[1])):  # noqa: ASYNC110 - the same
            await asyncio.sleep(0.01)
        assert "requests" in told
