"""The event loop of a worker: uvloop's where it is installed, with look-ups of names that nobody has to wait for at the end.

A resolver that is silent keeps a thread for ten seconds and more. A thread of the loop's own, or of libuv's pool, has to
be waited for before the loop is closed, however long its answer is not wanted any more; so a look-up has a thread that may
be left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from typing import Any, TypeAlias

import aiohappyeyeballs

# A look-up: host, port, family, type, protocol, flags.
_Asked: TypeAlias = tuple[Any, Any, int, int, int, int]


class _LeavesLookupsBehind(asyncio.AbstractEventLoop):
    """What a loop does otherwise. One thread for all who ask for a name at the same time, so there are few."""

    def __init__(self) -> None:
        super().__init__()
        self._under_way: dict[_Asked, asyncio.Future[Any]] = {}

    async def getaddrinfo(  # type: ignore[override]  # bytes for a host are nothing that we ask for
        self,
        host: str | None,
        port: str | int | None,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        """As `socket.getaddrinfo`. Cancelling is safe, and does not wait for the resolver."""
        if host is not None and _is_address(
            host
        ):  # nothing that a resolver is asked for; each `sock_connect` comes by here
            return await super().getaddrinfo(host, port, family=family, type=type, proto=proto, flags=flags)
        asked = host, port, family, type, proto, flags
        if asked not in self._under_way:
            answer = self.create_future()
            threading.Thread(target=self._look_up, args=(asked, answer), name="look-up", daemon=True).start()
            self._under_way[asked] = answer
        return await asyncio.shield(self._under_way[asked])

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **how: Any) -> Any:
        """As asyncio's; a name is looked up by us, where uvloop would do it by itself."""
        if host is None or _is_address(host) or how.get("local_addr") is not None:
            return await super().create_connection(protocol_factory, host, port, **how)
        which = {name: how.pop(name, 0) for name in ("family", "proto", "flags")}
        found = await self.getaddrinfo(host, port, type=socket.SOCK_STREAM, **which)
        sock = await aiohappyeyeballs.start_connection(found)
        if how.get("ssl") and how.get("server_hostname") is None:
            how["server_hostname"] = host
        return await super().create_connection(protocol_factory, sock=sock, **how)

    def _look_up(self, asked: _Asked, answer: asyncio.Future[Any]) -> None:
        """In a thread of its own."""
        host, port, family, kind, proto, flags = asked
        found: Any = None
        failure: Exception | None = None
        try:
            found = socket.getaddrinfo(host, port, family, kind, proto, flags)
        except Exception as error:  # whatever it is, who asked would wait for ever
            failure = error

        def tell() -> None:
            del self._under_way[asked]
            if failure is not None:
                answer.set_exception(failure)
                answer.exception()  # whoever asked may have left
            else:
                answer.set_result(found)

        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.call_soon_threadsafe(tell)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop for a worker."""
    try:
        import uvloop
    except ImportError:
        return type("Loop", (_LeavesLookupsBehind, asyncio.SelectorEventLoop), {})()  # type: ignore[no-any-return]
    return type("Loop", (_LeavesLookupsBehind, uvloop.Loop), {})()  # type: ignore[no-any-return]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
