"""How far a stream may run ahead of what its page has shown. Pure."""

from __future__ import annotations

import math
from collections import deque


class Credits:
    """Counts bytes that were sent and not yet acknowledged as shown.

    Args:
        window_bytes: how many may be out; one frame passes alone, whatever its size.
        shown_id: the last frame that the page has shown already.

    Attributes:
        out_bytes: sent and not acknowledged.
        shown_bytes: acknowledged in all.
        next_word_by: when the page speaks again at the latest, in loop time; infinite where it did not say.
    """

    __slots__ = ("_out", "_shown_id", "next_word_by", "out_bytes", "shown_bytes", "window_bytes")

    def __init__(self, window_bytes: float, shown_id: int) -> None:
        self.window_bytes = window_bytes
        self._shown_id = shown_id
        self._out: deque[tuple[int, int]] = deque()  # (frame id, bytes), oldest first
        self.out_bytes = 0
        self.shown_bytes = 0
        self.next_word_by = math.inf

    @property
    def exhausted(self) -> bool:
        """Whether the page has to show more before more is sent."""
        return self.out_bytes >= self.window_bytes

    @property
    def room_bytes(self) -> float:
        """How much more may be sent before the page has to show more."""
        return max(0, self.window_bytes - self.out_bytes)

    def sent(self, frame_id: int, size_bytes: int) -> None:
        """This frame went out."""
        if frame_id > self._shown_id:
            self._out.append((frame_id, size_bytes))
            self.out_bytes += size_bytes

    def shown(self, frame_id: int, next_word_by: float = math.inf) -> None:
        """The page has shown everything up to `frame_id`; an older id than before changes nothing else."""
        self.next_word_by = next_word_by
        self._shown_id = max(self._shown_id, frame_id)
        while self._out and self._out[0][0] <= frame_id:
            size_bytes = self._out.popleft()[1]
            self.out_bytes -= size_bytes
            self.shown_bytes += size_bytes
