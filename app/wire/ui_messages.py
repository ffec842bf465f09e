"""From the AI SDK's UI messages to the Messages API's input, and to the chunks that build them again. Pure.

What `ui_stream.py` put into `providerMetadata` goes back to Claude as it came: signatures, citations, the kinds of
server tools' blocks. A UI message of the assistant may hold several answers, one a step; between two of them stand the
results of the page's own tools, which the Messages API takes from the user's side.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from operator import itemgetter
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from ..errors import BadRequest
from .plain import framed
from .ui_stream import RAW_BLOCK

Block = dict[str, Any]
_Placed = tuple[int, Block]  # with its place in the answer
_DATA_URL = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),(.*)", re.DOTALL)
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
    for place, message in enumerate(_list(messages, "messages")):
        at = f"messages[{place}]"
        if not isinstance(message, dict):
            raise BadRequest(f"{at} must be an object", field=at)
        parts = _list(message.get("parts"), f"{at}.parts")
        for number, part in enumerate(parts):
            if not isinstance(part, dict) or not isinstance(part.get("type"), str):
                raise BadRequest(f"{at}.parts[{number}] must have a type", field=f"{at}.parts[{number}]")
        match message.get("role"):
            case "system":
                system += [part["text"] for part in parts if part["type"] == "text" and part.get("text")]
            case "user":
                _say(turns, "user", _user_blocks(parts, at))
            case "assistant":
                _answer(turns, parts, at)
            case _:
                raise BadRequest(f"{at}.role must be system, user or assistant", field=f"{at}.role")
    return "\n\n".join(map(str, system)), turns


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
    if not isinstance(value, list) or not value:
        raise BadRequest(f"{field} must be a list that is not empty", field=field)
    return value


def _say(turns: list[dict[str, Any]], role: str, blocks: list[Block]) -> None:
    """Adds to the conversation; neighbours of one role are one message, with the results of tools at its head."""
    if not blocks:
        return
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


# The user's side.


def _user_blocks(parts: list[dict[str, Any]], at: str) -> list[Block]:
    blocks: list[Block] = []
    for number, part in enumerate(parts):
        field = f"{at}.parts[{number}]"
        match part:
            case {"type": "text", "text": str(text)}:
                if text.strip():  # Claude refuses blank text
                    blocks.append({"type": "text", "text": text})
            case {"type": "file", "mediaType": str(media_type), "url": str(url)}:
                blocks.append(_file_block(media_type, url, part.get("filename"), field))
            case {"type": str(kind)} if kind.startswith("data-"):
                continue  # the page's own
            case _:
                raise BadRequest(f"{field}: a user's part must be text, file or data-…", field=field)
    return blocks


def _file_block(media_type: str, url: str, name: Any, field: str) -> Block:
    found = _DATA_URL.fullmatch(url)
    if found is None and not url.startswith(("https://", "http://")):
        raise BadRequest(f"{field}.url must be a data: or http(s): address", field=f"{field}.url")
    source: Block = {"type": "url", "url": url}
    if found is not None:
        data = _data_of(found, field)
        source = {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode("ascii")}
        if media_type.startswith("text/"):
            source = {"type": "text", "media_type": "text/plain", "data": data.decode("utf-8", "replace")}
    if media_type.startswith("image/"):
        return {"type": "image", "source": source}
    if media_type != "application/pdf" and source["type"] != "text":
        raise BadRequest(f"{field}: Claude reads images, PDF and text, not {media_type[:80]}", field=field)
    titled = {"title": name} if isinstance(name, str) and name else {}
    return {"type": "document", "source": source, **titled}


def _data_of(found: re.Match[str], field: str) -> bytes:
    raw = unquote_to_bytes(found[3])
    if ";base64" not in found[2].lower():
        return raw
    try:
        return base64.b64decode(raw, validate=True)
    except binascii.Error:
        raise BadRequest(f"{field}.url is no valid base64", field=f"{field}.url") from None


# The assistant's side.


def _answer(turns: list[dict[str, Any]], parts: list[dict[str, Any]], at: str) -> None:
    """Adds an assistant's message: each step an answer, then the results of the tools that the page ran in it."""
    deferred: list[_Placed] = []
    for step in _steps(parts):
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
            blocks.append(call)
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
        case {"state": "output-denied"}:
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
