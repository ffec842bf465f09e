"""The Messages API's own event stream, coalesced: neighbouring deltas of a block are one valid delta of it.

Everything else passes byte for byte, known or not (Messages API, Streaming). Signs of life are real `ping` events,
because the watchdogs of clients do not count comments. The SDKs pass over the `id:` lines that delivery adds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from ..answer.blocks import whole_blocks
from ..answer.events import ClaudeEvent, Delta, DeltaKind, Event
from ..answer.refusals import STATUS_OF_TYPE
from ..errors import NotServed, SluicewayError, UpstreamRefused
from .lines import one_line

_encode = msgspec.json.Encoder().encode
_FIELDS: dict[DeltaKind, tuple[bytes, bytes]] = {
    "text": (b"text_delta", b"text"),
    "thinking": (b"thinking_delta", b"thinking"),
    "input_json": (b"input_json_delta", b"partial_json"),
}


class MessagesFormat:
    """Encodes one answer as the Messages API streams it."""

    keep_alive = b'event: ping\ndata: {"type": "ping"}\n\n'

    def encode(self, events: list[ClaudeEvent]) -> list[bytes]:
        """The frames of one batch, in order: one for each event that came as one."""
        return [frame for event in events if (frame := _frame(event))]

    def end(self, error: SluicewayError | None) -> list[bytes]:
        """Nothing after a whole answer, whose `message_stop` has passed already; else an `error` event.

        One of Claude's own passes as it came.
        """
        if error is None:
            return []
        return [_framed("error", getattr(error, "said", b"") or one_line(_encode(error_body(error))))]


def error_body(error: SluicewayError) -> dict[str, Any]:
    """An error in the Messages API's shape (Messages API, Errors).

    Its type is one of the API's own; where ours says more, it is told as `details.error_code`, whose unknown values
    the SDKs are told to take for the bare type. One of Claude's own is told as it came; what is not served says so
    itself, so that nobody takes it for Claude's.
    """
    if isinstance(error, UpstreamRefused) and (said := _object(error.said)) is not None:
        return {"type": "error"} | said
    told: dict[str, Any] = {"type": error.type, "message": error.message}
    details: dict[str, Any] = {}
    if error.type not in STATUS_OF_TYPE and not isinstance(error, NotServed):
        told["type"] = error.api_type or "api_error"
        details["error_code"] = error.type
    details |= error.facts
    if details:
        told["details"] = details
    body: dict[str, Any] = {"type": "error", "error": told}
    request_id = getattr(error, "request_id", None)
    return body if request_id is None else body | {"request_id": request_id}


def events_of(message: dict[str, Any]) -> Iterator[ClaudeEvent]:
    """The events that a whole message stands for, for the ledger: its parts, its usage, how it stopped."""
    yield Event("message_start", b"", {"message": message | {"usage": None}})  # all of it comes with the end
    yield from whole_blocks(message.get("content"))
    yield Event("message_delta", b"", {"delta": message, "usage": message.get("usage")})
    yield Event("message_stop", b"", {})


def _frame(event: ClaudeEvent) -> bytes:
    if isinstance(event, Delta):
        if event.raw is None:
            kind, field = _FIELDS[event.kind]
            return (
                b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}\n\n'
                % (event.index, kind, field, _string(event.text))
            )
        return _framed("content_block_delta", event.raw)
    return _framed(event.type, event.raw)


def _framed(name: str, raw: bytes) -> bytes:
    if not raw:
        return b""  # it came within another event, which has passed
    if b"\n" in raw:  # it came in several `data:` lines, and goes so
        raw = raw.replace(b"\n", b"\ndata: ")
    # An event without a name is sent without one: clients pass over it, as they do straight from Claude.
    return b"event: %b\ndata: %b\n\n" % (_name(name), raw) if name else b"data: %b\n\n" % raw


def _object(said: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(said)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _string(text: str) -> bytes:
    try:
        return one_line(_encode(text))
    except UnicodeEncodeError:
        # Half of a surrogate pair goes as a JSON escape, which is how it came, because UTF-8 cannot carry it.
        return json.dumps(text).encode("ascii")


def _name(type: str) -> bytes:
    # The type is cleaned, because it came from JSON and may hold what an `event:` line cannot.
    return type.replace("\r", " ").replace("\n", " ").encode("utf-8", "replace")
