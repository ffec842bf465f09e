"""A socket that the network has forgotten: what is sent to it is dropped before TCP sees it, and nobody is told."""

from __future__ import annotations

import ctypes
import socket
import struct

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
# One instruction of the classic packet filter (linux/filter.h): let through 0 bytes of each packet.
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)


def deafen(sock: socket.socket) -> None:
    """From now on nothing that the peer sends reaches it, and so nothing is acknowledged."""
    program = ctypes.create_string_buffer(_DROP_ALL, len(_DROP_ALL))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))


def hear_again(sock: socket.socket) -> None:
    """The network remembers it."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
