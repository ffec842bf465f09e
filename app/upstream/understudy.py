"""Another connection for a request whose own one is dead, though nobody said so.

A firewall, a NAT, a tunnel that came up again elsewhere, a machine that was replaced: each can forget a connection that
waits in the pool, drops what is sent on it, and tells nobody. The kernel sends it again for a quarter of an hour.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx2

from .resting_socket import RestingSocket


class Understudy:
    """Stands by while a kept connection carries a request, for one whose peer acknowledges not a byte of it.

    Only once another connection is there is the first aborted: while the network is away as a whole, the first may still
    come through, and is waited for. What nobody acknowledged came to nobody, as far as anybody can know, so that it is
    sent again and not paid twice.

    Args:
        first: carries the request.
        connect: makes another one. Raises httpx2.TransportError.
        unheard_s: so long the peer may say nothing at all, in seconds.
    """

    def __init__(self, first: RestingSocket, connect: Callable[[], Awaitable[RestingSocket]], unheard_s: float) -> None:
        self._first = first
        self._connect = connect
        self._unheard_s = unheard_s
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(unheard_s, self._look)
        self._other: RestingSocket | None = None
        self._stepped_in = False

    def _look(self) -> None:
        """Steps in, or looks again: an acknowledgement may have come just before the request went, or of a part of it."""
        if self._deaf():
            self._task = self._loop.create_task(self._step_in())
        else:
            self._look_again()

    def _look_again(self) -> None:
        self._timer = self._loop.call_later(
            max(self._unheard_s - self._first.unheard_s, self._unheard_s / 10), self._look
        )

    def _deaf(self) -> bool:
        return self._first.unheard_s >= self._unheard_s

    async def _step_in(self) -> None:
        try:
            self._other = await self._connect()
        except httpx2.TransportError:
            self._look_again()  # the network may come back, and not the connection
            return
        if self._deaf():
            self._stepped_in = True
            self._first.abort()

    def taken_over(self) -> RestingSocket | None:
        """The other connection, where the first was aborted for it; from now on it is the caller's."""
        if not self._stepped_in:
            return None
        other, self._other = self._other, None
        return other

    async def close(self) -> RestingSocket | None:
        """The request has its answer, or its end. Returns a connection that was made for nothing. Idempotent.

        Cancelling is safe: nothing is connected to any more.
        """
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._timer.cancel()
        other, self._other = self._other, None
        return other
