"""What the ledger learned, kept in a file across restarts, and shared by the workers of one machine.

There is one file, whatever the number of workers, now or next time. Each worker adds what it learned since it last wrote
to what the file holds by then, under a lock, and takes over what the others learned: so none overwrites another's, and
all know the same. A file that cannot be used is set aside and said in the log; it never keeps the service from starting.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from .ledger import Ledger

log = logging.getLogger(__name__)

# The file is written this often, in seconds, so that a crash loses no more than what was learned since.
SAVE_EVERY_S = 60.0
# The lock is tried again this soon, and at the end for this long, in seconds: others have it for some milliseconds.
BUSY_S, AT_THE_END_S = 0.02, 2.0
# A file above this is none of ours, because 64 models with every curve full come to 27 MB.
MOST_BYTES = 33_554_432


class _Unusable(Exception):
    """The file is there, and it is none that could be read."""


class LedgerFile:
    """A ledger's file.

    Args:
        path: where it lies; it is replaced whole at each save.
        ledger: whose memory it is.
    """

    def __init__(self, path: Path, ledger: Ledger) -> None:
        self._path = Path(os.path.realpath(path))  # a link stays one: what it points to is replaced
        self._ledger = ledger
        self._base = b""  # the ledger as it was when it and the file last held the same
        self._base_at = 0.0  # when that was, on the ledger's clock
        self._failing = False  # the last save did
        self._held = b""  # what tells the file's bytes of then from others

    def load(self, now: float) -> None:
        """Takes back what was saved, if anything was; a file that cannot be used is set aside.

        Args:
            now: the ledger's clock, in seconds.
        """
        self._take_in(lambda saved: self._ledger.restore(saved["ledger"], now, _age_s(saved)))
        self._base, self._base_at = msgspec.json.encode(self._ledger.dump(now)), now

    def save(self, now: float) -> bool:
        """Adds what was learned to the file, and takes over what others added; a failure changes nothing, and is said once.

        Returns:
            Whether that is done with; False while another worker has the lock.
        """
        try:
            with self._locked() as locked:
                if locked:
                    self._take_in(lambda saved: self._join(saved, now))
                    self._write(now)
                    self._tell(None)
                return locked
        except OSError as error:
            self._tell(error)
            return True

    def _tell(self, failure: OSError | None) -> None:
        if failure is not None and not self._failing:
            told = failure.strerror or failure
            log.warning("what the ledger learned could not be saved in %s, and is kept in memory: %s", self._path, told)
        elif failure is None and self._failing:
            log.warning("what the ledger learned is saved in %s again", self._path)
        self._failing = failure is not None

    async def keep(self) -> None:
        """Saves once in a while until cancelled, and then once more."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await asyncio.sleep(SAVE_EVERY_S)
                while not self.save(loop.time()):  # noqa: ASYNC110 - another process has it: no event tells of that
                    await asyncio.sleep(BUSY_S)
        finally:
            self.save_at_the_end(loop.time())

    def save_at_the_end(self, now: float) -> None:
        """Saves, waiting a little for the lock: nothing is served any more, so that it holds nobody up."""
        until = time.monotonic() + AT_THE_END_S
        while not self.save(now):
            if time.monotonic() > until:
                log.warning("what the ledger learned last could not be saved: another process holds %s", self._path)
                return
            time.sleep(BUSY_S)

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Whether this process alone may change the file within the block.

        The lock is the folder's: the file itself is replaced, and one beside it would be left lying about.
        """
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        locked = True
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            locked = False
        except OSError as error:
            log.info("%s is kept without a lock, so for one worker alone: %s", self._path, error)
        try:
            yield locked
        finally:
            os.close(folder)  # and with it the lock

    def _join(self, saved: dict[str, Any], now: float) -> None:
        """Takes over what other workers wrote since this one last did."""
        base, age_s = msgspec.json.decode(self._base), _age_s(saved)
        self._ledger.join(saved["ledger"], base, now, age_s, now - self._base_at)
        # From here on both have this in common, even if the writing fails.
        self._base, self._base_at = msgspec.json.encode(saved["ledger"]), now - age_s

    def _take_in(self, take: Callable[[dict[str, Any]], None]) -> None:
        """Hands on what the file holds, if that is new; sets it aside if it cannot be used."""
        try:
            found = self._path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise _Unusable("it is no plain file")
            if found.st_size > MOST_BYTES:
                raise _Unusable("it is too large")
            raw = self._path.read_bytes()
            if self._held != (held := hashlib.blake2b(raw).digest()):
                take(msgspec.json.decode(raw))
                self._held = held
        except FileNotFoundError:
            return
        except (
            _Unusable,
            msgspec.MsgspecError,
            ValueError,
            KeyError,
            TypeError,
            OverflowError,
            RecursionError,
        ) as error:
            self._set_aside(error)
        except OSError as error:
            log.warning("the ledger begins anew: %s cannot be read (%s)", self._path, error)

    def _write(self, now: float) -> None:
        if self._path.exists() and not self._path.is_file():
            raise OSError(f"{self._path} is no plain file")
        base = msgspec.json.encode(self._ledger.dump(now))
        raw = b'{"saved_at": %.3f, "ledger": %b}' % (time.time(), base)
        new = self._path.with_name(f"{self._path.name}.new")
        try:
            new.write_bytes(raw)
            new.replace(self._path)
        except OSError:
            new.unlink(missing_ok=True)  # the part that was written would keep a full disk full
            raise
        self._base, self._base_at, self._held = base, now, hashlib.blake2b(raw).digest()

    def _set_aside(self, error: Exception) -> None:
        aside = self._path.with_name(f"{self._path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}")
        what = str(error) or type(error).__name__
        if not self._path.exists():
            return  # another worker set it aside
        try:
            if not (self._path.is_file() or self._path.is_dir()):
                raise OSError("it is a device")  # refused, or it would be set aside, and others need it where it is
            self._path.rename(aside)
        except OSError as refused:
            log.warning("the ledger begins anew: %s cannot be used (%s), nor set aside (%s)", self._path, what, refused)
        else:
            log.warning("the ledger begins anew: %s cannot be used (%s); it is now %s", self._path, what, aside.name)


def _age_s(saved: dict[str, Any]) -> float:
    """How long ago it was saved. Raises ValueError, KeyError, TypeError, OverflowError."""
    return max(0.0, time.time() - float(saved["saved_at"]))
