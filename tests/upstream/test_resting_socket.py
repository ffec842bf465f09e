"""The resting socket: what comes lies in the kernel until it is taken, whole and decrypted, and an abort is at once."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import random
import socket
import ssl
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import urlsplit

import pytest

from app.upstream.resting_socket import RestingSocket
from app.upstream.window import Window
from tests.support.raw_upstream import raw_upstream
from tests.support.readers import eventually
from tests.support.tls import certificate, client_side, server_side

pytestmark = pytest.mark.real

NEAR = Window(near_bytes=8192)
RECORD_BYTES = 16_384 + 256  # with what TLS adds (RFC 8446, section 5.2)
both_ways = pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])


@dataclass
class Peer:
    """The other side of one connection, written to by hand.

    Attributes:
        received: what came from us.
        over: set when our side has ended the connection.
        error: how, if it was no FIN.
    """

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: bytearray = field(default_factory=bytearray)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    error: OSError | None = None

    async def listen(self) -> None:
        try:
            while data := await self.reader.read(65_536):
                self.received += data
        except OSError as error:
            self.error = error
        self.over.set()


async def taken(ours: RestingSocket, size_bytes: int, most: Callable[[], int] = lambda: 16_384) -> bytes:
    """Takes until so much has come."""
    data = b""
    while len(data) < size_bytes and not ours.ended:
        if part := ours.take(most()):
            data += part
        else:
            await ours.readable()
    return data


@asynccontextmanager
async def connected(encrypted: bool, window: Window = NEAR) -> AsyncIterator[tuple[RestingSocket, Peer]]:
    """Our end and the peer's, on loopback."""
    accepted: asyncio.Queue[Peer] = asyncio.Queue()
    peers: list[Peer] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(peer := Peer(reader, writer))
        accepted.put_nowait(peer)
        await peer.listen()

    pem = certificate()
    if encrypted:  # and does not wait for our farewell
        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=server_side(pem), ssl_shutdown_timeout=0.2)
    else:
        server = await asyncio.start_server(accept, "127.0.0.1", 0)
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window.near_bytes)
    await asyncio.get_running_loop().sock_connect(sock, server.sockets[0].getsockname())
    ours = RestingSocket(sock, window)
    try:
        if encrypted:
            await ours.handshake(client_side(pem), "127.0.0.1")
        peer = await accepted.get()
        peer.writer.write(b"!")  # behind TLS's own first words, its session tickets
        assert await taken(ours, 1) == b"!"
        yield ours, peer
    finally:
        ours.abort()
        server.close()
        for peer in peers:
            peer.writer.transport.abort()
            await peer.over.wait()


@both_ways
@pytest.mark.parametrize("seed", range(5))
async def test_what_is_sent_is_what_is_taken_however_it_is_cut(encrypted: bool, seed: int) -> None:
    rng = random.Random(seed)
    async with connected(encrypted) as (ours, peer):
        sent = rng.randbytes(300_000)

        async def send() -> None:
            at = 0
            while at < len(sent):
                size = rng.choice([1, 5, 17, 1400, 16_384, 40_000])
                peer.writer.write(sent[at : at + size])
                await peer.writer.drain()
                at += size
            peer.writer.close()

        sending = asyncio.create_task(send())
        assert await taken(ours, len(sent) + 1, lambda: rng.choice([1, 3, 100, 2048, 16_384])) == sent
        assert ours.ended
        await sending


@both_ways
async def test_a_large_request_arrives_whole(encrypted: bool) -> None:
    async with connected(encrypted) as (ours, peer):
        sent = random.Random(1).randbytes(3_000_000)
        await ours.send(sent)
        await ours.send(b"")
        await eventually(lambda: len(peer.received) == len(sent))
        assert peer.received == sent


@both_ways
async def test_while_it_rests_the_peer_waits_with_little_on_the_way(encrypted: bool) -> None:
    async with connected(encrypted) as (ours, peer):
        theirs: socket.socket = peer.writer.get_extra_info("socket")
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        peer.writer.write(b"x" * 1_000_000)
        for _ in range(200):  # turns of the loop in which the peer would write on, if it could
            await asyncio.sleep(0)
        lies_bytes = len(ours._sock.recv(1_000_000, socket.MSG_PEEK))
        assert 0 < lies_bytes <= 2 * NEAR.near_bytes
        assert ours._incoming.pending == 0
        await taken(ours, 900_000)


@both_ways
async def test_nothing_waits_for_a_socket_that_nobody_reads(encrypted: bool) -> None:
    """It is not registered with the loop: packets that come while it rests cost nothing."""
    async with connected(encrypted) as (ours, peer):
        waiting = asyncio.ensure_future(ours.readable())
        await asyncio.sleep(0)
        peer.writer.write(b"one")
        await waiting
        assert not asyncio.get_running_loop().remove_reader(ours._sock.fileno())
        assert await taken(ours, 3) == b"one"


@both_ways
async def test_an_abort_wakes_who_waits_and_resets_a_peer_that_does_not_listen(encrypted: bool) -> None:
    async with connected(encrypted) as (ours, peer):
        waiting = asyncio.ensure_future(ours.readable())
        await asyncio.sleep(0)
        ours.abort()
        ours.abort()
        await waiting
        assert ours.closed
        await peer.over.wait()
        assert isinstance(peer.error, ConnectionResetError)
        with pytest.raises(ConnectionAbortedError):
            ours.take(1)


@both_ways
async def test_an_abort_ends_a_send_that_is_blocked(encrypted: bool) -> None:
    async with connected(encrypted) as (ours, peer):
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sending = asyncio.ensure_future(ours.send(b"x" * 20_000_000))
        await eventually(lambda: ours._waiter is not None)
        ours.abort()
        with pytest.raises(ConnectionAbortedError):
            await sending


@both_ways
@pytest.mark.parametrize("what", ["send", "readable"])
async def test_a_cancelled_wait_leaves_nothing_with_the_loop(encrypted: bool, what: str) -> None:
    async with connected(encrypted) as (ours, peer):
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        waiting: Awaitable[None] = ours.send(b"x" * 20_000_000) if what == "send" else ours.readable()
        task = asyncio.ensure_future(waiting)
        await eventually(lambda: ours._waiter is not None)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        loop, fd = asyncio.get_running_loop(), ours._sock.fileno()
        assert not loop.remove_reader(fd)
        assert not loop.remove_writer(fd)


@pytest.mark.parametrize("ending", ["close_notify", "fin", "garbage"])
async def test_under_tls_what_came_before_the_end_is_taken(ending: str) -> None:
    async with connected(True) as (ours, peer):
        peer.writer.write(b"all there is")
        assert await taken(ours, 12) == b"all there is"
        if ending == "close_notify":
            peer.writer.close()
        else:
            raw: socket.socket = peer.writer.get_extra_info("socket")
            if ending == "garbage":
                with socket.socket(fileno=socket.dup(raw.fileno())) as past_tls:
                    past_tls.send(b"this is no record of TLS")
            else:
                peer.writer.transport.abort()
        if ending == "garbage":
            with pytest.raises(ssl.SSLError):
                await taken(ours, 1)
            return
        try:
            assert await taken(ours, 1) == b""
            assert ours.ended
        except ConnectionResetError:
            assert ending == "fin"


async def test_under_tls_what_came_with_a_record_that_is_none_is_taken_before_that_breaks_it() -> None:
    async with connected(True) as (ours, peer):
        with socket.socket(fileno=socket.dup(peer.writer.get_extra_info("socket").fileno())) as past_tls:
            peer.writer.write(b"paid ")
            peer.writer.write(b"for")
            past_tls.send(b"\x17\x03\x03\x00\x14" + bytes(20))
        assert await taken(ours, 8) == b"paid for"
        await ours.readable()
        with pytest.raises(ssl.SSLError):
            ours.take(1)


@pytest.mark.parametrize(
    ("name", "days", "reason"),
    [
        ("IP:127.0.0.2", 3, "IP address mismatch"),
        ("DNS:elsewhere.example", 3, "IP address mismatch"),
        ("IP:127.0.0.1", -1, "certificate has expired"),
    ],
)
async def test_a_certificate_that_is_not_good_is_refused_with_the_reason(name: str, days: int, reason: str) -> None:
    pem = certificate(name, days)
    over = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over.set()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=server_side(pem))
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, server.sockets[0].getsockname())
    ours = RestingSocket(sock, NEAR)
    with pytest.raises(ssl.SSLCertVerificationError) as refused:
        await ours.handshake(client_side(pem), "127.0.0.1")
    assert reason in refused.value.verify_message
    ours.abort()
    server.close()
    assert not over.is_set(), "the peer was told by an alert: it never had a connection"


async def test_a_session_is_resumed() -> None:
    pem = certificate()
    resumed: list[bool | None] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        resumed.append(writer.get_extra_info("ssl_object").session_reused)
        writer.write(b"hello")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=server_side(pem))
    context, session = client_side(pem), None
    for _ in range(3):
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, server.sockets[0].getsockname())
        ours = RestingSocket(sock, NEAR)
        await ours.handshake(context, "127.0.0.1", session)
        assert await taken(ours, 5) == b"hello"
        session = ours.session
        ours.abort()
    server.close()
    assert resumed == [False, True, True]


class _Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2; `uordblks` is what is allocated, in bytes."""

    _fields_: ClassVar = [(f"field{n}", ctypes.c_size_t) for n in range(7)] + [("uordblks", ctypes.c_size_t)]
    _fields_ += [("fordblks", ctypes.c_size_t), ("keepcost", ctypes.c_size_t)]


def allocated_bytes() -> int:
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo
    return int(mallinfo2().uordblks)


async def test_tickets_that_come_after_the_request_leave_no_buffer_of_a_whole_record_behind() -> None:
    pem = certificate()
    async with raw_upstream([asyncio.Event()], tls=server_side(pem)) as upstream:
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", urlsplit(upstream.url).port))
        ours = RestingSocket(sock, NEAR)
        await ours.handshake(client_side(pem), "127.0.0.1")
        await ours.send(b"GET / HTTP/1.1\r\n\r\n")
        await eventually(lambda: len(upstream.requests) == 1)
        await ours.readable()
        before = allocated_bytes()
        assert ours.take(16_384) == b""
        grown_bytes = allocated_bytes() - before
        session = ours.session
        ours.abort()
    assert session is not None
    assert session.has_ticket, "no ticket came"
    assert grown_bytes < 8192


@both_ways
async def test_put_by_it_is_good_until_the_peer_closes_or_speaks(encrypted: bool) -> None:
    async with connected(encrypted) as (ours, peer):
        assert ours.put_by()
        assert ours.idle_since > 0
        peer.writer.write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        await eventually(lambda: not ours.put_by())
    async with connected(encrypted) as (ours, peer):
        peer.writer.close()
        await eventually(lambda: not ours.put_by())


# The window's rule.


def test_near_by_it_never_grows() -> None:
    assert NEAR.wanted_bytes(1e9, 0.000_05) == 8192


@pytest.mark.parametrize(("tokens_s", "rtt_s"), [(400, 0.2), (1000, 0.08), (100, 0.2), (50, 0.3)])
def test_far_away_it_holds_what_a_round_trip_brings_twice_over(tokens_s: int, rtt_s: float) -> None:
    rate = tokens_s * 140.0  # bytes of a token on the wire, as Claude frames them
    assert 2 * NEAR.wanted_bytes(rate, rtt_s) >= min(2 * rate * rtt_s + 8192, 65_536)


def test_it_never_grows_above_what_the_first_packets_scale_allows() -> None:
    assert NEAR.wanted_bytes(1e9, 1.0) == 32_768
    assert Window(near_bytes=65_536).wanted_bytes(1e9, 1.0) == 65_536, "but what was set is kept"


async def test_a_far_flow_makes_it_grow_and_a_lull_does_not_shrink_it() -> None:
    async with connected(False) as (ours, _):
        ours._rtt_s = 0.08
        ours.flowed(14_000, 0.1)
        grown = ours.buffer_bytes
        assert grown > 8192
        ours.flowed(1, 10.0)
        assert ours.buffer_bytes == grown
        assert ours.put_by()
        assert ours.buffer_bytes < grown, "at rest between two requests it is as small as at first"


@both_ways
async def test_it_takes_what_was_asked_for_and_leaves_the_rest_with_the_kernel(encrypted: bool) -> None:
    async with connected(encrypted, Window(near_bytes=65_536)) as (ours, peer):
        peer.writer.write(bytes(300_000))
        await eventually(lambda: waiting_bytes(ours) >= 32_768)
        at_first, got = waiting_bytes(ours), 0
        for takes in range(1, 9):
            got += len(ours.take(4096))
            assert got <= takes * 4096
            assert waiting_bytes(ours) >= at_first - takes * 4096
            # Read ahead of its reader is a part of one record, at the most.
            assert ours._incoming.pending < RECORD_BYTES


def waiting_bytes(ours: RestingSocket) -> int:
    """What the kernel holds for it."""
    return int.from_bytes(fcntl.ioctl(ours._sock.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)
