"""A jumping clock for real sockets on this machine: waiting takes no time, once the kernel has nothing more to deliver.

The processor's time does not count either: half an hour of experiment is the same on a busy machine as on an idle one.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# Real seconds to wait for bytes on their way over the loopback before a longer jump: a jump too soon would only look like
# a slow network, but could run into a timeout.
_PATIENCE_S = 0.002
_LONG_JUMP_S = 0.2


class _LoopbackSelector(selectors.DefaultSelector):
    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None or timeout > _LONG_JUMP_S:
            ready = super().select(_PATIENCE_S if timeout is not None else 1.0)
            if ready:
                return ready
            assert timeout is not None, "every task waits, and no timer is set"
        self.now += max(timeout, 0.0)
        return []


class LoopbackLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` is the sum of the waits that nothing else shortened."""

    def __init__(self) -> None:
        self._jumping = _LoopbackSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now


def run(scene: Coroutine[Any, Any, T]) -> T:
    """Runs `scene` on such a loop."""
    with asyncio.Runner(loop_factory=LoopbackLoop) as runner:
        return runner.run(scene)
