"""What the simulated Claude sends for a scenario, as steps: bytes of the event stream and the tokens they stand for. Pure.

Its encoder is its own on purpose: the gateway's codecs are judged against one that shares no line with them.
Wire format and order of events: Messages API, streaming.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle, islice, pairwise
from typing import Any, Literal, NamedTuple

from .prose import prose
from .scenario import MID_STREAM_FAULTS, Scenario

# How a step ends the answer. `finish`: the body's proper end. The others name the fault.
StepEnd = Literal["finish", "silence", "ping_only", "cut", "cut_fin"]

_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_NEWLINES = {"lf": b"\n", "crlf": b"\r\n", "cr": b"\r"}


class Step(NamedTuple):
    """One event, or a token that shows nothing, or the end.

    Attributes:
        data: the event on the wire, without HTTP framing; empty for tokens of hidden thinking and for bare ends.
        tokens: how many generated tokens it stands for; a step with tokens is paced.
        thinking: those are tokens of thinking.
        usage: what the event says about usage.
        closing: it is the `message_delta`, before which a late fault strikes.
        end: the answer ends with it.
    """

    data: bytes
    tokens: int = 0
    thinking: bool = False
    usage: dict[str, Any] | None = None
    closing: bool = False
    end: StepEnd | None = None


@dataclass(slots=True)
class EventWriter:
    """Writes events in one line-ending style, with comments, ids and a retry line when asked."""

    newline: bytes = b"\n"
    comment: bool = False
    _written: int = field(default=0, init=False)

    @classmethod
    def of(cls, scenario: Scenario) -> EventWriter:
        return cls(_NEWLINES[scenario.newline], scenario.comment)

    def event(self, payload: dict[str, Any]) -> bytes:
        return self.frame(payload["type"].encode(), _to_json(payload).encode())

    def frame(self, name: bytes, data: bytes) -> bytes:
        newline = self.newline
        if not self.comment:
            return b"event: %b%bdata: %b%b%b" % (name, newline, data, newline, newline)
        self._written += 1
        lines = [b": simulated", b"event: " + name, b"id: %d" % self._written, b"data:" + data, b"", b""]
        if self._written == 1:
            lines.insert(0, b"retry: 3000")
        return newline.join(lines)


def error_event(writer: EventWriter, type: str, message: str, request_id: str) -> bytes:
    """The `error` event that ends a stream in the middle."""
    return writer.event({"type": "error", "error": {"type": type, "message": message}, "request_id": request_id})


@dataclass(frozen=True, slots=True)
class Request:
    """What the answer takes from the request.

    Attributes:
        id: goes into the message's id and into errors.
        model: echoed.
        input_tokens: as counted from the request.
        max_tokens: the answer stops there.
        tool_name: called when the scenario has a tool call.
    """

    id: str
    model: str
    input_tokens: int
    max_tokens: int = 1_000_000
    tool_name: str = "search"


def planned_tokens(scenario: Scenario, request: Request) -> int:
    """Tokens the answer has if nobody stops it and nothing is cut."""
    tokens = min(scenario.thinking + scenario.tokens + scenario.tool, request.max_tokens)
    return min(tokens, scenario.after) if scenario.fault == "refuse" else tokens


def steps(scenario: Scenario, request: Request) -> Iterator[Step]:
    """The answer of a scenario that sets no transcript, with its fault, lazily."""
    writer = EventWriter.of(scenario)
    return _with_fault(_answer(scenario, request, writer), scenario, request, writer)


def replay(lines: Sequence[str], scenario: Scenario, request: Request) -> Iterator[Step]:
    """A recorded answer as steps, one event's JSON a line, with the scenario's fault.

    The JSON goes out byte for byte; each recorded `content_block_delta` counts as one token.
    """
    writer = EventWriter.of(scenario)
    return _with_fault(_replayed(lines, writer), scenario, request, writer)


def recorded_tokens(lines: Iterable[str]) -> int:
    """How many deltas a recorded answer has."""
    return sum(json.loads(line)["type"] == "content_block_delta" for line in lines)


def _replayed(lines: Sequence[str], writer: EventWriter) -> Iterator[Step]:
    for at, line in enumerate(lines, 1):
        payload = json.loads(line)
        kind = payload["type"]
        is_delta = kind == "content_block_delta"
        yield Step(
            writer.frame(kind.encode(), line.encode()),
            tokens=int(is_delta),
            thinking=is_delta and payload["delta"]["type"] == "thinking_delta",
            usage=payload.get("usage") or payload.get("message", {}).get("usage"),
            closing=kind == "message_delta",
            end="finish" if at == len(lines) else None,
        )


def _with_fault(answer: Iterator[Step], scenario: Scenario, request: Request, writer: EventWriter) -> Iterator[Step]:
    fault = scenario.fault
    if fault == "error_first":
        yield Step(error_event(writer, "overloaded_error", "Overloaded", request.id), end="finish")
        return
    if fault not in MID_STREAM_FAULTS or fault == "refuse":
        yield from answer
        return
    sent = 0
    for step in answer:
        if (step.tokens and sent >= scenario.after) or step.closing or step.end:
            if fault != "garbage":
                yield _strike(fault, request, writer)
                return
            yield Step(writer.frame(b"content_block_delta", b'{"type":"content_block_delta","index":0,"delta":{"ty'))
            yield step
            yield from answer
            return
        sent += step.tokens
        yield step


def _strike(fault: str, request: Request, writer: EventWriter) -> Step:
    match fault:
        case "overloaded":
            return Step(error_event(writer, "overloaded_error", "Overloaded", request.id), end="finish")
        case "no_message_stop":
            return Step(b"", end="finish")
        case "silence" | "ping_only" | "cut" | "cut_fin":
            return Step(b"", end=fault)
    raise AssertionError(f"{fault} does not strike in the middle")


def _answer(scenario: Scenario, request: Request, writer: EventWriter) -> Iterator[Step]:
    start_usage = {
        "input_tokens": request.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        # A placeholder, as Claude's is: the true figure comes with message_delta.
        "output_tokens": 1,
        "service_tier": "standard",
    }
    message: dict[str, Any] = {
        "model": request.model,
        "id": f"msg_{request.id}",
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": start_usage,
    }
    yield Step(writer.event({"type": "message_start", "message": message}), usage=start_usage)
    planned = planned_tokens(scenario, request)
    rng = random.Random(scenario.seed)
    done, index = 0, 0
    for kind, wanted in (("thinking", scenario.thinking), ("text", scenario.tokens), ("tool_use", scenario.tool)):
        length = min(wanted, planned - done)
        if length == 0:
            continue
        yield Step(
            writer.event({"type": "content_block_start", "index": index, "content_block": _opening(kind, request)})
        )
        if index == 0 and scenario.pings_s:
            yield Step(writer.event({"type": "ping"}))
        yield from _deltas(kind, length, wanted, done, index, scenario, writer, rng)
        yield Step(writer.event({"type": "content_block_stop", "index": index}))
        done, index = done + length, index + 1
    yield from _closing(scenario, request, planned, writer)


def _closing(scenario: Scenario, request: Request, planned: int, writer: EventWriter) -> Iterator[Step]:
    usage: dict[str, Any] = {
        "input_tokens": request.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": planned,
    }
    if scenario.thinking:
        usage["output_tokens_details"] = {"thinking_tokens": min(scenario.thinking, planned)}
    delta: dict[str, Any] = {"stop_reason": "tool_use" if scenario.tool else "end_turn", "stop_sequence": None}
    if scenario.fault == "refuse":
        details = {"type": "refusal", "category": None, "explanation": "A made-up Claude was told to refuse."}
        delta |= {"stop_reason": "refusal", "stop_details": details}
    elif planned < scenario.thinking + scenario.tokens + scenario.tool:
        delta["stop_reason"] = "max_tokens"
    yield Step(writer.event({"type": "message_delta", "delta": delta, "usage": usage}), usage=usage, closing=True)
    yield Step(writer.event({"type": "message_stop"}), end="finish")


def _opening(kind: str, request: Request) -> dict[str, Any]:
    match kind:
        case "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        case "tool_use":
            return {"type": "tool_use", "id": f"toolu_{request.id}", "name": request.tool_name, "input": {}}
    return {"type": "text", "text": ""}


_DELTA_FIELDS = {
    "thinking": ("thinking_delta", "thinking"),
    "text": ("text_delta", "text"),
    "tool_use": ("input_json_delta", "partial_json"),
}


def _deltas(
    kind: str,
    length: int,
    wanted: int,
    done: int,
    index: int,
    scenario: Scenario,
    writer: EventWriter,
    rng: random.Random,
) -> Iterator[Step]:
    """The deltas of one block: `length` tokens of the `wanted` ones, after `done` tokens of earlier blocks."""
    thinking = kind == "thinking"
    padding = b" " * scenario.padding_bytes
    delta_type, name = _DELTA_FIELDS[kind]
    prefix = f'{{"type":"content_block_delta","index":{index},"delta":{{"type":"{delta_type}","{name}":'.encode()
    if thinking and scenario.hidden:
        # Nothing is shown, yet every token takes its time and is counted: the long silence of real thinking.
        for _ in range(length):
            yield Step(b"", 1, True)
    else:
        if kind == "tool_use":
            # Claude opens a tool's input with an empty piece.
            yield Step(writer.frame(b"content_block_delta", prefix + b'""}}'))
        words = _words(kind, wanted, scenario)
        low, high = scenario.tokens_per_delta
        left = length
        while left:
            size = min(left, low if low == high else rng.randint(low, high))
            before_fault = scenario.after - done
            if before_fault > 0 and scenario.fault in MID_STREAM_FAULTS:
                # A fault strikes after exactly `after` tokens, so that tests can count.
                size = min(size, before_fault)
            text = next(words) if size == 1 else "".join(islice(words, size))
            data = b"%b%b}}%b" % (prefix, _to_json(text).encode(), padding)
            yield Step(writer.frame(b"content_block_delta", data), size, thinking)
            left, done = left - size, done + size
    if thinking:
        signature = {"type": "signature_delta", "signature": f"c2lnbmVk{length:06d}"}
        yield Step(writer.event({"type": "content_block_delta", "index": index, "delta": signature}))


def _words(kind: str, wanted: int, scenario: Scenario) -> Iterator[str]:
    words: Iterator[str]
    if scenario.text == "numbered":
        words = (f" {kind.partition('_')[0].replace('text', 'token')}{number:04d}" for number in count(1))
    else:
        words = cycle(prose(scenario.seed, kind == "text"))
    if kind != "tool_use":
        return words
    escaped = (_to_json(word)[1:-1] for word in islice(words, wanted))
    return _joined_ends('{"query":"', escaped, '"}', wanted)


def _joined_ends(head: str, words: Iterator[str], tail: str, length: int) -> Iterator[str]:
    for at, word in enumerate(words, 1):
        yield (head if at == 1 else "") + word + (tail if at == length else "")


def numbered_text(tokens: int) -> str:
    """The text of an answer of so many tokens with `text=numbered`."""
    return "".join(f" token{number:04d}" for number in range(1, tokens + 1))


def pieces(data: bytes, chunking: str, rng: random.Random) -> list[bytes]:
    """The writes in which bytes of the event stream go out: cut anywhere, also inside a code point or a CRLF."""
    match chunking:
        case "bytes":
            return [data[at : at + 1] for at in range(len(data))]
        case "random" if len(data) > 1:
            cuts = sorted(rng.sample(range(1, len(data)), k=rng.randint(0, min(3, len(data) - 1))))
            return [data[start:stop] for start, stop in pairwise([0, *cuts, len(data)])]
    return [data]


def whole_message(answer: Iterable[Step]) -> dict[str, Any]:
    """The message of a request without `stream`, put together from the steps of an answer with plain line feeds."""
    message: dict[str, Any] = {}
    for step in answer:
        if not step.data:
            continue
        payload = json.loads(step.data.split(b"\ndata: ", 1)[1])
        match payload["type"]:
            case "message_start":
                message = payload["message"]
            case "content_block_start":
                message["content"].append(payload["content_block"])
            case "content_block_delta":
                _grow(message["content"][payload["index"]], payload["delta"])
            case "content_block_stop":
                block = message["content"][payload["index"]]
                if "partial" in block:
                    block["input"] = _parsed_input(block.pop("partial"))
            case "message_delta":
                message |= payload["delta"]
                message["usage"] = message["usage"] | payload.get("usage", {})
    return message


def _grow(block: dict[str, Any], delta: dict[str, Any]) -> None:
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "thinking_delta":
            block["thinking"] += delta["thinking"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]
        case "input_json_delta":
            block["partial"] = block.get("partial", "") + delta["partial_json"]


def _parsed_input(partial: str) -> Any:
    try:
        return json.loads(partial or "{}")
    except ValueError:
        # max_tokens struck within the tool's input.
        return {}
