"""SIGHUP: new workers take the place of those that run, with new code and settings, and nobody is refused or cut short."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from tests.conftest import ROOT
from tests.service.test_resume import ask, call, path_of
from tests.support.connections import Page
from tests.support.nginx import free_port, mastered, shipped_fleet, without_host
from tests.support.process import START_S, Service, Start
from tests.support.readers import JSON, Reader, eventually
from tests.support.redis_server import redis_server
from tests.support.scrape import scrape_of

pytestmark = pytest.mark.timeout(300)

FREE = ("--port", "0", "--admin-port", "0")
ENDLESS = "tokens=100000 rate=10 text=numbered"


def key(name: str) -> dict[str, str]:
    return {**JSON, "x-api-key": name}


async def hang_up(service: Service, workers: int = 1) -> None:
    """Sends SIGHUP, and waits until the new workers serve."""
    served = service.said.count("(admin on ")
    service.process.send_signal(signal.SIGHUP)
    await service.ready(served + workers)


async def logged(service: Service, words: str, times: int = 1) -> None:
    await eventually(lambda: service.logged.count(words) >= times, START_S)


async def status(url: str, method: str, path: str, headers: dict[str, str], body: object = None) -> int:
    reader = await call(url, method, path, headers, json.dumps(body).encode() if body is not None else b"")
    reader.leave()
    return reader.status


async def test_new_code_settings_and_keys_serve_and_old_streams_are_reached_through_them(
    start: Start, simulator: Simulator, tmp_path: Path
) -> None:
    """Started from a copy of the program, which changes under it as an installed package does."""
    shutil.copytree(ROOT / "app", tmp_path / "app")
    version, config = tmp_path / "app" / "__init__.py", tmp_path / "c.toml"
    config.write_text('api_keys = ["a:one", "b:two"]\n', "utf-8")
    options = (*FREE, "--config", str(config))
    service = await start(*options, environ={"ANTHROPIC_BASE_URL": simulator.url}, root=tmp_path)
    url, admin_url = service.url, service.admin_url
    kept, stopped = [await ask(url, ENDLESS, key("one")) for _ in range(2)]
    idle = await Reader.connect(url)
    for directive in ("tokens=1", "tokens=2"):  # the second time on a connection of the old worker, when it has left
        await idle.send(idle.request(json.dumps({"prompt": f"{{{{{directive}}}}}"}).encode(), headers=key("two")))
        assert await idle.head() == 200
        if directive == "tokens=1":
            await idle.rest()
            idle.ended = False
            config.write_text('api_keys = ["a:three", "b:two"]\nwindow_s = 0.2\nport = 1\n', "utf-8")
            version.write_text(version.read_text("utf-8") + '\n__version__ = "9.8.7"\n', "utf-8")
            await hang_up(service)
    assert idle.headers["x-stream-id"].startswith("st0_")
    assert idle.headers["connection"] == "close"
    assert (service.url, service.admin_url) == (url, admin_url)
    assert "Sluiceway 9.8.7 on" in service.said

    new = await ask(url, "tokens=1", key("three"))
    assert (new.status, new.headers["x-stream-id"][:4]) == (200, "st1_")
    assert await status(url, "GET", "/v1/models", key("one")) == 401
    back = await call(url, "GET", path_of(kept), key("three"), last_id=1)
    assert back.status == 200
    await back.until(b"token0010")
    await kept.until(b"taken_over")
    assert await status(url, "POST", f"{path_of(back)}/shown", key("three"), {"id": 1}) == 204
    assert await status(url, "GET", f"{path_of(back)}/gauges", key("three")) == 200
    assert await status(url, "POST", f"{path_of(stopped)}/stop", key("three")) == 200
    await stopped.until(b'"stopped"')
    for reader in (idle, new, kept, stopped, back):
        reader.leave()
    service.process.send_signal(signal.SIGTERM)
    service.process.send_signal(signal.SIGINT)
    assert (await service.ended())[0] == 0


@pytest.mark.parametrize(("old", "new"), [("one-fleet", "another"), ("/0", "/1")])
async def test_streams_of_those_replaced_are_reached_also_where_the_newer_ones_are_of_another_fleet(
    start: Start, simulator: Simulator, tmp_path: Path, old: str, new: str
) -> None:
    config = tmp_path / "c.toml"
    with redis_server(tmp_path) as redis:
        config.write_text(f'api_keys = ["a:one"]\nredis_url = "{redis.url}"\nredis_prefix = "one-fleet"\n', "utf-8")
        environ = {"ANTHROPIC_BASE_URL": simulator.url, "SLUICEWAY_REDIS_TIMEOUT_S": "5"}
        service = await start(*FREE, "--config", str(config), environ=environ)
        kept, stopped = [await ask(service.url, ENDLESS, key("one")) for _ in range(2)]
        question = {
            "id": "c1",
            "resumable": True,
            "messages": [{"role": "user", "parts": [{"type": "text", "text": f"{{{{{ENDLESS}}}}}"}]}],
        }
        chat = await call(service.url, "POST", "/api/chat", key("one"), json.dumps(question).encode())
        assert chat.status == 200
        config.write_text(config.read_text("utf-8").replace(old, new), "utf-8")
        await hang_up(service)

        back = await call(service.url, "GET", path_of(kept), key("one"), last_id=1)
        assert back.status == 200
        await back.until(b"token0010")
        assert await status(service.url, "GET", f"{path_of(back)}/gauges", key("one")) == 200
        assert await status(service.url, "POST", f"{path_of(stopped)}/stop", key("one")) == 200
        await stopped.until(b'"stopped"')
        chat.leave()
        assert await status(service.url, "GET", "/api/chat/c1/stream", key("one")) == 200
        assert await status(service.url, "GET", path_of(kept)[:-1], key("one")) in (404, 503)  # nobody's
        for reader in (kept, stopped, back):
            reader.leave()
        service.process.send_signal(signal.SIGTERM)
        service.process.send_signal(signal.SIGINT)
        assert (await service.ended())[0] == 0


def nonsense(config: Path, _version: Path) -> str:
    config.write_text("windw_s = 1\n", "utf-8")
    return "did you mean window_s"


def defect(_config: Path, version: Path) -> str:
    version.write_text("raise ZeroDivisionError\n", "utf-8")
    return "ZeroDivisionError"


def death(_config: Path, version: Path) -> str:
    version.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n", "utf-8")
    return "nothing has changed"


async def test_what_cannot_start_changes_nothing_and_what_comes_next_does(
    start: Start, simulator: Simulator, tmp_path: Path
) -> None:
    """Also two signals at once, and one that ends it all while new workers start."""
    shutil.copytree(ROOT / "app", tmp_path / "app")
    version, config = tmp_path / "app" / "__init__.py", tmp_path / "c.toml"
    good = version.read_text("utf-8")
    config.touch()
    options = (*FREE, "--config", str(config))
    environ = {"ANTHROPIC_BASE_URL": simulator.url, "SLUICEWAY_DRAIN_S": "300"}
    service = await start(*options, environ=environ, root=tmp_path)
    reader = await ask(service.url, ENDLESS)
    wrongs: tuple[Callable[[Path, Path], str], ...] = (nonsense, defect, death)
    for times, wrong in enumerate(wrongs, 1):
        told = wrong(config, version)
        service.process.send_signal(signal.SIGHUP)
        await logged(service, "nothing has changed", times)
        assert told in service.logged
        config.write_text("", "utf-8")
        version.write_text(good, "utf-8")
        assert await status(service.url, "GET", "/config.json", JSON) == 200
    assert service.said.count("(admin on ") == 1
    service.process.send_signal(signal.SIGHUP)
    await logged(service, "everything is read again", 4)
    service.process.send_signal(signal.SIGHUP)  # asks for what it could not have read
    await service.ready(3)
    assert await status(service.url, "GET", f"{path_of(reader)}/gauges", JSON) == 200
    service.process.send_signal(signal.SIGHUP)
    await logged(service, "everything is read again", 6)
    service.process.send_signal(signal.SIGTERM)
    service.process.send_signal(signal.SIGINT)
    code, said = await service.ended()
    assert b'"shutdown"' in await reader.rest()
    reader.leave()
    assert (code, said.count("Traceback")) == (0, 1), "the one that was planted"


async def one_short(url: str, tokens: int, rate: int) -> str:
    """The text of an answer; what was said instead, if it was refused or cut."""
    reader = await ask(url, f"tokens={tokens} rate={rate} text=numbered", resumable=False)
    raw = await reader.rest()
    reader.leave()
    if reader.status != 200:
        return f"{reader.status} {raw[:200]!r}"
    page = Page()
    page.take(raw)
    return page.text if "done" in page.last else f"{page.last}"


async def counted(service: Service) -> float:
    """The streams that its admin ports tell of, all that have ended."""
    urls = set(re.findall(r"admin on (\S+)\)", service.said))
    return sum([(await scrape_of(url)).value("streams_total") for url in sorted(urls)])


@dataclass(frozen=True)
class Load:
    """So many streams that run, and one that begins each `each_s` seconds; each of them has so many tokens, at this rate."""

    running: int
    each_s: float
    tokens: int
    rate: int

    async def over(self, url: str, what: Coroutine[Any, Any, None]) -> int:
        """How many there were while `what` happened, and for as long again as one of them takes; all were whole."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(one_short(url, self.tokens, self.rate)) for _ in range(self.running)]
            happening = tasks.create_task(what)
            began, count = loop.time(), 0
            while not happening.done() or count * self.each_s < self.tokens / self.rate:
                asked.append(tasks.create_task(one_short(url, self.tokens, self.rate)))
                count += 1
                await asyncio.sleep(began + count * self.each_s - loop.time())
            arriving_s = loop.time() - began
        whole = numbered_text(self.tokens)
        wrong = Counter(told for task in asked if (told := task.result()) != whole)
        load = f"{len(asked)} streams, {count / arriving_s:.1f} new ones a second for {arriving_s:.1f} s"
        print(f"{load}: {sum(wrong.values())} refused or cut")
        assert not wrong
        return len(asked)


SMALL = Load(40, 0.05, 40, 20)
LARGE = Load(300, 0.02, 40, 2)  # few tokens, so that who asks and who answers take little of the machine


async def test_under_load_nobody_is_refused_or_cut_short(start: Start, simulator: Simulator) -> None:
    service = await start(*FREE, "--workers", "2", environ={"ANTHROPIC_BASE_URL": simulator.url})
    await service.ready(2)
    count = await SMALL.over(service.url, hang_up(service, 2))
    assert await counted(service) == count, "none is lost, and none counted twice"


@pytest.mark.soak
@pytest.mark.parametrize("listen", [("--port", "0", "--host", "localhost"), ("--unix",)])
async def test_300_streams_of_20_s_and_50_new_ones_a_second_survive_reloads(
    listen: tuple[str, ...], start: Start, simulator: Simulator, tmp_path: Path
) -> None:
    """Over every address of a name, and over a unix socket."""
    path = (str(tmp_path / "s.sock"),) if listen[0] == "--unix" else ()
    environ = {"ANTHROPIC_BASE_URL": simulator.url, "SLUICEWAY_AUTH": "none", "SLUICEWAY_DRAIN_S": "30"}
    service = await start(*listen, *path, "--admin-port", "0", "--workers", "2", environ=environ)
    await service.ready(2)
    count = 0
    for _ in range(3):
        count += await LARGE.over(service.url, hang_up(service, 2))
    assert await counted(service) == count


@pytest.mark.soak
@pytest.mark.nginx
async def test_300_streams_of_20_s_and_50_new_ones_a_second_survive_a_restart_of_two_hosts_one_after_the_other(
    start: Start, simulator: Simulator, tmp_path: Path
) -> None:
    """As `config/README.md` has it: each is taken out of nginx, restarted, and put back."""
    environ = {"ANTHROPIC_BASE_URL": simulator.url, "SLUICEWAY_AUTH": "none", "SLUICEWAY_DRAIN_S": "30"}
    ports = [free_port() for _ in range(3)]
    conf = shipped_fleet(tmp_path, ports[:2], ports[2])

    async def host(port: int) -> Service:
        return await start("--port", str(port), "--admin-port", "0", environ=environ)

    hosts = [await host(port) for port in ports[:2]]
    async with mastered(tmp_path, conf) as put:

        async def one_after_the_other() -> None:
            for service, port in zip(hosts, ports[:2], strict=True):
                await put(without_host(conf, port))
                service.process.send_signal(signal.SIGTERM)
                assert (await service.ended())[0] == 0
                await host(port)
                await put(conf)

        await LARGE.over(f"http://127.0.0.1:{ports[2]}", one_after_the_other())
