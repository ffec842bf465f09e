"""How large a connection's receive buffer must be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """How the receive buffer follows the way: as small as it can be near by, as large as it must be far away.

    The rate that a window lets through is its size by the round trip. Small packets take more room in the buffer than
    their bytes, and Linux advertises half of it, so four times rate by round trip keeps a far stream from waiting.

    Attributes:
        near_bytes: `SO_RCVBUF` to begin with, and all of it while the way is short; Linux doubles it.
        most_bytes: what it may grow to. Above 32 kB (64 kB once doubled) the window would need the scale that was
            fixed with the first packet.
    """

    near_bytes: int
    most_bytes: int = 32_768

    # A way below this round trip, in seconds, is near: `near_bytes` lets 1.6 MB/s through even at its end.
    NEAR_S = 0.005
    # A far stream is assumed to need this rate until its own is known, in bytes/s: some 700 tokens/s.
    FIRST_RATE = 100_000.0
    # Buffer bytes for each byte that is on the way, see above.
    ROOM = 4.0
    # The buffer is changed only if it grows by this factor, because each change is a system call.
    STEP = 1.25

    def wanted_bytes(self, rate: float, rtt_s: float) -> int:
        """The `SO_RCVBUF` that keeps `rate` bytes/s flowing over a round trip of `rtt_s`."""
        if rtt_s < self.NEAR_S:
            return self.near_bytes
        # Halved, because Linux doubles what it is told.
        return min(self.near_bytes + round(self.ROOM * rate * rtt_s / 2), max(self.most_bytes, self.near_bytes))
