"""Whether a connected reader still takes anything, and whether it is still there. Pure: samples and `now` come in.

A *stalled* reader is connected and takes nothing: unsent or unread bytes wait, and none of them has moved for a while.
A *vanished* one does not even acknowledge: something is out, and its side has been silent for a while. Not by
`TCP_USER_TIMEOUT`: Linux counts acknowledged zero-window probes against it, so that it ends live readers that are
merely slow. Over a unix socket nothing is acknowledged, so there a vanished reader is found as a stalled one; but where
its page said by when it speaks again, and does not, it has vanished, whatever a proxy still takes for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum


class Finding(Enum):
    """What is wrong with a reader."""

    STALLED = "stalled"
    VANISHED = "vanished"


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at one connection.

    Attributes:
        waiting_bytes: written by us and not yet taken by the other side: in our buffer, in the kernel's, or in flight.
        taken_bytes: written by us and taken by the other side, in all; only its growth from look to look counts, since
            what waits may be counted with the kernel's own overhead, so that this is even negative.
        silent_s: seconds since the other side last acknowledged anything; None where nothing is acknowledged.
        in_flight: something is sent and not acknowledged.
        late: the page has not spoken by the time that it said.
    """

    waiting_bytes: int
    taken_bytes: int
    silent_s: float | None
    in_flight: bool
    late: bool = False


class Liveness:
    """Follows one connection from sample to sample.

    Args:
        stall_s: a reader that takes nothing for this long, though something waits, is stalled.
        vanish_s: one that acknowledges nothing for this long, though something is out, has vanished; so has one whose
            page is late for this long.
    """

    __slots__ = ("_in_flight_since", "_late_since", "_stuck_since", "_taken_bytes", "_vanish_s", "stall_s")

    def __init__(self, stall_s: float, vanish_s: float) -> None:
        self.stall_s = stall_s
        self._vanish_s = vanish_s
        self._taken_bytes = -math.inf
        self._stuck_since: float | None = None  # since when something waits and nothing moves
        self._in_flight_since: float | None = None  # since when something is out without a pause
        # By looks, not by the page's own time: when this process stood still, its words wait to be read.
        self._late_since: float | None = None

    def stuck_s(self, now: float) -> float:
        """Seconds for which something has waited and nothing has moved."""
        return 0.0 if self._stuck_since is None else now - self._stuck_since

    def look(self, sample: Sample, now: float) -> Finding | None:
        """Takes the next sample, at `now` in seconds; tells what is wrong, if anything is."""
        if sample.waiting_bytes <= 0 or sample.taken_bytes > self._taken_bytes:
            self._stuck_since = None
        if sample.waiting_bytes > 0 and self._stuck_since is None:
            self._stuck_since = now
        self._taken_bytes = sample.taken_bytes

        # Both times are kept before anything is found: what one look finds is not to hide from the other what it saw.
        if not sample.late:
            self._late_since = None
        elif self._late_since is None:
            self._late_since = now
        if not sample.in_flight:
            self._in_flight_since = None
        elif self._in_flight_since is None:
            self._in_flight_since = now
        if self._late_since is not None and now - self._late_since >= self._vanish_s:
            return Finding.VANISHED
        if sample.silent_s is not None and self._in_flight_since is not None:
            # An idle connection is silent too: silence counts from when something went out.
            unanswered_s = min(sample.silent_s, now - self._in_flight_since)
            if unanswered_s >= self._vanish_s:
                return Finding.VANISHED
        return Finding.STALLED if self.stuck_s(now) >= self.stall_s else None
