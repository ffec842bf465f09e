"""The heart: a producer, a bounded queue, a consumer. Read this file first.

`produce()` pulls Claude's events into a `Channel`; `consume()` takes them out, coalesces what falls into one time
window, and hands the batch to the reader, who drains before more is taken. Only two things travel against the
stream, and neither is a call: *pressure* (a full channel makes `put` wait, so the source is not read, its socket's
window closes and Claude's side stops sending) and *cancellation* (whoever owns the two tasks cancels both).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from ..answer.events import ClaudeEvent, Delta, End
from ..errors import InternalError, SluicewayError
from ..settings.sections import Pace
from .batching import Batch, Window
from .channel import Channel

log = logging.getLogger(__name__)


class Source(Protocol):
    """Where the producer reads: one answer on its way."""

    @property
    def request_id(self) -> str | None:
        """Claude's id for the request, once it has begun."""

    async def open(self) -> None:
        """Asks for the answer and returns when it has begun. Raises SluicewayError."""

    async def read(self) -> list[ClaudeEvent]:
        """The next events; none at the end. Raises SluicewayError. Cancelling loses what was being read."""

    async def close(self) -> list[ClaudeEvent]:
        """Ends it, at once if it is unfinished, and returns the events that had arrived unread. Idempotent."""


class Reader(Protocol):
    """Where the consumer writes: the reader's connection, in some wire format."""

    @property
    def committed(self) -> bool:
        """Whether a status was sent, so that an error can only be the last event."""

    async def send(self, events: list[ClaudeEvent]) -> None:
        """Writes one batch and drains. Raises ConnectionError if the reader is gone."""

    async def keep_alive(self) -> None:
        """Writes a sign of life and drains. Raises ConnectionError if the reader is gone."""

    async def finish(self, error: SluicewayError | None) -> None:
        """Writes the last event and drains. Raises ConnectionError if the reader is gone."""


async def produce(source: Source, channel: Channel, seen: Callable[[ClaudeEvent], None]) -> None:
    """Pulls the answer into the channel, waiting wherever that is full; the last item is an `End`.

    Args:
        source: one answer, not yet asked for.
        channel: where the events go; its only producer.
        seen: told of each event once, as it arrives, also of those that a cancellation leaves unread.

    Cancelling is safe at any await: the source is closed, and what had arrived by then is still told to `seen`.
    """
    error: SluicewayError | None = None
    try:
        try:
            await source.open()
            while events := await source.read():
                for event in events:
                    seen(event)
                for event in events:
                    await channel.put(event)
        except SluicewayError as failure:
            error = failure.with_traceback(None)  # kept as a value: its frames would hold the stream in a cycle
        except Exception:
            log.exception("the producer failed")
            error = InternalError("the service failed while it read the answer")
        if error is not None:
            # Closed before the End finds room, which may take the reader long: what Claude sends meanwhile is paid for.
            await _close(source, seen)
        await channel.put(End(error))
    finally:
        await _close(source, seen)


async def _close(source: Source, seen: Callable[[ClaudeEvent], None]) -> None:
    try:
        for event in await source.close():
            seen(event)
    except Exception:
        # The count now lacks something, but the reader must still get its last event.
        log.exception("the producer failed in closing its source")


async def consume(channel: Channel, window: Window, reader: Reader, pace: Pace) -> SluicewayError | None:
    """Takes events out of the channel and sends them to the reader in batches, until the answer's end.

    The first batch goes at once, the following ones a window apart, and each is drained before more is taken from
    the channel. It is the connection's only writer, so the heartbeat is its own timeout.

    Args:
        channel: where the events come from; its only consumer.
        window: says when a batch is due.
        reader: where they go.
        pace: the size of a batch, and the signs of life.

    Returns:
        What ended the answer early, and was told to the reader as its last event; None after a whole one.

    Raises:
        SluicewayError: the answer failed before anything was sent; the status is the caller's to set.
        ConnectionError: the reader is gone.

    Cancelling is safe at any await; what was taken and not sent is lost with the stream.
    """
    clock = asyncio.get_running_loop().time
    batch = Batch()
    sent_at = clock()
    while True:
        item = await channel.get_before(sent_at + (pace.heartbeat_s if reader.committed else pace.commit_s))
        if item is None:
            await reader.keep_alive()
            sent_at = clock()
            continue
        while item is not None and not isinstance(item, End):
            batch.add(item)
            item = await channel.get_before(window.due_at) if batch.size_bytes < pace.batch_bytes else None
        ended = isinstance(item, End)
        if events := batch.take(everything=ended):
            began = clock()
            await reader.send(events)
            sent_at = clock()
            # Only text opens a window, because the start of the message must not hold the first word back.
            if Delta in map(type, events):
                window.sent(began, sent_at)
        if isinstance(item, End):
            if item.error and not reader.committed:
                raise item.error
            await reader.finish(item.error)
            return item.error
