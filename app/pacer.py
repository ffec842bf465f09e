"""Paced reading: how long a socket rests between two reads, and the shared ticker that ends the rests.

A socket that rests for a window gives everything that came in one wake-up, where a busy one costs a wake-up a packet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


class ReadPace:
    """How long to rest after each read: until the receive buffer is half full, at most a window. Pure.

    The time follows from the rate of the last read. A read that comes back half full or more may have been cut by the
    full buffer, so its rate is a lower bound: the next rest is shorter, soon none at all, and a fast model is not
    slowed down.

    Args:
        window_s: the longest rest, in seconds.
        half_full_bytes: what half the receive buffer holds.
    """

    __slots__ = ("_half_full_bytes", "_read_at", "_rest_s", "_window_s")

    # Below this a rest is not worth its timer, in seconds.
    LEAST_S = 0.005

    def __init__(self, window_s: float, half_full_bytes: int) -> None:
        self._window_s = window_s
        self._half_full_bytes = half_full_bytes
        self._rest_s = window_s
        self._read_at: float | None = None

    def rest_s(self, size_bytes: int, now: float) -> float:
        """Seconds to rest after a read of `size_bytes` (above 0) that returned at `now`."""
        elapsed_s = self._window_s if self._read_at is None else now - self._read_at
        self._read_at = now
        if size_bytes >= self._half_full_bytes:
            elapsed_s = min(elapsed_s, self._rest_s)
        rest_s = self._half_full_bytes * elapsed_s / size_bytes
        self._rest_s = 0.0 if rest_s < self.LEAST_S else min(rest_s, self._window_s)
        return self._rest_s


class Pacer:
    """Runs callbacks at slot boundaries; all that fall into one slot share one timer.

    Sockets that resume in the same slot also come back from the same poll, which is where most of the saving is.

    Args:
        slot_s: the width of a slot in seconds; a callback runs up to half of it before or after the time asked for.
    """

    # Lateness below this is the ordinary life of an event loop, in seconds.
    ORDINARY_LAG_S = 0.01
    # A rest grows by this many times the lag above it, and to at most so many times itself.
    STRETCH, MOST_STRETCHED = 4.0, 3.0

    def __init__(self, slot_s: float = 0.01) -> None:
        self._slot_s = slot_s
        self._slots: dict[int, list[Callable[[], None]]] = {}
        self.lag_s = 0.0  # how late slots have lately been

    def stretched(self, rest_s: float) -> float:
        """A rest of `rest_s` seconds, longer while the event loop lags: then batches grow before anyone is late."""
        surplus_s = self.lag_s - self.ORDINARY_LAG_S
        return rest_s if surplus_s <= 0 else min(rest_s + self.STRETCH * surplus_s, rest_s * self.MOST_STRETCHED)

    def at(self, when: float, callback: Callable[[], None]) -> None:
        """Runs `callback` (quick, must not raise) at the beginning of the slot nearest to `when` (loop time, s)."""
        slot = round(when / self._slot_s)
        callbacks = self._slots.get(slot)
        if callbacks is None:
            callbacks = self._slots[slot] = []
            loop = asyncio.get_running_loop()
            due_at = max(slot * self._slot_s, loop.time())
            loop.call_at(due_at, self._tick, slot, due_at)
        callbacks.append(callback)

    def _tick(self, slot: int, due_at: float) -> None:
        self.lag_s += 0.2 * (asyncio.get_running_loop().time() - due_at - self.lag_s)
        for callback in self._slots.pop(slot):
            try:
                callback()
            except Exception:  # one stream's trouble must not stop the others of its slot
                log.exception("a paced callback failed")
