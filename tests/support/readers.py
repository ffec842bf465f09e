"""Readers on raw sockets, each with its own manners: fast, slow, stalled, leaving, and the simplest browser code."""

from __future__ import annotations

import asyncio
import codecs
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

JSON = {"Content-Type": "application/json"}

# What is promised at once takes milliseconds; a busy machine is given more, and who forgets the promise needs longer yet.
# That no moment passes is shown without a clock (`tests/streams/test_session.py`), and how long it takes by the bench.
AT_ONCE_S = 3.0


async def eventually(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Waits for what no event tells: other processes, sockets, what the loop cleans up behind itself."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.002)


async def steady(value: Callable[[], int], quiet_s: float = 1.0) -> int:
    """The value, once it has not changed for `quiet_s` seconds in which the loop ran: a machine that stands still does not count."""
    seen, looks = value(), 0
    while looks < quiet_s / 0.02:
        await asyncio.sleep(0.02)
        looks += 1
        if (now := value()) != seen:
            seen, looks = now, 0
    return seen


def sockets(pid: int | None = None) -> int:
    """How many sockets a process holds; without a pid, this one."""
    folder = f"/proc/{pid or 'self'}/fd"
    count = 0
    for fd in os.listdir(folder):
        try:
            count += os.readlink(f"{folder}/{fd}").startswith("socket:")
        except FileNotFoundError:  # closed in between; for this process, the listing's own
            continue
    return count


class Reader:
    """An HTTP client that reads only when told to, so that what waits for it waits in the kernel, or further up.

    Attributes:
        body: what was read of the body, without chunk framing, and not yet taken by `until`.
        body_bytes: how much of the body was read, ever.
        wire_bytes: how much was read from the socket, ever.
        ended: the body has ended as HTTP says it should.
        left_at: seconds since the epoch when the reader left.
    """

    def __init__(self, sock: socket.socket, host: str) -> None:
        self._sock = sock
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._wire = b""
        self._chunked = False
        self._chunk_left = 0  # of the chunk that is being read, with the line end after it
        self._length: int | None = None
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.body_bytes = self.wire_bytes = 0
        self.ended = False
        self.left_at = 0.0

    @classmethod
    async def connect(cls, url: str, rcvbuf_bytes: int | None = None) -> Reader:
        """Connects to `http://host:port` or `unix:PATH`; a receive buffer given is never tuned by the kernel."""
        path = url.removeprefix("unix:") if url.startswith("unix:") else None
        sock = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        sock.setblocking(False)
        if rcvbuf_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf_bytes)
        parts = urlsplit(url)
        address: Any = path or (parts.hostname, parts.port)
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return cls(sock, parts.netloc or "localhost")

    async def send(self, raw: bytes) -> None:
        await self._loop.sock_sendall(self._sock, raw)

    def request(
        self,
        body: bytes,
        *,
        method: str = "POST",
        path: str = "/api/stream",
        version: str = "1.1",
        headers: Mapping[str, str] = JSON,
    ) -> bytes:
        """The bytes of a request."""
        lines = [f"{method} {path} HTTP/{version}", f"Host: {self._host}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + body

    async def ask(self, directive: str, *, version: str = "1.1", **body: Any) -> None:
        """Sends the question; the simulated Claude answers as the directive says."""
        raw = json.dumps({"prompt": f"Go. {{{{{directive}}}}}"} | body).encode()
        await self.send(self.request(raw, version=version))

    async def head(self) -> int:
        """Reads the status and the headers."""
        while b"\r\n\r\n" not in self._wire:
            assert await self._receive(4096), f"closed before the head's end: {self._wire!r}"
        head, _, self._wire = self._wire.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status.split(" ")[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._chunked = self.headers.get("transfer-encoding") == "chunked"
        self._length = int(self.headers["content-length"]) if "content-length" in self.headers else None
        self._unwrap()
        return self.status

    async def some(self, most_bytes: int = 65536) -> bool:
        """Reads once; tells whether there was something, be it only framing."""
        if self.ended or not await self._receive(most_bytes):
            return False
        self._unwrap()
        return True

    async def until(self, mark: bytes) -> bytes:
        """The body up to and with the mark; the rest waits for the next call."""
        while mark not in self.body:
            assert await self.some(2048), f"ended before {mark!r}: {self.body!r}"
        found, _, self.body = self.body.partition(mark)
        return found + mark

    async def rest(self) -> bytes:
        """The body to its end."""
        while await self.some():
            pass
        return self.body

    async def closed(self) -> bool:
        """Waits for what comes after the answer; tells whether that is nothing, because the other side closed."""
        return not await self._receive(65536)

    async def at(self, bytes_per_s: float, duration_s: float) -> None:
        """Reads at a bounded speed, ten times a second."""
        step_bytes = max(1, round(bytes_per_s / 10))
        began = self._loop.time()
        for tick in range(1, round(duration_s * 10) + 1):
            await self.some(step_bytes)
            await asyncio.sleep(began + tick / 10 - self._loop.time())

    def leave(self) -> None:
        """Closes, as a tab does."""
        self.left_at = self.left_at or time.time()
        self._sock.close()

    def reset(self) -> None:
        """Leaves with RST, as a killed browser does."""
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.leave()

    def half_close(self) -> None:
        """Sends FIN and still could read; no browser does that."""
        self.left_at = time.time()
        self._sock.shutdown(socket.SHUT_WR)

    async def _receive(self, most_bytes: int) -> bool:
        more = await self._loop.sock_recv(self._sock, most_bytes)
        self.wire_bytes += len(more)
        self._wire += more
        if not more and self.status and not self._chunked and self._length is None:
            self.ended = True
        return bool(more)

    def _unwrap(self) -> None:
        if not self._chunked:
            self._take(self._wire)
            self._wire = b""
            self.ended = self._length is not None and self.body_bytes >= self._length
            return
        while self._wire:
            if not self._chunk_left:
                size, found, rest = self._wire.partition(b"\r\n")
                if not found:
                    return
                if int(size, 16) == 0:
                    self.ended, self._wire = True, b""
                    return
                self._chunk_left, self._wire = int(size, 16) + 2, rest
            piece = self._wire[: self._chunk_left]
            self._take(piece[: max(0, self._chunk_left - 2)])
            self._chunk_left -= len(piece)
            self._wire = self._wire[len(piece) :]

    def _take(self, piece: bytes) -> None:
        self.body += piece
        self.body_bytes += len(piece)


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The events of the plain protocol; asserts its framing: line feeds only, `id:` counting from 1, one `data:` line."""
    assert b"\r" not in body
    assert body.endswith(b"\n\n"), f"cut: {body[-80:]!r}"
    events: list[dict[str, Any]] = []
    for block in body.decode().removesuffix("\n\n").split("\n\n"):
        while block.startswith(":"):  # signs of life stand before the event that follows them
            comment, _, block = block.partition("\n")
            assert comment == ": keep-alive"
        number, data = block.split("\n")
        assert number == f"id: {len(events) + 1}"
        assert data.startswith("data: ")
        events.append(json.loads(data.removeprefix("data: ")))
    return events


@dataclass
class Told:
    """What a reader of the plain protocol was told, put together.

    Attributes:
        tools: by block index: id, name and the joined JSON.
        last: the last event; `events_of` and this hold that there is exactly one, at the end.
    """

    text: str = ""
    thinking: str = ""
    tools: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, events: list[dict[str, Any]]) -> Told:
        told = cls()
        for event in events:
            assert not told.last, f"something came after the last event: {event}"
            if "done" in event or "error" in event:
                told.last = event
            elif "tool_use" in event:
                tool = event["tool_use"]
                at, grown = tool["index"], told.tools.get(tool["index"])
                if grown is None:
                    told.tools[at] = (tool["id"], tool["name"], "")
                else:
                    told.tools[at] = (grown[0], grown[1], grown[2] + tool["partial_json"])
            else:
                assert len(event) == 1
                told.text += event.get("text", "")
                told.thinking += event.get("thinking", "")
        assert told.last, "the stream had no last event"
        return told


class BrowserReader:
    """The simplest browser code there is, step for step: decode as it comes, split on a bare blank line, keep the
    incomplete tail, take the first line that begins with `data: `, parse it, use `text`, throw `error`.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._buffer = ""
        self.tokens: list[str] = []
        self.error: str | None = None

    def push(self, value: bytes) -> None:
        self._buffer += self._decoder.decode(value)
        *events, self._buffer = self._buffer.split("\n\n")
        for event in events:
            line = next((line for line in event.split("\n") if line.startswith("data: ")), None)
            if line is None:
                continue
            data = json.loads(line[6:])
            if data.get("text"):
                self.tokens.append(data["text"])
            if data.get("error"):
                self.error = data["error"]
