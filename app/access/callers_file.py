"""The callers file on the disk: who may read it is part of what it says."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .callers import Roster, parse_callers

# 10,000 tables of ten lines; what is larger is another file by mistake.
_MOST_BYTES = 4_194_304


def read_callers(path: Path) -> Roster:
    """Reads a callers file.

    Raises:
        OSError: it cannot be read. ValueError: it is readable by others, or wrong; it says where.
        RecursionError: it is nested without end.
    """
    return parse_callers(read_private(path, _MOST_BYTES).decode("utf-8-sig"))


def read_private(path: Path, most_bytes: int) -> bytes:
    """The content of a file that nobody but its owner may read or write.

    Raises:
        OSError: it cannot be read. ValueError: others may read or write it, it is no file, or above its bound.
    """
    # Opened without waiting: a pipe in its place would block the start for ever.
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no file")
        if found.st_mode & 0o077:
            raise ValueError(
                f"its mode is {stat.S_IMODE(found.st_mode):04o}, so that others than its owner may read or write it: "
                f"chmod 600 {path}"
            )
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it is above {most_bytes} bytes")
    return content
