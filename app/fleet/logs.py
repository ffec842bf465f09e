"""Other processes' streams, as their logs in Redis tell them.

Whoever reads one waits in no command: all readers of this process that have had everything so far are looked for with one
XREAD for each owner, a few times a second, which does not block. So two connections do for any number of readers, and a
reader that is slow asks for no more than it has written. Who has nothing new is not woken for it, as most are in most looks.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

from .contact import RedisAway, RedisRefused
from .log_commands import About, Entry, entries_of, read
from .member import LEARNS_S, SECRET_S, Member
from .mirror_rules import END_ID, Ending
from .names import FORMAT, owner_of

# Looked for so often, in seconds: as often as a page is given text by default.
LOOK_S = 0.1
# A reader of whose log nothing is heard is told so after this long, in seconds.
QUIET_S = 1.0
# Of one log so many entries at once: some 16 s of an answer, or 64 times 16 kB of what was written long ago.
ENTRIES = 64
# The last part of every id is at most this.
_LAST = 2**64 - 1

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
    """Readers of one log that have had everything so far.

    Attributes:
        futures: theirs, with the loop time at which each is told that there is nothing.
    """

    owner: str
    log: str
    after_id: int
    futures: list[tuple[float, asyncio.Future[list[Entry]]]] = field(default_factory=list)

    def resolve(self, entries: list[Entry], before: float = math.inf) -> None:
        """Tells those whose time is before that, who then wait no longer."""
        for until, future in self.futures:
            if until <= before and not future.done():
                future.set_result(entries)
        self._forget_done()

    def fail(self, error: Exception) -> None:
        """Tells them that nothing is known."""
        for _, future in self.futures:
            if not future.done():
                future.set_exception(error)
        self._forget_done()

    def _forget_done(self) -> None:
        self.futures = [one for one in self.futures if not one[1].done()]


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
        return entries_of(await self._member.asks.ask(*read(self._keys.stream(stream_id), after_id, ENTRIES)))

    async def news(self, stream_id: str, after_id: int) -> list[Entry]:
        """The same, once there are some; some may be older, where another reader of this stream lacks those.

        Returns:
            None of them after `QUIET_S`, and at each look while the owner has no lease.

        Raises:
            RedisAway: Redis is away. Cancelling is safe.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Entry]] = loop.create_future()
        self._wait(stream_id, after_id).futures.append((loop.time() + QUIET_S, future))
        self._wake.set()
        return await future

    def _wait(self, stream_id: str, after_id: int) -> _Wait:
        """Of that stream, for who has had the frames up to that."""
        wait = self._waiting.get(stream_id)
        if wait is None:
            owner = owner_of(stream_id)
            assert owner is not None, "a stream of a fleet names its owner"
            wait = self._waiting[stream_id] = _Wait(owner, self._keys.stream(stream_id).log, after_id)
        wait.after_id = min(wait.after_id, after_id)
        return wait

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
        by_owner: dict[str, list[_Wait]] = {}
        for wait in waiting.values():
            by_owner.setdefault(wait.owner, []).append(wait)
        for owner, waits in by_owner.items():
            try:
                lives = await self._member.lease_of(owner) is not None
                found = await self._found(waits)
            except (RedisAway, RedisRefused) as error:
                for wait in waits:
                    wait.fail(RedisAway(str(error)))
                continue
            now = asyncio.get_running_loop().time()
            for wait in waits:
                entries = found.get(wait.log)
                wait.resolve(entries or [], now if lives and not entries else math.inf)
        for stream_id, wait in waiting.items():
            if wait.futures:
                self._wait(stream_id, wait.after_id).futures += wait.futures

    async def _found(self, waits: list[_Wait]) -> dict[str, list[Entry]]:
        """What is new in these logs, by their names. Raises RedisAway, RedisRefused."""
        # Above every id `n-…`: the frames after n.
        places = [f"{wait.after_id}-{_LAST}" for wait in waits]
        logs = [wait.log for wait in waits]
        reply = await self._member.asks.ask("XREAD", "COUNT", ENTRIES, "STREAMS", *logs, *places)
        return {key.decode(): entries_of(raw) for key, raw in reply or ()}

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
