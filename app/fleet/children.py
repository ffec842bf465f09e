"""Child processes, reaped by the standard library's smallest means, since the parent of workers is to be small.

As the first process of a container the parent also reaps what others have left to it.
"""

from __future__ import annotations

import asyncio
import os
import signal

from .spawn import Spawned
from .tie import ParentsEnd

# One that dies young is replaced after a pause that doubles from the first to the last of these, in seconds.
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.1, 5.0
# One that has lived this long, in seconds, was healthy, so the next pause is a short one again.
_LONG_LIFE_S = 30.0


def ending(status: int) -> str:
    """How a process ended, in words, by its exit status or the negative number of a signal."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:  # of those for real time all but the first have no name
        return f"was ended by signal {-status}"


class Pauses:
    """How long to wait before one that has died is started anew: short after a long life, longer after each short one."""

    def __init__(self) -> None:
        self._pause_s = _FIRST_PAUSE_S

    def after(self, life_s: float) -> float:
        """The next one, in seconds, after a life of so many."""
        self._pause_s = _FIRST_PAUSE_S if life_s > _LONG_LIFE_S else min(self._pause_s * 2, _LAST_PAUSE_S)
        return self._pause_s


class Child:
    """A process of ours.

    Attributes:
        pid: its id.
        tie: our end of what ties it to us.
    """

    def __init__(self, pid: int, tie: ParentsEnd) -> None:
        self.pid = pid
        self.tie = tie
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def wait(self) -> int:
        """Its exit status, once it has ended; negative: the signal that ended it. Cancelling is safe."""
        return await asyncio.shield(self._ended)

    def tell(self, number: signal.Signals) -> None:
        """Sends the signal, if it has not ended."""
        if not self._ended.done():
            os.kill(self.pid, number)

    def ended(self, status: int) -> None:
        """It has, with this status as the system tells it."""
        self._ended.set_result(os.waitstatus_to_exitcode(status))


class Children:
    """All of them. `reap` is to be called at each SIGCHLD, and once for those that came before."""

    def __init__(self) -> None:
        self._living: dict[int, Child] = {}

    def adopt(self, spawned: Spawned) -> Child:
        """Looks after a process from here on."""
        child = self._living[spawned.pid] = Child(spawned.pid, ParentsEnd(spawned.tie))
        return child

    def reap(self) -> None:
        """Looks who has ended."""
        for pid in (-1,) if os.getpid() == 1 else list(self._living):
            while self._reaped(pid):
                pass

    def _reaped(self, pid: int) -> bool:
        """Whether another one may have ended."""
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return False
        child = self._living.pop(ended, None)
        if child is not None:
            child.ended(status)
        return bool(ended)
