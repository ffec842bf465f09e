"""The service as a process, started as an operator starts it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
SECRET = "sk-ant-secret-of-the-process"
# What a busy machine needs to import the SDK, several times over.
START_S = 90.0


class Service:
    """A running process of the service.

    Attributes:
        url, admin_url: as the line says with which it serves.
        said: what it has printed on stdout so far.
        logged: the same of stderr.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.url = self.admin_url = self.said = self.logged = ""
        self._logging = asyncio.create_task(self._collect())

    async def ready(self, workers: int = 1) -> None:
        """Waits until so many workers have said that they serve."""
        assert self.process.stdout is not None
        async with asyncio.timeout(START_S):
            while self.said.count("(admin on ") < workers:
                line = (await self.process.stdout.readline()).decode()
                assert line, f"it ended before it served: {self.said}{await self._all_logged()}"
                self.said += line
        self.url, _, rest = self.said.rpartition("Sluiceway")[2].partition(" on ")[2].partition(" (admin on ")
        self.admin_url = rest.partition(")")[0].strip()

    async def ended(self, within_s: float = 45) -> tuple[int, str]:
        """The exit code, and all that was printed."""
        assert self.process.stdout is not None
        async with asyncio.timeout(within_s):
            self.said += (await self.process.stdout.read()).decode()
            return await self.process.wait(), self.said + await self._all_logged()

    @property
    def workers(self) -> list[int]:
        """The processes that serve."""
        return _children(self.process.pid)

    def kill(self) -> None:
        """Ends it as the kernel does when memory runs out: its workers too, which would else end well. Idempotent."""
        if self.process.returncode is None:
            for worker in self.workers:
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            self.process.kill()

    async def _all_logged(self) -> str:
        await self._logging
        return self.logged

    async def _collect(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.logged += line.decode()


def worker_of(parent: int) -> int:
    """The process that serves, of a service with one worker."""
    (worker,) = _children(parent)
    return worker


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]
    except FileNotFoundError:
        return []


Start = Callable[..., Coroutine[Any, Any, Service]]


async def start(
    *arguments: str,
    environ: Mapping[str, str] = {},
    ready: bool = True,
    under: tuple[str, ...] = (),
    root: Path = ROOT,
) -> Service:
    """Runs `python -m app serve` with arguments and environment, where given as a child of another program, or from elsewhere."""
    ours = ("SLUICEWAY_", "ANTHROPIC_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    process = await asyncio.create_subprocess_exec(
        *(*under, sys.executable, "-m", "app", "serve", *arguments),
        cwd=root,
        env={**clean, "ANTHROPIC_API_KEY": SECRET, "SLUICEWAY_MAX_LAG_S": "60", **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    service = Service(process)
    if ready:
        await service.ready()
    return service
