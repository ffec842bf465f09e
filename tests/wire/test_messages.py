"""The Messages API's event stream, coalesced: joined deltas mean what they meant apart, all else is untouched."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.answer.decoding import EventDecoder
from app.answer.events import ClaudeEvent, Delta, DeltaKind, Event
from app.answer.tally import Phase, Tally
from app.errors import Stopped, UpstreamCut, UpstreamRefused
from app.flow.batching import Batch, Window
from app.wire.messages import MessagesFormat, error_body, events_of
from tests.support.answers import BEGIN_TWICE, NAMES, lines_in
from tests.support.fakes import joined, paired

KINDS: tuple[DeltaKind, ...] = ("text", "thinking", "input_json")
FIELDS = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}


def parsed(frames: list[bytes]) -> list[tuple[str, str]]:
    """Name and data of each frame, read as simply as the SDKs do."""
    events = []
    for block in b"".join(frames).decode().removesuffix("\n\n").split("\n\n"):
        name, *data = block.split("\n")
        assert name.startswith("event: ")
        assert all(line.startswith("data: ") for line in data)
        events.append((name[7:], "\n".join(line[6:] for line in data)))
    return events


def meaning(events: list[tuple[str, str]]) -> list[Any]:
    """What a client makes of it: neighbouring deltas of one block and kind joined, the rest as it is."""
    made: list[Any] = []
    for name, data in events:
        payload = json.loads(data)
        assert payload["type"] == name
        match payload:
            case {"type": "content_block_delta", "index": index, "delta": {"type": kind, **rest}} if kind in FIELDS:
                if made and made[-1][:2] == (index, kind):
                    made[-1] = (index, kind, made[-1][2] + rest[FIELDS[kind]])
                else:
                    made.append((index, kind, rest[FIELDS[kind]]))
            case _:
                made.append((name, payload))
    return [(*part[:2], paired(part[2])) if len(part) == 3 else part for part in made]


def coalesced(events: list[ClaudeEvent], window_s: float, every_s: float) -> list[bytes]:
    """The frames, as they leave when the events come `every_s` apart and nobody lags."""
    wire, batch, window, frames = MessagesFormat(), Batch(), Window(window_s, window_s), list[bytes]()
    for tick, event in enumerate(events):
        now = tick * every_s
        if batch and window.due_at <= now:
            frames += wire.encode(batch.take())
            window.sent(now, now)
        batch.add(event)
    return frames + wire.encode(batch.take(everything=True)) + wire.end(None)


def decoded(lines: list[str]) -> list[ClaudeEvent]:
    """One event a line, as the decoder gives them when they come one by one."""
    decoder = EventDecoder()
    feeds = (f"event: {json.loads(line)['type']}\ndata: {line}\n\n".encode() for line in lines)
    return [event for feed in feeds for event in decoder.feed(feed)]


texts = st.text(st.characters(codec="utf-8"), max_size=8)
deltas = st.builds(Delta, st.integers(0, 2), st.sampled_from(KINDS), texts)


def other(type: str, value: Any) -> Event:
    data = {"type": type, "value": value}
    return Event(type, json.dumps(data, ensure_ascii=False, indent=1).encode(), data)


others = st.builds(other, st.sampled_from(["message_start", "content_block_stop", "brand_new"]), texts)
answers = st.lists(st.one_of(deltas, deltas, deltas, others), max_size=60)


@given(answers, st.floats(0, 5), st.floats(0, 1))
def test_a_client_makes_the_same_of_a_coalesced_answer_in_every_window(
    events: list[ClaudeEvent], window_s: float, every_s: float
) -> None:
    wire = MessagesFormat()
    apart = [frame for event in events for frame in wire.encode([event])]
    frames = coalesced(events, window_s, every_s)

    assert len(frames) <= len(apart)
    if events:
        assert meaning(parsed(frames)) == meaning(parsed(apart))


@given(answers)
def test_what_is_encoded_decodes_to_itself(events: list[ClaudeEvent]) -> None:
    again = EventDecoder().feed(b"".join(MessagesFormat().encode(events)))

    assert joined(again) == joined(events)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("window_s", [0.0, 0.05, 0.1, 1.0, 5.0])
def test_a_recorded_answer_means_the_same_coalesced(name: str, window_s: float) -> None:
    lines = [line for line in lines_in(name) if json.loads(line)["type"] != "ping"]
    original = [(json.loads(line)["type"], line) for line in lines]

    assert meaning(parsed(coalesced(decoded(lines), window_s, 0.02))) == meaning(original)


def test_at_50_tokens_a_second_a_quarter_of_the_frames_is_enough() -> None:
    events: list[ClaudeEvent] = [Delta(0, "text", f" token{n:04d}") for n in range(500)]

    assert len(coalesced(events, 0.1, 0.02)) <= 125


def test_a_run_of_text_is_one_delta_of_its_block_byte_for_byte() -> None:
    assert MessagesFormat().encode([Delta(3, "input_json", '{"a": "ü\n', 7)]) == [
        'event: content_block_delta\ndata: {"type":"content_block_delta","index":3,'
        '"delta":{"type":"input_json_delta","partial_json":"{\\"a\\": \\"ü\\n"}}\n\n'.encode()
    ]


def test_what_came_in_several_data_lines_goes_in_several() -> None:
    raw = b'{"type": "brand_new",\n "x": 1}'

    assert MessagesFormat().encode([Event("brand_new", raw, {})]) == [
        b'event: brand_new\ndata: {"type": "brand_new",\ndata:  "x": 1}\n\n'
    ]


def test_a_line_end_in_an_events_type_cannot_break_the_framing() -> None:
    (frame,) = MessagesFormat().encode([Event("a\r\ndata: b", b"{}", {})])

    assert frame == b"event: a  data: b\ndata: {}\n\n"


def test_half_a_surrogate_pair_goes_as_it_came() -> None:
    (frame,) = MessagesFormat().encode([Delta(0, "text", "a\ud83d")])

    assert b'"text":"a\\ud83d"' in frame


def test_the_sign_of_life_is_a_ping_event() -> None:
    assert parsed([MessagesFormat.keep_alive]) == [("ping", '{"type": "ping"}')]


def test_an_error_of_claude_ends_the_stream_as_it_was() -> None:
    error = UpstreamRefused("Overloaded", type="overloaded_error", status=529, retryable=True, request_id="req_1")
    ((name, data),) = parsed(MessagesFormat().end(error))

    assert name == "error"
    assert json.loads(data) == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "Overloaded"},
        "request_id": "req_1",
    }


@pytest.mark.parametrize("error", [UpstreamCut("cut"), Stopped("stopped")])
def test_an_error_that_the_api_does_not_know_has_a_type_that_it_does(error: UpstreamCut | Stopped) -> None:
    told = error_body(error)["error"]

    assert told == {"type": "api_error", "message": error.message, "details": {"error_code": error.type}}


def test_a_whole_answer_ends_with_its_own_last_event() -> None:
    assert MessagesFormat().end(None) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BEGIN_TWICE])
def test_a_whole_message_is_booked_like_its_stream(name: str) -> None:
    """What the ledger reads of the recorded answer, whole and streamed, is the same."""
    streamed, whole, blocks = Tally(), Tally(), list[dict[str, Any]]()
    message: dict[str, Any] = {}
    for event in decoded(lines_in(name)):
        streamed.see(event)
        match event:
            case Delta(index, kind, text):
                field = "partial" if kind == "input_json" else kind
                blocks[index][field] = blocks[index].get(field, "") + text
            case Event("message_start", _, data):
                message = dict(data["message"])
            case Event("content_block_start", _, data):
                blocks.append(dict(data["content_block"]))
            case Event("message_delta", _, data):
                message |= data["delta"] | {"usage": message["usage"] | data["usage"]}
    for block in blocks:
        if "partial" in block:
            block["input"] = json.loads(block.pop("partial") or "{}")
    for event in events_of(message | {"content": blocks}):
        whole.see(event)

    assert whole.phase is Phase.DONE
    assert (whole.usage, whole.exact, whole.stop_reason) == (streamed.usage, streamed.exact, streamed.stop_reason)
    assert (whole.chars["text"], whole.chars["thinking"]) == (streamed.chars["text"], streamed.chars["thinking"])
    assert (whole.tool_blocks, whole.hidden_thinking) == (streamed.tool_blocks, streamed.hidden_thinking)


@given(st.recursive(st.none() | st.integers() | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner)))
def test_whatever_is_called_a_message_can_be_booked(anything: Any) -> None:
    tally = Tally()
    for event in events_of({"content": anything, "usage": anything, "stop_reason": "end_turn"}):
        tally.see(event)

    assert tally.phase is Phase.DONE


@pytest.mark.parametrize("said", [b'{"error": {"type": "x", "message": "m", "new": 1}, "request_id": "r"}'])
def test_claudes_own_error_is_told_as_it_came(said: bytes) -> None:
    error = UpstreamRefused("m", type="x", status=400, retryable=False, said=said)
    assert error_body(error) == {"type": "error"} | json.loads(said)


@pytest.mark.parametrize("said", [b"", b"<h1>Bad Gateway</h1>", b"[1]", b'"m"', b"[" * 100_000])
def test_an_error_whose_words_are_no_object_is_told_in_ours(said: bytes) -> None:
    error = UpstreamRefused("m", type="overloaded_error", status=529, retryable=True, said=said)
    assert error_body(error)["error"]["message"] == "m"
