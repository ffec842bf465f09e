"""The file of what the processes of one machine share: its tables, how it is opened, and one transaction of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Another process has the file for less than a millisecond; so long, in seconds, is waited for it.
_BUSY_S = 2.0
# Where SQLite does not wait itself, it is tried again after so long, in seconds: what the other does takes as long.
_AGAIN_S = 0.002

NAME = "limits.sqlite3"
# Of the tables; a file of a higher one is left alone, since nobody knows what it means.
_VERSION = 1
# What SQLite keeps beside a file while it is open.
_COMPANIONS = ("-wal", "-shm")

_TABLES = """
CREATE TABLE IF NOT EXISTS spent (name TEXT, span TEXT, period TEXT, nano INTEGER NOT NULL,
    PRIMARY KEY (name, span, period)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS drawn (process TEXT, name TEXT, span TEXT, period TEXT, nano INTEGER NOT NULL,
    PRIMARY KEY (name, span, period, process)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS places (process TEXT, name TEXT, taken INTEGER NOT NULL,
    PRIMARY KEY (name, process)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS owed (kind TEXT, name TEXT, seconds REAL NOT NULL, since REAL NOT NULL,
    PRIMARY KEY (kind, name)) WITHOUT ROWID;
"""


def opened(path: Path) -> sqlite3.Connection:
    """Opens the file, for one thread at a time, and makes it where it is not there.

    Raises:
        sqlite3.Error, OSError: it cannot be opened or made, was another's for 2 s, or a newer version has made it.
    """
    db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        if (reason := _unreadable(_patiently(db, "PRAGMA user_version"))) is not None:
            raise sqlite3.NotSupportedError(reason)
        _patiently(db, "PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        if _patiently(db, "PRAGMA user_version") != _VERSION:
            os.chmod(path, 0o600)
            db.executescript(f"{_TABLES} PRAGMA user_version={_VERSION};")
        else:
            db.executescript(_TABLES)  # what has come to it since
    except BaseException:
        db.close()
        raise
    return db


def unreadable(path: Path) -> str | None:
    """Why a file that is there is not for this version; None where it is, or cannot be looked at."""
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", timeout=_BUSY_S, uri=True)
        ) as db:
            return _unreadable(db.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error:
        return None


def _unreadable(version: int) -> str | None:
    if version <= _VERSION:
        return None
    return f"it is of version {version}, which a newer Sluiceway has made; this one reads version {_VERSION}"


def identity(path: Path) -> tuple[int, ...]:
    """Which file is there, and which are its companions; zeros where there is none."""
    found: list[int] = []
    for end in ("", *_COMPANIONS):
        try:
            status = os.stat(f"{path}{end}")
            found += [status.st_dev, status.st_ino]
        except FileNotFoundError:
            found += [0, 0]
    return tuple(found)


def abandon(path: Path, was: tuple[int, ...]) -> None:
    """Removes the companions of a file that is gone, which SQLite would read into the one that is there now.

    While another process does so this one waits; what that has made since stays. The caller still has the old ones open,
    so that no new file can be taken for one of them.

    Args:
        was: by `identity`, when it was opened.
    """
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        now = identity(path)
        for place, end in enumerate(_COMPANIONS, 1):
            own = slice(2 * place, 2 * place + 2)
            if now[own] == was[own] != (0, 0):
                os.unlink(f"{path}{end}")
    finally:
        os.close(folder)


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Whether it ends well or not, nothing is left open."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _patiently(db: sqlite3.Connection, pragma: str) -> Any:
    """Where two processes make a new file at once, SQLite tells one at once that it is locked, and waits for nothing."""
    until = time.monotonic() + _BUSY_S
    while True:
        try:
            return db.execute(pragma).fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(_AGAIN_S)
