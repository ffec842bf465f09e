"""Whether other processes can be reached: one reader finds it out for all of this process, once a second at most."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from .carrying import Place

# What was found out is believed for this long, in seconds.
_BELIEVED_S = 1.0
# So many processes are remembered; a large fleet that restarts for a day is some thousands.
_MOST_KNOWN = 10_000


class Reach:
    """What is known of others.

    Args:
        answers: whether somebody answers at a place.
    """

    def __init__(self, answers: Callable[[Place], Awaitable[bool]]) -> None:
        self._answers = answers
        self._asking: dict[str, asyncio.Lock] = {}
        self._known: dict[str, tuple[float, bool]] = {}  # with the loop time until which

    async def of(self, whose: str, place: Place) -> bool:
        """Whether the process of that name answers at that place. Cancelling is safe."""
        if len(self._asking) > _MOST_KNOWN:
            self._asking.clear()
            self._known.clear()
        async with self._asking.setdefault(whose, asyncio.Lock()):
            now = asyncio.get_running_loop().time
            until, answers = self._known.get(whose, (0.0, False))
            if now() >= until:
                answers = await self._answers(place)
                self._known[whose] = (now() + _BELIEVED_S, answers)
            return answers
