"""The formats in which an answer reaches its reader; each turns events into frames, purely."""

from __future__ import annotations

from typing import Protocol

from ..answer.events import ClaudeEvent
from ..errors import SluicewayError


class WireFormat(Protocol):
    """One answer in one format. A frame is a whole SSE event without its `id:` line, blank line included."""

    keep_alive: bytes  # a sign of life between frames: no event, or one that readers of the format know and pass over

    def encode(self, events: list[ClaudeEvent]) -> list[bytes]:
        """The frames of one batch, in order; none where the format has no place for the events."""

    def end(self, error: SluicewayError | None) -> list[bytes]:
        """The last frames: of a whole answer, or of one that `error` ended."""
