"""Answers of Claude as lists of their events' JSON: those recorded, and some of our own that have what those lack."""

from __future__ import annotations

from typing import Any

from tests.support.answers import NAMES, events_in

_USAGE = {"input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
_MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-4-8",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": _USAGE,
}


def _start(index: int, block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def _delta(index: int, type: str, field: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": type, field: value} | more}


def _stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def _answer(*events: dict[str, Any], content: Any = (), reason: str = "end_turn") -> list[dict[str, Any]]:
    end = {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": None},
        "usage": {"output_tokens": 9},
    }
    message = {"type": "message_start", "message": _MESSAGE | {"content": list(content)}}
    return [message, *events, end, {"type": "message_stop"}]


_OURS = {
    "all kinds of blocks": _answer(
        _start(0, {"type": "thinking", "thinking": "", "signature": ""}),
        _delta(0, "thinking_delta", "thinking", "Hm, 𝒳 ", estimated_tokens=3),
        _delta(0, "thinking_delta", "thinking", "so.", estimated_tokens=5),
        _delta(0, "signature_delta", "signature", "c2ln"),
        _stop(0),
        _start(1, {"type": "text", "text": ""}),
        *(_delta(1, "text_delta", "text", text) for text in ("Hello", " wörld", " 😀", "", "\n\ndata: x")),
        _delta(1, "citations_delta", "citation", {"type": "char_location", "cited_text": "x", "document_index": 0}),
        _stop(1),
        _start(2, {"type": "tool_use", "id": "toolu_1", "name": "roll", "input": {}}),
        *(_delta(2, "input_json_delta", "partial_json", part) for part in ("", '{"player', '": "pl', 'ayer 😀"}')),
        _stop(2),
        _start(3, {"type": "tool_use", "id": "toolu_2", "name": "rest", "input": {}}),
        _stop(3),
        _start(4, {"type": "text", "text": "Bye"}),
        _delta(4, "text_delta", "text", "."),
        _stop(4),
        reason="tool_use",
    ),
    "blocks that came with the message's start": _answer(
        _start(2, {"type": "text", "text": ""}),
        _delta(2, "text_delta", "text", "after"),
        _stop(2),
        content=[
            {"type": "text", "text": "before "},
            {"type": "tool_use", "id": "toolu_1", "name": "roll", "input": {"player": [1, None, "é"]}},
        ],
    ),
    "halves that never meet": _answer(
        _start(0, {"type": "text", "text": "a\ud83d"}),
        _delta(0, "text_delta", "text", "b\ud83d"),
        _stop(0),
        _start(1, {"type": "text", "text": "\ude00"}),
        _delta(1, "text_delta", "text", "\ude00\ud83d"),
        _stop(1),
    ),
    "nothing": _answer(),
}


ANSWERS: dict[str, list[dict[str, Any]]] = _OURS | {name: events_in(name) for name in NAMES}
