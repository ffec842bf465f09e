"""From bytes to events: nothing lost, nothing reordered, nothing changed, whatever comes and however it is cut."""

from __future__ import annotations

import itertools
import json
import random
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.answer import decoding
from app.answer.decoding import LARGE_BYTES, LONGEST_CHARS, MAX_JOINED_CHARS, EventDecoder
from app.answer.events import ClaudeEvent, Delta, DeltaKind, Event
from app.answer.refusals import MOST_BODY_BYTES
from app.answer.sse import SseDecoder
from app.errors import UpstreamGarbled, UpstreamRefused
from tests.support.answers import NAMES, events_in
from tests.support.fakes import joined

FIELDS = {"text": ("text_delta", "text"), "thinking": ("thinking_delta", "thinking"), "input_json": ("input_json_delta", "partial_json")}  # fmt: skip


def delta_of(index: int, kind: str, text: str, **more: object) -> dict[str, Any]:
    name, field = FIELDS[kind]
    return {"type": "content_block_delta", "index": index, "delta": {"type": name, field: text} | more}


def wire(data: dict[str, Any] | bytes, name: str | None = None) -> bytes:
    payload = data if isinstance(data, bytes) else json.dumps(data).encode()
    return b"event: %b\ndata: %b\n\n" % ((name or str(json.loads(payload)["type"])).encode(), payload)


def decoded(*chunks: bytes) -> list[ClaudeEvent]:
    """What the chunks hold: as a stream's beginning, and the same in its middle, where whole deltas take a short way."""
    beginning, middle = EventDecoder(), EventDecoder()
    middle.feed(wire({"type": "ping"}))
    events = [event for chunk in chunks for event in beginning.feed(chunk)]
    assert [event for chunk in chunks for event in middle.feed(chunk)] == events
    assert type(middle.error) is type(beginning.error)
    if isinstance(beginning.error, UpstreamGarbled):
        raise beginning.error
    return events


def split(stream: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in at), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


def as_event(data: dict[str, Any]) -> ClaudeEvent:
    """What one payload is, computed without the code under test."""
    raw, delta = json.dumps(data).encode(), data.get("delta")
    if data["type"] == "content_block_delta" and isinstance(delta, dict):
        for kind, (name, field) in FIELDS.items():
            if delta.get("type") == name and isinstance(delta.get(field), str):
                known: DeltaKind = kind  # type: ignore[assignment]
                shape = data.keys() == {"type", "index", "delta"} and delta.keys() == {"type", field}
                joins = shape and isinstance(data["index"], int)
                return Delta(data["index"] if joins else 0, known, delta[field], raw=None if joins else raw)
    return Event(data["type"], raw, data)


def meaning(originals: list[dict[str, Any]]) -> list[tuple[int, str, str] | bytes]:
    return joined([as_event(data) for data in originals if data["type"] != "ping"])


texts = st.text(max_size=6) | st.sampled_from(["\ud83d", "\ude00", "a\ud83d", "é", "\u2028", '"', "\\", "x" * 200])
deltas = st.builds(delta_of, st.integers(0, 2), st.sampled_from(sorted(FIELDS)), texts)
oddities = st.sampled_from(
    [
        {"type": "ping"},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_stop", "index": 0},
        {"type": "brand_new_event", "x": [1, {"y": None}]},
        {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 3}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "c2ln"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": {"a": 1}}},
        delta_of(0, "text", "x", seasoning=1),
        delta_of(0, "text", "\ud83d", seasoning=1),
        delta_of(0, "text", "x") | {"brand_new": True},
        delta_of(0, "text", "\ud83d") | {"index": "0"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 5}},
        {"type": "content_block_delta", "index": 0, "delta": "none"},
    ]
)


@settings(deadline=None)
@given(st.lists(deltas | oddities), st.lists(st.integers(0, 10_000), max_size=8))
def test_under_any_chunking_the_events_mean_what_was_sent(originals: list[dict[str, Any]], at: list[int]) -> None:
    stream = b"".join(wire(data) for data in originals)
    assert joined(decoded(*split(stream, at))) == meaning(originals)


@settings(deadline=None)
@given(st.lists(st.lists(deltas | oddities, min_size=1, max_size=4)))
def test_reads_that_end_where_events_do_give_the_same(reads: list[list[dict[str, Any]]]) -> None:
    chunks = [b"".join(wire(data) for data in originals) for originals in reads]
    assert joined(decoded(*chunks)) == meaning([data for originals in reads for data in originals])


@settings(deadline=None)
@given(st.lists(deltas | oddities, max_size=4))
def test_one_byte_at_a_time_gives_the_same(originals: list[dict[str, Any]]) -> None:
    stream = b"".join(wire(data) for data in originals)
    assert joined(decoded(*(bytes([byte]) for byte in stream))) == meaning(originals)


@settings(deadline=None)
@given(st.lists(deltas))
def test_no_delta_of_the_wire_goes_uncounted(originals: list[dict[str, Any]]) -> None:
    events = decoded(b"".join(wire(data) for data in originals))
    assert sum(event.count for event in events if isinstance(event, Delta)) == len(originals)


@settings(deadline=None)
@given(st.lists(st.integers(0, MAX_JOINED_CHARS + 40), min_size=1, max_size=12))
def test_a_joined_run_stays_below_its_bound_unless_one_delta_alone_is_above(sizes: list[int]) -> None:
    events = decoded(b"".join(wire(delta_of(0, "text", "x" * size)) for size in sizes))
    assert sum(len(event.text) for event in events if isinstance(event, Delta)) == sum(sizes)
    for event in events:
        assert isinstance(event, Delta)
        assert len(event.text) <= MAX_JOINED_CHARS or event.count == 1


def test_neighbours_of_one_block_and_kind_in_one_read_are_one_event() -> None:
    stream = [delta_of(0, "text", "a"), delta_of(0, "text", "b"), delta_of(0, "thinking", "c"), delta_of(1, "thinking", "d")]  # fmt: skip
    assert decoded(b"".join(map(wire, stream))) == [
        Delta(0, "text", "ab", 2),
        Delta(0, "thinking", "c"),
        Delta(1, "thinking", "d"),
    ]


def test_nothing_joins_across_another_event_and_a_ping_is_no_event() -> None:
    stop: dict[str, Any] = {"type": "content_block_stop", "index": 0}
    stream = [delta_of(0, "text", "a"), {"type": "ping"}, delta_of(0, "text", "b"), stop, delta_of(0, "text", "c")]
    raw = json.dumps(stop).encode()
    assert joined(decoded(b"".join(map(wire, stream)))) == [(0, "text", "ab"), raw, (0, "text", "c")]


@pytest.mark.parametrize(
    "payload",
    [
        b'{"type" : "brand_new",  "n": 1.50, "u": "\\u00e9"}',
        b'{"type": "content_block_delta", "index": 0, "delta": {"type": "brand_new_delta", "x": 1e2}}',
        b'{"type": "content_block_start", "index": null, "content_block": null, "new": [ ]}',
        b'{"type": "message_delta", "delta": {"stop_reason": NaN}, "usage": {"output_tokens": Infinity}}',
    ],
)
def test_what_is_unknown_passes_byte_for_byte(payload: bytes) -> None:
    known = wire(delta_of(0, "text", "a"))
    events = decoded(known + wire(payload) + known)
    assert events == [
        Delta(0, "text", "a"),
        Event(json.loads(payload)["type"], payload, json.loads(payload)),
        Delta(0, "text", "a"),
    ]


@pytest.mark.parametrize("payload", [b'"x"', b"[DONE]", b"[" * 3000 + b"]" * 3000, b"17"])
@pytest.mark.parametrize("name", [None, b"brand_new"])
def test_an_event_of_no_known_name_passes_even_where_it_is_no_object(payload: bytes, name: bytes | None) -> None:
    """The SDK passes it over."""
    decoder = EventDecoder()
    begun = decoder.feed(wire({"type": "message_start", "message": {}}))
    odd = (b"event: %b\n" % name if name else b"") + b"data: %b\n\n" % payload
    more = decoder.feed(odd + wire(delta_of(0, "text", "Hi")))
    assert decoder.error is None
    assert begun
    assert [event.raw for event in more if isinstance(event, Event)] == [payload]
    assert [event.text for event in more if isinstance(event, Delta)] == ["Hi"]


@pytest.mark.parametrize(
    "stream", [b'data: "x"\n\n', b"event: message_start\ndata: {}\n\nevent: message_delta\ndata: 1\n\n"]
)
def test_neither_a_beginning_nor_an_answers_own_event_may_be_no_object(stream: bytes) -> None:
    decoder = EventDecoder()
    decoder.feed(stream)
    assert isinstance(decoder.error, UpstreamGarbled)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b'{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a", "new": 1}}', "a"),
        (b'{"type":"content_block_delta","index":0,"new":{},"delta":{"type":"text_delta","text":"\\ud83d"}}', "\ud83d"),
        (b'{"type":"content_block_delta","index":null,"delta":{"type":"text_delta","text":"a"}}', "a"),
        (b'{"type":null,"index":0,"delta":{"type":"text_delta","text":"a","n":NaN}}', "a"),
    ],
)  # fmt: skip
def test_characters_are_found_beside_whatever_is_unknown_and_its_bytes_are_kept(payload: bytes, text: str) -> None:
    known = wire(delta_of(0, "text", "x"))
    assert decoded(known + wire(payload, "content_block_delta") + known) == [
        Delta(0, "text", "x"),
        Delta(0, "text", text, raw=payload),
        Delta(0, "text", "x"),
    ]


@pytest.mark.parametrize("name", ["message", "ping", "error", "message_stop", "brand_new", "\ufffd"])
def test_an_event_is_what_the_type_in_its_data_says(name: str) -> None:
    stop: dict[str, Any] = {"type": "content_block_stop", "index": 0}
    stream = [delta_of(0, "text", "a"), {"type": "ping"}, delta_of(0, "text", "b"), stop]
    assert joined(decoded(b"".join(wire(data, name) for data in stream))) == [
        (0, "text", "ab"),
        json.dumps(stop).encode(),
    ]


def test_events_without_a_name_are_the_same() -> None:
    stop: dict[str, Any] = {"type": "content_block_stop", "index": 0}
    stream = [{"type": "brand_new"}, delta_of(0, "text", "a"), delta_of(0, "text", "b"), {"type": "ping"}, stop]
    nameless = b"".join(wire(data).partition(b"\n")[2] for data in stream)
    assert decoded(nameless) == [
        Event("brand_new", b'{"type": "brand_new"}', {"type": "brand_new"}),
        Delta(0, "text", "a"),
        Delta(0, "text", "b"),
        Event("content_block_stop", json.dumps(stop).encode(), stop),
    ]


def test_an_event_is_what_its_name_says_where_its_data_says_nothing() -> None:
    assert decoded(wire(b'{"a": 1}', "brand_new")) == [Event("brand_new", b'{"a": 1}', {"a": 1})]
    bare = b'{"index":1,"delta":{"type":"text_delta","text":"a"}}'
    assert decoded(wire(bare, "content_block_delta")) == [Delta(1, "text", "a")]
    assert decoded(wire(b"{}", "ping") + wire(b"no JSON", "ping")) == []
    broken = b'event: caf\xe9\ndata: {"a": 1}\n\n'
    assert decoded(broken) == [Event("caf\ufffd", b'{"a": 1}', {"a": 1})]


def test_an_event_that_nothing_names_passes_in_an_answer_and_is_the_words_of_an_error_before_one() -> None:
    known = wire(delta_of(0, "text", "x"))
    assert decoded(known + b'data: {"cost": 1}\n\n')[1:] == [Event("", b'{"cost": 1}', {"cost": 1})]
    with pytest.raises(UpstreamGarbled, match="no such route"):
        decoded(b'data: {"detail": "no such route"}\n\n')


START: dict[str, Any] = {"type": "content_block_start", "index": 1}
STOP: dict[str, Any] = {"type": "content_block_stop", "index": 1}
TOOL: dict[str, Any] = {"type": "tool_use", "id": "t", "name": "n", "input": {"a": ["é", 1.5, None]}}


@pytest.mark.parametrize(("kind", "text"), [("text", "a"), ("thinking", "hm"), ("text", "\ud83d")])
def test_text_that_stands_on_a_blocks_start_is_a_delta_after_it(kind: DeltaKind, text: str) -> None:
    start = START | {"content_block": {"type": kind, kind: text}}
    assert decoded(wire(start) + wire(delta_of(1, kind, "b")))[1:] == [
        Delta(1, kind, text, 0, b""),
        Delta(1, kind, "b"),
    ]


@pytest.mark.parametrize("block", [{"type": "text", "text": ""}, {"type": "text", "text": None}, {"type": "text"}, {"type": "brand_new", "text": "a", "brand_new": "b"}, {"type": ["text"], "text": "a"}, TOOL | {"input": {}}])  # fmt: skip
def test_a_start_on_which_no_text_stands_is_one_event(block: dict[str, Any]) -> None:
    assert len(decoded(wire(START | {"content_block": block}) + wire(STOP))) == 2


@pytest.mark.parametrize(
    "last", [STOP, {"type": "message_delta", "delta": {}}, {"type": "message_stop"}, START | {"content_block": {}}]
)
def test_a_whole_input_is_one_piece_before_its_block_ends(last: dict[str, Any]) -> None:
    start = START | {"content_block": TOOL}
    events = decoded(wire(start) + wire(delta_of(1, "input_json", "")) + wire(last))
    given = Delta(1, "input_json", '{"a":["é",1.5,null]}', 0, b"")
    assert events == [as_event(start), Delta(1, "input_json", ""), given, as_event(last)]


def test_pieces_of_an_input_take_the_place_of_a_whole_one() -> None:
    start = START | {"content_block": TOOL}
    for extra in ({}, {"brand_new": 1}):
        events = decoded(wire(start) + wire(delta_of(1, "input_json", "{}", **extra)) + wire(STOP))
        assert [event.text for event in events if isinstance(event, Delta)] == ["{}"]


def test_a_whole_input_that_nothing_ended_is_left_over_for_the_count() -> None:
    decoder = EventDecoder()
    decoder.feed(wire(START | {"content_block": TOOL}))
    assert decoder.rest() == [Delta(1, "input_json", '{"a":["é",1.5,null]}', 0, b"")]
    assert decoder.rest() == []


@pytest.mark.parametrize("value", ["\ud83d", 2**70, {"\ud83d": [1]}])
def test_an_input_that_is_hard_to_write_is_the_same_read_again(value: Any) -> None:
    events = decoded(wire(START | {"content_block": TOOL | {"input": {"a": value}}}) + wire(STOP))
    assert isinstance(events[1], Delta)
    assert json.loads(events[1].text) == {"a": value}


def test_blocks_that_stand_on_the_messages_start_are_blocks_like_any_other() -> None:
    text = {"type": "text", "text": "a"}
    start = {"type": "message_start", "message": {"content": [text, "no block", TOOL]}}
    assert decoded(wire(start))[1:] == [
        Event("content_block_start", b"", {"index": 0, "content_block": text}),
        Delta(0, "text", "a", 0, b""),
        Event("content_block_stop", b"", {"index": 0}),
        Event("content_block_start", b"", {"index": 2, "content_block": TOOL}),
        Delta(2, "input_json", '{"a":["é",1.5,null]}', 0, b""),
        Event("content_block_stop", b"", {"index": 2}),
    ]


@pytest.mark.parametrize("half", [chr(0xD83D), chr(0xDE00), "a" + chr(0xD83D)])
def test_half_of_a_surrogate_pair_is_text_like_any_other(half: str) -> None:
    assert decoded(wire(delta_of(3, "input_json", half))) == [Delta(3, "input_json", half)]


def test_events_after_message_stop_are_ignored() -> None:
    decoder = EventDecoder()
    stop = wire({"type": "message_stop"})
    events = decoder.feed(wire(delta_of(0, "text", "a")) + stop + wire(delta_of(0, "text", "b")) + stop)
    assert [event.type if isinstance(event, Event) else event.text for event in events] == ["a", "message_stop"]
    assert decoder.ended
    assert decoder.feed(wire(delta_of(0, "text", "c"))) == []


def test_an_error_event_ends_the_stream_after_the_events_before_it() -> None:
    decoder = EventDecoder()
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "req_1"}
    assert decoder.feed(wire(delta_of(0, "text", "a")) + wire(error) + wire(delta_of(0, "text", "b"))) == [
        Delta(0, "text", "a")
    ]
    assert isinstance(decoder.error, UpstreamRefused)
    assert (decoder.error.message, decoder.error.type, decoder.error.retryable) == (
        "Overloaded",
        "overloaded_error",
        True,
    )
    assert (decoder.error.status, decoder.error.request_id) == (529, "req_1")
    assert not decoder.ended
    assert decoder.feed(wire(delta_of(0, "text", "c"))) == []


@pytest.mark.parametrize(
    "payload",
    [
        b'{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}',
        b'{"error": {"type": "overloaded_error", "message": "Overloaded"}}',
        b'{"type": null, "error": {"type": "overloaded_error", "message": "Overloaded"}, "new": 1}',
    ],
)
@pytest.mark.parametrize("name", ["error", "message", "content_block_delta", "ping", "brand_new"])
def test_an_error_is_one_under_any_name_and_without_a_type(payload: bytes, name: str) -> None:
    for nameless in (False, True):
        decoder = EventDecoder()
        event = wire(payload, name)
        events = decoder.feed(wire(delta_of(0, "text", "a")) + (event.partition(b"\n")[2] if nameless else event))
        assert events == [Delta(0, "text", "a")]
        assert isinstance(decoder.error, UpstreamRefused)
        assert (decoder.error.type, decoder.error.message) == ("overloaded_error", "Overloaded")
        assert decoder.error.said == payload


@pytest.mark.parametrize(
    "payload", [b"out of words", b"{}", b'["out of words"]', b'{"type": "brand_new", "message": "m"}']
)
def test_what_is_named_an_error_is_one_unless_it_says_what_else_it_is(payload: bytes) -> None:
    decoder = EventDecoder(lambda said: said.replace(b"words", b"[key]"))
    assert decoder.feed(wire(payload, "error")) == []
    assert isinstance(decoder.error, UpstreamRefused)
    assert decoder.error.said == payload.replace(b"words", b"[key]")
    assert decoded(wire(delta_of(0, "text", "a"), "error")) == [Delta(0, "text", "a")]


@pytest.mark.parametrize("name", ["message_start", "content_block_delta", "message"])
@pytest.mark.parametrize(
    "payload",
    [b"<html>", b"[]", b"5", b"[DONE]", b'{"type": "x"} {"type": "y"}', b'{"type": "\xff"}',
     b'{"type": "x", "y": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", b" "],
    ids=["html", "a list", "a number", "a mark", "two objects", "no UTF-8", "too deep", "a blank"],
)  # fmt: skip
def test_garbage_is_an_error_of_claudes_side(payload: bytes, name: str) -> None:
    with pytest.raises(UpstreamGarbled):
        decoded(wire(payload, name))


def test_what_came_before_garbage_in_one_read_is_kept() -> None:
    decoder = EventDecoder()
    assert decoder.feed(wire(delta_of(0, "text", "a")) + wire(b"{garbage", "message_delta")) == [Delta(0, "text", "a")]
    assert isinstance(decoder.error, UpstreamGarbled)
    assert decoder.feed(wire(delta_of(0, "text", "b"))) == []


def test_two_broken_deltas_that_only_a_comma_makes_whole_are_garbage() -> None:
    whole = json.dumps(delta_of(0, "text", "a|b")).encode()
    first, second = whole.split(b"|")
    with pytest.raises(UpstreamGarbled):
        decoded(wire(first, "content_block_delta") + wire(second, "content_block_delta"))


def test_two_deltas_in_one_data_line_are_garbage() -> None:
    one = json.dumps(delta_of(0, "text", "a")).encode()
    with pytest.raises(UpstreamGarbled):
        decoded(wire(one + b"," + one, "content_block_delta"))


def test_an_event_without_data_is_passed_over() -> None:
    assert decoded(b"event: content_block_delta\ndata: \n\nevent: x\ndata:\n\ndata\n\n") == []


def test_an_event_above_the_bound_is_an_error_of_claudes_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "SseDecoder", partial(SseDecoder, 64))
    with pytest.raises(UpstreamGarbled, match="above 64 bytes"):
        decoded(b"data: " + b"x" * 64)


@settings(deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["ping", "content_block_delta", "x"]))
@example(b'{"type":"error","error":7}', "x")
@example(b'{"type":"error","error":{"details":[]}}', "x")
def test_whatever_comes_is_events_or_garbled(payload: bytes, name: str) -> None:
    try:
        events = decoded(wire(payload.replace(b"\n", b" "), name))
    except UpstreamGarbled:
        return
    assert all(isinstance(event, Delta | Event) for event in events)


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_answer_means_the_same_however_it_is_cut(name: str) -> None:
    originals = events_in(name)
    ends = [place for place, data in enumerate(originals) if data["type"] in ("message_stop", "error")]
    if ends:
        originals = originals[: ends[0] + (originals[ends[0]]["type"] == "message_stop")]
    stream = b"".join(wire(data) for data in originals)
    expected = meaning(originals)
    for seed in range(5):
        at = [random.Random(seed).randrange(len(stream)) for _ in range(seed * 20)]
        assert joined(decoded(*split(stream, at))) == expected


# --- what is large --------------------------------------------------------------------------------------------------

LONG = "é" * (2 * LONGEST_CHARS) + "end"


def start_with(block: dict[str, Any]) -> bytes:
    return wire({"type": "content_block_start", "index": 0, "content_block": block})


@pytest.mark.parametrize(
    ("stream", "kind", "text", "count"),
    [
        (wire(delta_of(0, "text", LONG)), "text", LONG, 1),
        (start_with({"type": "text", "text": LONG}), "text", LONG, 0),
        (
            start_with({"type": "tool_use", "id": "t", "name": "n", "input": {"a": LONG}})
            + wire({"type": "content_block_stop", "index": 0}),
            "input_json",
            json.dumps({"a": LONG}, ensure_ascii=False, separators=(",", ":")),
            0,
        ),
    ],
    ids=["delta", "standing text", "whole input"],
)
def test_a_long_text_comes_in_pieces_that_count_once(stream: bytes, kind: str, text: str, count: int) -> None:
    pieces = [event for event in EventDecoder().feed(stream) if isinstance(event, Delta)]
    assert len(pieces) == 3
    assert {(piece.index, piece.kind) for piece in pieces} == {(0, kind)}
    assert "".join(piece.text for piece in pieces) == text
    assert sum(piece.count for piece in pieces) == count


def test_a_whole_input_that_nothing_ends_comes_in_pieces_too() -> None:
    decoder = EventDecoder()
    decoder.feed(start_with({"type": "tool_use", "id": "t", "name": "n", "input": {"a": LONG}}))
    assert "".join(piece.text for piece in decoder.rest()) == json.dumps(
        {"a": LONG}, ensure_ascii=False, separators=(",", ":")
    )


def test_a_long_delta_with_more_in_it_keeps_its_bytes_and_is_whole() -> None:
    data = delta_of(0, "text", LONG)
    data["delta"]["new"] = 1
    (delta,) = EventDecoder().feed(wire(data))
    assert isinstance(delta, Delta)
    assert delta.text == LONG
    assert delta.raw is not None


def test_each_large_event_has_a_step_of_its_own_and_the_order_stays() -> None:
    large = start_with({"type": "new_result", "content": "x" * LARGE_BYTES})
    small = wire(delta_of(0, "text", "small"))
    stop = wire({"type": "message_stop"})
    decoder, steps = EventDecoder(), []
    events = decoder.step(small + large + large + small + stop)
    while True:
        steps.append([event.type if isinstance(event, Event) else event.text for event in events])
        if not decoder.behind:
            break
        events = decoder.step(b"")
    assert steps == [["small"], ["content_block_start"], ["content_block_start"], ["small", "message_stop"]]
    assert decoder.ended


def test_a_large_input_is_read_in_one_step_and_written_in_another() -> None:
    begun = start_with({"type": "tool_use", "id": "t", "name": "n", "input": {"a": "x" * LARGE_BYTES}})
    decoder = EventDecoder()
    assert decoder.step(begun + wire({"type": "content_block_stop", "index": 0})) == []
    assert [event.type for event in decoder.step(b"") if isinstance(event, Event)] == ["content_block_start"]
    *pieces, stop = decoder.step(b"")
    assert sum(len(piece.text) for piece in pieces if isinstance(piece, Delta)) == LARGE_BYTES + len('{"a":""}')
    assert isinstance(stop, Event)
    assert not decoder.behind


def test_all_of_it_comes_at_once_where_nobody_asks_for_steps() -> None:
    large = start_with({"type": "new_result", "content": "x" * LARGE_BYTES})
    decoder = EventDecoder()
    assert len(decoder.feed(large * 3)) == 3
    assert not decoder.behind


def test_what_comes_while_a_large_event_waits_comes_after_it() -> None:
    large = start_with({"type": "new_result", "content": "x" * LARGE_BYTES})
    small = wire(delta_of(0, "text", "small"))
    decoder = EventDecoder()
    assert decoder.step(large) == []
    assert decoder.behind
    (first,) = decoder.step(small)
    assert isinstance(first, Event)
    (second,) = decoder.step(b"")
    assert isinstance(second, Delta)


@pytest.mark.parametrize("broken", [False, True], ids=["JSON", "no JSON"])
def test_of_an_error_only_so_much_is_looked_at(broken: bool) -> None:
    said = {"type": "error", "error": {"type": "overloaded_error", "message": "x" * 2 * MOST_BODY_BYTES}}
    hidden: list[int] = []

    def hide(raw: bytes) -> bytes:
        hidden.append(len(raw))
        return raw

    decoder = EventDecoder(hide)
    payload = json.dumps(said).encode()
    assert decoder.feed(wire(payload[:-1] if broken else payload, "error")) == []
    assert decoder.error is not None
    assert max(hidden, default=0) <= MOST_BODY_BYTES
