"""From the AI SDK's UI messages to the Messages API's input, and to the chunks that build them again. Pure.

What `ui_stream.py` put into `providerMetadata` goes back to Claude as it came: signatures, citations, the kinds of
server tools' blocks. A UI message of the assistant may hold several answers, one a step; between two of them stand the
results of the page's own tools, which the Messages API takes from the user's side.

A page sends its whole history with every question. So what cannot go to Claude is refused where it is asked now, and
left out or told in words where it was said before: else one bad part would end the chat for good.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import Any

import msgspec

from ..errors import BadRequest
from .plain import framed
from .ui_files import Block, file_block
from .ui_stream import RAW_BLOCK

_Placed = tuple[int, Block]  # with its place in the answer
# The blocks that a tool's result may be made of (Messages API, tool use).
_RESULT_BLOCKS = frozenset({"text", "image", "document", "search_result", "tool_reference"})
_UNANSWERED = "The tool was not run."


def to_claude(messages: Any) -> tuple[str, list[dict[str, Any]]]:
    """The system prompt, empty for none, and the Messages API's `messages`.

    Raises:
        BadRequest: names the part at fault.
    """
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    given = _list(messages, "messages")
    if not given:
        raise BadRequest("messages must be a list that is not empty", field="messages")
    newest = max((place for place, message in enumerate(given) if _role(message) == "user"), default=-1)
    last = max((place for place, message in enumerate(given) if _role(message) in ("user", "assistant")), default=-1)
    for place, message in enumerate(given):
        at = f"messages[{place}]"
        if not isinstance(message, dict):
            raise BadRequest(f"{at} must be an object", field=at)
        parts = _parts(message.get("parts"), f"{at}.parts")
        match message.get("role"):
            case "system":
                system += [str(part["text"]) for part in parts if part["type"] == "text" and part.get("text")]
            case "user":
                blocks = _user_blocks(parts, f"{at}.parts", asked_now=place == newest)
                if not blocks and place == last:
                    # An empty one is refused, because the answer before it would go up as one that Claude should
                    # continue.
                    raise BadRequest(f"{at} asks nothing: it holds no text and no file", field=f"{at}.parts")
                _say(turns, "user", blocks)
            case "assistant":
                _answer(turns, parts, at, goes_on=place == len(given) - 1)
            case _:
                raise BadRequest(f"{at}.role must be system, user or assistant", field=f"{at}.role")
    if not turns:
        raise BadRequest(
            "messages ask nothing: they hold no text and no file", field=f"messages[{len(given) - 1}].parts"
        )
    return "\n\n".join(system), turns


def continued(messages: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The assistant's message that the answer will continue, as after a tool's result; None if it is a new one."""
    last = messages[-1]
    return last if last["role"] == "assistant" and isinstance(last.get("id"), str) else None


def tool_calls(message: dict[str, Any]) -> set[str]:
    """The ids of the tool calls in a UI message."""
    return {str(part["toolCallId"]) for part in message["parts"] if _tool_name(part) and "toolCallId" in part}


def preface(message: dict[str, Any]) -> list[bytes]:
    """Frames that build a UI message anew, for a page that resumes the answer which continues it.

    A replay begins by emptying the message (AI SDK, `resumeStreamIsReplay`), so what stood before must come again.
    """
    start = {"type": "start", "messageId": message["id"], "messageMetadata": message.get("metadata")}
    chunks = [{name: value for name, value in start.items() if value is not None}]
    for number, part in enumerate(message["parts"]):
        chunks += _rebuilt(part, f"earlier-{number}")
    return [framed(chunk) for chunk in chunks]


def _list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadRequest(f"{field} must be a list", field=field)
    return value


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else None


def _parts(value: Any, field: str) -> list[dict[str, Any]]:
    """A message's parts; none, where its answer was stopped before it began."""
    parts = _list(value, field)
    for number, part in enumerate(parts):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise BadRequest(f"{field}[{number}] must have a type", field=f"{field}[{number}]")
    return parts


def _say(turns: list[dict[str, Any]], role: str, blocks: list[Block]) -> None:
    """Adds to the conversation; neighbours of one role are one message, with the results of tools at its head."""
    if not blocks:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


# The user's side.


def _user_blocks(parts: list[dict[str, Any]], at: str, *, asked_now: bool) -> list[Block]:
    blocks: list[Block] = []
    for number, part in enumerate(parts):
        match part:
            case {"type": "text", "text": str(text)} if text.strip():  # Claude refuses blank text
                blocks.append({"type": "text", "text": text})
            case {"type": "file"}:
                try:
                    blocks.append(file_block(part, f"{at}[{number}]"))
                except BadRequest:
                    if asked_now:
                        raise
                    blocks.append({"type": "text", "text": f"[{_named(part)}: not readable, and left out]"})
    return blocks  # without the page's own data, and what later versions bring


def _named(part: dict[str, Any]) -> str:
    return ", ".join(str(part[field])[:200] for field in ("filename", "mediaType") if part.get(field)) or "A file"


# The assistant's side.


def _answer(turns: list[dict[str, Any]], parts: list[dict[str, Any]], at: str, *, goes_on: bool) -> None:
    """Adds an assistant's message: each step an answer, then the results of the tools that the page ran in it.

    Args:
        turns: where to.
        parts: its parts.
        at: where it stands in the request.
        goes_on: it is the last message: what runs on Claude's side may still be waited for.
    """
    deferred: list[_Placed] = []
    for step in _steps(parts):
        if step and step[0]["type"] == "steering-message":
            said = _parts(step[0].get("parts"), f"{at}.parts")
            _say(turns, "user", _user_blocks(said, f"{at}.parts", asked_now=False))
            continue
        placed, deferred = deferred, []
        blocks: list[Block | None] = []
        results: list[Block] = []
        for part in step:
            if (name := _tool_name(part)) is None:
                blocks += _said(part)
                continue
            if not isinstance(part.get("toolCallId"), str):
                raise BadRequest(f"{at}: a tool's part must have a toolCallId", field=at)
            if _unfinished(part):
                blocks.append(None)
                continue
            call, result, index, waits = _tool_blocks(part, name)
            # Claude takes a server tool's call without a result only at the end of a conversation, so others are told
            # in words.
            blocks.append(call if result is not None or goes_on else None)
            if result is None:
                continue
            if call["type"] == "tool_use":
                results.append(result)
            elif index is None:
                blocks.append(result)
            else:
                (deferred if waits else placed).append((index, result))
        for index, result in sorted(placed, key=itemgetter(0)):
            blocks.insert(index, result)
        _say(turns, "assistant", [block for block in blocks if block is not None])
        _say(turns, "user", results)
    _say(turns, "assistant", [result for _, result in deferred])


def _steps(parts: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    step: list[dict[str, Any]] = []
    for part in parts:
        if part["type"] == "step-start":
            yield step
            step = []
        elif part["type"] == "steering-message":  # said by the user while the answer ran: a step of its own
            yield from (step, [part])
            step = []
        else:
            step.append(part)
    yield step


def _said(part: dict[str, Any]) -> list[Block | None]:
    """What a part was in Claude's answer; None for a block that Claude does not take back, nothing for no block."""
    kept = _kept(part, "providerMetadata")
    match part:
        case {"type": "text", "text": str(text)} if text.strip():
            cited = {"citations": kept["citations"]} if kept.get("citations") else {}
            return [{"type": "text", "text": text, **cited}]
        case {"type": "reasoning"} if kept.get("redactedData"):
            return [{"type": "redacted_thinking", "data": kept["redactedData"]}]
        case {"type": "reasoning"} if kept.get("signature"):
            # Claude takes only signed thinking back.
            return [{"type": "thinking", "thinking": part.get("text") or "", "signature": kept["signature"]}]
        case {"type": kind, "data": dict(block)} if kind == RAW_BLOCK:
            return [block]
        case {"type": "text" | "reasoning" | "file"}:
            return [None]
    return []  # sources; the page's own data


def _tool_name(part: dict[str, Any]) -> str | None:
    kind = str(part.get("type"))
    if kind == "dynamic-tool":
        return str(part.get("toolName"))
    return kind.removeprefix("tool-") if kind.startswith("tool-") else None


def _tool_blocks(part: dict[str, Any], name: str) -> tuple[Block, Block | None, int | None, bool]:
    """A call, its result, that one's place where it does not follow the call, and whether it is in the next answer."""
    kept = _kept(part, "callProviderMetadata")
    on_claudes_side = part.get("providerExecuted") is True
    given = part.get("input")
    call = {
        "type": "server_tool_use" if on_claudes_side else "tool_use",
        **kept,
        "id": part["toolCallId"],
        "name": name,
        "input": given if isinstance(given, dict) else {},
    }
    if not on_claudes_side:
        return call, {"type": "tool_result", "tool_use_id": part["toolCallId"], **_outcome(part)}, None, False
    if part.get("state") not in ("output-available", "output-error"):
        return call, None, None, False
    kept = _kept(part, "resultProviderMetadata")
    waits, index = kept.pop("deferred", False) is True, kept.pop("index", None)
    content = kept.pop("content", part.get("output"))
    result = {"type": f"{name}_tool_result", **kept, "tool_use_id": part["toolCallId"], "content": content}
    return call, result, index if isinstance(index, int) and index >= 0 else None, waits


def _unfinished(part: dict[str, Any]) -> bool:
    """Whether the answer was cut within the call's input."""
    if part.get("state") == "input-streaming":
        return True
    failed = part.get("providerExecuted") is True and part.get("state") == "output-error"
    return failed and not part.get("resultProviderMetadata")


def _outcome(part: dict[str, Any]) -> Block:
    """What the page's own tool gave."""
    match part:
        case {"state": "output-available"}:
            return {"content": _content(part.get("output"))}
        case {"state": "output-error"}:
            return {"content": str(part.get("errorText") or "The tool failed."), "is_error": True}
        case {"state": "output-denied"} | {"state": "approval-responded", "approval": {"approved": False}}:
            return {"content": "The user did not allow this.", "is_error": True}
    return {"content": _UNANSWERED, "is_error": True}  # Claude wants a result for every call


def _content(output: Any) -> str | list[Block]:
    if isinstance(output, str):
        return output
    if (
        isinstance(output, list)
        and output
        and all(isinstance(block, dict) and block.get("type") in _RESULT_BLOCKS for block in output)
    ):
        return output
    return msgspec.json.encode(output).decode()


def _kept(part: dict[str, Any], field: str) -> dict[str, Any]:
    """What `ui_stream.py` left with the page for later."""
    metadata = part.get(field)
    kept = metadata.get("anthropic") if isinstance(metadata, dict) else None
    return dict(kept) if isinstance(kept, dict) else {}


# Parts as chunks again.

_Chunks = list[dict[str, Any]]


def _rebuilt(part: dict[str, Any], id: str) -> _Chunks:
    kind = part["type"]
    if kind == "step-start":
        return [{"type": "start-step"}]
    if kind in ("text", "reasoning"):
        return _with_ends(part, id, kind)
    if (name := _tool_name(part)) is not None:
        return _rebuilt_tool(part, name)
    if kind in ("file", "reasoning-file", "source-url", "source-document", "custom") or kind.startswith("data-"):
        return [part]
    return []


def _with_ends(part: dict[str, Any], id: str, kind: str) -> _Chunks:
    rest = {name: part[name] for name in ("providerMetadata", "citations") if part.get(name) is not None}
    chunks: _Chunks = [{"type": f"{kind}-start", "id": id}]
    if part.get("text"):
        chunks.append({"type": f"{kind}-delta", "id": id, "delta": part["text"]})
    return [*chunks, {"type": f"{kind}-end", "id": id, **rest}]


def _rebuilt_tool(part: dict[str, Any], name: str) -> _Chunks:
    if part.get("state") == "input-streaming":
        return []  # the page asks with finished calls only
    fields = ("toolCallId", "providerExecuted", "title")
    call = {field: part[field] for field in fields if part.get(field) is not None}
    call |= {"type": "tool-input-available", "toolName": name, "input": part.get("input")}
    if part["type"] == "dynamic-tool":
        call["dynamic"] = True
    if part.get("callProviderMetadata") is not None:
        call["providerMetadata"] = part["callProviderMetadata"]
    end = {field: call[field] for field in fields[:2] if field in call}
    if part.get("resultProviderMetadata") is not None:
        end["providerMetadata"] = part["resultProviderMetadata"]
    match part.get("state"):
        case "output-available":
            return [call, end | {"type": "tool-output-available", "output": part.get("output")}]
        case "output-error":
            return [call, end | {"type": "tool-output-error", "errorText": str(part.get("errorText"))}]
        case "output-denied":
            return [call, {"type": "tool-output-denied", "toolCallId": part.get("toolCallId")}]
    return [call]
