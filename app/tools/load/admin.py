"""The service's admin ports: read again and again, and believed only once they list a stream of this test."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

import aiohttp

from .service import Sample, parse, summed

_TIMEOUT_S = 5.0


class AdminPorts:
    """Looks at what the service tells of itself.

    Another service may listen where an admin port is looked for, the default one above all. Its figures would be taken
    for this one's: so a port counts only once its `/streams` had a stream that a reader of ours was told the id of.

    Args:
        urls: of the admin ports, one a worker.
        session: the HTTP client.

    Attributes:
        urls: where they are.
    """

    def __init__(self, urls: Sequence[str], session: aiohttp.ClientSession) -> None:
        self.urls = [url.rstrip("/").removesuffix("/metrics") for url in urls]
        self._session = session
        self._looks: list[dict[str, Sample]] = []  # by URL, oldest first
        self._ours: set[str] = set()  # the URLs that were recognised

    @property
    def answered(self) -> bool:
        """Whether all of them could ever be read."""
        return bool(self._looks)

    @property
    def strangers(self) -> list[str]:
        """Those that have not been recognised."""
        return [url for url in self.urls if url not in self._ours]

    @property
    def samples(self) -> list[Sample]:
        """All looks, oldest first, summed over the recognised ports; empty where there is none."""
        return [sample for look in self._looks if (sample := self._summed(look)) is not None]

    async def look(self, at_s: float) -> Sample | None:
        """Adds a sample; None where a port did not answer, or none is recognised yet. Cancelling is safe."""
        look = {}
        for url in self.urls:
            text = await self._text(f"{url}/metrics")
            if text is None:
                return None
            try:
                look[url] = parse(text, at_s)
            except ValueError:  # something else lives there
                return None
        self._looks.append(look)
        return self._summed(look)

    async def recognise(self, stream_ids: Collection[str]) -> None:
        """Looks which of the strangers list one of these streams. Cancelling is safe."""
        for url in self.strangers:
            listed = await self._listed(url)
            if listed & set(stream_ids):
                self._ours.add(url)

    def _summed(self, look: dict[str, Sample]) -> Sample | None:
        ours = [sample for url, sample in look.items() if url in self._ours]
        return summed(ours, ours[0].at_s) if ours else None

    async def _listed(self, url: str) -> set[Any]:
        try:
            async with asyncio.timeout(_TIMEOUT_S), self._session.get(f"{url}/streams") as response:
                told = await response.json() if response.status == 200 else []
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return set()
        return {one.get("id") for one in told if isinstance(one, dict)} if isinstance(told, list) else set()

    async def _text(self, url: str) -> str | None:
        try:
            async with asyncio.timeout(_TIMEOUT_S), self._session.get(url) as response:
                return await response.text() if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None
