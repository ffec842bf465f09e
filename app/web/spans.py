"""Where spans go, where they are wanted: the extra that makes them is imported only then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ..settings import SettingsError
from ..telemetry.ending import Ending

if TYPE_CHECKING:
    import httpx2


@asynccontextmanager
async def spans(endpoint: str, claude_at: httpx2.URL) -> AsyncIterator[Callable[[Ending], None] | None]:
    """Sends a span of each answer to the collector at `endpoint` until the block is left; gives None where that is empty.

    Args:
        endpoint: the setting `otlp_endpoint`.
        claude_at: where Claude is asked.

    Raises:
        SettingsError: the extra `otel` is not installed.
    """
    if not endpoint:
        yield None
        return
    try:
        from ..telemetry.tracing import Tracing, to_collector
    except ImportError as error:
        raise SettingsError(
            f"otlp_endpoint: spans take the extra otel, and {error.name} is not installed: pip install 'sluiceway[otel]'"
        ) from error
    server = claude_at.host, claude_at.port or (443 if claude_at.scheme == "https" else 80)
    tracing = Tracing(to_collector(endpoint), server, time.time_ns)
    try:
        yield tracing.ended
    finally:
        await asyncio.to_thread(tracing.close)
