"""The port on which other processes of the fleet reach this one's streams: a listener of its own, never the public one.

It takes nothing but requests to resume, stop or steer a stream, and only from who proves to be of the fleet and to mean
this very process; anybody else gets one and the same short answer. The reader's own key comes along and is judged here
again, so that a process of the fleet has no more rights than the readers whom it serves.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from aiohttp import web

from ...fleet.contact import RedisAway, RedisRefused
from ...fleet.member import Member
from ...fleet.proof import PROOF, is_proof
from ...fleet.tcp import PortTaken, tcp_sockets
from ...settings import SettingsError
from ..entrance.way_in import ID, Entrance, Route
from ..http.errors import Handler, errors_as_json
from ..http.response_headers import guard_response
from .carrying import ANSWERED, MISDIRECTED

log = logging.getLogger(__name__)

# What names no address by which others could reach it.
EVERYWHERE = ("", "0.0.0.0", "::")
# A port that somebody else has is tried again this often, in seconds: it may be that of a process that drains.
_AGAIN_S = 5.0


def peers_app(
    member: Member, in_doubt: Callable[[], bool], entrance: Entrance, routes: Iterable[Route]
) -> web.Application:
    """What answers there.

    Args:
        member: this process.
        in_doubt: whether others may have ended streams of it, and it does not know which.
        entrance: lets the readers in, by their own keys, under any name of this host.
        routes: all of the service's, of which those of a stream that has begun are taken.
    """

    @web.middleware
    async def prove(request: web.Request, handler: Handler) -> web.StreamResponse:
        given, secret = request.headers.get(PROOF, ""), member.secret
        # What waited while this process was stopped has long been answered by others.
        slept = in_doubt() or member.sleeps(asyncio.get_running_loop().time())
        if slept or secret is None or not is_proof(given, secret, member.incarnation, request.method, request.path_qs):
            return web.Response(status=MISDIRECTED, text="not for you, or not for me\n")
        answer = await handler(request)
        if not answer.prepared:  # the head of a stream says enough
            answer.headers[ANSWERED] = "1"
        return answer

    app = web.Application(middlewares=[prove, errors_as_json, entrance.middleware])
    entrance.install(app, [route for route in routes if route.path.startswith("/api/") and ID in route.path])
    app.on_response_prepare.append(guard_response)
    return app


async def keep_listening(
    member: Member,
    where: tuple[str, int],
    reached_from: Callable[[], Awaitable[str]],
    serve: Callable[[socket.socket], Awaitable[object]],
) -> None:
    """Opens the port once the address is known, and says it in the lease at once; until cancelled.

    Args:
        member: this process.
        where: address and port; an empty address, or all of them, is that from which Redis is reached, port 0 a free one.
        reached_from: waits until Redis was reached, and tells from which address; empty over a unix socket.
        serve: serves what is accepted from a socket, and closes it at the end.
    """
    host, port = where
    if host in EVERYWHERE:  # the others need to be told of one
        host = await reached_from()  # until then nobody knows the address
    # Where Redis is reached by a unix socket, so are all who share it.
    host = host or "127.0.0.1"
    for sock in await _opened(host, port, member.shown.set):
        await serve(sock)
        member.address = (sock.getsockname()[0], sock.getsockname()[1])
        with suppress(RedisAway, RedisRefused):  # then each beat tries it again
            await member.beat()
    member.shown.set()
    await asyncio.get_running_loop().create_future()  # what runs beside the service ends with it


async def _opened(host: str, port: int, waits: Callable[[], object]) -> list[socket.socket]:
    """What listens there, once nobody else does, which `waits` is told of; nothing where nobody can."""
    told = False
    while True:
        try:
            sockets = tcp_sockets(host, port, names=("peer_host", "peer_port"))[0]
        except SettingsError as error:
            if not told:
                log.error("other processes cannot reach this one's streams, and read them from Redis: %s", error)
            if not isinstance(error, PortTaken):
                return []
            told = True
            waits()
            await asyncio.sleep(_AGAIN_S)
        else:
            if told:
                log.warning("other processes can reach this one's streams: peer_port %d is free", port)
            return sockets
