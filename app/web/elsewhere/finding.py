"""Finds a stream in the fleet: its id names its owner, whose lease says where that is reached.

What a reader meets, wherever it comes back:
- the owner lives and is reached: the owner itself, through this process, with all that holds on one machine;
- the owner is gone, or cannot be reached: what it wrote to Redis, and how that ends (`copies.py`); a reader on whom the owner
  breaks off in the middle is served on from there, in the same answer, and by the owner once that is reached again;
- the owner has let go of what it kept: what Redis keeps of it;
- Redis is away: the owner, if it was ever reached from here, or the other workers of this machine; else a 503 that says
  when to try again, never "no such stream", which nobody can know then.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial

import aiohttp
from aiohttp import web

from ...errors import Expired, NotFound
from ...fleet.chats import Chats
from ...fleet.contact import RedisAway, RedisRefused
from ...fleet.errors import FleetAway
from ...fleet.member import Lease, Member
from ...fleet.names import owner_of
from ...fleet.proof import PROOF, proof
from ...streams.terms import owner
from ..entrance.way_in import CALLER
from ..http.errors import Handler
from ..http.slashes import one_slash
from .carrying import Carrier, Place, Reader, Reply
from .copies import Copies
from .copying import FIRST_TRY_S, LAST_TRY_S, UNREACHED_TRY_S, Copying, Times
from .forwarding import is_unknown, stop_path
from .reach import Reach

log = logging.getLogger(__name__)

# Redis could not be asked for the stream of this request.
_NOT_LOOKED_FOR = web.RequestKey("not_looked_for", bool)


class InFleet:
    """Finds streams of other processes.

    Args:
        member: this process.
        chats: which of them is a chat's newest.
        copies, copying: serve what Redis has of others' streams.
        carrier: carries requests to their owners.
    """

    def __init__(self, member: Member, chats: Chats, copies: Copies, copying: Copying, carrier: Carrier) -> None:
        self._member = member
        self._chats = chats
        self._copies = copies
        self._copying = copying
        self._carrier = carrier
        self._reach = Reach(carrier.answers)
        copying.is_reached = self._is_reached

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
                stream_id = await self._chats.newest((*owner(request[CALLER]), request.match_info["id"]))
                if stream_id is None and await self._member.has_lost():
                    raise FleetAway("Redis has lost what it knew, and learns it again", retry_after_s=1.0)
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
            return await self._own(request, handler, stream_id)
        return await self._from_owner(request, stream_id, whose)

    def check(self, request: web.Request) -> None:
        """Raises FleetAway where nobody can know what other machines have, if only because Redis failed once."""
        if self._member.contact.away or _NOT_LOOKED_FOR in request:
            raise FleetAway("Redis cannot be reached, so that only this machine's streams are known", retry_after_s=1.0)

    async def tell_of_newer(self, request: web.Request, chat_id: str, stream_id: str) -> None:
        """Ends the chat's older answer, wherever it runs, and says that `stream_id` is the newest. Cancelling is safe."""
        try:
            older = await self._chats.claim((*owner(request[CALLER]), chat_id), stream_id)
            whose = owner_of(older) if older is not None else None
            if whose is None or whose == self._member.incarnation:
                return  # one of its own is ended when the newer one starts
            assert older is not None, "it names its owner"
            place = self._place(whose, await self._member.lease_of(whose))
            if place is None or not await self._carrier.tell_of_newer(request, stop_path(chat_id), place):
                await self._copying.tell_of_newer(older)
        except RedisAway:
            log.info("the fleet could not be told of a chat's newer question: Redis is away")

    async def _own(self, request: web.Request, handler: Handler, stream_id: str) -> Reply:
        try:
            return await _attempt(request, handler)
        except Expired as expired:  # memory was needed for others; Redis may have more of it
            try:
                answer = await self._from_redis(request, stream_id, let_go=True)
            except (Expired, FleetAway):
                answer = None
            if answer is None or isinstance(answer, NotFound):
                raise expired from None
            return answer

    async def _from_owner(self, request: web.Request, stream_id: str, whose: str) -> Reply | None:
        away = let_go = False
        answer: Reply | None = None
        try:
            lease = await self._member.lease_of(whose)
        except RedisAway:
            away, lease = True, None
        # Where it was last, too: while Redis is away or has just come back, no lease proves that it is gone.
        place = self._place(whose, lease or self._member.last_known(whose))
        if place is not None:
            try:
                answer = await self._carrier.pass_on(request, place, partial(self._read_on, request, stream_id))
            except (aiohttp.ClientError, TimeoutError):
                if not self._member.is_made_up(stream_id):
                    log.info("the process that has stream %s cannot be reached", ascii(stream_id))
            else:
                let_go = is_unknown(request, answer) or answer.status == Expired.status
                if not let_go:
                    return answer
        if away:
            request[_NOT_LOOKED_FOR] = True
            return None
        try:
            found = await self._from_redis(request, stream_id, let_go=let_go)
        except (Expired, FleetAway):
            if answer is None or is_unknown(request, answer):
                raise
            return answer
        # What its owner says of it is more than that Redis knows nothing.
        return answer if isinstance(found, NotFound) and answer is not None else found

    async def _from_redis(self, request: web.Request, stream_id: str, *, let_go: bool) -> Reply | None:
        """What Redis has of it; None where it could not be looked for. Raises Expired, FleetAway, Forbidden."""
        try:
            return await self._copies.answer(
                request, stream_id, partial(self._read_on, request, stream_id), let_go=let_go
            )
        except NotFound as error:
            return error
        except RedisAway:
            request[_NOT_LOOKED_FOR] = True
            return None

    async def _read_on(self, request: web.Request, stream_id: str, reader: Reader) -> None:
        """Serves a reader on who has had all that came so far: from Redis, or from the owner if that is reached (again)."""
        whose = owner_of(stream_id)
        assert whose is not None, "a stream of a fleet names its owner"
        for_s, times = FIRST_TRY_S, Times.from_now(silent=True)
        while not await self._copying.write(stream_id, reader, times, for_s=for_s):
            try:
                away, lease = False, await self._member.lease_of(whose)
            except RedisAway:
                away, lease = True, None
            place = self._place(whose, lease or self._member.last_known(whose))
            if place is not None and await self._reach.of(whose, place):
                if await self._carrier.read_on(request, stream_id, place, reader):
                    return
                for_s, times = min(2 * for_s, LAST_TRY_S), Times.from_now()
            else:
                for_s = min(2 * for_s, UNREACHED_TRY_S)
            if away:
                log.info("a reader of stream %s is let go, and may come back", ascii(stream_id))
                reader.response.force_close()
                return

    async def _is_reached(self, whose: str) -> bool:
        place = self._place(whose, self._member.last_known(whose))
        return place is not None and await self._reach.of(whose, place)

    def _place(self, whose: str, lease: Lease | None) -> Place | None:
        secret = self._member.secret
        if lease is None or not lease.host or secret is None:
            return None

        async def is_there() -> bool:
            # Only by asking it something else it is known whether the way to it is still open.
            with suppress(RedisAway, RedisRefused):
                if await self._member.lease_of(whose) is None:
                    return False
            return await self._reach.of(whose, place)

        place = Place(
            name=whose,
            host=lease.host,
            port=lease.port,
            headers=lambda method, target: {PROOF: proof(secret, whose, method, target)},
            is_there=is_there,
        )
        return place


async def _attempt(request: web.Request, handler: Handler) -> Reply:
    try:
        return await handler(request)
    except NotFound as error:
        return error
