"""The plain protocol: SSE whose `data:` lines are small JSON objects, readable by a dozen lines of browser code.

    data: {"text": "…"}          a batch of text
    data: {"thinking": "…"}      where the request asked for thinking
    data: {"tool_use": {"index": 1, "id": "…", "name": "…"}}, then {"tool_use": {"index": 1, "partial_json": "…"}}
    data: {"done": true, "stop_reason": "end_turn", "usage": {…}}                  the last event of a good stream
    data: {"error": "…", "type": "overloaded_error", "retryable": true, "source": "upstream"}    of a failed one
    : keep-alive                 a sign of life

Line feeds only and one `data:` line an event, because the simplest readers split on a blank line and look for
`data: `. Other blocks (server tools' results, citations, signatures) have no place here; `/v1/messages` carries all.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..answer.events import ClaudeEvent, Delta, Event
from ..answer.surrogates import mended
from ..answer.tally import Tally
from ..errors import SluicewayError
from .lines import one_line
from .runs import Runs

# A sign of life is a comment without a blank line after it (WHATWG HTML, section 9.2.6), because some readers take
# every blank line for an event: an empty one, at which `JSON.parse` throws (@microsoft/fetch-event-source then asks
# anew). The comment stands before the next frame's lines, where every reader passes over it.
KEEP_ALIVE = b": keep-alive\n"

_encode = msgspec.json.Encoder().encode


class PlainFormat:
    """Encodes one answer in the plain protocol.

    Args:
        thinking: whether the reader asked for thinking.
    """

    keep_alive = KEEP_ALIVE

    def __init__(self, *, thinking: bool) -> None:
        self._thinking = thinking
        self._tally = Tally()  # of all but the deltas: usage and stop reason for the last frame
        self._runs = Runs()
        self._tool_blocks: set[int] = set()

    def encode(self, events: list[ClaudeEvent]) -> list[bytes]:
        """The frames of one batch, in order."""
        return [frame for event in self._runs.of(events) if (frame := self._frame(event))]

    def end(self, error: SluicewayError | None) -> list[bytes]:
        """The last frame; before it, half a character that was never completed."""
        left = [frame for delta in self._runs.rest() if (frame := self._frame(delta))]
        if error is not None:
            return [*left, framed(error.as_dict())]
        done: dict[str, Any] = {"done": True, "stop_reason": self._tally.stop_reason}
        if self._tally.stop_sequence is not None:
            done["stop_sequence"] = self._tally.stop_sequence
        if self._tally.stop_details is not None:
            done["stop_details"] = self._tally.stop_details
        return [*left, framed(done | {"usage": self._tally.usage})]

    def _frame(self, event: ClaudeEvent) -> bytes | None:
        if isinstance(event, Event):
            self._tally.see(event)
            return self._tool_start(event) if event.type == "content_block_start" else None
        if not event.text:
            return None
        if event.kind == "text":
            return framed({"text": event.text})
        if event.kind == "thinking":
            return framed({"thinking": event.text}) if self._thinking else None
        return self._tool_input(event)

    def _tool_start(self, event: Event) -> bytes | None:
        block, index = event.data.get("content_block"), event.data.get("index")
        if not isinstance(block, dict) or block.get("type") != "tool_use" or not isinstance(index, int):
            return None
        self._tool_blocks.add(index)
        return framed({"tool_use": {"index": index, "id": block.get("id"), "name": block.get("name")}})

    def _tool_input(self, delta: Delta) -> bytes | None:
        if delta.index not in self._tool_blocks:
            return None  # a server tool runs on Claude's side, so the page has no part in it
        return framed({"tool_use": {"index": delta.index, "partial_json": delta.text}})


def framed(data: dict[str, Any]) -> bytes:
    """A frame of one `data:` line of JSON."""
    try:
        encoded = _encode(data)
    except UnicodeEncodeError:
        # Half of a surrogate pair whose other half never came: no UTF-8 can carry it.
        encoded = _encode(_mended(data))
    return b"data: %b\n\n" % one_line(encoded)


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return mended(value)
    if isinstance(value, list):
        return [_mended(inner) for inner in value]
    if isinstance(value, dict):
        return {_mended(key): _mended(inner) for key, inner in value.items()}
    return value
