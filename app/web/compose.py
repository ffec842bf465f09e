"""Puts the service together, and runs it: the same runner in production and in tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector

from .. import __version__
from ..access.keys import Keys
from ..answer.transcript import Transcript
from ..fleet.supervisor import BACKLOG, Place
from ..flow.relay import Pace
from ..money.entry import Entry, ReconcileLimit
from ..money.ledger import Ledger
from ..money.ledger_file import LedgerFile
from ..money.prices import SHIPPED, load_prices
from ..settings import Settings, SettingsError
from ..streams.admission import Admission, LagMeter
from ..streams.archive import Archive, ArchiveOptions
from ..streams.books import Books
from ..streams.registry import Streams
from ..streams.session import Bounds
from ..streams.terms import Policy
from ..telemetry.prometheus import Metrics
from ..upstream.claude import Claude
from ..upstream.options import UpstreamOptions
from ..upstream.recount import Reconciler
from ..upstream.retry import RetryRule
from .chat_api import ChatApi
from .messages_api import MessagesApi
from .origins import Cors
from .plain_api import Desk, Reading, admin_routes, errors_as_json
from .readers import SendBuffers
from .refusals import Refusals
from .requests import Defaults
from .siblings import Siblings

_LOOPBACK = ("127.", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Credentials:
    """How Claude is reached, as the SDK's own environment variables say.

    Attributes:
        api_key: `ANTHROPIC_API_KEY`; None leaves it to the SDK.
        base_url: `ANTHROPIC_BASE_URL`; None for Claude's own.
        simulated: a simulated Claude stands there, and the page says so.
    """

    api_key: str | None = None
    base_url: str | None = None
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class Running:
    """A running service.

    Attributes:
        url: where it listens; a unix socket's path as `unix:PATH`.
        admin_url: where the admin port listens.
        streams: its streams.
        listener: takes the connections of readers.
    """

    url: str
    admin_url: str
    streams: Streams
    listener: web.BaseSite

    async def drain(self) -> None:
        """Takes no more connections, and gives the running streams the drain time."""
        self.streams.accepting = False
        await self.listener.stop()
        await self.streams.drain()


def check_exposure(settings: Settings) -> None:
    """Refuses to serve anyone beyond this machine by mistake.

    Raises:
        SettingsError: the address is not loopback, there are no callers' keys, and no one said `auth = "none"`.
    """
    if settings.unix or settings.api_keys or settings.auth == "none" or settings.host.startswith(_LOOPBACK):
        return
    raise SettingsError(
        f"host {settings.host} is reachable from elsewhere: set callers' keys (SLUICEWAY_API_KEYS=key,…), "
        "or say SLUICEWAY_AUTH=none to spend for anyone"
    )


@asynccontextmanager
async def running(settings: Settings, credentials: Credentials, place: Place | None = None) -> AsyncIterator[Running]:
    """Serves until the block is left; then every stream is ended and settled.

    Args:
        settings: how it is run.
        credentials: how Claude is reached.
        place: among the workers of this machine; None for one alone.

    Raises:
        SettingsError: the address would serve anyone. OSError: it cannot be listened on.
    """
    check_exposure(settings)
    place = place or Place()
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    prices = load_prices(*_price_files(settings))
    metrics = Metrics(registry, dict.fromkeys((settings.model, *prices.models)), simulated=credentials.simulated)
    metrics.show_prices(prices)
    claude = Claude(_upstream_options(settings, credentials), metrics.upstream_retry)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(claude.close)
        meter = LagMeter(time.monotonic, metrics.loop_lag)
        await stack.enter_async_context(_beside(meter.run()))
        ledger = Ledger(prices)
        if settings.ledger_file:
            file = LedgerFile(Path(settings.ledger_file), ledger)
            file.load(asyncio.get_running_loop().time())
            await stack.enter_async_context(_beside(file.keep()))
        admission = Admission(settings.max_streams, settings.max_lag_s)
        books = await stack.enter_async_context(Books(ledger, metrics, settings.upstream, _reconcile(settings, claude)))
        streams = await stack.enter_async_context(
            Streams(
                books,
                Archive(_archive_options(settings)),
                _bounds(settings),
                admit=lambda in_flight: admission.check(in_flight, meter.lag_s),
                worker=place.number,
            )
        )
        keys = Keys(() if settings.auth == "none" else settings.api_keys)
        desk = Desk(
            claude=claude,
            streams=streams,
            keys=keys,
            defaults=_defaults(settings),
            reading=_reading(settings),
            page={
                "version": __version__,
                "simulated": credentials.simulated,
                "auth": bool(keys),
                "model": settings.model,
                "window_ms": round(settings.window_s * 1000),
            },
        )
        messages = MessagesApi(claude, streams, keys, desk.reading)
        chat_defaults = replace(desk.defaults, policy=Policy(settings.chat_policy))
        chat = ChatApi(claude, streams, keys, chat_defaults, desk.reading, prices)
        cors = Cors(settings.cors_origins)
        refusals = Refusals(metrics.refused)
        stack.callback(refusals.close)
        middlewares = [*cors.middlewares, errors_as_json, refusals.middleware]
        if place.folder is not None:
            siblings = Siblings(place, desk.reading.buffers)
            stack.push_async_callback(siblings.close)
            middlewares.append(siblings.middleware)
        app = web.Application(
            middlewares=middlewares,
            client_max_size=settings.max_body_bytes,
            handler_args={"logger": refusals.server_log},
        )
        app.add_routes([*desk.routes(), *messages.routes(), *chat.routes()])
        cors.install(app)
        admin = web.Application()
        admin.add_routes(admin_routes(streams, registry))
        admin_port = settings.admin_port and settings.admin_port + place.number
        admin_url, _ = await _listen(await _runner(stack, admin), settings.admin_host, admin_port)
        runner = await _runner(stack, app)
        if place.folder is not None:
            await _listen(runner, unix=place.socket_of(place.number))
        url, listener = await _listen(runner, settings.host, settings.port, settings.unix, place.listen_fd)
        yield Running(url, admin_url, streams, listener)


async def serve_until_signal(settings: Settings, credentials: Credentials, place: Place | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then drains; a second signal ends at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with running(settings, credentials, place) as service:

        def on_signal() -> None:
            if stop.is_set():
                service.streams.hurry()
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        print(f"Sluiceway {__version__} on {service.url} (admin on {service.admin_url})", flush=True)
        await stop.wait()
        await service.drain()


@asynccontextmanager
async def _beside(coroutine: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs something endless beside the block."""
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _runner(stack: contextlib.AsyncExitStack, app: web.Application) -> web.AppRunner:
    # handler_cancellation: without it a handler that waits is not told of a disconnect; aiohttp's test server sets
    # it by itself, so that tests with that one prove nothing. access_log: one line a stream is logged by the session.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner


async def _listen(
    runner: web.AppRunner, host: str = "", port: int = 0, unix: str = "", listen_fd: int | None = None
) -> tuple[str, web.BaseSite]:
    site: web.BaseSite
    if listen_fd is not None:
        sock = socket.socket(fileno=listen_fd)
        site = web.SockSite(runner, sock, backlog=BACKLOG)
    elif unix:
        Path(unix).unlink(missing_ok=True)  # noqa: ASYNC240 - once, before anything is served
        site = web.UnixSite(runner, unix, backlog=BACKLOG)
    else:
        site = web.TCPSite(runner, host, port, backlog=BACKLOG)
    await site.start()
    if unix and listen_fd is None:
        os.chmod(unix, 0o660)  # nginx's user gets in by the group
    if unix:
        return f"unix:{unix}", site
    bound_port = sock.getsockname()[1] if listen_fd is not None else runner.addresses[-1][1]
    return f"http://[{host}]:{bound_port}" if ":" in host else f"http://{host}:{bound_port}", site


def _reconcile(settings: Settings, claude: Claude) -> Callable[[Entry, Transcript], Coroutine[Any, Any, Entry]] | None:
    if not settings.reconcile_per_minute:
        return None
    return Reconciler(claude.sdk, ReconcileLimit(settings.reconcile_per_minute)).reconcile


def _upstream_options(settings: Settings, credentials: Credentials) -> UpstreamOptions:
    return UpstreamOptions(
        api_key=credentials.api_key,
        base_url=credentials.base_url,
        window_s=settings.window_s,
        receive_buffer_bytes=settings.receive_buffer_bytes,
        connect_timeout_s=settings.connect_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
        progress_timeout_s=settings.progress_timeout_s,
        retry=RetryRule(settings.retries, settings.retry_after_max_s),
    )


def _price_files(settings: Settings) -> list[Path]:
    return [SHIPPED, *([Path(settings.prices_file)] if settings.prices_file else [])]


def _defaults(settings: Settings) -> Defaults:
    return Defaults(
        model=settings.model,
        max_tokens=settings.max_tokens,
        thinking=settings.thinking,
        max_tokens_limit=settings.max_tokens_limit,
        policy=Policy(settings.policy),
        grace_s=settings.grace_s,
        grace_max_s=max(settings.grace_s, settings.grace_max_s),
    )


def _reading(settings: Settings) -> Reading:
    return Reading(
        buffers=SendBuffers(settings.send_buffer_bytes, settings.notsent_lowat_bytes),
        stall_s=settings.stall_timeout_s,
        vanish_s=settings.vanish_timeout_s,
        credit_bytes=settings.credit_bytes,
    )


def _archive_options(settings: Settings) -> ArchiveOptions:
    return ArchiveOptions(
        replay_bytes=settings.replay_bytes,
        replay_total_bytes=settings.replay_total_bytes,
        replay_s=settings.replay_s,
    )


def _bounds(settings: Settings) -> Bounds:
    return Bounds(
        queue_items=settings.queue_items,
        queue_bytes=settings.queue_bytes,
        window_s=settings.window_s,
        window_max_s=settings.window_max_s,
        pace=Pace(settings.batch_bytes, settings.commit_s, settings.heartbeat_s),
        drain_s=settings.drain_s,
    )
