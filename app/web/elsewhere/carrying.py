"""Carries a request to another process, and its answer back, with no more on the way than the reader's own bounds allow."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict
from yarl import URL

from ...errors import EndedError, NotFound
from ...settings.sections import SendBuffers
from ...wire.plain import PlainFormat
from ...wire.ui_stream import UiFormat
from ..entrance.way_in import BODY
from ..readers.sse_connection import bound_buffers

log = logging.getLogger(__name__)

# Says that a chat's newer question is why its older answer is to stop.
NEWER = "X-Sluiceway-Newer"
# Marks a response in the format of the AI SDK.
UI_MARK = "X-Vercel-AI-UI-Message-Stream"
# What a process answers that was not asked by one of its fleet, or asked for another one that it took the port of.
MISDIRECTED = 421
_OF_A_CALLER = ("Authorization", "x-api-key")
# A process that does not answer in this many seconds is not waited for, because the question is waiting.
_TELLING_S = 1.0
# A process on another machine that lives takes a connection in this many seconds, and begins to answer in these; else its
# streams are read from Redis.
_CONNECT_S = 1.0
_HEAD_S = 1.0
# Without a byte for this long, in seconds, it is looked whether the other process is still there.
_SILENT_S = 2.0
_HOP_BY_HOP = frozenset(
    name.lower() for name in (hdrs.CONNECTION, hdrs.KEEP_ALIVE, hdrs.TRANSFER_ENCODING, hdrs.CONTENT_LENGTH, hdrs.HOST)
)

Reply = web.StreamResponse | NotFound


class Misdirected(aiohttp.ClientError):
    """The process there is not the one that was meant."""


async def _for_ever() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Place:
    """Where another process listens.

    Attributes:
        path: of its unix socket; empty where it is reached by TCP.
        host, port: otherwise.
        headers: what it is told beside the request's own, by the request's method and target.
        is_there: whether it still lives and is reached; asked when it is silent.
    """

    path: str = ""
    host: str = ""
    port: int = 0
    headers: Callable[[str, str], Mapping[str, str]] = lambda _method, _target: {}
    is_there: Callable[[], Awaitable[bool]] = field(default=_for_ever)

    @property
    def url(self) -> str:
        """What its URLs begin with."""
        if self.path:
            return "http://worker"
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


class Reader(Protocol):
    """Who is given a stream from elsewhere.

    Attributes:
        sent_id: the last frame that it has.
        ended: it has the last event.
    """

    sent_id: int
    ended: bool

    @property
    def response(self) -> web.StreamResponse:
        """What it is given as; its head is sent by the first write."""

    async def write(self, data: bytes) -> None:
        """Writes, and drains. Raises ConnectionError, or Interrupted."""


BrokeOff = Callable[[Reader], Awaitable[None]]


@dataclass(slots=True)
class Relayed:
    """A reader whose stream is passed through.

    Attributes:
        response: whose head was sent.
        sent_id: the last frame that it has.
        ended: it has the last event.
    """

    response: web.StreamResponse
    _writer: AbstractStreamWriter
    sent_id: int
    ended: bool = False

    async def write(self, data: bytes) -> None:
        """Writes, and drains. Raises ConnectionError."""
        await self.response.write(data)
        await self._writer.drain()


class Carrier:
    """Carries requests to other processes.

    Args:
        buffers: the bounds towards a reader whose stream is passed through.
        relayed: told of each reader that begins and ends to be served like this, as +1 and -1.
    """

    def __init__(self, buffers: SendBuffers, relayed: Callable[[int], None] = lambda _change: None) -> None:
        self._buffers = buffers
        self._relayed = relayed
        self._sessions: dict[str, aiohttp.ClientSession] = {}  # by the path of the socket; one for all that have none

    async def close(self) -> None:
        """Closes the connections to the others."""
        for session in self._sessions.values():
            await session.close()

    async def pass_on(self, request: web.Request, place: Place, broke_off: BrokeOff | None = None) -> Reply:
        """The answer from the process there.

        Args:
            request: the reader's.
            place: where that process listens.
            broke_off: serves a reader on whose stream broke off; without it the reader learns it from an end without a
                last event, and comes back.

        Raises:
            ClientError, TimeoutError: there is none, or it is another one. Cancelling closes the way to it.
        """
        headers = CIMultiDict((key, value) for key, value in request.headers.items() if key.lower() not in _HOP_BY_HOP)
        headers.update(place.headers(request.method, request.path_qs))
        url = URL(place.url + request.path_qs, encoded=True)
        async with AsyncExitStack() as stack:
            asking = self._session(place).request(request.method, url, headers=headers, data=request.get(BODY))
            async with asyncio.timeout(None if place.path else _CONNECT_S + _HEAD_S):
                theirs = await stack.enter_async_context(asking)
            if theirs.status == MISDIRECTED:
                raise Misdirected
            if theirs.status == 404:
                return NotFound("no stream of yours has this id")
            ours = web.StreamResponse(status=theirs.status, reason=theirs.reason)
            ours.headers.extend((k, v) for k, v in theirs.headers.items() if k.lower() not in _HOP_BY_HOP)
            if theirs.content_type != "text/event-stream":
                return web.Response(status=theirs.status, headers=ours.headers, body=await theirs.read())
            with suppress(ConnectionError):  # the reader left
                reader = await self._begun(request, ours)
                if not await self._relay(theirs.content, reader, place):
                    log.info("a stream that was passed through broke off, from %s", place.path or "another process")
                    await (broke_off or _let_go)(reader)
            return ours

    async def _begun(self, request: web.Request, response: web.StreamResponse) -> Relayed:
        bound_buffers(request, self._buffers)
        writer = await response.prepare(request)
        assert writer is not None, "it is prepared once"
        number = request.headers.get(hdrs.LAST_EVENT_ID, "")
        return Relayed(response, writer, int(number) if number.isascii() and number.isdigit() else 0)

    async def read_on(self, request: web.Request, stream_id: str, place: Place, reader: Reader) -> bool:
        """Reads a stream on, for a reader that has begun, from the process that owns it.

        Args:
            request: the reader's; its caller's key goes along.
            stream_id: the stream's.
            place: where its owner listens.
            reader: is given every frame after its `sent_id`.

        Returns:
            Whether it came to the end; else the owner cannot be reached, or has nothing for this reader.

        Raises:
            ConnectionError, Interrupted: the reader is gone. Cancelling closes the way to the owner.
        """
        path = f"/api/stream/{stream_id}"
        own = {name: request.headers[name] for name in _OF_A_CALLER if name in request.headers}
        headers = own | {hdrs.LAST_EVENT_ID: str(reader.sent_id), **place.headers("GET", path)}
        asking = self._session(place).get(URL(place.url + path, encoded=True), headers=headers)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(_CONNECT_S + _HEAD_S):
                    theirs = await stack.enter_async_context(asking)
            except (aiohttp.ClientError, TimeoutError):
                return False
            return theirs.status == 200 and await self._relay(theirs.content, reader, place)

    async def answers(self, place: Place) -> bool:
        """Whether a process answers there, whatever it says. Cancelling is safe."""
        try:
            async with asyncio.timeout(_HEAD_S), self._session(place).get(place.url + "/"):
                return True
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _relay(self, content: aiohttp.StreamReader, reader: Reader, place: Place) -> bool:
        """Gives a reader whole events, so that it can be served on after any; whether that came to its end."""
        rest = b""
        self._relayed(1)
        try:
            while True:
                try:
                    data = await _next(content, place)
                except aiohttp.ClientError:
                    return False
                if not data:
                    return True
                whole, end, rest = (rest + data).rpartition(b"\n\n")
                if end:
                    await reader.write(whole + end)
                    reader.sent_id = _last_id(whole) or reader.sent_id
        finally:
            self._relayed(-1)

    async def tell_of_newer(self, request: web.Request, path: str, place: Place) -> bool:
        """Tells the process there to stop a chat's answer, because its next question has come; one that is gone is skipped.

        Args:
            request: the next question; its caller's key goes along.
            path: that stops the answer.
            place: where the answer may run.

        Returns:
            Whether it was told.

        Cancelling is safe.
        """
        headers = {name: request.headers[name] for name in _OF_A_CALLER if name in request.headers}
        headers |= {**place.headers("POST", path), NEWER: "1"}
        try:
            async with asyncio.timeout(_TELLING_S):
                async with self._session(place).post(URL(place.url + path, encoded=True), headers=headers) as answer:
                    return answer.status != MISDIRECTED
        except (aiohttp.ClientError, TimeoutError):
            log.info("%s could not be told of a chat's newer question", place.path or "another process")
            return False

    def _session(self, place: Place) -> aiohttp.ClientSession:
        session = self._sessions.get(place.path)
        if session is None:
            # No connection is kept, because one whose other end has left while it was idle would fail the next request.
            connector = (
                aiohttp.UnixConnector(place.path, limit=0, force_close=True)
                if place.path
                else aiohttp.TCPConnector(limit=0, force_close=True)
            )
            session = self._sessions[place.path] = aiohttp.ClientSession(
                connector=connector,
                read_bufsize=self._buffers.send_buffer_bytes,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5 if place.path else _CONNECT_S),
                auto_decompress=False,
            )
        return session


async def write_end(reader: Reader, error: EndedError) -> None:
    """Writes a last event that no frame holds, in the reader's format. Raises ConnectionError, Interrupted."""
    wire = UiFormat("") if UI_MARK in reader.response.headers else PlainFormat(thinking=False)
    await reader.write(b"".join(wire.end(error)))
    reader.ended = True


async def _let_go(reader: Reader) -> None:
    reader.response.force_close()


def _last_id(events: bytes) -> int:
    """The id of the last event that has one; 0 where none has."""
    at = events.rfind(b"\nid: ")
    if at < 0 and not events.startswith(b"id: "):
        return 0
    return int(events[at + 5 if at >= 0 else 4 :].partition(b"\n")[0])


async def _next(content: aiohttp.StreamReader, place: Place) -> bytes:
    """What comes next; empty at the end. Raises ClientError where the other process is gone, also without a word."""
    if place.path:  # the kernel tells at once when a process of this machine ends
        return await content.readany()
    while True:
        try:
            async with asyncio.timeout(_SILENT_S):
                return await content.readany()
        except TimeoutError:
            if not await place.is_there():
                raise aiohttp.ClientConnectionError("it is gone") from None
