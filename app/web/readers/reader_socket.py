"""What the kernel knows of a reader's connection (Linux: `SIOCOUTQ`, `TCP_INFO`)."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys
import termios

from ...streams.liveness import Sample

# struct tcp_info, linux/tcp.h: `tcpi_unacked` at 24 and `tcpi_last_ack_recv` at 56, where they have always been.
_TCP_INFO = struct.Struct("=24xI28xI")
_HAS_TCP_INFO = sys.platform == "linux"


def sample_of(transport: asyncio.Transport, written_bytes: int) -> Sample | None:
    """A look at a connection.

    Args:
        transport: the connection's.
        written_bytes: what was written to it in all, ours alone.

    Returns:
        None where the connection is closed already, or the system tells nothing.
    """
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0 or transport.is_closing():
        return None
    try:
        # SIOCOUTQ has TIOCOUTQ's number. TCP: not yet acknowledged; unix: not yet read by the other side, counted in
        # the kernel's buffers, whole, so that twenty small writes wait as 15 kB.
        queued_bytes: int = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
    except OSError:
        return None
    waiting_bytes = transport.get_write_buffer_size() + queued_bytes
    silent_s, in_flight = None, False
    # Where nothing is queued, nothing is out that could be acknowledged.
    if queued_bytes and _HAS_TCP_INFO and sock.family in (socket.AF_INET, socket.AF_INET6):
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        unacked, last_ack_ms = _TCP_INFO.unpack(info)
        silent_s, in_flight = last_ack_ms / 1000, unacked > 0
    return Sample(waiting_bytes, written_bytes - waiting_bytes, silent_s, in_flight)
