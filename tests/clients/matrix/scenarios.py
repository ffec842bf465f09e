"""What Claude does in each scenario of the clients' table. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

Json = dict[str, Any]

TEXT: Final = "Grüezi — “hello”, 🙂 and\n\n```js\nlet a = 1;\n```\n\nso on. End"
WEATHER: Final = {"city": "Zürich", "unit": "°C"}
SHELL: Final = {"command": "echo sluice-$((40 + 2))", "description": "Say a number"}
USAGE: Final = {
    "input_tokens": 42,
    "output_tokens": 17,
    "cache_creation_input_tokens": 3,
    "cache_read_input_tokens": 5,
    "service_tier": "standard",
}


@dataclass(slots=True)
class Act:
    """One answer.

    Attributes:
        status: HTTP status; not 200: `message` is the error's body.
        message: the whole answer.
        events: the same as a stream.
        headers: besides the usual ones.
        before_headers_s: how long nothing comes, in seconds.
        before_events_s: how long nothing comes after the headers, in seconds.
        cut: the connection closes where the events end, or in the middle of a whole answer.
    """

    status: int = 200
    message: Json = field(default_factory=dict)
    events: list[Json] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    before_headers_s: float = 0.0
    before_events_s: float = 0.0
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a request is answered with, by its body and by how often it came, from 1; `words` are for the table."""

    words: str
    play: Callable[[Json, int], Act]


def error(kind: str, message: str, **more: Any) -> Json:
    return {"type": "error", "error": {"type": kind, "message": message} | more}


def pieces(text: str, characters: int = 4) -> list[str]:
    return [text[start : start + characters] for start in range(0, len(text), characters)]


def answer(body: Json, content: list[Json], stop_reason: str = "end_turn") -> Act:
    """A good answer, whole and as events, with a ping at its beginning and in its middle."""
    message = {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": USAGE,
    }
    begun = message | {"content": [], "stop_reason": None, "usage": USAGE | {"output_tokens": 1}}
    events: list[Json] = [{"type": "message_start", "message": begun}, {"type": "ping"}]
    for index, block in enumerate(content):
        events += block_events(index, block)
    events += [
        {
            "type": "message_delta",
            "delta": {"stop_reason": stop_reason, "stop_sequence": None},
            "usage": {"output_tokens": USAGE["output_tokens"]},
        },
        {"type": "message_stop"},
    ]
    events.insert(len(events) // 2, {"type": "ping"})
    return Act(message=message, events=events)


def block_events(index: int, block: Json) -> Iterator[Json]:
    """The events of one content block, its text in pieces of a few characters."""
    fields = {"text": ("text", "text_delta"), "thinking": ("thinking", "thinking_delta")}
    if block["type"] == "tool_use":
        empty, deltas = block | {"input": {}}, _tool_deltas(block)
    elif block["type"] in fields:
        name, kind = fields[block["type"]]
        empty = {key: value for key, value in block.items() if key != "signature"} | {name: ""}
        deltas = [{"type": kind, name: piece} for piece in pieces(block[name])]
        if "signature" in block:
            empty["signature"] = ""
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
    else:
        empty, deltas = block, []
    yield {"type": "content_block_start", "index": index, "content_block": empty}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def _tool_deltas(block: Json) -> list[Json]:
    written = json.dumps(block["input"], ensure_ascii=False)
    return [{"type": "input_json_delta", "partial_json": piece} for piece in ["", *pieces(written, 5)]]


def said(body: Json, text: str = TEXT) -> Act:
    return answer(body, [{"type": "text", "text": text}])


def text(body: Json, _attempt: int) -> Act:
    return said(body)


def structured(body: Json, _attempt: int) -> Act:
    """JSON in the text, or as the input of the tool that a client makes of a wanted shape."""
    for tool in body.get("tools", []):
        if (body.get("tool_choice") or {}).get("name") == tool.get("name"):
            call = {"type": "tool_use", "id": "toolu_01", "name": tool["name"], "input": WEATHER}
            return answer(body, [call], "tool_use")
    return said(body, '{"city": "Zürich", "unit": "°C"}')


def tools(body: Json, _attempt: int) -> Act:
    """A call of the tool that the client brought; once its result is there, the end."""
    brought = {tool.get("name") for tool in body.get("tools", [])}
    results = [block for turn in body["messages"] if isinstance(turn["content"], list) for block in turn["content"]]
    name, given = ("weather", WEATHER) if "weather" in brought else ("Bash", SHELL)
    result = [block for block in results if block.get("type") == "tool_result"]
    if result:
        return said(body, f"The tool said: {len(result)} result, {result[0].get('is_error') or False}.")
    if name not in brought:
        return said(body)
    call = {"type": "tool_use", "id": "toolu_01", "name": name, "input": given}
    return answer(body, [{"type": "text", "text": "Let me look."}, call], "tool_use")


def thinking(body: Json, _attempt: int) -> Act:
    thought = {"type": "thinking", "thinking": "Hm, “wörld” … 🙂 so:", "signature": "c2lnbmF0dXJl" * 8}
    hidden = {"type": "redacted_thinking", "data": "aGlkZGVu" * 4}
    return answer(body, [thought, hidden, {"type": "text", "text": TEXT}])


def _refusal(status: int, kind: str, message: str, **headers: str) -> Act:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Act(status=status, message=error(kind, message), headers=named)


def invalid(_body: Json, _attempt: int) -> Act:
    return _refusal(400, "invalid_request_error", "messages.0: something is wrong with “this”")


def refused(_body: Json, _attempt: int) -> Act:
    return _refusal(529, "overloaded_error", "Overloaded", x_should_retry="false")


def overloaded(_body: Json, _attempt: int) -> Act:
    return _refusal(529, "overloaded_error", "Overloaded", x_should_retry="true", retry_after_ms="20")


def recovers(body: Json, attempt: int) -> Act:
    return said(body) if attempt > 2 else overloaded(body, attempt)


def breaks(body: Json, _attempt: int) -> Act:
    act = said(body)
    more = {"details": {"error_visibility": "user_facing", "brand_new": [1]}}
    act.events[8:] = [error("overloaded_error", "Overloaded in the middle", **more) | {"request_id": "req_inner"}]
    return act


def cut(body: Json, _attempt: int) -> Act:
    act = said(body)
    act.events[8:] = []
    act.cut = True
    return act


def unknown(body: Json, _attempt: int) -> Act:
    """What Anthropic may add tomorrow: an event, a block, a delta, and fields everywhere."""
    act = answer(body, [{"type": "text", "text": TEXT}])
    start, _ping, begun, *rest = act.events
    start["message"] |= {"brand_new": {"a": None}, "usage": USAGE | {"brand_new_tokens": 7, "output_tokens": 1}}
    begun["content_block"]["brand_new"] = "x"
    new_delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "brand_new_delta", "value": [1, "ü"]}}
    new_event = {"type": "brand_new_event", "value": {"deep": [1, 2]}}
    new_block = list(block_events(1, {"type": "brand_new_block", "value": "x", "more": {"y": 1}}))
    rest[-2]["usage"] |= {"brand_new_tokens": 8}
    rest[-2]["delta"]["brand_new"] = True
    act.events = [start, new_event, begun, new_delta, *rest[:-2], *new_block, *rest[-2:]]
    act.message |= {"brand_new": {"a": None}, "usage": USAGE | {"brand_new_tokens": 8}}
    act.message["content"] = [*act.message["content"], {"type": "brand_new_block", "value": "x", "more": {"y": 1}}]
    return act


def slow(body: Json, _attempt: int) -> Act:
    act = said(body)
    act.before_headers_s, act.before_events_s = 0.4, 2.4
    return act


SCENARIOS: Final[dict[str, Scenario]] = {
    "text": Scenario("text", text),
    "structured": Scenario("JSON by a schema", structured),
    "tools": Scenario("a tool call, and its result back", tools),
    "thinking": Scenario("thinking, signed and redacted", thinking),
    "invalid": Scenario("400", invalid),
    "refused": Scenario("529 not to be retried", refused),
    "overloaded": Scenario("529 to be retried, for ever", overloaded),
    "recovers": Scenario("529 twice, then text", recovers),
    "breaks": Scenario("an error in mid-stream", breaks),
    "cut": Scenario("a cut in mid-answer", cut),
    "unknown": Scenario("unknown event, block, delta, fields", unknown),
    "slow": Scenario("2.8 s to the first token", slow),
}

# Where Claude answers well, so that a client which fails is one that is driven wrongly.
GOOD: Final = frozenset({"text", "structured", "tools", "thinking", "slow"})
