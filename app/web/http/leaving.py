"""Whether whoever asked has left already, though the event loop does not know it yet."""

from __future__ import annotations

import socket

from aiohttp import web


def has_left(request: web.Request) -> bool:
    """Whether the request's connection is closed, or its end lies in the socket, unread.

    Where this process was stopped or busy a request and its reader's farewell wait there together, and the loop reads the
    second in the turn after the first: for who goes by that the reader is there as long. Behind TLS only the first is seen.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        return True
    sock = transport.get_extra_info("socket")
    if sock is None:
        return False
    try:
        own: socket.socket
        with sock.dup() as own:  # since asyncio lets nobody read from its own
            return not own.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False  # nothing has come, and no end
    except OSError:
        return True


def check_there(request: web.Request) -> None:
    """Raises ConnectionResetError where whoever asked has left."""
    if has_left(request):
        raise ConnectionResetError("the reader left before its request was served")
