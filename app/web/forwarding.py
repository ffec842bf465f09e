"""Brings a request for a stream to the process that has it: another worker, or the service that this one replaces.

Each worker opens a unix socket for the others. What a restart replaces stays reachable by the second name of its socket
while it drains; it is asked where nobody here knows the stream.
"""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import AsyncExitStack
from urllib.parse import quote

import aiohttp
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from multidict import CIMultiDict
from yarl import URL

from ..errors import NotFound, WorkerLost
from ..fleet.supervisor import WorkerSpec
from ..settings.sections import SendBuffers
from .entrance import BODY
from .errors import Handler
from .readers import bound_buffers
from .slashes import one_slash

log = logging.getLogger(__name__)

_STREAM_ID = re.compile(r"st(\d{1,4})_")
# This header says who passed the request on, so that it does not go round: after a worker only the next one answers,
# after a successor only workers are asked. A caller who sends it gains nothing and only misses its stream.
PASSED_ON = "X-Sluiceway-Passed-On"
_BY_WORKER, _BY_SUCCESSOR = "worker", "successor"
# Says that a chat's newer question is why its older answer is to stop.
NEWER = "X-Sluiceway-Newer"
_OF_A_CALLER = ("Authorization", "x-api-key")
# A process on this machine that does not answer in this many seconds is not waited for, because the question is
# waiting.
_TELLING_S = 1.0
_HOP_BY_HOP = frozenset(
    name.lower() for name in (hdrs.CONNECTION, hdrs.KEEP_ALIVE, hdrs.TRANSFER_ENCODING, hdrs.CONTENT_LENGTH, hdrs.HOST)
)

_Reply = web.StreamResponse | NotFound


class Forwarder:
    """The other workers of this machine, and those that this service replaces.

    Args:
        spec: what this worker was told by its parent.
        buffers: the bounds towards a reader whose stream is passed through.
    """

    def __init__(self, spec: WorkerSpec, buffers: SendBuffers) -> None:
        self._spec = spec
        self._buffers = buffers
        self._older = list(spec.older)  # those that have ended are dropped when they cannot be reached
        self._sessions: dict[str, aiohttp.ClientSession] = {}  # by the path of the socket

    async def close(self) -> None:
        """Closes the connections to the others."""
        for session in self._sessions.values():
            await session.close()

    @property
    def middlewares(self) -> list[Middleware]:
        """What passes requests on; none where there is nobody to pass them to."""
        return [self._middleware] if self._spec.folder or self._older else []

    @property
    def _middleware(self) -> Middleware:
        @web.middleware
        async def find(request: web.Request, handler: Handler) -> web.StreamResponse:
            passed_on = request.headers.get(PASSED_ON)
            if (
                passed_on == _BY_WORKER
                or "id" not in request.match_info
                or not one_slash(request.path).startswith("/api/")
            ):
                return await handler(request)
            answer = await self._among_workers(request, handler)
            if passed_on is None:
                answer = await self._among_older(request, answer)
            if isinstance(answer, NotFound):  # the process that was asked first refuses
                raise answer
            return answer

        return find

    async def tell_of_newer(self, request: web.Request, chat_id: str) -> None:
        """Ends the chat's older answers elsewhere, because its next question has come here; processes that are gone are skipped.

        Args:
            request: the next question; its caller's key goes along.
            chat_id: the page's own name for the chat.

        Cancelling is safe.
        """
        others = [(self._spec.socket_of(n), _BY_WORKER) for n in range(self._spec.count) if n != self._spec.number]
        told = [(path, by) for path, by in (*others, *((path, _BY_SUCCESSOR) for path in self._older))]
        await asyncio.gather(*(self._tell_of_newer(request, chat_id, path, by) for path, by in told))

    async def _tell_of_newer(self, request: web.Request, chat_id: str, path: str, passed_on_by: str) -> None:
        headers = {name: request.headers[name] for name in _OF_A_CALLER if name in request.headers}
        headers |= {PASSED_ON: passed_on_by, NEWER: "1"}
        url = f"http://sibling/api/chat/{quote(chat_id, safe='', errors='replace')}/stop"
        try:
            async with asyncio.timeout(_TELLING_S):
                async with self._session(path).post(URL(url, encoded=True), headers=headers):
                    pass
        except (aiohttp.ClientError, TimeoutError):
            log.info("%s could not be told of a chat's newer question", path)

    async def _among_workers(self, request: web.Request, handler: Handler) -> _Reply:
        here, others = self._spec.number, [n for n in range(self._spec.count) if n != self._spec.number]
        if not one_slash(request.path).startswith("/api/chat/"):
            match = _STREAM_ID.match(request.match_info["id"])
            owner = int(match[1]) if match else here
            if owner in others:
                return await self._from_worker(request, owner)
            others = []
        answer: _Reply
        try:
            answer = await handler(request)
        except NotFound as error:
            answer = error
        # The page chose the chat's name, so the name does not tell the worker. All are asked, and the one that knows it
        # answers.
        for number in others:
            if not _is_unknown(request, answer):
                break
            answer = await self._from_worker(request, number)
        return answer

    async def _among_older(self, request: web.Request, answer: _Reply) -> _Reply:
        for path in list(self._older):
            if not _is_unknown(request, answer):
                break
            try:
                answer = await self._pass_on(request, path, _BY_SUCCESSOR)
            except aiohttp.ClientConnectorError:  # it has drained, and its streams have ended with it
                self._older = [other for other in self._older if other != path]
            except aiohttp.ClientError:  # it is ending just now
                log.info("%s ended before it could be asked for a stream", path)
        return answer

    async def _from_worker(self, request: web.Request, number: int) -> _Reply:
        try:
            return await self._pass_on(request, self._spec.socket_of(number), _BY_WORKER)
        except aiohttp.ClientError as error:
            raise WorkerLost("the worker that has this stream cannot be reached", retry_after_s=1.0) from error

    async def _pass_on(self, request: web.Request, path: str, passed_on_by: str) -> _Reply:
        """The answer from the process behind the socket at `path`. Raises ClientError if there is none."""
        headers = CIMultiDict((key, value) for key, value in request.headers.items() if key.lower() not in _HOP_BY_HOP)
        headers[PASSED_ON] = passed_on_by
        async with AsyncExitStack() as stack:
            theirs = await stack.enter_async_context(
                self._session(path).request(
                    request.method, f"http://worker{request.path_qs}", headers=headers, data=request.get(BODY)
                )
            )
            if theirs.status == 404:
                return NotFound("no stream of yours has this id")
            ours = web.StreamResponse(status=theirs.status, reason=theirs.reason)
            ours.headers.extend((k, v) for k, v in theirs.headers.items() if k.lower() not in _HOP_BY_HOP)
            if theirs.content_type != "text/event-stream":
                return web.Response(status=theirs.status, headers=ours.headers, body=await theirs.read())
            bound_buffers(request, self._buffers)
            writer = await ours.prepare(request)
            assert writer is not None, "it is prepared once"
            try:
                while data := await theirs.content.readany():
                    await ours.write(data)
                    await writer.drain()
            except aiohttp.ClientError:
                # The owner died. The reader learns it from an end without a last event.
                log.info("a stream that was passed through broke off, from %s", path)
                ours.force_close()
            return ours

    def _session(self, path: str) -> aiohttp.ClientSession:
        session = self._sessions.get(path)
        if session is None:
            # No connection is kept, because one whose other end has left while it was idle would fail the next request.
            connector = aiohttp.UnixConnector(path, limit=0, force_close=True)
            session = self._sessions[path] = aiohttp.ClientSession(
                connector=connector,
                read_bufsize=self._buffers.send_buffer_bytes,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
                auto_decompress=False,
            )
        return session


def _is_unknown(request: web.Request, answer: _Reply) -> bool:
    """Whether the answer says that nobody there has such a stream; to a GET or HEAD, 204 says so."""
    if isinstance(answer, NotFound):
        return True
    return answer.status == 204 and request.method in (hdrs.METH_GET, hdrs.METH_HEAD)
