"""What runs beside the service, as long as that does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def beside(coroutine: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Runs something endless beside the block. If it dies, so does the block, because nobody would notice otherwise."""
    owner = asyncio.current_task()
    assert owner is not None, "only a task can wait"
    task = asyncio.create_task(coroutine)
    task.add_done_callback(lambda task: None if task.cancelled() else owner.cancel())
    try:
        yield
    except asyncio.CancelledError:
        if task.done() and not task.cancelled():
            owner.uncancel()
            raise RuntimeError(f"{getattr(coroutine, '__qualname__', coroutine)} came to an end") from task.exception()
        raise
    finally:
        task.cancel()
        await asyncio.wait([task])
