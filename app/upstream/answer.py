"""One streamed answer, whose bytes are read here, at our own pace.

1. The SDK's models are not used, because building them costs five times as much as reading the bytes (measured).
2. The socket rests until the next `read()` (`resting_socket.py`), which comes after a pause, so that one wake-up takes
   all that came (`pacing.py`), or at once where Claude is fast. Whoever does not read holds Claude still.
3. The SDK retries nothing (its `retry-after` has no bound), no socket timeout runs (it would fire while we pause), and
   an abort aborts the transport.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from typing import Protocol

import httpx2

from ..answer.decoding import EventDecoder
from ..answer.events import ClaudeEvent, Delta
from ..answer.refusals import MOST_BODY_BYTES, came_with, no_stream
from ..answer.sse import begins_stream
from ..errors import SluicewayError, UpstreamCut, UpstreamError, UpstreamTimeout
from ..settings.sections import RetryRule, UpstreamOptions
from .exchange import Body
from .pacing import Pacer, ReadPace
from .retry import retry_delay_s

# At most this much is taken from the socket at once: what comes in a window at 140 tokens/s. A faster stream is read
# several times a window. What a read brings waits beside a full queue, so a larger read would mean more tokens generated
# in vain when the reader stalls.
_READ_BYTES = 2048
# How long a whole answer's connection may take to end its body, so that it can be used again, in seconds.
_TAIL_S = 1.0


class Upstream(Protocol):
    """What all answers share: `Claude`."""

    options: UpstreamOptions
    window_s: float
    pacer: Pacer
    on_retry: Callable[[], None]

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> httpx2.Response: ...

    def hide(self, said: bytes) -> bytes: ...

    def failed(self, what: str, error: SluicewayError, level: int) -> None: ...


class Answer:
    """One streamed answer: the producer's source.

    Args:
        claude: what all answers share.
        path: below the base URL, with its query.
        asked: the Messages API's request, in JSON.
        headers: all that goes up beside the key.
        retry: when it is asked for again.

    Attributes:
        request_id: Claude's id for the request, once it has begun.
        headers: the response's headers, once it has begun.
    """

    def __init__(self, claude: Upstream, path: str, asked: bytes, headers: Mapping[str, str], retry: RetryRule) -> None:
        self._claude = claude
        self._options = claude.options
        self._retry = retry
        self._loop = asyncio.get_running_loop()  # asked for once: in Python 3.11 each time is a system call
        self._path = path
        self._asked: bytes | None = asked  # dropped once the answer has begun, because a prompt may be megabytes
        self._request_headers = headers
        self._body: Body | None = None  # once the answer's head is here
        self._decoder = EventDecoder(claude.hide)
        self._body_began = False  # bytes of its body have come: from here on, asking again may buy another one
        self._ready: list[ClaudeEvent] = []  # read by open(), not handed out yet
        self._reading_since: float | None = None  # set while a read waits
        self._read_left_s = 0.0  # what that read may wait
        self._watchdog: asyncio.TimerHandle | None = None  # one timer serves many reads; fires at `_watch_at`
        self._watch_at = 0.0
        self._paced = False  # true from the first text on, because that must never be held back
        self._pace = ReadPace(claude.window_s)
        self._resume_at = 0.0  # loop time from which the socket may be read again
        self._taken_bytes = 0  # since it last rested
        self._without_progress_s = 0.0  # spent waiting in read() since the last event that was no ping
        self._closed = False
        self.headers: Mapping[str, str] = {}
        self.request_id: str | None = None

    async def open(self) -> None:
        """Asks, and returns when the first events are here; sends the request again where the retry rule says so.

        Raises:
            UpstreamError: no answer began. Cancelling is safe: the connection is closed by `close()`.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                self.headers = {}
                await self._ask()
                self._ready = await self.read()
                if not self._ready:
                    raise UpstreamCut("Claude's answer ended before its first event")
                break
            except SluicewayError as error:
                if self._body is not None:
                    self._body.abort()
                    self._body = None  # none of it is an answer that close() would have to count
                if self.headers and isinstance(error, UpstreamError):
                    came_with(error, self.headers)
                delay_s = retry_delay_s(self._retry, error, attempt, random.random())
                if delay_s is None or self._body_began:
                    self._claude.failed("Claude failed before the first event", error, logging.WARNING)
                    raise
                self._claude.failed("Claude failed before the first event, and is asked again", error, logging.INFO)
                self._claude.on_retry()
            await asyncio.sleep(delay_s)
            self._decoder = EventDecoder(self._claude.hide)
            self._paced = False
            self._resume_at = self._without_progress_s = 0.0
            self._taken_bytes = 0
            self._body_began = False
        self._asked = None

    async def read(self) -> list[ClaudeEvent]:
        """The next events; an empty list after the last one (`message_stop`).

        Raises:
            UpstreamRefused: an `error` event came. UpstreamCut: the stream ended without its last event.
            UpstreamTimeout: silence, or nothing but pings, for too long while we were reading.
            UpstreamGarbled: what came is no stream of events.

        Cancelling is safe: `close()` still returns what had arrived.
        """
        if self._ready:
            ready, self._ready = self._ready, []
            return ready
        try:
            return await self._read()
        except SluicewayError as error:
            if self._asked is None:
                self._claude.failed("Claude failed in the middle of an answer", error, logging.WARNING)
            raise

    async def _read(self) -> list[ClaudeEvent]:
        body = self._body
        assert body is not None, "open() comes before read()"
        while not self._decoder.ended:
            if self._decoder.error is not None:
                raise self._decoder.error
            if self._decoder.behind:
                await asyncio.sleep(0)  # the step before may have taken long, and nothing has waited since
                events = self._decoder.step(b"")
            else:
                chunk = await self._read_chunk(body)
                if not chunk:
                    raise UpstreamCut("Claude's answer ended without its last event")
                self._body_began = True
                events = self._decoder.step(chunk)
                self._rest(body, len(chunk))
            if events:
                self._without_progress_s = 0.0
                self._paced = self._paced or Delta in map(type, events)
                return events
            # Else all others would wait while pings, or parts of one event, come as fast as they are read.
            await asyncio.sleep(0)
        return []

    async def close(self) -> list[ClaudeEvent]:
        """Ends the answer and returns the events that had arrived but were not read. Idempotent.

        An unfinished one ends at once: what the socket already holds is taken in, for the count, and the transport is
        aborted. A finished one is read to its end, so that the connection can be used again.
        """
        if self._closed:
            return []
        self._closed = True
        if self._watchdog is not None:
            self._watchdog.cancel()
        ready, self._ready = self._ready, []
        body = self._body
        if body is None:
            return ready
        try:
            if self._decoder.ended:
                await _beginning(body)  # of what is left of it: a few bytes, and the connection can be used again
            elif self._decoder.error is None:
                ready += self._salvage(body)
                ready += self._decoder.rest()
        finally:
            body.abort()
        return ready

    async def _ask(self) -> None:
        assert self._asked is not None, "an answer is opened once"
        try:
            async with asyncio.timeout(self._options.idle_timeout_s):
                raw = await self._claude.post(self._path, self._asked, self._request_headers)
                self._body = body = raw.extensions["body"]
                self.headers = raw.headers
                self.request_id = raw.headers.get("request-id")
                if not is_event_stream(raw.headers.get("content-type", "")):
                    await self._check_beginning(body, raw)
        except TimeoutError as error:
            raise UpstreamTimeout(f"Claude sent nothing for {self._options.idle_timeout_s:g} s") from error

    async def _check_beginning(self, body: Body, raw: httpx2.Response) -> None:
        """Takes a body for a stream of events if it begins as one, whatever its content type says; else raises what it is."""
        said = b""
        try:
            while (begins := begins_stream(said)) is None and len(said) < MOST_BODY_BYTES and not body.complete:
                if not (chunk := body.take(_READ_BYTES)):
                    await body.readable()
                said += chunk
        except httpx2.TransportError:
            begins = False  # what has come by then is enough to tell
        finally:
            self._body_began = bool(said)
        body.put_back(said)
        if not begins:
            said = await _beginning(body)
            raise no_stream(self._claude.hide(said), raw.status_code, raw.headers)

    async def _read_chunk(self, body: Body) -> bytes:
        """What came while the socket rested, or the next that comes; nothing at the end."""
        began = self._loop.time()
        if (progress_left_s := self._options.progress_timeout_s - self._without_progress_s) <= 0:
            # Pings so many that one is there after each rest: below, nothing would be waited for.
            raise self._silence(progress_left_s)
        try:
            if self._resume_at > began:
                await self._claude.pacer.until(self._resume_at)
            while not (chunk := body.take(_READ_BYTES)) and not body.complete:
                progress_left_s = self._options.progress_timeout_s - self._without_progress_s
                self._reading_since, self._read_left_s = began, min(self._options.idle_timeout_s, progress_left_s)
                if self._loop.time() >= began + self._read_left_s:
                    raise self._silence(progress_left_s)
                if self._watchdog is None or self._watch_at > began + self._read_left_s:
                    self._arm(began + self._read_left_s)
                await body.readable()
            return chunk
        except httpx2.TransportError as error:
            raise UpstreamCut("Claude's answer was cut off") from error
        finally:
            self._reading_since = None
            self._without_progress_s += self._loop.time() - began

    def _silence(self, progress_left_s: float) -> UpstreamTimeout:
        if progress_left_s < self._options.idle_timeout_s:
            return UpstreamTimeout(f"Claude sent nothing but pings for {self._options.progress_timeout_s:g} s")
        return UpstreamTimeout(f"Claude was silent for {self._options.idle_timeout_s:g} s")

    def _watch(self) -> None:
        """Ends a read that has waited too long; else looks again when that may be so."""
        self._watchdog = None
        if self._closed or self._body is None or self._reading_since is None:
            return  # the next read arms it again
        due_at = self._reading_since + self._read_left_s
        if due_at <= self._loop.time():
            self._body.wake()
        else:
            self._arm(due_at)

    def _arm(self, when: float) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watch_at = when
        self._watchdog = self._loop.call_at(when, self._watch)

    def _rest(self, body: Body, size_bytes: int) -> None:
        """Decides how long the socket rests until the next read: not at all where more lies there than was read."""
        self._taken_bytes += size_bytes
        if self._paced and not body.more:
            now = self._loop.time()
            rest_s = self._pace.rest_s(self._taken_bytes, now, body.flowed(self._taken_bytes, now) // 4)
            self._resume_at = now + self._claude.pacer.stretched(rest_s)
            self._taken_bytes = 0

    def _salvage(self, body: Body) -> list[ClaudeEvent]:
        """Takes what has arrived already. It stops above what the buffers can have held, because Claude's side still sends."""
        events = self._decoder.feed(b"")  # where it was behind
        size_bytes = 0
        with contextlib.suppress(httpx2.TransportError):
            while size_bytes < 2 * self._options.receive_buffer_bytes and (chunk := body.take()):
                size_bytes += len(chunk)
                events += self._decoder.feed(chunk)
        return events


def is_event_stream(content_type: str) -> bool:
    """Whether the header's value names a stream of events, whatever its case and its parameters."""
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


async def _beginning(body: Body) -> bytes:
    """What a body begins with, as far as it comes: enough to tell what it is."""
    said = b""
    with contextlib.suppress(TimeoutError, httpx2.TransportError):
        async with asyncio.timeout(_TAIL_S):
            async for chunk in body:
                said += chunk
                if len(said) >= MOST_BODY_BYTES:
                    break
    return said[:MOST_BODY_BYTES]
