"""What a server speaks that did not answer as redis_url says, so that a `rediss://` too much or too little is told as such.

A server that speaks no TLS waits for the end of the line that a TLS hello does not have, and one that speaks TLS closes on
what is none: neither tells. So it is asked in the other way, without a password, and of its answer the first byte is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl

# So long for the answer, in seconds: whoever asks for Redis meanwhile is told that it is away by a time of its own.
_ANSWERS_S = 1.0
# How an answer begins, in RESP if only as a refusal, and in TLS: an alert or a handshake (RFC 8446, section 5.1).
_PLAINLY, _IN_TLS = (b"+", b"-"), (b"\x15", b"\x16")


async def speaks_plainly(host: str, port: int) -> bool:
    """Whether it answers a PING without TLS. Cancelling is safe."""
    return await _answer_begins(host, port, b"PING\r\n") in _PLAINLY


async def speaks_tls(host: str, port: int) -> bool:
    """Whether it answers a TLS hello. Cancelling is safe."""
    hello = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it goes no further
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello).do_handshake()
    return await _answer_begins(host, port, hello.read()) in _IN_TLS


async def _answer_begins(host: str, port: int, asked: bytes) -> bytes:
    """The first byte of the answer; empty where none comes."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_ANSWERS_S):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(asked)
                return await reader.read(1)
            finally:
                writer.transport.abort()
    return b""
