"""Content blocks that come whole, or begun: what stands on them is part of the answer like any delta. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from .events import ClaudeEvent, Delta, DeltaKind, Event

_SPOKEN: dict[str, DeltaKind] = {"text": "text", "thinking": "thinking"}


def index_of(data: dict[str, Any]) -> int:
    """A block's position, as its events say it; the first, where they do not."""
    index = data.get("index")
    return index if isinstance(index, int) else 0


def standing_text(index: int, block: dict[str, Any]) -> Delta | None:
    """The text or thinking that a block began with, as a delta that has passed with its start."""
    kind = _SPOKEN.get(str(block.get("type")))
    text = block.get(kind) if kind is not None else None
    return Delta(index, kind, text, 0, b"") if kind is not None and isinstance(text, str) and text else None


def has_input(block: dict[str, Any]) -> bool:
    """Whether a tool's block began with its whole input."""
    return bool(block.get("input")) and str(block.get("type")).endswith("tool_use")


def standing_input(index: int, block: dict[str, Any]) -> Delta | None:
    """The whole input that a tool's block began with, as one piece of JSON."""
    return Delta(index, "input_json", _json(block["input"]), 0, b"") if has_input(block) else None


def whole_blocks(content: Any) -> Iterator[ClaudeEvent]:
    """The events that blocks stand for which came within another event, or within a whole message."""
    for index, block in enumerate(content if isinstance(content, list) else []):
        if not isinstance(block, dict):
            continue
        yield Event("content_block_start", b"", {"index": index, "content_block": block})
        for delta in (standing_text(index, block), standing_input(index, block)):
            if delta is not None:
                yield delta
        yield Event("content_block_stop", b"", {"index": index})


def _json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()  # unlike json, it writes no NaN, which JSON does not have
    except (UnicodeEncodeError, OverflowError):  # half of a surrogate pair, an integer above 64 bits
        return json.dumps(value)
