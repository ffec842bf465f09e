"""The readers: one coroutine for each manner, from asking to what became of the stream."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field

from .connection import Connection, Target, clock
from .figures import End, Figures
from .plan import Conduct, Kind, Phase, Plan
from .protocols import Question
from .reply import Reply

REFUSALS = (429, 503, 529)
# How often a slow reader reads.
_TICK_S = 0.1
# How long a reader that was refused stays away where nobody says, and at most.
_RETRY_S, _RETRY_MAX_S = 1.0, 10.0


@dataclass(slots=True)
class Readers:
    """What all readers of one test share.

    Attributes:
        plan: what they do.
        target: where they connect.
        question: what they ask.
        figures: where they report.
        timeout_s: what a stream is given from asking to its end, in seconds.
        vanishes: vanished readers truly acknowledge nothing; False: they only stop reading.
    """

    plan: Plan
    target: Target
    question: Question
    figures: Figures
    timeout_s: float
    vanishes: bool = True
    _run: str = field(default_factory=lambda: secrets.token_hex(4))  # chats of two tests never share a name

    async def read(self, reader: int, visit: int, kind: Kind) -> float:
        """One stream of one reader, to its end; returns after how many seconds the reader may come again.

        Cancelling closes the connection; the stream then counts as left.
        """
        one = _Stream(self, kind, self.plan.conduct(reader, visit), f"load-{self._run}-{reader}-{visit}")
        self.figures.asked()
        end = End.LEFT
        try:
            async with asyncio.timeout(self.timeout_s):
                end = await one.run()
        except TimeoutError:
            end = End.TIMED_OUT
        except OSError:
            end = End.UNREACHABLE
        finally:
            one.close()
            self.figures.ended(kind, end, contents=one.contents, words=one.words, wire_bytes=one.wire_bytes)
        if end is End.REFUSED and one.reply is not None:
            told = one.reply.headers.get("retry-after", "")
            return min(float(told) if told.isdigit() else _RETRY_S, _RETRY_MAX_S)
        return _RETRY_S if end in (End.UNREACHABLE, End.REJECTED) else 0.0


class _Stream:
    """One stream of one reader, over one connection or, resumed, two."""

    def __init__(self, readers: Readers, kind: Kind, conduct: Conduct, name: str) -> None:
        self._readers = readers
        self._kind = kind
        self._conduct = conduct
        self._name = name
        self._asked_at = clock()
        self._last_at: float | None = None  # when content came last, on this connection
        self._began: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # done by the first content
        self._connection: Connection | None = None
        self.reply: Reply | None = None
        self.contents = self.words = self.wire_bytes = 0

    async def run(self) -> End:
        """Raises OSError where the service cannot be connected."""
        question = self._readers.question
        connection, reply = await self._connect(
            question.ask(self._name, resumable=self._kind is Kind.RESUMING),
            Reply(question.protocol, word=question.word),
        )
        match self._kind:
            case Kind.FAST:
                await connection.over
            case Kind.SLOW:
                await self._slow(connection)
            case Kind.STALLING:
                await self._stall(connection)
            case Kind.LEAVING:
                if await self._leave(connection):
                    return End.LEFT
            case Kind.VANISHING:
                if await self._vanish(connection):
                    return End.LEFT
            case Kind.RESUMING:
                connection, reply = await self._resume(connection, reply)
        return end_of(reply, garbled=connection.garbled)

    def close(self) -> None:
        """Closes the connection that is open. Idempotent."""
        if self._connection is not None and self.reply is not None:
            self._connection.leave()
            self.wire_bytes += self._connection.wire_bytes
            self.contents += self.reply.contents
            self.words += self.reply.words
            self._connection = None

    async def _connect(self, request: bytes, reply: Reply) -> tuple[Connection, Reply]:
        small = self._kind not in (Kind.FAST, Kind.RESUMING)
        self.reply = reply
        self._connection = await self._readers.target.connect(request, reply, self._heard, small=small)
        return self._connection, reply

    def _heard(self, _contents: int) -> None:
        now = clock()
        if self._last_at is not None:
            self._readers.figures.gap(self._kind, now - self._last_at)
        elif not self._began.done():
            self._readers.figures.first(self._kind, now - self._asked_at)
            self._began.set_result(None)
        self._last_at = now

    async def _slow(self, connection: Connection) -> None:
        step_bytes = max(1, round(self._readers.plan.slow_bytes_per_s * _TICK_S))
        while not await _over(connection, step_bytes / self._readers.plan.slow_bytes_per_s):
            connection.allow(step_bytes)

    async def _stall(self, connection: Connection) -> None:
        if await _over(connection, self._conduct.turn_s):
            return
        connection.allow(0)
        await _over(connection, self._readers.plan.stall_s)
        connection.allow(None)
        await connection.over

    async def _leave(self, connection: Connection) -> bool:
        """Tells whether it left before the answer was over."""
        before = self._conduct.phase is Phase.BEFORE_FIRST
        if await _over(connection, self._conduct.turn_s * (0.1 if before else 1.0)):
            return False
        if self._conduct.phase is Phase.BLOCKED:
            connection.allow(0)
            await asyncio.sleep(self._conduct.blocked_s)
        connection.leave(resets=self._conduct.resets)
        return True

    async def _vanish(self, connection: Connection) -> bool:
        if await _over(connection, self._conduct.turn_s):
            return False
        self._readers.vanishes = connection.vanish() and self._readers.vanishes
        await asyncio.sleep(self._readers.plan.vanish_s)
        return True

    async def _resume(self, connection: Connection, reply: Reply) -> tuple[Connection, Reply]:
        await asyncio.wait({self._began, connection.over}, return_when=asyncio.FIRST_COMPLETED)
        if reply.headers.get("x-resumable") == "false" or await _over(connection, self._conduct.turn_s):
            await connection.over
            return connection, reply
        self.close()
        self._last_at = None  # the time away is no gap
        await asyncio.sleep(self._conduct.away_s)
        question = self._readers.question
        request = question.resume(self._name, reply.headers.get("x-stream-id", ""), reply.last_id)
        after_id = reply.last_id if question.protocol.counts_on else 0
        connection, rest = await self._connect(request, Reply(question.protocol, after_id, question.word))
        await connection.over
        return connection, rest


def end_of(reply: Reply, *, garbled: bool = False) -> End:
    """What became of a stream whose reader read to the end of the response, or of the connection."""
    if garbled or reply.misnumbered:
        return End.GARBLED
    if reply.status in REFUSALS:
        return End.REFUSED
    if reply.status not in (0, 200):
        return End.REJECTED
    if reply.failed:
        return End.FAILED
    return End.COMPLETE if reply.finished and reply.whole else End.CUT


async def _over(connection: Connection, within_s: float) -> bool:
    """Waits for the end of the response, but no longer than that; tells whether it has ended."""
    if not connection.over.done():
        await asyncio.wait({connection.over}, timeout=within_s)
    return connection.over.done()
