"""A simulated Claude beside the service: it outlives the workers, and ends with their parent."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..settings_error import SettingsError
from .children import Children
from .spawn import spawn

# This stands for a key where a simulated Claude takes any.
SIMULATED_KEY = "simulated"


@asynccontextmanager
async def simulated(children: Children) -> AsyncIterator[dict[str, str]]:
    """Runs one until the block is left; what a worker's environment needs to reach it.

    Raises:
        SettingsError: it did not start.
    """
    ours, theirs = os.pipe()
    try:
        child = children.adopt(spawn(["simulate", "--port", "0"], "--tie", os.environ, theirs))
    finally:
        os.close(theirs)
    try:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb")
        )
        try:
            url = (await reader.readline()).decode().strip().rpartition(" ")[2]
            if not url.startswith("http"):
                raise SettingsError("--simulate: the simulated Claude did not start")
            yield {"ANTHROPIC_API_KEY": SIMULATED_KEY, "ANTHROPIC_BASE_URL": url}
        finally:
            transport.close()
    finally:
        child.tie.close()
        child.tell(signal.SIGTERM)  # while it starts it looks at nothing else
        await child.wait()
