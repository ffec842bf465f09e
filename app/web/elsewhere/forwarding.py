"""Brings a request for a stream to the process that has it: another worker, the service that this one replaces, or another machine.

Each worker opens a unix socket for the others, which shows that it is there: also one that has given its place to a newer
one, and ends its streams. What a restart replaces stays reachable by the second name of its socket while it drains; it is
asked where nobody here knows the stream. In a fleet the stream's id names its owner, and whoever finds that goes first
(`elsewhere.py`); those that still drain here are asked all the same where it finds none, since they may be of another fleet:
`redis_url` and `redis_prefix` may have changed with what replaced them.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Protocol
from urllib.parse import quote

import aiohttp
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from ...errors import NotFound, WorkerLost
from ...fleet.errors import FleetAway
from ...fleet.spec import WorkerSpec
from ..http.errors import Handler
from ..http.slashes import one_slash
from .carrying import Carrier, Place, Reply

log = logging.getLogger(__name__)

_STREAM_ID = re.compile(r"st(\d{1,4})_")
# This header says who passed the request on, so that it does not go round: after a worker only the next one answers,
# after a successor only workers are asked. A caller who sends it gains nothing and only misses its stream.
PASSED_ON = "X-Sluiceway-Passed-On"
_BY_WORKER, _BY_SUCCESSOR = "worker", "successor"


class Elsewhere(Protocol):
    """Finds streams of other machines."""

    async def find(self, request: web.Request, handler: Handler) -> Reply | None:
        """The answer, from wherever the stream is; None where it has to be looked for on this machine."""

    def check(self, request: web.Request) -> None:
        """Raises FleetAway where nobody can know what other machines have."""

    async def tell_of_newer(self, request: web.Request, chat_id: str, stream_id: str) -> None:
        """Ends the chat's older answer, wherever it runs; `stream_id` is the newer one's."""


class Forwarder:
    """The other workers of this machine, and those that this service replaces.

    Args:
        spec: what this worker was told by its parent.
        carrier: carries requests to other processes.
        elsewhere: finds streams of other machines; None where there are none.
    """

    def __init__(self, spec: WorkerSpec, carrier: Carrier, elsewhere: Elsewhere | None = None) -> None:
        self._spec = spec
        self._carrier = carrier
        self._elsewhere = elsewhere
        self._older = list(spec.older)  # those that have ended are dropped when they cannot be reached

    @property
    def middlewares(self) -> list[Middleware]:
        """What passes requests on; none where there is nobody to pass them to."""
        return [self._middleware] if self._spec.folder or self._older or self._elsewhere is not None else []

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
            if self._elsewhere is not None and passed_on is None:
                answer = await self._in_fleet(self._elsewhere, request, handler)
            else:
                answer = await self._on_this_machine(request, handler, passed_on)
            if isinstance(answer, NotFound):  # the process that was asked first refuses
                raise answer
            return answer

        return find

    async def _in_fleet(self, elsewhere: Elsewhere, request: web.Request, handler: Handler) -> Reply:
        """From wherever the stream is. Raises FleetAway where nobody can know."""
        found: Reply | FleetAway | None
        try:
            found = await elsewhere.find(request, handler)
        except FleetAway as error:
            found = error
        if found is None:
            return await self._on_this_machine(request, handler, None)
        if self._some_drain() and (isinstance(found, FleetAway) or is_unknown(request, found)):
            here = await self._among_older(request, await self._among_workers(request, handler))
            if not is_unknown(request, here):
                return here
        if isinstance(found, FleetAway):
            raise found
        return found

    def _some_drain(self) -> bool:
        """Whether there are some here that others have replaced."""
        return bool(self._older) or len(self._spec.others()) >= self._spec.count

    async def _on_this_machine(self, request: web.Request, handler: Handler, passed_on: str | None) -> Reply:
        answer = await self._among_workers(request, handler)
        if passed_on is None:
            answer = await self._among_older(request, answer)
            if self._elsewhere is not None and is_unknown(request, answer):
                self._elsewhere.check(request)
        return answer

    async def tell_of_newer(self, request: web.Request, chat_id: str, stream_id: str) -> None:
        """Ends the chat's older answers elsewhere, because its next question has come here; processes that are gone are skipped.

        Args:
            request: the next question; its caller's key goes along.
            chat_id: the page's own name for the chat.
            stream_id: the newer answer's.

        Cancelling is safe.
        """
        if self._elsewhere is not None:
            await self._elsewhere.tell_of_newer(request, chat_id, stream_id)
        others = [_worker(self._spec.socket_of(n), _BY_WORKER) for n in self._spec.others()]
        told = (*others, *(_worker(path, _BY_SUCCESSOR) for path in self._older))
        path = stop_path(chat_id)
        await asyncio.gather(*(self._carrier.tell_of_newer(request, path, place) for place in told))

    async def _among_workers(self, request: web.Request, handler: Handler) -> Reply:
        here, others = self._spec.number, self._spec.others()
        if not one_slash(request.path).startswith("/api/chat/"):
            match = _STREAM_ID.match(request.match_info["id"])
            owner = int(match[1]) if match else here
            if owner in others:
                return await self._from_worker(request, owner)
            others = []
        answer: Reply
        try:
            answer = await handler(request)
        except NotFound as error:
            answer = error
        # The page chose the chat's name, so the name does not tell the worker. All are asked, and the one that knows it
        # answers.
        for number in others:
            if not is_unknown(request, answer):
                break
            answer = await self._from_worker(request, number)
        return answer

    async def _among_older(self, request: web.Request, answer: Reply) -> Reply:
        for path in list(self._older):
            if not is_unknown(request, answer):
                break
            try:
                answer = await self._carrier.pass_on(request, _worker(path, _BY_SUCCESSOR))
            except aiohttp.ClientConnectorError:  # it has drained, and its streams have ended with it
                self._older = [other for other in self._older if other != path]
            except aiohttp.ClientError:  # it is ending just now
                log.info("%s ended before it could be asked for a stream", path)
        return answer

    async def _from_worker(self, request: web.Request, number: int) -> Reply:
        try:
            return await self._carrier.pass_on(request, _worker(self._spec.socket_of(number), _BY_WORKER))
        except aiohttp.ClientError as error:
            if number not in self._spec.others():  # it has just ended, and its streams with it
                return NotFound("no stream of yours has this id")
            raise WorkerLost("the worker that has this stream cannot be reached", retry_after_s=1.0) from error


def _worker(path: str, passed_on_by: str) -> Place:
    """A process of this machine."""
    return Place(path, headers=lambda _method, _target: {PASSED_ON: passed_on_by})


def stop_path(chat_id: str) -> str:
    """The path that stops a chat's answer."""
    return f"/api/chat/{quote(chat_id, safe='', errors='replace')}/stop"


def is_unknown(request: web.Request, answer: Reply) -> bool:
    """Whether the answer says that nobody there has such a stream; to a GET or HEAD, 204 says so."""
    if isinstance(answer, NotFound):
        return True
    return answer.status == 204 and request.method in (hdrs.METH_GET, hdrs.METH_HEAD)
