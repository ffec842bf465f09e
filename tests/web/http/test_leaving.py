"""Who asked is found to have left as soon as that lies in the socket."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from app.web.http.leaving import check_there, has_left


@pytest.mark.parametrize("how", ["is there", "speaks on", "closes", "closes when it has said more", "breaks off"])
async def test_who_has_left_is_told_from_who_waits(how: str) -> None:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with theirs:
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        transport.pause_reading()  # the loop has not come to it yet
        request: web.Request = make_mocked_request("GET", "/", transport=transport)
        if how in ("speaks on", "closes when it has said more"):
            theirs.sendall(b"GET")
        if how == "breaks off":
            transport.write(b"unread")  # so that its end is a reset
        if how.startswith(("closes", "breaks")):
            theirs.close()
        assert has_left(request) is (how in ("closes", "breaks off"))
        transport.abort()
        assert has_left(request)
        with pytest.raises(ConnectionResetError):
            check_there(request)
        await asyncio.sleep(0)  # the loop closes it
