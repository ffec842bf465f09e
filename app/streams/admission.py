"""When a new stream is refused, so that the running ones keep their pace; and how late the event loop is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..errors import Lagging, Overloaded
from ..settings.sections import AdmissionLimits

# The loop must have been late for this long, in seconds, before anyone is refused. A burst of arrivals, a large body or a
# neighbour's work is over before refusing could help anyone; real overload lasts, and is still refused within two seconds.
SUSTAINED_S = 1.0


def check_room(limits: AdmissionLimits, in_flight: int, late_for_s: float) -> None:
    """Raises Overloaded, with a time after which trying again makes sense, unless there is room for one more. Pure.

    Args:
        limits: who is let in.
        in_flight: streams that run.
        late_for_s: for how long the event loop has been later than `limits.max_lag_s`, in seconds.
    """
    if in_flight >= limits.max_streams:
        raise Overloaded(f"all {limits.max_streams} streams of this service are in use", retry_after_s=2.0)
    if late_for_s >= SUSTAINED_S:
        raise Lagging("this service is at its capacity", retry_after_s=1.0)


def saturation(*held_of: tuple[float, float]) -> float:
    """How full a process is, from 0 to 1: as full as the fullest of what it has bounded, each as what is held and its bound. Pure."""
    return max(min(1.0, held / bound) for held, bound in held_of)


class LagMeter:
    """Measures how late the event loop runs its timers, and for how long it has been so.

    Args:
        clock: monotonic seconds. Not the loop's own time: that stands still within one turn of the loop, and a turn
            in which a thousand requests arrive is just what is to be noticed.
        limit_s: what is late.
        on_beat: told how late each beat was.
    """

    BEAT_S = 0.05
    # One beat counts for this much of the average: half a second of lateness is believed, a hiccup is not.
    WEIGHT = 0.2

    def __init__(
        self, clock: Callable[[], float], limit_s: float, on_beat: Callable[[float], None] = lambda _s: None
    ) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._on_beat = on_beat
        self._average_s = 0.0
        self._due_at = clock() + self.BEAT_S
        self._late_since: float | None = None

    @property
    def lag_s(self) -> float:
        """How late the loop is: by its last beats, and by the one that is overdue right now as if it came now."""
        overdue_s = self._clock() - self._due_at
        return self._average_s + self.WEIGHT * max(0.0, overdue_s - self._average_s)

    @property
    def late_for_s(self) -> float:
        """For how long the lag has been above the limit, without a break, in seconds; 0 where it is not."""
        if self.lag_s <= self._limit_s:
            return 0.0
        since = self._due_at if self._late_since is None else self._late_since
        return self._clock() - since

    async def run(self) -> None:
        """Beats until cancelled."""
        self._due_at = self._clock() + self.BEAT_S
        while True:
            await asyncio.sleep(self.BEAT_S)
            now = self._clock()
            late_s = max(0.0, now - self._due_at)
            self._average_s += self.WEIGHT * (late_s - self._average_s)
            if self._average_s <= self._limit_s:
                self._late_since = None
            elif self._late_since is None:
                self._late_since = self._due_at
            self._due_at = now + self.BEAT_S  # before anyone hears of it, or this beat would count twice in `lag_s`
            self._on_beat(late_s)
