"""When a batch goes out, and what joins within it. Pure: `now` comes in, as seconds of any one clock."""

from __future__ import annotations

from ..answer.events import ClaudeEvent, Delta
from ..answer.surrogates import ends_in_half, paired


class Batch:
    """Events on their way to one write: neighbouring deltas of one block and kind become one; order is kept.

    A delta with more in it than is known (`Delta.raw`) joins with nothing, so that nothing of it is lost.

    A batch never splits a code point: half of a surrogate pair that ends a run stays behind for the next batch,
    unless something else follows it.
    """

    __slots__ = ("_count", "_events", "_texts", "size_bytes")

    def __init__(self) -> None:
        self._events: list[ClaudeEvent] = []  # the last one stands for `_texts` too, if that is not empty
        self._texts: list[str] = []  # the open run, the last event's own text first
        self._count = 0  # deltas of the wire in the open run
        self.size_bytes = 0  # of everything added: its payload, or a plain delta's text

    def add(self, event: ClaudeEvent) -> None:
        """Takes the next event."""
        if isinstance(event, Delta):
            self.size_bytes += len(event.raw) if event.raw else event.text_bytes
            last = self._events[-1] if self._events else None
            if (
                isinstance(last, Delta)
                and last.index == event.index
                and last.kind == event.kind
                and last.raw is event.raw is None
            ):
                self._texts.append(event.text)
                self._count += event.count
                return
            self._close_run()
            self._events.append(event)
            self._texts.append(event.text)
            self._count = event.count
        else:
            self.size_bytes += len(event.raw)
            self._close_run()
            self._events.append(event)

    def take(self, *, everything: bool = False) -> list[ClaudeEvent]:
        """What is to be written now. The batch is empty afterwards, but for half a code point that still waits.

        Args:
            everything: nothing will follow, so half a code point goes as it is.
        """
        self._close_run()
        events, self._events = self._events, []
        self.size_bytes = 0
        last = events[-1] if events else None
        if isinstance(last, Delta) and last.raw is None and ends_in_half(last.text) and not everything:
            events.pop()
            if len(last.text) > 1:
                events.append(Delta(last.index, last.kind, last.text[:-1], last.count))
            # The deltas are counted with the text that goes, or with the half where that is all there is.
            self.add(Delta(last.index, last.kind, last.text[-1], 0 if len(last.text) > 1 else last.count))
        return events

    def __bool__(self) -> bool:
        return bool(self._events)

    def _close_run(self) -> None:
        if len(self._texts) > 1:
            run = self._events[-1]
            assert isinstance(run, Delta), "only deltas open a run"
            text = paired("".join(self._texts))
            self._events[-1] = Delta(run.index, run.kind, text, self._count)
        self._texts.clear()


class Window:
    """The time window of coalescing: a batch goes out at once if the last one is a window ago, else when it is.

    The window grows only while the reader lags: a drain that takes longer than the window doubles it, up to
    `max_s`; quick drains let it shrink back.

    Args:
        window_s: the shortest time between two batches, in seconds; 0 sends each batch at once.
        max_s: what the window may grow to.
    """

    __slots__ = ("_base_s", "_max_s", "_sent_at", "window_s")

    # A batch does not wait for this last part of its window. Paced reads bring the next events about a window after the
    # last ones, so a timer for the rest would cost more than it joins.
    SLACK = 0.15

    def __init__(self, window_s: float, max_s: float) -> None:
        self._base_s = window_s
        self._max_s = max(window_s, max_s)
        self._sent_at = float("-inf")
        self.window_s = window_s

    @property
    def due_at(self) -> float:
        """When the pending batch goes out; in the past where it may go at once."""
        return self._sent_at + self.window_s * (1 - self.SLACK)

    def sent(self, began: float, ended: float) -> None:
        """A batch was written and drained between these two times."""
        self._sent_at = began
        if ended - began > self.window_s:
            self.window_s = min(max(self.window_s * 2, 0.001), self._max_s)
        elif self.window_s > self._base_s:
            self.window_s = max(self.window_s / 2, self._base_s)
