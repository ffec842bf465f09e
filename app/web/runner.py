"""Runs the service: listens, drains and ends. The same in production and in tests."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace

from aiohttp import hdrs, web

from .. import __version__
from ..fleet.spec import WorkerSpec
from ..fleet.tcp import BACKLOG, tcp_sockets, url_of
from ..fleet.tie import Tie
from ..fleet.unix_path import UnixPath
from ..settings import Settings, SettingsError
from ..streams.registry import Streams
from .compose import Service, composed
from .connection import Runner
from .credentials import Credentials
from .crowd import AdminCrowd, Crowd
from .descriptors import ADMIN_CONNECTIONS
from .elsewhere.heir import Heir
from .exposure import who_may_call
from .tasks import beside

log = logging.getLogger(__name__)

# A unix socket is served this much longer when all is done, in seconds, because a proxy may have connected to it just
# before another service took its path, and then sends its request.
_LINGER_S = 0.2
# Who has given its place to a newer one still takes what comes over connections that it has, for so long, in seconds: a
# client may have sent its next request already. Then idle ones are closed.
_LAST_REQUESTS_S = 2.0


@dataclass(slots=True)
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
    _heir: Heir
    _runner: Runner
    _admin: Runner
    _path: UnixPath | None
    _sites: list[web.BaseSite] = field(default_factory=list)
    _admin_sites: list[web.BaseSite] = field(default_factory=list)

    @property
    def streams(self) -> Streams:
        """Its streams."""
        return self.service.streams

    async def accept(self, sockets: list[socket.socket], admin: list[socket.socket]) -> None:
        """Serves readers who come to these sockets, and the admin port."""
        self._sites += [await _site(self._runner, sock) for sock in sockets]
        await self.accept_admin(admin)
        if self._path is not None:
            self._path.publish()

    async def accept_admin(self, sockets: list[socket.socket]) -> None:
        """Serves the admin port."""
        self._admin_sites += [await _site(self._admin, sock) for sock in sockets]

    async def stop_listening(self) -> None:
        """Frees the ports, for another service; what has come is served on. Idempotent."""
        for site in (*self._sites, *self._admin_sites):
            await site.stop()
        self._sites.clear()
        self._admin_sites.clear()

    async def leave(self) -> None:
        """Lets another process have its place: it listens no more, and ends once all that runs has ended.

        What still comes over connections that it has is answered, and they close with that. Answers that can be read again
        stay so for the drain time.
        """
        self.streams.leaving = True
        self._heir.leave()
        log.info("leaving: %d streams run, and have %g s", len(self.streams.live), self.drain_s)
        await self.stop_listening()
        self._admin.end_soon()
        last_s = min(_LAST_REQUESTS_S, self.drain_s / 3)
        await self.streams.patience.wait(last_s)
        self._runner.end_soon()
        # In a fleet they are kept elsewhere.
        await self._end(self.drain_s - last_s, kept=self.service.part.shadow is None)

    async def _end(self, within_s: float, *, kept: bool = False) -> None:
        """Takes nobody new; returns once all who came before are answered and nothing runs, or their time is over.

        Args:
            within_s: their time, in seconds.
            kept: as long as something can be read again, it is all waited for.
        """
        self.streams.accepting = False
        loop, patience, crowd = asyncio.get_running_loop(), self.streams.patience, self.service.crowd
        until = loop.time() + within_s
        await patience.wait(within_s, crowd.rests)  # a body may be arriving, for a stream that is yet to begin
        await self.streams.drain(max(0.0, until - loop.time()), kept=kept)
        await patience.wait(max(0.0, until - loop.time()), crowd.rests)  # its last reader has yet to be sent the end

    @property
    def drain_s(self) -> float:
        """What streams are given at an end, in seconds."""
        return self.service.settings.streams.drain_s

    async def drain(self) -> None:
        """Refuses new streams, and serves the running ones and whoever comes back to them, for the drain time at most.

        The listener stays open until then: a reader who lost its connection meets its stream, and who asks anew an
        error that says when to try again.
        """
        log.info("draining: %d streams run, and have %g s", len(self.streams.live), self.drain_s)
        await self._end(self.drain_s)
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
    async with _prepared(settings, credentials, spec or WorkerSpec(), take_over=take_over) as (service, sockets, admin):
        await service.accept(sockets, admin)
        yield service


@asynccontextmanager
async def _prepared(
    settings: Settings, credentials: Credentials, spec: WorkerSpec, *, take_over: bool
) -> AsyncIterator[tuple[Running, list[socket.socket], list[socket.socket]]]:
    """All set up, and reached by other workers, but by readers only once it accepts from these sockets, and these of the admin port."""
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
        admin = [socket.socket(fileno=fd) for fd in spec.admin_fds]
        if not spec.listen_fds:
            names = ("admin_host", "admin_port")
            admin = tcp_sockets(settings.listening.admin_host, settings.listening.admin_port, names=names)[0]
        for sock in (*sockets, *admin):
            stack.enter_context(closing(sock))
        heir = Heir(spec)
        stack.callback(heir.leave_behind)  # once all below has ended and is settled
        service = await stack.enter_async_context(composed(settings, credentials, spec, heir))
        service.app.on_response_prepare.append(_announced_close(service.streams))
        own = _unix_path(stack, spec.socket_of(spec.number)) if spec.folder else None
        shown = _unix_path(stack, heir.socket) if spec.folder else None
        admin_runner = await _runner(stack, service, service.admin, AdminCrowd(ADMIN_CONNECTIONS))
        stack.callback(
            heir.leave_behind
        )  # and before its admin port falls silent, so that its heir always finds one of both
        runner = await _runner(stack, service, service.app, service.crowd)
        if own is not None and shown is not None:
            await _site(runner, own.sock)
            await _site(admin_runner, shown.sock)
            own.publish()
            shown.publish()
        await _serve_peers(stack, service)
        urls = _url(settings, sockets[0]), _admin_url(settings, spec.place, admin)
        run = Running(*urls, service, heir, runner, admin_runner, path)
        yield run, sockets, admin


async def serve_until_signal(
    settings: Settings,
    credentials: Credentials,
    read_again: Callable[[], Settings],
    spec: WorkerSpec,
    tie: Tie | None,
    *,
    take_over: bool = False,
) -> None:
    """Serves until SIGTERM or SIGINT, then drains, or until its parent says that another one has its place.

    A second signal ends at once, and so does the parent's end.

    Args:
        settings: how it is run.
        credentials: how Claude is reached.
        read_again: reads the settings anew, for the keys that callers come back with. Raises SettingsError.
        spec: what this worker was told by its parent.
        tie: what ties it to that; None without one.
        take_over: this is a restart: a live service on the unix socket is replaced.

    Raises:
        SettingsError: it cannot be run like this. CancelledError: a signal came before it served.
    """
    ends = _Ends()
    ends.listen()
    async with _prepared(settings, credentials, spec, take_over=take_over) as (service, sockets, admin):
        ends.serving(service.streams)
        async with AsyncExitStack() as stack:
            if tie is not None:
                stack.enter_context(closing(tie))
                tie.ready()
                if await tie.hear() is None:
                    ends.at_once()
                else:
                    await stack.enter_async_context(beside(_obey(tie, service, ends)))
                    if spec.beat_s:
                        await stack.enter_async_context(beside(_beat(tie, spec.beat_s)))
            await service.accept(sockets, admin)
            if not spec.place:
                log.info("%s", who_may_call(settings))
            _say(f"Sluiceway {__version__} on {service.url} (admin on {service.admin_url})\n")
            await ends.asked.wait()
            if ends.leaves:
                _reread(service.service, read_again)
                await service.leave()
            else:
                await service.drain()
    if ends.orphaned and not spec.others():  # the last one clears up behind the parent
        shutil.rmtree(spec.folder, ignore_errors=True)


def _say(line: str) -> None:
    """On stdout, in one write, or the lines of two workers become one; whoever read the first line may have closed it since."""
    with suppress(OSError):
        os.write(1, line.encode("utf-8", "backslashreplace"))


async def _obey(tie: Tie, service: Running, ends: _Ends) -> None:
    """Does what the parent says; ends at once when that is gone."""
    while (heard := await tie.hear()) is not None:
        message, sockets = heard
        if "admin" in message:
            await service.accept_admin(sockets)
        if "leave" in message:
            ends.leave()
    ends.orphaned = True
    await service.stop_listening()  # now, since a successor may want the ports before all is settled
    ends.at_once()
    await asyncio.get_running_loop().create_future()  # what runs beside the service ends with it


async def _beat(tie: Tie, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        tie.beat()


class _Ends:
    """What ends it: another one that has its place, or signals, of which the first one asks for it, the second one hurries it.

    Attributes:
        asked: set when it is to end.
        leaves: another one has its place.
        orphaned: the parent is gone.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.leaves = self.orphaned = False
        self._signals = 0
        self._starting = asyncio.current_task()  # None once it serves
        self._streams: Streams | None = None

    def listen(self) -> None:
        """Takes SIGTERM and SIGINT from here on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.on_signal)

    def serving(self, streams: Streams) -> None:
        """From here on there is something to drain."""
        self._starting, self._streams = None, streams

    def leave(self) -> None:
        """Ends by leaving; a signal that came before it, and one that comes after it, change nothing."""
        if not self.asked.is_set():
            self.leaves = True
            self.asked.set()

    def on_signal(self) -> None:
        """Ends what has not begun at once, what serves by a drain, and a drain at once."""
        self._signals += 1
        if self._starting is not None:
            self._starting.cancel()
        elif self._streams is not None and self._signals > 1:
            self._streams.patience.hurry()
        elif self._streams is not None:  # who has left, too: nobody will come who could read again what is kept
            self._streams.patience.forget()
        self.asked.set()

    def at_once(self) -> None:
        """Ends as after two signals, because the parent is gone."""
        self.on_signal()
        self.on_signal()


def _reread(service: Service, read_again: Callable[[], Settings]) -> None:
    """Knows callers as those do who have taken its place; what another version reads otherwise changes nothing here."""
    try:
        service.reread(read_again())
    except SettingsError as error:
        log.warning("callers of what still runs here stay as they were: %s", error)


def _url(settings: Settings, sock: socket.socket) -> str:
    at = settings.listening
    return f"unix:{at.unix}" if at.unix else url_of(at.host, sock)


def _admin_url(settings: Settings, place: int, sockets: list[socket.socket]) -> str:
    host, port = settings.listening.admin_host, settings.listening.admin_port
    if sockets:
        return url_of(host, sockets[0])
    return f"http://[{host}]:{port + place}" if ":" in host else f"http://{host}:{port + place}"


def _unix_path(stack: AsyncExitStack, path: str, *, take_over: bool = False) -> UnixPath:
    bound = UnixPath.bind(path, take_over=take_over)
    stack.callback(bound.sock.close)
    stack.callback(bound.withdraw)
    return bound


def _announced_close(streams: Streams) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def announce(request: web.Request, response: web.StreamResponse) -> None:
        # During a drain a proxy should send its next request elsewhere, because here it might meet the end of the
        # process; and so should everybody once another one has this one's place.
        ends = streams.leaving or not streams.accepting
        if ends:
            response.force_close()
        if ends or not request.keep_alive:
            response.headers[hdrs.CONNECTION] = "close"

    return announce


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
        await service.part.shown()


async def _runner(stack: AsyncExitStack, service: Service, app: web.Application, crowd: Crowd) -> Runner:
    runner = Runner(app, service.refusals, service.settings.connections, crowd)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner


async def _site(runner: Runner, sock: socket.socket) -> web.BaseSite:
    site = web.SockSite(runner, sock, backlog=BACKLOG)
    await site.start()
    return site
