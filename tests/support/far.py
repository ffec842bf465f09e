"""A network namespace whose one link can be cut, so that no FIN and no RST ever comes."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.readers import Reader

_numbers = itertools.count(os.getpid() % 200)


def ip(*words: str) -> None:
    """Runs `ip`, which needs root."""
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@dataclass(frozen=True)
class Far:
    """A network namespace that reaches us over one link.

    Attributes:
        host: our address on that link.
    """

    name: str
    host: str

    def cut(self) -> None:
        """The link is gone, and nobody is told."""
        ip("-n", self.name, "link", "set", "far", "down")

    def mend(self) -> None:
        """The link is there again."""
        ip("-n", self.name, "link", "set", "far", "up")

    def run(self, *command: str) -> list[str]:
        """The command that runs `command` in there, which needs root."""
        return ["ip", "netns", "exec", self.name, *command]

    def socket(self) -> socket.socket:
        """A TCP socket in there; made in a thread of its own, since a thread can change its namespace alone."""
        made: list[socket.socket] = []

        def make() -> None:
            with open(f"/run/netns/{self.name}") as namespace:
                _enter(namespace.fileno())
            made.append(socket.socket(socket.AF_INET))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        (sock,) = made
        sock.setblocking(False)
        return sock

    async def reader(self, port: int) -> Reader:
        sock = self.socket()
        await asyncio.get_running_loop().sock_connect(sock, (self.host, port))
        return Reader(sock, self.host)


def _enter(descriptor: int) -> None:
    import ctypes

    # os.setns is new in Python 3.12.
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def far_away() -> Iterator[Far]:
    # A test that was killed leaves its link behind, and would get what is meant for this one.
    taken = subprocess.run(["ip", "-o", "-4", "address"], check=True, capture_output=True, text=True).stdout
    number = next(free for each in _numbers if f" 10.213.{(free := each % 250)}.1/" not in taken)
    name, near = f"sluiceway-{os.getpid()}-{number}", f"sw{os.getpid() % 100000}x{number}"
    host = f"10.213.{number}.1"
    ip("netns", "add", name)
    try:
        ip("link", "add", near, "type", "veth", "peer", "name", "far", "netns", name)
        ip("address", "add", f"{host}/24", "dev", near)
        ip("link", "set", near, "up")
        ip("-n", name, "address", "add", f"10.213.{number}.2/24", "dev", "far")
        ip("-n", name, "link", "set", "far", "up")
        ip("-n", name, "link", "set", "lo", "up")
        yield Far(name, host)
    finally:
        ip("netns", "delete", name)
        subprocess.run(["ip", "link", "delete", near], check=False, capture_output=True)
