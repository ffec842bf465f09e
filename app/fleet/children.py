"""Child processes, spawned and reaped by the standard library's smallest means, since the parent of workers is to be small.

As the first process of a container the parent also reaps what others have left to it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from .tie import ParentsEnd

PACKAGE = __name__.partition(".")[0]


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
    """All of them. `reap` is to be called at each SIGCHLD."""

    def __init__(self) -> None:
        self._living: dict[int, Child] = {}

    def spawn(self, arguments: Sequence[str], tie_option: str, environ: Mapping[str, str], stdout: int = 1) -> Child:
        """Starts this program as it lies on the disk now, which may be another version.

        It gets a session of its own, because a terminal's Ctrl-C is for the parent, which passes it on once.

        Args:
            arguments: of the program.
            tie_option: the one that names the descriptor of the tie; it is added.
            environ: all of its environment.
            stdout: a descriptor for its standard output.

        Raises:
            OSError: the system does not let it.
        """
        tie = ParentsEnd()
        os.set_inheritable(tie.theirs.fileno(), True)
        command = [sys.executable, "-m", PACKAGE, *arguments, tie_option, str(tie.theirs.fileno())]
        try:
            # The interpreter ignores SIGPIPE, and what is ignored is inherited.
            pid = os.posix_spawn(
                sys.executable,
                command,
                environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, stdout, 1)],
                setsid=True,
                setsigdef=[signal.SIGPIPE],
            )
        except BaseException:
            tie.close()
            raise
        tie.theirs.close()
        child = self._living[pid] = Child(pid, tie)
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
