"""Serves streams of other processes from their logs in Redis, where their owner is gone or cannot be reached.

What a reader sees: every frame after its last that was written, then, while the owner may live, signs of life and what
comes. Once the owner has no lease and this process can judge (`member.py`), the log is ended, in Redis, for everybody, and
the reader gets one typed last event, `worker_lost`, with the id of the last frame there is. The same event comes again
whenever it asks again. A reader that had more than was written, at most the last quarter of a second, gets that event at
once. Where frames are missing it is told that the stream has expired: there is no hole that nobody speaks of.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable
from contextlib import suppress

from aiohttp import hdrs, web

from ..errors import EndedError, Expired, Forbidden, NotFound, WorkerLost
from ..fleet.contact import RedisAway
from ..fleet.errors import FleetAway, OwnerLost
from ..fleet.log_commands import About, Entry, Gap, after
from ..fleet.logs import Logs
from ..fleet.member import Member
from ..fleet.mirror_rules import END_ID, Ending
from ..fleet.names import digest, owner_of
from ..streams.connection import Interrupted
from ..streams.delivery import SLICE_BYTES
from ..streams.terms import Terms, is_of
from ..wire.plain import KEEP_ALIVE, PlainFormat
from ..wire.ui_stream import UiFormat
from .entrance import CALLER, STOP_TOKEN
from .opening import Opener
from .plain_api import last_event_id
from .readers import SseConnection
from .slashes import one_slash

log = logging.getLogger(__name__)

# A reader whose log cannot be looked at for this long, or has nothing new, in seconds, is let go, so that it comes back,
# perhaps elsewhere, and perhaps its owner can be reached then: who is read from Redis alone waits for nobody.
_AWAY_S = 3.0
_SILENT_S = 4.0


class Copies:
    """Serves other processes' streams.

    Args:
        opener: makes readers' connections, and counts them among this process's.
        logs: the streams in Redis.
        member: this process.
        heartbeat_s: seconds between signs of life.
        told: the metrics: of a reader that begins (+1) or ends (-1), and of a stream that was ended for its dead owner.
    """

    def __init__(
        self,
        opener: Opener,
        logs: Logs,
        member: Member,
        heartbeat_s: float,
        told: tuple[Callable[[int], None], Callable[[], None]],
    ) -> None:
        self._opener = opener
        self._logs = logs
        self._member = member
        self._heartbeat_s = heartbeat_s
        self._copied, self._owner_lost = told

    async def answer(self, request: web.Request, stream_id: str, *, let_go: bool = False) -> web.StreamResponse:
        """What is answered to a request for the stream, by its path: to resume, stop or steer it.

        Args:
            request: the reader's.
            stream_id: the stream's.
            let_go: its owner lives, and has nothing of it any more: what is in Redis is all that there will be.

        Raises:
            NotFound: no such stream, or another caller's. Forbidden: neither a caller's key nor the stop token came.
            Expired: it, or the part asked for, is no longer kept. FleetAway, RedisAway: nobody knows.
        """
        about = await self._logs.about(stream_id)
        if about is None:
            if await self._member.has_forgotten():
                raise FleetAway("Redis has lost what it knew, and learns it again", retry_after_s=1.0)
            raise NotFound("no stream has this id")
        last = one_slash(request.path).rpartition("/")[2]
        stops = request.method == hdrs.METH_DELETE or last == "stop"
        _check_caller(request, about, steers=stops or last == "shown")
        if stops:
            if not let_go:
                await self._check_over(stream_id)
            return web.json_response({"stopped": False})  # nothing is generated any more
        if last in ("shown", "gauges"):
            return web.Response(status=204)
        return await self._resume(request, stream_id, about, let_go=let_go)

    async def _check_over(self, stream_id: str) -> None:
        """Raises WorkerLost where the stream may still run, and nobody can be told to stop it."""
        entries = await self._logs.entries(stream_id, END_ID - 1)
        if not entries and not await self._ended_for_the_dead(stream_id):
            raise WorkerLost("the process that has this stream cannot be reached", retry_after_s=1.0)

    async def _ended_for_the_dead(self, stream_id: str) -> bool:
        """Ends the log if its owner is dead; tells whether it is."""
        owner = owner_of(stream_id)
        assert owner is not None, "a stream of a fleet names its owner"
        if await self._member.lease_of(owner) is not None:
            return False
        if not self._member.may_judge(asyncio.get_running_loop().time()):
            return False
        if await self._logs.end(stream_id):
            log.warning("stream %s was ended, because the process that had it is gone", stream_id)
            self._owner_lost()
        return True

    async def _resume(self, request: web.Request, stream_id: str, about: About, *, let_go: bool) -> web.StreamResponse:
        marks = {"X-Vercel-AI-UI-Message-Stream": "v1"} if about.wire == "ui" else {"X-Resumable": "true"}
        sent_id = last_event_id(request) if one_slash(request.path).startswith("/api/stream/") else 0
        connection = self._opener.connection(request, {"X-Stream-Id": stream_id, **marks}, sent_id=sent_id)
        entries = await self._logs.entries(stream_id, sent_id)
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
                    await self._write(stream_id, about, connection, entries, let_go=let_go)
        finally:
            self._copied(-1)
        await connection.released()
        return connection.response

    async def _write(
        self, stream_id: str, about: About, connection: SseConnection, entries: list[Entry], *, let_go: bool
    ) -> None:
        """Writes the stream to its end."""
        loop = asyncio.get_running_loop()
        wrote_at = known_at = news_at = loop.time()
        while True:
            try:
                frames, ending = after(entries, connection.sent_id)
            except Gap:
                await self._end(about, connection, Expired("frames after this id are no longer kept"))
                return
            for piece in _sliced(frames):
                await connection.write(b"".join(piece))
                connection.sent_id += len(piece)
                wrote_at = news_at = loop.time()
            if ending is not None:
                await self._end(about, connection, _error_of(ending, entries[-1].last_id))
                return
            try:
                if loop.time() - wrote_at >= self._heartbeat_s:
                    await connection.write(KEEP_ALIVE)
                    wrote_at = loop.time()
                if loop.time() - news_at > _SILENT_S and not (let_go := let_go or await self._is_over(stream_id)):
                    connection.response.force_close()
                    return
                if let_go and not frames:
                    await self._end(about, connection, Expired("the rest of this stream is no longer kept"))
                    return
                entries = await self._more(stream_id, connection.sent_id, whole=bool(frames))
                known_at = loop.time()
            except RedisAway:
                if loop.time() - known_at > _AWAY_S:
                    connection.response.force_close()
                    log.info("a reader of %s is let go: Redis is away", stream_id)
                    return
                entries = []
                await asyncio.sleep(1.0)

    async def _is_over(self, stream_id: str) -> bool:
        """Whether it was kept for as long as that is promised; a Redis that began anew may learn of it again."""
        return await self._logs.about(stream_id) is None and not await self._member.has_forgotten()

    async def _more(self, stream_id: str, sent_id: int, *, whole: bool) -> list[Entry]:
        """The next entries, waiting for them only where the reader has had all that there was."""
        if whole:
            return await self._logs.entries(stream_id, sent_id)
        if await self._ended_for_the_dead(stream_id):
            return await self._logs.entries(stream_id, sent_id)
        return await self._logs.news(stream_id, sent_id)

    async def _end(self, about: About, connection: SseConnection, error: EndedError | None) -> None:
        """Writes the last event, where the frames do not hold it already."""
        if error is not None:
            wire = UiFormat("") if about.wire == "ui" else PlainFormat(thinking=False)
            await connection.write(b"".join(wire.end(error)))
        connection.ended = True


def _error_of(ending: Ending, last_id: int) -> EndedError | None:
    if ending is Ending.LOST:
        return OwnerLost(last_id)
    return Expired("this stream has ended, and nothing of it is kept") if ending is Ending.EXPIRED else None


def _sliced(frames: list[bytes]) -> list[list[bytes]]:
    """In pieces of about what the sockets hold."""
    pieces: list[list[bytes]] = []
    size_bytes = SLICE_BYTES
    for frame in frames:
        if size_bytes + len(frame) > SLICE_BYTES:
            pieces.append([])
            size_bytes = 0
        pieces[-1].append(frame)
        size_bytes += len(frame)
    return pieces


def _check_caller(request: web.Request, about: About, *, steers: bool) -> None:
    """As `Streams.find` and `Streams.readable` do for a stream of this process."""
    token, caller = request.get(STOP_TOKEN), request[CALLER]
    if steers:
        if token and hmac.compare_digest(digest(token), about.token_digest):
            return
        if not caller.name:
            raise Forbidden("the stream's own X-Stop-Token is needed")
    terms = Terms("", about.caller, "", subject=about.subject, token_id=about.token_id)
    if not is_of(caller, terms, runs=False):
        raise NotFound("no stream has this id")
