"""What happens to the streams, as those are told who count it or trace it. Pure."""

from __future__ import annotations

from typing import Protocol

from ..money.entry import Entry


class Observer(Protocol):
    """Hears of every stream, and of every answer that comes whole.

    Each is called on the event loop as it happens: it neither waits nor raises, and the batch's is as cheap as can be.
    """

    def began(self, model: str) -> None:
        """An answer of this model is asked for."""

    def started(self) -> None:
        """A stream runs: it has its tasks and its first reader."""

    def first_token(self, after_s: float) -> None:
        """The first token was handed to the reader, so many seconds after the request came."""

    def batch(self, gap_s: float | None, size_bytes: int) -> None:
        """A batch of this size was written and drained, so long after this reader's one before; None for its first."""

    def paused(self, seconds: float) -> None:
        """A producer was held by backpressure for this long, and goes on or ended."""

    def stalled(self, seconds: float) -> None:
        """A reader accepted nothing for this long, and goes on or was given up."""

    def stalled_now(self, readers: int) -> None:
        """So many readers are connected and accept nothing."""

    def upstream_opened(self) -> None:
        """A connection to Claude is taken for an answer."""

    def upstream_closed(self, after_s: float | None) -> None:
        """It was closed or given back; by us so many seconds after its end was decided, None where it ended by itself."""

    def upstream_error(self, kind: str) -> None:
        """Claude's side failed with this type of error."""

    def ended(self, queue_peak_bytes: int) -> None:
        """A stream runs no more; its queue was never fuller than this."""

    def settled(self, entry: Entry) -> None:
        """An answer's books are closed: once for each that began."""
