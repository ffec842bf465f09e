"""Finds a stream in the fleet: its id names its owner, whose lease says where that is reached.

What a reader meets, wherever it comes back:
- the owner lives and is reached: the owner itself, through this process, with all that holds on one machine;
- the owner is gone, or cannot be reached: what it wrote to Redis, and how that ends (`copies.py`);
- Redis is away: the owner, if it was ever reached from here, or the other workers of this machine; else a 503 that says
  when to try again, never "no such stream", which nobody can know then.
"""

from __future__ import annotations

import logging

import aiohttp
from aiohttp import web

from ..errors import NotFound
from ..fleet.contact import RedisAway
from ..fleet.errors import FleetAway
from ..fleet.logs import Logs
from ..fleet.member import Lease, Member
from ..fleet.names import owner_of
from ..fleet.proof import PROOF, proof
from ..streams.terms import owner
from .carrying import Carrier, Place, Reply
from .copies import Copies
from .entrance import CALLER
from .errors import Handler
from .forwarding import is_unknown, stop_path
from .slashes import one_slash

log = logging.getLogger(__name__)

# How long Redis keeps which stream is a chat's newest, in seconds, longer than an answer and what is kept of it: an hour.
_NAME_S = 3600


# Redis could not be asked for the stream of this request.
_NOT_LOOKED_FOR = web.RequestKey("not_looked_for", bool)


class InFleet:
    """Finds streams of other processes.

    Args:
        member: this process.
        logs: the others' streams in Redis.
        copies: serves them.
        carrier: carries requests to their owners.
    """

    def __init__(self, member: Member, logs: Logs, copies: Copies, carrier: Carrier) -> None:
        self._member = member
        self._logs = logs
        self._copies = copies
        self._carrier = carrier

    async def find(self, request: web.Request, handler: Handler) -> Reply | None:
        """The answer, from wherever the stream is; None where it has to be looked for on this machine.

        Raises:
            SluicewayError: as whoever has the stream says. FleetAway: nobody can know where it is.
        """
        stream_id: str | None = request.match_info["id"]
        if one_slash(request.path).startswith("/api/chat/"):
            answer = await _attempt(request, handler)
            if not is_unknown(request, answer):
                return answer
            try:
                stream_id = await self._newest(request, request.match_info["id"])
            except RedisAway:
                request[_NOT_LOOKED_FOR] = True
                return None
            if stream_id is None:
                return answer
        assert stream_id is not None, "either the path or the name has told it"
        whose = owner_of(stream_id)
        if whose is None:
            return None
        if whose == self._member.incarnation:
            return await _attempt(request, handler)
        return await self._from_owner(request, stream_id, whose)

    def check(self, request: web.Request) -> None:
        """Raises FleetAway where nobody can know what other machines have, if only because Redis failed once."""
        if self._member.contact.away or _NOT_LOOKED_FOR in request:
            raise FleetAway("Redis cannot be reached, so that only this machine's streams are known", retry_after_s=1.0)

    async def tell_of_newer(self, request: web.Request, chat_id: str, stream_id: str) -> None:
        """Ends the chat's older answer, wherever it runs, and says that `stream_id` is the newest. Cancelling is safe."""
        key = self._member.keys.name(*owner(request[CALLER]), chat_id)
        try:
            # In one step, so that of two questions at once one is the older, for everybody.
            older = await self._member.asks.ask("SET", key, stream_id, "EX", _NAME_S, "GET")
            whose = owner_of(older.decode()) if isinstance(older, bytes) else None
            if whose is None or whose == self._member.incarnation:
                return  # one of its own is ended when the newer one starts
            place = self._place(whose, await self._member.lease_of(whose))
        except RedisAway:
            log.info("the fleet could not be told of a chat's newer question: Redis is away")
            return
        if place is not None:
            await self._carrier.tell_of_newer(request, stop_path(chat_id), place)

    async def _newest(self, request: web.Request, chat_id: str) -> str | None:
        told = await self._member.asks.ask("GET", self._member.keys.name(*owner(request[CALLER]), chat_id))
        return told.decode() if isinstance(told, bytes) else None

    async def _from_owner(self, request: web.Request, stream_id: str, whose: str) -> Reply | None:
        away = False
        lease: Lease | None = None
        try:
            lease = await self._member.lease_of(whose)
        except RedisAway:
            away = True
        # Where it was last, too: while Redis is away or has just come back, no lease proves that it is gone.
        place = self._place(whose, lease or self._member.last_known(whose))
        let_go = False
        if place is not None:
            try:
                answer = await self._carrier.pass_on(request, place)
            except (aiohttp.ClientError, TimeoutError):
                log.info("the process that has stream %s cannot be reached", ascii(stream_id))
            else:
                if not is_unknown(request, answer):
                    return answer
                let_go = True
        if away:
            request[_NOT_LOOKED_FOR] = True
            return None
        try:
            return await self._copies.answer(request, stream_id, let_go=let_go)
        except NotFound as error:
            return error
        except RedisAway:
            request[_NOT_LOOKED_FOR] = True
            return None

    def _place(self, whose: str, lease: Lease | None) -> Place | None:
        secret = self._member.secret
        if lease is None or not lease.host or secret is None:
            return None

        async def lives() -> bool:
            try:
                return await self._member.lease_of(whose) is not None
            except RedisAway:
                return True

        return Place(
            host=lease.host,
            port=lease.port,
            headers=lambda method, target: {PROOF: proof(secret, whose, method, target)},
            lives=lives,
        )


async def _attempt(request: web.Request, handler: Handler) -> Reply:
    try:
        return await handler(request)
    except NotFound as error:
        return error
