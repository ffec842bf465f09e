"""A clock that jumps: an event loop on which waiting takes no time, and waiting for nothing is an error.

Only for tasks that wait for timers and for one another: the loop has no sockets to watch. Where sockets are part of
the test, use the real clock.
"""

from __future__ import annotations

import asyncio
import asyncio.constants
import functools
import selectors
from collections.abc import Callable, Coroutine, Generator
from types import coroutine
from typing import Any, ParamSpec, TypeVar

# The loop's own checks note where each call and task comes from; ten frames deep, as asyncio has it, that takes longer than
# all else that these tests do.
asyncio.constants.DEBUG_STACK_DEPTH = 1  # type: ignore[misc]

P = ParamSpec("P")
T = TypeVar("T")


class Deadlock(RuntimeError):
    """Every task waits, and no timer is set that could wake one."""


class _JumpingSelector(selectors.DefaultSelector):
    """Moves time on by what it was to sleep."""

    # Large enough that a time of 0 mistaken for "now" shows, small enough that an ulp is below a nanosecond.
    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise Deadlock("every task waits, and no timer is set")
            self.now += max(timeout, 0.0)
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` is exactly the sum of the waits that nothing else could shorten."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def create_future(self) -> asyncio.Future[Any]:
        """Without its whole stack, which the loop's own checks would note of each."""
        debug, self._debug = self._debug, False  # type: ignore[has-type]
        try:
            return super().create_future()
        finally:
            self._debug = debug

    def pass_time(self, seconds: float) -> None:
        """Lets time pass without a wait, as work that keeps the processor busy does."""
        self._jumping.now += seconds

    def timers(self) -> int:
        """How many timers are set: a wait that was given up must leave none."""
        return sum(not handle.cancelled() for handle in self._scheduled)  # type: ignore[attr-defined]


def run(scene: Coroutine[Any, Any, T], *, debug: bool = False) -> T:
    """Runs `scene` on a jumping clock; `debug` turns on the loop's own checks, which take ten times as long."""
    with asyncio.Runner(loop_factory=JumpingLoop, debug=debug) as runner:
        return runner.run(scene)


def jumping(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Makes a test of a coroutine function, run on a jumping clock."""

    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        return run(test(*args, **kwargs), debug=True)

    return wrapper


def loop() -> JumpingLoop:
    """The running loop, which must be a jumping one."""
    running = asyncio.get_running_loop()
    assert isinstance(running, JumpingLoop), "the test is not decorated with @jumping"
    return running


async def settled() -> None:
    """Returns when every other task waits for a timer or for something that this task has to do."""
    # `_ready` holds the callbacks to come; this task's own wake-up is in it only after the sleep below.
    while True:
        await asyncio.sleep(0)
        if not loop()._ready:  # type: ignore[attr-defined]
            return


class Cancelling:
    """Runs a coroutine and cancels its task at the n-th await that suspends it, as if someone had just then.

    Args:
        at: which one, from 1; 0 for none, to count them.

    Attributes:
        awaits: how many there have been.
    """

    def __init__(self, at: int) -> None:
        self.at = at
        self.awaits = 0

    async def run(self, inner: Coroutine[Any, Any, T]) -> T:
        """What `inner` returns or raises."""
        return await self._steps(inner)

    @coroutine
    def _steps(self, inner: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        thrown: BaseException | None = None
        while True:
            try:
                waits_for = inner.send(None) if thrown is None else inner.throw(thrown)
            except StopIteration as stop:
                value: T = stop.value
                return value
            thrown = None
            self.awaits += 1
            if self.awaits == self.at:
                task = asyncio.current_task()
                assert task is not None, "a coroutine runs in a task"
                task.cancel()
            try:
                yield waits_for
            except BaseException as error:  # handed on to the coroutine, whatever it is
                thrown = error
