"""A session owns the two tasks of one stream and does what its lifecycle's table says; it ends once, whatever ends it."""

from __future__ import annotations

import asyncio
import logging
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, assert_never

from ..answer.events import ClaudeEvent, End
from ..answer.outcome import Outcome
from ..errors import EndedError, InternalError, SluicewayError
from ..flow.batching import Window
from ..flow.channel import Channel
from ..flow.relay import Source, consume, produce
from ..settings.sections import StreamBounds
from .books import Page
from .connection import Connection
from .delivery import Delivery, Frames
from .lifecycle import Action, Lifecycle, LifecycleEvent, ReaderState, UpstreamState
from .replay import Replay
from .terms import Policy, Terms

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a stream was asked for.

    Attributes:
        source: the answer, not yet asked of Claude.
        frames: the answer in the format that its readers read.
    """

    source: Source
    frames: Frames


class Session:
    """One stream, from the request to its settlement.

    Args:
        terms: what it was asked for with.
        asked: the answer, and its format.
        page: its page in the books.
        bounds: of its buffers and times.

    Attributes:
        lifecycle: where it stands.
        channel: the bounded queue between its two tasks.
        delivery: the way to its readers.
        outcome: how it ended; None while it runs. The first one given stands.
        error: it failed before anything was sent; the handler's to answer.
        failure: with which it ended for its readers, whether they could be told or not; None for none.
    """

    def __init__(self, terms: Terms, asked: Asked, page: Page, bounds: StreamBounds) -> None:
        self.terms = terms
        self.asked = asked
        self.page = page
        self.lifecycle = Lifecycle()
        self.channel = Channel(bounds.queue_items, bounds.queue_bytes, page.paused)
        self.delivery = Delivery(asked.frames, self.lifecycle, page, bounds.heartbeat_s, self.channel.nudge)
        self.outcome: Outcome | None = None
        self.error: SluicewayError | None = None
        self.failure: SluicewayError | None = None
        self._bounds = bounds if terms.commits_early else replace(bounds, commit_s=math.inf)
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None  # set while it runs
        self._producer: asyncio.Task[None] | None = None  # set once the session's task has begun
        self._timer: asyncio.TimerHandle | None = None  # of the grace period, or of the farewell
        self._grace_ends_at = 0.0  # kept beside the timer: uvloop's handle of a time that is due does not tell when
        self._lost_by: Outcome | None = None  # what became of the reader, while there is none

    @property
    def replay(self) -> Replay:
        """Where its frames wait."""
        return self.asked.frames.replay

    @property
    def held_until(self) -> float | None:
        """Until when nobody reads it and someone is waited for, in loop time; None where that is not so."""
        return self._grace_ends_at if self.lifecycle.reader is ReaderState.HELD else None

    def start(self, tasks: asyncio.TaskGroup, connection: Connection, on_end: Callable[[Session], None]) -> None:
        """Starts the stream in `tasks`, its owner; `on_end` is called once, when both of its tasks have ended."""
        self.delivery.attach(connection)
        self._task = tasks.create_task(self._run(), name=f"session {self.terms.stream_id}")
        # This is a callback and no `finally`, because a task that is cancelled before its first step never enters its
        # body.
        self._task.add_done_callback(lambda task: self._ended(task, on_end))

    def attach(self, connection: Connection) -> None:
        """A reader came back, or another one takes over. Raises IllegalEvent if the stream is over."""
        self._process(LifecycleEvent.CAME)
        self._lost_by = None
        self.page.reader_changed()
        self.delivery.attach(connection)

    def lost(self, connection: Connection, outcome: Outcome = Outcome.DISCONNECTED) -> None:
        """The reader on this connection is gone. Idempotent; a reader that was taken over changes nothing.

        Args:
            connection: the reader's.
            outcome: what ends the stream, if the policy does not wait: disconnected, stalled or vanished.
        """
        if self.delivery.connection is not connection:
            return
        # A reader can come back only by an id that was sent with the status, or by the caller's own name for the
        # stream.
        known = self.delivery.committed or bool(self.terms.name)
        self.delivery.detach(connection)
        if self.lifecycle.over:
            return
        match self.terms.policy if known and self.replay.keeps else Policy.ABORT:
            case Policy.ABORT:
                self._end(LifecycleEvent.LEFT, outcome)
            case Policy.GRACE:
                self._lost_by = outcome
                self._process(LifecycleEvent.LOST)
            case Policy.DRAIN:
                self._lost_by = outcome
                self._process(LifecycleEvent.LEFT_ALONE)

    def stop(self, outcome: Outcome, error: EndedError) -> None:
        """Ends the stream now with `error` as its last event, for an attached reader or for one who comes back. Idempotent.

        Without a reader what waits in the queue is kept before it, and where that is the rest of the answer, it ends as such.
        """
        if not self.lifecycle.over and self.lifecycle.reader is not ReaderState.ENDING:
            self._end(LifecycleEvent.ENDED, outcome, error)

    def fenced(self, error: EndedError) -> None:
        """Others have ended the stream, and tell how to whoever comes; an attached reader gets `error`. Idempotent.

        Without a reader nothing is kept here: it would be more than others have told.
        """
        if self.lifecycle.reader in (ReaderState.HELD, ReaderState.DRAINING):
            self._end(LifecycleEvent.EXPIRED, Outcome.FENCED)
        else:
            self.stop(Outcome.FENCED, error)

    # The two tasks.

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                self._producer = tasks.create_task(self._produce(), name=f"producer {self.terms.stream_id}")
                # The session's own task is the consumer, which saves one task a stream.
                await self._consume()
        except Exception:
            # This is a defect of ours in how a task ends. It must end this stream alone, and not the group that owns
            # it.
            log.exception("stream %s failed", self.terms.stream_id)

    async def _produce(self) -> None:
        with self.page.upstream_open():
            await produce(self.asked.source, self.channel, self._seen)
        if self.lifecycle.running:
            self._process(LifecycleEvent.ANSWERED)

    def _seen(self, event: ClaudeEvent) -> None:
        if self.lifecycle.upstream is UpstreamState.ASKING:
            self._process(LifecycleEvent.BEGAN)
        self.page.see(event)

    async def _consume(self) -> None:
        """Serves the readers to the answer's end, and tells them even of a failure of our own."""
        window = Window(self._bounds.window_s, self._bounds.window_max_s)
        while True:
            try:
                error = await consume(self.channel, window, self.delivery, self._bounds)
            except SluicewayError as failure:
                error = self.error = failure.with_traceback(None)
            except Exception:
                log.exception("stream %s: the consumer failed", self.terms.stream_id)
                failed = InternalError("the service failed while it served the answer")
                self.channel.drop()  # it would follow on a hole
                if self.lifecycle.reader is not ReaderState.ENDING:  # else it failed while it told the reader just that
                    self._end(LifecycleEvent.ENDED, Outcome.INTERNAL_ERROR, failed)
                    continue
                error = self.error = failed
            break
        self.failure = error
        if error is None:
            self.outcome = self.outcome or self._lost_by or Outcome.COMPLETED
        else:
            self.outcome = self.outcome or self.page.failed(error)
        if not self.lifecycle.over:
            self._process(LifecycleEvent.SERVED)
        self.delivery.release(self.error)

    # Moving through the lifecycle.

    def _end(self, event: LifecycleEvent, outcome: Outcome, error: SluicewayError | None = None) -> None:
        self.outcome = self.outcome or outcome
        self._process(event, error)

    def _process(self, event: LifecycleEvent, error: SluicewayError | None = None) -> None:
        """Moves the lifecycle, and does what its table says; `error` is the last event, where one is to be told."""
        for action in self.lifecycle.process(event):
            match action:
                case Action.TAKE_OVER:
                    self.delivery.hand_over()
                case Action.START_GRACE:
                    self._grace_ends_at = self._loop.time() + self.terms.grace_s
                    self._timer = self._loop.call_at(self._grace_ends_at, self._time_is_over)
                case Action.STOP_TIMER:
                    if self._timer is not None:
                        self._timer.cancel()
                case Action.TELL_END:
                    self.channel.drop()
                    self._tell_end(error)
                case Action.KEEP_END:
                    self._tell_end(error)
                case Action.CUT_OFF:
                    if self.delivery.connection is not None:
                        self.delivery.connection.abort()
                case Action.CANCEL:
                    self._cancel()
                case Action.CLOSE_UPSTREAM:
                    self.page.closing()
                    if self._producer is not None:
                        self._producer.cancel()
                case _:
                    assert_never(action)

    def _tell_end(self, error: SluicewayError | None) -> None:
        self.failure = error
        if self._producer is None:  # the tasks have not begun, so nothing was sent
            self.error = error
            self._cancel()
            return
        self.channel.end_now(End(error))
        self.delivery.wake()
        self._timer = self._loop.call_later(self._bounds.farewell_s, self._time_is_over)

    def _time_is_over(self) -> None:
        self._end(LifecycleEvent.EXPIRED, Outcome.EXPIRED)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _ended(self, task: asyncio.Task[None], on_end: Callable[[Session], None]) -> None:
        self._task = self._producer = None
        try:
            task.exception()
        except asyncio.CancelledError as error:
            # TaskGroup's frames hold the error itself: without this, that cycle would keep the whole stream in memory.
            traceback.clear_frames(error.__traceback__)
        self.outcome = self.outcome or Outcome.INTERNAL_ERROR
        if self._timer is not None:
            self._timer.cancel()
        self._keep_end()
        self.delivery.release(self.error)
        self.channel.close()
        on_end(self)

    def _keep_end(self) -> None:
        """Who comes back reads why it ended, also where the consumer could not get so far: its reader took nothing."""
        answered = self.delivery.connection is not None and not self.delivery.committed  # by the status
        if self.failure is None or answered or self.replay.ended or not self.replay.keeps:
            return
        try:
            self.asked.frames.end(self.failure)
        except Exception:
            log.exception("stream %s: its end could not be kept", self.terms.stream_id)

    def as_dict(self) -> dict[str, Any]:
        """The stream as the admin port lists it."""
        queue, tally = self.channel.statistics(), self.page.account.tally
        return {
            "id": self.terms.stream_id,
            "model": self.terms.model,
            "reader": self.lifecycle.reader.value,
            "upstream": self.lifecycle.upstream.value,
            "phase": tally.phase.value,
            "age_s": round(self._loop.time() - self.page.account.opened_at, 3),
            "paused": self.channel.paused,
            "paused_s": round(queue.paused_s, 3),
            "pauses": queue.pauses,
            "queue_items": queue.items,
            "queue_bytes": queue.size_bytes,
            "queue_peak_bytes": queue.peak_bytes,
            "replay_bytes": self.replay.size_bytes,
            "characters": sum(tally.chars.values()),
        }

    def __repr__(self) -> str:
        return f"<Session {self.terms.stream_id} {self.lifecycle!r} {self.channel!r}>"
