"""What a server speaks that does not answer as it was asked to, told from what it says to the other way of asking."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from app.fleet.plain_or_tls import speaks_plainly, speaks_tls
from tests.support.tls import certificate, server_side

pytestmark = pytest.mark.real


@asynccontextmanager
async def saying(said: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that answers the first that it is sent with this; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):  # who asked has heard enough
            await reader.read(1)
            writer.write(said)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("said", [b"+PONG\r\n", b"-NOAUTH Authentication required.\r\n", b"-ERR unknown command\r\n"])
async def test_who_answers_in_plain_words_speaks_plainly_and_no_tls(said: bytes) -> None:
    async with saying(said) as port:
        assert await speaks_plainly("127.0.0.1", port)
        assert not await speaks_tls("127.0.0.1", port)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_what_is_neither_is_told_as_neither(said: bytes) -> None:
    async with saying(said) as port:
        assert not await speaks_plainly("127.0.0.1", port)
        assert not await speaks_tls("127.0.0.1", port)


async def test_who_answers_a_hello_speaks_tls_and_not_plainly() -> None:
    async with saying(b"", server_side(certificate())) as port:
        assert await speaks_tls("127.0.0.1", port)
        assert not await speaks_plainly("127.0.0.1", port)


async def test_who_refuses_a_hello_speaks_tls_all_the_same() -> None:
    async with saying(b"\x15\x03\x03\x00\x02\x02\x28") as port:  # handshake_failure (RFC 8446, section 6)
        assert await speaks_tls("127.0.0.1", port)


async def test_where_nobody_listens_nobody_speaks() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    assert not await speaks_plainly("127.0.0.1", port)
    assert not await speaks_tls("127.0.0.1", port)
