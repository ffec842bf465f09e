"""How long an end is waited for: until it comes, until its time is over, or until somebody hurries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Patience:
    """It ends for good once somebody hurries."""

    def __init__(self) -> None:
        self._over = asyncio.Event()
        self._forgets = asyncio.Event()

    def hurry(self) -> None:
        """Nobody waits any more."""
        self._over.set()

    def forget(self) -> None:
        """Nobody waits any more for what only stays."""
        self._forgets.set()

    async def wait(
        self, seconds: float, event: asyncio.Event | None = None, stays: Callable[[], bool] = lambda: False
    ) -> None:
        """Waits for the event, for so long at most. Cancelling is safe.

        Args:
            seconds: how long.
            event: None for no event, so that all the time is waited.
            stays: asked at the event: whether the rest of the time is waited all the same.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._first(event)
                if not self._over.is_set() and stays():
                    await self._first(self._forgets)
        except TimeoutError:
            return

    async def _first(self, event: asyncio.Event | None) -> None:
        waits = [asyncio.ensure_future(each.wait()) for each in (event, self._over) if each is not None]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
