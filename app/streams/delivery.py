"""The way of the frames to whichever reader is there: what `consume()` writes to.

A reader may be lost and another may come while the stream goes on. The frames that a reader lacks wait in the replay;
whoever is attached gets them in order, from the consumer's own task, the only one that writes to a connection. While
no one is attached, delivery waits, the queue fills, and Claude is held still: a lost reader is one of speed zero.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

from ..answer.events import ClaudeEvent, Delta, DeltaKind
from ..answer.sse import numbered
from ..errors import EndedError, Expired, SluicewayError, TakenOver
from ..wire import WireFormat
from .credits import Credits
from .liveness import Finding
from .replay import Replay

# The most that is written at once before draining: a replay must not lie in memory twice.
SLICE_BYTES = 16_384


class Interrupted(Exception):
    """A write was broken off because the connection is no longer the stream's reader."""


class Connection(Protocol):
    """One reader's connection.

    Attributes:
        sent_id: the last frame that was written and drained.
        credits: how far to run ahead of what its page shows; None where it did not ask.
        committed: its status was sent.
        ended: the answer's last event was handed to it, drained or not: nothing may follow.
    """

    sent_id: int
    ended: bool
    credits: Credits | None

    @property
    def committed(self) -> bool: ...

    async def write(self, data: bytes) -> None:
        """Sends the status if need be, writes, and drains. Raises ConnectionError, or Interrupted."""

    def interrupt(self) -> None:
        """Breaks off a write that is waiting."""

    async def write_last(self, data: bytes) -> None:
        """Writes without waiting for anyone; nothing may follow. Does nothing where the connection is broken."""

    def look(self, now: float) -> Finding | None:
        """Whether the reader still takes anything, at loop time `now`."""

    @property
    def stuck(self) -> bool:
        """Whether something has waited for the reader, and nothing moved, since the look before the last."""

    def abort(self) -> None:
        """Ends the connection at once, whatever waits in it."""

    def release(self, error: SluicewayError | None) -> None:
        """The stream has no more for this connection: its handler may end the response. Idempotent.

        Args:
            error: what to answer with, where no status was sent yet.
        """


class Observer(Protocol):
    """Who is told what was delivered; the metrics and the ledger behind it."""

    def lost(self, connection: Connection) -> None:
        """The connection broke in a write, or its reader lacks what is no longer kept."""

    def delivered(self, chars: dict[DeltaKind, int]) -> None:
        """These many characters reached the reader's connection since the last call."""

    def batch(self, size_bytes: int) -> None:
        """A batch was written and drained."""


class Delivery:
    """Numbers the frames, keeps what must be kept, and writes to the attached reader.

    Args:
        wire: the format.
        replay: where frames wait.
        observer: told of what happens.
        heartbeat_s: seconds between signs of life while a page's credits are used up.
        nudge: wakes the consumer where it waits for events.
    """

    def __init__(
        self, wire: WireFormat, replay: Replay, observer: Observer, heartbeat_s: float, nudge: Callable[[], None]
    ) -> None:
        self._wire = wire
        self._replay = replay
        self._observer = observer
        self._heartbeat_s = heartbeat_s
        self._nudge = nudge
        self._connection: Connection | None = None
        self._leaving: list[Connection] = []  # taken over; the consumer still has to tell them
        self._changed = asyncio.Event()  # set: a reader came, one left, or a page showed more
        self._holds = True
        self._committed = False
        self._undelivered: dict[DeltaKind, int] = {}
        self.finished = False  # the last frame is in the replay

    @property
    def connection(self) -> Connection | None:
        """The attached reader's."""
        return self._connection

    @property
    def committed(self) -> bool:
        """Whether a status was sent, on this connection or on one before."""
        return self._committed or (self._connection is not None and self._connection.committed)

    def attach(self, connection: Connection) -> None:
        """From now on frames go to `connection`, from its `sent_id` on; a former one is told that it was taken over."""
        if self._connection is not None:
            self._committed = self.committed
            self._leaving.append(self._connection)
            self._connection.interrupt()
        self._connection = connection
        self._wake()

    def detach(self, connection: Connection) -> None:
        """The connection is gone. Idempotent; one that is no longer attached changes nothing."""
        if self._connection is connection:
            self._committed = self._committed or connection.committed
            self._connection = None
            connection.interrupt()
            self._wake()

    def release(self, error: SluicewayError | None) -> None:
        """Nothing more comes for any reader, be it one that was not told yet that it was taken over. Idempotent."""
        for connection in (*self._leaving, self._connection):
            if connection is not None:
                connection.release(error)

    def drain_away(self) -> None:
        """While no one is attached, nothing waits any more: the answer goes into the replay to its end."""
        self._holds = False
        self._wake()

    def shown(self, frame_id: int) -> None:
        """The page has shown everything up to this frame."""
        if self._connection is not None and self._connection.credits is not None:
            self._connection.credits.shown(frame_id)
            self._changed.set()

    async def send(self, events: list[ClaudeEvent]) -> None:
        """Encodes one batch and delivers it. Cancelling is safe: what is undelivered stays in the replay."""
        for event in events:
            if isinstance(event, Delta):
                self._undelivered[event.kind] = self._undelivered.get(event.kind, 0) + len(event.text)
        self._keep(self._wire.encode(events))
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
                await connection.write(self._wire.keep_alive)
            except Interrupted:
                await self._deliver()  # whoever came meanwhile is not to wait for the next sign of life
            except ConnectionError:
                self._observer.lost(connection)

    async def finish(self, error: SluicewayError | None) -> None:
        """Delivers the last event."""
        self._keep(self._wire.end(error))
        self.finished = True
        await self._deliver(farewell=isinstance(error, EndedError))

    async def replay_to(self, connection: Connection) -> None:
        """Writes a finished stream's kept frames to one connection, from its `sent_id` on, in the caller's task.

        Returns when it has them, or is gone.
        """
        connection.credits = None  # nothing is generated any more that the page could hold
        try:
            with contextlib.suppress(ConnectionError):
                while connection.sent_id < self._replay.last_id:
                    await self._write_some(connection)
        except Expired as error:  # freed for others while this reader took its time
            await self._dismiss(connection, error)

    def _keep(self, frames: list[bytes]) -> None:
        self._replay.extend(
            [numbered(frame_id, frame) for frame_id, frame in enumerate(frames, self._replay.last_id + 1)]
        )

    async def _deliver(self, *, farewell: bool = False) -> None:
        """Returns when the attached reader has everything; waits for one to come, if the policy does."""
        while True:
            if self._leaving:
                await self._tell_the_leaving()
            connection = self._connection
            if connection is None:
                if farewell or not self._holds:
                    return
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                if connection.sent_id < self._replay.last_id:
                    if connection.credits is not None:
                        await self._credit(connection, connection.credits)
                    self._observer.batch(await self._write_some(connection))
                    self._committed = True
                elif connection.committed:
                    break
                else:
                    await connection.write(b"")  # the first event commits the status, frame or not
            except Interrupted:
                continue
            except ConnectionError:
                self._observer.lost(connection)
            except Expired as error:  # freed between its coming and its first frame: this reader's loss alone
                await self._dismiss(connection, error)
                self._observer.lost(connection)
        self._observer.delivered(self._undelivered)
        self._undelivered = {}

    async def _write_some(self, connection: Connection) -> int:
        """Writes what the connection lacks, or the first of it; returns how many bytes. Raises Expired too."""
        frames = self._replay.after(connection.sent_id, SLICE_BYTES)
        data = b"".join(frames)
        connection.ended = self.finished and connection.sent_id + len(frames) == self._replay.last_id
        await connection.write(data)
        connection.sent_id += len(frames)
        if connection.credits is not None:
            connection.credits.sent(connection.sent_id, len(data))
        self._replay.delivered(connection.sent_id)
        return len(data)

    async def _credit(self, connection: Connection, credits: Credits) -> None:
        """Waits until the page has shown enough, with signs of life meanwhile."""
        while credits.exhausted and self._connection is connection:
            self._changed.clear()
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await self._changed.wait()
            except TimeoutError:
                await connection.write(self._wire.keep_alive)
        if self._connection is not connection:
            raise Interrupted

    async def _tell_the_leaving(self) -> None:
        while self._leaving:
            connection = self._leaving.pop()
            await self._dismiss(connection, TakenOver("another reader has taken this stream over"))

    async def _dismiss(self, connection: Connection, error: EndedError) -> None:
        """Tells one reader why it gets no more, while the stream goes on."""
        if not connection.ended:
            await connection.write_last(b"".join(self._wire.end(error)))
        connection.release(error)

    def _wake(self) -> None:
        self._changed.set()
        self._nudge()
