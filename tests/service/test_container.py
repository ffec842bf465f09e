"""What a container, its runtime and the kernel do to the process: signals from the first line on, and ends without notice."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.process import Service, Start
from tests.support.readers import eventually

pytestmark = pytest.mark.timeout(240)

FREE = ("--port", "0", "--admin-port", "0")
# As the first process of a container: what the kernel lets pass to it is only what it has a handler for.
FIRST = ("unshare", "--kill-child", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")), "--pid", "--fork")


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    except FileNotFoundError:
        return []


def descendants(pid: int) -> list[int]:
    own = children(pid)
    return own + [below for child in own for below in descendants(child)]


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def mask(pid: int, name: str) -> int:
    """One of the signal masks of a process: SigCgt, those with a handler, or SigBlk, those that wait."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith(name))


def has(pid: int, name: str, number: signal.Signals) -> bool:
    return bool(mask(pid, name) >> (number - 1) & 1)


async def first_process(service: Service) -> int:
    await eventually(lambda: bool(children(service.process.pid)))
    return children(service.process.pid)[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_before_it_serves_ends_it_at_once_as_first_process_too(
    number: signal.Signals, start: Start
) -> None:
    service = await start(*FREE, under=FIRST, ready=False)
    pid = await first_process(service)
    await eventually(lambda: has(pid, "SigCgt", signal.SIGTERM) and has(pid, "SigCgt", signal.SIGHUP))
    os.kill(pid, signal.SIGHUP)  # changes nothing
    os.kill(pid, number)
    assert await service.ended() == (0, "")


async def test_a_signal_that_was_blocked_since_before_the_interpreter_began_is_not_lost(start: Start) -> None:
    service = await start(*FREE, under=(*FIRST, "env", "--block-signal=TERM"), ready=False)
    pid = await first_process(service)
    # `unshare` blocks it for a moment too, before it has become `env`.
    comm = Path(f"/proc/{pid}/comm")
    await eventually(lambda: has(pid, "SigBlk", signal.SIGTERM) and comm.read_text() != "unshare\n")
    os.kill(pid, signal.SIGTERM)
    assert await service.ended() == (0, "")


async def test_a_signal_while_it_starts_the_simulated_claude_leaves_nothing_behind(start: Start) -> None:
    service = await start(*FREE, "--simulate", environ={"ANTHROPIC_API_KEY": ""}, ready=False)
    await eventually(lambda: bool(children(service.process.pid)), within_s=60)
    below = descendants(service.process.pid)
    service.process.send_signal(signal.SIGTERM)
    code, said = await service.ended()
    assert (code, "Traceback" in said) == (0, False)
    await eventually(lambda: not any(map(lives, below)))


@pytest.fixture
def short_folder() -> Iterator[str]:
    """A folder of a name in which a socket's path finds room, which pytest's own may not be."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield folder


@pytest.mark.parametrize("workers", [1, 2])
async def test_nothing_outlives_a_service_that_is_killed(workers: int, start: Start, short_folder: str) -> None:
    """Neither its workers nor the simulated Claude that it started."""
    folder = short_folder
    service = await start(
        *FREE, "--simulate", "--workers", str(workers), environ={"ANTHROPIC_API_KEY": "", "TMPDIR": folder}
    )
    await service.ready(workers)
    below = descendants(service.process.pid)
    assert len(below) == 1 + workers
    assert len(os.listdir(folder)) == 1
    assert all(map(lives, below))
    service.process.kill()
    await service.ended()
    await eventually(lambda: not any(map(lives, below)))
    assert os.listdir(folder) == []


async def test_a_worker_that_cannot_start_is_told_once_and_ends_all(start: Start) -> None:
    """Here the second worker's admin port, counted up from the first one's, does not exist."""
    service = await start("--port", "0", "--admin-port", "65535", "--workers", "2", ready=False)
    async with asyncio.timeout(90):
        code, said = await service.ended(within_s=90)
    assert code == 1
    assert [line for line in said.splitlines() if line.startswith("Error: ")] == [
        "Error: admin_port 65536 on admin_host 127.0.0.1: bind(): port must be 0-65535."
    ]
    assert "Traceback" not in said
