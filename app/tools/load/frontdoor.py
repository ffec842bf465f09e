"""The service's own paths beside the answers: what it says of itself, and of a running stream of ours."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import quote

import aiohttp

from .connection import Target
from .protocols import PLAIN

_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Gauge:
    """How one stream stands.

    Attributes:
        runs: it runs.
        held: its producer waits for the reader now.
        held_s: how long it has waited, up to now, in seconds.
    """

    runs: bool
    held: bool = False
    held_s: float = 0.0


class FrontDoor:
    """Asks where the readers ask, so that what it hears is of the very service that serves them.

    Use as an async context manager.

    Args:
        target: where the service listens.
        headers: what every request carries: the caller's key, and others.
    """

    def __init__(self, target: Target, headers: dict[str, str]) -> None:
        self._target = target
        self._headers = headers
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> FrontDoor:
        address = self._target.address
        connector: aiohttp.BaseConnector
        if isinstance(address, str):
            connector = aiohttp.UnixConnector(address)
        else:
            connector = aiohttp.TCPConnector(ssl=self._target.tls or True)
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers, timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def config(self) -> dict[str, Any]:
        """What the service tells pages about itself (`/config.json`); empty where it tells nothing.

        Raises:
            ConnectionError: nobody is there, or none who can be spoken with; the message says why.
        """
        try:
            status, told = await self._get("/config.json", anyway=False)
        except aiohttp.ClientConnectorError as error:
            raise ConnectionError(_why(error.os_error)) from None
        return told if status == 200 else {}

    async def gauge(self, stream_id: str) -> Gauge | None:
        """How a stream of ours stands; None where the service does not tell."""
        match await self._get(f"{PLAIN.path}/{quote(stream_id)}/gauges"):
            case 200, {"paused": bool(held), "paused_s": int() | float() as held_s}:
                return Gauge(True, held, float(held_s))
            case 204, _:
                return Gauge(False)
        return None

    async def _get(self, path: str, *, anyway: bool = True) -> tuple[int, dict[str, Any]]:
        """Status and JSON; status 0 where nothing came. Raises ClientConnectorError: it is not connected, unless `anyway`."""
        assert self._session is not None, "entered"
        scheme = "http" if self._target.tls is None else "https"
        try:
            async with self._session.get(f"{scheme}://{self._target.host}{self._target.base_path}{path}") as response:
                told = await response.json() if response.status == 200 else None
                return response.status, told if isinstance(told, dict) else {}
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            if isinstance(error, aiohttp.ClientConnectorError) and not anyway:
                raise
            return 0, {}


def _why(error: OSError) -> str:
    """Without an address, which asyncio puts into its own words."""
    number = error.errno or 0
    return os.strerror(number).lower() if number in errno.errorcode else error.strerror or str(error)
