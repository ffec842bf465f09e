"""From a stream's bytes to events: decodes what a read brought and joins neighbouring deltas. Pure.

Joining here, before the queue, is what makes a token cheap: one JSON decode and a few queue items a read, whatever
the number of deltas in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from ..errors import UpstreamError, UpstreamGarbled
from .blocks import has_input, index_of, standing_input, standing_text, whole_blocks
from .events import ClaudeEvent, Delta, DeltaKind, Event
from .lenient_json import read_json
from .refusals import MOST_BODY_BYTES, is_error, reads_as_error, refusal, without_secrets, words_of
from .sse import NO_NAME, EventTooLarge, SseDecoder

# A joined run is cut at this size, so that the queue, whose bound is larger, fills in fine steps.
MAX_JOINED_CHARS = 512
# An event above this size is decoded in a step of its own: 30 MB take some 50 ms, and as much to be put together.
LARGE_BYTES = 1_048_576
# A delta longer than this comes in pieces, because each is encoded and written in one go, and all other streams wait for it.
LONGEST_CHARS = 65_536


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
# msgspec raises these for JSON of another shape, for bytes that are no UTF-8, and for nesting beyond its depth.
_NOT_A_DELTA = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

# Events of these names may be deltas and are decoded as such first, because most are; the second has no name at all.
_LIKELY = frozenset({b"content_block_delta", NO_NAME})
_KNOWN = frozenset(
    {
        "message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta",
        "message_stop", "ping",
    }
)  # fmt: skip
_TEXT_FIELDS: dict[str, tuple[DeltaKind, str]] = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "input_json_delta": ("input_json", "partial_json"),
}


class EventDecoder:
    """Turns the bytes of one answer into events, joining neighbouring deltas of one block and kind.

    1. An event is what the `type` in its own JSON says, and what its `event:` line says only where there is none.
    2. Deltas of exactly the known shape are joined; one with more in it keeps its bytes (`Delta.raw`).
    3. Text and thinking that stand on a block's start are deltas too, after it; so is a tool's whole input, before the
       block's end, unless pieces of it came after all: those take its place, as they do in the SDKs.

    Args:
        hide: takes the secrets out of what an error says.

    Attributes:
        behind: a large event has come and is not decoded yet, or what came behind it; `step(b"")` does it.
        ended: `message_stop` has come; whatever follows is ignored.
        error: what ended the stream early, if anything did; raise it after the events before it were used.
    """

    __slots__ = ("_began", "_hide", "_inputs", "_sse", "_waiting", "ended", "error")

    def __init__(self, hide: Callable[[bytes], bytes] = without_secrets) -> None:
        self._sse = SseDecoder()
        self._hide = hide
        self._waiting: list[tuple[bytes, bytes]] = []  # a large event, and what came behind it
        self._began = False  # an event that says what it is has come
        # The open blocks that began with a whole input which no piece has replaced yet. It is written as JSON once it is
        # asked for: of megabytes that takes as long as reading them, and is a step of its own.
        self._inputs: dict[int, dict[str, Any]] = {}
        self.ended = False
        self.error: UpstreamError | None = None

    def feed(self, chunk: bytes) -> list[ClaudeEvent]:
        """Takes the next bytes and returns the events that they complete. Pings are dropped: they only say "alive".

        What cannot be read (no JSON object, an event above the decoder's bound) becomes `error`, as an `error` event does.
        """
        events = self.step(chunk)
        while self.behind:
            events += self.step(b"")
        return events

    @property
    def behind(self) -> bool:
        return bool(self._waiting) and not self.ended and self.error is None

    def step(self, chunk: bytes) -> list[ClaudeEvent]:
        """As `feed`, but a large event waits for a step of its own, so that others can go between."""
        if self.ended or self.error:
            return []
        if chunk.startswith(_DELTA) and chunk.endswith(b"\n\n") and self._sse.between_events and not self._waiting:
            # A read in mid-answer holds nothing but whole deltas. Their JSON has no raw line feed, so that what lies
            # between two of them is unmistakable; if anything else does, the array is no JSON, or has not as many
            # elements as there are events, and the long way is taken.
            try:
                decoded = _decode_deltas(b"[%b]" % chunk[len(_DELTA) : -2].replace(b"\n\n" + _DELTA, b","))
            except _NOT_A_DELTA:
                decoded = []
            if len(decoded) == chunk.count(_DELTA):
                return self._joined(decoded)
        events: list[ClaudeEvent] = []
        try:
            for event in self._events(chunk):
                events.append(event)  # noqa: PERF402 - one by one: those before an error count
        except UpstreamError as error:
            self.error = error
        return events

    def rest(self) -> list[Delta]:
        """The whole inputs that still wait for their blocks' ends, where nothing will come any more."""
        rest, self._inputs = self._inputs, {}
        return [piece for index, block in rest.items() for piece in _input(index, block)]

    def _events(self, chunk: bytes) -> Iterator[ClaudeEvent]:
        resumed = bool(self._waiting)
        try:
            blocks = self._waiting + self._sse.feed(chunk)
        except EventTooLarge as error:
            raise UpstreamGarbled(f"Claude's stream could not be read: {error}") from error
        count = next((at for at, (_, data) in enumerate(blocks) if len(data) > LARGE_BYTES), len(blocks))
        if count == 0 and resumed:
            count = 1  # the large one that waited, and it alone
        blocks, self._waiting = blocks[:count], blocks[count:]
        begin = 0
        for at, (name, data) in enumerate(blocks):
            if name in _LIKELY:
                continue
            yield from self._run(blocks[begin:at])
            begin = at + 1
            yield from self._one(name, data)
        yield from self._run(blocks[begin:])

    def _run(self, run: list[tuple[bytes, bytes]]) -> Iterable[ClaudeEvent]:
        if not run or self.ended:
            return ()
        if len(run) == 1 and len(run[0][1]) > LONGEST_CHARS:
            return self._one(*run[0])  # the array would be two more copies of it
        try:
            decoded = _decode_deltas(b"[%b]" % b",".join([data for _, data in run]))
        except _NOT_A_DELTA:
            decoded = []
        if len(decoded) == len(run):
            return self._joined(decoded)
        # One of them is of another shape, or a comma between two made the array JSON by chance, so the long way is
        # taken.
        return (event for name, data in run for event in self._one(name, data))

    def _joined(self, deltas: list[_BlockDelta]) -> list[ClaudeEvent]:
        self._began = True
        runs = list(_runs(deltas))
        if self._inputs:
            for run in runs:
                if isinstance(run, Delta) and run.kind == "input_json" and run.text:
                    self._inputs.pop(run.index, None)
        return runs

    def _one(self, name: bytes, raw: bytes) -> Iterator[ClaudeEvent]:
        """What one event of the wire is, with what stands on it."""
        if self.ended or not raw:
            return  # the specification dispatches an event without data, but the SDK drops it, and it holds nothing
        data = _object(raw)
        if data is None:
            if name == b"ping":
                return
            if name == b"error":
                raise refusal(self._hide(raw[:MOST_BODY_BYTES]))
            if _text(name) in _KNOWN or not self._began:
                raise UpstreamGarbled("Claude's stream held an event that is no JSON object")
            yield Event(_text(name), raw, {})  # none that is known: it passes, as the SDK passes it over
            return
        said = data.get("type")
        type = said if isinstance(said, str) else _text(name)
        wrong = is_error(data) or (name == b"error" and type not in _KNOWN and reads_as_error(data))
        if wrong and len(raw) > MOST_BODY_BYTES:  # looking for secrets in megabytes would take a second
            raise UpstreamGarbled(f"Claude's stream held an error of more than {MOST_BODY_BYTES} bytes")
        if wrong:
            raise refusal(self._hide(raw))
        if type == "ping":
            return
        if not type and not self._began:
            raise UpstreamGarbled(
                f"Claude's stream began with no event of an answer: {words_of(self._hide(raw[:MOST_BODY_BYTES]))}"
            )
        self._began = True
        if type == "content_block_delta" and (delta := _delta(raw, data)) is not None:
            if delta.kind == "input_json" and delta.text:
                self._inputs.pop(delta.index, None)
            yield from _pieces(delta)
            return
        yield from self._inputs_before(type, data)
        event = Event(type, raw, data)
        yield event
        yield from self._standing_on(event)

    def _inputs_before(self, type: str, data: dict[str, Any]) -> Iterator[Delta]:
        """The whole inputs that nothing will replace any more, now that this event comes."""
        if type in ("content_block_start", "content_block_stop"):
            if (block := self._inputs.pop(index_of(data), None)) is not None:
                yield from _input(index_of(data), block)
        elif type in ("message_delta", "message_stop"):
            yield from self.rest()

    def _standing_on(self, event: Event) -> Iterator[ClaudeEvent]:
        """What came within an event that only begins something, or ends it."""
        data = event.data
        match event.type:
            case "message_start" if isinstance(data.get("message"), dict):
                yield from whole_blocks(data["message"].get("content"))
            case "content_block_start" if isinstance(data.get("content_block"), dict):
                index, block = index_of(data), data["content_block"]
                if (text := standing_text(index, block)) is not None:
                    yield from _pieces(text)
                if has_input(block):
                    self._inputs[index] = block
            case "message_stop":
                self.ended = True


def _runs(deltas: list[_BlockDelta]) -> Iterator[ClaudeEvent]:
    if len(deltas) > 1:
        first = deltas[0].index
        alike = [item.delta.text for item in deltas if type(item.delta) is _TextDelta and item.index == first]
        if len(alike) == len(deltas) and len(text := "".join(alike)) <= MAX_JOINED_CHARS:
            yield Delta(first, "text", text, len(alike))  # as a read mostly is, at half the cost of what follows
            return
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


def _input(index: int, block: dict[str, Any]) -> Iterator[Delta]:
    given = standing_input(index, block)
    assert given is not None, "only blocks that have one are kept"
    yield from _pieces(given)


def _pieces(delta: Delta) -> Iterator[Delta]:
    """A long delta in pieces, of which the first one counts; one whose bytes pass as they came is whole."""
    if delta.raw or len(delta.text) <= LONGEST_CHARS:
        yield delta
        return
    for start in range(0, len(delta.text), LONGEST_CHARS):
        piece = delta.text[start : start + LONGEST_CHARS]
        yield Delta(delta.index, delta.kind, piece, delta.count if start == 0 else 0, delta.raw)


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        decoded = read_json(raw)
    except ValueError:
        return None
    return decoded if isinstance(decoded, dict) else None


def _text(name: bytes) -> str:
    return "" if name == NO_NAME else name.decode("utf-8", "replace")


def _delta(raw: bytes, data: dict[str, Any]) -> Delta | None:
    """A delta that brings characters, whatever else it has; None for any other."""
    delta = data.get("delta")
    if not isinstance(delta, dict):
        return None
    kind, field = _TEXT_FIELDS.get(str(delta.get("type")), ("text", ""))
    text = delta.get(field)
    if not isinstance(text, str):
        return None
    # A delta of the known shape comes this way if it holds half of a surrogate pair, because msgspec refuses that.
    known = data.keys() == {"type", "index", "delta"} and delta.keys() == {"type", field}
    known = known and type(data["index"]) is int and data["type"] == "content_block_delta"
    return Delta(index_of(data), kind, text, raw=None if known else raw)
