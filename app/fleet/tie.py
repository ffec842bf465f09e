"""A child process ends with its parent, however that dies: it holds one end of a socket pair, only the parent the other.

The kernel closes the parent's end with the parent, also on SIGKILL, and the child reads the end of the file. (Linux's
PR_SET_PDEATHSIG would tell of the end of the *thread* that started the child, and is Linux's alone.)
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

_READY, _GO = b"r", b"g"


class Tie:
    """The child's end.

    Args:
        fd: the inherited descriptor of the socket.

    Attributes:
        is_cut: the parent is gone.
    """

    def __init__(self, fd: int) -> None:
        self.is_cut = False
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)

    async def ready(self) -> bool:
        """Tells the parent that all is set up, and waits for its word to begin; False if it is gone. Cancelling is safe."""
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self._socket, _READY)
            return await loop.sock_recv(self._socket, 1) == _GO
        except ConnectionError:
            return False

    def when_cut(self, end: Callable[[], object]) -> None:
        """Calls `end` once, when the parent is gone; the parent says nothing after its word to begin."""
        loop = asyncio.get_running_loop()

        def on_readable() -> None:
            loop.remove_reader(self._socket)
            self.is_cut = True
            end()

        loop.add_reader(self._socket, on_readable)

    def close(self) -> None:
        """Lets go; the parent takes it for the child's end. Idempotent."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()


class ParentsEnd:
    """The parent's end; the child's is closed here once the child has inherited it."""

    def __init__(self) -> None:
        self._socket, self.theirs = socket.socketpair()
        self._socket.setblocking(False)

    async def is_ready(self) -> bool:
        """Waits until the child is set up; False if it ended before that. Cancelling is safe."""
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, 1) == _READY
        except ConnectionError:
            return False

    async def begin(self) -> None:
        """Gives the child the word to begin; one that is gone does not hear it."""
        try:
            await asyncio.get_running_loop().sock_sendall(self._socket, _GO)
        except ConnectionError:
            return

    def close(self) -> None:
        """Lets go; the child takes it for the parent's end. Idempotent."""
        self.theirs.close()
        self._socket.close()
