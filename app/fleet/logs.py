"""Other processes' streams, as their logs in Redis tell them.

Whoever reads one waits in no command: all readers of this process that have had everything so far are looked for with one
XREAD for each owner, a few times a second, which does not block. So two connections do for any number of readers, and a
reader that is slow asks for no more than it has written.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from .contact import RedisAway, RedisRefused
from .log_commands import About, Entry, entries_of, read
from .member import LEARNS_S, SECRET_S, Member
from .mirror_rules import END_ID, Ending
from .names import FORMAT, owner_of

# Looked for so often, in seconds: as often as a page is given text by default.
LOOK_S = 0.1
# Of one log so many entries at once: some 16 s of an answer, or 64 times 16 kB of what was written long ago.
_ENTRIES = 64

# Ends a log whose owner has no lease, in the one step in which that is looked at. 1: ended. 0: the log has ended already, or
# is not there. -1: the owner lives, or Redis began anew a short while ago, when everybody lacks a lease.
_END = """
local left = redis.call('PTTL', KEYS[3])
if redis.call('EXISTS', KEYS[1]) == 1 or left < 0 or left > tonumber(ARGV[3]) then return -1 end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
if #last == 0 then return 0 end
local number = string.match(last[1][1], '^%d+')
if number == ARGV[1] then return 0 end
redis.call('XADD', KEYS[2], ARGV[1] .. '-0', 'e', ARGV[2], 'n', number)
return 1
"""


@dataclass(slots=True)
class _Wait:
    """Readers of one log that have had everything so far."""

    after_id: int
    futures: list[asyncio.Future[list[Entry]]] = field(default_factory=list)


class Logs:
    """Reads logs.

    Args:
        member: this process, and what it asks of Redis.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._keys = member.keys
        self._waiting: dict[str, _Wait] = {}
        self._wake = asyncio.Event()

    async def about(self, stream_id: str) -> About | None:
        """What is known of a stream; None where there is none, or it is kept in a form that this version does not know.

        Raises:
            RedisAway: nobody knows. Cancelling is safe.
        """
        reply = await self._member.asks.ask("HGETALL", self._keys.stream(stream_id).about)
        known = dict(zip(reply[::2], reply[1::2], strict=True)) if reply else {}
        if known.get(b"v") != b"%d" % FORMAT:
            return None
        return About(*(known.get(field, b"").decode() for field in (b"c", b"u", b"k", b"t", b"w")))

    async def entries(self, stream_id: str, after_id: int) -> list[Entry]:
        """The next entries after a frame, at once; none where there are none. Raises RedisAway. Cancelling is safe."""
        return entries_of(await self._member.asks.ask(*read(self._keys.stream(stream_id), after_id, _ENTRIES)))

    async def news(self, stream_id: str, after_id: int) -> list[Entry]:
        """The same, at the next look; some of them may be older, where another reader of this stream lacks those.

        Raises:
            RedisAway: Redis is away. Cancelling is safe.
        """
        wait = self._waiting.setdefault(stream_id, _Wait(after_id))
        wait.after_id = min(wait.after_id, after_id)
        future: asyncio.Future[list[Entry]] = asyncio.get_running_loop().create_future()
        wait.futures.append(future)
        self._wake.set()
        return await future

    async def run(self) -> None:
        """Looks for whoever waits, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await asyncio.sleep(LOOK_S)
                waiting, self._waiting = self._waiting, {}
                await self._look(waiting)

    async def _look(self, waiting: dict[str, _Wait]) -> None:
        by_owner: dict[str | None, list[str]] = {}
        for stream_id in waiting:
            by_owner.setdefault(owner_of(stream_id), []).append(stream_id)
        found: dict[str, list[Entry]] = {}
        failed: RedisAway | None = None
        for ids in by_owner.values():
            keys = [self._keys.stream(stream_id).log for stream_id in ids]
            # Above every id `n-…`: the frames after n.
            places = [f"{waiting[stream_id].after_id}-{2**64 - 1}" for stream_id in ids]
            try:
                reply = await self._member.asks.ask("XREAD", "COUNT", _ENTRIES, "STREAMS", *keys, *places)
            except (RedisAway, RedisRefused) as error:
                failed = RedisAway(str(error))
                continue
            named = dict(zip(keys, ids, strict=True))
            for key, raw in reply or ():
                found[named[key.decode()]] = entries_of(raw)
        for stream_id, wait in waiting.items():
            for future in wait.futures:
                if future.done():
                    continue
                if failed is not None and stream_id not in found:
                    future.set_exception(failed)
                else:
                    future.set_result(found.get(stream_id, []))

    async def end(self, stream_id: str) -> bool | None:
        """Ends the log of a process that is gone.

        Returns:
            Whether this call ended it; None where its owner lives, or nobody can say that it does not.

        Raises:
            RedisAway: nobody knows. Cancelling is safe.
        """
        owner = owner_of(stream_id)
        assert owner is not None, "a stream of a fleet names its owner"
        keys = (self._keys.lease(owner), self._keys.stream(stream_id).log, self._keys.born)
        learned_ms = int((SECRET_S - LEARNS_S) * 1000)
        said = await self._member.asks.ask("EVAL", _END, len(keys), *keys, str(END_ID), Ending.LOST.value, learned_ms)
        return None if said == -1 else bool(said)
