"""Clients of the simulated Claude for its tests, and a clock that jumps."""

from __future__ import annotations

import asyncio
import json
import selectors
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from app.tools.simulator.scenario import Scenario
from app.tools.simulator.server import Simulator


async def eventually(condition: Callable[[], bool]) -> None:
    """Lets the loop turn, polling its sockets, until the condition holds."""
    while True:
        if condition():
            return
        await asyncio.sleep(0)


class Peer:
    """A client that reads only when told to, so that backpressure and cuts can be seen as they are."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self.received = b""

    @classmethod
    async def connect(cls, simulator: Simulator, rcvbuf_bytes: int | None = None) -> Peer:
        sock = socket.socket()
        if rcvbuf_bytes is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf_bytes)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (simulator.host, simulator.port))
        return cls(sock)

    async def ask(self, directive: str, version: str = "1.1", **body: object) -> None:
        asked = {"model": "claude-opus-5-5", "max_tokens": 1_000_000, "stream": True, "messages": said(directive)}
        raw = json.dumps(asked | body).encode()
        await self.send(
            f"POST /v1/messages HTTP/{version}\r\nhost: x\r\nx-api-key: k\r\ncontent-length: {len(raw)}\r\n\r\n".encode()
            + raw
        )

    async def send(self, raw: bytes) -> None:
        await self._loop.sock_sendall(self._sock, raw)

    async def read_until(self, mark: bytes) -> bytes:
        """Everything up to and with the mark; the rest waits for the next call."""
        while mark not in self.received:
            more = await self._loop.sock_recv(self._sock, 2048)
            assert more, f"closed before {mark!r}: {self.received!r}"
            self.received += more
        found, _, self.received = self.received.partition(mark)
        return found + mark

    async def read_to_end(self) -> bytes:
        while more := await self._loop.sock_recv(self._sock, 65536):
            self.received += more
        return self.received

    def close(self) -> None:
        self._sock.close()

    def reset(self) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Tell me. {{{{{text}}}}}" if text else "Tell me."}]


@asynccontextmanager
async def simulated(
    defaults: Scenario | None = None, **kw: Any
) -> AsyncIterator[tuple[Simulator, aiohttp.ClientSession]]:
    timeout = aiohttp.ClientTimeout(None)
    async with Simulator(defaults, **kw) as simulator:
        # A connection a request: what happens to one must not be hidden by another's reuse.
        connector = aiohttp.TCPConnector(force_close=True)
        headers = {"x-api-key": "k"}
        async with aiohttp.ClientSession(
            simulator.url, headers=headers, timeout=timeout, connector=connector
        ) as session:
            yield simulator, session


def body_of(directive: str, **more: object) -> dict[str, object]:
    return {"model": "claude-opus-5-5", "max_tokens": 1_000_000, "stream": True, "messages": said(directive)} | more


async def streamed(session: aiohttp.ClientSession, directive: str) -> list[dict[str, Any]]:
    """The events of an answer that uses line feeds, whole."""
    async with session.post("/v1/messages", json=body_of(directive)) as response:
        assert response.status == 200
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        return events_of(await response.read())


def events_of(wire: bytes) -> list[dict[str, Any]]:
    return [
        json.loads(block.split(b"data:", 1)[1].split(b"\n", 1)[0]) for block in wire.split(b"\n\n") if b"data:" in block
    ]


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["delta"].get("text", "") for event in events if event["type"] == "content_block_delta")


class _JumpingSelector(selectors.DefaultSelector):
    """Advances time instead of sleeping, once no socket has anything to say."""

    ahead_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        ready = super().select(0.0005)
        if not ready:
            self.ahead_s += timeout
        return ready


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return super().time() + self._jumping.ahead_s


def with_jumping_clock(scene: Callable[[], Awaitable[None]]) -> None:
    """Runs the scene on a clock that jumps: virtual minutes take milliseconds."""

    async def run() -> None:
        await scene()

    with asyncio.Runner(loop_factory=_JumpingLoop) as runner:
        runner.run(run())
