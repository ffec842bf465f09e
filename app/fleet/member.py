"""This process as one of a fleet: its lease in Redis, its secret, and what it knows of the others.

A lease is a key that lapses by itself after `LEASE_S` unless its process gives it anew each `BEAT_S`; Redis's clock alone
counts. It says where the process is reached. A lapsed lease does not prove a death: Redis may have been away for everybody.
So whoever finds none may call a process dead only where he himself has had an answer to every question for as long as a
lease lasts, and Redis looks once more, in the same step in which it ends the stream (`logs.py`). A Redis that answers and
takes no lease proves no death either: there a process counts as dead for the readers here alone, once it cannot be reached.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import math
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..settings import SettingsError
from ..settings.fleet import FleetOptions
from .contact import Contact, RedisAway, RedisRefused, nobody_knows
from .fresh_keys import FRESH
from .names import FORMAT, Keys, new_incarnation
from .proof import is_marked

log = logging.getLogger(__name__)

LEASE_S = 3.0
BEAT_S = 1.0
# Where Redis did not answer it is asked again after so long, in seconds: two answers may go astray before a lease lapses.
_AGAIN_S = 0.25
# What is known of another process is believed for this long, in seconds: a part of what is left when its lease lapses.
_BELIEVED_S = 0.25
# So many other processes are remembered, by where they were last; a large fleet that restarts for a day is some thousands.
_MOST_KNOWN = 10_000
# Of so many addresses outside of `peer_networks` the log tells.
_MOST_STRANGE = 100
# A Redis that began anew learns from every process within this long, in seconds, also where several beats go astray.
LEARNS_S = 10.0
# How long Redis keeps where a process is, in seconds, from its last beat on: an hour, longer than any stream waits.
PLACE_S = 3600
# The secret outlives the fleet's longest sleep, in seconds: a week.
SECRET_S = 7 * 86_400

# Counts the processes that were heard of since a lease began, this one among them, by Redis's own clock.
_COUNT = f"""{FRESH}
local now = tonumber(redis.call('TIME')[1])
fresh(KEYS[1], 'EXPIRE')
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('EXPIRE', KEYS[1], 60)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - {int(LEASE_S)} - 1)
return redis.call('ZCARD', KEYS[1])
"""


class Asking(Protocol):
    """Who asks Redis: `redis_link.Asks`.

    Attributes:
        contact: with Redis.
    """

    contact: Contact

    async def ask(self, *command: str | bytes | int, anyway: bool = False) -> Any:
        """Asks one thing. Raises RedisAway, RedisRefused."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a process says of itself.

    Attributes:
        host, port: where other processes reach it; an empty host where they do not.
    """

    host: str
    port: int


class Member:
    """This process.

    Args:
        asks: of Redis.
        keys: of the fleet.
        options: the settings.

    Attributes:
        incarnation: what it is called.
        address: where the others reach it; None until it listens.
        secret: what the processes prove themselves by; None until Redis has told it.
        processes: how many were there when Redis was last heard.
        shown: set once the others were told of the address, or as soon as it is known that they cannot be for now.
        forgotten: called when Redis was found to have begun anew, at the first beat after it.
    """

    def __init__(self, asks: Asking, keys: Keys, options: FleetOptions) -> None:
        self.asks = asks
        self.keys = keys
        self.incarnation = new_incarnation()
        self.address: tuple[str, int] | None = None
        self.shown = asyncio.Event()
        self.secret: bytes | None = _secret_in(options.fleet_secret_file)
        self.processes = 1
        self.forgotten: Callable[[], Awaitable[None]] = _nothing
        self._from_file = self.secret is not None
        self._born: bytes | None = None  # by which this process knows that Redis is still the one it was
        self._lost_at = -math.inf  # loop time at which Redis was last found to be another one
        self._networks = [ipaddress.ip_network(network) for network in options.peer_networks]
        self._believed: dict[str, tuple[float, Lease | None]] = {}  # with the loop time until which
        self._refused: set[str] = set()  # which of both beats Redis did not take
        self._refused_at = -math.inf  # loop time at which it took one of them last not
        self._awake_at = math.inf  # loop time at which this process was last seen to run
        self._last_known: OrderedDict[str, Lease] = OrderedDict()
        self._strange: set[str] = set()  # addresses outside of the networks

    @property
    def contact(self) -> Contact:
        """With Redis."""
        return self.asks.contact

    async def run(self) -> None:
        """Keeps the lease, until cancelled; then gives it back."""
        try:
            async with asyncio.TaskGroup() as tasks:
                # Apart, so that nothing else that is asked keeps the lease waiting.
                tasks.create_task(self._each_beat(self.renew))
                tasks.create_task(self._each_beat(self.learn))
        finally:
            await self._leave()

    async def _each_beat(self, what: Callable[[], Awaitable[None]]) -> None:
        while True:
            wait_s = BEAT_S
            try:
                await what()
                self._refused.discard(what.__name__)
                if not self._refused:
                    self.contact.took_all()
            except RedisAway as away:
                log.debug("the lease could not be given anew: %s", away)
                wait_s = _AGAIN_S
            except RedisRefused as refused:
                self._refused.add(what.__name__)
                self._refused_at = asyncio.get_running_loop().time()
                self.contact.took_nothing(refused.code)
            await asyncio.sleep(wait_s)

    async def watch_sleep(self, woke: Callable[[], None]) -> None:
        """Notices when this process was stopped for as long as a lease lasts, and tells `woke`; until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            if now - self._awake_at > LEASE_S:
                log.warning(
                    "this process did not run for %.1f s: others may have ended its streams", now - self._awake_at
                )
                woke()
            self._awake_at = now
            await asyncio.sleep(BEAT_S)

    async def renew(self) -> None:
        """Gives the lease anew. Raises RedisAway, RedisRefused."""
        key, lease_ms = self.keys.lease(self.incarnation), int(LEASE_S * 1000)
        try:
            await self.asks.ask("SET", key, self._told(), "PX", lease_ms, anyway=True)
        except RedisRefused:
            # One that is full takes this all the same: it needs no memory, and who lives keeps the lease that it has.
            await self.asks.ask("PEXPIRE", key, lease_ms, anyway=True)
            raise

    async def learn(self) -> None:
        """Learns or keeps the secret, how many processes there are, and whether Redis is the one it was.

        Raises:
            RedisAway, RedisRefused.
        """
        if self.address is not None:
            await self.asks.ask("SET", self.keys.place(self.incarnation), self._told(), "EX", PLACE_S)
        if not self._from_file:
            await self._learn_secret()
        await self._recognise()
        count = await self.asks.ask("EVAL", _COUNT, 1, self.keys.members, self.incarnation)
        self.processes = max(1, count) if isinstance(count, int) else self.processes

    async def beat(self) -> None:
        """Both at once, for who wants to be heard of now. Raises RedisAway, RedisRefused."""
        await self.renew()
        await self.learn()

    def _told(self) -> str:
        host, port = self.address or ("", 0)
        return json.dumps({"v": FORMAT, "host": host, "port": port})

    async def _recognise(self) -> None:
        """Whether Redis still holds what the fleet wrote, by a word of chance in it."""
        key = self.keys.born
        await self.asks.ask("SET", key, secrets.token_hex(8), "NX", "EX", SECRET_S)
        born = await self.asks.ask("GET", key)
        if born != self._born and self._born is not None:
            log.warning("Redis has begun anew, and is told again what this process knows")
            self._lost_at = asyncio.get_running_loop().time()
            await self.forgotten()
        self._born = born

    async def _learn_secret(self) -> None:
        key = self.keys.secret
        ours = self.secret or secrets.token_hex(32).encode()
        # Where Redis has forgotten it, all who know it say the same.
        await self.asks.ask("SET", key, ours, "NX", "EX", SECRET_S)
        theirs = await self.asks.ask("GET", key)
        if isinstance(theirs, bytes) and len(theirs) >= 32:
            self.secret = theirs
        await self.asks.ask("EXPIRE", key, SECRET_S)

    async def _leave(self) -> None:
        """Says that it is gone, so that nobody waits for the lease to lapse."""
        try:
            await self.asks.ask("DEL", self.keys.lease(self.incarnation), self.keys.place(self.incarnation))
        except (RedisAway, RedisRefused):
            log.debug("the lease lapses by itself")

    async def lease_of(self, incarnation: str) -> Lease | None:
        """What another process says of itself; None where it has no lease.

        Raises:
            RedisAway: nobody knows. Cancelling is safe.
        """
        now = asyncio.get_running_loop().time()
        until, lease = self._believed.get(incarnation, (0.0, None))
        if now < until:
            return lease
        with nobody_knows():
            lease = self._read(await self.asks.ask("GET", self.keys.lease(incarnation)))
            place = lease or self._read(await self.asks.ask("GET", self.keys.place(incarnation)))
        if len(self._believed) > _MOST_KNOWN:
            self._believed.clear()
        self._believed[incarnation] = (now + _BELIEVED_S, lease)
        if place is not None and place.host:
            self._last_known[incarnation] = place
            self._last_known.move_to_end(incarnation)
            if len(self._last_known) > _MOST_KNOWN:
                self._last_known.popitem(last=False)
        return lease

    async def beat_at(self, incarnation: str) -> float | None:
        """The loop time at which it gave its lease anew; None where it has none.

        Raises:
            RedisAway: nobody knows.
        """
        with nobody_knows():
            left_ms = await self.asks.ask("PTTL", self.keys.lease(incarnation))
        alive = isinstance(left_ms, int) and left_ms >= 0
        return asyncio.get_running_loop().time() - LEASE_S + left_ms / 1000 if alive else None

    async def has_forgotten(self) -> bool:
        """Whether Redis began anew a short while ago, so that what it does not know may be there all the same.

        Raises:
            RedisAway: nobody knows.
        """
        with nobody_knows():
            left_ms = await self.asks.ask("PTTL", self.keys.born)
        return not isinstance(left_ms, int) or SECRET_S - left_ms / 1000 < LEARNS_S or left_ms < 0

    async def has_lost(self) -> bool:
        """Whether Redis has lost, before this process's eyes, what it knew, and not all had time to tell it again.

        Raises:
            RedisAway: nobody knows.
        """
        if asyncio.get_running_loop().time() - self._lost_at < LEARNS_S:
            return True
        with nobody_knows():
            return self._born is not None and await self.asks.ask("GET", self.keys.born) != self._born

    def last_known(self, incarnation: str) -> Lease | None:
        """Where the process was last reached, also while Redis is away; None where that was never known."""
        return self._last_known.get(incarnation)

    def is_made_up(self, stream_id: str) -> bool:
        """Whether nobody of the fleet gave that id, which names one of it, to a stream; not while the secret is unknown."""
        return self.secret is not None and not is_marked(stream_id, self.secret)

    def sleeps(self, now: float) -> bool:
        """Whether this process was stopped until just now, so that it may have been taken for dead, and knows nothing of it."""
        return now - self._awake_at > LEASE_S

    def may_judge(self, now: float) -> bool:
        """Whether a process without a lease is dead, for all that this one can know at loop time `now`."""
        return self.contact.steady_s(now) >= LEASE_S + BEAT_S

    def may_judge_here(self, now: float) -> bool:
        """Whether one that cannot be reached either is dead to this one's readers: Redis answers, and refuses."""
        return bool(self._refused) and self.contact.heard_s(now) >= LEASE_S + BEAT_S

    def may_lack(self, now: float) -> bool:
        """Whether Redis may know nothing of a process that lives, because it took nothing when that began."""
        return now - self._refused_at < LEASE_S

    def _read(self, told: object) -> Lease | None:
        if not isinstance(told, bytes):
            return None
        try:
            said = json.loads(told)
            host, port = str(said["host"]), int(said["port"])
            # What stands in Redis is input: a poisoned lease must not lead a caller's key to anyone's machine.
            allowed = bool(host) and any(ipaddress.ip_address(host) in network for network in self._networks)
        except (ValueError, KeyError, TypeError):
            return Lease("", 0)
        if host and not allowed and host not in self._strange and len(self._strange) < _MOST_STRANGE:
            self._strange.add(host)  # each is told of once, not at each look
            log.warning(
                "a process of the fleet says that it is at %s, which is in none of peer_networks", ascii(host)[:60]
            )
        return Lease(host, port) if allowed and 0 < port < 65536 else Lease("", 0)


async def _nothing() -> None:
    return


def _secret_in(path: str) -> bytes | None:
    if not path:
        return None
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as error:
        raise SettingsError(f"fleet_secret_file {path!r}: {(error.strerror or str(error)).lower()}") from None
    if len(secret) < 32:
        raise SettingsError(f"fleet_secret_file {path!r}: it must hold 32 characters or more")
    return secret
