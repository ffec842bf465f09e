"""New keys, which the peer asks for while a request is on its way to it (RFC 8446, section 4.6.3; RFC 5246, section 7.4.1.1)."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.upstream.resting_socket import RestingSocket
from app.upstream.window import Window
from tests.support.readers import eventually
from tests.support.tls import certificate, client_side

pytestmark = pytest.mark.real

END = b"the end of the request"


@asynccontextmanager
async def openssl_server(version: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """OpenSSL's own server: it writes what it is sent to its output, and asks for new keys at a letter on its input."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ("openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", str(certificate()), version)
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec(
        *command, "-key", str(certificate()), stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    try:
        assert server.stdout is not None
        await server.stdout.readuntil(b"ACCEPT\n")
        yield server, port
    finally:
        server.kill()
        await server.wait()


class Middle:
    """Stands between the two: passes what the server says at once, and holds what the client says while it is told to.

    Attributes:
        passes: set while what the client says is passed on.
        said: set whenever the server has said something.
        over: nothing of it is left.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self.passes, self.said, self.over = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.passes.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        down = asyncio.create_task(self._down(there, writer))
        with contextlib.suppress(ConnectionError):
            # Not a piece of a record either: with one at hand the server asks for no handshake.
            while (data := await reader.read(65_536)) and await self.passes.wait():
                back.write(data)
                await back.drain()
        back.transport.abort()
        await down
        writer.transport.abort()
        self.over.set()

    async def _down(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await there.read(65_536):
                writer.write(data)
                self.said.set()


@pytest.mark.parametrize(("version", "ask"), [("-tls1_3", b"K\n"), ("-tls1_2", b"r\n")], ids=["TLS 1.3", "TLS 1.2"])
async def test_new_keys_that_are_asked_for_in_mid_request_take_their_turn(version: str, ask: bytes) -> None:
    async with openssl_server(version) as (server, port):
        assert server.stdin is not None
        assert server.stdout is not None
        middle = Middle(port)
        standing = await asyncio.start_server(middle.serve, "127.0.0.1", 0)
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, standing.sockets[0].getsockname())
        ours = RestingSocket(sock, Window(8192))
        await ours.handshake(client_side(certificate()), "127.0.0.1")
        await server.stdout.readuntil(b"CIPHER is")  # it has all of the handshake
        middle.passes.clear()
        sending = asyncio.create_task(ours.send(b"." * 12_000_000 + END))
        await eventually(lambda: ours._waiter is not None)  # the kernel takes no more
        middle.said.clear()
        server.stdin.write(ask)
        await middle.said.wait()
        await eventually(lambda: ours._waiter is not None)
        middle.passes.set()
        try:
            await asyncio.gather(sending, _arrives(server.stdout))
        finally:
            ours.abort()
            await middle.over.wait()
            standing.close()


async def _arrives(output: asyncio.StreamReader) -> None:
    read = b""
    while END not in read:
        read = read[-100:] + await output.read(65_536)
        assert b"error:" not in read, f"the server could not read it: {read[-300:]!r}"
