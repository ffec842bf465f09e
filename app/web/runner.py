"""Runs the service: listens, drains and ends. The same in production and in tests."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, nullcontext, suppress
from dataclasses import dataclass, replace

from aiohttp import hdrs, web

from .. import __version__
from ..fleet import signals
from ..fleet.service_manager import NOBODY, ServiceManager
from ..fleet.supervisor import WorkerSpec
from ..fleet.tcp import BACKLOG, PortTaken, tcp_sockets, url_of
from ..fleet.tie import Tie
from ..fleet.unix_path import UnixPath
from ..settings import Settings, SettingsError
from ..streams.registry import Streams
from .compose import Service, composed
from .connection import Runner
from .credentials import Credentials
from .crowd import AdminCrowd, Crowd
from .descriptors import ADMIN_CONNECTIONS
from .exposure import who_may_call
from .tasks import beside

log = logging.getLogger(__name__)

# A unix socket is served this much longer when all is done, in seconds, because a proxy may have connected to it just
# before another service took its path, and then sends its request.
_LINGER_S = 0.2
# The admin port is tried this often, in seconds, while the service that is replaced still has it, because a port does
# not tell when it is free.
_ADMIN_RETRY_S = 0.5


@dataclass(frozen=True, slots=True)
class Running:
    """A running service.

    Attributes:
        url: where it listens; a unix socket's path as `unix:PATH`.
        admin_url: where the admin port listens, or will when the service that is replaced has ended.
        service: what runs.
    """

    url: str
    admin_url: str
    service: Service
    _sites: tuple[web.BaseSite, ...]
    _path: UnixPath | None

    @property
    def streams(self) -> Streams:
        """Its streams."""
        return self.service.streams

    async def drain(self) -> None:
        """Refuses new streams, and serves the running ones and whoever comes back to them, for the drain time at most.

        The listener stays open until then: a reader who lost its connection meets its stream, and who asks anew an
        error that says when to try again.
        """
        self.streams.accepting = False
        log.info(
            "draining: %d streams run, and have %g s", len(self.streams.live), self.service.settings.streams.drain_s
        )
        await self.streams.drain()
        if self.url.startswith("unix:"):
            await asyncio.sleep(_LINGER_S)
        for site in self._sites:
            await site.stop()
        if self._path is not None:
            self._path.withdraw()


@asynccontextmanager
async def running(
    settings: Settings, credentials: Credentials, spec: WorkerSpec | None = None, *, take_over: bool = False
) -> AsyncIterator[Running]:
    """Serves until the block is left; then every stream is ended and settled.

    Args:
        settings: how it is run.
        credentials: how Claude is reached.
        spec: what this worker was told by its parent; None for one alone.
        take_over: this is a restart: a live service on the unix socket is replaced once this one serves.

    Raises:
        SettingsError: it cannot be run like this, or not be listened on.
    """
    spec = spec or WorkerSpec()
    async with AsyncExitStack() as stack:
        path = None
        if spec.listen_fds:
            sockets = [socket.socket(fileno=fd) for fd in spec.listen_fds]
        elif settings.listening.unix:
            path = _unix_path(stack, settings.listening.unix, take_over=take_over)
            spec = replace(spec, older=tuple(path.older))
            sockets = [path.sock]
        else:
            sockets = tcp_sockets(settings.listening.host, settings.listening.port)[0]
        for sock in sockets:
            stack.enter_context(closing(sock))
        service = await stack.enter_async_context(composed(settings, credentials, spec))
        service.app.on_response_prepare.append(_announced_close(service.streams))
        admin_url = await _serve_admin(stack, service, spec, may_wait=take_over or bool(spec.older))
        own = _unix_path(stack, spec.socket_of(spec.number)) if spec.folder else None
        runner = await _runner(stack, service, service.app, service.crowd)
        if own is not None:
            await _site(runner, own.sock)
            own.publish()
        await _serve_peers(stack, service)
        sites = [await _site(runner, sock) for sock in sockets]
        if path is not None:
            path.publish()
        url = (
            f"unix:{settings.listening.unix}"
            if settings.listening.unix
            else url_of(settings.listening.host, sockets[0])
        )
        yield Running(url, admin_url, service, tuple(sites), path)


async def serve_until_signal(
    settings: Settings,
    credentials: Credentials,
    read_again: Callable[[], Settings],
    spec: WorkerSpec | None = None,
    *,
    manager: ServiceManager = NOBODY,
    take_over: bool = False,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends at once. SIGHUP reads files again.

    Args:
        settings: how it is run.
        credentials: how Claude is reached.
        read_again: reads the settings anew. Raises SettingsError.
        spec: what this worker was told by its parent; None for one alone.
        manager: is told when it serves, and when it ends.
        take_over: this is a restart: a live service on the unix socket is replaced.

    Raises:
        SettingsError: it cannot be run like this. CancelledError: a signal came before it served.
    """
    ends = _Ends()
    ends.listen()
    fd = spec.tie_fd if spec is not None else None
    with closing(Tie(fd)) if fd is not None else nullcontext() as tie:
        async with running(settings, credentials, spec, take_over=take_over) as service:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGHUP, _reread, service.service, read_again)
            if signals.hung_up():
                _reread(service.service, read_again)
            ends.serving(service.streams)
            if tie is not None:
                if not await tie.ready():
                    ends.at_once()
                tie.when_cut(ends.at_once)
            if spec is None or spec.number == 0:
                log.info("%s", who_may_call(settings))
            # One write: with PYTHONUNBUFFERED, as containers have it, `print` writes a line's end apart, and the lines of two
            # workers become one.
            print(f"Sluiceway {__version__} on {service.url} (admin on {service.admin_url})\n", end="", flush=True)
            with manager.feeding():
                manager.ready()
                await ends.asked.wait()
                manager.stopping()
                await service.drain()
        if spec is not None and tie is not None and tie.is_cut:
            with suppress(OSError):  # the parent is gone, so the last worker removes the folder when it is empty
                os.rmdir(spec.folder)


class _Ends:
    """What the signals to end do: the first one asks for it, the second one hurries it.

    Attributes:
        asked: set when it is to end.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self._starting = asyncio.current_task()  # None once it serves
        self._streams: Streams | None = None

    def listen(self) -> None:
        """Takes SIGTERM and SIGINT from here on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.on_signal)

    def serving(self, streams: Streams) -> None:
        """From here on there is something to drain."""
        self._starting, self._streams = None, streams

    def on_signal(self) -> None:
        """Ends what has not begun at once, what serves by a drain, and a drain at once."""
        if self._starting is not None:
            self._starting.cancel()
        elif self.asked.is_set() and self._streams is not None:
            self._streams.hurry()
        self.asked.set()

    def at_once(self) -> None:
        """Ends as after two signals, because the parent is gone and its successor may want the port."""
        self.on_signal()
        self.on_signal()


def _reread(service: Service, read_again: Callable[[], Settings]) -> None:
    try:
        service.reread(read_again())
    except SettingsError as error:
        log.error("nothing has changed, since what was read again is wrong: %s", error)


def _unix_path(stack: AsyncExitStack, path: str, *, take_over: bool = False) -> UnixPath:
    bound = UnixPath.bind(path, take_over=take_over)
    stack.callback(bound.sock.close)
    stack.callback(bound.withdraw)
    return bound


def _announced_close(streams: Streams) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def announce(request: web.Request, response: web.StreamResponse) -> None:
        # During a drain a proxy should send its next request elsewhere, because here it might meet the end of the
        # process.
        if not streams.accepting:
            response.force_close()
        if not (streams.accepting and request.keep_alive):
            response.headers[hdrs.CONNECTION] = "close"

    return announce


async def _serve_admin(stack: AsyncExitStack, service: Service, spec: WorkerSpec, *, may_wait: bool) -> str:
    """Serves the admin port, at once or when the service that is replaced has left it."""
    host, port = service.settings.listening.admin_host, service.settings.listening.admin_port
    port = port and port + spec.number
    runner = await _runner(stack, service, service.admin, AdminCrowd(ADMIN_CONNECTIONS))

    def listen() -> list[socket.socket]:
        return tcp_sockets(host, port, names=("admin_host", "admin_port"))[0]

    async def serve(sockets: list[socket.socket]) -> None:
        for sock in sockets:
            await _site(runner, sock)

    async def follow() -> None:
        while True:
            await asyncio.sleep(_ADMIN_RETRY_S)
            try:
                sockets = listen()
            except SettingsError:
                continue
            await serve(sockets)
            await asyncio.get_running_loop().create_future()  # what runs beside the service ends with it

    try:
        sockets = listen()
    except PortTaken as error:
        if not may_wait:
            raise
        log.info("%s: it is served when the service that is replaced has ended", error)
        await stack.enter_async_context(beside(follow()))
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    await serve(sockets)
    return url_of(host, sockets[0])


async def _serve_peers(stack: AsyncExitStack, service: Service) -> None:
    """Serves other processes of the fleet, where there is one, as long as streams run."""
    peers = service.peers
    if peers is not None:
        sockets = stack.enter_context(ExitStack())  # closed after the runner, which still has to stop listening to them
        runner = await _runner(stack, service, peers, Crowd(service.settings.connections.max_connections))

        async def serve(sock: socket.socket) -> None:
            sockets.callback(sock.close)
            await _site(runner, sock)

        await stack.enter_async_context(beside(service.part.keep_listening(serve)))


async def _runner(stack: AsyncExitStack, service: Service, app: web.Application, crowd: Crowd) -> Runner:
    runner = Runner(app, service.refusals, service.settings.connections, crowd)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner


async def _site(runner: Runner, sock: socket.socket) -> web.BaseSite:
    site = web.SockSite(runner, sock, backlog=BACKLOG)
    await site.start()
    return site
