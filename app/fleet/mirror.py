"""Writes resumable streams into Redis, behind their readers.

A stream's frames wait in its replay anyway. Every `mirror_s` one pipeline carries what is new of all streams, one entry
each, and sooner what a reader waits for there; nothing on the way of a token knows of it, and a stream that is not resumable costs nothing. While Redis is slow or
away the frames stay where they are; afterwards each log is looked at and what is missing written again
(`mirror_rules.py`). What a reader sees: nothing at all, unless another process has ended the stream because this one
seemed dead. Then Redis refuses the next write, Claude is let go of, and the reader gets the same last event as everyone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from ..streams.delivery import Frames
from ..streams.terms import Terms
from .contact import RedisAway, RedisRefused
from .log_commands import Command, append, close, found, live, look, make
from .mirror_batch import Batch, Job, Shadowed
from .mirror_rules import LIFE_S, Ending, Memory, Standing, Step
from .names import Keys

log = logging.getLogger(__name__)

# One pipeline carries about this much, so that packing it holds the event loop for a few milliseconds; the rest follows at
# once. Each is some turns of the loop, and on a busy one a dozen of them would take longer than the time between two rounds.
# And it is given this long, in seconds: a slow Redis is waited for, since nobody else waits.
_PIPELINE_BYTES = 262_144
_PIPELINE_STREAMS = 500
_PIPELINE_S = 1.0
# One entry holds at most this much, in bytes, as much as is written to a reader in one go.
_ENTRY_BYTES = 16_384
# What a reader waits for who takes its frames from Redis is written at once, but so often at most, in seconds; and what comes
# within the second time goes along, because rests that end together give the frames of many streams (`upstream/pacing.py`).
_READ_S, _TOGETHER_S = 0.05, 0.01
# While Redis is away it is tried again this often, in seconds: as soon as it is back, what it forgot is not to wait.
_AWAY_S = 0.25
# What the last frames are given when the process ends, in seconds.
_FAREWELL_S = 1.0


# What Redis says to one command; its refusal, as a value, is a `RedisRefused`.
Reply = Any


class Connecting(Protocol):
    """The mirror's own connection: `redis_link.Link`.

    Attributes:
        epoch: which connection it is, from 1.
    """

    epoch: int

    async def open(self) -> None:
        """Connects, if it is not connected. Raises RedisAway."""

    async def exchange(self, commands: Sequence[Command], timeout_s: float) -> list[Reply]:
        """Sends the commands, and returns a reply for each. Raises RedisAway."""

    async def close(self) -> None:
        """Lets go of the connection."""


class Told(Protocol):
    """Who is told what became of the frames: the metrics."""

    def mirrored(self, lag_s: float, lost: int, healed: int) -> None:
        """A round is over.

        Args:
            lag_s: for how long something has waited to be written, in seconds; 0 where nothing waits.
            lost: frames that had been in Redis, and were found to be gone.
            healed: those of them that were written again.
        """

    def mirror_refused(self) -> None:
        """Redis refused a write: most likely it is full."""


class Mirror:
    """The shadow of this process's resumable streams.

    Args:
        link: its own connection.
        keys: of the fleet.
        timing: the time between two rounds, and how long an ended stream is kept, in seconds.
        fenced: told of a stream that another process has ended.
        told: hears what became of the frames.

    Attributes:
        in_doubt: it is not known yet which streams others have ended while this process was asleep.
    """

    def __init__(
        self, link: Connecting, keys: Keys, timing: tuple[float, float], fenced: Callable[[Terms], None], told: Told
    ) -> None:
        self._link = link
        self._keys = keys
        self._mirror_s, self._replay_s = timing
        self._fenced = fenced
        self._told = told
        self._open: dict[str, Shadowed] = {}  # those that may have something to write
        self._done: dict[str, Shadowed] = {}  # those that this connection has seen ended, which the memory still has
        self._epoch = 0
        self._behind_since: float | None = None  # loop time; None while nothing waits
        self.in_doubt = False
        self._due: set[str] = set()  # streams whose readers wait in Redis for what is new
        self._is_due = asyncio.Event()  # there are some
        self._lost = self._healed = 0  # frames of which is told at the end of a round
        self._anew = False  # the next round looks at every log

    def began(self, terms: Terms, frames: Frames) -> None:
        """A resumable stream has begun."""
        self._open[terms.stream_id] = Shadowed(terms, frames, self._keys.stream(terms.stream_id))

    def ended(self, terms: Terms) -> None:
        """It has ended."""
        shadowed = self._open.get(terms.stream_id)
        if shadowed is not None and not shadowed.frames.replay.ended:
            shadowed.ending = Ending.EXPIRED

    def forgotten(self, terms: Terms) -> None:
        """Its memory is gone, so that nothing of it could be written again."""
        self._open.pop(terms.stream_id, None)
        self._done.pop(terms.stream_id, None)

    def due(self, stream_id: str) -> None:
        """Somebody waits in Redis for what is new of it."""
        self._due.add(stream_id)
        self._is_due.set()

    def look_anew(self, *, asleep: bool = False) -> None:
        """Every log is looked at again, also of what has ended and of what has nothing to write.

        Args:
            asleep: this process was, so that others may have ended any of its streams meanwhile; else Redis has forgotten.
        """
        self._anew = True
        self.in_doubt = self.in_doubt or asleep

    async def run(self) -> None:
        """Writes until cancelled; then what is left, for a short while."""
        now = asyncio.get_running_loop().time
        # The next round looks at every stream; else, while all is well, the one at that loop time.
        whole, whole_at = True, 0.0
        try:
            while True:
                began = now()
                try:
                    more = await self.flush(whole=whole)
                except RedisAway as away:
                    log.debug("the mirror waits: %s", away)
                    whole = True
                    await asyncio.sleep(max(_AWAY_S, self._mirror_s))
                    continue
                # A round that took long itself leaves the loop half of the time.
                if whole:
                    whole_at = max(now() + self._mirror_s / 2, began + self._mirror_s)
                if more:
                    await asyncio.sleep(0)
                    whole = now() >= whole_at
                    continue
                whole = not await self._is_due_before(began, whole_at)
        finally:
            await self._farewell()
            await self._link.close()

    async def _is_due_before(self, began: float, whole_at: float) -> bool:
        """Waits until something is due, a while after the round that began then, or until all is; which of them."""
        now = asyncio.get_running_loop().time
        await asyncio.sleep(min(whole_at, max(now() + _READ_S / 2, began + _READ_S - _TOGETHER_S)) - now())
        try:
            async with asyncio.timeout_at(whole_at):
                await self._is_due.wait()
                await asyncio.sleep(_TOGETHER_S)
        except TimeoutError:
            return False
        return True

    async def _farewell(self) -> None:
        try:
            async with asyncio.timeout(_FAREWELL_S):
                while await self.flush():
                    pass
        except (RedisAway, TimeoutError):
            if self._open:
                log.warning("%d streams could not be written to Redis to their end", len(self._open))

    async def flush(self, *, whole: bool = True) -> bool:
        """One round, of every stream or of those that are due; returns whether there is more to do at once.

        Raises RedisAway. Cancelling is safe.
        """
        now = asyncio.get_running_loop().time()
        more: set[str] = set()
        doubted = self.in_doubt
        anew, self._anew = self._anew, False
        whole = whole or anew
        due, self._due = self._due, set()
        self._is_due.clear()
        try:
            if anew:  # with a new connection every log is looked at
                await self._link.close()
            await self._link.open()
            if self._link.epoch != self._epoch:  # what was known of the ended ones is in doubt too
                self._epoch = self._link.epoch
                self._open = self._done | self._open
                self._done = {}
            some = iter(list(self._open.values()) if whole else [self._open[one] for one in due if one in self._open])
            while commands := (batch := self._plan(some, now)).commands:
                replies = await self._link.exchange(commands, _PIPELINE_S)
                more |= self._learn(batch, replies, now)
        except RedisAway:
            self._tell(now, waits=bool(self._open))
            raise
        self._tell(now, waits=bool(more))
        self._due |= more
        self.in_doubt = self.in_doubt and not (doubted and whole)
        return bool(more)

    def _plan(self, some: Iterator[Shadowed], now: float) -> Batch:
        """What to send next, of these; nothing at their end. Each is in doubt from here on until Redis has answered."""
        batch, epoch = Batch(), self._epoch
        streams = size_bytes = 0
        for shadowed in some:
            standing, replay = shadowed.standing, shadowed.frames.replay
            news, written_id = None, standing.written_id
            if not replay.ended and shadowed.ending is None and standing.goes_on(epoch, now):
                if replay.last_id == written_id:
                    continue
                news = replay.news(written_id, _ENTRY_BYTES)
            if news is not None:
                data, last_id, oldest_id = news
                batch.appends.append(append(shadowed.keys, written_id + 1, last_id, data, oldest_id))
                batch.going_on.append((shadowed, last_id, last_id < replay.last_id))
                size_bytes += len(data)
            else:
                memory = shadowed.memory
                step = standing.next(memory, epoch, now)
                if step is None:
                    continue
                job = self._job(shadowed, step, memory, now)
                batch.jobs.append(job)
                size_bytes += job.size_bytes
            standing.doubt()
            streams += 1
            if size_bytes >= _PIPELINE_BYTES or streams >= _PIPELINE_STREAMS:
                break
        return batch

    def _job(self, shadowed: Shadowed, step: Step, memory: Memory, now: float) -> Job:
        standing, keys = shadowed.standing, shadowed.keys
        match step:
            case Step.LOOK:
                return Job(shadowed, step, memory, [look(keys)])
            case Step.MAKE | Step.REMAKE:
                commands = make(keys, shadowed.about, memory.first_id, anew=step is Step.REMAKE)
                return Job(shadowed, step, memory, commands)
            case Step.APPEND:
                news = shadowed.frames.replay.news(standing.written_id, _ENTRY_BYTES)
                assert news is not None, "else it is not appended to"
                data, last_id, oldest_id = news
                commands = [append(keys, standing.written_id + 1, last_id, data, oldest_id)]
                if standing.is_aging(now):
                    commands += live(keys, LIFE_S)
                return Job(shadowed, step, memory, commands, last_id, len(data))
            case Step.CLOSE:
                assert memory.ending is not None, "else it is not closed"
                return Job(shadowed, step, memory, close(keys, memory.ending, memory.last_id, self._replay_s))
            case Step.REFRESH:
                return Job(shadowed, step, memory, live(keys, LIFE_S))

    def _learn(self, batch: Batch, replies: list[Reply], now: float) -> set[str]:
        """Takes in what came of it; returns of which streams something follows at once."""
        more: set[str] = set()
        theirs = replies[: len(batch.going_on)]
        for (shadowed, last_id, more_waits), reply in zip(batch.going_on, theirs, strict=True):
            if isinstance(reply, bytes):
                standing = shadowed.standing
                standing.appended(last_id, self._epoch)
                if standing.healed:
                    self._count(standing)
                if more_waits:
                    more.add(shadowed.stream_id)
            elif reply is None or self._is_to_be_looked_at([reply]):
                more.add(shadowed.stream_id)
        place = len(batch.going_on)
        for job in batch.jobs:
            theirs = replies[place : place + len(job.commands)]
            place += len(job.commands)
            if self._learn_one(job, theirs, now):
                more.add(job.shadowed.stream_id)
            self._count(job.shadowed.standing)
        return more

    def _is_to_be_looked_at(self, refusals: Sequence[RedisRefused]) -> bool:
        """Whether a look finds out why: already there, or ended. Anything else, such as a full Redis, lasts."""
        if any("equal or smaller" in str(one) for one in refusals):
            return True
        self._told.mirror_refused()
        log.debug("Redis refused to keep a stream: %s", refusals[0])
        return False

    def _learn_one(self, job: Job, replies: list[Reply], now: float) -> bool:
        standing, epoch = job.shadowed.standing, self._epoch
        reply = replies[-1] if job.step in (Step.MAKE, Step.REMAKE) else replies[0]
        refusals = [one for one in (*replies, *(reply if isinstance(reply, list) else ())) if _is_refusal(one)]
        if refusals:
            return self._is_to_be_looked_at(refusals)
        match job.step:
            case Step.LOOK:
                standing.looked(found(reply), job.memory, epoch)
                if standing.fenced:
                    self._forget_fenced(job.shadowed)
            case Step.MAKE | Step.REMAKE:
                standing.made(job.memory.first_id, epoch, now)
            case Step.APPEND | Step.CLOSE if reply is None:
                return True  # it is not there any more: look
            case Step.APPEND:
                standing.appended(job.last_id, epoch)
                if len(replies) > 1:
                    standing.refreshed(epoch, now)
                return job.last_id < job.memory.last_id or job.memory.ending is not None
            case Step.CLOSE:
                assert job.memory.ending is not None, "else it was not closed"
                standing.closed(job.memory.ending, epoch)
            case Step.REFRESH if not reply:
                return True
            case Step.REFRESH:
                standing.refreshed(epoch, now)
        if standing.done:
            stream_id = job.shadowed.stream_id
            if self._open.pop(stream_id, None) is not None:
                self._done[stream_id] = job.shadowed
            return False
        return job.step is not Step.REFRESH

    def _forget_fenced(self, shadowed: Shadowed) -> None:
        log.warning("stream %s was ended by another process, which took this one for dead", shadowed.terms.stream_id)
        self._fenced(shadowed.terms)

    def _count(self, standing: Standing) -> None:
        if standing.lost or standing.healed:
            self._lost, self._healed = self._lost + standing.lost, self._healed + standing.healed
            standing.lost = standing.healed = 0

    def _tell(self, now: float, *, waits: bool) -> None:
        self._behind_since = (self._behind_since or now) if waits else None
        lag_s = 0.0 if self._behind_since is None else now - self._behind_since
        self._told.mirrored(lag_s, self._lost, self._healed)
        self._lost = self._healed = 0


def _is_refusal(reply: Reply) -> bool:
    return isinstance(reply, RedisRefused)
