"""The admin port of a place, whose worker changes: whoever has it answers for those who had it before and still end streams.

A worker that has left shows its figures and its streams on a socket of its own, and leaves its last figures behind as a
file. Whoever has its place now asks the first and takes in the second, each time that somebody asks for its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ...fleet.spec import WorkerSpec
from ...telemetry.inherited import Inherited

log = logging.getLogger(__name__)

# Who does not answer in this time, in seconds, is shown as it was last known: a scrape waits ten.
_ASKING_S = 5.0
# Whoever is asked with this header shows nothing of others, or two that start and end just then would ask one another.
ALONE = "X-Sluiceway-Alone"
_LIVES, _ENDED = ".admin", ".ended"


class Heir(Collector):
    """One worker, as heir of those before it at its place.

    Args:
        spec: what it is.

    Attributes:
        own: its own figures.
        shown: those with what it has inherited.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._folder = Path(spec.folder) if spec.folder else None
        self._prefix = f"{spec.place}-"
        self._name = f"{spec.place}-{spec.number}-{os.getpid()}"
        self._inherited = Inherited()
        self._leaves = False  # another one has its place, and inherits from it
        self.own = CollectorRegistry()
        self.shown = CollectorRegistry()
        self.shown.register(self)

    @property
    def socket(self) -> str:
        """Where it shows its figures to its heir; empty where it will have none."""
        return str(self._folder / f"{self._name}{_LIVES}") if self._folder is not None else ""

    def collect(self) -> Iterator[Metric]:
        """Its own figures with what it has inherited."""
        return self._inherited.added_to(self.own.collect())

    async def look(self) -> None:
        """Takes in what those have counted whose place it has, unless it has none any more. Cancelling is safe."""
        asked = await self._asked("/metrics")
        if self._leaves:
            return
        for path, text in asked:
            if text is None:
                self._inherited.gone(path.stem)
            else:
                self._inherited.living(path.stem, text)
        # After that, since whoever answers no more has left its figures behind before it fell silent.
        for path in self._others(_ENDED):
            try:
                last = path.read_text("utf-8")
                path.unlink()
                self._inherited.gone(path.stem, last)
            except (OSError, ValueError) as error:
                log.warning("the last figures of a worker that ended cannot be read: %s", error)

    async def streams(self) -> list[Any]:
        """What those show of their streams. Cancelling is safe."""
        return [stream for _, text in await self._asked("/streams") if text is not None for stream in json.loads(text)]

    def leave(self) -> None:
        """Another one has its place, and inherits from all."""
        self._leaves = True
        self._inherited.forget_living()

    def leave_behind(self) -> None:
        """Its figures, before it answers no more, and once more when all is settled: the later ones stand."""
        if self._folder is not None and self._leaves:
            new = self._folder / f"{self._name}.new"
            new.write_bytes(generate_latest(self.shown))
            new.rename(new.with_suffix(_ENDED))

    def _others(self, suffix: str) -> list[Path]:
        if self._folder is None or self._leaves:
            return []
        names = [name for name in os.listdir(self._folder) if name.startswith(self._prefix) and name.endswith(suffix)]
        return [self._folder / name for name in names if not name.startswith(f"{self._name}.")]

    async def _asked(self, what: str) -> list[tuple[Path, str | None]]:
        """What each of them says; None where it has just ended."""
        paths = self._others(_LIVES)
        return list(zip(paths, await asyncio.gather(*(_ask(path, what) for path in paths)), strict=True))


async def _ask(path: Path, what: str) -> str | None:
    connector = aiohttp.UnixConnector(str(path))
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(_ASKING_S)) as session,
            session.get(f"http://localhost{what}", headers={ALONE: "1"}) as response,
        ):
            return await response.text() if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError):
        return None
