"""The simulated Claude's knobs and answers, without a socket."""

from __future__ import annotations

import itertools
import json
import random
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tools.simulator import answer
from app.tools.simulator.answer import Request, Step
from app.tools.simulator.prose import prose
from app.tools.simulator.scenario import (
    ERROR_TYPES,
    FAULTS,
    HTTP_FAULTS,
    MID_STREAM_FAULTS,
    KnobError,
    Scenario,
    find_directive,
    parse_directive,
)

REQUEST = Request("req_1", "claude-opus-5-5", 12)

small = st.integers(0, 40)
seconds = st.sampled_from([0.0, 0.25, 1.0, 30.0, 1e-7])
scenarios = st.builds(
    Scenario,
    tokens=small,
    rate=seconds,
    thinking=small,
    hidden=st.booleans(),
    tool=small,
    pings_s=seconds,
    seed=st.integers(0, 3),
    tokens_per_delta=st.tuples(st.integers(1, 5), st.integers(0, 5)).map(lambda pair: (pair[0], sum(pair))),
    text=st.sampled_from(["prose", "numbered"]),
    chunking=st.sampled_from(["events", "random", "bytes"]),
    newline=st.sampled_from(["lf", "crlf", "cr"]),
    comment=st.booleans(),
    fault=st.sampled_from(sorted(FAULTS)),
    after=st.integers(0, 130),
    fault_times=st.integers(0, 3),
)
requests = st.builds(
    Request,
    id=st.just("req_1"),
    model=st.just("claude-opus-5-5"),
    input_tokens=st.integers(1, 99),
    max_tokens=st.integers(1, 130),
    tool_name=st.sampled_from(["search", "wetter"]),
)


def decode(wire: bytes) -> list[dict[str, Any]]:
    """WHATWG SSE 9.2, read for the purpose: each event's data, whose type must be the event's name."""
    payloads = []
    name, data = "", ""
    for line in re.split("\r\n|\r|\n", wire.decode("utf-8")):
        field, _, value = line.partition(":")
        match field:
            case "event":
                name = value.strip()
            case "data":
                data = value.strip()
            case "" if not line and data:
                payloads.append({"name": name} | json.loads(data))
                assert payloads[-1]["type"] == name
                name, data = "", ""
    return payloads


def played(scenario: Scenario, request: Request = REQUEST) -> tuple[list[Step], list[dict[str, Any]]]:
    """The steps of an answer, and its events but the garbage one."""
    steps = list(answer.steps(scenario, request))
    return steps, decode(b"".join(step.data for step in steps if not step.data.rstrip().endswith(GARBAGE)))


GARBAGE = b'"delta":{"ty'
FIELDS = {"text": ("text_delta",), "thinking": ("thinking_delta", "signature_delta"), "tool_use": ("input_json_delta",)}


def check_order(payloads: list[dict[str, Any]], *, complete: bool) -> None:
    """message_start, blocks one after the other, message_delta, message_stop; an error or the cut may come anywhere."""
    events = [payload for payload in payloads if payload["type"] != "ping"]
    open_block: str | None = None
    blocks, phase = 0, "before"
    for at, event in enumerate(events):
        match event["type"]:
            case "error":
                assert at == len(events) - 1
                return
            case "message_start":
                assert phase == "before"
                assert event["message"]["usage"]["output_tokens"] == 1
                phase = "content"
            case "content_block_start":
                assert (phase, open_block, event["index"]) == ("content", None, blocks)
                open_block = event["content_block"]["type"]
            case "content_block_delta":
                assert open_block is not None
                assert event["index"] == blocks
                assert event["delta"]["type"] in FIELDS[open_block]
            case "content_block_stop":
                assert open_block is not None
                assert event["index"] == blocks
                open_block, blocks = None, blocks + 1
            case "message_delta":
                assert (phase, open_block) == ("content", None)
                phase = "closing"
            case "message_stop":
                assert phase == "closing"
                phase = "after"
            case other:
                raise AssertionError(f"{other} is no event of this simulator")
    assert not complete or phase == "after"


@given(scenarios, requests)
def test_any_combination_of_knobs_gives_a_well_formed_order_of_events(scenario: Scenario, request: Request) -> None:
    steps, payloads = played(scenario, request)

    ends = [step.end for step in steps if step.end]
    assert ends == [steps[-1].end], "exactly one end, the last step"
    cut_short = scenario.fault in MID_STREAM_FAULTS - {"garbage", "refuse"} or scenario.fault == "error_first"
    check_order(payloads, complete=not cut_short)


@given(scenarios, requests)
def test_steps_stand_for_exactly_the_tokens_that_were_planned(scenario: Scenario, request: Request) -> None:
    steps, payloads = played(scenario, request)

    planned = answer.planned_tokens(scenario, request)
    generated = sum(step.tokens for step in steps)
    if scenario.fault == "error_first":
        assert generated == 0
    elif scenario.fault in MID_STREAM_FAULTS - {"garbage"}:
        assert generated == min(planned, scenario.after)
    else:
        assert generated == planned == min(scenario.thinking + scenario.tokens + scenario.tool, request.max_tokens)
    for payload in payloads:
        if payload["type"] == "message_delta":
            assert payload["usage"]["output_tokens"] == planned == generated
            thinking = sum(step.tokens for step in steps if step.thinking)
            assert payload["usage"].get("output_tokens_details", {}).get("thinking_tokens", 0) == thinking


@given(scenarios, requests)
def test_a_scenario_always_gives_the_same_bytes(scenario: Scenario, request: Request) -> None:
    assert list(answer.steps(scenario, request)) == list(answer.steps(scenario, request))


@given(scenarios)
def test_every_scenario_can_be_written_as_a_directive_and_read_back(scenario: Scenario) -> None:
    directive = " ".join(f"{name}={value}" for name, value in scenario.knobs().items())

    assert Scenario().with_knobs(parse_directive(directive)) == scenario


@given(st.binary(min_size=0, max_size=300), st.sampled_from(["events", "random", "bytes"]), st.integers())
def test_pieces_join_to_the_bytes_they_were_cut_from(data: bytes, chunking: str, seed: int) -> None:
    pieces = answer.pieces(data, chunking, random.Random(seed))

    assert b"".join(pieces) == data
    assert all(pieces) or not data
    assert chunking != "bytes" or all(len(piece) == 1 for piece in pieces)


def test_random_cuts_fall_inside_code_points_and_inside_line_endings() -> None:
    data, rng = "é\r\n".encode() * 3, random.Random(0)
    cuts = set()
    for _ in range(200):
        pieces = answer.pieces(data, "random", rng)
        cuts |= set(itertools.accumulate(len(piece) for piece in pieces))
    assert cuts == set(range(1, len(data) + 1))


@given(st.integers(0, 300), st.integers(1, 7))
def test_numbered_text_counts_every_token_once_and_in_order(tokens: int, per_delta: int) -> None:
    _, payloads = played(Scenario(tokens=tokens, text="numbered", tokens_per_delta=(1, per_delta)))

    text = "".join(p["delta"]["text"] for p in payloads if p["type"] == "content_block_delta")
    assert text == answer.numbered_text(tokens)
    assert text.split() == [f"token{number:04d}" for number in range(1, tokens + 1)]


def test_prose_is_markdown_with_code_and_other_scripts() -> None:
    text = "".join(prose(0, True))
    for sign in ("\n## ", "\n- **", "```python\n", "→", "½", "naïve"):
        assert sign in text
    assert "#" not in "".join(prose(0, False))
    assert prose(0, True) != prose(1, True)


def test_longer_prose_than_was_written_goes_on_from_its_beginning() -> None:
    written = prose(0, True)
    _, payloads = played(Scenario(tokens=len(written) + 3))
    text = "".join(p["delta"]["text"] for p in payloads if p["type"] == "content_block_delta")
    assert text == "".join(written + written[:3])


def test_hidden_thinking_opens_is_signed_and_closes_yet_is_counted() -> None:
    steps, payloads = played(Scenario(thinking=7, hidden=True, tokens=2))

    kinds = [payload.get("delta", payload)["type"] for payload in payloads[1:4]]
    assert kinds == ["content_block_start", "signature_delta", "content_block_stop"]
    assert sum(step.tokens for step in steps if step.thinking) == 7
    assert payloads[-2]["usage"]["output_tokens_details"] == {"thinking_tokens": 7}


@pytest.mark.parametrize("tokens", [1, 2, 9])
@pytest.mark.parametrize("text", ["prose", "numbered"])
def test_a_tool_call_streams_json_that_parses_and_stops_for_it(tokens: int, text: str) -> None:
    _, payloads = played(Scenario(tokens=0, tool=tokens, text=text), Request("r", "m", 1, tool_name="wetter"))

    assert payloads[1]["content_block"]["name"] == "wetter"
    partial = "".join(p["delta"]["partial_json"] for p in payloads if p["type"] == "content_block_delta")
    assert list(json.loads(partial)) == ["query"]
    assert payloads[-2]["delta"]["stop_reason"] == "tool_use"


def test_max_tokens_cuts_the_answer_and_says_so() -> None:
    _, payloads = played(Scenario(thinking=3, tokens=10, text="numbered"), Request("r", "m", 1, max_tokens=5))

    assert payloads[-2]["delta"]["stop_reason"] == "max_tokens"
    assert payloads[-2]["usage"]["output_tokens"] == 5
    text = "".join(p["delta"].get("text", "") for p in payloads if p["type"] == "content_block_delta")
    assert text == answer.numbered_text(2)


def test_an_answer_of_exactly_max_tokens_ends_its_turn() -> None:
    _, payloads = played(Scenario(tokens=5), Request("r", "m", 1, max_tokens=5))
    assert payloads[-2]["delta"]["stop_reason"] == "end_turn"


def test_garbage_is_one_event_that_does_not_parse_and_the_answer_goes_on() -> None:
    whole, _ = played(Scenario(tokens=5))
    steps, _ = played(Scenario(tokens=5, fault="garbage", after=2))

    extra = [step for step in steps if step not in whole]
    assert len(extra) == 1
    assert [step for step in steps if step in whole] == whole
    assert sum(step.tokens for step in steps[: steps.index(extra[0])]) == 2
    with pytest.raises(json.JSONDecodeError):
        decode(extra[0].data)


@given(scenarios.map(lambda scenario: replace(scenario, fault="none")), requests)
def test_the_whole_message_says_what_the_stream_said(scenario: Scenario, request: Request) -> None:
    _, payloads = played(scenario, request)
    plain = replace(scenario, newline="lf", comment=False)

    message = answer.whole_message(answer.steps(plain, request))

    shown = {"text": "", "thinking": ""}
    for payload in payloads:
        for kind in shown:
            shown[kind] += payload.get("delta", {}).get(kind, "")
    assert "".join(block.get("text", "") for block in message["content"]) == shown["text"]
    assert "".join(block.get("thinking", "") for block in message["content"]) == shown["thinking"]
    assert message["stop_reason"] == payloads[-2]["delta"]["stop_reason"]
    assert message["usage"]["output_tokens"] == answer.planned_tokens(scenario, request)


@pytest.mark.parametrize(
    ("messages", "directive"),
    [
        ([{"role": "user", "content": "hi {{ tokens=5 }} there"}], "tokens=5"),
        ([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "{{rate=1}}"}]}], "rate=1"),
        ([{"role": "user", "content": "{{a}}"}, {"role": "assistant", "content": "{{b}}"}], "a"),
        ([{"role": "user", "content": "{{a}}"}, {"role": "user", "content": "none"}], None),
        ([{"role": "assistant", "content": "{{b}}"}], None),
        ([], None),
        ("{{a}}", None),
        ([{"role": "user", "content": 7}, "x"], None),
    ],
)
def test_a_directive_is_looked_for_in_the_last_user_message_only(messages: object, directive: str | None) -> None:
    assert find_directive(messages) == directive


def test_a_bare_word_in_a_directive_is_a_switch() -> None:
    assert Scenario().with_knobs(parse_directive("thinking=4 hidden comment=0")) == Scenario(thinking=4, hidden=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokens", "-1"), ("tokens", "x"), ("tokens", True), ("tokens", 1_000_001),
        ("rate", "nan"), ("rate", "inf"), ("rate", -0.5), ("rate", None),
        ("tokens_per_delta", "0"), ("tokens_per_delta", "3-2"), ("tokens_per_delta", "a-b"),
        ("hidden", "perhaps"), ("fault", "http_418"), ("newline", ["lf"]), ("text", "poetry"),
        ("transcript", "../secret"), ("transcript", ".hidden"), ("transcript", "a/b"), ("speed", "1"),
    ],
)  # fmt: skip
def test_an_impossible_knob_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(KnobError, match=f"^{name}: "):
        Scenario().with_knobs({name: value})


def test_a_recorded_answer_cannot_be_refused() -> None:
    with pytest.raises(KnobError, match=r"^fault: "):
        Scenario().with_knobs({"transcript": "text", "fault": "refuse"})


def test_every_http_fault_has_a_name_in_the_body() -> None:
    assert {f"http_{status}" for status in ERROR_TYPES} == HTTP_FAULTS
