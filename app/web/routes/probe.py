"""`/api/probe`: made-up streams by which `doctor` finds out what lies between a reader and this service.

A probe asks nothing of Claude and costs nothing. It is sent as an answer is, by the same response and with the same
buffers, so that whatever holds, changes or cuts it does so to answers too. Its callers are those of every other path; two
run at a time, for a minute at most, and each sends 16 MB at most, to a way that takes them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import hdrs, web

from ...errors import BadRequest, NoPlace, NotFound
from ...settings import Settings
from ...settings.sections import SendBuffers
from ..elsewhere.part import Part
from ..entrance.way_in import CALLER, ID, Body, Route
from ..http.bodies import Bodies, BodyBound
from ..http.operation import Answer, Operation
from ..readers.sse_connection import EventStream

# One that waits in silence, and one beside it: what a doctor needs.
_MOST_AT_ONCE = 2
# Longer than any proxy's patience that a heartbeat must outdo.
_MOST_S = 60.0
# More than the sockets of two hops hold when the kernel tunes them up: what swallows this much has a buffer of its own.
_MOST_BYTES = 16_777_216
_MOST_EVENTS = 1200
_MOST_EVENT_BYTES = 65_536
# Of those that are over, and of the posts that were failed, so many are remembered to be asked about.
_KEPT = 32
_BODY = BodyBound(65_536, 10.0)
# What pads events: cut from this at growing places, it is new to whatever compresses, and costs nothing to make.
_PADDING = secrets.token_urlsafe(196_608)
_NO_STORE = {"Cache-Control": "no-store"}
_FAILED_ON_PURPOSE = {
    "error": "this request failed on purpose, as was asked",
    "type": "api_error",
    "retryable": True,
    "source": "service",
}
_SENT = Operation(
    "Be sent a made-up stream",
    "For the doctor: it is sent as answers are, and nothing is asked of Claude.",
    {200: Answer("Its events; the first tells how the request arrived", "text/event-stream", "", ("X-Stream-Id",))},
    parameters=("events", "every_ms", "size", "accel", "cut"),
    errors=(BadRequest, NoPlace),
)
_BECAME = Operation(
    "See what has become of a made-up stream",
    answers={
        200: Answer("What was sent of it, what has left this process, and whether its reader left", schema="Probe")
    },
    errors=(NotFound,),
)
_POSTED = Operation(
    "Send a body for nothing",
    "For the doctor: how much of it arrives, and how often.",
    {200: Answer("What came", schema="ProbePost")},
    parameters=("fail", "on", "as"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a probe sends.

    Attributes:
        events: how many, after the first, which tells what the service has seen of the request.
        every_s: seconds between two; 0 for as fast as they are taken.
        size_bytes: of the padding of each, which nothing compresses.
        says_no_buffering: `X-Accel-Buffering: no`, as every stream does.
        cuts: it ends without HTTP's end, as where a process dies.
    """

    events: int
    every_s: float
    size_bytes: int
    says_no_buffering: bool = True
    cuts: bool = False

    @classmethod
    def of(cls, query: Any) -> Plan:
        """The plan that a query asks for. Raises BadRequest."""
        plan = cls(
            _number(query, "events", 10, _MOST_EVENTS),
            _number(query, "every_ms", 0, int(_MOST_S * 1000)) / 1000,
            _number(query, "size", 0, _MOST_EVENT_BYTES),
            says_no_buffering=_number(query, "accel", 1, 1) == 1,
            cuts=_number(query, "cut", 0, 1) == 1,
        )
        if plan.events * plan.every_s > _MOST_S:
            raise BadRequest(f"events times every_ms is above {_MOST_S:g} seconds", field="every_ms")
        if plan.events * plan.size_bytes > _MOST_BYTES:
            raise BadRequest(f"events times size is above {_MOST_BYTES} bytes", field="size")
        return plan


@dataclass(slots=True)
class Probe:
    """A probe, and what has become of it.

    Attributes:
        sent: events that were written.
        taken_bytes: of the body, what has left this process.
        over: it is done.
        left: its reader had left before the last event.
    """

    probe_id: str
    caller: str | None
    sent: int = 0
    taken_bytes: int = 0
    over: bool = False
    left: bool = False
    digest: Any = field(default_factory=hashlib.sha256)


class Probes:
    """The probes of one process.

    Args:
        settings: of the service; its heartbeat and its bounds are told, so that ways are measured by them.
        bodies: reads those of its requests.
        part: in a fleet; the ids of its probes begin as those of its streams.
    """

    def __init__(self, settings: Settings, bodies: Bodies, part: Part) -> None:
        self._bodies = bodies
        self._buffers: SendBuffers = settings.readers
        self._told = {
            "heartbeat_s": settings.streams.heartbeat_s,
            "max_body_bytes": settings.bodies.max_body_bytes,
            "max_messages_bytes": settings.bodies.max_messages_bytes,
            # A site whose pages may call, by which the way is tried as they would; `*` for any, empty for none.
            "cors_origin": next(iter(settings.callers.cors_origins), ""),
        }
        self._part = part
        self._instance = secrets.token_hex(4)
        self._running = 0
        self._probes: OrderedDict[str, Probe] = OrderedDict()
        self._failed: OrderedDict[str, int] = OrderedDict()  # attempts, by what names a post

    def routes(self) -> list[Route]:
        """The paths of the probes."""
        return [
            Route("GET", "/api/probe", self.send, told=_SENT),
            Route("POST", "/api/probe", self.send, body=Body.STREAMED, told=_SENT),
            Route("GET", f"/api/probe/{ID}", self.tell, told=_BECAME),
            Route("POST", "/api/probe/posts", self.take, body=Body.STREAMED, told=_POSTED),
        ]

    async def send(self, request: web.Request) -> web.StreamResponse:
        """`GET /api/probe`, and `POST`: a stream of events as the query says. Raises BadRequest, NoPlace."""
        plan = Plan.of(request.query)
        if request.method == hdrs.METH_POST:
            await self._bodies.read(request, _BODY)
        if request.method == hdrs.METH_HEAD:
            return web.Response(headers=_NO_STORE)
        with self._place():
            probe = self._begin(request)
            response = EventStream({"X-Stream-Id": probe.probe_id}, self._buffers)
            if not plan.says_no_buffering:
                del response.headers["X-Accel-Buffering"]
            try:
                async with asyncio.timeout(_MOST_S + 1):
                    await response.prepare(request)
                    await self._run(request, response, probe, plan)
            except asyncio.CancelledError:
                probe.left = True
                raise
            except ConnectionError:
                probe.left = True
            except TimeoutError:
                _abort(request)
            finally:
                probe.over = True
            return response

    async def tell(self, request: web.Request) -> web.Response:
        """`GET /api/probe/{id}`: what has become of one of the caller's. Raises NotFound."""
        probe = self._probes.get(request.match_info["id"])
        if probe is None or probe.caller != request[CALLER].name:
            raise NotFound("no probe of yours has this id")
        told = {
            "instance": self._instance,
            "sent": probe.sent,
            "taken_bytes": probe.taken_bytes,
            "over": probe.over,
            "left": probe.left,
            "sha256": probe.digest.hexdigest(),
            "nonce": secrets.token_hex(4),
        }
        return web.json_response(told, headers=_NO_STORE)

    async def take(self, request: web.Request) -> web.Response:
        """`POST /api/probe/posts`: says what came of the body; under `fail` the first attempt is answered as by a service that fails.

        Only the process that the query names fails, and only once, so that no proxy takes a service for dead.
        """
        named = request.query.get("fail", "")[:32]
        attempts = self._failed.get(named, 0)
        if named and request.query.get("on") == self._instance:
            attempts = self._failed[named] = attempts + 1
            _bound(self._failed)
            if attempts == 1 and request.query.get("as") == "cut":
                _abort(request)
            if attempts == 1:
                return web.json_response(_FAILED_ON_PURPOSE, status=503, headers=_NO_STORE)
        size = request.content_length or 0
        if size <= _BODY.max_bytes:
            size = len(await self._bodies.read(request, _BODY))
        told = {"instance": self._instance, "attempts": attempts, "bytes": size, "nonce": secrets.token_hex(4)}
        return web.json_response(told, headers=_NO_STORE)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._running >= _MOST_AT_ONCE:
            raise NoPlace(f"{_MOST_AT_ONCE} probes run here already", retry_after_s=1.0)
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    def _begin(self, request: web.Request) -> Probe:
        probe = Probe(self._part.new_id(), request[CALLER].name)
        self._probes[probe.probe_id] = probe
        _bound(self._probes)
        return probe

    async def _run(self, request: web.Request, response: EventStream, probe: Probe, plan: Plan) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        first = {"probe": probe.probe_id, "instance": self._instance, "seen": _seen(request), **self._told}
        if not plan.events:  # nobody measures it
            first["redis_forgets"] = await self._part.redis_forgets()
        await _write(response, probe, first)
        for number in range(1, plan.events + 1):
            await asyncio.sleep(began + number * plan.every_s - loop.time())
            at_s = round(loop.time() - began, 4)
            await _write(response, probe, {"event": number, "at_s": at_s, "pad": _padding(number, plan.size_bytes)})
        if plan.cuts and request.transport is not None:
            request.transport.close()  # what was written goes out, the last chunk does not


async def _write(response: EventStream, probe: Probe, event: dict[str, Any]) -> None:
    data = b"data: %b\n\n" % json.dumps(event).encode()
    probe.digest.update(data)
    if response.put(data):
        await response.drain()
    probe.sent += 1
    probe.taken_bytes += len(data)


def _padding(number: int, size_bytes: int) -> str:
    begins = number * size_bytes % (len(_PADDING) - _MOST_EVENT_BYTES)
    return _PADDING[begins : begins + size_bytes]


def _seen(request: web.Request) -> dict[str, Any]:
    """What of the request has reached the service."""
    return {
        "http": f"{request.version.major}.{request.version.minor}",
        "last_event_id": request.headers.get("Last-Event-ID", "")[:12],
        "origin": request.headers.get(hdrs.ORIGIN, "")[:200],
        "proxies": len([name for name in request.headers.get("X-Forwarded-For", "").split(",") if name.strip()]),
    }


def _number(query: Any, name: str, default: int, most: int) -> int:
    given = query.get(name, str(default))
    if not (given.isascii() and given.isdigit()) or len(given) > 9 or int(given) > most:
        raise BadRequest(f"{name} must be a whole number from 0 to {most}", field=name)
    return int(given)


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _bound(kept: OrderedDict[str, Any]) -> None:
    while len(kept) > _KEPT:
        kept.popitem(last=False)
