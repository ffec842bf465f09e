"""A simulated Claude beside the service: it outlives the workers, is replaced where it dies, and ends with their parent."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ..settings_error import SettingsError
from .children import Child, Children, Pauses, ending
from .spawn import spawn

log = logging.getLogger(__name__)

# This stands for a key where a simulated Claude takes any.
SIMULATED_KEY = "simulated"


@asynccontextmanager
async def simulated(children: Children) -> AsyncIterator[dict[str, str]]:
    """Runs one until the block is left, and another one in its place when it dies; what a worker's environment needs to reach it.

    Raises:
        SettingsError: it did not start.
    """
    async with _started(children, 0) as (child, url):
        keeping = asyncio.create_task(_keep(children, child, url))
        try:
            yield {"ANTHROPIC_API_KEY": SIMULATED_KEY, "ANTHROPIC_BASE_URL": url}
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])


async def _keep(children: Children, first: Child, url: str) -> None:
    """Starts another one on the same address each time that one dies, until cancelled."""
    port, now, pauses = int(url.rpartition(":")[2]), asyncio.get_running_loop().time, Pauses()
    began, how = now(), ending(await first.wait())
    while True:
        pause_s = pauses.after(now() - began)
        log.error("the simulated Claude %s; another one starts in %.1f s", how, pause_s)
        await asyncio.sleep(pause_s)
        began = now()
        try:
            async with _started(children, port) as (child, _):
                log.warning("the simulated Claude is there again, on %s", url)
                how = ending(await child.wait())
        except (SettingsError, OSError) as error:
            how = f"did not start ({error})"


@asynccontextmanager
async def _started(children: Children, port: int) -> AsyncIterator[tuple[Child, str]]:
    """One on this port, 0 for a free one, and its URL. Raises SettingsError, OSError: it did not start."""
    ours, theirs = os.pipe()
    try:
        child = children.adopt(spawn(["simulate", "--port", str(port)], "--tie", os.environ, theirs))
    except BaseException:
        os.close(ours)
        raise
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
            yield child, url
        finally:
            transport.close()
    finally:
        child.tie.close()
        child.tell(signal.SIGTERM)  # while it starts it looks at nothing else
        await child.wait()
