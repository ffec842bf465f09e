"""A session owns the two tasks of one stream, moves it through its lifecycle, and settles it once, whatever ends it."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from ..answer.events import ClaudeEvent, DeltaKind, End
from ..answer.outcome import Outcome
from ..answer.transcript import Transcript
from ..errors import EndedError, InternalError, SluicewayError
from ..flow.batching import Window
from ..flow.channel import Channel
from ..flow.relay import Pace, Source, consume, produce
from ..money.ledger import Account
from ..telemetry.prometheus import Metrics
from ..wire import WireFormat
from .delivery import Connection, Delivery
from .lifecycle import Action, Happening, Lifecycle, ReaderState, UpstreamState
from .replay import Replay

log = logging.getLogger(__name__)


class Policy(Enum):
    """What happens to a stream whose reader is lost."""

    ABORT = "abort"  # both tasks are cancelled, the connection to Claude is closed at once
    GRACE = "grace"  # it is held still, and can be resumed, for the grace period
    DRAIN = "drain"  # it goes on to its end without a reader, and stays replayable


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """The bounds of every stream; `settings.py` says what each means, in which unit and why."""

    queue_items: int
    queue_bytes: int
    window_s: float
    window_max_s: float
    pace: Pace
    farewell_s: float = 0.5  # what a reader is given to take the typed last event


@dataclass(frozen=True, slots=True)
class Terms:
    """What one stream was asked for with.

    Attributes:
        stream_id: unguessable, told to the reader.
        caller: who asked, as a name that gives no key away; only the same caller may come back.
        model: the model asked for.
        policy: what happens when the reader is lost.
        grace_s: the grace period in seconds, for that policy.
        stop_token: whoever has it may stop the stream.
        name: the caller's own name for it, by which it is found again; empty for none.
        commits_early: silence before Claude's first event is broken by a sign of life, which commits the status.
    """

    stream_id: str
    caller: str
    model: str
    policy: Policy = Policy.ABORT
    grace_s: float = 0.0
    stop_token: str = ""
    name: str = ""
    commits_early: bool = True


def new_stream_id(worker: int = 0) -> str:
    """An id that nobody can guess: 144 random bits, after the number of the worker that has the stream."""
    return f"st{worker}_{secrets.token_urlsafe(18)}"


class Session:
    """One stream, from the request to its settlement.

    Args:
        terms: what it was asked for with.
        source: the answer, not yet asked for.
        wire: the format that its readers read.
        replay: where its frames wait.
        account: its page in the ledger.
        metrics: told of what happens.
        options: its bounds.
        transcript: keeps the answer's text, where it may be counted anew.

    Attributes:
        lifecycle: where it stands.
        channel: the bounded queue between its two tasks.
        delivery: the way to its readers.
        outcome: how it ended; None while it runs. The first one given stands.
    """

    def __init__(
        self,
        terms: Terms,
        source: Source,
        wire: WireFormat,
        replay: Replay,
        account: Account,
        metrics: Metrics,
        options: SessionOptions,
        transcript: Transcript | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.terms = terms
        self.account = account
        self.transcript = transcript
        self.lifecycle = Lifecycle()
        self.channel = Channel(options.queue_items, options.queue_bytes, metrics.paused)
        self.replay = replay
        # Weakly, so that a stream that ended is freed at once, and the collector has next to nothing to do.
        observer = weakref.proxy(self)
        self.delivery = Delivery(wire, replay, observer, options.pace.heartbeat_s, self.channel.nudge)
        self.outcome: Outcome | None = None
        self.began_at = loop.time()
        self.error: SluicewayError | None = None  # failed before anything was sent; the handler's to answer
        self._source = source
        self._metrics = metrics
        self._options = options
        self._pace = options.pace if terms.commits_early else replace(options.pace, commit_s=math.inf)
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        self._producer: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None  # the grace period, or the farewell
        self._lost_by: Outcome | None = None  # set while no reader is attached
        self._closing_since: float | None = None  # when the connection to Claude was told to close
        self._last_batch_at: float | None = None
        self._first_token_due = True

    @property
    def resumable(self) -> bool:
        """Whether a reader may come back."""
        return self.replay.keeps

    @property
    def held(self) -> bool:
        """Whether no reader is attached, and Claude is held still for one to come back."""
        return self.lifecycle.reader is ReaderState.LOST and self.terms.policy is Policy.GRACE

    def start(self, tasks: asyncio.TaskGroup, connection: Connection, on_end: Callable[[Session], None]) -> None:
        """Starts the stream in `tasks`, its owner; `on_end` is called once, when both of its tasks have ended."""
        self.delivery.attach(connection)
        self._task = tasks.create_task(self._run(), name=f"session {self.terms.stream_id}")
        # A callback, not a `finally`: a task that is cancelled before its first step never enters its body.
        self._task.add_done_callback(lambda task: self._ended(task, on_end))

    def attach(self, connection: Connection) -> None:
        """A reader came back, or another one takes over. Raises IllegalEvent if the stream is over."""
        self._happen(Happening.CAME)
        self._lost_by = None
        self._last_batch_at = None  # what the reader was away is no gap between batches
        self.delivery.attach(connection)

    def lost(self, connection: Connection, outcome: Outcome = Outcome.DISCONNECTED) -> None:
        """The reader on this connection is gone. Idempotent; a reader that was taken over changes nothing.

        Args:
            connection: the reader's.
            outcome: what ends the stream, if the policy does not wait: disconnected, stalled or vanished.
        """
        if self.delivery.connection is not connection:
            return
        known = self.delivery.committed  # else nobody has been told the stream's id, and nobody can come back
        self.delivery.detach(connection)
        if self.lifecycle.over:
            return
        policy = self.terms.policy if known and self.resumable else Policy.ABORT
        if policy is Policy.ABORT or self.outcome is not None:
            self._end(Happening.LEFT, outcome)
        else:
            self._lost_by = outcome
            self._happen(Happening.LOST)
            if policy is Policy.DRAIN:
                self.delivery.drain_away()

    def stop(self, outcome: Outcome, error: EndedError) -> None:
        """Ends the stream now; an attached reader gets `error` as its last event. Idempotent."""
        if self.outcome is None and not self.lifecycle.over:
            self._end(Happening.ENDED, outcome, error)

    # What Delivery tells.

    def delivered(self, chars: dict[DeltaKind, int]) -> None:
        """Characters reached the reader's connection."""
        if chars:
            self.account.delivered(**chars)
            if self._first_token_due:
                self._first_token_due = False
                self._metrics.first_token(self._loop.time() - self.began_at)

    def batch(self, size_bytes: int) -> None:
        """A batch was written and drained."""
        now = self._loop.time()
        self._metrics.batch(None if self._last_batch_at is None else now - self._last_batch_at, size_bytes)
        self._last_batch_at = now

    # The two tasks.

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._producer = tasks.create_task(self._produce(), name=f"producer {self.terms.stream_id}")
            # The session's own task is the consumer: one task less a stream.
            if not await self._consume():
                self._producer.cancel()

    async def _produce(self) -> None:
        with self._metrics.upstreams_active.track_inprogress():
            try:
                await produce(self._source, self.channel, self._seen)
            finally:
                if self._closing_since is not None:
                    self._metrics.upstream_closed(self._loop.time() - self._closing_since)

    def _seen(self, event: ClaudeEvent) -> None:
        if self.lifecycle.upstream is UpstreamState.ASKING:
            self._happen(Happening.BEGAN)
        self.account.see(event)
        if self.transcript is not None:
            self.transcript.see(event)

    async def _consume(self) -> bool:
        """Serves the readers; tells whether the whole answer came, so that the producer ends by itself."""
        window = Window(self._options.window_s, self._options.window_max_s)
        try:
            error = await consume(self.channel, window, self.delivery, self._pace)
        except SluicewayError as failure:
            error = self.error = failure.with_traceback(None)
        except Exception:
            log.exception("stream %s: the consumer failed", self.terms.stream_id)
            error = self.error = InternalError("the service failed while it served the answer")
        if error is None:
            self.outcome = self.outcome or self._lost_by or Outcome.COMPLETED
        elif isinstance(error, InternalError):
            self.outcome = self.outcome or Outcome.INTERNAL_ERROR
        elif self.outcome is None:
            self.outcome = Outcome.UPSTREAM_ERROR
            self._metrics.upstream_error(error.type)
        if self.lifecycle.upstream in (UpstreamState.ASKING, UpstreamState.ANSWERING):
            self._happen(Happening.ANSWERED)
        if not self.lifecycle.over:
            self._happen(Happening.SERVED)
        self._let_go()
        return error is None

    def _let_go(self) -> None:
        """The reader has what it will get: its handler may end the response. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        self.delivery.release(self.error)

    # Moving through the lifecycle.

    def _end(self, happening: Happening, outcome: Outcome, error: EndedError | None = None) -> None:
        self.outcome = self.outcome or outcome
        self._closing_since = self._loop.time()
        reader = self.lifecycle.reader
        self._happen(happening)
        if error is None or reader is not ReaderState.ATTACHED:
            self._cancel()
        elif self._producer is not None:
            self._producer.cancel()
            self.channel.end_now(End(error))
            self._timer = self._loop.call_later(self._options.farewell_s, self._give_up)
        else:
            self.error = error
            self._cancel()

    def _happen(self, happening: Happening) -> None:
        for action in self.lifecycle.happen(happening):
            if action is Action.START_GRACE and self.terms.policy is Policy.GRACE:
                self._timer = self._loop.call_later(self.terms.grace_s, self._grace_is_over)
            elif action is Action.CANCEL_GRACE and self._timer is not None:
                self._timer.cancel()

    def _ended(self, task: asyncio.Task[None], on_end: Callable[[Session], None]) -> None:
        self._task = self._producer = None
        try:
            task.exception()
        except asyncio.CancelledError as error:
            # Its frames hold the error itself (TaskGroup's do): a cycle that would keep the whole stream.
            traceback.clear_frames(error.__traceback__)
        self.outcome = self.outcome or Outcome.INTERNAL_ERROR
        self._let_go()
        self.channel.close()
        on_end(self)

    def _grace_is_over(self) -> None:
        self._end(Happening.EXPIRED, Outcome.EXPIRED)

    def _give_up(self) -> None:
        """The reader did not take its last event in time."""
        if self.delivery.connection is not None:
            self.delivery.connection.abort()
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def as_dict(self) -> dict[str, Any]:
        """The stream as the admin port lists it."""
        queue = self.channel.statistics()
        return {
            "id": self.terms.stream_id,
            "model": self.terms.model,
            "reader": self.lifecycle.reader.value,
            "upstream": self.lifecycle.upstream.value,
            "phase": self.account.tally.phase.value,
            "age_s": round(self._loop.time() - self.began_at, 3),
            "paused": self.channel.paused,
            "paused_s": round(queue.paused_s, 3),
            "pauses": queue.pauses,
            "queue_items": queue.items,
            "queue_bytes": queue.size_bytes,
            "queue_peak_bytes": queue.peak_bytes,
            "replay_bytes": self.replay.size_bytes,
            "characters": sum(self.account.tally.chars.values()),
        }

    def __repr__(self) -> str:
        return f"<Session {self.terms.stream_id} {self.lifecycle!r} {self.channel!r}>"
