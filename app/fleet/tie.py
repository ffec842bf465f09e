"""What ties a process to its parent: a pair of sockets, one end each, over which they speak in whole messages.

    the child                          the parent
    {"wants": {…}}    what it read ──▶
                                   ◀── {"spec": {…}} and the sockets that it is to accept from
    {"ready": true}   it is set up ──▶
                                   ◀── {"begin": true}
    {"beat": true}    it lives     ──▶
                                   ◀── {"leave": true}   another one has its place

Messages are JSON objects whose fields may be unknown to the other side, since the two may be of different versions. The
kernel closes the parent's end with the parent, also on SIGKILL, and the child reads the end of the file: so a child ends
with its parent, however that dies. (Linux's PR_SET_PDEATHSIG would tell of the end of the *thread* that started the child.)
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]

# The largest message, in bytes: a spec names a few paths.
_MOST_BYTES = 65_536
# The kernel hands over 253 descriptors at once at most (SCM_MAX_FD); a worker has a handful.
_MOST_SOCKETS = 250


class Tie:
    """The child's end.

    Args:
        fd: the inherited descriptor of the socket.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)

    def ask(self, wants: Message) -> tuple[Message, list[socket.socket]] | None:
        """Tells what was read, and waits for the spec and the sockets; None if the parent is gone. Before any event loop."""
        try:
            self._socket.send(_encoded({"wants": wants}))
            heard = self._heard()
        except ConnectionError:
            return None
        self._socket.setblocking(False)
        return (heard[0]["spec"], heard[1]) if heard is not None else None

    def ready(self) -> None:
        """Tells the parent that all is set up."""
        self._tell({"ready": True})

    def beat(self) -> None:
        """Tells the parent that the event loop turns."""
        self._tell({"beat": True})

    async def hear(self) -> tuple[Message, list[socket.socket]] | None:
        """The parent's next message, and the sockets that came with it; None once it is gone. Cancelling is safe."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._socket, readable.set)
        try:
            await readable.wait()
            return self._heard()
        except ConnectionError:
            return None
        finally:
            loop.remove_reader(self._socket)

    def _heard(self) -> tuple[Message, list[socket.socket]] | None:
        raw, fds, _, _ = socket.recv_fds(self._socket, _MOST_BYTES, _MOST_SOCKETS)
        sockets = [socket.socket(fileno=fd) for fd in fds]
        return (json.loads(raw), sockets) if raw else None

    def _tell(self, message: Message) -> None:
        try:
            self._socket.send(_encoded(message))
        except (ConnectionError, BlockingIOError):
            return  # it is gone, which is heard elsewhere, or does not listen now and is told the next time

    def close(self) -> None:
        """Lets go; the parent takes it for the child's end. Idempotent."""
        self._socket.close()


class ParentsEnd:
    """The parent's end.

    Args:
        sock: as `spawn` has made it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._socket.setblocking(False)

    async def hear(self) -> Message | None:
        """The child's next message; None once it is gone. Cancelling is safe."""
        try:
            raw = await asyncio.get_running_loop().sock_recv(self._socket, _MOST_BYTES)
        except ConnectionError:
            return None
        message: Message | None = json.loads(raw) if raw else None
        return message

    def tell(self, message: Message, sockets: Sequence[socket.socket] = ()) -> None:
        """Tells the child; one that is gone does not hear it."""
        try:
            socket.send_fds(self._socket, [_encoded(message)], [sock.fileno() for sock in sockets])
        except (ConnectionError, BlockingIOError):
            return

    def close(self) -> None:
        """Lets go; the child takes it for the parent's end. Idempotent."""
        self._socket.close()


def _encoded(message: Message) -> bytes:
    return json.dumps(message).encode()
