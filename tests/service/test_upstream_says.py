"""Whatever Claude's side says in an answer's place: its status, type and words come through, once asked, without secrets."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import zlib
from typing import Any

import aiohttp
import pytest

from app.upstream import claude
from tests.support.raw_upstream import (
    CLOSE,
    HELLO,
    KEY,
    MESSAGE,
    RESET,
    START,
    Play,
    behind,
    chunk,
    event,
    head,
    raw_upstream,
    response,
    stream,
    stream_head,
)
from tests.support.scrape import scrape
from tests.support.ways import ASKED, WAYS, Said, asked

JSON = {"content_type": "application/json"}
OVERLOADED = b'{"type":"error","error":{"type":"overloaded_error","message":"Come back later"}}'


async def answer_to(way: str, *plays: Play, **settings: object) -> tuple[Said, int]:
    """What the caller is told, and how many requests Claude's side got for it."""
    async with raw_upstream(*plays) as upstream, behind(upstream, **settings) as service:
        return await asked(service, way), len(upstream.requests)


# --- before an answer ----------------------------------------------------------------------------------------------

HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>No healthy upstream</h1></body></html>"


@pytest.mark.parametrize(
    ("play", "status", "words"),
    [
        (response(OVERLOADED, 529, **JSON), 529, "Come back later"),
        (response(b'{"error":{"message":"context overflow"}}', 400, **JSON), 400, "context overflow"),
        (response(b'{"detail":"no such route"}', 404, **JSON), 404, "no such route"),
        (response(HTML, 502, content_type="text/html"), 502, "No healthy upstream"),
        (response(b"upstream connect error", 503, content_type="text/plain"), 503, "upstream connect error"),
        (response(b"", 500), 500, "500"),
        (response(b"moved", 307, location="https://u:p@else.where/v1/messages?k=1"), 502, "https://else.where/v1/messages"),
        (response(b"moved", 301, location="::nowhere::"), 502, "301"),
        (response(gzip.compress(OVERLOADED), 529, content_encoding="gzip", **JSON), 529, "Come back later"),
        (response(zlib.compress(OVERLOADED), 529, content_encoding="deflate", **JSON), 529, "Come back later"),
        (response(b"\x1b\x00\x00", 529, content_encoding="br"), 529, "coded as br"),
        (response(b"not gzip", 529, content_encoding="gzip"), 529, "coded as gzip"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", ["plain", "chat"])
async def test_what_stands_in_an_answers_place_is_told(
    way: str, play: bytes, status: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    said, _ = await answer_to(way, [play], retries=0)

    assert said.status == status
    assert words in said.words
    assert f"{status} " in caplog.text


@pytest.mark.parametrize(
    ("play", "status", "words"),
    [
        (response(OVERLOADED, **JSON), 529, "Come back later"),
        (response(b'{"error":{"message":"context overflow","type":"BadRequest"}}', **JSON), 500, "context overflow"),
        (response(b"please log in", content_type="text/plain"), 502, "please log in"),
        (response(HTML, content_type="text/html"), 502, "No healthy upstream"),
        (response(b"Hello"), 502, "no content type"),
        (response(b"data", content_type="text/plain"), 502, "data"),
        (response(b"database: gone", content_type="text/plain"), 502, "database: gone"),
        (response(b"", 204), 502, "204"),
        (stream(event(OVERLOADED)), 529, "Come back later"),
        (stream(b'data: {"error": {"message": "context overflow"}}\n\n'), 500, "context overflow"),
        (stream(b"event: error\ndata: upstream connect error\n\n"), 500, "upstream connect error"),
        (stream(b'data: {"detail": "no such route"}\n\n'), 502, "no such route"),
    ],
)
@pytest.mark.parametrize("way", ["plain", "messages", "chat"])
async def test_a_good_status_in_front_of_no_answer_is_an_error_all_the_same(
    way: str, play: bytes, status: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    said, _ = await answer_to(way, [play], retries=0)

    assert said.status == status
    assert words in said.words
    assert f"{status} " in caplog.text, "though not the words: they may repeat what was asked"


@pytest.mark.parametrize(
    ("play", "words"),
    [
        (response(HTML, content_type="text/html"), "200 with text/html, not with a message in JSON: 502 Bad Gateway No"),
        (response(b"please log in", 203, content_type="text/plain"), "203 with text/plain, not with a message in JSON: please"),
        (response(b"<p>key " + KEY.encode(), content_type="text/html"), "JSON: key [key]"),
        (response(b""), "200 with no content type, not with a message in JSON"),
        (response(b"", content_type="text/event-stream"), "200 with text/event-stream, not with a message in JSON"),
        (stream(b": keep-alive\n\n"), "200 with text/event-stream, not with a message in JSON"),
        (stream(HTML), "No healthy upstream"),
    ],
)  # fmt: skip
async def test_a_good_status_in_front_of_no_whole_message_is_an_error_with_its_words(play: bytes, words: str) -> None:
    said, requests = await answer_to("whole", [play])

    assert (said.status, requests) == (502, 1)
    assert said.error["error"]["details"]["error_code"] == "upstream_garbled"
    assert words in said.words
    assert said.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "x-unheard-of"])
@pytest.mark.parametrize("way", list(WAYS))
async def test_an_answer_in_a_coding_that_nobody_asked_for_is_refused_at_once(way: str, coding: str) -> None:
    body = gzip.compress(HELLO) if way != "whole" else gzip.compress(json.dumps(MESSAGE).encode())
    play = stream(body, content_encoding=coding) if way != "whole" else response(body, content_encoding=coding, **JSON)
    said, requests = await answer_to(way, [play], retries=2)

    assert (said.status, requests) == (502, 1)
    assert coding in said.words


async def test_we_ask_for_no_coding() -> None:
    async with raw_upstream([stream(HELLO)], [response(b"{}", **JSON)]) as upstream, behind(upstream) as service:
        await asked(service, "plain")
        await asked(service, "whole")

    for request, _ in upstream.requests:
        assert "accept-encoding: identity" in request.lower()


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("coded", [True, False])
async def test_the_body_of_an_error_is_bounded(way: str, coded: bool) -> None:
    body = b'{"type":"error","error":{"message":"' + b"too long " * 3_500_000 + b'"}}'
    play = response(gzip.compress(body), 529, content_encoding="gzip") if coded else response(body, 529)
    async with raw_upstream([play]) as upstream, behind(upstream, retries=0) as service:
        said = await asked(service, way)

    assert said.status == 529
    assert b"too long too long" in said.body
    assert len(said.body) <= 65_536
    assert upstream.sent_bytes < 8_000_000, "the rest is left where it is"


@pytest.mark.parametrize("way", list(WAYS))
async def test_the_body_of_an_error_that_does_not_end_is_not_waited_for(way: str) -> None:
    beginning = response(b"x" * 99, 529, **JSON)[:-99] + OVERLOADED
    said, _ = await answer_to(way, [beginning, 600.0], retries=0)

    assert said.status == 529
    assert b"Come back later" in said.body


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_an_error_whose_body_is_cut_keeps_its_status(way: str, end: Any) -> None:
    said, _ = await answer_to(way, [response(b"x" * 999, 529, **JSON)[:-900], end], retries=0)

    assert said.status == 529


async def test_a_whole_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claude, "MAX_EVENT_BYTES", 1_000_000)
    endless = response(b"", **JSON | {"content_length": "9000000000"})
    async with raw_upstream([endless, *[b"[" * 1_000_000] * 100, CLOSE]) as upstream, behind(upstream) as service:
        said = await asked(service, "whole")

    assert (said.status, said.error["error"]["details"]["error_code"]) == (502, "upstream_garbled")
    assert said.headers["x-should-retry"] == "false"
    assert upstream.sent_bytes < 10_000_000, "the rest is left where it is"


async def test_a_whole_answer_of_more_parts_than_can_be_read_is_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    body = json.dumps(MESSAGE).encode()[:-1] + b', "more": [' + b"{}," * 400_000 + b"{}]}"
    said, _ = await answer_to("whole", [response(body, **JSON)])

    assert (said.status, said.body) == (200, body)
    assert "too many parts" in caplog.text


@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_a_whole_answer_that_is_cut_is_not_to_be_bought_again(end: Any) -> None:
    said, requests = await answer_to("whole", [response(json.dumps(MESSAGE).encode(), **JSON)[:-9], end])

    code = said.error["error"]["details"]["error_code"]
    assert (said.status, code, requests) == (502, "upstream_cut", 1)
    assert said.headers["x-should-retry"] == "false"


SECRETS = f'{{"type":"error","error":{{"type":"authentication_error","message":"bad {KEY} sk-ant-api03-abc Bearer abcdefgh"}}}}'


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize(
    "play",
    [response(SECRETS.encode(), 401, **JSON), stream(event(SECRETS.encode())), stream(START + event(SECRETS.encode()))],
    ids=["status", "first event", "mid-stream"],
)
async def test_no_key_that_is_said_back_reaches_a_caller_or_the_log(
    way: str, play: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    said, _ = await answer_to(way, [play], retries=0)

    for text in (said.body.decode(), caplog.text):
        assert KEY not in text
        assert "api03" not in text
        assert "abcdefgh" not in text
    if way != "whole":
        assert "bad [key] sk-ant-[key] Bearer [key]" in said.words


async def test_words_that_would_break_the_log_are_escaped(caplog: pytest.LogCaptureFixture) -> None:
    play = response(b"one\nCRITICAL two\x1b[31m\x00", 503, content_type="text/plain")
    said, _ = await answer_to("plain", [play], retries=0)

    assert r"one CRITICAL two\x1b[31m\x00" in said.words
    assert "\x1b" not in caplog.text


CALLED = {
    "text": "text/plain", "bytes": "application/octet-stream", "json": "application/json",
    "charset": "text/event-stream;charset=UTF-8", "case": "Text/Event-Stream ; x=y", "nothing": "",
}  # fmt: skip


@pytest.mark.parametrize(
    "begins",
    [
        b"",
        b": hello\n\n",
        b"\r\n: hello\r\n\r\n",
        b"retry: 9\n\n",
        b"id: 1\n",
        b"\xef\xbb\xbf",
        b"event:ping\ndata:{}\n\n",
    ],
)
@pytest.mark.parametrize("called", list(CALLED))
async def test_a_stream_of_events_is_one_whatever_it_is_called(called: str, begins: bytes) -> None:
    play = stream(begins + HELLO, content_type=CALLED[called])
    if not CALLED[called]:
        play = play.replace(b"content-type: \r\n", b"")
    for way in ("plain", "messages", "chat", "whole"):
        said, requests = await answer_to(way, [play])

        assert (said.status, requests) == (200, 1)
        assert b"Hello" in said.body


async def test_what_a_stream_is_called_does_not_hold_it_back() -> None:
    """Piece by piece, and with silence before its first event, which the words of an error are not waited for."""
    beyond_the_wait_s = 1.2
    head = stream_head(content_type="text/plain") + chunk(b": hello\n")
    pieces: Play = [head, beyond_the_wait_s, *(chunk(HELLO[at : at + 1]) for at in range(9)), chunk(HELLO[9:])]
    said, _ = await answer_to("plain", [*pieces, chunk(b"")])

    assert (said.status, said.error.get("done")) == (200, True)


HEAD = {
    "request_id": "req_7",
    "anthropic_organization_id": "org_1",
    "retry_after": "7",
    "x_new": "1",
    "set_cookie": "a=b",
}


@pytest.mark.parametrize(
    ("way", "play"),
    [
        ("messages", stream(event(OVERLOADED), **HEAD)),
        ("messages", response(OVERLOADED, **JSON, **HEAD)),
        ("messages", stream(b"data: no JSON\n\n", **HEAD)),
        ("messages", response(HTML, content_type="text/html", **HEAD)),
        ("messages", response(b"moved", 307, location="/login", **HEAD)),
        ("whole", response(b"no JSON", **HEAD)),
        ("whole", response(OVERLOADED, 529, **JSON, **HEAD)),
    ],
)
async def test_what_claudes_head_said_comes_down_with_the_error_that_its_body_was(way: str, play: bytes) -> None:
    said, _ = await answer_to(way, [play])

    assert said.status >= 500
    told = {name: said.headers.get(name.replace("_", "-")) for name in HEAD}
    assert told == HEAD | {"set_cookie": None}
    assert said.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("way", ["plain", "chat"])
async def test_claudes_retry_after_is_told_with_an_error_that_its_body_was(way: str) -> None:
    said, _ = await answer_to(way, [stream(event(OVERLOADED), **HEAD)])

    assert (said.status, said.headers["retry-after"]) == (529, "7")


@pytest.mark.parametrize(
    ("error", "retryable"),
    [({"message": "m"}, False), ({"type": "brand_new_error"}, False), ({"type": "overloaded_error"}, True)],
)
@pytest.mark.parametrize("before", [b"", START])
async def test_an_error_in_a_stream_is_retryable_only_where_its_type_says_so(
    error: dict[str, str], retryable: bool, before: bytes
) -> None:
    said, _ = await answer_to("plain", [stream(before + event({"type": "error", "error": error}))])

    assert said.error["retryable"] is retryable


CUT = [head(content_length="9") + b"{", CLOSE]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/messages/count_tokens"),
        ("GET", "/v1/models"),
        ("GET", "/v1/files/f/content"),
        ("GET", "/v1/messages/batches"),
    ],
)
@pytest.mark.parametrize(
    ("play", "type_"),
    [
        ([response(OVERLOADED, 529, **JSON)], "overloaded_error"),
        ([response(b"none", 404)], "not_found_error"),
        (CUT, None),
    ],
)
async def test_a_failure_of_what_is_not_booked_is_counted_once(
    method: str, path: str, play: Play, type_: str | None
) -> None:
    async with raw_upstream(play) as upstream, behind(upstream) as service, aiohttp.ClientSession() as client:
        body = ASKED if method == "POST" else None
        with contextlib.suppress(aiohttp.ClientError):  # where a status was sent before it was cut
            async with client.request(method, service.url + path, json=body) as answer:
                await answer.read()
                assert answer.status >= 400
        found = (await scrape(service)).by("upstream_errors_total", "type")
    assert {kind: times for kind, times in found.items() if times} == {type_ or next(iter(found)): 1}


# --- within an answer ----------------------------------------------------------------------------------------------

ODD = b'{"type": "error",  "error": {"type":"brand_new_error","message":"m","details":{"a":[1.50]},"new":null},"x":"\\u00e9"}'


@pytest.mark.parametrize(
    "data",
    [ODD, b'{"error": {"message": "context overflow", "type": "BadRequest"}}', b"out of words", b'{"type":"oops_error","a":1}'],
)  # fmt: skip
async def test_an_error_within_an_answer_passes_as_claude_sent_it(data: bytes) -> None:
    said, _ = await answer_to("messages", [stream(START + event(data, "error"))])

    assert said.body.endswith(b"\nevent: error\ndata: " + data + b"\n\n")


async def test_an_error_as_the_first_event_passes_as_claude_sent_it() -> None:
    said, _ = await answer_to("messages", [stream(event(ODD))])

    assert (said.status, said.error) == (500, json.loads(ODD))


@pytest.mark.parametrize("way", ["plain", "chat"])
async def test_an_error_without_a_type_within_an_answer_ends_it_with_its_words(way: str) -> None:
    said, _ = await answer_to(way, [stream(START + event({"error": {"message": "context overflow"}}, ""))])

    assert said.status == 200
    assert said.words == "context overflow"


# --- asked again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "play",
    [
        [stream_head() + chunk(b": hello\n\n"), CLOSE],
        [stream_head() + chunk(b"event: ping\ndata: {}\n\n"), RESET],
        [stream_head() + chunk(START[:60]), RESET],
        [stream_head() + chunk(START[:60]) + chunk(b"")],
        [stream(b"event: x\ndata: no JSON\n\n")],
        [response(b"{}", **JSON)],
    ],
)
@pytest.mark.parametrize("way", ["plain", "chat"])
async def test_nothing_is_asked_again_once_bytes_of_an_answer_have_come(way: str, play: Play) -> None:
    said, requests = await answer_to(way, play, [stream(HELLO)], retries=2)

    assert (said.status, requests) == (502, 1)


@pytest.mark.parametrize("play", [stream(event(OVERLOADED)), response(OVERLOADED, **JSON), response(OVERLOADED)])
@pytest.mark.parametrize("way", ["plain", "chat", "messages"])
async def test_an_error_in_the_body_of_a_good_status_is_told_and_not_asked_again(way: str, play: bytes) -> None:
    said, requests = await answer_to(way, [play], [stream(HELLO)], retries=2)

    assert (said.status, requests) == (529, 1)
    assert said.words == "Come back later"


@pytest.mark.parametrize("play", [[CLOSE], [RESET], [stream_head(), CLOSE]])
async def test_what_came_to_nothing_is_asked_again(play: Play) -> None:
    said, requests = await answer_to("plain", play, [stream(HELLO)], retries=1)

    assert (said.status, said.error["done"], requests) == (200, True, 2)


@pytest.mark.parametrize("play", [[CLOSE], [RESET], [stream_head(), CLOSE], [response(OVERLOADED, 529, **JSON)]])
@pytest.mark.parametrize("way", ["messages", "whole"])
async def test_one_request_of_a_caller_that_retries_by_itself_is_one_to_claude(way: str, play: Play) -> None:
    said, requests = await answer_to(way, play, [stream(HELLO)], retries=2)

    assert said.status >= 500
    assert requests == 1


async def test_claudes_word_on_trying_again_is_obeyed() -> None:
    play = [response(OVERLOADED, 529, x_should_retry="false", **JSON)]
    said, requests = await answer_to("plain", play, [stream(HELLO)])
    assert (said.status, said.error["retryable"], requests) == (529, False, 1)

    bad = b'{"type":"error","error":{"type":"invalid_request_error","message":"m"}}'
    play = [response(bad, 400, x_should_retry="true", retry_after_ms="5", **JSON)]
    said, requests = await answer_to("plain", play, [stream(HELLO)])
    assert (said.status, requests) == (200, 2)


async def test_a_retry_after_in_milliseconds_above_the_bound_is_told_and_not_waited_for() -> None:
    play = [response(OVERLOADED, 529, retry_after_ms="90000", **JSON)]
    said, requests = await answer_to("plain", play, retries=2, retry_after_max_s=10)

    assert (said.status, said.headers["retry-after"], requests) == (529, "90", 1)


# --- stale connections ---------------------------------------------------------------------------------------------

GOOD: dict[str, bytes] = dict.fromkeys(WAYS, stream(HELLO)) | {"whole": response(json.dumps(MESSAGE).encode(), **JSON)}


@pytest.mark.parametrize("end", [CLOSE, RESET])
@pytest.mark.parametrize("way", list(WAYS))
async def test_a_connection_that_was_closed_while_it_lay_unused_is_no_error(way: str, end: Any) -> None:
    """As it looks to us where Claude's side closes it just when the next request is on its way."""
    async with raw_upstream([GOOD[way]], [end], [GOOD[way]]) as upstream, behind(upstream, retries=0) as service:
        first, second = await asked(service, way), await asked(service, way)

    assert (first.status, second.status) == (200, 200)
    assert second.body.count(b"error") == 0
    assert (len(upstream.requests), upstream.connections) == (3, 2)


async def test_several_such_connections_are_no_error_and_cost_one_request_more() -> None:
    """All that lay unused are stale at once, as after a restart on Claude's side: the second time a new one is taken."""
    async with raw_upstream([response(b"{}", **JSON)]) as upstream, behind(upstream, retries=0) as service:
        upstream.plays = [[0.2, response(json.dumps(MESSAGE).encode(), **JSON)]]
        import asyncio

        await asyncio.gather(*(asked(service, "whole") for _ in range(4)))
        assert upstream.connections == 4
        sent = len(upstream.requests)
        upstream.plays = [*[[CLOSE]] * (sent + 1), [stream(HELLO)]]
        said = await asked(service, "messages")

    assert said.status == 200
    assert len(upstream.requests) == sent + 2


@pytest.mark.parametrize("way", ["messages", "whole"])
@pytest.mark.parametrize(
    "play",
    [[1.2, CLOSE], [b"HTTP/1.1 200 OK\r\ncontent-", CLOSE], [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", CLOSE]],
    ids=["late", "within the head", "within the body"],
)
async def test_what_claude_may_have_worked_on_is_not_sent_again(way: str, play: Play) -> None:
    async with raw_upstream([GOOD[way]], play, [GOOD[way]]) as upstream, behind(upstream, retries=0) as service:
        await asked(service, way)
        said = await asked(service, way)

    assert said.status == 502
    assert len(upstream.requests) == 2
