"""The text of deltas as a reader is to see it: neighbours in one piece, and no character in two."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..answer.blocks import index_of
from ..answer.events import ClaudeEvent, Delta, DeltaKind
from ..answer.surrogates import ends_in_half, has_halves, paired


class Runs:
    """Joins what the queue may not: for a reader of text alone it does not matter what else was in a delta.

    Half of a surrogate pair waits for its other half, which may come in another batch, and behind other blocks' text.
    """

    __slots__ = ("_halves",)

    def __init__(self) -> None:
        self._halves: dict[tuple[int, DeltaKind], str] = {}

    def of(self, events: list[ClaudeEvent]) -> Iterable[ClaudeEvent]:
        """One batch, in order, with neighbouring deltas of one block and kind joined."""
        if len(events) == 1 and not self._halves and isinstance(events[0], Delta) and not has_halves(events[0].text):
            return events  # as it mostly is
        return self._joined(events)

    def _joined(self, events: list[ClaudeEvent]) -> Iterator[ClaudeEvent]:
        run: list[Delta] = []
        for event in events:
            if isinstance(event, Delta):
                if run and (run[0].index != event.index or run[0].kind != event.kind):
                    yield self._whole(run)
                    run = []
                run.append(event)
                continue
            if run:
                yield self._whole(run)
                run = []
            if self._halves and event.type == "content_block_stop":
                yield from self._left(index_of(event.data))
            yield event
        if run:
            yield self._whole(run)

    def rest(self) -> list[Delta]:
        """The halves whose other halves never came, now that nothing will come any more."""
        return [delta for index, _ in list(self._halves) for delta in self._left(index)]

    def _whole(self, run: list[Delta]) -> Delta:
        first = run[0]
        text = first.text if len(run) == 1 else "".join([delta.text for delta in run])
        if not self._halves and not has_halves(text):
            return first if len(run) == 1 else Delta(first.index, first.kind, text)
        key = (first.index, first.kind)
        text = paired(self._halves.pop(key, "") + text)
        if ends_in_half(text):
            self._halves[key], text = text[-1], text[:-1]
        return Delta(first.index, first.kind, text)

    def _left(self, index: int) -> Iterator[Delta]:
        for key in [key for key in self._halves if key[0] == index]:
            yield Delta(*key, self._halves.pop(key))
