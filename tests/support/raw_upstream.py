"""A Claude that plays given bytes: whatever a gateway, a proxy or a broken server may put in an answer's place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from app.settings import Settings
from app.web.credentials import Credentials
from app.web.runner import Running, running


class Close:
    """What ends a connection in a play: a FIN; `RESET` ends it by a reset."""


CLOSE, RESET = Close(), Close()

# What one request is answered with, in order: bytes to write, seconds to wait, an event to wait for, or an end.
Play = Sequence["bytes | float | asyncio.Event | Close"]

MESSAGE: Final[dict[str, Any]] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-4-8",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 10, "output_tokens": 1},
}


def head(status: int = 200, /, **headers: str) -> bytes:
    """A response's head; `content_type` in the keywords is `content-type` on the wire."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status} Some Reason", *lines, "", ""]).encode()


def response(body: bytes = b"", status: int = 200, /, **headers: str) -> bytes:
    """A whole response, with its length."""
    return head(status, **{"content_length": str(len(body))} | headers) + body


def chunk(body: bytes) -> bytes:
    """One chunk of a body; the last one, if empty."""
    return b"%x\r\n%b\r\n" % (len(body), body)


def event(data: dict[str, Any] | bytes, name: str | None = None) -> bytes:
    """One event of a stream, named by its own type; without an `event:` line, where `name` is empty."""
    payload = data if isinstance(data, bytes) else json.dumps(data).encode()
    name = json.loads(payload)["type"] if name is None else name
    return (f"event: {name}\n".encode() if name else b"") + b"data: %b\n\n" % payload


def delta(text: str, index: int = 0) -> bytes:
    return event({"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}})


START: Final = event({"type": "message_start", "message": MESSAGE}) + event(
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
)
END: Final = (
    event({"type": "content_block_stop", "index": 0})
    + event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}})
    + event({"type": "message_stop"})
)
HELLO: Final = START + delta("Hello") + delta(" world") + END


def stream_head(**headers: str) -> bytes:
    """The head of a stream of events, whose body comes in chunks."""
    return head(**{"content_type": "text/event-stream", "transfer_encoding": "chunked"} | headers)


def stream(body: bytes, **headers: str) -> bytes:
    """A whole stream of events."""
    return stream_head(**headers) + chunk(body) + chunk(b"")


@dataclass
class RawUpstream:
    """Answers each request with the next play; the last one stands for all further ones.

    Attributes:
        plays: what it answers with.
        requests: what it was asked: each request's head and body.
        connections: how many were opened.
        resumed: of these under TLS, whether each resumed a session.
        sent_bytes: of what it wrote, what its socket took.
    """

    plays: list[Play]
    url: str = ""
    requests: list[tuple[str, bytes]] = field(default_factory=list)
    connections: int = 0
    resumed: list[bool] = field(default_factory=list)
    sent_bytes: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if (encryption := writer.get_extra_info("ssl_object")) is not None:
            self.resumed.append(encryption.session_reused)
        try:
            while True:
                request = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = [line for line in request.lower().split("\r\n") if line.startswith("content-length:")]
                body = await reader.readexactly(int(length[0].partition(":")[2])) if length else b""
                self.requests.append((request, body))
                if not await self._play(self.plays[min(len(self.requests), len(self.plays)) - 1], writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _play(self, play: Play, writer: asyncio.StreamWriter) -> bool:
        """Tells whether the connection takes another request."""
        for step in play:
            match step:
                case bytes():
                    for start in range(0, len(step), 65_536):
                        writer.write(step[start : start + 65_536])
                        await writer.drain()
                        self.sent_bytes += len(step[start : start + 65_536])
                case asyncio.Event():
                    await step.wait()
                case Close():
                    if step is RESET:
                        linger = struct.pack("ii", 1, 0)  # for no time: then closing resets
                        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                        writer.transport.abort()
                    return False
                case _:
                    await asyncio.sleep(step)
        return True


@asynccontextmanager
async def raw_upstream(*plays: Play, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawUpstream]:
    """A `RawUpstream` on a free port of the loopback, under TLS where its side of it is given."""
    upstream = RawUpstream(list(plays))
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        with contextlib.suppress(asyncio.CancelledError):  # its test is over
            await upstream.serve(reader, writer)
        serving.discard(task)

    if tls is None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
    else:  # and does not wait for a farewell, which an abort does not say
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls, ssl_shutdown_timeout=0.1)
    scheme = "http" if tls is None else "https"
    upstream.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield upstream
    finally:
        server.close()
        for task in list(serving):
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


KEY: Final = "configured-key-of-the-service"


@asynccontextmanager
async def behind(upstream: RawUpstream, **given: object) -> AsyncIterator[Running]:
    """The service in front of it, with settings by keyword. However busy the machine is, a refusal keeps its status."""
    settings = Settings.model_validate({"port": 0, "admin_port": 0, "max_lag_s": 60.0, "commit_s": 20.0} | given)
    async with running(settings, Credentials(api_key=KEY, base_url=upstream.url)) as service:
        yield service
