"""A test of the unit lane touches nothing outside its process: no network, no other program. Files are allowed.

The interpreter's own audit events tell, so that no way around a patched name is left. A loop's pair of sockets, by which
it wakes itself, is neither bound nor connected and does not count.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_OUTSIDE = {
    "socket.bind",
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "subprocess.Popen",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.system",
}


class Outside(AssertionError):
    """A test of the unit lane went outside: mark it, or its module, with `real`."""


class _Seal:
    def __init__(self) -> None:
        self.tried: list[str] | None = None  # None: nothing is sealed
        self.hooked = False

    def hook(self, event: str, _arguments: tuple[Any, ...]) -> None:
        if self.tried is not None and event in _OUTSIDE:
            self.tried.append(event)
            raise Outside(f"{event} in a test of the unit lane: mark it, or its module, with `real`")


_SEAL = _Seal()


@contextmanager
def sealed() -> Iterator[None]:
    """Within it, each way outside raises.

    Raises:
        Outside: at its end, if one was tried, also where the code under test took the first one for a failing network.
    """
    if not _SEAL.hooked:
        sys.addaudithook(_SEAL.hook)  # it can never be taken off again
        _SEAL.hooked = True
    tried: list[str] = []
    _SEAL.tried = tried
    try:
        yield
    finally:
        _SEAL.tried = None
    if tried:
        raise Outside(f"{', '.join(tried)} in a test of the unit lane: mark it, or its module, with `real`")
