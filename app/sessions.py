"""The sessions: each owns the two tasks of one stream, and settles it once, whatever ends it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from app.batching import Window
from app.channel import Channel
from app.errors import InternalError, SluicewayError
from app.outcome import Outcome
from app.relay import Pace, Reader, Source, consume, produce
from app.tally import Tally

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """The bounds of one stream; `settings.py` says what each means, in which unit and why."""

    queue_items: int
    queue_bytes: int
    window_s: float
    window_max_s: float
    pace: Pace


def new_stream_id() -> str:
    """An id that nobody can guess: 144 random bits."""
    return f"st_{secrets.token_urlsafe(18)}"


class Session:
    """One stream, from the request to its settlement.

    Attributes:
        id: unguessable, told to the reader as `X-Stream-Id`.
        channel: the bounded queue between the two tasks.
        tally: what has arrived from Claude.
        outcome: how it ended; None while it runs. The first one given stands.
    """

    def __init__(self, stream_id: str, source: Source, reader: Reader, options: SessionOptions, model: str) -> None:
        self.id = stream_id
        self.model = model
        self.channel = Channel(options.queue_items, options.queue_bytes)
        self.tally = Tally()
        self.outcome: Outcome | None = None
        self.began_at = asyncio.get_running_loop().time()
        self._source = source
        self._reader = reader
        self._options = options
        self._task: asyncio.Task[None] | None = None
        self._served: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self, tasks: asyncio.TaskGroup, on_end: Callable[[Session], None]) -> None:
        """Starts the stream in `tasks`, its owner; `on_end` is called once, when both of its tasks have ended."""
        self._task = tasks.create_task(self._run(), name=f"session {self.id}")
        # A callback, not a `finally`: a task that is cancelled before its first step never enters its body.
        self._task.add_done_callback(lambda _task: self._ended(on_end))

    async def served(self) -> None:
        """Returns when the reader has been served to the end, or has been lost.

        Raises:
            SluicewayError: the answer failed before anything was sent. Cancelling is safe, and stops nothing.
        """
        await asyncio.shield(self._served)

    def stop(self, outcome: Outcome) -> None:
        """Ends the stream now: cancels both tasks, which closes the connection to Claude. Idempotent."""
        if self.outcome is None:
            self.outcome = outcome
            if self._task is not None:
                self._task.cancel()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            producer = tasks.create_task(
                produce(self._source, self.channel, self.tally.see), name=f"producer {self.id}"
            )
            # The session's own task is the consumer: one task less a stream.
            if not await self._consume():
                producer.cancel()

    async def _consume(self) -> bool:
        """Serves the reader; tells whether the whole answer was delivered."""
        window = Window(self._options.window_s, self._options.window_max_s)
        try:
            error = await consume(self.channel, window, self._reader, self._options.pace)
        except ConnectionError:
            self._served_with(Outcome.DISCONNECTED)
        except SluicewayError as failure:
            self._served_with(Outcome.UPSTREAM_ERROR, failure)
        except Exception:
            log.exception("stream %s: the consumer failed", self.id)
            self._served_with(Outcome.INTERNAL_ERROR, InternalError("the service failed while it served the answer"))
        else:
            self._served_with(Outcome.COMPLETED if error is None else Outcome.UPSTREAM_ERROR)
            return error is None
        return False

    def _served_with(self, outcome: Outcome, error: SluicewayError | None = None) -> None:
        self.outcome = self.outcome or outcome
        if not self._served.done():
            if error is None or self._reader.committed:
                self._served.set_result(None)
            else:
                self._served.set_exception(error)
                self._served.exception()  # a handler that is gone will not ask for it

    def _ended(self, on_end: Callable[[Session], None]) -> None:
        self._served_with(Outcome.INTERNAL_ERROR)
        on_end(self)

    def as_dict(self) -> dict[str, Any]:
        """The stream as the admin port lists it."""
        queue = self.channel.statistics()
        return {
            "id": self.id,
            "model": self.tally.model or self.model,
            "phase": self.tally.phase.value,
            "age_s": round(asyncio.get_running_loop().time() - self.began_at, 3),
            "paused": self.channel.paused,
            "paused_s": round(queue.paused_s, 3),
            "pauses": queue.pauses,
            "queue_items": queue.items,
            "queue_bytes": queue.size_bytes,
            "queue_peak_bytes": queue.peak_bytes,
            "characters": sum(self.tally.chars.values()),
        }

    def __repr__(self) -> str:
        state = self.outcome.value if self.outcome else self.tally.phase.value
        return f"<Session {self.id} {state} {self.channel!r}>"


class Sessions:
    """All streams of this process: starts them, knows the live ones, and ends what is left at its exit.

    Use as an async context manager.

    Args:
        options: the bounds of every stream.
    """

    def __init__(self, options: SessionOptions) -> None:
        self._options = options
        self._tasks = asyncio.TaskGroup()
        self._closing = False
        self.live: dict[str, Session] = {}

    async def __aenter__(self) -> Sessions:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        for session in list(self.live.values()):
            session.stop(Outcome.SHUTDOWN)
        await self._tasks.__aexit__(kind, error, trace)

    @property
    def accepting(self) -> bool:
        """Whether new streams are taken; False once the service is shutting down."""
        return not self._closing

    def start(self, stream_id: str, source: Source, reader: Reader, model: str) -> Session:
        """Starts a stream from `source` to `reader`."""
        session = Session(stream_id, source, reader, self._options, model)
        self.live[session.id] = session
        session.start(self._tasks, self._ended)
        return session

    def _ended(self, session: Session) -> None:
        del self.live[session.id]
        tally, queue = session.tally, session.channel.statistics()
        log.info(
            "stream %s ended: %s in %s after %.2f s; model %s, %d characters, queue peak %d bytes, %d pauses",
            session.id,
            session.outcome.value if session.outcome else "unknown",
            tally.phase.value,
            asyncio.get_running_loop().time() - session.began_at,
            tally.model or session.model,
            sum(tally.chars.values()),
            queue.peak_bytes,
            queue.pauses,
        )
