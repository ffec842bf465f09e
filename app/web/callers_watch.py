"""Keeps what is known of callers in step with their files, while the service runs."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from ..access.audit import KeyAudit
from ..access.guard import Guard, Known
from ..access.key_files import KeyFiles
from ..settings import SettingsError
from ..settings.sections import Callers
from .checks import read_known

log = logging.getLogger(__name__)

# How a file looked: device, inode, size, and when it or its rights changed; None where it was not there.
_Look = tuple[int, ...] | None


@dataclass(slots=True)
class CallersWatch:
    """Reads the callers file and the file of their keys again once one of them changes.

    One that is wrong changes nothing: what was read last stands, and the log says once what is wrong.

    Attributes:
        files: which.
        audit: told of changes.
        look_s: how often it looks, in seconds: so long may a revoked key still be taken.
    """

    files: KeyFiles
    audit: KeyAudit = field(default_factory=KeyAudit)
    look_s: float = 0.5
    _seen: tuple[_Look, ...] = ()

    @classmethod
    def of(cls, callers: Callers) -> CallersWatch | None:
        """The watch that the settings name; None where there is no callers file."""
        return cls(KeyFiles(Path(callers.callers_file), callers.key_pepper)) if callers.callers_file else None

    def read(self) -> Known:
        """Reads both files now. Raises SettingsError: one cannot be read, or is wrong."""
        self._seen = self._look()  # before: what changes while it is read is seen as a change
        return read_known(self.files)

    async def run(self, guard: Guard) -> None:
        """Tells the guard of each change; never ends. Cancelling is safe."""
        while True:
            await asyncio.sleep(self.look_s)
            try:
                await self.look(guard)
            except Exception:  # whatever it is, it must not leave revoked keys in use
                log.exception("the callers file could not be looked at; it is tried again")

    async def look(self, guard: Guard) -> None:
        """Tells the guard of a change, if there is one. In a thread: the disk may be far away. Cancelling is safe."""
        if await asyncio.to_thread(self._look) == self._seen:
            return
        try:
            known = await asyncio.to_thread(self.read)
        except SettingsError as error:
            log.error("callers and keys stay as they were, since what was read again is wrong: %s", error)
            return
        self.take(guard, known)

    def take(self, guard: Guard, known: Known) -> None:
        """Tells the guard, and the log what has changed."""
        self.audit.changed(guard.known.ring, known.ring)
        guard.learn(known)
        log.info("%d callers and %d keys were read again", len(known.roster.callers), len(known.ring.records))

    def _look(self) -> tuple[_Look, ...]:
        return tuple(_look_at(path) for path in (self.files.callers_file, self.files.digests))


def _look_at(path: Path) -> _Look:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
