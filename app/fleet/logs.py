"""Other processes' streams, as their logs in Redis tell them.

Whoever reads one waits in no command: all readers of this process that have had everything so far are looked for with one
XREAD for each owner, a few times a second, which does not block. So two connections do for any number of readers, and a
reader that is slow asks for no more than it has written. Who has nothing new is not woken for it, as most are in most looks.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .contact import RedisAway, RedisRefused, nobody_knows
from .fresh_keys import FRESH
from .log_commands import About, Entry, entries_of, found, look, read
from .member import BEAT_S, LEARNS_S, PLACE_S, SECRET_S, Member
from .mirror_rules import END_ID, LIFE_S, Ending
from .names import FORMAT, owner_of

log = logging.getLogger(__name__)

# Looked for so often, in seconds: half as often would let text come in lumps of two, since its owner writes as often as this.
LOOK_S = 0.05
# Of one log so many entries at once: some 16 s of an answer, or 64 times 16 kB of what was written long ago.
ENTRIES = 64
# So many streams that Redis would not let end are remembered until it does; the streams of some dead processes.
_MOST_UNENDED = 10_000
# The last part of every id is at most this.
_LAST = 2**64 - 1

# Ends a log whose owner has no lease, in the one step in which that is looked at. Where there is none, it is made to hold that
# end alone: an owner that was heard of for as long as its logs last may have died, or fallen asleep, before it wrote the first
# frame, and is to learn it when it writes that. 1: ended. 0: the log has ended already, or never was. -1: the owner lives, or
# Redis began anew a short while ago, when everybody lacks a lease; that is not asked where readers have been told the end.
_END = f"""{FRESH}
local left = redis.call('PTTL', KEYS[3])
if ARGV[6] == '0' and (redis.call('EXISTS', KEYS[1]) == 1 or left < 0 or left > tonumber(ARGV[3])) then return -1 end
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)
local number = '0'
if #last > 0 then
  number = string.match(last[1][1], '^%d+')
  if number == ARGV[1] then return 0 end
elseif redis.call('PTTL', KEYS[4]) < tonumber(ARGV[4]) then
  return 0
end
if #last == 0 then fresh(KEYS[2], 'PEXPIRE') end
redis.call('XADD', KEYS[2], ARGV[1] .. '-0', 'e', ARGV[2], 'n', number)
if #last == 0 then redis.call('PEXPIRE', KEYS[2], ARGV[5]) end
return 1
"""


@dataclass(slots=True)
class _Wait:
    """Readers of one log that have had everything so far.

    Attributes:
        after_id: the last frame that all of them have.
        until: the loop time at which they are told that there is nothing.
        futures: theirs.
    """

    after_id: int
    until: float
    futures: list[asyncio.Future[list[Entry]]]

    @property
    def place(self) -> str:
        """Above every id `n-…`: the frames after n."""
        return f"{self.after_id}-{_LAST}"

    @property
    def is_left(self) -> bool:
        """Nobody waits any more."""
        for future in self.futures:  # noqa: SIM110  # `all()` takes three times as long, for each reader at each look
            if not future.done():
                return False
        return True

    def join(self, other: _Wait) -> None:
        """Others wait as well."""
        self.after_id = min(self.after_id, other.after_id)
        self.until = min(self.until, other.until)
        self.futures += other.futures

    def resolve(self, entries: list[Entry]) -> None:
        """Tells them."""
        for future in self.futures:
            if not future.done():
                future.set_result(entries)

    def fail(self, why: str) -> None:
        """Tells them that nothing is known."""
        for future in self.futures:
            if not future.done():
                future.set_exception(RedisAway(why))


class Logs:
    """Reads logs.

    Args:
        member: this process, and what it asks of Redis.
        owner_lost: told of a stream that was ended for its dead owner.
    """

    def __init__(self, member: Member, owner_lost: Callable[[], None] = lambda: None) -> None:
        self._member = member
        self._keys = member.keys
        self._waiting: dict[str, dict[str, _Wait]] = {}  # by owner, and by the log's name
        self._wake = asyncio.Event()
        self._unended: OrderedDict[str, None] = OrderedDict()
        self._refused = asyncio.Event()  # there are some
        self._owner_lost = owner_lost

    async def about(self, stream_id: str) -> About | None:
        """What is known of a stream; None where there is none, or it is kept in a form that this version does not know.

        Raises:
            RedisAway: nobody knows. Cancelling is safe.
        """
        with nobody_knows():
            reply = await self._member.asks.ask("HGETALL", self._keys.stream(stream_id).about)
        known = dict(zip(reply[::2], reply[1::2], strict=True)) if reply else {}
        if known.get(b"v") != b"%d" % FORMAT:
            return None
        return About(*(known.get(field, b"").decode() for field in (b"c", b"u", b"k", b"t", b"w")))

    async def entries(self, stream_id: str, after_id: int) -> list[Entry]:
        """The next entries after a frame, at once; none where there are none. Raises RedisAway. Cancelling is safe."""
        with nobody_knows():
            return entries_of(await self._member.asks.ask(*read(self._keys.stream(stream_id), after_id, ENTRIES)))

    async def last_id(self, stream_id: str) -> int:
        """The newest frame in the log; 0 where there is none. Raises RedisAway. Cancelling is safe."""
        with nobody_knows():
            newest = found(await self._member.asks.ask(*look(self._keys.stream(stream_id))))
        return newest.last_id if newest is not None else 0

    async def news(self, stream_id: str, after_id: int, within_s: float) -> list[Entry]:
        """The same, once there are some; some may be older, where another reader of this stream lacks those.

        Returns:
            None of them after `within_s` seconds at the latest, and at each look while the owner has no lease.

        Raises:
            RedisAway: Redis is away. Cancelling is safe.
        """
        owner = owner_of(stream_id)
        assert owner is not None, "a stream of a fleet names its owner"
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Entry]] = loop.create_future()
        wait = _Wait(after_id, loop.time() + within_s, [future])
        _join(self._waiting.setdefault(owner, {}), self._keys.stream(stream_id).log, wait)
        self._wake.set()
        return await future

    async def run(self) -> None:
        """Looks for whoever waits, and ends what Redis would not let end, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._look_for_all())
            tasks.create_task(self._end_again())

    async def _look_for_all(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            await self._wake.wait()
            self._wake.clear()
            looked_at = now()
            while self._waiting:
                # A look that took long itself leaves the others half of the time.
                await asyncio.sleep(max(now() - looked_at, looked_at + LOOK_S - now()))
                looked_at = now()
                for owner in list(self._waiting):
                    await self._look(owner)

    async def _look(self, owner: str) -> None:
        # Who comes while this looks may lack more than is looked for, and waits for the next one.
        waits = {log: wait for log, wait in self._waiting.pop(owner).items() if not wait.is_left}
        try:
            lives = await self._member.lease_of(owner) is not None
            found = await self._found(waits)
        except (RedisAway, RedisRefused) as error:
            for wait in waits.values():
                wait.fail(str(error))
            return
        for log, entries in found.items():
            waits.pop(log).resolve(entries)
        now = asyncio.get_running_loop().time()
        for log in [log for log, wait in waits.items() if wait.until <= now or not lives]:
            waits.pop(log).resolve([])
        for log, wait in self._waiting.get(owner, {}).items():
            _join(waits, log, wait)
        if waits:
            self._waiting[owner] = waits

    async def _found(self, waits: Mapping[str, _Wait]) -> dict[str, list[Entry]]:
        """What is new in these logs, by their names. Raises RedisAway, RedisRefused."""
        if not waits:
            return {}
        places = [wait.place for wait in waits.values()]
        reply = await self._member.asks.ask("XREAD", "COUNT", ENTRIES, "STREAMS", *waits, *places)
        return {key.decode(): entries_of(raw) for key, raw in reply or ()}

    async def end(self, stream_id: str) -> bool | None:
        """Ends the log of a process that is gone, also where that died before it wrote any of it.

        Returns:
            Whether this call ended it; None where its owner lives, or nobody can say that it does not.

        Raises:
            RedisAway: nobody knows. RedisRefused: Redis does not let it be ended. Cancelling is safe.
        """
        return await self._end(stream_id, told=False)

    def end_here(self, stream_id: str) -> None:
        """Takes it for ended for the readers of this process, which Redis is told once it takes that."""
        if stream_id not in self._unended:
            log.warning("stream %s has ended here: its process is gone, and Redis refuses to be told", stream_id)
            self._unended[stream_id] = None
            if len(self._unended) > _MOST_UNENDED:
                self._unended.popitem(last=False)
            self._refused.set()

    def has_ended_here(self, stream_id: str) -> bool:
        """Whether readers of this process are told that it has ended, and Redis is not yet."""
        return stream_id in self._unended

    async def _end_again(self) -> None:
        while True:
            await self._refused.wait()
            await asyncio.sleep(BEAT_S)
            try:
                for stream_id in list(self._unended):
                    await self._end(stream_id, told=True)
                    self._unended.pop(stream_id, None)
            except (RedisAway, RedisRefused) as error:
                log.debug("%d streams still cannot be ended: %s", len(self._unended), error)
            if not self._unended:
                self._refused.clear()

    async def _end(self, stream_id: str, *, told: bool) -> bool | None:
        owner = owner_of(stream_id)
        assert owner is not None, "a stream of a fleet names its owner"
        keys = (self._keys.lease(owner), self._keys.stream(stream_id).log, self._keys.born, self._keys.place(owner))
        times_ms = [int(time_s * 1000) for time_s in (SECRET_S - LEARNS_S, PLACE_S - LIFE_S, LIFE_S)]
        given: tuple[str | int, ...] = (str(END_ID), Ending.LOST.value, *times_ms, int(told))
        said = await self._member.asks.ask("EVAL", _END, len(keys), *keys, *given)
        if said == 1:
            log.warning("stream %s was ended, because the process that had it is gone", stream_id)
            self._owner_lost()
        return None if said == -1 else bool(said)


def _join(waits: dict[str, _Wait], log: str, wait: _Wait) -> None:
    if log in waits:
        waits[log].join(wait)
    else:
        waits[log] = wait
