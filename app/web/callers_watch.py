"""Keeps what is known of callers in step with their files, while the service runs."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..access.audit import KeyAudit
from ..access.callers import Roster, lost_tables
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

    A callers file that is written in place is good TOML half-way too, so it is read once two looks found it the same. One
    that is wrong, or has lost bounds of callers who may still call, is not taken: what was read last stands, and the log
    says once what is wrong. Keys are taken all the same, or a broken callers file would keep revoked ones in use.

    Attributes:
        files: which.
        audit: told of changes.
        last: where the tables of the file that was taken last are kept for other workers; None for nowhere.
        look_s: how often it looks, in seconds: so long may a revoked key still be taken, and twice as long old bounds hold.
    """

    files: KeyFiles
    audit: KeyAudit = field(default_factory=KeyAudit)
    last: Path | None = None
    look_s: float = 0.4
    _seen: tuple[_Look, _Look] = (None, None)  # the callers file and the keys, as they were read
    _last: _Look = None  # the callers file at the last look

    @classmethod
    def of(cls, callers: Callers, folder: str = "") -> CallersWatch | None:
        """The watch that the settings name, of one of the workers that share a folder; None where there is no callers file."""
        if not callers.callers_file:
            return None
        last = Path(folder) / "tables" if folder else None
        return cls(KeyFiles(Path(callers.callers_file), callers.key_pepper), last=last)

    def read(self, before: Roster | None = None, names: Collection[str] = ()) -> Known:
        """Reads both files now.

        Args:
            before: what the callers file said until now; None at the start, where that is what other workers took last.
            names: of the callers that have keys of `api_keys`.

        Raises:
            SettingsError: one cannot be read, is wrong, or has lost bounds of callers who may still call.
        """
        seen = self._look()  # before: what changes while it is read is seen as a change
        known = read_known(self.files)
        tables = before.tables if before is not None else self._taken_last()
        lost = lost_tables(tables, known.roster.tables, names)
        if lost:
            raise SettingsError(
                f"callers_file {str(self.files.callers_file)!r}: it has lost {', '.join(sorted(lost)[:5])}, whose callers "
                "may still call: take their keys out first, leave an empty table for a caller without bounds, or restart"
            )
        self._seen = seen
        self._keep(known.roster)
        return known

    def _taken_last(self) -> frozenset[str]:
        if self.last is None or not self.last.exists():
            return frozenset()
        return frozenset(json.loads(self.last.read_bytes()))

    def _keep(self, roster: Roster) -> None:
        if self.last is not None:
            new = self.last.with_name(f"{self.last.name}.{os.getpid()}")
            new.write_text(json.dumps(sorted(roster.tables)), "utf-8")
            new.replace(self.last)

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
        seen = await asyncio.to_thread(self._look)
        rests = seen[0] in (self._last, self._seen[0])
        self._last = seen[0]
        if rests and seen != self._seen:
            known = await asyncio.to_thread(self._read_again, guard, seen)
            if known is not None:
                self.take(guard, known)

    def take(self, guard: Guard, known: Known) -> None:
        """Tells the guard, and the log what has changed."""
        self.audit.changed(guard.known.ring, known.ring)
        guard.learn(known)
        log.info("%d callers and %d keys were read again", len(known.roster.callers), len(known.ring.records))

    def _read_again(self, guard: Guard, seen: tuple[_Look, _Look]) -> Known | None:
        """What has changed; None for nothing that may be taken."""
        before, known = self._seen, None
        try:
            known, wrong = self.read(guard.roster, guard.configured_names), None
        except SettingsError as error:
            wrong = error
        if self._look() != seen:  # it is being written, and looked at again
            self._seen = before
            return None
        self._seen = seen
        if wrong is not None:
            log.error("callers stay as they were, since what was read again is wrong: %s", wrong)
            with suppress(OSError, ValueError):
                ring = self.files.read()
                known = Known(guard.roster, ring) if ring != guard.known.ring else None
        return known

    def _look(self) -> tuple[_Look, _Look]:
        return _look_at(self.files.callers_file), _look_at(self.files.digests)


def _look_at(path: Path) -> _Look:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
