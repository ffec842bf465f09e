"""The ways to other processes by which readers are served, each looked after for all of its readers at once.

A process may be gone without a word, its machine with it. Whoever reads from it would notice by its silence alone, and
each by a timer of its own; but what is asked then is the same for all, and that others hear from it answers it as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp

# Without a byte from another process for this long, in seconds, it is asked whether that is still there; looked at this often.
SILENT_S, LOOK_S = 2.0, 0.5


class Content(Protocol):
    """What comes for one reader: `aiohttp.StreamReader`."""

    def set_exception(self, exc: BaseException) -> None:
        """Lets whoever reads it fail, now and later."""


@dataclass(slots=True)
class Way:
    """To one process.

    Attributes:
        heard_at: loop time of the last byte from there, or of the last answer that it is there; who reads sets it.
        contents: what comes, for each reader.
    """

    heard_at: float
    _is_there: Callable[[], Awaitable[bool]]
    contents: set[Content] = field(default_factory=set)

    async def look(self, now: float) -> None:
        """Breaks off all that comes where that process is gone. Cancelling is safe."""
        if now - self.heard_at < SILENT_S:
            return
        if await self._is_there():
            self.heard_at = now
            return
        for content in self.contents:
            content.set_exception(aiohttp.ClientConnectionError("it is gone"))


class Ways:
    """Those of this process."""

    def __init__(self) -> None:
        self._ways: dict[str, Way] = {}

    @contextmanager
    def on(self, whose: str, is_there: Callable[[], Awaitable[bool]], content: Content) -> Iterator[Way]:
        """For as long, `content` fails with a `ClientError` once the process of that name is gone.

        Args:
            whose: names the process.
            is_there: whether it still lives and is reached; asked when it is silent.
            content: what comes from it.
        """
        way = self._ways.get(whose)
        if way is None:
            way = self._ways[whose] = Way(asyncio.get_running_loop().time(), is_there)
        way.contents.add(content)
        try:
            yield way
        finally:
            way.contents.remove(content)
            if not way.contents:
                del self._ways[whose]

    async def run(self) -> None:
        """Looks after them, until cancelled."""
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.gather(*[way.look(now()) for way in self._ways.values()])
