"""Tells systemd how this process fares, where it was started by it (sd_notify(3), `Type=notify`)."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, suppress

from .spawn import MANAGERS_WORDS

# What is said once is worth waiting for, in seconds, where the manager's queue is full; a feed is not.
_WAIT_S = 1.0


class ServiceManager:
    """Who started the process and wants to hear of it; or nobody.

    Args:
        address: of its socket, as `NOTIFY_SOCKET` has it; empty for nobody.
        watchdog_s: see below.

    Attributes:
        watchdog_s: it takes the process for hung after such a silence, in seconds; 0: never.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog_s = watchdog_s
        self._timer: asyncio.TimerHandle | None = None  # of the next feed, once it is ready

    @classmethod
    def taken(cls, environ: MutableMapping[str, str]) -> ServiceManager:
        """What the environment says, and takes it out of there: what this process starts has nothing to tell."""
        address, usec, pid = (environ.pop(name, "") for name in MANAGERS_WORDS)
        watched = usec.isdecimal() and pid in ("", str(os.getpid()))
        return cls(address, int(usec) / 1e6 if watched else 0.0)

    def ready(self) -> None:
        """It serves; from here on its watchdog is fed, within `feeding`."""
        self._tell("READY=1", _WAIT_S)
        if self._address and self.watchdog_s and self._timer is None:
            self._feed()

    def reloading(self) -> None:
        """It starts anew while it serves; `ready` says when that is done. (`Type=notify-reload` wants the time with it.)"""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}", _WAIT_S)

    def stopping(self) -> None:
        """It has begun to end; the drain may take a while."""
        self._tell("STOPPING=1", _WAIT_S)

    @contextmanager
    def feeding(self) -> Iterator[None]:
        """The watchdog is fed until the block is left, from the event loop, so that a loop that hangs lets it starve."""
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _feed(self) -> None:
        self._tell("WATCHDOG=1")
        self._timer = asyncio.get_running_loop().call_later(self.watchdog_s / 3, self._feed)

    def _tell(self, said: str, wait_s: float = 0.0) -> None:
        if not self._address:
            return
        # A manager that hears nothing must not end what serves: it has its own deadlines.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(wait_s)
            sock.connect(self._address)
            sock.send(said.encode())
