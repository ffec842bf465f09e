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
    # Whoever started us may have blocked the signals, as `env --block-signal` does, so that none was lost until now.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


def hung_up() -> bool:
    """Whether a SIGHUP has come since `heed()` and before the service's own handler."""
    return bool(_hangups)


def _end(_number: int, _frame: FrameType | None) -> None:
    # This is no SystemExit, because that could be lost in a destructor or caught by a module that is being imported.
    os._exit(0)


def _remember(number: int, _frame: FrameType | None) -> None:
    _hangups.append(number)
