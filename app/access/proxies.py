"""Whose connection it is: the other end's, or the client's whom a trusted proxy names. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# One subscriber has this many bits of IPv6 to choose addresses in, so that they count as one client.
_PREFIX_BITS = 64


class Proxies:
    """The proxies that are trusted to name their clients.

    Args:
        names: addresses, networks such as `10.0.0.0/8`, or `unix` for whoever connects over a unix socket.

    Raises:
        ValueError: one of them is none of these.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        names = set(names)
        self._unix = "unix" in names
        self._networks = [ipaddress.ip_network(name) for name in names - {"unix"}]

    def trusts(self, address: str) -> bool:
        """Whether an address is a proxy's; an empty one is a unix socket's."""
        if not address:
            return self._unix
        found = _parsed(address)
        return found is not None and any(found in network for network in self._networks)

    def client_of(self, address: str, forwarded_for: Sequence[str]) -> str:
        """The client that counts, as `client_of()` groups them.

        Args:
            address: of the connection's other end.
            forwarded_for: the values of `X-Forwarded-For`, which nobody but proxies can be believed about: each adds at
                the end whom it was asked by, so that the last one who is no proxy is the client.
        """
        named = [name.strip() for value in forwarded_for for name in value.split(",")]
        while self.trusts(address) and named:
            address = named.pop()
        return client_of(address)


def client_of(address: str) -> str:
    """The client that an address stands for: itself, or its network of IPv6. What is no address stands for itself."""
    found = _parsed(address)
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found, _PREFIX_BITS), strict=False))
    return str(found) if found is not None else address[:80]


def _parsed(address: str) -> _Address | None:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found
