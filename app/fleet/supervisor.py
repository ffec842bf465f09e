"""Several workers on one port: started, watched, replaced, drained.

The parent binds the sockets and keeps them open, so that what reaches a worker that died waits for its successor.
Over TCP each worker has a socket of its own and the kernel spreads connections (`SO_REUSEPORT`); over a unix socket
they share one. Each has its own admin port, counted up from the first, because a scrape must meet one worker.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

from ..settings import Settings, SettingsError
from .service_manager import NOBODY, ServiceManager
from .tcp import tcp_sockets
from .tie import ParentsEnd
from .unix_path import UnixPath

log = logging.getLogger(__name__)

# A worker that dies young is replaced after a pause that doubles from the first to the last of these, in seconds.
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.1, 5.0
# A worker that has lived this long, in seconds, was healthy, so the next pause is a short one again.
_LONG_LIFE_S = 30.0


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker is told by its parent.

    Attributes:
        number: its number, from 0; part of its streams' ids.
        count: how many there are.
        folder: where each one's unix socket for the other workers lies; empty for a worker alone.
        listen_fds: the sockets that it is to accept from; empty to open them by the settings.
        tie_fd: what ties it to its parent; None without one.
        older: paths of the unix sockets of those that this service replaces, while they drain.
    """

    number: int = 0
    count: int = 1
    folder: str = ""
    listen_fds: tuple[int, ...] = ()
    tie_fd: int | None = None
    older: tuple[str, ...] = ()

    def socket_of(self, number: int) -> str:
        """The path of another worker's socket."""
        assert self.folder, "a worker alone has no others"
        return f"{self.folder}/{number}.sock"


def parse_worker(text: str) -> WorkerSpec:
    """A worker's spec as its parent writes it. Raises ValueError or TypeError."""
    told = json.loads(text)
    return WorkerSpec(**told | {"listen_fds": tuple(told["listen_fds"]), "older": tuple(told["older"])})


@dataclass(slots=True, eq=False)
class _Worker:
    """One process.

    Attributes:
        tie: our end of what ties it to us.
        ready: it is set up, and listens to every signal.
        hung_up: a SIGHUP came before it was ready.
    """

    process: asyncio.subprocess.Process
    tie: ParentsEnd
    ready: bool = False
    hung_up: bool = False

    def tell(self, number: signal.Signals) -> None:
        """Sends the signal; a SIGHUP once the worker listens to it, which would end it before."""
        if number is signal.SIGHUP and not self.ready:
            self.hung_up = True
        elif self.process.returncode is None:
            self.process.send_signal(number)


@dataclass(slots=True)
class _Workers:
    """All of them.

    Attributes:
        count: how many there are to be.
        start: starts the one with this number.
        running: by number.
        decided: set when all of them were ready once, or when that is not to be any more.
        published: set when readers can reach them, so that they may say so.
        stopping: set when they are to end, and none is replaced.
        failed: one of them could not start.
    """

    count: int
    start: Callable[[int], Awaitable[_Worker]]
    running: dict[int, _Worker] = field(default_factory=dict)
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    published: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    failed: bool = False

    def tell(self, number: signal.Signals) -> None:
        """Passes a signal on; any but SIGHUP ends them all."""
        if number is not signal.SIGHUP:
            self.stopping.set()
            self.decided.set()
        for worker in self.running.values():
            worker.tell(number)

    async def keep(self, number: int) -> None:
        """Keeps one of them running until all are to end."""
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while not self.stopping.is_set():
            began = loop.time()
            status = await self._run(number)
            if self.stopping.is_set():
                return
            if not self.decided.is_set():  # the worker has said why it could not start
                self.failed = True
                self.tell(signal.SIGTERM)
                return
            pause_s = _FIRST_PAUSE_S if loop.time() - began > _LONG_LIFE_S else min(pause_s * 2, _LAST_PAUSE_S)
            log.error("worker %d ended with status %d; another one starts in %.1f s", number, status, pause_s)
            try:
                async with asyncio.timeout(pause_s):
                    await self.stopping.wait()
            except TimeoutError:
                continue

    async def _run(self, number: int) -> int:
        """Runs one to its end; its exit status."""
        worker = self.running[number] = await self.start(number)
        try:
            if self.stopping.is_set():  # the signal came while it was being started
                worker.tell(signal.SIGTERM)
            if await worker.tie.is_ready():
                worker.ready = True
                if worker.hung_up:
                    worker.tell(signal.SIGHUP)
                if len(self.running) == self.count and all(one.ready for one in self.running.values()):
                    self.decided.set()
                await self.published.wait()
                await worker.tie.begin()
            return await worker.process.wait()
        finally:
            worker.tie.close()
            del self.running[number]


async def supervise(
    settings: Settings,
    count: int,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    manager: ServiceManager = NOBODY,
    take_over: bool = False,
) -> bool:
    """Runs `count` workers until SIGTERM or SIGINT, which are passed on: each drains; a second signal hurries them.

    Args:
        settings: where they listen.
        count: how many.
        arguments: of `python -m app serve`, as this process got them, without `--workers`.
        environment: what each worker gets beside this process's own.
        manager: is told when all serve, and when they end.
        take_over: this is a restart: a live service on the unix socket is replaced.

    Returns:
        Whether they could be started; why not, has been said.

    Raises:
        SettingsError: the address, or one of the admin ports, cannot be listened on.
    """
    path = UnixPath.bind(settings.listening.unix, take_over=take_over) if settings.listening.unix else None
    sockets = (
        [[path.sock]] * count
        if path is not None
        else tcp_sockets(settings.listening.host, settings.listening.port, count)
    )
    try:
        if not take_over:  # else these ports are the older service's until it has ended
            _check_admin_ports(settings, count)
        with tempfile.TemporaryDirectory(prefix="sluiceway-") as folder:
            older = tuple(path.older) if path is not None else ()
            specs = [
                WorkerSpec(number, count, folder, tuple(sock.fileno() for sock in sockets[number]), older=older)
                for number in range(count)
            ]
            start = partial(_start, specs, arguments, {**os.environ, **environment})
            workers = _Workers(count, start)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(number, workers.tell, number)
            with manager.feeding():
                async with asyncio.TaskGroup() as tasks:
                    for spec in specs:
                        tasks.create_task(workers.keep(spec.number), name=f"worker {spec.number}")
                    await workers.decided.wait()
                    refused = _publish(path, workers)
                    workers.published.set()
                    if not workers.stopping.is_set():
                        manager.ready()
                    await workers.stopping.wait()
                    manager.stopping()
            if refused is not None:
                raise refused
            return not workers.failed
    finally:
        if path is not None:
            path.withdraw()
        for sock in {sock for of_one in sockets for sock in of_one}:
            sock.close()


def _check_admin_ports(settings: Settings, count: int) -> None:
    """Looks whether the admin ports are free, so that one line says so and not one of each worker."""
    opened: list[socket.socket] = []
    try:
        for number in range(count if settings.listening.admin_port else 0):
            names = ("admin_host", "admin_port")
            opened += tcp_sockets(settings.listening.admin_host, settings.listening.admin_port + number, names=names)[0]
    finally:
        for sock in opened:
            sock.close()


def _publish(path: UnixPath | None, workers: _Workers) -> SettingsError | None:
    if path is None or workers.stopping.is_set():
        return None
    try:
        path.publish()
    except SettingsError as error:
        workers.tell(signal.SIGTERM)
        return error
    return None


async def _start(
    specs: Sequence[WorkerSpec], arguments: Sequence[str], environment: Mapping[str, str], number: int
) -> _Worker:
    tie = ParentsEnd()
    spec = asdict(specs[number]) | {"tie_fd": tie.theirs.fileno()}
    command = [sys.executable, "-m", __name__.partition(".")[0], "serve", *arguments, "--worker", json.dumps(spec)]
    # It gets a session of its own, because a terminal's Ctrl-C is for the parent, which passes it on once.
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, pass_fds=[*spec["listen_fds"], tie.theirs.fileno()], start_new_session=True
    )
    tie.theirs.close()
    return _Worker(process, tie)
