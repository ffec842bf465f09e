"""The path of a unix socket: whose it is, how it is taken, how it changes hands at a restart, and when it is removed.

A socket is bound under a name of its own beside the path and then renamed over it, so that whoever connects meets the
old one or the new one and never nothing. At a restart the old one keeps a second name, `PATH.oXXXX`, under which its
successor reaches it while it drains.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..settings_error import SettingsError
from .tcp import BACKLOG

# What sockaddr_un holds on Linux, in bytes, less the NUL, and less what is added to a path here.
_SUFFIX_BYTES = 6
LONGEST_BYTES = 107 - _SUFFIX_BYTES
# What it has behind the place of the workers' folder, at most: the folder's name, and a worker's in it.
_LONGEST_NAME_BYTES = len("/sluiceway-12345678/12345-12345-1234567890.admin")
_NEW, _OLD = "n", "o"
_BESIDE = re.compile(rf"\.[{_NEW}{_OLD}][0-9a-f]{{4}}")


class UnixPath:
    """A socket that this process listens on, and the path that is or becomes its own.

    Attributes:
        path: where readers look for it.
        sock: bound and listening.
        older: paths of those who listened here before and may still drain, the newest first.
    """

    def __init__(
        self, path: str, sock: socket.socket, staged: str, before: tuple[int, int] | None, older: list[str]
    ) -> None:
        self.path = path
        self.sock = sock
        self.older = older
        self._staged = staged  # its name until `publish()`
        self._identity = _identity(staged)
        self._before = before  # whose the path was when this was bound

    @classmethod
    def bind(cls, path: str, *, take_over: bool = False) -> UnixPath:
        """Listens beside the path; `publish()` puts it there.

        Args:
            path: where it is to be.
            take_over: this is a restart: a live socket there is replaced.

        Raises:
            SettingsError: the path is too long, or something is there that is not to be replaced.
        """
        if len(os.fsencode(path)) > LONGEST_BYTES:
            raise SettingsError(f"unix {path}: longer than {LONGEST_BYTES} bytes, which a socket's path may have")
        with _told(path), _locked(path):
            live = _is_live(path)
            if live and not take_over:
                raise SettingsError(f"unix {path}: a live service listens there; --take-over restarts it")
            older = _still_live(path)
            if live:
                older.insert(0, _unused(path, _OLD))
                os.link(path, older[0])
            staged = _unused(path, _NEW)
            sock = _listening(staged)
            return cls(path, sock, staged, _identity(path), older)

    def publish(self) -> None:
        """Puts the socket at the path, in one step. Raises SettingsError if somebody else took it meanwhile.

        Who was to be replaced may have ended by itself.
        """
        with _told(self.path), _locked(self.path):
            if _identity(self.path) != self._before and _is_live(self.path):
                raise SettingsError(f"unix {self.path}: another process has taken it meanwhile")
            os.rename(self._staged, self.path)

    def withdraw(self) -> None:
        """Removes every name that still leads here; a path that is somebody else's stays. Idempotent."""
        with suppress(OSError), _locked(self.path):
            for name in (self.path, self._staged, *_beside(self.path)):
                if _identity(name) == self._identity:
                    os.unlink(name)


@contextmanager
def _told(path: str) -> Iterator[None]:
    """What stands in the way, told by the setting's name."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in it; a SettingsError says it all already
        if isinstance(error, SettingsError):
            raise
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SettingsError(f"unix {path!r}: {(reason or str(error)).lower()}") from None


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Holds the folder, so that of two who look whether a path is free only one finds it so; a matter of milliseconds."""
    folder = os.open(Path(path).parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _is_live(path: str) -> bool:
    """Whether somebody listens there; False too where nothing is. Raises SettingsError for what is no socket."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "no socket")
        raise SettingsError(f"unix {path}: {kind} is there, and is not replaced")
    with socket.socket(socket.AF_UNIX) as caller:
        caller.setblocking(False)  # so that a full queue is an error at once and no wait
        try:
            caller.connect(path)
        except ConnectionRefusedError:
            return False  # dead: whoever bound it is gone
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:
                raise SettingsError(f"unix {path}: a socket of another kind is there, and is not replaced") from None
            raise
    return True


_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISREG, "a plain file"),
    (stat.S_ISFIFO, "a named pipe"),
)


def _identity(path: str) -> tuple[int, int] | None:
    """What tells one socket from the next at the same path; None where nothing is. It lasts as long as it is bound."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _beside(path: str) -> list[str]:
    """The sockets beside the path whose names are given here, the newest first."""
    prefix = Path(path).name
    found = [
        (entry.stat(follow_symlinks=False), entry.path)
        for entry in os.scandir(Path(path).parent)
        if entry.name.startswith(prefix) and _BESIDE.fullmatch(entry.name.removeprefix(prefix))
    ]
    found = [(about, name) for about, name in found if stat.S_ISSOCK(about.st_mode)]
    return [name for _, name in sorted(found, key=lambda one: one[0].st_mtime_ns, reverse=True)]


def _still_live(path: str) -> list[str]:
    """Those who listened at the path before and are still there; what a crash has left is removed."""
    names = _beside(path)
    live = [name for name in names if _is_live(name)]
    for name in set(names).difference(live):
        os.unlink(name)
    return [name for name in live if name[len(path) + 1] == _OLD]


def _listening(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(path)
        # nginx's user gets in by the group. This comes before it listens, so that nobody gets in earlier.
        os.chmod(path, 0o660)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _unused(path: str, kind: str) -> str:
    """A name beside the path that nothing has; the folder is held."""
    while os.path.lexists(name := f"{path}.{kind}{secrets.token_hex(2)}"):
        pass
    return name


def folder_of_sockets() -> tempfile.TemporaryDirectory[str]:
    """A folder where workers find each other, short enough for their sockets' paths.

    A container whose root cannot be written has memory at /dev/shm. Raises SettingsError where nothing can be written.
    """
    for place in (os.environ.get("TMPDIR", ""), "/tmp", "/dev/shm"):
        if place and len(os.fsencode(place)) + _LONGEST_NAME_BYTES <= LONGEST_BYTES:
            with suppress(OSError):
                return tempfile.TemporaryDirectory(prefix="sluiceway-", dir=place, ignore_cleanup_errors=True)
    raise SettingsError("TMPDIR: there is no folder that can be written, such as /tmp, for the workers' sockets")
