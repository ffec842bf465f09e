"""Ways to a host: its addresses, kept fresh; connections by TCP, through a proxy where one is set, and under TLS."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import math
import socket
import ssl
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

import aiohappyeyeballs
import certifi
import httptools

from ..answer.refusals import RETRYABLE_STATUSES
from .exchange import Parser
from .resting_socket import RestingSocket
from .window import Window

# A name's addresses are believed this long, in seconds, because Claude's own records are good for a minute or more.
ADDRESSES_S = 30.0
# After that the resolver has this long for new ones, in seconds, before the old ones are tried: one that is away answers
# nothing for 10 s and more, and a connection has half of that.
_RESOLVER_S = 0.5
# The next address is tried beside the first after this many seconds without an answer (RFC 8305, section 5).
_NEXT_ADDRESS_S = 0.25


# What `getaddrinfo` finds.
Address: TypeAlias = tuple[int, int, int, str, tuple[str, int]]


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


class ProxyFailed(ConnectionError):
    """The proxy of the environment does not let us through. Its words are told to readers, so its address is not in them.

    Attributes:
        proxy: its host and port, for the log.
        lasting: it stays so until a person mends it.
    """

    def __init__(self, words: str, proxy: str, *, lasting: bool = False) -> None:
        super().__init__(words)
        self.proxy = proxy
        self.lasting = lasting


class _NotResumed(Exception):
    """A handshake broke that would have resumed a session."""


class ProxySilent(ProxyFailed, TimeoutError):
    """The proxy of the environment did not answer in time."""


def way_to(secure: bool, host: str, port: int) -> Way:
    """The way to an origin, by the proxy that `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` name."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get("https" if secure else "http") or proxies.get("all")
    straight = urllib.request.proxy_bypass(f"{host}:{port}") or _in_networks(host, proxies.get("no", ""))
    if proxy and not straight:
        return Way(secure, host, port, proxy if "://" in proxy else f"http://{proxy}")
    return Way(secure, host, port)


def _in_networks(host: str, names: str) -> bool:
    """Whether an address is among those that `NO_PROXY` names as networks, or in brackets: Python knows neither."""
    if _family_of(host) is None:
        return False
    for name in names.split(","):
        with contextlib.suppress(ValueError):  # a host's name
            if ipaddress.ip_address(host) in ipaddress.ip_network(name.strip().strip("[]"), strict=False):
                return True
    return False


class Ways:
    """Connects, and remembers what makes the next connection cheaper: addresses and TLS sessions.

    Args:
        window: the receive buffer's rule for every connection.
        connect_timeout_s: for a connection, from the name to the end of TLS's handshake.
    """

    def __init__(self, window: Window, connect_timeout_s: float) -> None:
        self._window = window
        self._connect_timeout_s = connect_timeout_s
        self._addresses: dict[tuple[str, int], tuple[float, list[Address]]] = {}
        self._asking: dict[tuple[str, int], tuple[float, asyncio.Task[OSError | None]]] = {}  # since when, and who
        self._sessions: dict[
            Way, tuple[float, ssl.SSLSession]
        ] = {}  # and the loop time from which a newer one is wanted

    async def connect(self, way: Way) -> RestingSocket:
        """A new connection, ready for a request.

        Raises:
            OSError: it came to none; `ssl.SSLCertVerificationError` and `ProxyFailed` say why. TimeoutError: not in time.

        Cancelling is safe: nothing stays open.
        """
        until = asyncio.get_running_loop().time() + self._connect_timeout_s
        session = self._sessions.get(way, (0.0, None))[1]
        try:
            return await self._ready(way, until, session)
        except _NotResumed:
            # Some peers break off for a session that they do not know; kept, it would keep us away for ever.
            self._sessions.pop(way, None)
        return await self._ready(way, until, None)

    async def _ready(self, way: Way, until: float, session: ssl.SSLSession | None) -> RestingSocket:
        """A new connection. Raises, beside what `connect` does, _NotResumed where the session may have been in the way."""
        connection = await (
            self._reached(way, until) if way.proxy is None else self._let_through(way, way.proxy, until)
        )
        try:
            connection.measure()
            if way.secure:
                async with asyncio.timeout_at(until):
                    await connection.handshake(_trust(), way.host, session)
        except ssl.SSLCertVerificationError:
            connection.abort()
            raise
        except (ssl.SSLError, ConnectionError) as error:
            connection.abort()
            if session is not None:
                raise _NotResumed from error
            raise
        except BaseException:
            connection.abort()
            raise
        connection.used = False
        return connection

    async def _reached(self, way: Way, until: float) -> RestingSocket:
        async with asyncio.timeout_at(until):
            return RestingSocket(await self._connected(way.host, way.port), self._window)

    async def _let_through(self, way: Way, url: str, until: float) -> RestingSocket:
        """A connection to the proxy, and under TLS through it."""
        proxy = _proxy_at(url)
        connection = None
        try:
            async with asyncio.timeout_at(until):
                connection = RestingSocket(await self._connected(*proxy), self._window)
                if way.secure:
                    await _tunnel(connection, way, _told(*proxy))
                return connection
        except BaseException as error:
            if connection is not None:
                connection.abort()
            if isinstance(error, TimeoutError):
                raise ProxySilent("the proxy did not answer", _told(*proxy)) from None
            if isinstance(error, OSError) and connection is None:
                raise ProxyFailed("the proxy could not be reached", _told(*proxy)) from error
            if isinstance(error, OSError) and not isinstance(error, ProxyFailed):
                raise ProxyFailed("the proxy broke the connection", _told(*proxy)) from error
            raise

    def learn(self, way: Way, connection: RestingSocket) -> None:
        """Keeps the TLS session of a connection whose tickets have come, for later ones to resume, where none as good is kept.

        Each look at a session costs a copy of it, 0.3 ms: a third of a handshake. So the kept one serves for half its
        lifetime, or until the peer does not take it.
        """
        if not connection.encrypted:
            return
        now = asyncio.get_running_loop().time()
        if connection.resumed and now < self._sessions.get(way, (0.0, None))[0]:
            return
        if (session := connection.session) is not None and session.id:  # else it is none that could be resumed
            self._sessions[way] = now + (session.ticket_lifetime_hint or session.timeout) / 2, session

    def knows(self, way: Way) -> bool:
        """Whether a TLS session is kept for it."""
        return way in self._sessions

    async def _connected(self, host: str, port: int) -> socket.socket:
        addresses = await self._lookup(host, port)
        try:
            return await aiohappyeyeballs.start_connection(
                addresses, happy_eyeballs_delay=_NEXT_ADDRESS_S, interleave=1, socket_factory=self._socket
            )
        except BaseException:  # also where its time was over
            self._doubt(host, port)
            raise

    async def close(self) -> None:
        """Waits for nobody's answer any more. Idempotent."""
        asking = [task for _, task in self._asking.values()]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _lookup(self, host: str, port: int) -> list[Address]:
        if (family := _family_of(host)) is not None:  # an address needs no look-up, and so no thread
            return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port))]
        now = asyncio.get_running_loop().time()
        asked_at, known = self._addresses.get((host, port), (0.0, []))
        if known and now <= asked_at + ADDRESSES_S:
            return known
        if (host, port) not in self._asking:
            # One for all who need it, and it outlives them: of the system's threads that wait for a resolver there are
            # only a few.
            self._asking[host, port] = now, asyncio.create_task(self._ask(host, port))
        since, asking = self._asking[host, port]
        await asyncio.wait([asking], timeout=max(0.0, since + _RESOLVER_S - now) if known else None)
        if known and not asking.done():
            return known
        if asking.cancelled():
            raise ConnectionAbortedError("the pool was closed")
        if (failure := asking.result()) is not None:
            raise failure
        return self._addresses[host, port][1]

    async def _ask(self, host: str, port: int) -> OSError | None:
        """Asks the resolver. Returns what kept it from an answer; while it is away, the old addresses are the best guess."""
        loop = asyncio.get_running_loop()
        _, addresses = self._addresses.get((host, port), (0.0, []))
        try:
            found: Sequence[Address] = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # type: ignore[assignment]
            addresses = list(found)
        except UnicodeError:
            return socket.gaierror(socket.EAI_NONAME, "no name that DNS can have")
        except OSError as error:
            if not addresses:
                return error
        finally:
            del self._asking[host, port]
        self._addresses[host, port] = loop.time(), addresses
        return None

    def _doubt(self, host: str, port: int) -> None:
        """A name's addresses came to no connection: it may have moved, so the next one asks for new ones."""
        if (host, port) in self._addresses:
            self._addresses[host, port] = -math.inf, self._addresses[host, port][1]

    def _socket(self, address: Address) -> socket.socket:
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


def _proxy_at(url: str) -> tuple[str, int]:
    """Host and port of a proxy. Raises ProxyFailed where we cannot speak to it."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 80
    except ValueError:
        raise ProxyFailed("the proxy's address is none", "as the environment has it", lasting=True) from None
    if parts.scheme != "http":
        words = f"the proxy's scheme is {parts.scheme}: only http proxies are spoken to"
        raise ProxyFailed(words, _told(host, port), lasting=True)
    return host, port


def _told(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _tunnel(connection: RestingSocket, way: Way, proxy: str) -> None:
    """Asks the proxy for a tunnel (RFC 9110, section 9.3.6)."""
    target = _told(way.host, way.port).encode("ascii")
    lines = [b"CONNECT %b HTTP/1.1" % target, b"Host: %b" % target]
    lines += [b"%b: %b" % header for header in proxy_headers(way)]
    await connection.send(b"\r\n".join(lines) + b"\r\n\r\n")
    parser = Parser()
    while not parser.status:
        await connection.readable()
        data = connection.take(1)  # byte by byte, so that TLS's first bytes are not taken for the answer's body
        if not data and connection.ended:
            raise ProxyFailed("the proxy closed the connection", proxy)
        try:
            parser.feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, ValueError) as error:
            if not parser.status:
                raise ProxyFailed("the proxy does not speak HTTP", proxy, lasting=True) from error
    if not 200 <= parser.status < 300:
        lasting = 400 <= parser.status < 500 and parser.status not in RETRYABLE_STATUSES
        raise ProxyFailed(f"the proxy answered with {parser.status}", proxy, lasting=lasting)


@cache
def _trust() -> ssl.SSLContext:
    """The authorities that we trust: the system's, or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`. Made once: it takes 20 ms."""
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if not context.get_ca_certs() and not (paths.cafile or paths.capath):
        context.load_verify_locations(certifi.where())  # a machine without any, such as a slim container
    context.set_alpn_protocols(["http/1.1"])
    return context
