"""A connection to Claude that rests: nobody polls it while nobody reads it, and everything that lies in it is bounded.

What comes while it rests stays in the kernel, in the small receive buffer, encrypted as it is; a full one makes Claude's
side wait. `take()` then brings in one wake-up whatever came: one `recv`, and under TLS a few `SSL_read`.

Rejected, with what was measured (spike, 2026-11): `ssl.SSLSocket` costs 1.9 to 2.6 times as much a read, because it asks
the kernel twice a record; asyncio's and uvloop's TLS transports buffer up to 256 kB beside us and parse on every packet;
kernel TLS needs Python 3.12 and a module that few kernels have.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import sys

from .window import Window

# struct tcp_info, linux/tcp.h: `tcpi_unacked` in segments, `tcpi_last_ack_recv` in milliseconds ago, and `tcpi_rtt` in
# microseconds, where they have always been.
_TCP_INFO = struct.Struct("=24xI28xI8xI")
_HAS_TCP_INFO = sys.platform == "linux"
# SO_LINGER on, with no time: close() drops what is unsent and resets, whatever state the peer is in.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
# Ciphertext goes in by slices of this many bytes, because a MemoryBIO keeps the largest size that it ever had.
_SLICE_BYTES = 2048
# A TLS record holds at most this much plaintext (RFC 8446, section 5.1): one SSL_read takes a record, whole.
_RECORD_BYTES = 16_384
# Type, version and length come first (section 5.1); ciphertext may be 256 bytes longer, in TLS 1.2 2,048 (RFC 5246, 6.2.3).
_RECORD_HEAD_BYTES = 5
_MOST_RECORD_BYTES = _RECORD_HEAD_BYTES + _RECORD_BYTES + 2048
_NO_BIO = ssl.MemoryBIO()
# A request is encrypted and handed to the kernel in pieces of this size, so that a large body is not held twice.
_SEND_BYTES = 65_536


class Answered(ConnectionError):
    """The peer answers before it has taken the whole request: it does not want the rest."""


class RestingSocket:
    """One connected socket, plain or under TLS, for one task at a time.

    Args:
        sock: connected and non-blocking; from now on it is ours.
        window: how its receive buffer grows.

    Attributes:
        ended: the peer has closed its side, and all that came before was taken.
        closed: we have closed or aborted it.
        more: the last `take` had as much as it might: more may lie there.
        used: a request was sent on it before: it may be stale.
        idle_since: loop time at which it was put by, where it was.
    """

    __slots__ = (
        "_broken", "_buffer_bytes", "_ciphertext", "_early", "_incoming", "_loop", "_outgoing", "_rate", "_rtt_s", "_sending", "_sock", "_tls", "_unsent", "_waiter",
        "_window", "closed", "ended", "idle_since", "more", "used",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, window: Window) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._tls: ssl.SSLObject | None = None
        self._incoming = self._outgoing = _NO_BIO  # replaced by its own under TLS
        self._ciphertext = b""  # the beginning of a record whose end has not come, at most `_MOST_RECORD_BYTES`
        self._early = b""  # what had come of an answer while the request was being sent
        self._broken: ssl.SSLError | None = None  # what follows on what was taken last
        self._unsent = b""  # of what TLS itself has to say while we read: a key update's answer, of some bytes
        self._sending = False  # part of a record may be with the kernel: what TLS itself has to say waits for its turn
        self._waiter: asyncio.Future[None] | None = None  # set while a task waits for the kernel
        self._window = window
        self._buffer_bytes = window.near_bytes
        self._rtt_s = 0.0
        self._rate = 0.0  # bytes/s lately, 0 while unknown
        self.ended = self.closed = self.more = self.used = False
        self.idle_since = 0.0

    @property
    def encrypted(self) -> bool:
        """Whether TLS is spoken on it."""
        return self._tls is not None

    @property
    def resumed(self) -> bool:
        """Whether the handshake was spared by an earlier connection's TLS session."""
        return self._tls is not None and bool(self._tls.session_reused)

    @property
    def session(self) -> ssl.SSLSession | None:
        """The TLS session, for a later connection to resume; best asked for once data has come (TLS 1.3's tickets).

        None where OpenSSL cannot copy it, which it cannot with a certificate of some 64 kB and more in it.
        """
        try:
            return self._tls.session if self._tls is not None else None
        except ValueError:
            return None

    async def handshake(self, context: ssl.SSLContext, host: str, session: ssl.SSLSession | None = None) -> None:
        """Goes over to TLS.

        Raises:
            ssl.SSLError: it came to none; `ssl.SSLCertVerificationError` says why a certificate was refused.
            ConnectionError: the peer closed meanwhile.

        Cancelling leaves it unusable: abort it.
        """
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host, session=session)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._send_raw(self._outgoing.read())
                self._incoming.write(await self._receive_raw())
            except ssl.SSLError:
                with contextlib.suppress(OSError):  # the peer's log is to know why, if it still listens
                    self._sock.send(self._outgoing.read())
                raise
        await self._send_raw(self._outgoing.read())
        self._tls = tls
        self._ciphertext = self._incoming.read()  # what came after the handshake begins with a record

    async def send(self, data: bytes) -> None:
        """Sends all of it.

        Raises:
            Answered: the peer has spoken already. ConnectionError: the connection broke. Cancelling leaves it open how much was sent: abort it then.
        """
        self.used = True
        if self._tls is None:
            return await self._send_raw(data, listening=True)
        view = memoryview(data)
        self._sending = True
        for start in range(0, len(view), _SEND_BYTES):
            while not self._encrypted(view[start : start + _SEND_BYTES]):
                await self._send_records()
                await self._listen(writing=False)
            await self._send_records()
        self._sending = False

    def take(self, most_bytes: int) -> bytes:
        """What has come, at once and decrypted; nothing where nothing has, or where it `ended`.

        Args:
            most_bytes: taken from the kernel at the most.

        Raises:
            OSError: the connection broke; ssl.SSLError: what came is not what was sent.
        """
        if self.closed:
            raise ConnectionAbortedError("the connection was closed by us")
        if self._broken is not None:
            raise self._broken
        if self._early:
            early, self._early = self._early, b""
            return early
        try:
            data = self._sock.recv(most_bytes)
        except (BlockingIOError, InterruptedError):
            self.more = False
            return b""
        self.more = len(data) == most_bytes
        if not data:
            self.ended = True
            return b""
        return data if self._tls is None else self._decrypted(data)

    async def readable(self) -> None:
        """Returns when there is something to `take`, or the socket was aborted. Cancelling is safe."""
        if not self._early and self._broken is None:
            await self._wait(reading=True, writing=False)

    def wake(self) -> None:
        """Lets a waiting `readable()` return, as if something had come."""
        if self._waiter is not None:
            _done(self._waiter)

    def measure(self) -> None:
        """Looks how far away the peer is, and gives the receive buffer its first size: once, after connecting."""
        if (info := self._tcp_info()) is not None:
            self._rtt_s = info[2] / 1e6
            self._grow(self._window.wanted_bytes(self._window.FIRST_RATE, self._rtt_s))

    @property
    def unheard_s(self) -> float:
        """For how long the peer has acknowledged nothing, while something that was sent waits for it, in seconds.

        0 where nothing waits, and where the system does not tell.
        """
        if self.closed or (info := self._tcp_info()) is None:
            return 0.0
        unacked, last_ack_ms, _ = info
        return last_ack_ms / 1e3 if unacked else 0.0

    @property
    def buffer_bytes(self) -> int:
        """The receive buffer, as it was asked for."""
        return self._buffer_bytes

    def flowed(self, size_bytes: int, elapsed_s: float) -> None:
        """Hears that this much came in this time; the buffer grows if it would hold the flow back, and never shrinks in flight.

        Shrinking drops what was offered to the peer: measured, the flow then stood still for 2.8 s.
        """
        if self._rtt_s >= self._window.NEAR_S and elapsed_s > 0:
            self._rate = max(size_bytes / elapsed_s, 0.8 * self._rate)
            self._grow(self._window.wanted_bytes(self._rate, self._rtt_s))

    def put_by(self) -> bool:
        """Makes it ready for another request; False where the peer has closed, or says what nobody asked for."""
        try:
            stale = bool(self.take(_RECORD_BYTES)) or self.ended
        except OSError:
            return False
        if not stale and self._buffer_bytes != self._window.near_bytes:
            self._rate = 0.0
            self._set_buffer(self._window.near_bytes)
            self._grow(self._window.wanted_bytes(self._window.FIRST_RATE, self._rtt_s))
        self.idle_since = self._loop.time()
        return not stale

    def abort(self) -> None:
        """Ends the connection at once, whatever the peer's state: no farewell is sent that could block. Idempotent."""
        if self.closed:
            return
        self.closed = True
        if self._waiter is not None:
            # It leaves the loop before it is closed, because its number may be another connection's a moment later.
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            _done(self._waiter)
        with contextlib.suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._sock.close()

    def _decrypted(self, data: bytes) -> bytes:
        """Decrypts the whole records of what came, a slice of small ones at a time.

        The beginning of a record waits here as it is, because within OpenSSL it would take the room of a whole one.
        """
        held = self._ciphertext + data
        parts: list[bytes] = []
        begin = end = records = 0  # so many whole records lie between these two, not given to OpenSSL yet
        goes_on = True
        while goes_on and end + _RECORD_HEAD_BYTES <= len(held):
            size_bytes = _RECORD_HEAD_BYTES + (held[end + 3] << 8 | held[end + 4])
            if len(held) < end + size_bytes and size_bytes <= _MOST_RECORD_BYTES:
                break
            if end + size_bytes > begin + _SLICE_BYTES:
                goes_on = self._open(held[begin:end], records, parts)
                begin, records = end, 0
            end += size_bytes  # OpenSSL also gets one above the bound, and says what is wrong with it
            records += 1
        if goes_on:
            self._open(held[begin:end], records, parts)
        self._ciphertext = held[end:]
        if (self._outgoing.pending or self._unsent) and not self._sending:
            self._unsent += self._outgoing.read()
            with contextlib.suppress(BlockingIOError):
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _open(self, ciphertext: bytes, records: int, parts: list[bytes]) -> bool:
        """Gives these whole records to OpenSSL, and adds the plaintext of each: several of a slice, or one of any size.

        One that is not for us, a ticket or a key update, leaves a read too many. Returns whether there may be more.

        Raises:
            ssl.SSLError: the first of them is none; later ones break the next `take`, because what came before counts.
        """
        assert self._tls is not None, "only under TLS"
        wanted = len(parts) + records
        view = memoryview(ciphertext)
        for start in range(0, len(view), _SLICE_BYTES):
            self._incoming.write(view[start : start + _SLICE_BYTES])
            try:
                for _ in range(records):
                    if not (part := self._tls.read(len(view))):  # no plaintext is longer than its ciphertext
                        raise ssl.SSLZeroReturnError
                    parts.append(part)
            except ssl.SSLWantReadError:
                continue  # the one is not whole yet
            except ssl.SSLZeroReturnError:  # close_notify
                self.ended = True
                return False
            except ssl.SSLError as error:
                if not parts:
                    raise
                self._broken = error
                return False
        if len(parts) < wanted:
            # To answer what was for it, OpenSSL took a buffer of 16 kB, and frees it with the next write: in an answer there
            # is none. An empty one sends nothing (SSL_write_ex(3)).
            with contextlib.suppress(ssl.SSLError):  # what is wrong is said when it is read
                self._tls.write(b"")
        return True

    def _encrypted(self, piece: memoryview) -> bool:
        """Encrypts a piece of a request; False where TLS wants to hear the peer first, who asked for a handshake (TLS 1.2)."""
        assert self._tls is not None, "only under TLS"
        with contextlib.suppress(ssl.SSLWantReadError):
            return self._tls.write(piece) > 0
        return False

    async def _send_records(self) -> None:
        while records := self._unsent + self._outgoing.read():
            self._unsent = b""
            await self._send_raw(records, listening=True)

    async def _listen(self, *, writing: bool) -> None:
        """Waits for the peer to speak, or to take more; raises Answered where it speaks to us, and not to TLS."""
        await self._wait(reading=True, writing=writing)
        self._early = self.take(_RECORD_BYTES)
        if self._early or self.ended:
            raise Answered("the peer answered before the request was sent") from None

    async def _send_raw(self, data: bytes, *, listening: bool = False) -> None:
        view = memoryview(data)
        while view:
            if self.closed:
                raise ConnectionAbortedError("the connection was closed by us")
            try:
                view = view[self._sock.send(view) :]
            except (BlockingIOError, InterruptedError):
                await (self._listen(writing=True) if listening else self._wait(reading=False, writing=True))

    async def _receive_raw(self) -> bytes:
        while not self.closed:
            try:
                data = self._sock.recv(_RECORD_BYTES)
            except (BlockingIOError, InterruptedError):
                await self.readable()
                continue
            if not data:
                raise ConnectionResetError("the peer closed in the handshake")
            return data
        raise ConnectionAbortedError("the connection was closed by us")

    async def _wait(self, *, reading: bool, writing: bool) -> None:
        if self.closed:
            return
        assert self._waiter is None, "one task at a time"
        waiter = self._waiter = self._loop.create_future()
        fd = self._sock.fileno()
        if reading:
            self._loop.add_reader(fd, _done, waiter)
        if writing:
            self._loop.add_writer(fd, _done, waiter)
        try:
            await waiter
        finally:
            self._waiter = None
            if reading and not self.closed:
                self._loop.remove_reader(fd)
            if writing and not self.closed:
                self._loop.remove_writer(fd)

    def _tcp_info(self) -> tuple[int, int, int] | None:
        """Unacknowledged segments, milliseconds since the last acknowledgement, microseconds of a round trip."""
        if not _HAS_TCP_INFO or self._sock.family == socket.AF_UNIX:
            return None
        info = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        unacked, last_ack_ms, rtt_us = _TCP_INFO.unpack(info)
        return unacked, last_ack_ms, rtt_us

    def _grow(self, wanted_bytes: int) -> None:
        if wanted_bytes > self._buffer_bytes * self._window.STEP:
            self._set_buffer(wanted_bytes)

    def _set_buffer(self, size_bytes: int) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)
        self._buffer_bytes = size_bytes

    def __repr__(self) -> str:
        state = "closed" if self.closed else "ended" if self.ended else "open"
        return f"<RestingSocket {state}{' TLS' if self.encrypted else ''} {self._buffer_bytes} bytes>"


def _done(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
