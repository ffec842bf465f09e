"""One reader's connection: a raw protocol that reads as much as it is told, so that what it leaves waits upstream."""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

from .reply import Garbled, Reply

# All readers read into one buffer: what is in it is taken apart before the next read.
_BUFFER = memoryview(bytearray(65_536))
# Readers that hold still get a receive buffer that cannot swallow the answer for them; Linux doubles it.
SMALL_RCVBUF_BYTES = 4096
_SO_ATTACH_FILTER = 26  # Linux, socket(7)


@dataclass(frozen=True, slots=True)
class Target:
    """Where the service listens.

    Attributes:
        host: the name of the service, or of the proxy before it, as it stands in the `Host` header.
        address: `(address, port)`, or the path of a unix socket.
        family: of the address.
        tls: for `https`; None for plain.
        base_path: what stands before every path.
    """

    host: str
    address: tuple[str, int] | str
    family: socket.AddressFamily
    tls: ssl.SSLContext | None = None
    base_path: str = ""

    @classmethod
    def of(cls, url: str, *, trusts_any: bool = False) -> Target:
        """Reads `http://host:port`, `https://host/base` or `unix:PATH`, and looks the name up once for all readers.

        Args:
            url: where the service, or the proxy before it, listens.
            trusts_any: takes any certificate.

        Raises:
            ValueError: it is none of these. OSError: the name cannot be looked up.
        """
        if url.startswith("unix:"):
            return cls("localhost", url.removeprefix("unix:"), socket.AF_UNIX)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is neither http://HOST:PORT nor https://HOST nor unix:PATH")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        family, _, _, _, found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)[0]
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        if tls is not None and trusts_any:
            tls.check_hostname = False
            tls.verify_mode = ssl.CERT_NONE
        return cls(parts.netloc.rpartition("@")[2], (str(found[0]), port), family, tls, parts.path.rstrip("/"))

    @property
    def loopback(self) -> bool:
        """Whether the service is on this machine."""
        return isinstance(self.address, str) or ipaddress.ip_address(self.address[0].partition("%")[0]).is_loopback

    async def connect(
        self, request: bytes, reply: Reply, heard: Callable[[int], None], *, small: bool
    ) -> LoadConnection:
        """Connects and sends the request.

        Args:
            request: its bytes.
            reply: takes the response apart.
            heard: called after each read with the number of events with content in it.
            small: with a small receive buffer.

        Raises:
            OSError: it cannot be connected. Cancelling closes the connection.
        """
        loop = asyncio.get_running_loop()
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_RCVBUF_BYTES)
            if self.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, self.address)
            _, connection = await loop.create_connection(
                lambda: LoadConnection(sock, reply, heard),
                sock=sock,
                ssl=self.tls,
                server_hostname=urlsplit(f"//{self.host}").hostname if self.tls is not None else None,
            )
        except BaseException:
            sock.close()
            raise
        connection.send(request)
        return connection


class LoadConnection(asyncio.BufferedProtocol):
    """Reads one response.

    Attributes:
        over: done when nothing more comes: the response is whole, or the connection is lost. Never raises.
        wire_bytes: read from the socket.
        garbled: the response could not be taken apart.
    """

    def __init__(self, sock: socket.socket, reply: Reply, heard: Callable[[int], None]) -> None:
        self._sock = sock
        self._reply = reply
        self._heard = heard
        self._transport: asyncio.Transport | None = None
        self._allowed_bytes: int | None = None  # may still be read; None: everything
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.wire_bytes = 0
        self.garbled = False

    def send(self, request: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(request)

    def allow(self, size_bytes: int | None) -> None:
        """Reads that many bytes more and then stops; 0 stops at once; None reads on without end."""
        self._allowed_bytes = size_bytes
        if self._transport is None or self._transport.is_closing():
            return
        if size_bytes == 0:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def leave(self, *, resets: bool = False) -> None:
        """Closes: with FIN as a closed tab does, or with RST as a killed browser does. Idempotent."""
        if self._transport is None or self._transport.is_closing():
            return
        if resets:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def vanish(self) -> bool:
        """From now on the kernel drops every packet that comes for this socket before TCP sees it.

        Nothing is acknowledged, nothing is sent, nothing is reset: to the peer it is a phone in a tunnel. A classic
        BPF filter on one's own socket needs no rights. Without TCP or Linux the reader only stops reading, which a
        peer can tell from vanishing; then this returns False.
        """
        self.allow(0)
        if sys.platform != "linux" or self._sock.family == socket.AF_UNIX:
            return False
        drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET: keep 0 bytes
        program = struct.pack("HL", 1, ctypes.addressof(drop_all))
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        return True

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _BUFFER if self._allowed_bytes is None else _BUFFER[: max(1, min(self._allowed_bytes, len(_BUFFER)))]

    def buffer_updated(self, nbytes: int) -> None:
        self.wire_bytes += nbytes
        if self._allowed_bytes is not None:
            self._allowed_bytes = max(0, self._allowed_bytes - nbytes)
            if not self._allowed_bytes and self._transport is not None:
                self._transport.pause_reading()
        try:
            contents = self._reply.feed(bytes(_BUFFER[:nbytes]))
        except Garbled:
            self.garbled = True
            self.leave()
            return
        if contents:
            self._heard(contents)
        if self._reply.whole:
            self._end()

    def connection_lost(self, error: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


def clock() -> float:
    """Now in seconds, finer than the event loop's millisecond."""
    return time.perf_counter()
