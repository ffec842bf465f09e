"""The doctor in front of real ways: the shipped nginx, one with a fault planted in it, none at all, and other people's services."""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp_sse import sse_response
from click.testing import CliRunner, Result

from app.commands import main
from app.tools.doctor.checkup import check_up
from app.tools.doctor.findings import Finding
from app.tools.load.connection import Target
from tests.conftest import Serve
from tests.support.nginx import free_port, nginx, plain
from tests.support.planted import Fault, faults, planted
from tests.support.tls import certificate, server_side

pytestmark = [pytest.mark.real, pytest.mark.nginx]

KEY = "key-of-a-caller"
# The heartbeat is what a look takes as long as; the shipped one, 10 s, is driven in the soak.
SHORT = {"heartbeat_s": 3.0}


async def looked(plants: list[Fault], **settings: object) -> list[Finding]:
    async with planted(plants, **settings) as url:
        return await check_up(Target.of(url), None)


def named(found: list[Finding]) -> dict[str, str]:
    return {one.check: one.severity for one in found}


async def doctor(*arguments: str) -> Result:
    return await asyncio.to_thread(CliRunner().invoke, main, ["doctor", *arguments])


# --- what is planted, and what is not ----------------------------------------------------------------------------------


async def test_each_planted_fault_is_found_alone_and_its_line_named() -> None:
    plants = faults(read_timeout="2s")
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(planted([fault], **SHORT)) for fault in plants.values()]
        found = await asyncio.gather(*(check_up(Target.of(url), None) for url in urls))
    told = dict(zip(plants, found, strict=True))
    assert {name: named(one) for name, one in told.items()} == {name: fault.found for name, fault in plants.items()}
    for name, fault in plants.items():
        first = next(one for one in told[name] if one.check == next(iter(fault.found)))
        assert first.mend.startswith(fault.line)
        assert re.search(r"\d", first.evidence), "it says figures"


async def test_nothing_is_found_on_the_shipped_way_nor_straight(serve: Serve, tmp_path: Path) -> None:
    straight = await serve(**SHORT, api_keys=(KEY,))
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    through, at_once = await asyncio.gather(looked([], **SHORT), doctor(straight.url, "--key-file", str(file)))
    assert through == []
    assert (at_once.exit_code, "nothing found" in at_once.output) == (0, True)
    assert not straight.streams.live


async def test_a_default_nginx_is_found_out(serve: Serve, tmp_path: Path) -> None:
    service, port = await serve(**SHORT), free_port()
    async with nginx(tmp_path, plain(service.url, port), port) as url:
        found = named(await check_up(Target.of(url), None))
    assert {"http-1.0", "body-limit", "accel-eaten", "buffering"} <= found.keys()


# --- the command -------------------------------------------------------------------------------------------------------


async def test_what_cannot_be_looked_at_is_told_in_one_line_with_status_2(serve: Serve, tmp_path: Path) -> None:
    closed = await serve(api_keys=(KEY,))
    wrong, empty = tmp_path / "wrong", tmp_path / "empty"
    wrong.write_text("another key\n")
    empty.write_text("\n")
    async with other_peoples() as url, other_peoples(certificate()) as https:
        cases = {
            (closed.url,): "401: a key is needed",
            (closed.url, "--key-file", str(wrong)): "401: this key is not known here",
            (closed.url, "--key-file", str(empty)): "holds no key",
            (closed.url, "--key-file", "/nowhere"): "cannot be read: No such file",
            (f"http://127.0.0.1:{free_port()}",): "connection refused",
            (url,): "--sse looks at any stream of events",
            (f"{url}/page", "--sse"): "its content type is text/plain",
            (f"{url}/nothing", "--sse"): "404: there is no stream",
            (https,): "its certificate is not trusted",
            ("ftp://x",): "neither http://HOST:PORT nor",
        }
        results = [await doctor(*arguments) for arguments in cases]
        in_json = await doctor(url, "--json")
    for (arguments, told), result in zip(cases.items(), results, strict=True):
        assert (result.exit_code, told in result.output) == (2, True), (arguments, result.output)
        assert result.output.count("\n") == 1
        assert KEY not in result.output
    assert (in_json.exit_code, json.loads(in_json.output)["findings"]) == (2, [])


# --- other people's streams --------------------------------------------------------------------------------------------


async def stream(request: web.Request) -> web.StreamResponse:
    with suppress(ConnectionError):  # of a reader who leaves
        async with sse_response(request) as response:
            for number in range(20):
                await response.send(f"event {number} of other people's")
                await asyncio.sleep(0.06)
    return response


async def page(_request: web.Request) -> web.Response:
    return web.Response(text="hello")


@asynccontextmanager
async def other_peoples(pem: Path | None = None) -> AsyncIterator[str]:
    """A service that is not ours: a stream of events, and a page."""
    app = web.Application()
    app.add_routes([web.get("/stream", stream), web.get("/page", page)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_side(pem) if pem else None)
    await site.start()
    try:
        yield f"http{'s' if pem else ''}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_any_stream_of_events_can_be_looked_at(tmp_path: Path) -> None:
    port = free_port()
    async with other_peoples() as url, nginx(tmp_path, held_back(url, port), port) as behind:
        straight = await doctor(f"{url}/stream", "--sse")
        through = await doctor(f"{behind}/stream", "--sse", "--json")
    assert (straight.exit_code, "nothing found" in straight.output) == (0, True)
    found = json.loads(through.output)["findings"]
    assert all(set(one) == {"check", "severity", "evidence", "mend"} for one in found)
    assert (through.exit_code, {one["check"] for one in found}) == (1, {"buffering", "compressed"})


def held_back(url: str, port: int) -> str:
    return plain(url, port).replace(
        "proxy_pass",
        "proxy_ignore_headers X-Accel-Buffering; gzip on; gzip_types text/event-stream; gzip_min_length 1; proxy_pass",
    )


# --- all of it, at length ----------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_of_two_faults_both_are_found_or_the_one_that_hides_the_other() -> None:
    """With the heartbeat that is shipped. Eight at a time: how long one takes is another test's."""
    plants = faults(read_timeout="5s")
    room = asyncio.Semaphore(8)

    async def wrong(names: tuple[str, ...]) -> str:
        async with room:
            found = named(await looked([plants[name] for name in names]))
        expected = {check for name in names for check in plants[name].found}
        if plants["buffering on"] in [plants[name] for name in names] or "header eaten" in names:
            expected.discard("swallow")  # what buffers takes all, so that nothing is left to show of the sockets
        return "" if found.keys() == expected else f"{names}: {sorted(found)}, not {sorted(expected)}"

    pairs = [*((name,) for name in plants), *itertools.combinations(plants, 2)]
    told = await asyncio.gather(*(wrong(names) for names in pairs))
    assert [one for one in told if one] == []


@pytest.mark.soak
async def test_a_look_takes_little_longer_than_the_heartbeat_that_is_shipped() -> None:
    began = time.monotonic()
    assert await looked([]) == []
    assert time.monotonic() - began < 16


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_a_busy_machine_gives_no_false_finding_in_a_hundred_looks() -> None:
    others = [
        multiprocessing.get_context("spawn").Process(target=busy, daemon=True) for _ in range(os.cpu_count() or 1)
    ]
    for other in others:
        other.start()
    try:
        async with planted([], **SHORT) as url:
            found = [await check_up(Target.of(url), None) for _ in range(100)]
    finally:
        for other in others:
            other.kill()
            other.join()
    assert [one for one in found if one] == []


def busy() -> None:
    while True:
        sum(range(10_000))
