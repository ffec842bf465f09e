"""Writes one reader of another process's stream what Redis has of it, and what comes, to its end.

Once the owner has no lease and this process can judge (`member.py`), the log is ended, in Redis, for everybody, and the
reader gets one typed last event, `worker_lost`, with the id of the last frame there is, or of the last one that it had,
where that was not written any more. The same event comes again whenever it asks again. A Redis that can be read and refuses
that end, because it is full, is told later: until then each process tells the end to its own readers alone. Where frames are
missing it is told that the stream has expired: there is no hole that nobody speaks of.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ...errors import BadRequest, EndedError, Expired
from ...fleet.contact import RedisAway, RedisRefused
from ...fleet.errors import OwnerLost
from ...fleet.far_readers import FarReaders
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
# The owner is tried again after so long, in seconds, and then after twice as long each time: up to the second where it is
# not reached, and up to the third where it answers and has nothing for this reader.
FIRST_TRY_S, UNREACHED_TRY_S, LAST_TRY_S = 1.0, 4.0, 60.0
# Where nothing new comes for so long, in seconds, it is looked whether the stream is kept at all any more.
_SILENT_S = 2.0
# And again after this long, in seconds: it is a question for each reader.
_STILL_SILENT_S = 10.0
# Who stops a stream by Redis waits for its end so many looks, longer than its owner takes: a look of its own and a write.
_STOP_LOOKS = 40
# A reader of whose stream Redis has nothing new is given a sign of life this often, in seconds, and one at once when its owner
# has fallen silent: whether that is dead takes ten seconds to find out after Redis began anew, and he is not to think it of us.
_SIGN_S = 3.0
# A reader may have frames that its stream's owner had no time to write before it died, or a full Redis did not take: at most
# those of Claude's longest answer, 128,000 tokens.
MOST_UNWRITTEN = 131_072
# A reader who has more than Redis is looked for this often, in seconds, until its owner has written or shows that it has not.
_LACKING_LOOK_S = 0.1
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
    """

    wrote_at: float
    news_at: float
    known_at: float
    kept_at: float = -math.inf

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
        mirror_s: how long frames may be on their way to Redis, in seconds.

    Attributes:
        is_reached: whether the process of that name answers.
    """

    def __init__(self, logs: Logs, member: Member, far: FarReaders, heartbeat_s: float, mirror_s: float) -> None:
        self._logs = logs
        self._member = member
        self._far = far
        self._sign_s = min(heartbeat_s, _SIGN_S)
        self._mirror_s = mirror_s
        self.is_reached: Callable[[str], Awaitable[bool]] = _nobody

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
        """Whether the stream's owner is dead; then its log is ended, or, while Redis refuses that, its end told here.

        Raises:
            RedisAway: nobody knows. Cancelling is safe.
        """
        owner = owner_of(stream_id)
        assert owner is not None, "a stream of a fleet names its owner"
        if await self._member.lease_of(owner) is not None:
            return False
        now = asyncio.get_running_loop().time()
        if self._member.may_judge(now):
            try:
                return await self._logs.end(stream_id) is not None
            except RedisRefused as refused:
                log.debug("stream %s could not be ended: %s", ascii(stream_id), refused)
        elif not self._member.may_judge_here(now):
            return False
        # While Redis takes no lease, who lives may have none.
        if await self.is_reached(owner):
            return False
        self._logs.end_here(stream_id)
        return True

    async def entries_from(self, stream_id: str, sent_id: int, *, let_go: bool) -> list[Entry]:
        """The next entries for a reader that says that it has every frame up to `sent_id`; none where there are none yet.

        Where Redis has fewer it is waited until the owner has written them, has ended or is gone, or has given its lease
        anew after it should have written them.

        Raises:
            BadRequest: the stream never had so many, as its owner would say too. RedisAway: nobody knows. Cancelling is safe.
        """
        owner = owner_of(stream_id)
        assert owner is not None, "a stream of a fleet names its owner"
        now = asyncio.get_running_loop().time
        written_at = now() + 2 * self._mirror_s
        while True:
            # Before the look, which then shows all that was written by then.
            beat_at = await self._member.beat_at(owner) if sent_id else None
            entries = await self._logs.entries(stream_id, sent_id)
            last_id = entries[-1].last_id if entries else await self._logs.last_id(stream_id) if sent_id else 0
            ending = entries[-1].ending if entries else None
            if sent_id <= last_id or ending is Ending.EXPIRED:
                return entries
            if ending is Ending.ENDED or sent_id - last_id > MOST_UNWRITTEN:
                raise BadRequest(f"Last-Event-ID is above the stream's last, {last_id}", field="Last-Event-ID")
            # What a dead owner gave its reader and did not write, nobody knows, nor what a full Redis does not take.
            if ending is not None or let_go or beat_at is None or self._member.may_lack(now()):
                return entries
            if beat_at >= written_at:
                raise BadRequest(f"Last-Event-ID is above the stream's last, {last_id}", field="Last-Event-ID")
            await asyncio.sleep(_LACKING_LOOK_S)

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
        until = asyncio.get_running_loop().time() + for_s
        with self._far.reading(stream_id, reader):
            return await self._write_until(until, stream_id, reader, times, entries, let_go=let_go)

    async def _write_until(
        self, until: float, stream_id: str, reader: Reader, times: Times, entries: Sequence[Entry], *, let_go: bool
    ) -> bool:
        now = asyncio.get_running_loop().time
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
                if not at_once and now() >= until:
                    return False
                if now() - times.wrote_at >= self._sign_s:
                    await reader.write(KEEP_ALIVE)
                    times.wrote_at = now()
                within_s = 0.0 if at_once else min(until, times.wrote_at + self._sign_s) - now()
                more = await self._more(stream_id, reader.sent_id, within_s)
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
        # It may have had from its owner what was never written.
        return await _end(reader, _error_of(ending, max(entries[-1].last_id, reader.sent_id))), True

    async def _is_kept_no_longer(self, stream_id: str) -> bool:
        """Whether it was kept for as long as that is promised.

        A Redis that began anew may learn of it again, and an owner without a lease have died before it wrote any of it.
        """
        if await self._logs.about(stream_id) is not None or await self._member.has_forgotten():
            return False
        owner = owner_of(stream_id)
        assert owner is not None, "a stream of a fleet names its owner"
        return await self._member.lease_of(owner) is not None

    async def _more(self, stream_id: str, sent_id: int, within_s: float) -> list[Entry] | None:
        """The next entries; none where none come in time, None where nothing can come."""
        if within_s <= 0:
            return await self._logs.entries(stream_id, sent_id)
        if news := await self._logs.news(stream_id, sent_id, within_s):
            return news
        # A look finds out whether the owner lives, for all of its readers.
        if await self.is_over(stream_id):
            return await self._logs.entries(stream_id, sent_id) or None
        return []


async def _nobody(_name: str) -> bool:
    return False


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
