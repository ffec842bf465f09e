"""One streamed answer: the official SDK asks, and the answer's bytes are read here, at our own pace.

1. The SDK's models are passed by: they cost five times the reading (facts of the SDK's own decoding).
2. Every read is followed by a pause of the socket, and only the next `read()` resumes it: after a rest, so that one
   wake-up takes all that came (`pacing.py`), or at once where Claude is fast. Whoever does not read holds Claude still.
3. The SDK retries nothing (its `retry-after` has no bound), no socket timeout runs (it would fire while we pause), and
   an abort aborts the transport.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import aiohttp
import anthropic
from aiohttp.connector import Connection

from ..answer.decoding import EventDecoder
from ..answer.events import ClaudeEvent, Delta
from ..answer.refusals import MOST_BODY_BYTES, no_stream
from ..errors import SluicewayError, UpstreamCut, UpstreamRefused, UpstreamTimeout
from .chunks import whole_chunks
from .failures import FAILURES, described, translated
from .options import UpstreamOptions
from .pacing import Pacer, ReadPace
from .retry import RetryRule
from .transport import Call

log = logging.getLogger(__name__)

# Taken from a resting socket at once: above any receive buffer that makes sense here.
_DIRECT_READ_BYTES = 65_536
# How long a whole answer's connection may take to end its body, so that it can be used again, in seconds.
_TAIL_S = 1.0
# The most that TLS decrypts ahead of us; the receive buffer bounds what is still encrypted.
_TLS_READ_AHEAD_BYTES = 16_384


class _Silence(Exception):
    """A read has waited too long."""


class Upstream(Protocol):
    """What all answers share: `Claude`."""

    options: UpstreamOptions
    pacer: Pacer
    sdk: anthropic.AsyncAnthropic
    on_retry: Callable[[], None]

    def hide(self, said: bytes) -> bytes: ...


class Answer:
    """One streamed answer: the producer's source.

    Args:
        claude: what all answers share.
        params: the Messages API's request fields, without `stream`.
        headers: further request headers.
        retry: when it is asked for again.

    Attributes:
        request_id: Claude's id for the request, once it has begun.
        headers: the response's headers, once it has begun.
    """

    def __init__(self, claude: Upstream, params: dict[str, Any], headers: dict[str, str], retry: RetryRule) -> None:
        self._claude = claude
        self._options = claude.options
        self._retry = retry
        self._loop = asyncio.get_running_loop()  # asked for once: in Python 3.11 each time is a system call
        self._params: dict[str, Any] | None = params  # dropped when the answer has begun: a prompt may be megabytes
        self._request_headers = headers
        self._call = Call()
        self._decoder = EventDecoder()
        self._body_began = False  # bytes of an answer have come: from here on, asking again would buy another one
        self._ready: list[ClaudeEvent] = []  # read by open(), not handed out yet
        self._reading_since: float | None = None  # set while a read waits
        self._read_left_s = 0.0  # what that read may wait
        self._watchdog: asyncio.TimerHandle | None = None  # one timer serves many reads; fires at `_watch_at`
        self._watch_at = 0.0
        self._paced = False  # from the first text on: it must never be held back
        # A receive buffer holds about half its size in text: small packets take more room in it than their bytes.
        self._pace = ReadPace(self._options.window_s, self._options.receive_buffer_bytes // 4)
        self._flows = True  # the event loop reads the socket
        self._resume_at = 0.0  # loop time from which the socket may be read again
        self._plain_fd: int | None = None  # the socket, where nothing encrypts what waits in it
        self._between_chunks = False  # aiohttp's parser stands between two chunks of the body
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
                await self._ask()
                self._ready = await self.read()
                if not self._ready:
                    raise UpstreamCut("Claude's answer ended before its first event")
                break
            except SluicewayError as error:
                self._call.abort()
                self._call = Call()  # nothing of it is an answer that closing would have to count
                delay_s = self._retry.delay_s(error, attempt, random.random())
                # An error that Claude itself tells as its first event is its word that there is no answer.
                if delay_s is None or (self._body_began and not isinstance(error, UpstreamRefused)):
                    log.warning("Claude failed before the first event: %s", described(error))
                    raise
                log.info("Claude failed before the first event: %s; trying again in %.2f s", described(error), delay_s)
                self._claude.on_retry()
            await asyncio.sleep(delay_s)
            self._decoder = EventDecoder()
            self._flows, self._paced, self._between_chunks, self._plain_fd = True, False, False, None
            self._resume_at = self._without_progress_s = 0.0
            self._body_began = False
        self._params = None

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
            if self._params is None:
                log.warning("Claude failed in the middle of an answer: %s", described(error))
            raise

    async def _read(self) -> list[ClaudeEvent]:
        response = self._call.response
        assert response is not None, "open() comes before read()"
        while not self._decoder.ended:
            if self._decoder.error is not None:
                raise self._decoder.error
            chunk = await self._read_chunk(response.content)
            if not chunk:
                raise UpstreamCut("Claude's answer ended without its last event")
            self._body_began = True
            events = self._decoder.feed(chunk)
            self._pause(len(chunk))
            if events:
                self._without_progress_s = 0.0
                self._paced = self._paced or Delta in map(type, events)
                return events
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
        try:
            if self._decoder.ended:
                await self._read_tail()
            elif self._call.response is not None and self._decoder.error is None:
                ready += await self._salvage()
        finally:
            self._call.abort()
        return ready

    async def _ask(self) -> None:
        assert self._params is not None, "an answer is opened once"
        try:
            async with asyncio.timeout(self._options.idle_timeout_s):
                raw = await self._claude.sdk.messages.with_raw_response.create(
                    **self._params, stream=True, extra_headers=self._request_headers
                )
                self._call = raw.http_response.extensions["call"]
                self.headers = dict(raw.headers)
                self.request_id = raw.headers.get("request-id")
                response = self._call.response
                assert response is not None, "the SDK returns once the head is here"
                if response.content_type != "text/event-stream":
                    said = await _beginning(response.content)
                    raise no_stream(self._claude.hide(said), response.status, raw.headers)
        except TimeoutError as error:
            raise UpstreamTimeout(f"Claude sent nothing for {self._options.idle_timeout_s:g} s") from error
        except FAILURES as error:
            raise translated(error) from error
        transport = self._call.connection and self._call.connection.transport
        if transport is None:
            return  # the whole answer came with its head
        if transport.get_extra_info("sslcontext") is None:
            self._plain_fd = transport.get_extra_info("socket").fileno()
        elif hasattr(transport, "set_read_buffer_limits"):
            transport.set_read_buffer_limits(high=_TLS_READ_AHEAD_BYTES)

    async def _read_chunk(self, content: aiohttp.StreamReader) -> bytes:
        """The bytes that came while the socket rested, or the next ones to come; none at the end."""
        began = self._loop.time()
        try:
            if self._resume_at > began:
                await self._claude.pacer.until(self._resume_at)
                if chunk := self._take_waiting(content):
                    return chunk
            self._resume()
            progress_left_s = self._options.progress_timeout_s - self._without_progress_s
            self._reading_since, self._read_left_s = began, min(self._options.idle_timeout_s, progress_left_s)
            if self._watchdog is None or self._watch_at > began + self._read_left_s:
                self._arm(began + self._read_left_s)
            return await content.readany()
        except _Silence as error:
            if progress_left_s < self._options.idle_timeout_s:
                raise UpstreamTimeout(
                    f"Claude sent nothing but pings for {self._options.progress_timeout_s:g} s"
                ) from error
            raise UpstreamTimeout(f"Claude was silent for {self._options.idle_timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            # What came with the cut is still good; the next read finds the error again.
            if rest := _buffered(content):
                return rest
            raise UpstreamCut("Claude's answer was cut off") from error
        finally:
            self._reading_since = None
            self._without_progress_s += self._loop.time() - began

    def _watch(self) -> None:
        """Ends a read that has waited too long; else looks again when that may be so."""
        self._watchdog = None
        response = self._call.response
        if self._closed or response is None or self._reading_since is None:
            return  # the next read arms it again
        due_at = self._reading_since + self._read_left_s
        if due_at <= self._loop.time():
            response.content.set_exception(_Silence())
        else:
            self._arm(due_at)

    def _arm(self, when: float) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._watch_at = when
        self._watchdog = self._loop.call_at(when, self._watch)

    def _pause(self, size_bytes: int) -> None:
        """Stops the socket until the next read, and decides how long it rests until then."""
        if self._flows and (connection := self._connection()) is not None and connection.transport is not None:
            self._flows = False
            connection.transport.pause_reading()
        if self._paced:
            now = self._loop.time()
            self._resume_at = now + self._claude.pacer.stretched(self._pace.rest_s(size_bytes, now))

    def _resume(self) -> None:
        """Lets the event loop read the socket."""
        if (connection := self._connection()) is not None and connection.transport is not None:
            self._flows, self._between_chunks = True, False
            connection.transport.resume_reading()

    def _take_waiting(self, content: aiohttp.StreamReader) -> bytes:
        """Takes what waits in the paused socket, past the event loop: one system call instead of five.

        Empty where that is not possible, or nothing came: then the loop is to tell when something does. While reads
        hold whole chunks, as they mostly do, aiohttp's parser is passed by as well; it stands between two of them, and
        takes over again for whatever else comes, be it the end of the body.
        """
        connection = self._connection()
        transport = connection and connection.transport
        if self._plain_fd is None or connection is None or transport is None or transport.is_closing():
            return b""
        try:
            data = os.read(self._plain_fd, _DIRECT_READ_BYTES)
        except OSError:
            return b""
        if not data:
            return b""  # the end: the transport will find it too
        body = whole_chunks(data)
        if body is not None and self._between_chunks:
            return body
        assert connection.protocol is not None, "the connection is ours"
        connection.protocol.data_received(data)
        chunk = _buffered(content)
        self._flows = True  # for aiohttp resumes what is read from
        # It made of this read just what we did: it stands where the read ended. Above what it takes at once it may have
        # held something back.
        self._between_chunks = chunk == body and len(data) < self._options.read_buffer_bytes
        return chunk

    def _connection(self) -> Connection | None:
        """The connection while it is ours: aiohttp hands it on as soon as the body has ended."""
        return self._call.response.connection if self._call.response is not None else None

    async def _salvage(self) -> list[ClaudeEvent]:
        """What the socket holds already. Two turns of the loop deliver it: one to resume, one to poll."""
        response = self._call.response
        assert response is not None, "only a begun answer has something to salvage"
        events: list[ClaudeEvent] = []
        size_bytes = 0
        self._resume()
        for _ in range(3):
            await asyncio.sleep(0)
            # Reading lets aiohttp parse on where it had held, so that there may be more after it. Above what the socket
            # can have held, Claude's side goes on while we look.
            while (chunk := _buffered(response.content)) and size_bytes < 2 * self._options.receive_buffer_bytes:
                size_bytes += len(chunk)
                events += self._decoder.feed(chunk)
        return events

    async def _read_tail(self) -> None:
        response = self._call.response
        assert response is not None, "an ended answer has begun"
        self._resume()
        try:
            async with asyncio.timeout(_TAIL_S):
                while await response.content.readany():
                    pass
        except (TimeoutError, aiohttp.ClientError):
            return
        response.release()
        self._call = Call()  # the connection belongs to the pool again


def _buffered(content: aiohttp.StreamReader) -> bytes:
    """The bytes that have arrived. The public `read_nowait()` raises a cut connection's error before it gives them."""
    return content._read_nowait(-1) if content._buffer else b""


async def _beginning(content: aiohttp.StreamReader) -> bytes:
    """What a body begins with, as far as it comes: enough to tell what it is."""
    said = b""
    try:
        async with asyncio.timeout(_TAIL_S):
            while len(said) < MOST_BODY_BYTES and (chunk := await content.readany()):
                said += chunk
    except (TimeoutError, aiohttp.ClientError):
        pass
    return said[:MOST_BODY_BYTES]
