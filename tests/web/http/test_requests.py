"""What a body may ask: every fault is told by field and bound, and what is Claude's own passes as it is."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest
from app.settings.sections import OWN_FIELDS, Defaults
from app.streams.terms import Policy
from app.web.http.requests import (
    CLAUDE_FIELDS,
    Question,
    field_value,
    frame_number,
    next_word_s,
    parse_fields,
    parse_messages_request,
    parse_object,
    parse_question,
)

DEFAULTS = Defaults(
    model="claude-default",
    max_tokens=64_000,
    thinking="adaptive",
    max_tokens_limit=128_000,
    policy="abort",
    grace_s=30.0,
    grace_max_s=600.0,
)
SAID = [{"role": "user", "content": "hello"}]


def parsed(body: object, defaults: Defaults = DEFAULTS) -> Question:
    return parse_question(json.dumps(body).encode(), defaults)[0]


def both(body: object, defaults: Defaults = DEFAULTS) -> tuple[Question, Any]:
    """What is asked for, and what goes up to Claude, without the `stream` that is always asked for."""
    question, raw = parse_question(json.dumps(body).encode(), defaults)
    fields = json.loads(raw)
    assert fields.pop("stream") is True
    return question, fields


def sent(body: object) -> Any:
    return both(body)[1]


def refused(raw: bytes) -> BadRequest:
    with pytest.raises(BadRequest) as error:
        parse_question(raw, DEFAULTS)
    assert error.value.status == 400
    assert error.value.as_dict()["type"] == "invalid_request_error"
    return error.value


def test_a_prompt_alone_is_asked_with_the_defaults() -> None:
    question, up = both({"prompt": " hello "})
    assert up == {
        "messages": [{"role": "user", "content": " hello "}],
        "model": "claude-default",
        "max_tokens": 64_000,
        "thinking": {"type": "adaptive"},
    }
    assert (question.model, question.max_tokens, question.thinking) == ("claude-default", 64_000, False)


def test_what_is_claudes_passes_as_it_is() -> None:
    body = {
        "messages": [*SAID, {"role": "assistant", "content": [{"type": "text", "text": "hi", "brand_new": 1}]}, *SAID],
        "model": "claude-other",
        "max_tokens": 5,
        "system": "be brief",
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": [{"name": "t", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"},
        "stop_sequences": ["x"],
        "metadata": {"user_id": "u"},
    }
    question, up = both(body)
    assert up == body
    assert (question.model, question.max_tokens, question.thinking) == ("claude-other", 5, True)


@pytest.mark.parametrize(
    ("asked", "default", "goes_up", "shown"),
    [
        (None, "adaptive", {"type": "adaptive"}, False),
        (None, "disabled", {"type": "disabled"}, False),
        (None, "", None, False),
        ({"type": "adaptive"}, "", {"type": "adaptive"}, True),
        ({"type": "enabled", "budget_tokens": 2000}, "adaptive", {"type": "enabled", "budget_tokens": 2000}, True),
        ({"type": "disabled"}, "adaptive", {"type": "disabled"}, False),
    ],
)
def test_thinking_is_asked_by_default_and_shown_on_request(
    asked: object, default: Literal["adaptive", "disabled", ""], goes_up: object, shown: bool
) -> None:
    defaults = replace(DEFAULTS, thinking=default)
    question, up = both({"prompt": "x"} | ({"thinking": asked} if asked else {}), defaults)
    assert up.get("thinking") == goes_up
    assert question.thinking is shown


@pytest.mark.parametrize(
    ("asked", "policy", "grace_s"),
    [
        ({}, Policy.DRAIN, 30),
        ({"resumable": True}, Policy.GRACE, 30),
        ({"resumable": False}, Policy.ABORT, 30),
        ({"policy": "grace", "grace_s": 600}, Policy.GRACE, 600),
        ({"policy": "drain", "resumable": True}, Policy.DRAIN, 30),
        ({"policy": "abort", "grace_s": 0}, Policy.ABORT, 0),
    ],
)
def test_what_happens_when_the_reader_is_lost_is_as_asked_or_as_configured(
    asked: dict[str, Any], policy: Policy, grace_s: float
) -> None:
    question, up = both({"prompt": "a"} | asked, replace(DEFAULTS, policy="drain"))
    assert (question.policy, question.grace_s) == (policy, grace_s)
    assert not up.keys() & {"policy", "grace_s", "resumable", "credits"}


def test_credits_are_given_only_to_a_page_that_asks_for_them() -> None:
    asked: list[dict[str, Any]] = [{}, {"credits": False}, {"credits": True}, {"credits": 4096}]
    assert [parsed({"prompt": "a"} | own).credits for own in asked] == [0, 0, math.inf, 4096]


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "the body is empty; it must be JSON"),
        (b"{", "the body is not JSON"),
        (b"prompt=hello", "the body is not JSON"),
        (b'{"prompt": "a"} x', "the body is not JSON"),
        (b'{"prompt": "\xff"}', "the body is not JSON"),
        (b'{"prompt": "\\ud800"}', "the body is not JSON"),
        (b"[]", "must be a JSON object"),
        (b'"hello"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused_as_such(raw: bytes, told: str) -> None:
    error = refused(raw)
    assert told in error.message
    assert error.field is None


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        ({}, "prompt", "prompt is missing"),
        ({"prompt": None}, "prompt", "prompt is missing"),
        ({"model": "x"}, "prompt", "messages (a list)"),
        ({"prompt": "a", "messages": SAID}, "prompt", "exclude each other"),
        ({"prompt": ""}, "prompt", "not blank"),
        ({"prompt": " \n"}, "prompt", "not blank"),
        ({"prompt": 5}, "prompt", "a string"),
        ({"prompt": ["a"]}, "prompt", "a string"),
        ({"messages": []}, "messages", "at least one"),
        ({"messages": "hello"}, "messages", "a list"),
        ({"messages": {}}, "messages", "a list"),
        ({"messages": ["hello"]}, "messages[0]", "role"),
        ({"messages": [*SAID, {"content": "x"}]}, "messages[1]", "role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0]", "user"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0]", "user"),
        ({"messages": [*SAID, {"role": "user"}]}, "messages[1].content", "a string or a list"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "a string or a list"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens", "from 1 to 128000, not 0"),
        ({"prompt": "a", "max_tokens": -5}, "max_tokens", "from 1 to 128000, not -5"),
        ({"prompt": "a", "max_tokens": 128_001}, "max_tokens", "from 1 to 128000, not 128001"),
        ({"prompt": "a", "max_tokens": 10**30}, "max_tokens", "from 1 to 128000"),
        ({"prompt": "a", "max_tokens": "many"}, "max_tokens", "a whole number"),
        ({"prompt": "a", "max_tokens": 1.5}, "max_tokens", "a whole number"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens", "a whole number"),
        ({"prompt": "a", "max_tokens": None}, "max_tokens", "a whole number"),
        ({"prompt": "a", "model": ""}, "model", "1 to 200 characters"),
        ({"prompt": "a", "model": "x" * 201}, "model", "1 to 200 characters"),
        ({"prompt": "a", "model": 5}, "model", "a string"),
        ({"prompt": "a", "system": 5}, "system", "a string or a list"),
        ({"prompt": "a", "thinking": "adaptive"}, "thinking", "an object"),
        ({"prompt": "a", "thinking": None}, "thinking", "an object"),
        ({"prompt": "a", "tools": {}}, "tools", "a list"),
        ({"prompt": "a", "tool_choice": "auto"}, "tool_choice", "an object"),
        ({"prompt": "a", "stop_sequences": "x"}, "stop_sequences", "a list"),
        ({"prompt": "a", "metadata": []}, "metadata", "an object"),
        ({"prompt": "a", "policy": "keep"}, "policy", "abort, grace or drain"),
        ({"prompt": "a", "policy": []}, "policy", "abort, grace or drain"),
        ({"prompt": "a", "policy": None}, "policy", "abort, grace or drain"),
        ({"prompt": "a", "resumable": "yes"}, "resumable", "true or false"),
        ({"prompt": "a", "resumable": 1}, "resumable", "true or false"),
        ({"prompt": "a", "credits": 2047}, "credits", "bytes from 2048"),
        ({"prompt": "a", "credits": "1"}, "credits", "true, false"),
        ({"prompt": "a", "grace_s": -1}, "grace_s", "from 0 to 600 seconds"),
        ({"prompt": "a", "grace_s": 600.1}, "grace_s", "from 0 to 600 seconds"),
        ({"prompt": "a", "grace_s": "30"}, "grace_s", "a number of seconds"),
        ({"prompt": "a", "grace_s": True}, "grace_s", "a number of seconds"),
        ({"promt": "a"}, "promt", "unknown field promt; did you mean prompt?"),
        ({"prompt": "a", "resumabel": True}, "resumabel", "did you mean resumable?"),
        ({"prompt": "a", "Resumable": True}, "Resumable", "did you mean resumable?"),
        ({"prompt": "a", "credit": True}, "credit", "did you mean credits?"),
        ({"prompt": "a", "beta": ["x"]}, "beta", "did you mean betas?"),
        ({"prompt": "a", "betas": "x"}, "betas", "a list of names"),
        ({"prompt": "a", "betas": ["x,y"]}, "betas", "a list of names"),
        ({"prompt": "a", "betas": ["x\r\ny: z"]}, "betas", "a list of names"),
        ({"prompt": "a", "betas": [5]}, "betas", "a list of names"),
        ({"prompt": "a", "stream": True}, "stream", "this path always streams"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_told_by_name_with_its_bound(body: dict[str, Any], field: str, told: str) -> None:
    error = refused(json.dumps(body).encode())
    assert error.field == field
    assert told in error.message
    assert field in error.message


def test_the_bounds_of_max_tokens_themselves_are_taken() -> None:
    for max_tokens in (1, 128_000):
        assert parsed({"prompt": "a", "max_tokens": max_tokens}).max_tokens == max_tokens


def test_a_number_of_thousands_of_digits_is_refused_and_not_repeated() -> None:
    assert len(refused(b'{"prompt": "a", "max_tokens": 1' + b"0" * 5000 + b"}").message) < 200


@pytest.mark.parametrize("digits", [20, 400, 5000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_a_number_of_any_length_is_told_by_field_and_bound_on_every_protocol(digits: int, sign: str) -> None:
    raw = b'{"prompt": "a", "max_tokens": ' + sign.encode() + b"9" * digits + b"}"
    for parse, bound in (
        (lambda: parse_question(raw, DEFAULTS), "128000"),
        (lambda: parse_messages_request(raw), "1000000000"),
    ):
        with pytest.raises(BadRequest) as error:
            parse()
        assert error.value.field == "max_tokens"
        assert bound in error.value.message
        assert len(error.value.message) < 200


@pytest.mark.parametrize(
    "name",
    [
        "max_token",
        "tool_choise",
        "qqqq",
        "context_management",
        "mcp_servers",
        "temperature",
        "user_id",
        "prompt_cache_key",
        "résumé",
    ],
)
def test_a_field_unknown_here_goes_up_as_it_came(name: str) -> None:
    given = {name: {"a": [1.50, None, "\u00e9"], "b": 10**30}}
    assert sent({"prompt": "a"} | given)[name] == given[name]
    assert json.dumps(given[name]).encode() in parse_question(json.dumps({"prompt": "a"} | given).encode(), DEFAULTS)[1]


def test_the_pages_own_fields_stay_here_where_they_were_declared() -> None:
    defaults = replace(DEFAULTS, ignore_fields=("user_id", "resumabel", "webSearch"))
    _, up = both({"prompt": "a", "user_id": 5, "resumabel": True, "webSearch": {}, "top_k": 3}, defaults)
    assert up.keys() == {"messages", "model", "max_tokens", "thinking", "top_k"}


def test_betas_are_for_the_header() -> None:
    question, up = both({"prompt": "a", "betas": ["files-api-2025-04-14", "x_y"]})
    assert question.betas == ("files-api-2025-04-14", "x_y")
    assert "betas" not in up
    assert parsed({"prompt": "a"}).betas == ()


def test_an_unknown_field_of_any_length_is_refused_at_once_and_told_shortened() -> None:
    error = refused(json.dumps({"x" * 1_000_000: 1}).encode())
    assert len(error.message) < 200
    assert error.field == "x" * 80


def test_a_null_beside_the_other_is_as_good_as_absent() -> None:
    assert sent({"prompt": "a", "messages": None})["messages"] == [{"role": "user", "content": "a"}]
    assert sent({"prompt": None, "messages": SAID})["messages"] == SAID


def test_every_field_that_the_sdk_knows_passes_but_stream() -> None:
    from anthropic.types import message_create_params  # takes seconds, so for this test alone

    assert frozenset(message_create_params.MessageCreateParamsBase.__annotations__) - {"stream"} == CLAUDE_FIELDS
    assert "stream" not in CLAUDE_FIELDS
    given = {"output_config": {"effort": "low"}, "container": "c"}
    assert sent({"prompt": "a"} | given).items() >= given.items()


def test_a_prompt_is_not_sent_under_its_own_name() -> None:
    assert "prompt" not in sent({"prompt": "a"})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(sorted(CLAUDE_FIELDS | {"prompt", "stream"})) | st.text(max_size=8)


@settings(deadline=None)
@given(st.dictionaries(names, values, max_size=5) | values | st.fixed_dictionaries({"prompt": st.just("a")}, optional={"model": values, "max_tokens": values}))  # fmt: skip
def test_whatever_is_sent_is_either_asked_within_bounds_or_refused(body: object) -> None:
    try:
        question, up = both(body)
    except BadRequest:
        return
    assert 1 <= question.max_tokens <= DEFAULTS.max_tokens_limit
    assert up["messages"]
    assert not up.keys() & (OWN_FIELDS | {"stream"})


def test_a_question_has_no_more_fields_than_claude_could_ever_have() -> None:
    with pytest.raises(BadRequest, match="200 fields"):
        parsed({"prompt": "a"} | {f"field{n}": n for n in range(200)})


def test_a_large_prompt_goes_up_as_it_came() -> None:
    raw = json.dumps({"prompt": "é\n\ud83d\ude00" * 100_000}).encode()
    assert raw[11:-1] in parse_question(raw, DEFAULTS)[1]


def test_a_large_body_of_text_and_files_is_taken() -> None:
    code = "if (a[i] == {b: c}) return;\n" * 60_000
    file = {"type": "document", "source": {"type": "base64", "data": "QUJD" * 1_000_000}}
    _, up = both({"messages": [{"role": "user", "content": [{"type": "text", "text": code}, file]}]})
    assert up["messages"][0]["content"][1] == file


@pytest.mark.parametrize(
    ("raw", "model", "max_tokens", "stream"),
    [
        (b'{"model": "m", "max_tokens": 5, "stream": true}', "m", 5, True),
        (b'{"stre\\u0061m": true, "model": "\\u006d", "max_tokens":5}', "m", 5, True),
        (b'{"model": "m", "max_tokens": 5}', "m", 5, False),
        (b'{"stream": 1, "model": null}', "", 0, False),
        (b'{"stream": "true", "model": ["m"], "max_tokens": "5"}', "", 0, False),
        (b'{"stream": null, "model": {"stream": true}, "max_tokens": 1.5}', "", 0, False),
        (b'{"max_tokens": -5, "messages": [{"stream": true}]}', "", 0, False),
        (b'{"stream": false, "stream": true}', "", 0, True),  # the last one counts, as it does for Claude
    ],
)
def test_of_a_request_of_the_messages_api_three_fields_are_read(
    raw: bytes, model: str, max_tokens: int, stream: bool
) -> None:
    asked = parse_messages_request(raw)
    assert (asked.model, asked.max_tokens, asked.stream) == (model, max_tokens, stream)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"[]", "object"),
        (b'{"a":' + b"[" * 100_000, "deeply"),
        (b'{"model": "\xff"}', "not JSON"),
    ],
)
def test_a_request_of_the_messages_api_is_a_json_object(raw: bytes, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        parse_messages_request(raw)


def test_a_frame_is_named_by_its_number() -> None:
    assert frame_number(parse_fields(b'{"id": 17, "more": 1}')) == 17
    for wrong in (
        b"{}",
        b'{"id": -1}',
        b'{"id": 1.5}',
        b'{"id": true}',
        b'{"id": "1"}',
        b'{"id": ' + b"9" * 400 + b"}",
    ):
        with pytest.raises(BadRequest, match="number of a frame"):
            frame_number(parse_fields(wrong))


def test_a_page_may_say_within_which_time_it_speaks_again() -> None:
    said = (b'{"id": 1}', b'{"again_s": 9}', b'{"again_s": 0.5}')
    assert [next_word_s(parse_fields(raw)) for raw in said] == [math.inf, 9, 0.5]
    for wrong in (b"0", b"-1", b'"9"', b"true", b"null", b"NaN", b"1e999", b"[]"):
        with pytest.raises(BadRequest, match=r"again_s|not JSON"):
            next_word_s(parse_fields(b'{"again_s": %b}' % wrong))


def test_a_field_is_decoded_alone() -> None:
    fields = parse_fields(b'{"a": {"b": [1]}, "big": 1e999}')
    assert field_value(fields, "a") == {"b": [1]}
    assert field_value(fields, "big") is None
    assert field_value(fields, "c") is None
    with pytest.raises(BadRequest, match="not JSON"):
        field_value(parse_fields(b'{"a": "\xff"}'), "a")


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_an_object_or_a_bad_request(raw: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert isinstance(parse_object(raw), dict)
