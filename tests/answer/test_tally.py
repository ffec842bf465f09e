"""The running account of an answer: cumulative usage, characters, phase, and what only the account knows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.answer.events import ClaudeEvent, Delta, DeltaKind, Event
from app.answer.tally import Phase, Tally
from tests.support.answers import NAMES, events_in
from tests.support.fakes import text


def of(type: str, **data: Any) -> Event:
    payload = {"type": type} | data
    return Event(type, json.dumps(payload).encode(), payload)


def start(**usage: int | None) -> Event:
    return of("message_start", message={"id": "msg_1", "model": "claude-x", "usage": usage})


def block(type: str, **more: Any) -> Event:
    return of("content_block_start", index=0, content_block={"type": type} | more)


def stopped(
    reason: str | None = "end_turn", *, details: Any = None, sequence: str | None = None, **usage: Any
) -> Event:
    delta = {"stop_reason": reason, "stop_sequence": sequence, "stop_details": details}
    return of("message_delta", delta=delta, usage=usage)


def tally(*events: ClaudeEvent) -> Tally:
    told = Tally()
    for event in events:
        told.see(event)
    return told


def test_usage_is_overwritten_key_by_key_since_each_is_cumulative() -> None:
    told = tally(
        start(input_tokens=10, output_tokens=2, cache_read_input_tokens=5),
        stopped(None, output_tokens=20),
        stopped(output_tokens=30, input_tokens=None, server_tool_use={"web_search_requests": 1}),
    )
    assert told.usage == {
        "input_tokens": 10,
        "output_tokens": 30,
        "cache_read_input_tokens": 5,
        "server_tool_use": {"web_search_requests": 1},
    }


def test_the_output_tokens_of_message_start_are_no_exact_figure() -> None:
    told = tally(start(output_tokens=1))
    assert not told.exact
    told.see(stopped(None, input_tokens=5))
    assert not told.exact
    told.see(stopped(output_tokens=0))
    assert told.exact


def test_a_second_message_start_begins_the_usage_anew() -> None:
    told = tally(start(input_tokens=1), stopped(output_tokens=9), start(input_tokens=2))
    assert (told.usage, told.exact) == ({"input_tokens": 2}, False)


def test_noughts_at_the_end_erase_no_count_from_the_start() -> None:
    told = tally(
        start(input_tokens=2413, output_tokens=1, cache_read_input_tokens=2400),
        text("Hello world"),
        stopped(input_tokens=0, cache_read_input_tokens=0, output_tokens=20),
    )
    assert told.usage == {"input_tokens": 2413, "cache_read_input_tokens": 2400, "output_tokens": 20}


@pytest.mark.parametrize("odd", [-5, "five", 1.5, float("nan"), 10**400, [5], True, 0])
def test_an_output_that_counts_nothing_leaves_the_answer_to_an_estimate(odd: Any) -> None:
    """Nought, too: there is text."""
    told = tally(start(input_tokens=3, output_tokens=1), text("abc"), stopped(output_tokens=odd))
    assert (told.exact, told.since_usage, told.at_usage) == (False, True, (0, 0, 0, 0, 0))
    assert told.usage == {"input_tokens": 3, "output_tokens": 1}


def test_a_nought_after_an_exact_count_changes_nothing() -> None:
    told = tally(start(), text("abc"), stopped(None, output_tokens=9), text("d"), stopped(output_tokens=0))
    assert (told.exact, told.usage["output_tokens"], told.since_usage, told.at_usage[0]) == (True, 9, True, 3)


def test_a_true_count_below_the_placeholder_stands() -> None:
    told = tally(start(output_tokens=4), stopped("refusal", output_tokens=0))
    assert (told.exact, told.usage) == (True, {"output_tokens": 0})


def test_what_cannot_be_read_is_counted_and_named_once() -> None:
    told = tally(
        of("message_start", message={"id": 7, "model": ["x"], "usage": {"input_tokens": "ten", "output_tokens": 1}}),
        stopped(["end_turn"], sequence={"a": 1}, details={"category": float("inf")}, output_tokens=-5),  # type: ignore[arg-type]
        stopped(None, output_tokens=-6),
    )
    assert (told.model, told.message_id, told.stop_reason, told.stop_sequence, told.stop_details) == (None,) * 5
    assert (told.usage, told.unreadable) == ({"output_tokens": 1}, 8)
    assert told.unreadable_names == [
        "model", "id", "usage.input_tokens", "usage.output_tokens", "stop_reason", "stop_sequence", "stop_details",
    ]  # fmt: skip


def test_of_many_odd_values_only_the_first_names_are_kept() -> None:
    told = tally(start(**{f"{letter}_tokens": -1 for letter in "abcdefghijkl"}))
    assert (told.unreadable, len(told.unreadable_names)) == (12, 8)


def test_a_fallback_names_the_model_that_goes_on_and_what_was_declined() -> None:
    handed_over = block("fallback", **{"from": {"model": "claude-x"}, "to": {"model": "claude-y"}})
    told = tally(start(), text("abc"), handed_over, text("defgh"))
    assert (told.model, told.fell_back, told.declined[0], told.at_usage[0]) == ("claude-y", True, 3, 3)
    told.see(stopped(output_tokens=2, iterations=[{"type": "fallback_message", "model": "claude-z"}, {"type": "new"}]))
    assert (told.model, told.at_usage[0]) == ("claude-z", 8)


def test_a_fallback_after_an_exact_usage_leaves_what_that_usage_covers() -> None:
    told = tally(start(), text("abc"), stopped(None, output_tokens=2), text("de"), block("fallback", to={"model": "y"}))
    assert (told.at_usage[0], told.declined[0]) == (3, 5)


@pytest.mark.parametrize("to", [None, {}, {"model": 7}, "claude-y", []])
def test_a_fallback_to_nobody_known_leaves_the_model(to: Any) -> None:
    assert tally(start(), block("fallback", to=to)).model == "claude-x"


def test_a_fallback_that_declined_without_a_word_has_an_exact_nought() -> None:
    told = tally(start(), text("abc"), block("fallback", to={"model": "claude-y"}), stopped("refusal", output_tokens=0))
    assert (told.exact, told.usage["output_tokens"]) == (True, 0)


def test_text_after_an_exact_usage_is_known_to_be_missing_from_it() -> None:
    told = tally(start(), text("abc"), stopped(None, output_tokens=3))
    assert (told.since_usage, told.at_usage, told.features) == (False, (3, 0, 0, 0, 0), (3, 0, 0, 0, 0))
    told.see(text("dé"))
    assert (told.since_usage, told.at_usage, told.features) == (True, (3, 0, 0, 0, 0), (5, 0, 0, 0, 1))
    told.see(stopped(output_tokens=5))
    assert (told.since_usage, told.at_usage) == (False, (5, 0, 0, 0, 1))


def test_a_block_begun_after_an_exact_usage_is_known_to_be_missing_from_it() -> None:
    assert tally(start(), stopped(None, output_tokens=3), block("text")).since_usage


kinds: st.SearchStrategy[DeltaKind] = st.sampled_from(["text", "thinking", "input_json"])
deltas = st.builds(Delta, st.just(0), kinds, st.text() | st.just("\ud83d"), st.integers(1, 5))


@settings(deadline=None)
@given(st.lists(deltas))
def test_characters_and_deltas_are_counted_by_kind(events: list[Delta]) -> None:
    told = tally(*events)
    for kind in ("text", "thinking", "input_json"):
        assert told.chars[kind] == sum(len(event.text) for event in events if event.kind == kind)
        assert told.deltas[kind] == sum(event.count for event in events if event.kind == kind)
    assert told.wide_chars == sum(ord(character) > 127 for event in events for character in event.text)
    assert told.features[:3] == (told.chars["text"], told.chars["thinking"], told.chars["input_json"])


@pytest.mark.parametrize(
    ("events", "phase"),
    [
        ([], Phase.BEFORE_FIRST_EVENT),
        ([of("brand_new")], Phase.BEFORE_FIRST_EVENT),
        ([start()], Phase.TEXT),
        ([start(), block("thinking")], Phase.THINKING),
        ([start(), block("redacted_thinking")], Phase.THINKING),
        ([start(), block("tool_use")], Phase.TOOL_USE),
        ([start(), block("server_tool_use")], Phase.TOOL_USE),
        ([start(), block("web_search_tool_result")], Phase.TEXT),
        ([start(), block("brand_new_block")], Phase.TEXT),
        ([Delta(0, "thinking", "a")], Phase.THINKING),
        ([Delta(0, "thinking", "a"), text("b")], Phase.TEXT),
        ([Delta(0, "input_json", "{")], Phase.TOOL_USE),
        ([block("thinking"), start()], Phase.THINKING),
        ([start(), text("a"), stopped()], Phase.TEXT),
        ([start(), text("a"), stopped(), of("message_stop")], Phase.DONE),
    ],
)
def test_the_phase_follows_the_answer(events: list[ClaudeEvent], phase: Phase) -> None:
    assert tally(*events).phase is phase


def test_tool_calls_are_counted_as_they_begin() -> None:
    assert (
        tally(block("tool_use"), block("server_tool_use"), block("text"), block("web_search_tool_result")).tool_blocks
        == 2
    )


END = of("content_block_stop", index=0)


@pytest.mark.parametrize(
    ("events", "hidden"),
    [
        ([block("text"), END], False),
        ([block("thinking", thinking="")], True),  # open and still empty: nobody knows what is behind it
        ([block("thinking", thinking=""), Delta(0, "thinking", "a")], False),
        ([block("thinking", thinking=""), Delta(0, "thinking", "a"), END], False),
        ([block("thinking", thinking=""), END], True),
        ([block("thinking", thinking=""), text("a")], True),
        ([block("thinking", thinking="given at once"), END], False),
        ([block("redacted_thinking", data="x"), END], True),
        ([block("thinking", thinking=""), END, block("thinking"), Delta(1, "thinking", "a"), END], True),
    ],
)
def test_thinking_that_came_without_its_text_is_known_to_be_hidden(events: list[ClaudeEvent], hidden: bool) -> None:
    assert tally(*events).hidden_thinking is hidden


def test_how_it_stopped_is_kept_and_not_taken_back() -> None:
    told = tally(stopped("refusal", details={"category": "x"}, sequence="STOP"), stopped(None))
    assert (told.stop_reason, told.stop_details, told.stop_sequence) == ("refusal", {"category": "x"}, "STOP")


def test_the_model_and_the_id_are_those_of_the_answer() -> None:
    told = tally(start())
    assert (told.model, told.message_id) == ("claude-x", "msg_1")


known = st.sampled_from(
    ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop", "x"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["usage", "type", "thinking", "stop_reason", "output_tokens"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(known, st.dictionaries(st.sampled_from(["message", "content_block", "delta", "usage"]), json_values))
def test_no_event_of_another_shape_makes_it_fail(type: str, data: dict[str, Any]) -> None:
    told = tally(of(type, **data))
    assert isinstance(told.usage, dict)
    assert all(isinstance(number, int) for number in told.features)


@pytest.mark.parametrize("name", NAMES)
def test_of_a_recorded_answer_it_keeps_what_the_recording_says(name: str) -> None:
    lines = events_in(name)
    told, usage, stop_reason = Tally(), dict[str, Any](), None
    for data in lines:
        told.see(Event(data["type"], b"", data))
        if data["type"] == "message_start":
            usage = dict(data["message"]["usage"])
        elif data["type"] == "message_delta":
            usage |= {key: value for key, value in data["usage"].items() if value is not None}
            stop_reason = data["delta"]["stop_reason"]
    assert told.usage == usage
    assert told.stop_reason == stop_reason
    assert told.exact == any(line["type"] == "message_delta" for line in lines)
    assert (told.phase is Phase.DONE) == (lines[-1]["type"] == "message_stop")
