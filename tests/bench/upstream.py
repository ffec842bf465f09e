"""A counting Claude that costs as little as it can: `python -m tests.bench.upstream HOST PORT TLS_PORT PEM`.

The simulated Claude can do more; this one drives a thousand streams of 50 tokens/s on half a core, so that two cores
are left for what is measured. A wheel of half-millisecond slots holds the paced streams; a token is one write, and under
TLS one record. The same is served on both ports; PEM is a file with a key and its certificate.

    POST …/messages    streams `tokens` deltas, each ` token` and four digits; at `rate` a second, 0: as fast as they are read
    POST /knobs        changes tokens, rate, hold_after (tokens after which an answer is silent; 0: never), forgets the books
    GET  /stats        requests, tokens handed to the kernel, answers done, readers gone
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import sys
from dataclasses import asdict, dataclass
from typing import Any, cast

from app.tools.load import new_event_loop

WORD = b" token"
_SLOT_S = 0.0005  # 400 tokens a second are one every five slots
_TICK_S = 0.001
# What is made up for in one turn of the loop. One that comes later than that still owes the rest, but turns to its
# connections in between: without a bound, an upstream that is too slow would take no handshake and no question any more.
_MOST_SLOTS = 20
# Under TLS a write buffer is never quite empty between two turns of the loop, so that a limit of 0 would block for good.
_TLS_HIGH_BYTES = 2048
_BULK_TOKENS = 64  # a write of an answer without a pace


@dataclass(slots=True)
class Knobs:
    """How answers go."""

    tokens: int = 1000
    rate: float = 50.0
    hold_after: int = 0


@dataclass(slots=True)
class Books:
    """What was done since they were forgotten."""

    requests: int = 0
    tokens: int = 0
    done: int = 0
    gone: int = 0


def event(payload: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (payload["type"].encode(), json.dumps(payload).encode())


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def delta(number: int) -> bytes:
    text = {"type": "text_delta", "text": f"{WORD.decode()}{number:04d}"}
    return chunk(event({"type": "content_block_delta", "index": 0, "delta": text}))


_USAGE = {"input_tokens": 25, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
_MESSAGE: dict[str, Any] = {
    "id": "msg_bench", "type": "message", "role": "assistant", "model": "claude-opus-4-8", "content": [],
    "stop_reason": None, "stop_sequence": None, "usage": _USAGE | {"output_tokens": 1},
}  # fmt: skip
_BEGIN = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"request-id: req_bench\r\ntransfer-encoding: chunked\r\n\r\n"
) + chunk(
    event({"type": "message_start", "message": _MESSAGE})
    + event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
    + event({"type": "ping"})
)
_DELTAS = [delta(number) for number in range(1000)]


def end(tokens: int) -> bytes:
    stopped = {"stop_reason": "end_turn", "stop_sequence": None}
    last = event({"type": "content_block_stop", "index": 0})
    last += event({"type": "message_delta", "delta": stopped, "usage": _USAGE | {"output_tokens": tokens}})
    return chunk(last + event({"type": "message_stop"})) + b"0\r\n\r\n"


class Upstream:
    """The wheel, and what all connections share."""

    def __init__(self) -> None:
        self.knobs = Knobs()
        self.books = Books()
        self._slots: list[set[UpstreamConnection]] = [set()]
        self._slot = 0
        self._due = 0.0

    def turn(self, knobs: dict[str, Any]) -> None:
        """New knobs, new books. Raises TypeError for an unknown knob."""
        self.knobs, self.books = Knobs(**(asdict(self.knobs) | knobs)), Books()
        self._slots = [set() for _ in range(max(1, round(1 / self.knobs.rate / _SLOT_S)) if self.knobs.rate else 1)]
        self._slot = 0

    def start(self) -> None:
        self._due = asyncio.get_running_loop().time()
        self._tick()

    def enter(self, connection: UpstreamConnection) -> None:
        # The slot that is just over: its next turn is a whole period away, as the first token is sent at once.
        self._slots[self._slot - 1].add(connection)

    def leave(self, connection: UpstreamConnection) -> None:
        for slot in self._slots:
            slot.discard(connection)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for _ in range(_MOST_SLOTS):
            if self._due > now:
                break
            for connection in tuple(self._slots[self._slot]):
                connection.pace()
            self._slot = (self._slot + 1) % len(self._slots)
            self._due += _SLOT_S
        # Whole milliseconds: uvloop counts in them, and turns at once for the part of one.
        loop.call_later(_TICK_S, self._tick)


class UpstreamConnection(asyncio.Protocol):
    """One peer, asking one thing after the other."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._transport: asyncio.Transport | None = None
        self._fd = -1  # written to directly; stays -1 under TLS, where the transport encrypts
        self._asked = b""
        self._sent = self._owed = self._tokens = 0
        self._streaming = self._blocked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        secure = transport.get_extra_info("sslcontext") is not None
        self._transport.set_write_buffer_limits(high=_TLS_HIGH_BYTES if secure else 0)
        if not secure:
            self._fd = sock.fileno()

    def connection_lost(self, error: Exception | None) -> None:
        if self._streaming:
            self._upstream.books.gone += 1
            self._upstream.leave(self)
        self._streaming, self._transport = False, None

    def data_received(self, data: bytes) -> None:
        self._asked += data
        head, found, rest = self._asked.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if len(rest) < length:
            return
        self._asked = rest[length:]
        method, path, _ = head.split(b" ", 2)
        self._answer(method.decode(), path.decode().partition("?")[0], rest[:length])

    def _answer(self, method: str, path: str, body: bytes) -> None:
        assert self._transport is not None, "it has just received"
        if path.endswith("/messages"):
            self._begin()
            return
        if (method, path) == ("POST", "/knobs"):
            self._upstream.turn(json.loads(body))
        told = json.dumps(asdict(self._upstream.books)).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(told)
        self._transport.write(head + told)

    def _begin(self) -> None:
        assert self._transport is not None, "it has just received"
        knobs = self._upstream.knobs
        self._upstream.books.requests += 1
        self._sent = self._owed = 0
        self._tokens, self._streaming = knobs.tokens, True
        self._transport.write(_BEGIN)
        if knobs.rate:
            self._upstream.enter(self)
            self.pace()
        else:
            self._bulk()

    def pace(self) -> None:
        """The next token is due."""
        knobs = self._upstream.knobs
        so_far = self._sent + self._owed
        if not self._streaming or so_far >= self._tokens or 0 < knobs.hold_after <= so_far:
            return
        self._owed += 1
        if not self._blocked:
            self._pay()

    def _pay(self) -> None:
        """Writes what is owed; each token is a write of its own, as Claude's are."""
        while self._owed and not self._blocked and self._transport is not None:
            data = _DELTAS[self._sent % 1000]
            self._owed -= 1
            self._count(1)
            if self._fd < 0 or self._transport.get_write_buffer_size():
                self._transport.write(data)
                continue
            # Past the transport: half the cost. What the kernel does not take goes through it after all.
            try:
                written = os.write(self._fd, data)
            except BlockingIOError:
                written = 0
            except OSError:
                self._transport.abort()
                return
            if written < len(data):
                self._transport.write(data[written:])
        if self._sent >= self._tokens:
            self._finish()

    def _bulk(self) -> None:
        while self._streaming and not self._blocked and self._transport is not None:
            most = min(_BULK_TOKENS, self._tokens - self._sent)
            self._transport.write(b"".join(_DELTAS[(self._sent + n) % 1000] for n in range(most)))
            self._count(most)
            if self._sent >= self._tokens:
                self._finish()

    def _count(self, tokens: int) -> None:
        self._sent += tokens
        self._upstream.books.tokens += tokens

    def _finish(self) -> None:
        if self._streaming and self._transport is not None:
            self._streaming = False
            self._upstream.leave(self)
            self._upstream.books.done += 1
            self._transport.write(end(self._tokens))

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        if self._streaming:
            if self._upstream.knobs.rate:
                self._pay()
            else:
                self._bulk()


async def main(host: str, port: int, tls_port: int, pem: str) -> None:
    upstream = Upstream()
    upstream.turn({})
    upstream.start()
    loop = asyncio.get_running_loop()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(pem)
    async with asyncio.TaskGroup() as serving:
        for at, context in ((tls_port, tls), (port, None)):
            listener = socket.create_server((host, at), backlog=4096)
            server = await loop.create_server(lambda: UpstreamConnection(upstream), sock=listener, ssl=context)
            serving.create_task(server.serve_forever())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
