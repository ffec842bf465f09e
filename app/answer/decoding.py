"""From a stream's bytes to events: decodes what a read brought and joins neighbouring deltas. Pure.

Joining here, before the queue, is what makes a token cheap: one JSON decode and a few queue items a read, whatever
the number of deltas in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import msgspec

from ..errors import UpstreamError, UpstreamGarbled
from .events import ClaudeEvent, Delta, DeltaKind, Event
from .refusals import refusal
from .sse import EventTooLarge, SseDecoder

# A joined run is cut here, so that the queue's bound in bytes is met in fine steps.
MAX_JOINED_CHARS = 512


class _TextDelta(msgspec.Struct, tag="text_delta", tag_field="type", forbid_unknown_fields=True, gc=False):
    text: str


class _ThinkingDelta(msgspec.Struct, tag="thinking_delta", tag_field="type", forbid_unknown_fields=True, gc=False):
    thinking: str


class _JsonDelta(msgspec.Struct, tag="input_json_delta", tag_field="type", forbid_unknown_fields=True, gc=False):
    partial_json: str


class _BlockDelta(msgspec.Struct, tag="content_block_delta", tag_field="type", forbid_unknown_fields=True, gc=False):
    index: int
    delta: _TextDelta | _ThinkingDelta | _JsonDelta


_DELTA = b"event: content_block_delta\ndata: "
_decode_deltas = msgspec.json.Decoder(list[_BlockDelta]).decode
_decode_delta = msgspec.json.Decoder(_BlockDelta).decode
# What msgspec raises for JSON of another shape, for bytes that are no UTF-8, and for nesting beyond its depth.
_NOT_A_DELTA = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class EventDecoder:
    """Turns the bytes of one answer into events, joining neighbouring deltas of one block and kind.

    Only deltas of exactly the known shape are joined; one with a field unknown here passes as an `Event`, untouched.

    Attributes:
        ended: `message_stop` has come; whatever follows is ignored.
        error: what ended the stream early, if anything did; raise it after the events before it were used.
    """

    __slots__ = ("_sse", "ended", "error")

    def __init__(self) -> None:
        self._sse = SseDecoder()
        self.ended = False
        self.error: UpstreamError | None = None

    def feed(self, chunk: bytes) -> list[ClaudeEvent]:
        """Takes the next bytes and returns the events that they complete. Pings are dropped: they only say "alive".

        What cannot be read (no JSON object, an event above the decoder's bound) becomes `error`, as an `error` event does.
        """
        if self.ended or self.error:
            return []
        if chunk.startswith(_DELTA) and chunk.endswith(b"\n\n") and self._sse.between_events:
            # A read in mid-answer holds nothing but whole deltas. Their JSON has no raw line feed, so that what lies
            # between two of them is unmistakable; if anything else does, the array is no JSON, or has not as many
            # elements as there are events, and the long way is taken.
            try:
                decoded = _decode_deltas(b"[%b]" % chunk[len(_DELTA) : -2].replace(b"\n\n" + _DELTA, b","))
            except _NOT_A_DELTA:
                decoded = []
            if len(decoded) == chunk.count(_DELTA):
                return list(_runs(decoded))
        events: list[ClaudeEvent] = []
        try:
            for event in self._events(chunk):
                events.append(event)  # noqa: PERF402 - one by one: those before an error count
        except UpstreamError as error:
            self.error = error
        return events

    def _events(self, chunk: bytes) -> Iterator[ClaudeEvent]:
        try:
            blocks = self._sse.feed(chunk)
        except EventTooLarge as error:
            raise UpstreamGarbled(f"Claude's stream could not be read: {error}") from error
        run: list[bytes] = []
        for name, data in blocks:
            if not data:
                continue  # the specification dispatches it; the SDK drops it, and there is nothing in it
            if name == b"content_block_delta":
                run.append(data)
                continue
            if run:
                yield from _joined(run)
                run = []
            event = _event(data)
            if event.type == "error":
                raise refusal(data)
            if event.type == "ping":
                continue
            yield event
            if event.type == "message_stop":
                self.ended = True
                return
        if run:
            yield from _joined(run)


def _joined(run: list[bytes]) -> Iterator[ClaudeEvent]:
    try:
        decoded = _decode_deltas(b"[" + b",".join(run) + b"]")
    except _NOT_A_DELTA:
        decoded = []
    if len(decoded) != len(run):
        # One of them is of another shape, or only a comma between two made JSON of it. Rare: one by one.
        yield from _joined_one_by_one(run)
        return
    yield from _runs(decoded)


def _joined_one_by_one(run: list[bytes]) -> Iterator[ClaudeEvent]:
    for data in run:
        try:
            yield from _runs([_decode_delta(data)])
        except _NOT_A_DELTA:
            event = _event(data)
            yield _lone_surrogates(event) or event


def _runs(deltas: list[_BlockDelta]) -> Iterator[Delta]:
    texts: list[str] = []
    chars, index, kind = 0, -1, "text"
    for item in deltas:
        delta = item.delta
        new_kind: DeltaKind
        if type(delta) is _TextDelta:
            new_kind, text = "text", delta.text
        elif type(delta) is _ThinkingDelta:
            new_kind, text = "thinking", delta.thinking
        else:
            assert type(delta) is _JsonDelta, "the decoder knows three shapes"
            new_kind, text = "input_json", delta.partial_json
        if texts and (item.index != index or new_kind != kind or chars + len(text) > MAX_JOINED_CHARS):
            yield Delta(index, kind, "".join(texts), len(texts))  # type: ignore[arg-type]
            texts, chars = [], 0
        texts.append(text)
        chars += len(text)
        index, kind = item.index, new_kind
    yield Delta(index, kind, "".join(texts), len(texts))  # type: ignore[arg-type]


def _event(data: bytes) -> Event:
    try:
        decoded = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UpstreamGarbled("Claude's stream held an event that is no JSON") from error
    if not isinstance(decoded, dict) or not isinstance(decoded.get("type"), str):
        raise UpstreamGarbled("Claude's stream held an event without a type")
    return Event(decoded["type"], data, decoded)


_TEXT_FIELDS: dict[str, tuple[DeltaKind, str]] = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "input_json_delta": ("input_json", "partial_json"),
}


def _lone_surrogates(event: Event) -> Delta | None:
    """A delta of known shape whose text holds half of a surrogate pair, which msgspec refuses and json takes."""
    delta = event.data.get("delta")
    if set(event.data) != {"type", "index", "delta"} or not isinstance(delta, dict):
        return None
    kind, field = _TEXT_FIELDS.get(str(delta.get("type")), ("text", ""))
    text, index = delta.get(field), event.data["index"]
    if set(delta) != {"type", field} or not isinstance(text, str) or not isinstance(index, int):
        return None
    return Delta(index, kind, text)
