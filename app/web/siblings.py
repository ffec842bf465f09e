"""Brings a request for a stream to the worker that has it: over the unix socket that each worker opens for the others."""

from __future__ import annotations

import logging
import re
from contextlib import AsyncExitStack

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict

from ..errors import NotFound, WorkerLost
from ..fleet.supervisor import Place
from .plain_api import Handler
from .readers import SendBuffers, bound_buffers

log = logging.getLogger(__name__)

_STREAM_ID = re.compile(r"st(\d{1,4})_")
# Said by a worker that passes a request on: it is not passed on again. A caller who says it only misses its stream.
PASSED_ON = "X-Sluiceway-Passed-On"
_HOP_BY_HOP = frozenset(
    name.lower() for name in (hdrs.CONNECTION, hdrs.KEEP_ALIVE, hdrs.TRANSFER_ENCODING, hdrs.CONTENT_LENGTH, hdrs.HOST)
)
_NOT_HERE = frozenset({204, 404})


class Siblings:
    """The other workers of this machine.

    Args:
        place: this worker's place among them.
        buffers: the bounds towards a reader whose stream is passed through.
    """

    def __init__(self, place: Place, buffers: SendBuffers) -> None:
        self._place = place
        self._buffers = buffers
        self._sessions: dict[int, aiohttp.ClientSession] = {}

    async def close(self) -> None:
        """Closes the connections to the others."""
        for session in self._sessions.values():
            await session.close()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answers here, or passes the request on to the worker whose stream it names."""
        name = request.match_info.get("id")
        if name is None or PASSED_ON in request.headers:
            return await handler(request)
        if request.path.startswith("/api/chat/"):
            return await self._ask_all(request, handler)
        match = _STREAM_ID.match(name)
        owner = int(match[1]) if match else self._place.number
        if owner == self._place.number or owner >= self._place.count:
            return await handler(request)
        return await self._pass_on(request, owner)

    async def _ask_all(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The page chose the chat's name, so that it does not tell the worker: whoever knows it answers."""
        refusal: NotFound | None = None
        response: web.StreamResponse | None = None
        try:
            response = await handler(request)
        except NotFound as error:
            refusal = error
        for number in range(self._place.count):
            if response is not None and (response.prepared or response.status not in _NOT_HERE):
                return response
            if number != self._place.number:
                response = await self._pass_on(request, number)
        if refusal is not None and (response is None or response.status in _NOT_HERE):
            raise refusal
        assert response is not None, "it was answered here, or refused"
        return response

    async def _pass_on(self, request: web.Request, number: int) -> web.StreamResponse:
        headers = CIMultiDict((key, value) for key, value in request.headers.items() if key.lower() not in _HOP_BY_HOP)
        headers[PASSED_ON] = str(self._place.number)
        async with AsyncExitStack() as stack:
            try:
                theirs = await stack.enter_async_context(
                    self._session(number).request(
                        request.method, f"http://worker{request.path_qs}", headers=headers, data=await request.read()
                    )
                )
            except aiohttp.ClientError as error:
                raise WorkerLost("the worker that has this stream cannot be reached", retry_after_s=1.0) from error
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
                # The owner died: an end without a last event tells the reader so.
                log.info("worker %d broke off a stream that was passed through", number)
                ours.force_close()
            return ours

    def _session(self, number: int) -> aiohttp.ClientSession:
        session = self._sessions.get(number)
        if session is None:
            connector = aiohttp.UnixConnector(self._place.socket_of(number), limit=0)
            session = self._sessions[number] = aiohttp.ClientSession(
                connector=connector,
                read_bufsize=self._buffers.send_buffer_bytes,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
                auto_decompress=False,
            )
        return session
