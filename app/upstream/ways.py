"""Ways to a host: its addresses, kept fresh; connections by TCP, through a proxy where one is set, and under TLS."""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import socket
import ssl
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from urllib.parse import SplitResult, unquote, urlsplit

import aiohappyeyeballs
import certifi
import httptools

from .exchange import Parser
from .resting_socket import RestingSocket, Window

# A name's addresses are believed this long, in seconds, because Claude's own records are good for a minute or more.
ADDRESSES_S = 30.0
# The next address is tried beside the first after this many seconds without an answer (RFC 8305, section 5).
_NEXT_ADDRESS_S = 0.25


@dataclass(frozen=True, slots=True)
class Way:
    """How one origin is reached.

    Attributes:
        secure: under TLS.
        proxy: the proxy's URL, as the environment has it; None for none.
    """

    secure: bool
    host: str
    port: int
    proxy: str | None = None


class ProxyRefused(ConnectionError):
    """The proxy of the environment does not let us through."""


def way_to(secure: bool, host: str, port: int) -> Way:
    """The way to an origin, by the proxy that `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` name."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get("https" if secure else "http") or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(f"{host}:{port}"):
        return Way(secure, host, port, proxy if "://" in proxy else f"http://{proxy}")
    return Way(secure, host, port)


class Ways:
    """Connects, and remembers what makes the next connection cheaper: addresses and TLS sessions.

    Args:
        window: the receive buffer's rule for every connection.
    """

    def __init__(self, window: Window) -> None:
        self._window = window
        self._addresses: dict[tuple[str, int], tuple[float, list[tuple[int, int, int, str, tuple[str, int]]]]] = {}
        self._sessions: dict[Way, ssl.SSLSession] = {}

    async def connect(self, way: Way) -> RestingSocket:
        """A new connection, ready for a request.

        Raises:
            OSError: it came to none; `ssl.SSLCertVerificationError` and `ProxyRefused` say why.

        Cancelling is safe: nothing stays open.
        """
        proxy = urlsplit(way.proxy) if way.proxy else None
        if proxy is not None and proxy.scheme != "http":
            raise ProxyRefused(f"the proxy's scheme is {proxy.scheme}: only http proxies are spoken to")
        host, port = (proxy.hostname or "", proxy.port or 80) if proxy else (way.host, way.port)
        sock = await aiohappyeyeballs.start_connection(
            await self._lookup(host, port),
            happy_eyeballs_delay=_NEXT_ADDRESS_S,
            interleave=1,
            socket_factory=self._socket,
        )
        connection = RestingSocket(sock, self._window)
        try:
            connection.measure()
            if way.secure:
                if proxy is not None:
                    await _tunnel(connection, way, proxy)
                await connection.handshake(_trust(), way.host, self._sessions.get(way))
        except BaseException:
            connection.abort()
            raise
        connection.used = False
        return connection

    def learn(self, way: Way, connection: RestingSocket) -> None:
        """Keeps the TLS session of a connection that has brought data, for the next one to resume."""
        if (session := connection.session) is not None:
            self._sessions[way] = session

    async def _lookup(self, host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if (family := _family_of(host)) is not None:  # an address needs no look-up, and so no thread
            return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]
        loop = asyncio.get_running_loop()
        asked_at, addresses = self._addresses.get((host, port), (0.0, []))
        if not addresses or loop.time() > asked_at + ADDRESSES_S:
            try:
                found: Sequence[tuple[int, int, int, str, tuple[str, int]]] = await loop.getaddrinfo(  # type: ignore[assignment]
                    host, port, type=socket.SOCK_STREAM
                )
            except OSError:
                if not addresses:
                    raise  # while the resolver is away, the old addresses are the best guess
            else:
                addresses = list(found)
            self._addresses[host, port] = loop.time(), addresses
        return addresses

    def _socket(self, address: tuple[int, int, int, str, tuple[str, int]]) -> socket.socket:
        sock = socket.socket(*address[:3])
        sock.setblocking(False)
        # This is set before connecting, because the first window that is offered is made from it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._window.near_bytes)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, seconds in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 20), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
        return sock


def _family_of(host: str) -> socket.AddressFamily | None:
    """The family of an address; None for a name."""
    try:
        return socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        return None


def proxy_headers(way: Way) -> list[tuple[bytes, bytes]]:
    """What a request carries for the proxy itself."""
    proxy = urlsplit(way.proxy or "")
    if not proxy.username:
        return []
    words = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return [(b"Proxy-Authorization", b"Basic " + base64.b64encode(words.encode()))]


async def _tunnel(connection: RestingSocket, way: Way, proxy: SplitResult) -> None:
    """Asks the proxy for a tunnel (RFC 9110, section 9.3.6)."""
    host = f"[{way.host}]" if ":" in way.host else way.host
    target = f"{host}:{way.port}".encode("ascii")
    lines = [b"CONNECT %b HTTP/1.1" % target, b"Host: %b" % target]
    lines += [b"%b: %b" % header for header in proxy_headers(way)]
    await connection.send(b"\r\n".join(lines) + b"\r\n\r\n")
    parser = Parser()
    while not parser.status:
        await connection.readable()
        data = connection.take(1)  # byte by byte, so that TLS's first bytes are not taken for the answer's body
        if not data and connection.ended:
            raise ProxyRefused(f"the proxy {proxy.hostname} closed the connection")
        try:
            parser.feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, ValueError) as error:
            if not parser.status:
                raise ProxyRefused(f"the proxy {proxy.hostname} does not speak HTTP") from error
    if parser.status != 200:
        raise ProxyRefused(f"the proxy {proxy.hostname} answered with {parser.status}")


@cache
def _trust() -> ssl.SSLContext:
    """The authorities that we trust: the system's, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`. Made once: it takes 20 ms."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if not context.get_ca_certs() and not (paths.cafile or paths.capath):
        context.load_verify_locations(certifi.where())  # a machine without any, such as a slim container
    context.set_alpn_protocols(["http/1.1"])
    return context
