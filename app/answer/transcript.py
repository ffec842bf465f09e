"""The text of one running answer, kept only where it may be counted anew after an abort. Pure."""

from __future__ import annotations

from .events import ClaudeEvent, Delta
from .surrogates import mended

# A longer answer than this, in characters, is not kept, because it would lie in memory for as long as it runs.
MOST_CHARS = 262_144


class Transcript:
    """The text of one running answer, kept only where it may be counted anew."""

    __slots__ = ("_chars", "_texts")

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._chars = 0

    def see(self, event: ClaudeEvent) -> None:
        """Takes the next event."""
        if isinstance(event, Delta) and self._chars <= MOST_CHARS:
            self._texts.append(event.text)
            self._chars += len(event.text)

    @property
    def text(self) -> str | None:
        """All of it; None where it is too long, or there is none."""
        return mended("".join(self._texts)) if 0 < self._chars <= MOST_CHARS else None
