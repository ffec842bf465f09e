"""Signals from the first line on: the kernel drops those for which a container's first process has no handler yet.

Until the service listens to them itself, SIGTERM and SIGINT end the process at once and with status 0, since nothing has
begun that could be cut short. SIGHUP is remembered: what it asks to be read again may have been read already.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

_hangups: list[int] = []


def heed() -> None:
    """Sets those handlers; to be called before anything is imported that takes its time."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    signal.signal(signal.SIGHUP, _remember)
    # Blocked by whoever started us, as `env --block-signal` does, they have waited since before the interpreter began.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


def hung_up() -> bool:
    """Whether a SIGHUP has come since `heed()` and before the service's own handler."""
    return bool(_hangups)


def _end(_number: int, _frame: FrameType | None) -> None:
    # Not SystemExit: it would be lost in a destructor, or be taken by an `except` of what is being imported.
    os._exit(0)


def _remember(number: int, _frame: FrameType | None) -> None:
    _hangups.append(number)
