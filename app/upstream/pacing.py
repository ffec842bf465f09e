"""Paced reading: how long a socket rests between two reads, and the shared ticker that ends the rests.

A socket that rests for a window gives everything that came in one wake-up, where a busy one costs a wake-up a packet.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import cached_property


class ReadPace:
    """How long to rest after each read: until the receive buffer is half full, at most a window. Pure.

    The time follows from the rate of the last read. A read that comes back half full or more may have been cut by the
    full buffer, so its rate is a lower bound: the next rest is shorter, soon none at all, and a fast model is not
    slowed down.

    Args:
        window_s: the longest rest, in seconds.
    """

    __slots__ = ("_read_at", "_rest_s", "_window_s")

    # A rest shorter than this, in seconds, costs more for its timer than it saves.
    LEAST_S = 0.005

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._rest_s = window_s
        self._read_at: float | None = None

    def rest_s(self, size_bytes: int, now: float, half_full_bytes: int) -> float:
        """Seconds to rest after a read of `size_bytes` (above 0) that returned at `now`.

        Args:
            half_full_bytes: what half the receive buffer holds: a quarter of its size, for small packets take more
                room in it than their bytes.
        """
        elapsed_s = self._window_s if self._read_at is None else now - self._read_at
        self._read_at = now
        if size_bytes >= half_full_bytes:
            elapsed_s = min(elapsed_s, self._rest_s)
        rest_s = half_full_bytes * elapsed_s / size_bytes
        self._rest_s = 0.0 if rest_s < self.LEAST_S else min(rest_s, self._window_s)
        return self._rest_s


class Pacer:
    """Ends rests at slot boundaries, where all that end in one slot share one timer; and makes them longer under load.

    A few full slots cost less than many, because a wake-up finds the processor's caches cold once for all streams of its
    slot. So long rests end at wide slots. Short rests, of fast streams, do not, because they would be slowed down.

    Args:
        cpu_clock: seconds of processor time that the event loop's thread has used.

    Attributes:
        lag_s: how late the event loop has lately been, in seconds; whoever measures that writes it here.
        busy: the share of its processor that the event loop has lately used, 0 to 1.
    """

    # The widths of slots in seconds, and the rest in seconds from which the wide ones serve: a rest ends up to half a
    # slot before or after the time asked for.
    SLOT_S, WIDE_SLOT_S, LONG_S = 0.01, 0.05, 0.075
    # A rest grows with the share of the processor in use: by the first times what is above the second, and to at most the
    # third times itself, which is there from a twentieth of a processor on. So batches grow, and cost less, before anyone is
    # late: a window is what costs, whatever is in it.
    BUSY_GROWTH, FREE_SHARE, MOST_BUSY = 10.0, 0.025, 1.3
    # That share is measured this often, in seconds, and one measurement weighs this much, so that a hiccup counts
    # little.
    _MEASURE_S, _WEIGHT = 0.1, 0.3
    # Lateness below this is the ordinary life of an event loop, in seconds.
    ORDINARY_LAG_S = 0.01
    # A rest also grows by this many times the lag above that, and to at most three times itself: readers still see
    # motion.
    STRETCH, MOST_STRETCHED = 4.0, 3.0

    def __init__(self, cpu_clock: Callable[[], float] = time.thread_time) -> None:
        self._slots: dict[int, list[asyncio.Future[None]]] = {}
        self._cpu_clock = cpu_clock
        self._measured = 0.0, cpu_clock()  # loop time and processor time at the last measurement
        self.lag_s = 0.0
        self.busy = 0.0

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()  # asked for once: in Python 3.11 each time is a system call

    def stretched(self, rest_s: float) -> float:
        """A rest of `rest_s` seconds, longer under load: batches grow, and cost less, before anyone is late."""
        by_share = min(1 + self.BUSY_GROWTH * max(0.0, self.busy - self.FREE_SHARE), self.MOST_BUSY)
        by_lag_s = self.STRETCH * max(0.0, self.lag_s - self.ORDINARY_LAG_S)
        return min(rest_s * by_share + by_lag_s, rest_s * self.MOST_STRETCHED)

    def until(self, when: float) -> asyncio.Future[None]:
        """Done at the beginning of the slot nearest to `when` (loop time, s). Cancelling it is safe."""
        rest: asyncio.Future[None] = self._loop.create_future()
        now = self._loop.time()
        if when - now < self.LONG_S:
            slot = round(when / self.SLOT_S)
        else:
            slot = round(when / self.WIDE_SLOT_S) * round(self.WIDE_SLOT_S / self.SLOT_S)
        rests = self._slots.get(slot)
        if rests is None:
            rests = self._slots[slot] = []
            due_at = max(slot * self.SLOT_S, now)
            self._loop.call_at(due_at, self._tick, slot)
        rests.append(rest)
        return rest

    def _tick(self, slot: int) -> None:
        now = self._loop.time()
        measured_at, cpu_s = self._measured
        if now >= measured_at + self._MEASURE_S:
            self._measured = now, self._cpu_clock()
            share = min(1.0, (self._measured[1] - cpu_s) / (now - measured_at))
            self.busy += self._WEIGHT * (share - self.busy)
        for rest in self._slots.pop(slot):
            if not rest.done():
                rest.set_result(None)
