"""A restart without a gap: real processes behind a real nginx with the shipped configuration."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.fleet.spec import WorkerSpec
from app.fleet.unix_path import UnixPath
from app.settings import Settings, SettingsError
from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from app.web.credentials import Credentials
from app.web.runner import Running, running
from tests.service.test_resume import ask, call, path_of, told
from tests.support.connections import Page
from tests.support.nginx import free_port, nginx, shipped
from tests.support.process import START_S, Start
from tests.support.readers import JSON, Reader, eventually
from tests.support.scrape import scrape_of

# More than fits between Claude and a reader who does not read; generated as fast as it is read.
LONG_TOKENS = 9_000
LONG = f"tokens={LONG_TOKENS} tokens_per_delta=20 text=numbered"
ENDLESS = "tokens=100000 rate=10 text=numbered"
NEW_EACH_S = 1 / 20


async def begun(url: str, directive: str) -> Reader:
    """A reader who has had something of its answer and reads no further by itself."""
    reader = await ask(url, directive, rcvbuf_bytes=4096)
    assert reader.status == 200
    while b"token0001" not in reader.body:
        assert await reader.some(500)
    return reader


async def read_on(url: str, reader: Reader, *, cut: bool) -> Page:
    """The rest of an answer, where wanted over a second connection, because the first one is lost."""
    page = Page()
    if cut:
        page.take(reader.body)
        reader.reset()
        reader = await call(url, "GET", path_of(reader), last_id=page.last_id)
        assert reader.status == 200
    page.take(await reader.rest())
    reader.leave()
    return page


@dataclass(frozen=True)
class Newcomer:
    """What somebody was told who asked anew: the status, when to try again, and the last event, or the error."""

    status: int
    retry_after: str
    last: dict[str, Any]


async def newcomer(url: str) -> Newcomer:
    reader = await ask(url, "tokens=3 text=numbered", resumable=False)
    body = await reader.rest()
    reader.leave()
    last = json.loads(body.rstrip().rpartition(b"data: ")[2])
    return Newcomer(reader.status, reader.headers.get("retry-after", ""), last)


async def newcomers(url: str, enough: asyncio.Event) -> list[Newcomer]:
    """Twenty a second until it is enough."""
    asked: list[asyncio.Task[Newcomer]] = []
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.TaskGroup() as tasks:
        while not enough.is_set():
            asked.append(tasks.create_task(newcomer(url)))
            await asyncio.sleep(began + len(asked) * NEW_EACH_S - loop.time())  # the pace is what is tried
    return [task.result() for task in asked]


async def ready(admin_url: str) -> bool:
    """Whether it is, once anyone answers there."""
    async with aiohttp.ClientSession() as client:
        while True:
            try:
                async with client.get(f"{admin_url}/readyz") as response:
                    return response.status == 200
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.01)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the socket is to be, in a folder of its own."""
    folder = tmp_path / "run"
    folder.mkdir()
    return folder / "s.sock"


@pytest.mark.nginx
@pytest.mark.timeout(300)
async def test_a_restart_under_load_cuts_no_one_short_and_answers_everyone(
    path: Path, start: Start, simulator: Simulator, tmp_path: Path
) -> None:
    """A hundred streams run, and twenty begin each second, while a second instance takes over and the first one ends."""
    listen = ("--unix", str(path), "--admin-port", str(free_port()))
    environ = {"ANTHROPIC_BASE_URL": simulator.url, "SLUICEWAY_DRAIN_S": "200", "SLUICEWAY_STALL_TIMEOUT_S": "600"}
    environ["SLUICEWAY_AUTH"] = "none"
    port, enough = free_port(), asyncio.Event()
    old = await start(*listen, environ=environ)
    async with nginx(tmp_path, shipped(tmp_path, old.url, port), port) as url, asyncio.TaskGroup() as tasks:
        readers = await asyncio.gather(*(begun(url, LONG if n < 60 else ENDLESS) for n in range(100)))
        starting = tasks.create_task(start(*listen, "--take-over", environ=environ))
        await eventually(lambda: len(os.listdir(path.parent)) > 1, within_s=START_S)  # it listens beside the path
        asking = tasks.create_task(newcomers(url, enough))
        new = await starting
        assert new.admin_url == old.admin_url, "whose it is until the old one has ended"
        assert sum(book.live for book in simulator.books[:100]) == 100
        old.process.send_signal(signal.SIGTERM)
        # Every other one loses its connection just then, and comes back.
        reading = [tasks.create_task(read_on(url, reader, cut=n % 2 == 0)) for n, reader in enumerate(readers)]
        await asyncio.wait(reading[:60])
        old.process.send_signal(signal.SIGTERM)  # does not wait for those that have no end
        code, said = await old.ended()
        late = await call(url, "GET", path_of(readers[0]), last_id=1)
        assert (await told(late))[1]["type"] == "not_found_error", "its streams have ended with the old one"
        enough.set()
    pages = [task.result() for task in reading]
    assert [page.text == numbered_text(LONG_TOKENS) for page in pages[:60]] == [True] * 60
    assert ["done" in page.last for page in pages[:60]] == [True] * 60
    assert [page.last.get("type") for page in pages[60:]] == ["shutdown"] * 40
    asked = asking.result()
    assert {one.status for one in asked} <= {200, 503}
    assert all("done" in one.last for one in asked if one.status == 200)
    assert all(one.retry_after and one.last["retryable"] for one in asked if one.status == 503)
    assert (code, "Traceback" in said) == (0, False)
    assert new.process.returncode is None
    assert await ready(new.admin_url)
    assert os.listdir(path.parent) == ["s.sock"]


# --- the same, in one process -----------------------------------------------------------------------------------------


@asynccontextmanager
async def instance(
    simulator: Simulator, path: Path, spec: WorkerSpec | None = None, **given: Any
) -> AsyncIterator[Running]:
    take_over = given.pop("take_over", False)
    settings = Settings.model_validate({"unix": str(path), "admin_port": 0, "max_lag_s": 60.0, "auth": "none"} | given)
    async with running(settings, Credentials("k", simulator.url, True), spec, take_over=take_over) as service:
        yield service


@pytest.mark.nginx
async def test_of_fifteen_restarts_in_a_row_nobody_meets_an_error_that_is_not_ours(
    path: Path, simulator: Simulator, tmp_path: Path
) -> None:
    """Each instance is told to end as soon as the next one serves, while requests are on their way to it."""
    port, enough, told = free_port(), asyncio.Event(), list[Newcomer]()

    async def one_after_the_other(url: str) -> None:
        while not enough.is_set():
            told.append(await newcomer(url))

    async with AsyncExitStack() as every:
        old = await every.enter_async_context(instance(simulator, path))
        url = await every.enter_async_context(nginx(tmp_path, shipped(tmp_path, old.url, port), port))
        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(one_after_the_other(url))
            for _ in range(15):
                new = await every.enter_async_context(instance(simulator, path, take_over=True))
                await old.drain()
                old = new
            enough.set()
    assert {one.status for one in told} <= {200, 503}
    assert all("done" in one.last if one.status == 200 else one.last["retryable"] for one in told)


async def answered(url: str, method: str, path: str, **body: object) -> tuple[int, Any]:
    raw = json.dumps(body).encode() if body else b""
    reader = await call(url, method, path, JSON, raw)
    data = await reader.rest() if reader.status != 204 else b""
    reader.leave()
    return reader.status, json.loads(data) if data else None


async def test_the_new_one_brings_every_request_for_a_stream_of_the_old_one_there(
    path: Path, simulator: Simulator
) -> None:
    async with instance(simulator, path) as old:
        readers = [await begun(old.url, ENDLESS) for _ in range(2)]
        async with instance(simulator, path, take_over=True) as new:
            where = path_of(readers[0])
            assert (await answered(new.url, "GET", f"{where}/gauges"))[0] == 200
            token = readers[0].headers["x-stop-token"]
            assert await answered(new.url, "POST", f"{where}/shown", id=1, stop_token=token) == (204, None)
            assert (await answered(new.url, "POST", f"{where}/stop", stop_token="guessed"))[0] == 404
            assert await answered(new.url, "POST", f"{where}/stop", stop_token=token) == (200, {"stopped": True})
            assert b'"stopped"' in await readers[0].rest()
            ending = asyncio.create_task(old.drain())
            back = await call(new.url, "GET", path_of(readers[1]))
            await back.until(b"token0010")
            old.streams.patience.hurry()
            assert json.loads((await back.rest()).rstrip().rpartition(b"data: ")[2])["type"] == "shutdown"
            await ending
            assert (await answered(new.url, "GET", path_of(readers[1])))[0] == 404
            for reader in (*readers, back):
                reader.leave()


async def test_a_chat_of_the_old_one_is_found_by_its_name(path: Path, simulator: Simulator) -> None:
    async with instance(simulator, path, chat_policy="grace") as old:
        asked = {"id": "c1", "messages": [{"id": "1", "role": "user", "parts": [{"type": "text", "text": ""}]}]}
        asked["messages"][0]["parts"][0]["text"] = f"{{{{{ENDLESS}}}}}"  # type: ignore[index]
        reader = await Reader.connect(old.url)
        await reader.send(reader.request(json.dumps(asked).encode(), path="/api/chat"))
        assert await reader.head() == 200
        await reader.until(b"token0001")
        async with instance(simulator, path, take_over=True) as new:
            back = await call(new.url, "GET", "/api/chat/c1/stream")
            await back.until(b"token0002")
            assert await answered(new.url, "POST", "/api/chat/c1/stop") == (200, {"stopped": True})
            assert (await answered(new.url, "POST", "/api/chat/c2/stop"))[0] == 404
            assert (await answered(new.url, "GET", "/api/chat/c2/stream"))[0] == 204
            back.leave()
        reader.leave()


async def test_who_is_replaced_in_turn_is_still_found_while_both_drain(path: Path, simulator: Simulator) -> None:
    async with instance(simulator, path) as first, AsyncExitStack() as stack:
        reader = await begun(first.url, ENDLESS)
        second = await stack.enter_async_context(instance(simulator, path, take_over=True))
        async with instance(simulator, path, take_over=True) as third:
            assert (await answered(third.url, "GET", f"{path_of(reader)}/gauges"))[0] == 200
            await second.drain()
            await stack.aclose()
            assert (await answered(third.url, "GET", f"{path_of(reader)}/gauges"))[0] == 200
        reader.leave()


async def test_any_worker_of_the_new_one_finds_a_stream_of_the_old_one(path: Path, simulator: Simulator) -> None:
    async with instance(simulator, path) as old, AsyncExitStack() as stack:
        reader = await begun(old.url, ENDLESS)
        taken = UnixPath.bind(str(path), take_over=True)
        for number in range(2):
            spec = WorkerSpec(number, 2, str(path.parent), (os.dup(taken.sock.fileno()),), older=tuple(taken.older))
            await stack.enter_async_context(instance(simulator, path, spec))
        taken.publish()
        taken.sock.close()
        for asked in (f"{path.parent}/0.sock", f"{path.parent}/1.sock", path):
            assert (await answered(f"unix:{asked}", "GET", f"{path_of(reader)}/gauges"))[0] == 200
        reader.leave()
        taken.withdraw()


async def test_a_stream_that_nobody_has_is_refused_once(path: Path, simulator: Simulator) -> None:
    async with instance(simulator, path) as old, instance(simulator, path, take_over=True) as new:
        assert (await answered(new.url, "POST", "/api/stream/st0_unknown/stop", stop_token="t"))[0] == 404
        counted = [(await scrape_of(one.admin_url)).value("refused_total") for one in (old, new)]
        assert counted == [0, 1]


async def test_without_a_restart_an_admin_port_that_is_taken_is_refused_by_name(
    path: Path, simulator: Simulator
) -> None:
    admin_port = free_port()
    async with instance(simulator, path, admin_port=admin_port):
        with pytest.raises(
            SettingsError, match=f"^admin_port {admin_port} on admin_host 127.0.0.1: address already in use$"
        ):
            async with instance(simulator, path.with_name("other.sock"), admin_port=admin_port):
                pass
    assert not os.listdir(path.parent)
