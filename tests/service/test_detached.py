"""What a stream costs while nobody reads it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from app.tools.simulator.server import Simulator
from tests.conftest import ROOT
from tests.service.test_shutdown import HasUrl, Served, served
from tests.support.process import worker_of
from tests.support.readers import Reader


def resident_bytes(pid: int) -> int:
    """What the process holds in memory."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    (held,) = (line.split()[1] for line in lines if line.startswith("VmRSS"))
    return int(held) * 1024


class Elsewhere:
    """A simulated Claude in a process of its own, as far as `served` needs one."""

    def __init__(self, url: str) -> None:
        self.url = url


async def listed(service: Served) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(f"{service.admin_url}/streams") as response:
        streams: list[dict[str, Any]] = await response.json()
        return streams


async def detach(url: str, room: asyncio.Semaphore) -> None:
    """Reads some 20 kB and leaves."""
    async with room:
        reader = await Reader.connect(url)
        await reader.ask("tokens=60000 text=numbered", resumable=True, grace_s=300)
        assert await reader.head() == 200
        assert reader.headers["x-resumable"] == "true"
        while reader.body_bytes < 20_000:
            await reader.some(4000)
        reader.leave()


def all_held(streams: list[dict[str, Any]]) -> bool:
    return all(stream["reader"] == "held" and stream["paused"] for stream in streams)


async def measure(simulator: HasUrl, count: int) -> None:
    async with served(simulator, 0.0, max_streams=10_000, max_lag_s=60) as service:
        room = asyncio.Semaphore(50)
        await asyncio.gather(*(detach(service.url, room) for _ in range(20)))
        worker = worker_of(service.process.pid)
        before = resident_bytes(worker)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(count):
                tasks.create_task(detach(service.url, room))
        async with asyncio.timeout(30):
            while not all_held(streams := await listed(service)):  # something is still on its way to a queue
                pass
        assert len(streams) == count + 20
        replay_bytes = sum(stream["replay_bytes"] for stream in streams)
        each = (resident_bytes(worker) - before - replay_bytes * count / (count + 20)) / count
        print(
            f"{count} detached streams: {replay_bytes / (count + 20):.0f} bytes of replay each, {each / 1000:.1f} kB beside"
        )
        assert replay_bytes >= 20_000 * count
        assert replay_bytes <= 268_435_456
        assert each <= 128_000


async def test_a_detached_stream_holds_little_beside_its_replay(simulator: Simulator) -> None:
    await measure(simulator, 100)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_5000_detached_streams_hold_within_the_global_budget() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app",
        "simulate",
        "--rate",
        "0",
        "--ttft-s",
        "0",
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().rpartition(" ")[2].strip()
        await measure(Elsewhere(url), 5000)
    finally:
        process.terminate()
        await process.wait()
