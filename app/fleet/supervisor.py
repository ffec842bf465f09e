"""Several workers on one port: started, watched, replaced, drained.

The parent binds the sockets and keeps them open, so that what reaches a worker that died waits for its successor.
Over TCP each worker has a socket of its own and the kernel spreads connections (`SO_REUSEPORT`); over a unix socket
they share one. Each has its own admin port, counted up from the first, because a scrape must meet one worker.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..settings import Settings

log = logging.getLogger(__name__)

BACKLOG = 4096
# A worker that dies young is replaced after a pause that doubles from the first to the last of these, in seconds.
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.1, 5.0
# One that has lived this long was in order, in seconds.
_LONG_LIFE_S = 30.0


@dataclass(frozen=True, slots=True)
class Place:
    """A worker's place among its siblings.

    Attributes:
        number: its number, from 0; part of its streams' ids.
        count: how many there are.
        folder: where each one's unix socket for its siblings lies; None for a worker alone.
        listen_fd: the socket that it is to accept from; None to open one by the settings.
    """

    number: int = 0
    count: int = 1
    folder: Path | None = None
    listen_fd: int | None = None

    def socket_of(self, number: int) -> str:
        """The path of a sibling's socket."""
        assert self.folder is not None, "a worker alone has no siblings"
        return str(self.folder / f"{number}.sock")


def listen_sockets(settings: Settings, count: int) -> list[socket.socket]:
    """The sockets that `count` workers accept from, bound and listening.

    Raises:
        OSError: the address cannot be listened on.
    """
    if settings.unix:
        Path(settings.unix).unlink(missing_ok=True)
        shared = socket.socket(socket.AF_UNIX)
        shared.bind(settings.unix)
        os.chmod(settings.unix, 0o660)  # nginx's user gets in by the group
        shared.listen(BACKLOG)
        return [shared] * count
    sockets: list[socket.socket] = []
    port = settings.port
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    for _ in range(count):
        sock = socket.socket(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((settings.host, port))
        sock.listen(BACKLOG)
        port = sock.getsockname()[1]
        sockets.append(sock)
    return sockets


async def supervise(settings: Settings, count: int, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Runs `count` workers until SIGTERM or SIGINT, which are passed on: each drains; a second signal hurries them.

    Args:
        settings: where they listen.
        count: how many.
        arguments: of `python -m app serve`, as this process got them, without `--workers`.
        environment: what each worker gets beside this process's own.

    Raises:
        OSError: the address cannot be listened on.
    """
    stopping = asyncio.Event()
    running: dict[int, asyncio.subprocess.Process] = {}

    def on_signal() -> None:
        stopping.set()
        for process in running.values():
            process.send_signal(signal.SIGTERM)

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, on_signal)
    sockets = listen_sockets(settings, count)
    with tempfile.TemporaryDirectory(prefix="sluiceway-") as folder:
        async with asyncio.TaskGroup() as tasks:
            for number, sock in enumerate(sockets):
                place = Place(number, count, Path(folder), sock.fileno())
                start = partial(_start, place, arguments, {**os.environ, **environment})
                tasks.create_task(_keep_running(place, start, running, stopping), name=f"worker {number}")
    for sock in sockets:
        sock.close()


async def _keep_running(
    place: Place,
    start: Callable[[], Awaitable[asyncio.subprocess.Process]],
    running: dict[int, asyncio.subprocess.Process],
    stopping: asyncio.Event,
) -> None:
    loop = asyncio.get_running_loop()
    pause_s = _FIRST_PAUSE_S
    while not stopping.is_set():
        began = loop.time()
        process = running[place.number] = await start()
        if stopping.is_set():  # the signal came while it was being started
            process.send_signal(signal.SIGTERM)
        status = await process.wait()
        del running[place.number]
        if stopping.is_set():
            return
        pause_s = _FIRST_PAUSE_S if loop.time() - began > _LONG_LIFE_S else min(pause_s * 2, _LAST_PAUSE_S)
        log.error("worker %d ended with status %d; another one starts in %.1f s", place.number, status, pause_s)
        try:
            async with asyncio.timeout(pause_s):
                await stopping.wait()
        except TimeoutError:
            continue


async def _start(place: Place, arguments: Sequence[str], environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    assert place.listen_fd is not None, "the parent bound it"
    command = [sys.executable, "-m", __name__.partition(".")[0], "serve", *arguments, "--worker"]
    command += [f"{place.number}/{place.count}/{place.listen_fd}/{place.folder}"]
    # A session of its own: a terminal's Ctrl-C is for the parent, which passes it on once.
    return await asyncio.create_subprocess_exec(
        *command, env=environment, pass_fds=[place.listen_fd], start_new_session=True
    )


def parse_place(text: str) -> Place:
    """A place as `_start` writes it. Raises ValueError."""
    number, count, fd, folder = text.split("/", 3)
    return Place(int(number), int(count), Path(folder), int(fd))
