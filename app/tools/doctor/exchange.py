"""One request on a connection of its own, and its response as it comes, each piece with the time at which it came.

Its own few lines over httptools, not an HTTP client: nothing here may hold back, unpack or ask again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools

from ..load.connection import SMALL_RCVBUF_BYTES, Target

# A connection that is not made, and a head that does not come, are not waited for longer, in seconds.
_CONNECT_S, HEAD_S = 5.0, 10.0
_READ_BYTES = 65_536
# What asyncio may hold of a response that is not read; it reads up to twice as much.
_SMALL_BYTES, _LARGE_BYTES = 2048, 65_536


class NoAnswer(Exception):
    """No HTTP response came; the message says what did."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked.

    Attributes:
        headers: further ones, beside `Host` and the length.
        declared_bytes: the length that the head names, where it is not the body's.
        small: with a small receive buffer, so that what is not read waits on the way.
    """

    path: str
    headers: Mapping[str, str]
    method: str = "GET"
    body: bytes = b""
    declared_bytes: int | None = None
    small: bool = False

    def raw(self, target: Target) -> bytes:
        """Its bytes."""
        lines = [f"{self.method} {target.base_path}{self.path} HTTP/1.1", f"Host: {target.host}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        length = len(self.body) if self.declared_bytes is None else self.declared_bytes
        if self.method != "GET":
            lines.append(f"Content-Length: {length}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace") + self.body


class Exchange:
    """A request that was sent, and its response.

    Attributes:
        status: 0 until the head has come.
        version: of HTTP, as the response has it.
        headers: with names in lower case.
        told_to_go_on: `100 Continue` came.
        whole: the response has ended as HTTP says it should.
        body_bytes: of the body, read so far, without chunks' framing.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._header_lines: dict[str, str] = {}
        self.status = self.body_bytes = 0
        self.version = ""
        self.headers: dict[str, str] = {}
        self.told_to_go_on = self.whole = False

    @classmethod
    async def begin(cls, target: Target, request: Request) -> Exchange:
        """Connects and sends. Raises NoAnswer. Cancelling closes the connection."""
        sock = socket.socket(target.family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if request.small:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_RCVBUF_BYTES)
            async with asyncio.timeout(_CONNECT_S):
                await asyncio.get_running_loop().sock_connect(sock, target.address)
                reader, writer = await asyncio.open_connection(
                    sock=sock,
                    ssl=target.tls,
                    server_hostname=urlsplit(f"//{target.host}").hostname if target.tls is not None else None,
                    limit=_SMALL_BYTES if request.small else _LARGE_BYTES,
                )
        except TimeoutError:
            sock.close()
            raise NoAnswer(f"no connection within {_CONNECT_S:g} s") from None
        except OSError as error:
            sock.close()
            raise NoAnswer(_reason(error)) from error
        except BaseException:
            sock.close()
            raise
        writer.write(request.raw(target))
        return cls(reader, writer)

    async def head(self, within_s: float = HEAD_S) -> int:
        """The status, once the head has come. Raises NoAnswer. Cancelling is safe."""
        try:
            async with asyncio.timeout(within_s):
                while not self.status:
                    if not await self._read():
                        raise NoAnswer("the connection was closed without an answer")
        except TimeoutError:
            raise NoAnswer(f"nothing was answered within {within_s:g} s") from None
        return self.status

    async def leave_to_send(self, within_s: float) -> None:
        """Waits for `100 Continue` or for an answer, but no longer than that. Raises NoAnswer. Cancelling is safe."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not (self.status or self.told_to_go_on):
                    if not await self._read():
                        raise NoAnswer("the connection was closed without an answer")

    async def pieces(self) -> AsyncIterator[tuple[float, bytes]]:
        """Pieces of the body as they come, each with the time of its arrival in seconds; ends with the connection or the body.

        Raises NoAnswer: it is no HTTP. Cancelling is safe.
        """
        while True:
            if self._parts:
                data, self._parts = b"".join(self._parts), []
                yield clock(), data
            if self.whole or not await self._read():
                return

    async def body(self, most_bytes: int = 65_536) -> bytes:
        """The body, or its beginning. Raises NoAnswer. Cancelling is safe."""
        found = b""
        async for _, data in self.pieces():
            found += data
            if len(found) >= most_bytes:
                break
        return found

    def leave(self) -> None:
        """Closes the connection. Idempotent."""
        self._writer.transport.abort() if self._writer.get_extra_info("ssl_object") else self._writer.close()

    async def _read(self) -> bool:
        """Reads once; False at the end of the connection."""
        try:
            data = await self._reader.read(_READ_BYTES)
        except OSError as error:
            if not self.status:
                raise NoAnswer(_reason(error)) from error
            return False
        if not data:
            # Without a length and without chunks the end of the connection is the end of the body, cut or not.
            self.whole = self.whole or (self.status > 0 and self.ends_by_close)
            return False
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.whole:
                raise NoAnswer("what answers there speaks no HTTP/1.1") from error
        return True

    @property
    def ends_by_close(self) -> bool:
        """Whether only the end of the connection ends the body."""
        return "content-length" not in self.headers and self.headers.get("transfer-encoding", "").lower() != "chunked"

    # What httptools calls

    def on_header(self, name: bytes, value: bytes) -> None:
        said, lines = value.decode("latin-1").strip(), self._header_lines
        key = name.decode("latin-1").lower()
        lines[key] = f"{lines[key]}, {said}" if key in lines else said  # as a browser takes it (RFC 9110, 5.3)

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # only announced (RFC 9110, section 15.2)
            self.told_to_go_on = True
            self._header_lines = {}
            return
        self.status, self.version, self.headers = status, self._parser.get_http_version(), self._header_lines

    def on_body(self, body: bytes) -> None:
        self.body_bytes += len(body)
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self.whole = self.status != 0


def clock() -> float:
    """Now in seconds, finer than the event loop's millisecond."""
    return time.perf_counter()


def _reason(error: OSError) -> str:
    # A certificate's error has its words in another place; those of many addresses are joined.
    number = error.errno or 0
    named = os.strerror(number) if number > 0 and not isinstance(error, ssl.SSLError) else error.strerror
    said = getattr(error, "verify_message", "") or named or str(error) or type(error).__name__
    if hasattr(error, "verify_message"):
        return f"its certificate is not trusted: {said} (SSL_CERT_FILE names a certificate to trust)"
    return " ".join(said.split()).lower()
