"""What a service listens on: opened once and kept open by the parent, whatever becomes of its workers.

So what reaches a worker that dies, or one that gives way to a newer one, waits for its successor. Over TCP each place has a
socket of its own and the kernel spreads connections (`SO_REUSEPORT`); over a unix socket they share one. Each place has its
own admin port, counted up from the first, because a scrape must meet one worker.
"""

from __future__ import annotations

import socket
from contextlib import suppress

from ..settings_error import SettingsError
from .spec import Listening, Wants
from .tcp import PortTaken, tcp_sockets
from .unix_path import UnixPath


class Sockets:
    """All of them, open.

    Args:
        wants: where.

    Attributes:
        path: the unix socket's; None for TCP.

    Raises:
        SettingsError: it cannot be listened there.
    """

    def __init__(self, wants: Wants) -> None:
        at = self._at = wants.listening
        self._count = wants.workers
        self.path = UnixPath.bind(at.unix, take_over=wants.take_over) if at.unix else None
        self._public: list[list[socket.socket]] = []
        self._admin: list[list[socket.socket]] = []  # empty while the service that is replaced still has the ports
        try:
            self._public = (
                [[self.path.sock]] * self._count
                if self.path is not None
                else tcp_sockets(at.host, at.port, self._count)
            )
            try:
                self._admin = self._admin_sockets()
            except PortTaken:
                if not wants.take_over:
                    raise
        except BaseException:
            self.close()
            raise

    @property
    def older(self) -> list[str]:
        """Where those are reached that listened on the unix socket before, and may still drain."""
        return self.path.older if self.path is not None else []

    def public(self, place: int) -> list[socket.socket]:
        """Where readers reach the worker at this place."""
        return self._public[place]

    def admin(self, place: int) -> list[socket.socket]:
        """Its admin port; none as long as the service that is replaced has it."""
        return self._admin[place] if self._admin else []

    @property
    def has_admin(self) -> bool:
        """Whether the admin ports are ours."""
        return bool(self._admin)

    def follow_admin(self) -> bool:
        """Opens the admin ports, if that can be done by now; whether it was."""
        with suppress(SettingsError):
            self._admin = self._admin_sockets()
        return self.has_admin

    def _admin_sockets(self) -> list[list[socket.socket]]:
        opened: list[list[socket.socket]] = []
        try:
            for place in range(self._count):
                port = self._at.admin_port and self._at.admin_port + place
                opened += tcp_sockets(self._at.admin_host, port, names=("admin_host", "admin_port"))
        except BaseException:
            _close(opened)
            raise
        return opened

    def publish(self) -> None:
        """Lets readers find the unix socket. Raises SettingsError: another process has taken its path meanwhile."""
        if self.path is not None:
            self.path.publish()

    def let_go(self) -> None:
        """Leaves the ports to the workers that listen there: each one's share is free once it ends, and others get it.

        Else the kernel would go on to give connections to one that has ended. A unix socket, which all share, stays open.
        """
        if self.path is None:
            _close(self._public)
        _close(self._admin)

    def close(self) -> None:
        """Closes them, and removes the unix socket's names. Idempotent."""
        if self.path is not None:
            self.path.withdraw()
            self.path.sock.close()
        _close(self._public)
        _close(self._admin)


def _close(sockets: list[list[socket.socket]]) -> None:
    for of_one in sockets:
        for sock in of_one:
            sock.close()


def changed(old: Wants, new: Wants) -> list[str]:
    """The names of the settings that say otherwise now than what is open."""
    return [name for name in Listening.__slots__ if getattr(old.listening, name) != getattr(new.listening, name)]
