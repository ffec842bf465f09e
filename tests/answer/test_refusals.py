"""What Claude's side says where it does not answer: its status, type and words are kept, bounded and without secrets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.answer.refusals import (
    MOST_WORDS,
    came_with,
    no_stream,
    reads_as_error,
    refusal,
    told,
    without_secrets,
    words_of,
)
from app.errors import UpstreamError, UpstreamGarbled, UpstreamRefused

SPENT = {"error_code": "enforced_spend_limit_reached"}


def said(error: Any, **more: Any) -> bytes:
    return json.dumps({"type": "error", "error": error} | more).encode()


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        ({"type": "overloaded_error", "message": "m"}, None, ("m", "overloaded_error", 529, True)),
        ({"type": "rate_limit_error", "message": "m"}, None, ("m", "rate_limit_error", 429, True)),
        ({"type": "invalid_request_error", "message": "m"}, None, ("m", "invalid_request_error", 400, False)),
        ({"type": "brand_new_error", "message": "m"}, None, ("m", "brand_new_error", 500, False)),
        ({"message": "m"}, None, ("m", "api_error", 500, False)),
        ({"type": "api_error", "message": "m"}, None, ("m", "api_error", 500, True)),
        ({"type": "brand_new_error", "message": "m"}, 418, ("m", "brand_new_error", 418, False)),
        ({"type": "timeout_error", "message": "m"}, 408, ("m", "timeout_error", 408, True)),
        ({"type": "rate_limit_error", "message": "m", "details": SPENT}, 429, ("m", "rate_limit_error", 429, False)),
        ({"message": "m"}, 529, ("m", "overloaded_error", 529, True)),
        ({"type": None, "message": "m"}, 400, ("m", "invalid_request_error", 400, False)),
        ({"type": ["x"], "message": "m"}, 418, ("m", "api_error", 418, False)),
        ("m", 503, ("m", "api_error", 503, True)),
    ],
)
def test_claudes_error_body_becomes_a_typed_error(
    error: object, status: int | None, expected: tuple[str, str, int, bool]
) -> None:
    refused = refusal(said(error), status)
    assert (refused.message, refused.type, refused.status, refused.retryable) == expected
    assert refused.said == said(error)


def test_a_type_is_bounded() -> None:
    assert refusal(said({"type": "x" * 101, "message": "m"}), 418).type == "x" * 100


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "context overflow", "type": "BadRequest"}},
        {"error": {"message": "context overflow"}},
        {"error": "context overflow"},
        {"message": "context overflow"},
        {"type": "error", "message": "context overflow"},
        {"type": "overloaded_error", "message": "context overflow"},
        {"detail": "context overflow"},
        {"error": {"detail": "context overflow"}},
        {"error": {"message": None}, "message": "context overflow"},
    ],
)
def test_the_message_is_found_wherever_a_gateway_puts_it(body: dict[str, Any]) -> None:
    assert refusal(json.dumps(body).encode(), 400).message == "context overflow"


@pytest.mark.parametrize("body", [b"{}", b'{"type":"error"}', b'{"error": 7}', b'{"error": {"message": ""}}'])
def test_an_error_without_a_message_is_told_as_it_came(body: bytes) -> None:
    assert body.decode() in refusal(body).message
    assert body.decode() in refusal(body, 500).message


@pytest.mark.parametrize(
    ("body", "media_type", "words"),
    [
        (
            b"<html><head><title>502</title><style>p{}</style></head>\r\n<body><h1>Bad\tGateway</h1>nginx",
            "text/html",
            "502 Bad Gateway nginx",
        ),
        (b"no healthy upstream", "text/plain", "no healthy upstream"),
        (b'<?xml version="1.0"?><Error><Code>Slow</Code></Error>', "application/xml", "Slow"),
        (b'["unknown", "shape"]', "application/json", '["unknown", "shape"]'),
        (b"\xff\xfe", "", "\N{REPLACEMENT CHARACTER}" * 2),
        (b"", "text/html", ""),
    ],
)
def test_other_bodies_say_what_a_person_would_read_in_them(body: bytes, media_type: str, words: str) -> None:
    assert words_of(body, media_type) == words


def test_an_error_that_is_no_json_says_its_status_kind_and_words() -> None:
    refused = refusal(b"<h1>Bad Gateway</h1>", 502, {"content-type": "text/html; charset=utf-8"})
    assert refused.message == "Claude's side answered 502 with text/html; charset=utf-8: Bad Gateway"
    assert (refused.status, refused.type, refused.retryable) == (502, "api_error", True)
    assert refusal(b"", 503).message == "Claude's side answered 503 with no content type"


def test_claudes_own_word_on_trying_again_stands() -> None:
    assert refusal(said({}), 400, {"x-should-retry": "true"}).retryable
    assert not refusal(said({}), 529, {"x-should-retry": "false"}).retryable
    assert refusal(said({}), 529, {"x-should-retry": "maybe"}).retryable


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "7", "retry-after-ms": "soon"}, 7.0),
        ({"retry-after": "7", "retry-after-ms": "nan"}, 7.0),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 25 Nov 2026 10:00:09 GMT", "date": "Wed, 25 Nov 2026 10:00:00 GMT"}, 9.0),
        ({"retry-after": "Wed, 25 Nov 2026 10:00:09 GMT"}, None),
    ],
)
def test_when_to_try_again_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert refusal(said({}), 529, headers).retry_after_s == seconds


def test_a_request_id_of_the_header_goes_before_the_bodys() -> None:
    assert refusal(said({}, request_id="body"), 500, {"request-id": "header"}).request_id == "header"
    assert refusal(said({}, request_id="body"), 500).request_id == "body"
    assert refusal(said({}, request_id=7), 500).request_id is None


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (said({"type": "overloaded_error", "message": "m"}), UpstreamRefused),
        (b'{"error": {"message": "m"}}', UpstreamRefused),
        (b'{"error": "m"}', UpstreamRefused),
        (b"m", UpstreamGarbled),
        (b'{"detail": "m"}', UpstreamGarbled),
    ],
)
def test_what_is_no_stream_is_an_error_with_its_words(body: bytes, error: type[UpstreamError]) -> None:
    failure = no_stream(body, 200, {"content-type": "application/json"})
    assert type(failure) is error
    assert "m" in failure.message.split(": ")[-1]


def test_an_answer_that_came_whole_is_not_repeated_in_an_error() -> None:
    body = b'{"type": "message", "content": [{"type": "text", "text": "private"}]}'
    failure = no_stream(body, 200, {"content-type": "application/json"})
    assert failure.message == "Claude's side answered 200 with application/json, not with a stream of events"


@pytest.mark.parametrize(
    ("location", "address"),
    [
        ("https://user:word@api.example:8443/v1/messages?key=word#word", "https://api.example:8443/v1/messages"),
        ("https://user:wo@rd@api.example/v1/messages", "https://api.example/v1/messages"),
        ("/elsewhere?key=word", "/elsewhere"),
        ("http://[broken", "no address"),
        ("", "no address"),
    ],
)
def test_a_redirect_says_where_to_without_what_may_be_secret(location: str, address: str) -> None:
    failure = no_stream(b"", 307, {}, location)
    assert failure.message == f"Claude's side answered 307, a redirect to {address}"
    assert failure.status == 502


@pytest.mark.parametrize(
    ("body", "without"),
    [
        (b"invalid x-api-key", b"invalid x-api-key"),
        (b"Invalid bearer token; Bearer token required", b"Invalid bearer token; Bearer token required"),
        (b"key sk-ant-api03-a_B-9 is wrong", b"key sk-ant-[key] is wrong"),
        (b"Authorization: Bearer abcdefgh.1~", b"Authorization: Bearer [key]"),
        (b'{"got": "our own key 1"}', b'{"got": "[key]"}'),
        (b"ok", b"ok"),
    ],
)
def test_keys_are_taken_out_and_all_else_stays(body: bytes, without: bytes) -> None:
    assert without_secrets(body, [b"our own key 1", b"k", b""]) == without


@given(st.text())
def test_someone_elses_words_are_one_bounded_line(words: str) -> None:
    line = told(words)
    assert line.isprintable()
    assert len(line) <= MOST_WORDS


@given(st.text(st.characters(categories=["L", "N", "P"]), max_size=MOST_WORDS))
def test_words_that_print_are_told_as_they_are(words: str) -> None:
    assert told(words) == words


@given(st.binary(max_size=3000), st.none() | st.integers(200, 599), st.dictionaries(st.sampled_from(["content-type", "retry-after", "date", "x-should-retry"]), st.text(max_size=20)))  # fmt: skip
def test_whatever_comes_is_an_error_that_can_be_told(body: bytes, status: int | None, headers: dict[str, str]) -> None:
    for failure in (refusal(body, status, headers), no_stream(body, status or 200, headers)):
        assert len(failure.message) <= 2 * MOST_WORDS
        assert failure.message.isprintable()
        assert failure.type


def test_an_error_carries_what_the_head_of_its_response_said() -> None:
    error = UpstreamRefused("m", type="overloaded_error", status=529, retryable=True)
    came_with(error, {"retry-after": "7", "request-id": "req_1", "x-new": "n"})
    assert (error.retry_after_s, error.request_id) == (7.0, "req_1")
    assert ("x-new", "n") in error.headers


def test_what_an_error_says_itself_stands_before_the_head_of_its_response() -> None:
    error = UpstreamRefused(
        "m", type="overloaded_error", status=529, retryable=True, retry_after_s=3.0, request_id="req_of_the_event"
    )
    came_with(error, {"retry-after": "7", "request-id": "req_1"})
    assert (error.retry_after_s, error.request_id) == (3.0, "req_of_the_event")


def test_an_error_that_is_not_claudes_takes_no_id_of_its_request() -> None:
    error = UpstreamGarbled("m")
    came_with(error, {"request-id": "req_1"})
    assert error.headers == (("request-id", "req_1"),)
    assert not hasattr(error, "request_id")


@pytest.mark.parametrize(
    ("body", "media_type", "words"),
    [
        (b"use <b> and <i>", "text/plain", "use <b> and <i>"),
        (b"<h1>Bad</h1>", "text/plain", "Bad"),
        (b"Bad <b>Gateway</b>", "text/html", "Bad Gateway"),
    ],
)
def test_markup_is_taken_from_pages_alone(body: bytes, media_type: str, words: str) -> None:
    assert " ".join(words_of(body, media_type).split()) == words


@pytest.mark.parametrize(
    ("data", "reads"),
    [
        ({}, True),
        ({"type": "overloaded_error"}, True),
        ({"type": "brand_new"}, False),
        ({"type": "brand_new", "message": "m"}, True),
        ({"type": "brand_new", "error": {}}, True),
    ],
)
def test_what_is_an_error_by_its_events_name_says_what_errors_say(data: dict[str, Any], reads: bool) -> None:
    assert reads_as_error(data) is reads
