"""When this very process was late: what it read then, it may have kept waiting itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .exchange import clock

# It looks this often, and a lateness above the second counts, in seconds: a quarter of the gap between two events.
_EVERY_S = 0.01
_COUNTS_S = 0.02


@asynccontextmanager
async def own_lateness() -> AsyncIterator[list[tuple[float, float]]]:
    """Fills a list with the spans, by our clock, in which this process did not run, until the block is left."""
    late: list[tuple[float, float]] = []

    async def watch() -> None:
        before = clock()
        while True:
            await asyncio.sleep(_EVERY_S)
            now = clock()
            if now - before > _EVERY_S + _COUNTS_S:
                late.append((before, now))
            before = now

    task = asyncio.create_task(watch())
    try:
        yield late
    finally:
        task.cancel()
        await asyncio.wait([task])
