"""How many connections there are: in all, and of one client. A flood of them takes neither readers' places nor the admin port's."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Handler

from ..access.proxies import Proxies, client_of
from ..errors import Overloaded, SluicewayError, TooManyConnections


def peer_of(transport: asyncio.BaseTransport | None) -> str:
    """The address of a connection's other end; empty for a unix socket, or where it is gone."""
    peer = transport.get_extra_info("peername") if transport is not None else None
    return str(peer[0]) if isinstance(peer, tuple) else ""


class Member(Protocol):
    """A connection, as the crowd sees it."""

    @property
    def address(self) -> str:
        """Of its other end; empty for a unix socket."""

    def give_way(self) -> None:
        """Closes, because another one needs its place. It is idle then."""

    def end_soon(self) -> None:
        """Closes, with the answer that it waits for, if it waits for one."""


class Crowd:
    """The connections of one application.

    A connection is idle while it waits for a request's head, and busy from then on until the answer is sent. Where all
    places are taken, a new one takes that of whoever has been idle for longest, so that half heads and sleeping
    connections keep nobody out; a busy one never gives way, nor does a new one within its first second, which may have
    asked already.

    Args:
        most: the places.
        most_per_client: of them for one client; 0 for any number.
        proxies: whose connections count for the clients that they name, for as long as a request of theirs lasts.
        clock: in seconds, never set back.

    Attributes:
        rests: set while none of them is busy.
    """

    # The first request may lie unread until the event loop comes to it: so long a new connection keeps its place, in seconds.
    NEW_S = 1.0

    def __init__(
        self,
        most: int,
        most_per_client: int = 0,
        proxies: Proxies | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._most_per_client = most_per_client
        self._proxies = proxies or Proxies()
        self._members: set[Member] = set()
        self._clock = clock
        # Since when each is idle, in that order: before its first request, and after one.
        self._new: OrderedDict[Member, float] = OrderedDict()
        self._idle: OrderedDict[Member, float] = OrderedDict()
        self._of_clients: Counter[str] = Counter()  # never more of them than members
        self.rests = asyncio.Event()
        self.rests.set()

    def __len__(self) -> int:
        return len(self._members)

    def enter(self, member: Member) -> SluicewayError | None:
        """Takes a new connection in, idle, or says why not."""
        counts = self._counts(member)
        if counts and self._of_clients[client_of(member.address)] >= self._most_per_client:
            return self._too_many()
        if len(self._members) >= self._most:
            oldest = self._idle_for_longest()
            if oldest is None:
                return Overloaded(f"all {self._most} connections of this service are in use", retry_after_s=2.0)
            self.leave(oldest)
            oldest.give_way()
        self._members.add(member)
        self._new[member] = self._clock()
        if counts:
            self._of_clients[client_of(member.address)] += 1
        return None

    def leave(self, member: Member) -> None:
        """It is closed. Idempotent."""
        if member in self._members:
            self._members.remove(member)
            self.is_busy(member)
            if self._counts(member):
                self._uncount(client_of(member.address))

    def end_soon(self) -> None:
        """Lets all of them end."""
        for member in list(self._members):
            member.end_soon()

    def is_busy(self, member: Member) -> None:
        """A request of its has come."""
        self._new.pop(member, None)
        self._idle.pop(member, None)
        self._look()

    def is_idle(self, member: Member) -> None:
        """It waits for its next request."""
        if member in self._members:
            self._idle[member] = self._clock()
            self._look()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Counts what comes through proxies. Raises TooManyConnections. Cancelling is safe."""
        address = peer_of(request.transport)
        if not self._most_per_client or not self._proxies.trusts(address):
            return await handler(request)
        with self._counted(self._proxies.client_of(address, request.headers.getall("X-Forwarded-For", ()))):
            return await handler(request)

    @contextmanager
    def _counted(self, client: str) -> Iterator[None]:
        if self._of_clients[client] >= self._most_per_client:
            raise self._too_many()
        self._of_clients[client] += 1
        try:
            yield
        finally:
            self._uncount(client)

    def _look(self) -> None:
        if len(self._members) == len(self._new) + len(self._idle):
            self.rests.set()
        else:
            self.rests.clear()

    def _idle_for_longest(self) -> Member | None:
        first = [next(iter(waiting.items())) for waiting in (self._new, self._idle) if waiting]
        known = [
            (since, member) for member, since in first if member in self._idle or self._clock() - since >= self.NEW_S
        ]
        return min(known, key=lambda pair: pair[0])[1] if known else None

    def _counts(self, member: Member) -> bool:
        return bool(self._most_per_client) and bool(member.address) and not self._proxies.trusts(member.address)

    def _uncount(self, client: str) -> None:
        self._of_clients[client] -= 1
        if not self._of_clients[client]:
            del self._of_clients[client]

    def _too_many(self) -> TooManyConnections:
        return TooManyConnections(
            f"there are {self._most_per_client} connections of yours, and no client may have more", retry_after_s=2.0
        )


class AdminCrowd(Crowd):
    """The admin port's, where it matters that a probe is answered, and not which: a new one gives way at once."""

    NEW_S = 0.0
