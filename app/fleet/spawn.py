"""Starts this program once more, tied to the process that starts it. It imports next to nothing, so that it can come first."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

PACKAGE = __name__.partition(".")[0]
# What systemd tells the process that it has started (sd_notify(3)), which is for nobody else.
MANAGERS_WORDS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Spawned(NamedTuple):
    """A process that was started.

    Attributes:
        pid: its id.
        tie: our end of what ties it to us.
    """

    pid: int
    tie: socket.socket


def spawn(arguments: Sequence[str], tie_option: str, environ: Mapping[str, str], stdout: int = 1) -> Spawned:
    """Starts this program as it lies on the disk now, which may be another version.

    It gets a session of its own, because a terminal's Ctrl-C is for the parent, which passes it on once.

    Args:
        arguments: of the program.
        tie_option: the one that names the descriptor of the tie; it is added.
        environ: all of its environment; what it must not have is left out.
        stdout: a descriptor for its standard output.

    Raises:
        OSError: the system does not let it.
    """
    # Whole messages come out as they went in, and a pair of this kind hears of the other end's close too (unix(7)).
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        theirs.set_inheritable(True)
        command = [sys.executable, "-m", PACKAGE, *arguments, tie_option, str(theirs.fileno())]
        try:
            pid = os.posix_spawn(
                sys.executable,
                command,
                {name: value for name, value in environ.items() if name not in MANAGERS_WORDS},
                file_actions=[(os.POSIX_SPAWN_DUP2, stdout, 1)],
                setsid=True,
                setsigdef=[signal.SIGPIPE],  # the interpreter ignores it, and what is ignored is inherited
            )
        except BaseException:
            ours.close()
            raise
    return Spawned(pid, ours)


def spawn_worker(arguments: Sequence[str], environ: Mapping[str, str]) -> Spawned:
    """Starts a worker. Raises OSError.

    Args:
        arguments: of `serve`.
        environ: all of its environment.
    """
    return spawn(["serve", *arguments], "--worker", environ)
