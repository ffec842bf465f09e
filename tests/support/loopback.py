"""A jumping clock for real sockets on this machine: waiting takes no time, once the kernel has nothing more to deliver.

The processor's time does not count either: half an hour of experiment is the same on a busy machine as on an idle one.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import selectors
import socket
import struct
import termios
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

# Real seconds to wait for bytes on their way over the loopback before a longer jump: a jump too soon would only look like
# a slow network, but could run into a timeout.
_PATIENCE_S = 0.002
_LONG_JUMP_S = 0.2
# Real seconds to wait for bytes that the kernel has, and somebody waits for: a lost segment is sent again after 0.2 s.
_DELIVERY_S = 2.0
# struct tcp_info, linux/tcp.h: `tcpi_bytes_acked` and `tcpi_bytes_received`.
_TCP_INFO = struct.Struct("=120xQQ")


class _LoopbackSelector(selectors.DefaultSelector):
    now = 1000.0

    def __init__(self) -> None:
        super().__init__()
        self._ends: dict[int, tuple[Any, Any]] = {}  # by file descriptor: its own address and its peer's
        self._fds: dict[tuple[Any, Any], int] = {}  # by these
        self._connecting: set[int] = set()
        self._listening: set[Any] = set()  # addresses
        self._accepted: set[tuple[Any, Any]] = set()  # every pair of addresses that was ever here
        self.in_threads = 0  # calls that threads have not come back from

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = super().register(fileobj, events, data)
        sock = socket.socket(fileno=key.fd)
        try:
            if not isinstance(own := sock.getsockname(), tuple):
                return key  # none of the network's
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                self._listening.add(own)
                return key
            ends = own, sock.getpeername()
        except OSError:
            self._connecting.add(key.fd)
            return key
        finally:
            sock.detach()
        self._ends[key.fd] = ends
        self._fds[ends] = key.fd
        self._accepted.add(ends)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = super().unregister(fileobj)
        self._connecting.discard(key.fd)
        if (ends := self._ends.pop(key.fd, None)) is not None:
            self._fds.pop(ends, None)
        return key

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if self._delivering():
            ready = super().select(_DELIVERY_S)
        elif timeout is None or timeout > _LONG_JUMP_S:
            ready = super().select(_PATIENCE_S if timeout is not None else 1.0)
        if ready:
            return ready
        assert timeout is not None, "every task waits, and no timer is set"
        self.now += max(timeout, 0.0)
        return []

    def _delivering(self) -> bool:
        """Whether the kernel or a thread has something for somebody who waits for it: that takes their time, not ours."""
        if self._connecting or self.in_threads:
            return True
        for key in self.get_map().values():
            if (ends := self._ends.get(key.fd)) is None or not key.events & selectors.EVENT_READ:
                continue
            there = ends[1], ends[0]
            if ends[1] in self._listening and there not in self._accepted:
                return True
            if (sender := self._fds.get(there)) is None:
                continue
            unacked = array.array("i", [0])
            fcntl.ioctl(sender, termios.TIOCOUTQ, unacked)
            # What was acknowledged includes the handshake's one byte.
            if unacked[0] and _counted(sender)[0] + unacked[0] - 1 > _counted(key.fd)[1]:
                return True
        return False


def _counted(fd: int) -> tuple[int, int]:
    """Bytes that the peer has acknowledged, and bytes that have come."""
    sock = socket.socket(fileno=fd)
    try:
        acked, received = _TCP_INFO.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size))
    finally:
        sock.detach()
    return acked, received


class LoopbackLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` is the sum of the waits that nothing else shortened."""

    def __init__(self) -> None:
        self._jumping = _LoopbackSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def run_in_executor(self, executor: Any, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._jumping.in_threads += 1
        future.add_done_callback(self._came_back)
        return future

    def _came_back(self, _future: asyncio.Future[T]) -> None:
        self._jumping.in_threads -= 1


def run(scene: Coroutine[Any, Any, T]) -> T:
    """Runs `scene` on such a loop."""
    with asyncio.Runner(loop_factory=LoopbackLoop) as runner:
        return runner.run(scene)
