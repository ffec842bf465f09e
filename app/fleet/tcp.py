"""TCP sockets to listen on; whatever stands in the way is told by the names of the settings."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from ..settings_error import SettingsError

# This many connections may wait to be accepted (the kernel cuts it to net.core.somaxconn), so that a burst of readers
# who come back after a restart waits and is not refused.
BACKLOG = 4096
# The machine may lack one address of a name, as `localhost` may be `::1` without IPv6; then another one may do.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class PortTaken(SettingsError):
    """Somebody listens on it already."""


def tcp_sockets(
    host: str, port: int, count: int = 1, names: tuple[str, str] = ("host", "port")
) -> list[list[socket.socket]]:
    """Sockets for each of `count` processes, listening on every address of the host.

    Args:
        host: a name or an address.
        port: 0 takes a free one, the same on every address.
        count: the processes that share the port; the kernel spreads connections over their sockets.
        names: of the two settings, for what is told.

    Raises:
        SettingsError: it cannot be listened on.
    """
    told = f"{names[1]} {port} on {names[0]} {host}"
    opened: list[list[socket.socket]] = [[] for _ in range(count)]
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:  # ValueError: no name at all, such as one with a NUL or a label too long
        raise SettingsError(f"{names[0]} {host!r}: {_reason(error)}") from None
    missing: OSError | None = None
    for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
        try:
            sockets = _bound(family, (address[0], port, *address[2:]), count)
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno in _NOT_HERE:
                missing = error
                continue
            for sock in (sock for of_one in opened for sock in of_one):
                sock.close()
            kind = PortTaken if getattr(error, "errno", None) == errno.EADDRINUSE else SettingsError
            raise kind(f"{told}: {_reason(error)}") from None
        port = sockets[0].getsockname()[1]
        for of_one, sock in zip(opened, sockets, strict=True):
            of_one.append(sock)
    if not opened[0]:
        raise SettingsError(f"{told}: {_reason(missing)}") from None
    return opened


def url_of(host: str, sock: socket.socket) -> str:
    """Where it listens, under the host's own name."""
    port = sock.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bound(family: int, address: Sequence[str | int], count: int) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    try:
        for number in range(count):
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if number:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(tuple(address))
            address = (address[0], sock.getsockname()[1], *address[2:])
            # The first socket is bound without SO_REUSEPORT, so that a port that another service's workers share is
            # refused.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(count > 1))
        for sock in sockets:
            sock.listen(BACKLOG)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _reason(error: BaseException | None) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
