"""The plain protocol: frames that the simplest reader can cut, carrying all that belongs to it and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.answer.events import ClaudeEvent, Delta, DeltaKind, Event
from app.errors import BadRequest, SluicewayError, UpstreamCut, UpstreamRefused
from app.wire import WireFormat
from app.wire.plain import PlainFormat


def of(type: str, **data: Any) -> Event:
    payload = {"type": type} | data
    return Event(type, json.dumps(payload).encode(), payload)


def tool(index: int, type: str = "tool_use") -> Event:
    return of(
        "content_block_start", index=index, content_block={"type": type, "id": f"t{index}", "name": "n", "input": {}}
    )


def told(*events: ClaudeEvent, thinking: bool = False) -> list[dict[str, Any]]:
    return [read(frame) for frame in PlainFormat(thinking=thinking).encode(list(events))]


def read(frame: bytes) -> dict[str, Any]:
    """As the article's page reads a block: cut on a blank line, the line that begins with `data: `."""
    assert frame.endswith(b"\n\n")
    [block, rest] = frame.decode().split("\n\n")
    assert rest == ""
    [line] = block.split("\n")
    assert "\r" not in line
    assert line.startswith("data: ")
    decoded: dict[str, Any] = json.loads(line[6:])
    return decoded


def ended(*events: ClaudeEvent, error: SluicewayError | None = None) -> dict[str, Any]:
    wire = PlainFormat(thinking=False)
    wire.encode(list(events))
    [frame] = wire.end(error)
    return read(frame)


def whole(*events: ClaudeEvent) -> list[dict[str, Any]]:
    """The frames of a whole answer, the last one too."""
    wire = PlainFormat(thinking=True)
    return [read(frame) for frame in [*wire.encode(list(events)), *wire.end(None)]]


def test_it_is_a_wire_format_with_a_comment_as_its_sign_of_life() -> None:
    wire: WireFormat = PlainFormat(thinking=False)
    assert wire.keep_alive == b": keep-alive\n"


def test_text_is_framed_as_the_protocol_says_byte_for_byte() -> None:
    assert PlainFormat(thinking=False).encode([Delta(0, "text", ' "é\n😀')]) == [
        'data: {"text":" \\"é\\n😀"}\n\n'.encode()
    ]


def test_thinking_is_told_where_it_was_asked_for() -> None:
    events = [Delta(0, "thinking", "hm"), Delta(1, "text", "so")]
    assert told(*events, thinking=True) == [{"thinking": "hm"}, {"text": "so"}]
    assert told(*events) == [{"text": "so"}]


def test_an_empty_delta_is_no_frame() -> None:
    assert told(Delta(0, "text", ""), Delta(0, "thinking", ""), tool(0), Delta(0, "input_json", ""), thinking=True) == [
        {"tool_use": {"index": 0, "id": "t0", "name": "n"}}
    ]


def test_a_tool_call_is_told_with_its_json_in_pieces() -> None:
    assert told(tool(1), Delta(1, "input_json", '{"a"'), tool(2), Delta(2, "input_json", "{}"), Delta(1, "input_json", ":1}")) == [
        {"tool_use": {"index": 1, "id": "t1", "name": "n"}},
        {"tool_use": {"index": 1, "partial_json": '{"a"'}},
        {"tool_use": {"index": 2, "id": "t2", "name": "n"}},
        {"tool_use": {"index": 2, "partial_json": "{}"}},
        {"tool_use": {"index": 1, "partial_json": ":1}"}},
    ]  # fmt: skip


def test_a_servers_own_tool_and_what_has_no_place_here_are_left_out() -> None:
    assert told(tool(1, "server_tool_use"), Delta(1, "input_json", "{}"), of("content_block_stop", index=1)) == []
    assert told(of("brand_new"), of("content_block_delta", index=0, delta={"type": "signature_delta"})) == []


@pytest.mark.parametrize(
    "event",
    [
        of("content_block_start"),
        of("content_block_start", index=1, content_block="tool_use"),
        of("content_block_start", content_block={"type": "tool_use"}),
        of("content_block_start", index="1", content_block={"type": "tool_use"}),
        of("message_start", message="x"),
        of("message_delta", delta=5, usage=[]),
    ],
)
def test_an_event_of_another_shape_is_no_frame_and_no_failure(event: Event) -> None:
    assert told(event) == []


START = of("message_start", message={"usage": {"input_tokens": 3, "output_tokens": 1}})


def test_a_whole_answer_ends_with_its_stop_reason_and_usage() -> None:
    stop = of("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 9})
    assert ended(START, stop) == {
        "done": True,
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 9},
    }


def test_a_stop_sequence_and_the_details_of_a_stop_are_told_where_there_are_any() -> None:
    delta = {"stop_reason": "stop_sequence", "stop_sequence": "END", "stop_details": {"category": "x"}}
    last = ended(START, of("message_delta", delta=delta, usage={}))
    assert (last["stop_sequence"], last["stop_details"]) == ("END", {"category": "x"})


@pytest.mark.parametrize(
    ("error", "frame"),
    [
        (UpstreamCut("cut"), {"error": "cut", "type": "upstream_cut", "retryable": True, "source": "upstream"}),
        (
            UpstreamRefused("busy", type="overloaded_error", status=529, retryable=True),
            {"error": "busy", "type": "overloaded_error", "retryable": True, "source": "upstream"},
        ),
        (
            BadRequest("bad", field="model"),
            {
                "error": "bad",
                "type": "invalid_request_error",
                "retryable": False,
                "source": "service",
                "field": "model",
            },
        ),
    ],
)
def test_a_failed_answer_ends_with_its_error_and_never_says_done(error: SluicewayError, frame: dict[str, Any]) -> None:
    assert ended(START, error=error) == frame


@pytest.mark.parametrize("half", ["a\ud83d", "\ude00b", "\ude00\ud83d"])
def test_half_a_code_point_whose_other_half_never_came_is_replaced(half: str) -> None:
    mended = "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in half)
    texts = whole(Delta(0, "text", half))
    assert "".join(frame.get("text", "") for frame in texts) == mended
    pieces = whole(tool(1), Delta(1, "input_json", half))[1:-1]
    assert "".join(frame["tool_use"]["partial_json"] for frame in pieces) == mended
    stop = of("message_delta", delta={"stop_reason": half, "stop_details": [{half: half}, 1]}, usage={})
    assert ended(stop)["stop_reason"] == mended
    assert ended(stop)["stop_details"] == [{mended: mended}, 1]
    assert ended(error=UpstreamCut(half))["error"] == mended


kinds: st.SearchStrategy[DeltaKind] = st.sampled_from(["text", "thinking"])


@settings(deadline=None)
@given(st.lists(st.builds(Delta, st.integers(0, 2), kinds, st.text())), st.booleans())
def test_the_frames_carry_exactly_what_was_said(events: list[Delta], thinking: bool) -> None:
    frames = told(*events, thinking=thinking)
    for kind in ("text", "thinking"):
        said = "".join(event.text for event in events if event.kind == kind)
        assert "".join(frame.get(kind, "") for frame in frames) == (said if kind == "text" or thinking else "")
    assert all(len(frame) == 1 for frame in frames)


@settings(deadline=None)
@given(st.text(st.characters(), max_size=20) | st.text("\r\n\u2028\u2029\x85\x0b\x0c", max_size=8))
def test_no_character_breaks_a_frame(characters: str) -> None:
    for frame in PlainFormat(thinking=False).encode([Delta(0, "text", characters)]):
        assert frame.count(b"\n") == 2
        assert b"\r" not in frame
        read(frame)
