"""The command line: the service as a process, started as an operator starts it."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from app.tools.simulator.answer import numbered_text
from app.tools.simulator.server import Simulator
from tests.support.process import SECRET, START_S, Start
from tests.support.readers import Reader, Told, events_of, eventually

FREE = ("--port", "0", "--admin-port", "0")


async def asked(url: str, directive: str) -> Told:
    reader = await Reader.connect(url)
    await reader.ask(directive)
    assert await reader.head() == 200
    told = Told.of(events_of(await reader.rest()))
    reader.leave()
    return told


async def test_it_serves_on_loopback_and_says_where(start: Start, simulator: Simulator) -> None:
    service = await start(*FREE, environ={"ANTHROPIC_BASE_URL": simulator.url})

    assert service.url.startswith("http://127.0.0.1:")
    assert service.admin_url.startswith("http://127.0.0.1:")
    assert (await asked(service.url, "tokens=200 text=numbered")).text == numbered_text(200)


async def test_it_serves_on_a_unix_socket(start: Start, simulator: Simulator, tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(path))  # what a crash left behind does not stand in the way
    environ = {"ANTHROPIC_BASE_URL": simulator.url, "SLUICEWAY_AUTH": "none"}
    service = await start(*FREE, "--unix", str(path), environ=environ)

    assert service.url == f"unix:{path}"
    assert (await asked(service.url, "tokens=20 text=numbered")).text == numbered_text(20)


async def test_with_simulate_it_brings_its_own_claude_and_says_so(start: Start) -> None:
    service = await start(*FREE, "--simulate", environ={"ANTHROPIC_API_KEY": ""})

    assert "simulated" in service.said
    assert (await asked(service.url, "tokens=5 rate=0 ttft_s=0 text=numbered")).text == numbered_text(5)
    reader = await Reader.connect(service.url)
    await reader.send(reader.request(b"", method="GET", path="/config.json"))
    await reader.head()
    assert b'"simulated": true' in await reader.rest()
    reader.leave()

    # One that dies is not missed for long.
    (claude,) = [pid for pid in service.workers if b"\0simulate\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]  # noqa: ASYNC240
    os.kill(claude, signal.SIGKILL)
    await eventually(lambda: "the simulated Claude is there again" in service.logged, START_S)
    assert "the simulated Claude was ended by SIGKILL; another one starts" in service.logged
    assert (await asked(service.url, "tokens=5 rate=0 ttft_s=0 text=numbered")).text == numbered_text(5)


async def test_a_worker_that_is_killed_before_it_serves_is_told_of_by_the_signal(start: Start) -> None:
    service = await start(*FREE, ready=False)
    await eventually(lambda: bool(service.workers), START_S)
    os.kill(service.workers[0], signal.SIGKILL)
    assert await service.ended() == (1, "worker 0 was ended by SIGKILL before it served\n")


@pytest.mark.parametrize("environ", [{"SLUICEWAY_API_KEYS": "one, two"}, {"SLUICEWAY_AUTH": "none"}])
async def test_beyond_loopback_it_serves_with_keys_or_for_anyone_in_so_many_words(
    environ: dict[str, str], start: Start, simulator: Simulator
) -> None:
    service = await start(*FREE, "--host", "0.0.0.0", environ=environ | {"ANTHROPIC_BASE_URL": simulator.url})
    reader = await Reader.connect(service.url.replace("0.0.0.0", "127.0.0.1"))
    await reader.ask("tokens=1")

    assert await reader.head() == (401 if "SLUICEWAY_API_KEYS" in environ else 200)
    reader.leave()


async def test_what_is_wrong_in_file_and_environment_is_refused_in_one_line(start: Start, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("queue_item = 5\n", "utf-8")
    service = await start(*FREE, "--config", str(config), environ={"SLUICEWAY_WINDOW_S": "-1"}, ready=False)
    code, said = await service.ended()

    assert code == 1
    assert "unknown setting queue_item; did you mean queue_items?" in said
    assert (said.count("\n"), "Traceback" in said) == (1, False)


@pytest.mark.parametrize(("workers", "host", "warnings"), [(1, "0.0.0.0", 1), (2, "0.0.0.0", 1), (1, "127.0.0.1", 0)])
async def test_an_admin_port_that_others_reach_is_warned_of_once(
    workers: int, host: str, warnings: int, start: Start, simulator: Simulator
) -> None:
    environ = {"ANTHROPIC_BASE_URL": simulator.url, "SLUICEWAY_ADMIN_HOST": host, "SLUICEWAY_ADMIN_AUTH": "none"}
    service = await start(*FREE, f"--workers={workers}", environ=environ)
    await service.ready(workers)
    service.process.terminate()
    code, said = await service.ended()
    assert (code, said.count(f"admin_host {host} is reachable from elsewhere")) == (0, warnings)
    assert said.count("who may call: anyone on this machine, as 127.0.0.1, ::1, localhost, without a key") == 1


async def test_a_port_that_is_taken_is_said_without_a_traceback(start: Start, simulator: Simulator) -> None:
    service = await start("--port", str(simulator.port), "--admin-port", "0", ready=False)
    code, said = await service.ended()

    assert code == 1
    assert said == f"Error: port {simulator.port} on host 127.0.0.1: address already in use\n"


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_at_once_when_nothing_runs(
    sign: signal.Signals, start: Start, simulator: Simulator
) -> None:
    service = await start(*FREE, environ={"ANTHROPIC_BASE_URL": simulator.url})
    await asked(service.url, "tokens=5")
    began = time.monotonic()
    service.process.send_signal(sign)
    code, said = await service.ended()

    assert code == 0
    assert time.monotonic() - began < 10
    assert "Traceback" not in said


async def test_a_signal_ends_running_streams_after_the_drain_time(start: Start, simulator: Simulator) -> None:
    """The reader of a stream that cannot end in time is told so, and generation stops."""
    service = await start(*FREE, environ={"ANTHROPIC_BASE_URL": simulator.url, "SLUICEWAY_DRAIN_S": "0.3"})
    reader = await Reader.connect(service.url)
    await reader.ask("tokens=100000 rate=50")
    await reader.head()
    await reader.until(b"text")
    service.process.send_signal(signal.SIGTERM)
    while await reader.some():
        pass
    reader.leave()
    code, said = await service.ended()
    await simulator.books[0].ended.wait()

    assert code == 0
    assert "Traceback" not in said
    assert simulator.books[0].gone_at is not None


async def test_a_signal_lets_a_short_stream_end(start: Start, simulator: Simulator) -> None:
    service = await start(*FREE, environ={"ANTHROPIC_BASE_URL": simulator.url})
    reader = await Reader.connect(service.url)
    await reader.ask("tokens=60 rate=50 text=numbered")
    await reader.head()
    await reader.until(b"\n\n")
    service.process.send_signal(signal.SIGTERM)
    body = await reader.rest()
    reader.leave()
    code, _ = await service.ended()

    assert code == 0
    assert b"token0060" in body
    assert b'"done":true' in body


async def test_the_api_key_is_in_no_output_of_the_process(start: Start, simulator: Simulator) -> None:
    environ = {"ANTHROPIC_BASE_URL": simulator.url, "SLUICEWAY_LOG_LEVEL": "debug", "SLUICEWAY_RETRIES": "0"}
    service = await start(*FREE, environ=environ | {"SLUICEWAY_API_KEYS": "callers-own-secret"})
    seen = b""
    for directive in ("tokens=5", "fault=http_401", "fault=html", "tokens=9 fault=cut after=3", "fault=http_529"):
        reader = await Reader.connect(service.url)
        body = b'{"prompt": "{{%s}}"}' % directive.encode()
        headers = {"Content-Type": "application/json", "x-api-key": "callers-own-secret"}
        await reader.send(reader.request(body, headers=headers))
        await reader.head()
        seen += str(reader.headers).encode() + await reader.rest()
        reader.leave()
    for path in ("/streams", "/metrics"):
        reader = await Reader.connect(service.admin_url)
        await reader.send(reader.request(b"", method="GET", path=path))
        await reader.head()
        seen += await reader.rest()
        reader.leave()
    await eventually(lambda: not any(book.live for book in simulator.books))
    service.process.send_signal(signal.SIGTERM)
    _, said = await service.ended()

    assert len(simulator.books) == 5
    assert "stream" in said
    for secret in (SECRET, "callers-own-secret"):
        assert secret not in said
        assert secret.encode() not in seen
