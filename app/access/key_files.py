"""The keys on the disk, beside the callers file: FILE.keys has the digests, FILE.pepper what makes them useless elsewhere.

Both are their owner's alone (0600). They are written beside and renamed, so that whoever reads sees the old or the new one;
who changes them holds a lock, so that two changes at once are both there afterwards.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .callers_file import read_private
from .key_ring import KeyRecord, KeyRing

# Some 80,000 keys.
_MOST_BYTES = 16_777_216
_PEPPER_BYTES = 32
# A key that is refused is kept this long for whoever asks what it was, in seconds: 90 days.
_REMEMBERED_S = 90 * 86_400


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """The files of the keys.

    Attributes:
        callers_file: which they belong to.
        own_pepper: from the settings; empty to keep one in a file.
    """

    callers_file: Path
    own_pepper: str = ""

    @property
    def digests(self) -> Path:
        """The file that has the digests."""
        return self._beside(".keys")

    def read(self) -> KeyRing:
        """The keys; none where there is no file yet. A pepper is made where there is none.

        Raises:
            OSError: a file cannot be read or made. ValueError: one is wrong, or not its owner's alone; it says which.
        """
        try:
            return KeyRing.of(self._records(), self._pepper())
        except RecursionError:
            raise ValueError(f"{self.digests}: it is no list of keys") from None

    def change(self, change: Callable[[KeyRing], Iterable[KeyRecord]], now: float) -> None:
        """Replaces the keys by what `change` makes of them, whole or not at all; others wait so long.

        Raises:
            OSError, ValueError: as `read`, and what `change` raises; then nothing has changed.
        """
        with self._locked():
            records = [record for record in change(self.read()) if not _is_forgotten(record, now)]
            self._write(self.digests, _encoded(records))

    def _records(self) -> list[KeyRecord]:
        try:
            return _decoded(read_private(self.digests, _MOST_BYTES))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _of(self.digests, error) from None
        except ValueError as error:
            raise ValueError(f"{self.digests}: {error}") from None

    def _pepper(self) -> bytes:
        if self.own_pepper:
            return self.own_pepper.encode("utf-8", "surrogateescape")
        path = self._beside(".pepper")
        try:
            if not path.exists():
                # Whoever comes second finds that it exists: of two that are made at once, one is never used.
                self._write(path, secrets.token_hex(_PEPPER_BYTES).encode(), replaces=False)
            try:
                pepper = read_private(path, 4096).strip()
            except OSError as error:
                raise _of(path, error) from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}; else set key_pepper") from None
        if len(pepper) < _PEPPER_BYTES:
            raise ValueError(f"{path}: it is shorter than {_PEPPER_BYTES} bytes")
        return pepper

    def _beside(self, ending: str) -> Path:
        return self.callers_file.with_name(self.callers_file.name + ending)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self._beside(".lock")
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _of(path, error) from None
        try:
            self._give(fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _write(self, path: Path, content: bytes, *, replaces: bool = True) -> None:
        """Writes it whole, or not at all. Raises OSError, which names `path`."""
        new = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                self._give(file.fileno())
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if replaces:
                os.replace(new, path)
            else:
                with suppress(FileExistsError):
                    os.link(new, path)
        except OSError as error:  # a write's own names no file, and the others the one beside
            raise _of(path, error) from None
        finally:
            new.unlink(missing_ok=True)

    def _give(self, fd: int) -> None:
        """Gives a file that root makes to the callers file's owner, who is the service."""
        if os.geteuid() == 0:
            owner = self.callers_file.stat()
            os.fchown(fd, owner.st_uid, owner.st_gid)


def _of(path: Path, error: OSError) -> OSError:
    """The same, with the file's name, since it is not the callers file that everybody names who tells of it."""
    return OSError(error.errno, f"{path}: {error.strerror}")


def _is_forgotten(record: KeyRecord, now: float) -> bool:
    return record.ended_at(now - _REMEMBERED_S) is not None


def _encoded(records: Iterable[KeyRecord]) -> bytes:
    told = [
        {
            "id": record.key_id,
            "caller": record.caller,
            "digest": record.digest.hex(),
            "created": record.created_at,
            "expires": record.expires_at,
            "revoked": record.revoked_at,
        }
        for record in records
    ]
    return b"[\n" + b",\n".join(json.dumps(record).encode() for record in told) + b"\n]\n"


def _decoded(content: bytes) -> list[KeyRecord]:
    try:
        return [_record(told) for told in json.loads(content)]
    except (TypeError, KeyError, ValueError):
        raise ValueError("it is no list of keys") from None


def _record(told: dict[str, Any]) -> KeyRecord:
    times = [told["created"], told["expires"], told["revoked"]]
    if not all(isinstance(at, int) or (at is None and place) for place, at in enumerate(times)):
        raise ValueError("a time is no number of seconds")
    if not isinstance(told["id"], str) or not isinstance(told["caller"], str):
        raise ValueError("a name is none")
    return KeyRecord(told["id"], told["caller"], bytes.fromhex(told["digest"]), *times)
