"""From a stream's bytes to events: decodes what a read brought and joins neighbouring deltas. Pure.

Joining here, before the queue, is what makes a token cheap: one JSON decode and a few queue items a read, whatever
the number of deltas in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from ..errors import UpstreamError, UpstreamGarbled, UpstreamRefused
from .events import ClaudeEvent, Delta, DeltaKind, Event
from .sse import EventTooLarge, SseDecoder

# A joined run is cut here, so that the queue's bound in bytes is met in fine steps.
MAX_JOINED_CHARS = 512

# The status that belongs to a code in mid-stream, where all came with 200 (Messages API, Errors).
STATUS_OF_TYPE = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
# The request itself was wrong. Of a 404 only Claude's own word counts: another's is a wrong base URL. 401, 402 and 403
# are the operator's key, 429 and 529 are Claude's (Messages API, Errors).
_CALLERS_STATUSES = frozenset({400, 413, 422, 431})
_CALLERS_TYPES = frozenset({"invalid_request_error", "not_found_error", "request_too_large"})
RETRYABLE_STATUSES = frozenset({408, 409, 429, 500, 502, 503, 504, 529})
# An error that only money helps: trying again is never of use, and no caller can mend it (Messages API, Rate limits).
_SPENT = frozenset({"enforced_spend_limit_reached", "contract_spend_limit_reached"})


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
                raise refusal(event.data)
            if event.type == "ping":
                continue
            yield event
            if event.type == "message_stop":
                self.ended = True
                return
        if run:
            yield from _joined(run)


def refusal(
    body: dict[str, Any],
    status: int | None = None,
    *,
    retry_after_s: float | None = None,
    request_id: str | None = None,
) -> UpstreamRefused:
    """Claude's error body as a typed error.

    Args:
        body: `{"type": "error", "error": {"type", "message", …}}`, as an event or as a response.
        status: the HTTP status it came with; None in mid-stream, where it follows from the code.
        retry_after_s: the `retry-after` header in seconds, if there was one.
        request_id: the `request-id` header, if there was one.
    """
    error = body.get("error")
    error = error if isinstance(error, dict) else {}
    kind = str(error.get("type") or "api_error")
    status = status or STATUS_OF_TYPE.get(kind, 500)
    details = error.get("details")
    spent = isinstance(details, dict) and details.get("error_code") in _SPENT
    return UpstreamRefused(
        str(error.get("message") or "Claude reported an error without a message"),
        type=kind,
        status=status,
        retryable=status in RETRYABLE_STATUSES and not spent,
        callers_fault=not spent and (status in _CALLERS_STATUSES or (status == 404 and kind in _CALLERS_TYPES)),
        retry_after_s=retry_after_s,
        request_id=request_id or body.get("request_id"),
    )


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
