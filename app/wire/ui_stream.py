"""The AI SDK's UI message stream, version 1: what `useChat` reads.

Its client checks every chunk against a closed list of types and of finish reasons, and one that is not on it fails the
whole chat. So a block that has no place in the list travels as `data-claude-block`, which any client takes, and which
`ui_messages.py` puts back where it was. What a later question must hand back to Claude unchanged (signatures,
citations, the kind of a server tool's blocks) travels in `providerMetadata`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from ..answer.blocks import index_of
from ..answer.events import ClaudeEvent, Delta, DeltaKind
from ..answer.tally import Tally
from ..errors import SluicewayError, Stopped, TakenOver
from .plain import KEEP_ALIVE, framed
from .runs import Runs
from .ui_sources import Chunk, citation_of, source_of_citation, sources_in_result

# What an answer has cost, in US dollars, by model and usage; None where no price is known.
CostOf = Callable[[str, Mapping[str, Any]], float | None]

DONE = b"data: [DONE]\n\n"
RAW_BLOCK = "data-claude-block"
# The finish reasons that the client's schema takes, by Claude's stop reason; any other is "other".
FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool-calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content-filter",
}


# These bring the whole of what they name: it takes the place of what stood at the block's start (the SDK's
# accumulation).
_WHOLE_DELTAS = frozenset({"compaction_delta", "signature_delta"})


class UiFormat:
    """Encodes one answer as a UI message stream.

    Args:
        message_id: the id of the message on the page; that of the page's last one where the answer continues it.
        known_tools: ids of the tool calls that this message has already.
        cost_of: what the answer cost; by default no price is known.
    """

    keep_alive = KEEP_ALIVE

    def __init__(
        self, message_id: str, known_tools: Collection[str] = (), cost_of: CostOf = lambda _model, _usage: None
    ) -> None:
        self._message_id = message_id
        self._earlier = frozenset(known_tools)
        self._cost_of = cost_of
        self._tally = Tally()  # of all but the deltas
        self._runs = Runs()
        self._started = False
        self._calls: dict[str, int] = {}  # tool calls of this answer, with their blocks' places
        self._blocks: dict[int, _Block] = {}  # the open ones
        self._sources: set[str] = set()  # what the page was told of

    def encode(self, events: list[ClaudeEvent]) -> list[bytes]:
        """The frames of one batch, in order."""
        return [framed(chunk) for event in self._runs.of(events) for chunk in self._chunks(event)]

    def end(self, error: SluicewayError | None) -> list[bytes]:
        """The last frames: the finish, or what ended it, and the mark that nothing follows."""
        last: list[Chunk]
        left = [chunk for delta in self._runs.rest() for chunk in self._chunks(delta)]
        if error is None:
            left += [chunk for block in self._blocks.values() for chunk in block.close()]  # whose ends did not come
            reason = FINISH_REASONS.get(self._tally.stop_reason or "", "other")
            last = [{"type": "finish-step"}, {"type": "finish", "finishReason": reason}]
        elif isinstance(error, Stopped | TakenOver):
            # The reason is "interrupted", because at others the page asks again by itself.
            last = [{"type": "abort", "reason": error.type}, {"type": "finish", "finishReason": "interrupted"}]
        else:
            # An error's chunk is words alone; a page that wants to know more takes it from here (`onData`).
            more = {"code": error.type, **error.facts}
            told: list[Chunk] = [{"type": "data-error", "data": more, "transient": True}] if error.facts else []
            last = [*told, {"type": "error", "errorText": error.message}]
        return [*map(framed, left + last), DONE]

    def _chunks(self, event: ClaudeEvent) -> Iterator[Chunk]:
        if isinstance(event, Delta):
            if event.text:
                yield from self._grow(event)
            return
        self._tally.see(event)
        index, data = index_of(event.data), event.data
        match event.type:
            case "message_start" if not self._started:
                self._started = True
                yield {"type": "start", "messageId": self._message_id, "messageMetadata": self._metadata()}
                yield {"type": "start-step"}
            case "content_block_start" if isinstance(data.get("content_block"), dict):
                yield from self._open(index, data["content_block"])
            case "content_block_delta" if index in self._blocks and isinstance(data.get("delta"), dict):
                yield from self._other_delta(self._blocks[index], data["delta"])
            case "content_block_stop" if index in self._blocks:
                yield from self._blocks.pop(index).close()
            case "message_delta":
                yield {"type": "message-metadata", "messageMetadata": self._metadata()}

    def _grow(self, delta: Delta) -> Iterator[Chunk]:
        if delta.index not in self._blocks and delta.kind != "input_json":
            yield from self._open(
                delta.index, {"type": delta.kind}
            )  # the block's start did not come, but its text must be shown all the same
        if (block := self._blocks.get(delta.index)) is not None:
            yield from block.grow(delta.kind, delta.text)

    def _metadata(self) -> Chunk:
        tally = self._tally
        # Before the end `output_tokens` is a placeholder.
        usage = {name: value for name, value in tally.usage.items() if tally.exact or name != "output_tokens"}
        told: Chunk = {"model": tally.model, "usage": usage}
        if tally.stop_reason is not None:
            told["stopReason"] = tally.stop_reason
        if tally.stop_details is not None:
            told["stopDetails"] = tally.stop_details
        if (
            tally.exact
            and isinstance(tally.model, str)
            and (cost_usd := self._cost_of(tally.model, tally.usage)) is not None
        ):
            told["costUsd"] = cost_usd
        return told

    def _open(self, index: int, content: dict[str, Any]) -> Iterator[Chunk]:
        kind, call_id = str(content.get("type", "")), content.get("tool_use_id")
        block: _Block
        if kind == "text":
            block = _TextBlock(index, content)
        elif kind in ("thinking", "redacted_thinking"):
            block = _ThinkingBlock(index, content)
        elif kind.endswith("tool_use") and content.get("id") and content.get("name"):
            block = _ToolBlock(index, content)
            self._calls[block.call_id] = index
        elif kind.endswith("_tool_result") and isinstance(call_id, str) and self._knows(call_id):
            block = _ResultBlock(index, content, self._calls.get(call_id))
        elif kind in ("image", "document") and (file := _file(content)) is not None:
            yield file
            block = _Block(index, content)
        else:
            block = _RawBlock(index, content)
        self._blocks[index] = block
        yield from block.open()
        for citation in _citations(content) if isinstance(block, _TextBlock) else ():
            yield from self._other_delta(block, {"type": "citations_delta", "citation": citation})
        yield from self._sources_of(sources_in_result(content))

    def _knows(self, call_id: str) -> bool:
        # Such a result is left out, because the client throws at one whose call is not in the message.
        return call_id in self._calls or call_id in self._earlier

    def _other_delta(self, block: _Block, delta: dict[str, Any]) -> Iterator[Chunk]:
        """A delta that brings no characters."""
        match delta:
            case {"type": "citations_delta", "citation": dict(citation)}:
                source = source_of_citation(citation)
                block.cite(citation, source)
                yield from self._sources_of([source] if source else [])
            case _:
                block.take(delta)

    def _sources_of(self, sources: list[Chunk]) -> Iterator[Chunk]:
        for source in sources:
            if source["sourceId"] not in self._sources:
                self._sources.add(source["sourceId"])
                yield source


class _Block:
    """One content block on its way; this one says nothing.

    Attributes:
        id: of its part on the page.
        content: as it began.
    """

    def __init__(self, index: int, content: dict[str, Any]) -> None:
        self.id = str(index)
        self.content = content

    def open(self) -> Iterator[Chunk]:
        yield from ()

    def grow(self, kind: DeltaKind, text: str) -> Iterator[Chunk]:
        yield from ()

    def cite(self, citation: dict[str, Any], source: Chunk | None) -> None:
        """Takes a citation; `source` is where it points, if the page can be told."""

    def take(self, delta: dict[str, Any]) -> None:
        """Takes a delta of another kind."""

    def close(self) -> Iterator[Chunk]:
        yield from ()


class _TextBlock(_Block):
    def __init__(self, index: int, content: dict[str, Any]) -> None:
        super().__init__(index, content)
        self._citations: list[dict[str, Any]] = []
        self._told: list[Chunk] = []

    def open(self) -> Iterator[Chunk]:
        yield {"type": "text-start", "id": self.id}

    def grow(self, kind: DeltaKind, text: str) -> Iterator[Chunk]:
        if kind == "text" and text:
            yield {"type": "text-delta", "id": self.id, "delta": text}

    def cite(self, citation: dict[str, Any], source: Chunk | None) -> None:
        self._citations.append(citation)
        if source is not None:
            self._told.append(citation_of(citation, source))

    def close(self) -> Iterator[Chunk]:
        end: Chunk = {"type": "text-end", "id": self.id}
        if self._citations:
            end["providerMetadata"] = {"anthropic": {"citations": self._citations}}
        if self._told:
            end["citations"] = self._told
        yield end


class _ThinkingBlock(_Block):
    """Thinking, or redacted thinking; the signature goes to the page, since Claude wants it back."""

    def __init__(self, index: int, content: dict[str, Any]) -> None:
        super().__init__(index, content)
        redacted = {"redactedData": content["data"]} if content.get("data") else {}
        self._kept = {"signature": content["signature"]} if content.get("signature") else redacted

    def open(self) -> Iterator[Chunk]:
        yield {"type": "reasoning-start", "id": self.id, **self._metadata()}

    def grow(self, kind: DeltaKind, text: str) -> Iterator[Chunk]:
        if kind == "thinking" and text:
            yield {"type": "reasoning-delta", "id": self.id, "delta": text}

    def take(self, delta: dict[str, Any]) -> None:
        if isinstance(delta.get("signature"), str):
            self._kept = {"signature": delta["signature"]}  # whole, as the SDK takes it, whatever stood at the start

    def close(self) -> Iterator[Chunk]:
        yield {"type": "reasoning-end", "id": self.id, **self._metadata()}

    def _metadata(self) -> Chunk:
        return {"providerMetadata": {"anthropic": self._kept}} if self._kept else {}


class _ToolBlock(_Block):
    """A call of the page's own tools, or of one that runs on Claude's side."""

    def __init__(self, index: int, content: dict[str, Any]) -> None:
        super().__init__(index, content)
        self.call_id = str(content["id"])
        self._json: list[str] = []
        self._call: Chunk = {"toolCallId": self.call_id, "toolName": str(content["name"])}
        if content["type"] != "tool_use":
            self._call["providerExecuted"] = True
        if content["type"] == "mcp_tool_use":
            self._call["dynamic"] = True
        rest = {name: value for name, value in content.items() if name not in ("id", "name", "input")}
        if rest != {"type": "tool_use"}:
            self._call["providerMetadata"] = {"anthropic": rest}

    def open(self) -> Iterator[Chunk]:
        yield {"type": "tool-input-start", **self._call}

    def grow(self, kind: DeltaKind, text: str) -> Iterator[Chunk]:
        if kind == "input_json" and text:
            self._json.append(text)
            yield {"type": "tool-input-delta", "toolCallId": self.call_id, "inputTextDelta": text}

    def close(self) -> Iterator[Chunk]:
        written = "".join(self._json)
        try:
            given = json.loads(written) if written else self.content.get("input") or {}
        except (ValueError, RecursionError):
            told = "the tool's input is no whole JSON: the answer was cut within it"
            yield {"type": "tool-input-error", **self._call, "input": written, "errorText": told}
            return
        yield {"type": "tool-input-available", **self._call, "input": given}


class _ResultBlock(_Block):
    """What a tool on Claude's side gave; it comes whole.

    Where it does not follow its call, its place is kept for the next question: after what came between, or in this
    answer although its call was in the one before.

    Args:
        call_index: where its call was in this answer; None if it was in an earlier one.
    """

    def __init__(self, index: int, content: dict[str, Any], call_index: int | None) -> None:
        super().__init__(index, content)
        self._place: Chunk = {} if call_index == index - 1 else {"index": index}
        if call_index is None:
            self._place["deferred"] = True

    def open(self) -> Iterator[Chunk]:
        output = self.content.get("content")
        rest = {name: value for name, value in self.content.items() if name not in ("tool_use_id", "content")}
        rest |= self._place
        told: Chunk = {"toolCallId": self.content["tool_use_id"], "providerExecuted": True}
        failed = isinstance(output, dict) and str(output.get("type", "")).endswith("_error")
        if failed or self.content.get("is_error") is True:
            metadata = {"anthropic": rest | {"content": output}}
            yield {"type": "tool-output-error", **told, "errorText": _error_text(output), "providerMetadata": metadata}
        else:
            yield {"type": "tool-output-available", **told, "output": output, "providerMetadata": {"anthropic": rest}}


class _RawBlock(_Block):
    """A block that the format has no chunk for: sent whole when it ends."""

    def __init__(self, index: int, content: dict[str, Any]) -> None:
        super().__init__(index, dict(content))

    def grow(self, kind: DeltaKind, text: str) -> Iterator[Chunk]:
        field = "partial_json" if kind == "input_json" else kind
        self.content[field] = str(self.content.get(field) or "") + text
        yield from ()

    def take(self, delta: dict[str, Any]) -> None:
        whole = str(delta.get("type")) in _WHOLE_DELTAS
        for name, value in delta.items():
            if name != "type":
                before = self.content.get(name)
                grows = isinstance(before, str) and isinstance(value, str) and not whole
                self.content[name] = before + value if grows else value

    def close(self) -> Iterator[Chunk]:
        yield {"type": RAW_BLOCK, "data": self.content}


def _citations(content: dict[str, Any]) -> list[Any]:
    """What stands on a text block's start."""
    given = content.get("citations")
    return given if isinstance(given, list) else []


def _error_text(output: Any) -> str:
    if isinstance(output, dict):
        return str(output.get("error_message") or output.get("error_code") or output.get("type"))
    if isinstance(output, list):
        return "\n".join(str(part["text"]) for part in output if isinstance(part, dict) and "text" in part)
    return str(output)


def _file(content: dict[str, Any]) -> Chunk | None:
    match content.get("source"):
        case {"type": "base64", "media_type": str(media_type), "data": str(data)}:
            return {"type": "file", "url": f"data:{media_type};base64,{data}", "mediaType": media_type}
        case {"type": "url", "url": str(url)}:
            media_type = "application/pdf" if content["type"] == "document" else "image/*"
            return {"type": "file", "url": url, "mediaType": media_type}
    return None
