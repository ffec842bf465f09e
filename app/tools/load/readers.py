"""The readers: one coroutine for each manner, from asking to what became of the stream."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, field

from .connection import LoadConnection, Target, clock
from .figures import Figures, Stream, StreamEnd
from .frontdoor import Gauge
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
        answers_left: how many more answers may be asked for; None: any number.
        running: the streams that run now.
        began: set whenever one of them has its first content.
        vanishes: vanished readers truly acknowledge nothing; False: they only stop reading.
    """

    plan: Plan
    target: Target
    question: Question
    figures: Figures
    timeout_s: float
    answers_left: int | None = None
    running: set[OneStream] = field(default_factory=set)
    began: asyncio.Event = field(default_factory=asyncio.Event)
    vanishes: bool = True
    _run: str = field(default_factory=lambda: secrets.token_hex(4))  # chats of two tests never share a name

    async def read(self, reader: int, visit: int, kind: Kind) -> float | None:
        """One stream of one reader, to its end.

        Cancelling, which is how the test's end cuts it, closes the connection.

        Returns:
            After how many seconds the reader may come again; None: no more answers may be asked for.
        """
        if self.answers_left is not None:
            if not self.answers_left:
                return None
            self.answers_left -= 1
        one = OneStream(self, kind, self.plan.conduct(reader, visit), f"load-{self._run}-{reader}-{visit}")
        self.figures.asked(kind)
        self.running.add(one)
        end = StreamEnd.RUN_OVER  # unless it comes to another one first
        try:
            async with asyncio.timeout(self.timeout_s):
                end = await one.run()
        except TimeoutError:
            end = StreamEnd.TIMED_OUT
        except OSError:
            end = StreamEnd.UNREACHABLE
        finally:
            one.close()
            self.running.discard(one)
            self.figures.ended(kind, end, one.came_to)
        if self.answers_left is not None and not one.came_to.answered and end.is_turned_away:
            self.answers_left += 1  # it cost nothing
        if end is StreamEnd.REFUSED and one.reply is not None:
            told = one.reply.headers.get("retry-after", "")
            return min(float(told) if told.isdigit() else _RETRY_S, _RETRY_MAX_S)
        return _RETRY_S if end in (StreamEnd.UNREACHABLE, StreamEnd.REJECTED) else 0.0


class OneStream:
    """One stream of one reader, over one connection or, resumed, two.

    Attributes:
        kind: the reader's.
        came_to: what is known of it so far.
        reply: the response that it reads, or read last.
        given_up: done when it was held and runs no more; who takes nothing does not hear of it on the connection.
    """

    def __init__(self, readers: Readers, kind: Kind, conduct: Conduct, name: str) -> None:
        self.kind = kind
        self.came_to = Stream()
        self.reply: Reply | None = None
        self.given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readers = readers
        self._conduct = conduct
        self._name = name
        self._asked_at = clock()
        self._last_at: float | None = None  # when content came last, on this connection
        self._began: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # done by the first content
        self._connection: LoadConnection | None = None

    @property
    def stream_id(self) -> str:
        """The service's name for it; empty before the head has come."""
        return "" if self.reply is None else self.reply.headers.get("x-stream-id", "")

    async def run(self) -> StreamEnd:
        """Raises OSError where the service cannot be connected."""
        question = self._readers.question
        connection, reply = await self._connect(
            question.ask(self._name, resumable=self.kind is Kind.RESUMING),
            Reply(question.protocol, word=question.word),
        )
        match self.kind:
            case Kind.FAST:
                await connection.over
            case Kind.SLOW:
                await self._slow(connection)
            case Kind.STALLING:
                stalled = await self._stall(connection)
                end = end_of(reply, garbled=connection.garbled)
                return StreamEnd.STALLED if stalled and end is StreamEnd.CUT else end
            case Kind.LEAVING:
                if await self._leave(connection):
                    return StreamEnd.LEFT
            case Kind.VANISHING:
                if await self._vanish(connection):
                    return StreamEnd.VANISHED
            case Kind.RESUMING:
                connection, reply = await self._resume(connection, reply)
        return end_of(reply, garbled=connection.garbled)

    def close(self) -> None:
        """Closes the connection that is open. Idempotent."""
        if self._connection is not None and self.reply is not None:
            self._connection.leave()
            self.came_to.wire_bytes += self._connection.wire_bytes
            self.came_to.contents += self.reply.contents
            self.came_to.words += self.reply.words
            self.came_to.answered |= self.reply.status == 200
            self.came_to.refusal = self.reply.refusal
            self._connection = None

    def told(self, gauge: Gauge) -> None:
        """The service has said how the stream stands."""
        self.came_to.held_s = max(self.came_to.held_s or 0.0, gauge.held_s)
        if not gauge.runs and self.came_to.held_s and not self.given_up.done():
            # The answer was held because its reader took nothing, so it cannot have ended by itself.
            self.given_up.set_result(None)

    async def _connect(self, request: bytes, reply: Reply) -> tuple[LoadConnection, Reply]:
        small = self.kind not in (Kind.FAST, Kind.RESUMING)
        self.reply = reply
        self._connection = await self._readers.target.connect(request, reply, self._heard, small=small)
        return self._connection, reply

    def _heard(self, _contents: int) -> None:
        now = clock()
        if self._last_at is not None:
            self._readers.figures.gap(self.kind, now - self._last_at)
        elif not self._began.done():
            self._readers.figures.first(self.kind, now - self._asked_at)
            self._began.set_result(None)
            self._readers.began.set()
        self._last_at = now

    async def _slow(self, connection: LoadConnection) -> None:
        """From the first content on: what it waits for until then is the service's own time."""
        await asyncio.wait({self._began, connection.over}, return_when=asyncio.FIRST_COMPLETED)
        step_bytes = max(1, round(self._readers.plan.slow_bytes_per_s * _TICK_S))
        connection.allow(step_bytes)
        while not await _over(connection, step_bytes / self._readers.plan.slow_bytes_per_s):
            connection.allow(step_bytes)

    async def _stall(self, connection: LoadConnection) -> bool:
        """Tells whether it took nothing for a while, before the answer was over.

        Not before the answer has begun: else nothing would say which stream is its own.
        """
        if await _over(connection, self._conduct.turn_s):
            return False
        await asyncio.wait({self._began, connection.over}, return_when=asyncio.FIRST_COMPLETED)
        if connection.over.done():
            return False
        connection.allow(0)
        ends = {connection.over, self.given_up}
        await asyncio.wait(ends, timeout=self._readers.plan.stall_s, return_when=asyncio.FIRST_COMPLETED)
        connection.allow(None)
        await connection.over
        return True

    async def _leave(self, connection: LoadConnection) -> bool:
        """Tells whether it left before the answer was over."""
        before = self._conduct.phase is Phase.BEFORE_FIRST
        if await _over(connection, self._conduct.turn_s * (0.1 if before else 1.0)):
            return False
        if self._conduct.phase is Phase.BLOCKED:
            connection.allow(0)
            await asyncio.sleep(self._conduct.blocked_s)
        connection.leave(resets=self._conduct.resets)
        return True

    async def _vanish(self, connection: LoadConnection) -> bool:
        if await _over(connection, self._conduct.turn_s):
            return False
        self._readers.vanishes = connection.vanish() and self._readers.vanishes
        await asyncio.sleep(self._readers.plan.vanish_s)
        return True

    async def _resume(self, connection: LoadConnection, reply: Reply) -> tuple[LoadConnection, Reply]:
        await asyncio.wait({self._began, connection.over}, return_when=asyncio.FIRST_COMPLETED)
        if reply.headers.get("x-resumable") == "false" or await _over(connection, self._conduct.turn_s):
            await connection.over
            return connection, reply
        self.close()
        self.came_to.was_away = True
        self._last_at = None  # the time away is no gap
        await asyncio.sleep(self._conduct.away_s)
        question = self._readers.question
        request = question.resume(self._name, reply.headers.get("x-stream-id", ""), reply.last_id)
        after_id = reply.last_id if question.protocol.counts_on else 0
        connection, rest = await self._connect(request, Reply(question.protocol, after_id, question.word))
        await connection.over
        return connection, rest


def end_of(reply: Reply, *, garbled: bool = False) -> StreamEnd:
    """What became of a stream whose reader read to the end of the response, or of the connection."""
    if garbled or reply.misnumbered:
        return StreamEnd.GARBLED
    if reply.status in REFUSALS:
        return StreamEnd.REFUSED
    if reply.status not in (0, 200):
        return StreamEnd.REJECTED
    if reply.failed:
        return StreamEnd.FAILED
    return StreamEnd.FINISHED if reply.finished and reply.whole else StreamEnd.CUT


async def _over(connection: LoadConnection, within_s: float) -> bool:
    """Waits for the end of the response, but no longer than that; tells whether it has ended."""
    if not connection.over.done():
        await asyncio.wait({connection.over}, timeout=within_s)
    return connection.over.done()
