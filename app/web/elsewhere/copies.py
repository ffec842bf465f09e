"""Answers for streams of other processes, and for what this one has let go of, by what Redis has of them (`copying.py`).

A reader whose owner cannot be reached is written every frame that Redis has and gets, while the owner lives, signs of life
and what comes; where nothing comes for a while its owner is tried again, and it is let go of only if that fails.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from contextlib import suppress

from aiohttp import hdrs, web

from ...errors import Expired, Forbidden, NotFound
from ...fleet.errors import FleetAway
from ...fleet.log_commands import About, Gap, after
from ...fleet.logs import Logs
from ...fleet.member import Member
from ...fleet.mirror_rules import END_ID, Ending
from ...fleet.names import digest, owner_of
from ...streams.connection import Interrupted
from ...streams.terms import Terms, is_of
from ..entrance.way_in import CALLER, STOP_TOKEN
from ..http.slashes import one_slash
from ..readers.opening import Opener, last_event_id
from .carrying import UI_MARK, BrokeOff
from .copying import Copying, Times


class Copies:
    """Answers for streams by what Redis has.

    Args:
        opener: makes readers' connections, and counts them among this process's.
        logs: the streams in Redis.
        member: this process.
        copying: writes them to readers.
        copied: told of a reader that begins (+1) or ends (-1) to be served like this.
    """

    def __init__(
        self, opener: Opener, logs: Logs, member: Member, copying: Copying, copied: Callable[[int], None]
    ) -> None:
        self._opener = opener
        self._logs = logs
        self._member = member
        self._copying = copying
        self._copied = copied

    async def answer(
        self, request: web.Request, stream_id: str, read_on: BrokeOff, *, let_go: bool = False
    ) -> web.StreamResponse:
        """What is answered to a request for the stream, by its path: to resume, stop or steer it.

        Args:
            request: the reader's.
            stream_id: the stream's.
            read_on: serves a reader on who has had all that there was.
            let_go: its owner lives, and has nothing of it any more: what is in Redis is all that there will be.

        Raises:
            NotFound: no such stream, or another caller's. Forbidden: neither a caller's key nor the stop token came.
            Expired: it, or the part asked for, is no longer kept. BadRequest: it never had what the reader says. FleetAway, RedisAway: nobody knows.
        """
        about = await self._logs.about(stream_id)
        last = one_slash(request.path).rpartition("/")[2]
        stops = request.method == hdrs.METH_DELETE or last == "stop"
        if about is None:
            about = await self._unwritten(request, stream_id, let_go=let_go)
        else:
            _check_caller(request, about, steers=stops or last == "shown")
        if stops:
            return web.json_response({"stopped": not let_go and await self._stop(stream_id)})
        if last in ("shown", "gauges"):
            return web.Response(status=204)
        return await self._resume(request, stream_id, about, read_on, let_go=let_go)

    async def _unwritten(self, request: web.Request, stream_id: str, *, let_go: bool) -> About:
        """What stands for a stream of which Redis knows nothing but that its owner was lost: whose it was, nobody can tell.

        Raises:
            NotFound: there is none. FleetAway, RedisAway: there may be one, because its owner lives, or seemed to.
        """
        if let_go:
            raise NotFound("no stream of yours has this id")
        if await self._member.has_forgotten():
            raise FleetAway("Redis is new, or has lost what it knew: such a stream may be there", retry_after_s=1.0)
        owner = owner_of(stream_id)
        assert owner is not None, "a stream of a fleet names its owner"
        lives = await self._member.lease_of(owner) is not None
        if not lives and self._member.last_known(owner) is None:
            if self._member.may_lack(asyncio.get_running_loop().time()):
                raise FleetAway("Redis takes nothing, so that who began since is not known", retry_after_s=1.0)
            raise NotFound("no stream of yours has this id")
        if not lives and self._member.is_made_up(stream_id):  # else whoever guesses would fill Redis with ends
            raise NotFound("no stream of yours has this id")
        if not await self._copying.is_over(stream_id):
            raise FleetAway("the process that has this stream cannot be reached", retry_after_s=1.0)
        if not self._logs.has_ended_here(stream_id) and not await self._logs.entries(stream_id, END_ID - 1):
            raise NotFound("no stream of yours has this id")
        return About("", "", "", "", "ui" if one_slash(request.path).startswith("/api/chat/") else "plain")

    async def _stop(self, stream_id: str) -> bool:
        """Whether it ran until now. Raises FleetAway where it may still run."""
        if await self._logs.entries(stream_id, END_ID - 1) or await self._copying.is_over(stream_id):
            return False
        if await self._copying.stop(stream_id):
            return True
        raise FleetAway("the process that has this stream lives, and cannot be reached", retry_after_s=1.0)

    async def _resume(
        self, request: web.Request, stream_id: str, about: About, read_on: BrokeOff, *, let_go: bool
    ) -> web.StreamResponse:
        marks = {UI_MARK: "v1"} if about.wire == "ui" else {"X-Resumable": "true"}
        sent_id = last_event_id(request) if one_slash(request.path).startswith("/api/stream/") else 0
        connection = self._opener.connection(request, {"X-Stream-Id": stream_id, **marks}, sent_id=sent_id)
        entries = await self._copying.entries_from(stream_id, sent_id, let_go=let_go)
        try:
            _, ending = after(entries, sent_id)
        except Gap:
            raise Expired("the frames after this id are no longer kept") from None
        if ending is Ending.EXPIRED:
            raise Expired("this stream has ended, and nothing of it is kept")
        if request.method == hdrs.METH_HEAD:
            return web.Response(headers=connection.response.headers)
        admit = lambda: self._opener.limiter.admit_reader(request[CALLER])  # noqa: E731
        self._copied(1)
        try:
            async with self._opener.streams.reading(connection, admit):
                with suppress(ConnectionError, Interrupted):
                    await connection.write(b"")
                    if not await self._copying.write(
                        stream_id, connection, Times.from_now(), entries=entries, let_go=let_go
                    ):
                        await read_on(connection)
        finally:
            self._copied(-1)
        await connection.released()
        return connection.response


def _check_caller(request: web.Request, about: About, *, steers: bool) -> None:
    """As `Streams.find` and `Streams.readable` do for a stream of this process."""
    token, caller = request.get(STOP_TOKEN), request[CALLER]
    if steers:
        if token and hmac.compare_digest(digest(token), about.token_digest):
            return
        if not caller.name and token is None:
            raise Forbidden("the stream's own X-Stop-Token is needed")
        if not caller.name:  # a wrong token does not tell that there is one
            raise NotFound("no stream of yours has this id")
    terms = Terms("", about.caller, "", subject=about.subject, token_id=about.token_id)
    if not is_of(caller, terms, runs=False):
        raise NotFound("no stream of yours has this id")
