"""What the ledger learned, kept in a file across restarts."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from pathlib import Path

from .ledger import Ledger

log = logging.getLogger(__name__)

# How often it is written, in seconds: what a crash can lose.
SAVE_EVERY_S = 60.0


class LedgerFile:
    """A ledger's file.

    Args:
        path: where it lies; it is replaced whole at each save.
        ledger: whose memory it is.
    """

    def __init__(self, path: Path, ledger: Ledger) -> None:
        self._path = path
        self._ledger = ledger

    def load(self, now: float) -> None:
        """Takes back what was saved, if anything was; a file that cannot be used is left, and said in the log.

        Args:
            now: the ledger's clock, in seconds.
        """
        try:
            saved = json.loads(self._path.read_text(encoding="utf-8"))
            self._ledger.restore(saved["ledger"], now, max(0.0, time.time() - float(saved["saved_at"])))
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the ledger begins anew: %s cannot be used (%s)", self._path, error)

    def save(self, now: float) -> None:
        """Writes what was learned; a failure is said in the log and changes nothing."""
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        try:
            new.write_text(json.dumps({"saved_at": time.time(), "ledger": self._ledger.dump(now)}), encoding="utf-8")
            new.replace(self._path)
        except OSError as error:
            log.warning("what the ledger learned could not be saved: %s", error)

    async def keep(self) -> None:
        """Saves once in a while until cancelled, and then once more."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await asyncio.sleep(SAVE_EVERY_S)
                self.save(loop.time())
        finally:
            self.save(loop.time())
