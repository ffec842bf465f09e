"""Puts the parts of a fleet together, where there is one: imported only with `redis_url`, and redis-py with it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from socket import socket

from aiohttp import web
from prometheus_client import CollectorRegistry

from ..fleet.apart import Apart
from ..fleet.chats import Chats
from ..fleet.contact import Contact, RedisAway, RedisRefused
from ..fleet.errors import FleetAway, OwnerLost
from ..fleet.far_readers import FarReaders
from ..fleet.limits import FleetLimits
from ..fleet.logs import Logs
from ..fleet.member import Member
from ..fleet.mirror import Mirror
from ..fleet.names import Keys, id_prefix
from ..fleet.proof import mark
from ..fleet.redis_link import Asks, Link, connector
from ..settings import Settings
from ..streams.registry import Streams
from ..streams.session import Session
from ..streams.terms import Terms, new_stream_id
from ..telemetry.fleet import FleetMetrics
from .elsewhere.carrying import Carrier
from .elsewhere.copies import Copies
from .elsewhere.copying import Copying
from .elsewhere.finding import InFleet
from .elsewhere.peers import keep_listening, peers_app
from .entrance.way_in import Entrance, Route
from .readers.opening import Opener
from .tasks import beside

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Fleet:
    """This process's part in the fleet: a `Part`.

    Attributes:
        shadow: the mirror of its streams, `Mirror`.
        limits: where limits and budgets are kept.
        member: this process.
        metrics: what is told of it.
    """

    shadow: Mirror
    limits: FleetLimits
    member: Member
    metrics: FleetMetrics
    _asks: Asks
    _logs: Logs
    _settings: Settings
    _worker: int
    _chats: Chats
    _far: FarReaders
    _streams: Streams | None = None  # once they are there

    def new_id(self) -> str:
        """An id that names this process, with the mark of the fleet's secret as soon as that is known."""
        stream_id, secret = new_stream_id(id_prefix(self._worker, self.member.incarnation)), self.member.secret
        return stream_id if secret is None else stream_id + mark(secret, stream_id)

    def check_start(self) -> None:
        """Raises FleetAway where no stream may be started now."""
        contact = self.member.contact
        if (contact.away or contact.refuses) and self._settings.fleet.redis_away == "closed":
            why = "cannot be reached" if contact.away else "takes no limits"
            raise FleetAway(f"Redis {why}, so that nothing is started", retry_after_s=1.0)

    def readiness(self) -> tuple[int, str]:
        """Whether Redis is there, and takes what it is told; without it only who wants no streams then is not ready."""
        contact = self.member.contact
        if contact.away or contact.refuses:
            told = "is away" if contact.away else f"refuses limits and budgets ({contact.refuses})"
            return (503 if self._settings.fleet.redis_away == "closed" else 200), f"Redis {told}\n"
        if contact.refuses_us:
            return 200, f"Redis refuses what this process says of itself ({contact.refuses_us})\n"
        return 200, ""

    async def redis_forgets(self) -> str:
        """By which policy Redis forgets what it holds when it is full; empty where it does not, or does not tell."""
        try:
            said: bytes = await self._asks.ask("INFO", "memory")
        except (RedisAway, RedisRefused):  # such as by an ACL without `+info`
            return ""
        policy = said.partition(b"maxmemory_policy:")[2].split(b"\r\n")[0].decode("ascii", "replace")
        return "" if policy == "noeviction" else policy

    def relayed(self, change: int) -> None:
        """A reader begins (+1) or ends (-1) to be served by another process through this one."""
        self.metrics.relayed(change)

    def elsewhere(self, opener: Opener, carrier: Carrier) -> InFleet:
        """What finds other processes' streams."""
        heartbeat_s, mirror_s = self._settings.streams.heartbeat_s, self._settings.fleet.mirror_s
        copying = Copying(self._logs, self.member, self._far, heartbeat_s, mirror_s)
        copies = Copies(opener, self._logs, self.member, copying, self.metrics.copied)
        return InFleet(self.member, self._chats, copies, copying, carrier)

    def peers(self, streams: Streams, entrance: Entrance, routes: Iterable[Route]) -> web.Application:
        """What other processes reach."""
        self._streams = streams
        return peers_app(self.member, lambda: self.shadow.in_doubt, entrance, routes)

    async def keep_listening(self, serve: Callable[[socket], Awaitable[object]]) -> None:
        """Opens the port of that, until cancelled."""
        options = self._settings.fleet
        port = options.peer_port and options.peer_port + self._worker
        await keep_listening(self.member, (options.peer_host, port), self._asks.reached_from, serve)

    async def shown(self) -> None:
        """Waits until others can find this process's streams; not for a Redis that is away, nor for a port that is another's."""
        if not self.member.contact.away:
            await self.member.shown.wait()

    @property
    def live(self) -> Mapping[str, Session]:
        """Its running streams."""
        return self._streams.live if self._streams is not None else {}

    def fenced(self, terms: Terms) -> None:
        """Another process has taken this one for dead and ended the stream: Claude is let go of, the reader told the same."""
        session = self.live.get(terms.stream_id)
        if session is not None:
            session.fenced(OwnerLost(session.replay.last_id))

    def overtaken(self, terms: Terms) -> None:
        """A chat's newer question has come to another process, which cannot reach this one."""
        if self._streams is not None:
            self._streams.overtake(terms.caller, terms.subject, terms.name)

    async def tell_again(self) -> None:
        """Redis began anew: it is told what this process knows. Raises RedisAway."""
        self.shadow.look_anew()
        self.limits.tell_again()
        if self._streams is not None:
            await self._chats.tell_again(self._streams.names())


@asynccontextmanager
async def joined(settings: Settings, worker: int, registry: CollectorRegistry) -> AsyncIterator[Fleet]:
    """Takes part in the fleet; when the block is left, what its streams have written is in Redis, and its lease given back.

    Args:
        settings: how.
        worker: this process's number among the workers of its machine.
        registry: where the metrics live.

    Raises:
        SettingsError: it cannot be done like this. That Redis is away is none.
    """
    options = settings.fleet
    connect = connector(options)
    metrics = FleetMetrics(registry)
    asks = Asks(Link(connect), Contact(metrics.redis_away, metrics.redis_took), options.redis_timeout_s)
    keys = Keys(options.redis_prefix)
    member = Member(asks, keys, options)
    logs = Logs(member, metrics.owner_lost)
    fenced: Callable[[Terms], None] = lambda terms: fleet.fenced(terms)  # noqa: E731
    mirror = Mirror(Link(connect), keys, (options.mirror_s, settings.replay.replay_s), fenced, metrics)
    apart = Apart(options.redis_away, lambda: member.processes)
    limits = FleetLimits(asks, options.redis_prefix, member.incarnation, apart)
    far = FarReaders(asks, keys, member.incarnation, lambda: fleet.live, lambda session: fleet.overtaken(session.terms))
    far.written = mirror.due
    chats = Chats(asks, keys, settings.replay.replay_s)
    fleet = Fleet(mirror, limits, member, metrics, asks, logs, settings, worker, chats, far)
    member.forgotten = fleet.tell_again
    async with (
        beside(asks.run()),
        beside(member.run()),
        beside(member.watch_sleep(partial(mirror.look_anew, asleep=True))),
        beside(logs.run()),
        beside(far.run()),
        beside(mirror.run()),
    ):
        await asks.tried()  # else who is answered first would be told that Redis is away
        with suppress(RedisAway, RedisRefused):
            await member.learn()  # nor would he find other processes' streams by anything but their copies
        yield fleet
    await asks.link.close()
