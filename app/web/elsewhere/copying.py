"""Writes one reader of another process's stream what Redis has of it, and what comes, to its end.

Once the owner has no lease and this process can judge (`member.py`), the log is ended, in Redis, for everybody, and the
reader gets one typed last event, `worker_lost`, with the id of the last frame there is. The same event comes again
whenever it asks again. A reader that had more than was written, at most the last quarter of a second, gets that event at
once. Where frames are missing it is told that the stream has expired: there is no hole that nobody speaks of.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...errors import EndedError, Expired
from ...fleet.contact import RedisAway
from ...fleet.errors import OwnerLost
from ...fleet.far_readers import SAY_S, FarReaders
from ...fleet.log_commands import Entry, Gap, after
from ...fleet.logs import ENTRIES, LOOK_S, Logs
from ...fleet.member import Member
from ...fleet.mirror_rules import END_ID, Ending
from ...fleet.names import owner_of
from ...streams.delivery import SLICE_BYTES
from ...wire.plain import KEEP_ALIVE
from .carrying import Reader, write_end

log = logging.getLogger(__name__)

# A reader whose log cannot be looked at for this long, in seconds, is let go, so that it comes back, perhaps elsewhere.
_AWAY_S = 3.0
# The owner is tried again after so long, in seconds; one that answers and has nothing for this reader, after twice as long
# each time, up to the second.
FIRST_TRY_S, LAST_TRY_S = 1.0, 60.0
# Where nothing new comes for so long, in seconds, it is looked whether the stream is kept at all any more.
_SILENT_S = 2.0
# And again after this long, in seconds: it is a question for each reader.
_STILL_SILENT_S = 10.0
# Who stops a stream by Redis waits for its end so many looks, longer than its owner takes: a look of its own and a write.
_STOP_LOOKS = 20
# A reader of whose stream Redis has nothing new is given a sign of life this often, in seconds, and one at once when its owner
# has fallen silent: whether that is dead takes ten seconds to find out after Redis began anew, and he is not to think it of us.
_SIGN_S = 3.0
# So long is waited before Redis is asked again, in seconds, while it is away.
_AGAIN_S = 0.5


@dataclass(slots=True)
class Times:
    """Loop times of one reader.

    Attributes:
        wrote_at: something was written to it.
        news_at: there were frames.
        kept_at: it was known to be kept.
        known_at: Redis answered.
        said_at: its owner was told of it; `said` is how often.
    """

    wrote_at: float
    news_at: float
    known_at: float
    kept_at: float = -math.inf
    said_at: float = -math.inf
    said: int = 0

    @classmethod
    def from_now(cls, *, silent: bool = False) -> Times:
        """Of one who has been served until now, or who has waited already."""
        now = asyncio.get_running_loop().time()
        return cls(-math.inf if silent else now, now, now)


class Copying:
    """Serves readers from Redis.

    Args:
        logs: the streams in Redis.
        member: this process.
        far: tells owners of readers who cannot reach them.
        heartbeat_s: seconds between signs of life.
        owner_lost: told of a stream that was ended for its dead owner.
    """

    def __init__(
        self, logs: Logs, member: Member, far: FarReaders, heartbeat_s: float, owner_lost: Callable[[], None]
    ) -> None:
        self._logs = logs
        self._member = member
        self._far = far
        self._sign_s = min(heartbeat_s, _SIGN_S)
        self._owner_lost = owner_lost

    async def stop(self, stream_id: str) -> bool:
        """Stops a stream whose owner lives and cannot be reached; whether it has ended within a moment. Raises RedisAway."""
        await self._far.stop(stream_id)
        for _ in range(_STOP_LOOKS):
            await asyncio.sleep(LOOK_S)
            if await self._logs.entries(stream_id, END_ID - 1):
                return True
        return False

    async def tell_of_newer(self, stream_id: str) -> None:
        """Stops it likewise because its chat's newer question has come here, and waits for nothing. Raises RedisAway."""
        await self._far.tell_of_newer(stream_id)

    async def is_over(self, stream_id: str) -> bool:
        """Whether the stream's owner is dead; then its log is ended. Raises RedisAway."""
        owner = owner_of(stream_id)
        assert owner is not None, "a stream of a fleet names its owner"
        if await self._member.lease_of(owner) is not None:
            return False
        if not self._member.may_judge(asyncio.get_running_loop().time()):
            return False
        ended = await self._logs.end(stream_id)
        if ended:
            log.warning("stream %s was ended, because the process that had it is gone", stream_id)
            self._owner_lost()
        return ended is not None

    async def write(
        self,
        stream_id: str,
        reader: Reader,
        times: Times,
        *,
        entries: Sequence[Entry] = (),
        let_go: bool = False,
        for_s: float = FIRST_TRY_S,
    ) -> bool:
        """Writes the stream to its end, or for a while.

        Args:
            stream_id: the stream's.
            reader: who reads it, and has a head that says in which format.
            times: of that reader.
            entries: that are known already.
            let_go: its owner has nothing of it any more: what is in Redis is all that there will be.
            for_s: how long, in seconds; whatever is there already is written all the same.

        Returns:
            Whether it came to the end; else the time is over, or Redis is away.

        Raises:
            ConnectionError, Interrupted: the reader is gone. Cancelling is safe.
        """
        now = asyncio.get_running_loop().time
        until = now() + for_s
        while True:
            try:
                ended, news = await self._write_some(reader, entries, times)
                if ended:
                    return True
                if not news and let_go:
                    return await _end(reader, Expired("the rest of this stream is no longer kept"))
                if not news and now() - times.news_at > _SILENT_S and now() - times.kept_at > _STILL_SILENT_S:
                    let_go = await self._is_kept_no_longer(stream_id)
                    times.kept_at = now()
                at_once = let_go or len(entries) >= ENTRIES
                if not at_once and now() > until:
                    return False
                if now() - times.wrote_at >= self._sign_s:
                    await reader.write(KEEP_ALIVE)
                    times.wrote_at = now()
                more = await self._more(stream_id, reader.sent_id, times, at_once=at_once)
                if more is None:
                    return await _end(reader, OwnerLost(reader.sent_id))
                entries, times.known_at = more, now()
            except RedisAway:
                if now() - times.known_at > _AWAY_S:
                    return False
                entries = ()
                await asyncio.sleep(_AGAIN_S)

    async def _write_some(self, reader: Reader, entries: Sequence[Entry], times: Times) -> tuple[bool, bool]:
        """Writes what is new in some entries; returns whether the stream has ended, and whether there was anything."""
        try:
            frames, ending = after(entries, reader.sent_id)
        except Gap:
            return await _end(reader, Expired("frames after this id are no longer kept")), True
        for piece in _sliced(frames):
            await reader.write(b"".join(piece))
            reader.sent_id += len(piece)
            times.wrote_at = times.news_at = asyncio.get_running_loop().time()
        if ending is None:
            return False, bool(frames)
        return await _end(reader, _error_of(ending, entries[-1].last_id)), True

    async def _is_kept_no_longer(self, stream_id: str) -> bool:
        """Whether it was kept for as long as that is promised; a Redis that began anew may learn of it again."""
        return await self._logs.about(stream_id) is None and not await self._member.has_forgotten()

    async def _more(self, stream_id: str, sent_id: int, times: Times, *, at_once: bool) -> list[Entry] | None:
        """The next entries, waited for only where the reader has had all that there was; None where nothing can come."""
        if at_once:
            return await self._logs.entries(stream_id, sent_id)
        if await self.is_over(stream_id):
            return await self._logs.entries(stream_id, sent_id) or None
        if (now := asyncio.get_running_loop().time()) - times.said_at >= SAY_S:
            times.said_at, times.said = now, times.said + 1
            self._far.say(stream_id, sent_id, times.said)
        return await self._logs.news(stream_id, sent_id)


async def _end(reader: Reader, error: EndedError | None) -> bool:
    """Writes the last event, where the frames do not hold it already."""
    if error is not None:
        await write_end(reader, error)
    reader.ended = True
    return True


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
