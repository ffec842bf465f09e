"""The way of the frames to whichever reader is there: what `consume()` writes to.

A reader may be lost and another may come while the stream goes on. The frames that a reader lacks wait in the replay;
whoever is attached gets them in order, from the consumer's own task, the only one that writes to a connection. While
no one is attached and the stream is held, delivery waits, the queue fills, and Claude is held still: a lost reader is
one of speed zero. A connection that breaks is released; whoever handles it tells the session, which detaches it here.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from typing import Protocol

from ..answer.events import ClaudeEvent, Delta, DeltaKind
from ..answer.sse import numbered
from ..errors import EndedError, Expired, SluicewayError, TakenOver
from ..wire import WireFormat
from .connection import Connection, Interrupted
from .credits import Credits
from .lifecycle import Lifecycle, ReaderState
from .replay import Replay

# At most this much is written before a drain, so that a replay of megabytes does not lie in memory twice.
# 16 kB is what the sockets hold anyway.
SLICE_BYTES = 16_384


class Frames:
    """One answer in its format, numbered, and kept for as long as a reader may lack it.

    Args:
        wire: the format.
        replay: where the frames wait.
    """

    __slots__ = ("replay", "wire")

    def __init__(self, wire: WireFormat, replay: Replay) -> None:
        self.wire = wire
        self.replay = replay

    def add(self, events: list[ClaudeEvent]) -> None:
        """Takes one batch."""
        self._keep(self.wire.encode(events))

    def end(self, error: SluicewayError | None) -> None:
        """Takes the last event; nothing may follow."""
        self._keep(self.wire.end(error))
        self.replay.ended = True

    def _keep(self, frames: list[bytes]) -> None:
        replay = self.replay
        replay.extend([numbered(frame_id, frame) for frame_id, frame in enumerate(frames, replay.last_id + 1)])

    async def write_some(self, connection: Connection) -> int:
        """Writes what the connection lacks, or the first of it, and drains; returns how many bytes.

        Raises:
            ConnectionError, Interrupted: as the connection does. Expired: what it lacks is no longer kept.
        """
        credits = connection.credits
        room_bytes = SLICE_BYTES if credits is None else min(SLICE_BYTES, credits.room_bytes)
        frames = self.replay.after(connection.sent_id, room_bytes)
        data = b"".join(frames)
        connection.ended = self.replay.ended and connection.sent_id + len(frames) == self.replay.last_id
        await connection.write(data)
        if credits is not None:
            # Each by itself: a page says how far it is within a replay, and hears no more before that is counted.
            for frame_id, frame in enumerate(frames, connection.sent_id + 1):
                credits.sent(frame_id, len(frame))
        connection.sent_id += len(frames)
        self.replay.delivered(connection.sent_id)
        return len(data)

    async def dismiss(self, connection: Connection, error: EndedError) -> None:
        """Tells one reader why it gets no more, whatever the stream does."""
        if not connection.ended:
            await connection.write_last(b"".join(self.wire.end(error)))
        connection.release(error)

    async def write_all(self, connection: Connection) -> None:
        """Writes an ended stream's frames to one connection, from its `sent_id` on, in the caller's task.

        Returns when it has them, or is gone. Cancelling is safe.
        """
        connection.credits = None  # the answer has ended, so the page cannot hold generation any more
        try:
            with contextlib.suppress(ConnectionError):
                while connection.sent_id < self.replay.last_id:
                    await self.write_some(connection)
        except Expired as error:  # the frames were freed for others while this reader was slow
            await self.dismiss(connection, error)


class Told(Protocol):
    """Who is told what was delivered: the stream's page in the books."""

    def delivered(self, chars: dict[DeltaKind, int]) -> None:
        """These many characters reached the reader's connection since the last call."""

    def batch(self, size_bytes: int) -> None:
        """A batch was written and drained."""


class Delivery:
    """Writes an answer's frames to the attached reader.

    Args:
        frames: the answer's.
        lifecycle: says whether to wait for a reader while there is none.
        page: told what was delivered.
        heartbeat_s: seconds between signs of life while a page's credits are used up.
        nudge: wakes the consumer where it waits for events.
    """

    def __init__(
        self, frames: Frames, lifecycle: Lifecycle, page: Told, heartbeat_s: float, nudge: Callable[[], None]
    ) -> None:
        self._frames = frames
        self._replay = frames.replay
        self._lifecycle = lifecycle
        self._page = page
        self._heartbeat_s = heartbeat_s
        self._nudge = nudge
        self._connection: Connection | None = None
        self._leaving: list[Connection] = []  # taken over; the consumer still has to tell them
        self._changed = asyncio.Event()  # set: a reader came, one left, or a page showed more
        self._committed = False  # a status was sent on a connection that is no longer attached
        self._undelivered: dict[DeltaKind, int] = {}  # characters in frames that no reader has had

    @property
    def connection(self) -> Connection | None:
        """The attached reader's."""
        return self._connection

    @property
    def committed(self) -> bool:
        """Whether a status was sent, on this connection or on one before."""
        return self._committed or (self._connection is not None and self._connection.committed)

    def attach(self, connection: Connection) -> None:
        """From now on frames go to `connection`, from its `sent_id` on."""
        assert self._connection is None, "the former one is handed over first"
        self._connection = connection
        self.wake()

    def hand_over(self) -> None:
        """Another reader takes the stream over; the attached one is told so by the consumer, the only one that writes."""
        connection = self._connection
        if connection is not None:
            self._leaving.append(connection)
            self.detach(connection)

    def detach(self, connection: Connection) -> None:
        """The connection is gone. Idempotent; one that is no longer attached changes nothing."""
        if self._connection is connection:
            self._committed = self._committed or connection.committed
            self._connection = None
            connection.interrupt()
            self.wake()

    def release(self, error: SluicewayError | None) -> None:
        """Releases every reader, also one that was not told yet that it was taken over. Idempotent."""
        for connection in (*self._leaving, self._connection):
            if connection is not None:
                connection.release(error)

    def shown(self, frame_id: int, again_s: float = math.inf) -> None:
        """The page has shown everything up to this frame, and speaks again within `again_s` seconds."""
        if self._connection is not None and self._connection.credits is not None:
            self._connection.credits.shown(frame_id, asyncio.get_running_loop().time() + again_s)
            self._changed.set()

    async def send(self, events: list[ClaudeEvent]) -> None:
        """Encodes one batch and delivers it. Cancelling is safe: what is undelivered stays in the replay."""
        for event in events:
            if isinstance(event, Delta):
                self._undelivered[event.kind] = self._undelivered.get(event.kind, 0) + event.chars
        self._frames.add(events)
        await self._deliver()

    async def keep_alive(self) -> None:
        """Writes a sign of life to the attached reader, or whatever that reader still lacks."""
        connection = self._connection
        if connection is not None and connection.sent_id < self._replay.last_id:
            await self._deliver()
            return
        await self._tell_the_leaving()
        if (connection := self._connection) is not None:
            try:
                await connection.write(self._frames.wire.keep_alive)
            except Interrupted:
                await self._deliver()  # a reader that came meanwhile must not wait for the next sign of life
            except ConnectionError:
                await self._lose(connection)

    async def finish(self, error: SluicewayError | None) -> None:
        """Delivers the last event."""
        self._frames.end(error)
        await self._deliver()

    async def _deliver(self) -> None:
        """Returns when the attached reader has everything; while the stream is held, waits for one to come."""
        while True:
            if self._leaving:
                await self._tell_the_leaving()
            connection = self._connection
            if connection is None:
                if self._lifecycle.reader is not ReaderState.HELD:
                    return
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                if connection.sent_id < self._replay.last_id:
                    if connection.credits is not None:
                        await self._credit(connection, connection.credits)
                    self._page.batch(await self._frames.write_some(connection))
                    self._committed = True
                elif connection.committed:
                    break
                else:
                    await connection.write(b"")  # the first event commits the status, even if it makes no frame
            except Interrupted:
                continue
            except ConnectionError:
                await self._lose(connection)
            except Expired as error:  # freed between its arrival and its first frame, which is this reader's loss alone
                await self._frames.dismiss(connection, error)
                await self._lose(connection)
        self._page.delivered(self._undelivered)
        self._undelivered = {}

    async def _lose(self, connection: Connection) -> None:
        """Lets go of a broken connection, and returns when whoever handles it has had it detached."""
        connection.release(None)
        while self._connection is connection:
            self._changed.clear()
            await self._changed.wait()

    async def _credit(self, connection: Connection, credits: Credits) -> None:
        """Waits until the page has shown enough, with signs of life meanwhile."""
        while credits.exhausted and self._connection is connection:
            self._changed.clear()
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await self._changed.wait()
            except TimeoutError:
                await connection.write(self._frames.wire.keep_alive)
        if self._connection is not connection:
            raise Interrupted

    async def _tell_the_leaving(self) -> None:
        while self._leaving:
            connection = self._leaving.pop()
            await self._frames.dismiss(connection, TakenOver("another reader has taken this stream over"))

    def wake(self) -> None:
        """Lets the consumer look again for whom it waits, and for what."""
        self._changed.set()
        self._nudge()
