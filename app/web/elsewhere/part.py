"""This process's part in a fleet, as the rest of the service sees it; a process that is alone has none to play."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from socket import socket
from typing import Protocol

from aiohttp import web

from ...fleet.limits import FleetLimits
from ...streams.archive import Shadow
from ...streams.registry import Streams
from ...streams.terms import new_stream_id
from ..entrance.way_in import Entrance, Route
from ..readers.opening import Opener
from .carrying import Carrier
from .forwarding import Elsewhere


class Part(Protocol):
    """What the service asks of its part."""

    def new_id(self) -> str:
        """An id for a stream of its, which tells whose it is."""

    @property
    def shadow(self) -> Shadow | None:
        """Keeps a copy of its streams; None where nobody does."""

    @property
    def limits(self) -> FleetLimits | None:
        """Where limits and budgets are kept for all machines; None where this one keeps its own."""

    def check_start(self) -> None:
        """Raises FleetAway where no stream may be started now."""

    def readiness(self) -> tuple[int, str]:
        """A status, and what `/readyz` says beside `ready`; nothing where all is well."""

    async def redis_forgets(self) -> str:
        """By which policy the fleet's Redis forgets what it holds when it is full; empty where it does not, or does not tell."""

    def relayed(self, change: int) -> None:
        """A reader begins (+1) or ends (-1) to be served by another process through this one."""

    def elsewhere(self, opener: Opener, carrier: Carrier) -> Elsewhere | None:
        """What finds other machines' streams."""

    def peers(self, streams: Streams, entrance: Entrance, routes: Iterable[Route]) -> web.Application | None:
        """What other processes reach; None where there are none."""

    async def keep_listening(self, serve: Callable[[socket], Awaitable[object]]) -> None:
        """Opens the port of that, until cancelled."""

    async def shown(self) -> None:
        """Waits until others can find this process's streams, where they can: it is to begin none before that."""


class Alone:
    """The part of a process that knows none but the workers of its machine.

    Args:
        worker: its number among them.
    """

    shadow: Shadow | None = None
    limits: FleetLimits | None = None

    def __init__(self, worker: int) -> None:
        self._id_prefix = f"st{worker}_"

    def new_id(self) -> str:
        """An id that names the worker."""
        return new_stream_id(self._id_prefix)

    def check_start(self) -> None:
        """Lets every stream start."""

    def readiness(self) -> tuple[int, str]:
        """All is well."""
        return 200, ""

    async def redis_forgets(self) -> str:
        """There is none."""
        return ""

    def relayed(self, change: int) -> None:
        """Tells nobody."""

    def elsewhere(self, opener: Opener, carrier: Carrier) -> Elsewhere | None:
        """There is no elsewhere."""

    def peers(self, streams: Streams, entrance: Entrance, routes: Iterable[Route]) -> web.Application | None:
        """There are none."""

    async def keep_listening(self, serve: Callable[[socket], Awaitable[object]]) -> None:
        """Nobody would come."""

    async def shown(self) -> None:
        """Waits for nothing."""
