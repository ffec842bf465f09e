"""Carries a request to another process, and its answer back, with no more on the way than the reader's own bounds allow."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict
from yarl import URL

from ...answer.sse import EventTooLarge, Settling
from ...errors import EndedError, NotFound
from ...settings.sections import ReaderBounds
from ...wire.plain import PlainFormat
from ...wire.ui_stream import UiFormat
from ..entrance.way_in import BODY
from ..http.leaving import check_there
from ..http.slashes import one_slash
from .relayed import RelayedReaders
from .ways import Ways

log = logging.getLogger(__name__)

# Says that a chat's newer question is why its older answer is to stop.
NEWER = "X-Sluiceway-Newer"
# Marks a response in the format of the AI SDK.
UI_MARK = "X-Vercel-AI-UI-Message-Stream"
# What a process answers that was not asked by one of its fleet, or asked for another one that it took the port of.
MISDIRECTED = 421
# Marks what a process answers that was asked by one of its fleet. What it says to any connection, because it has too many or
# a head came late, has no mark, and is no word of a stream's: strangers can bring it about.
ANSWERED = "X-Sluiceway-Answered"
_OF_A_CALLER = ("Authorization", "x-api-key")
# A process that does not answer in this many seconds is not waited for, because the question is waiting.
_TELLING_S = 1.0
# A machine that is there takes a connection in this many seconds, whatever its processes do, and a process that lives begins to
# answer in these; else its streams are read from Redis. A machine that is gone refuses none, and a reader who waited for it longer
# would be told late that his stream's owner is lost.
_CONNECT_S = 0.25
_HEAD_S = 1.0
# What is no stream is an error or some figures, a few hundred bytes: so much of it is taken in, and it is whole in so many
# seconds after its head.
_MOST_BYTES, _BODY_S = 65_536, 1.0
# Of a frame's number; a stream of 1,000 frames a second would take 30 million years to get there.
_MOST_DIGITS = 18
_HOP_BY_HOP = frozenset(
    name.lower()
    for name in (hdrs.CONNECTION, hdrs.KEEP_ALIVE, hdrs.TRANSFER_ENCODING, hdrs.CONTENT_LENGTH, hdrs.HOST, ANSWERED)
)

Reply = web.StreamResponse | NotFound


class Misdirected(aiohttp.ClientError):
    """The process there is not the one that was meant."""


class TurnedAway(aiohttp.ClientError):
    """The process there takes no connection, or not this one: it cannot be reached."""


class Garbled(aiohttp.ClientError):
    """What comes from there is nothing that such a process says."""


async def _for_ever() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Place:
    """Where another process listens.

    Attributes:
        path: of its unix socket; empty where it is reached by TCP.
        name: what it is called in the fleet; empty for a unix socket.
        host, port: where it is reached by TCP.
        headers: what it is told beside the request's own, by the request's method and target.
        is_there: whether it still lives and is reached; asked when it is silent.
    """

    path: str = ""
    name: str = ""
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


class Carrier:
    """Carries requests to other processes.

    Args:
        bounds: of the connection of a reader whose stream is passed through.
        relayed: told of each reader that begins and ends to be served like this, as +1 and -1.
    """

    def __init__(self, bounds: ReaderBounds, relayed: Callable[[int], None] = lambda _change: None) -> None:
        self._bounds = bounds
        self._readers = RelayedReaders(bounds)
        self._relayed = relayed
        self._sessions: dict[str, aiohttp.ClientSession] = {}  # by the path of the socket; one for all that have none
        self._ways = Ways()

    async def run(self) -> None:
        """Looks after those who serve readers through this process, and after these, until cancelled; then closes the ways there."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._ways.run())
                tasks.create_task(self._readers.run())
        finally:
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
            ClientError, TimeoutError: there is none, or it is another one. ConnectionError: the reader has left. Cancelling closes the way to it.
        """
        if request.method == hdrs.METH_GET:  # whoever says stop, and leaves, has said it
            check_there(
                request
            )  # else it would come there as if its reader were there, and take the stream from another
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(None if place.path else _CONNECT_S + _HEAD_S):
                theirs = await stack.enter_async_context(self._asked(request, place))
            if theirs.status == MISDIRECTED:
                raise Misdirected
            if place.name and _is_turned_away(theirs):
                raise TurnedAway
            if theirs.status == 404:
                return NotFound("no stream of yours has this id")
            ours = web.StreamResponse(status=theirs.status, reason=theirs.reason)
            ours.headers.extend((k, v) for k, v in theirs.headers.items() if k.lower() not in _HOP_BY_HOP)
            if theirs.content_type != "text/event-stream":
                async with asyncio.timeout(None if place.path else _BODY_S):
                    return web.Response(status=theirs.status, headers=ours.headers, body=await _whole(theirs.content))
            with suppress(ConnectionError):  # the reader left
                async with self._readers.begun(request, ours) as reader:
                    if not await self._relay(theirs.content, reader, place):
                        log.info("a stream that was passed through broke off, from %s", place.path or "another process")
                        await (broke_off or _let_go)(reader)
            return ours

    def _asked(self, request: web.Request, place: Place) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        headers = CIMultiDict((key, value) for key, value in request.headers.items() if key.lower() not in _HOP_BY_HOP)
        target = target_of(request)
        headers.update(place.headers(request.method, target))
        url = URL(place.url + target, encoded=True)
        return self._session(place).request(request.method, url, headers=headers, data=request.get(BODY))

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
        """Whether the process answers there that is meant, and not one that has its port now. Cancelling is safe."""
        asking = self._session(place).get(place.url + "/", headers=place.headers("GET", "/"))
        try:
            async with asyncio.timeout(_HEAD_S), asking as answer:
                return answer.status != MISDIRECTED
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def _relay(self, content: aiohttp.StreamReader, reader: Reader, place: Place) -> bool:
        """Gives a reader whole events and signs of life, so that it can be served on after any; whether that came to its end."""
        settling = Settling()
        now = asyncio.get_running_loop().time
        self._relayed(1)
        try:
            with self._ways.on(place.path or place.name, place.is_there, content) as way:
                while True:
                    try:
                        data = await content.readany()
                        whole, last_id = _parted(settling, data)
                    except Garbled as error:
                        log.warning("what came from %s is no stream: %s", place.path or "another process", error)
                        return False
                    except aiohttp.ClientError:
                        return False
                    if not data:
                        return True
                    way.heard_at = now()
                    if whole:
                        await reader.write(whole)
                        reader.sent_id = last_id or reader.sent_id
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
                    return answer.status != MISDIRECTED and not (place.name and _is_turned_away(answer))
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
                else aiohttp.TCPConnector(limit=0, force_close=True, socket_factory=self._socket)
            )
            session = self._sessions[place.path] = aiohttp.ClientSession(
                connector=connector,
                read_bufsize=self._bounds.notsent_lowat_bytes,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5 if place.path else _CONNECT_S),
                auto_decompress=False,
            )
        return session

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """Not connected yet, because the first window that is offered is made from the buffer."""
        sock = socket.socket(*address[:3])
        sock.setblocking(False)
        # Left to itself, Linux lets megabytes of a stalled reader's answer wait here; a unix socket's wait at the sender.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._bounds.send_buffer_bytes)
        return sock


async def write_end(reader: Reader, error: EndedError) -> None:
    """Writes a last event that no frame holds, in the reader's format. Raises ConnectionError, Interrupted."""
    wire = UiFormat("") if UI_MARK in reader.response.headers else PlainFormat(thinking=False)
    await reader.write(b"".join(wire.end(error)))
    reader.ended = True


async def _let_go(reader: Reader) -> None:
    reader.response.force_close()


def target_of(request: web.Request) -> str:
    """The request's path and query as it is passed on: a path that begins with two slashes would be read as a host. Pure."""
    url = request.rel_url
    return one_slash(url.raw_path) + (f"?{url.raw_query_string}" if url.raw_query_string else "")


def _is_turned_away(answer: aiohttp.ClientResponse) -> bool:
    return ANSWERED not in answer.headers and (answer.status >= 500 or answer.status in (408, 431))


async def _whole(content: aiohttp.StreamReader) -> bytes:
    """A body that is no stream. Raises Garbled: it is none of a process's answers."""
    body = b""
    while data := await content.readany():
        body += data
        if len(body) > _MOST_BYTES:
            raise Garbled(f"an answer is above {_MOST_BYTES} bytes")
    return body


def _parted(settling: Settling, data: bytes) -> tuple[bytes, int]:
    """Whole events, and the id of the last one that has one, 0 where none has. Raises Garbled."""
    try:
        whole = settling.feed(data)
    except EventTooLarge as error:
        raise Garbled(str(error)) from None
    at = whole.rfind(b"\nid: ")
    if at < 0 and not whole.startswith(b"id: "):
        return whole, 0
    number = whole[at + 5 if at >= 0 else 4 :].partition(b"\n")[0]
    if not number.isdigit() or len(number) > _MOST_DIGITS:
        raise Garbled("an event has an id that is no number")
    return whole, int(number)
