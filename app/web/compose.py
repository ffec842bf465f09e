"""Puts the service together: its parts, and the paths on which they answer. `runner.py` runs it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CollectorRegistry, ProcessCollector

from .. import __version__
from ..access.guard import Guard
from ..access.proxies import Proxies
from ..answer.transcript import Transcript
from ..fleet.spec import WorkerSpec
from ..money.entry import Entry, ReconcileLimit
from ..money.ledger import Ledger
from ..money.ledger_file import LedgerFile
from ..money.prices import Prices
from ..settings import Settings, SettingsError
from ..settings.connections import ConnectionBounds
from ..settings.sections import AdmissionLimits, BodyLimits, Callers
from ..streams.admission import LagMeter, check_room, saturation
from ..streams.archive import Archive
from ..streams.arrivals import arrives
from ..streams.books import Books
from ..streams.registry import Streams
from ..telemetry.prometheus import Metrics
from ..upstream.claude import Claude
from ..upstream.headers import HeadersUp
from ..upstream.identity import IdentityError
from ..upstream.passing import Passing
from ..upstream.recount import Reconciler
from . import descriptors, exposure
from .checks import check
from .credentials import Credentials
from .crowd import Crowd
from .elsewhere.carrying import Carrier
from .elsewhere.forwarding import Forwarder
from .elsewhere.heir import Heir
from .elsewhere.part import Alone, Part
from .entrance.identity import Identity
from .entrance.origins import Cors
from .entrance.way_in import Body, Entrance, Route
from .http.bodies import Bodies, BodyBound
from .http.errors import errors_as_json
from .http.response_headers import guard_response
from .known_callers import KnownCallers
from .limits import limiting
from .readers.opening import Opener
from .refusals import Refusals
from .routes.admin_api import admin_routes, answering_to
from .routes.chat_api import ChatApi
from .routes.gauges import gauge_routes
from .routes.messages_api import MessagesApi
from .routes.openapi import openapi_route
from .routes.pages import Pages
from .routes.passthrough import PassThrough
from .routes.plain_api import PlainApi
from .routes.probe import Probes
from .spans import spans
from .tasks import beside

log = logging.getLogger(__name__)

# A request of the Messages API may hold this many values. All of them are passed over to find the few fields that matter,
# which takes some 20 ms. The largest context, a million tokens, does not hold more.
_MOST_VALUES = 2_000_000
# A question's, whose messages are looked into: some 50,000 blocks of text.
_MOST_VALUES_OF_A_QUESTION = 250_000
# What `reread()` takes from settings that were read again.
REREAD = ("api_keys", "prices_file")


@dataclass(slots=True)
class Service:
    """The service, put together; it is reached once its applications are run.

    Attributes:
        settings: how it is run.
        app: what readers reach.
        admin: the paths of the admin port.
        peers: what other processes of the fleet reach; None without any.
        part: what it does in a fleet.
        claude: the way to Claude.
        streams: its streams.
        refusals: hears of what is turned away.
        crowd: the readers' connections.
    """

    settings: Settings
    app: web.Application
    admin: web.Application
    peers: web.Application | None
    part: Part
    claude: Claude
    streams: Streams
    refusals: Refusals
    crowd: Crowd
    _callers: KnownCallers
    _prices: Prices
    _metrics: Metrics
    _page: dict[str, Any]

    def reread(self, settings: Settings) -> None:
        """Takes the callers, their keys and the prices from settings and files that were read again.

        Raises:
            SettingsError: something of it is wrong; nothing has changed.
        """
        new, old = settings.flat(), self.settings.flat()
        taken = Settings.model_validate(old | {name: new[name] for name in REREAD})
        prices = check(taken)
        self._callers.read_again(taken.callers)
        self._prices.replace(prices)
        self._metrics.show_prices(self._prices)
        self._page["auth"] = self._callers.guard.demands_keys
        self.settings = taken
        log.info("callers, keys and prices were read again")


@asynccontextmanager
async def composed(
    settings: Settings, credentials: Credentials, spec: WorkerSpec, heir: Heir
) -> AsyncIterator[Service]:
    """Puts the service together; when the block is left every stream is ended and settled.

    Args:
        settings: how it is run.
        credentials: how Claude is reached.
        spec: what this worker was told by its parent.
        heir: has its figures, and shows them.

    Raises:
        SettingsError: it could not be run like this.
    """
    prices = check(settings)
    registry = heir.own
    metrics = _metrics(settings, registry, prices, simulated=credentials.simulated)
    claude = _claude(settings, credentials, metrics)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(claude.close)
        if settings.claude.warm_connections:
            await stack.enter_async_context(beside(claude.keep_warm(settings.claude.warm_connections)))
        callers = await _known_callers(stack, settings.callers, spec.folder)
        guard = callers.guard
        ledger = Ledger(prices)
        part = await _part(stack, settings, spec.number, registry)
        limiter = await stack.enter_async_context(
            limiting(settings, guard, registry, prices, ledger, part.limits or spec.count, spec.folder)
        )
        streams = limiter.streams = await _streams(stack, settings, claude, metrics, ledger, part)
        page = _page(settings, credentials, guard)
        opener = Opener(claude, streams, limiter, settings.readers, HeadersUp(settings.passing.forward_headers))
        passed = await _pass_through(stack, settings, opener)
        bodies = _bodies(settings, metrics, claude, streams)
        entrance = _entrance(settings, callers.identity, bodies, exposure.names(settings))
        cors = Cors(settings.callers.cors_origins)
        carrier = Carrier(settings.readers, part.relayed)
        await stack.enter_async_context(beside(carrier.run()))
        forwarder = Forwarder(spec, carrier, part.elsewhere(opener, carrier))
        refusals = Refusals(metrics.refused)
        stack.callback(refusals.close)
        crowd = _crowd(settings.connections)
        before = [_arriving(streams), *(each.middleware for each in (refusals, crowd, entrance))]
        app = web.Application(middlewares=[*cors.middlewares, errors_as_json, *before, *forwarder.middlewares])
        answering = [*_routes(opener, settings, prices, page, forwarder), *callers.routes(), *passed.routes()]
        routes = [*answering, *Probes(settings, bodies, part).routes()]
        entrance.install(app, [*routes, openapi_route(settings, routes)])
        cors.install(app)
        admin = _admin(streams, heir, part, exposure.admin_names(settings))
        peers = part.peers(streams, _entrance(settings, callers.identity, bodies, None), routes)
        app.on_response_prepare.append(guard_response)
        yield Service(
            settings, app, admin, peers, part, claude, streams, refusals, crowd, callers, prices, metrics, page
        )


def _arriving(streams: Streams) -> Middleware:
    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        arrives(in_time=streams.accepting)  # by its head: its body may come long after a drain has begun
        return await handler(request)

    return note


def _metrics(settings: Settings, registry: CollectorRegistry, prices: Prices, *, simulated: bool) -> Metrics:
    ProcessCollector(registry=registry)
    metrics = Metrics(registry, dict.fromkeys((settings.questions.model, *prices.models)), simulated=simulated)
    metrics.show_prices(prices)
    return metrics


async def _part(stack: AsyncExitStack, settings: Settings, worker: int, registry: CollectorRegistry) -> Part:
    if not settings.fleet.redis_url:
        return Alone(worker)
    try:
        from .fleet import joined  # not before: redis-py is an extra, and takes its time to be imported
    except ModuleNotFoundError as error:
        raise SettingsError(f"redis_url: it needs {error.name}: pip install 'sluiceway[redis]'") from None
    return await stack.enter_async_context(joined(settings, worker, registry))


def _admin(streams: Streams, heir: Heir, part: Part, names: Collection[str] | None) -> web.Application:
    admin = web.Application(middlewares=[errors_as_json, answering_to(names)] if names is not None else ())
    admin.add_routes(admin_routes(streams, heir, part.readiness))
    admin.on_response_prepare.append(guard_response)
    return admin


async def _known_callers(stack: AsyncExitStack, settings: Callers, folder: str) -> KnownCallers:
    """What is known of callers, kept in step with their file."""
    callers = KnownCallers.of(settings, folder)
    if callers.watch is not None:
        await stack.enter_async_context(beside(callers.watch.run(callers.guard)))
    return callers


async def _streams(
    stack: AsyncExitStack, settings: Settings, claude: Claude, metrics: Metrics, ledger: Ledger, part: Part
) -> Streams:
    """The streams and what they stand on: the lag meter that admits them, and the ledger that books them."""

    def on_beat(late_s: float) -> None:
        # One measurement, three readers: the histogram, the pace of reading, and admission below.
        metrics.loop_lag(late_s)
        claude.pacer.lag_s = meter.lag_s

    def admit(in_flight: int) -> None:
        part.check_start()
        check_room(limits, in_flight, meter.late_for_s)

    limits = replace(settings.admission, max_streams=_places(settings.admission))
    if limits != settings.admission:
        log.warning("the limit of open files leaves room for %d streams: max_streams is above it", limits.max_streams)
    meter = LagMeter(time.monotonic, settings.admission.max_lag_s, on_beat)
    await stack.enter_async_context(beside(meter.run()))
    if settings.costs.ledger_file:
        file = LedgerFile(Path(settings.costs.ledger_file), ledger)
        file.load(asyncio.get_running_loop().time())
        await stack.enter_async_context(beside(file.keep()))
    trace = await stack.enter_async_context(spans(settings.logs.otlp_endpoint, claude.identity.base_url))
    books = await stack.enter_async_context(
        Books(ledger, metrics, settings.costs.upstream, _reconcile(settings, claude), trace)
    )
    return await stack.enter_async_context(
        Streams(
            books,
            Archive(settings.replay, part.shadow),
            settings.streams,
            admit,
            part.new_id,
        )
    )


def _places(limits: AdmissionLimits) -> int:
    return min(limits.max_streams, descriptors.room())


def _bodies(settings: Settings, metrics: Metrics, claude: Claude, streams: Streams) -> Bodies:
    """What reads bodies: with it all is there that saturation is made of."""
    bodies = Bodies(settings.bodies.max_arriving_bytes)
    metrics.saturation.set_function(
        lambda: saturation(
            (streams.in_flight, _places(settings.admission)),
            (bodies.held_bytes, bodies.max_held_bytes),
            (claude.pacer.lag_s, settings.admission.max_lag_s),
        )
    )
    return bodies


def _crowd(bounds: ConnectionBounds) -> Crowd:
    most = min(bounds.max_connections, descriptors.room())
    return Crowd(most, bounds.max_connections_per_client, Proxies(bounds.trusted_proxies))


async def _pass_through(stack: AsyncExitStack, settings: Settings, opener: Opener) -> PassThrough:
    passing = Passing(opener.claude)
    stack.push_async_callback(passing.close)
    await stack.enter_async_context(beside(passing.keep()))
    bound = _bound(settings.bodies, settings.passing.max_passed_bytes, "max_passed_bytes")
    bound = replace(bound, timeout_s=settings.readers.stall_timeout_s)
    return PassThrough(passing, opener.streams, opener.limiter, opener.headers_up, settings.passing.pass_through, bound)


def _claude(settings: Settings, credentials: Credentials, metrics: Metrics) -> Claude:
    try:
        claude = Claude(
            settings.claude,
            settings.streams.window_s,
            credentials.api_key,
            credentials.base_url,
            metrics.upstream_retry,
        )
    except (OSError, ValueError) as error:
        # The SDK, and TLS below it, take more from the environment: profiles, identities, certificates. Those are
        # named.
        kind = "ANTHROPIC_" if isinstance(error, IdentityError) else "SSL_CERT_"
        names = sorted(name for name in os.environ if name.startswith(kind))
        raise SettingsError(f"{', '.join(names) or 'the way to Claude'}: {error}") from error
    if not claude.identity.known:
        log.warning("ANTHROPIC_API_KEY is not set: Claude will refuse every request")
    return claude


def _routes(
    opener: Opener, settings: Settings, prices: Prices, page: dict[str, Any], forwarder: Forwarder
) -> list[Route]:
    defaults = settings.questions
    chat_defaults = replace(defaults, policy=defaults.chat_policy)
    return [
        *PlainApi(opener, defaults).routes(),
        *gauge_routes(opener.streams),
        *MessagesApi(opener).routes(),
        *ChatApi(opener, chat_defaults, prices, forwarder).routes(),
        *Pages().routes(page),
    ]


def _page(settings: Settings, credentials: Credentials, guard: Guard) -> dict[str, Any]:
    return {
        "version": __version__,
        "simulated": credentials.simulated,
        "auth": guard.demands_keys,
        "model": settings.questions.model,
        "window_ms": round(settings.streams.window_s * 1000),
    }


def _reconcile(settings: Settings, claude: Claude) -> Callable[[Entry, Transcript], Coroutine[Any, Any, Entry]] | None:
    if not settings.costs.reconcile_per_minute:
        return None
    return Reconciler(claude, ReconcileLimit(settings.costs.reconcile_per_minute)).reconcile


def _entrance(settings: Settings, identity: Identity, bodies: Bodies, hosts: Collection[str] | None) -> Entrance:
    limits = settings.bodies
    bounds = {
        Body.QUESTION: _bound(limits, limits.max_body_bytes, "max_body_bytes", _MOST_VALUES_OF_A_QUESTION),
        Body.MESSAGES: _bound(limits, limits.max_messages_bytes, "max_messages_bytes", _MOST_VALUES),
    }
    return Entrance(identity, bodies, bounds, settings.callers.cors_origins, hosts)


def _bound(limits: BodyLimits, max_bytes: int, setting: str, max_values: int = 0) -> BodyBound:
    return BodyBound(
        max_bytes, limits.body_timeout_s, setting, max_values, limits.body_grace_s, limits.min_body_bytes_per_s
    )
