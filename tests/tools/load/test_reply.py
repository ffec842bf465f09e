"""Responses taken apart as they come: however they are cut, by whichever protocol."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tools.load.figures import StreamEnd
from app.tools.load.protocols import CHAT, MESSAGES, PLAIN, PROTOCOLS, Protocol, Question, What
from app.tools.load.readers import end_of
from app.tools.load.reply import MAX_HEAD_BYTES, Garbled, Reply

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Stream-Id: s1\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(*frames: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames) + b"0\r\n\r\n"


WHOLE = HEAD + chunked(
    b": keep-alive\n",
    b'id: 1\ndata: {"text":"a word"}\n\n',
    b'id: 2\ndata: {"text":" a word word, and data: {\\"error\\":"}\n\n',
    b'id: 3\ndata: {"done":true}\n\n',
)


def fed(raw: bytes, cuts: list[int], protocol: Protocol = PLAIN, after_id: int = 0) -> Reply:
    reply = Reply(protocol, after_id, b"word")
    places = sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    for begin, end in pairwise(places):
        reply.feed(raw[begin:end])
    return reply


@given(cuts=st.lists(st.integers(0, 1000)))
def test_a_response_is_the_same_however_it_is_cut(cuts: list[int]) -> None:
    reply = fed(WHOLE, cuts)
    assert (reply.status, reply.headers["x-stream-id"]) == (200, "s1")
    assert (reply.contents, reply.words, reply.last_id, reply.misnumbered) == (2, 3, 3, 0)
    assert (reply.finished, reply.failed, reply.whole) == (True, False, True)
    assert end_of(reply) is StreamEnd.FINISHED


def test_a_response_can_come_byte_for_byte() -> None:
    assert end_of(fed(WHOLE, list(range(len(WHOLE))))) is StreamEnd.FINISHED


@pytest.mark.parametrize("length", range(len(HEAD), len(WHOLE)))
def test_a_response_that_is_cut_off_anywhere_is_not_complete(length: int) -> None:
    assert end_of(fed(WHOLE[:length], [])) is StreamEnd.CUT


@pytest.mark.parametrize("numbers", [(1, 3), (1, 1), (2, 1), (2,)])
def test_lost_repeated_and_disordered_frames_are_noticed(numbers: tuple[int, ...]) -> None:
    raw = HEAD + chunked(*(b'id: %d\ndata: {"text":"x"}\n\n' % number for number in numbers))
    assert end_of(fed(raw, [])) is StreamEnd.GARBLED


def test_a_resumed_stream_counts_on_from_where_it_was_lost() -> None:
    raw = HEAD + chunked(b'id: 8\ndata: {"text":"x"}\n\n', b'id: 9\ndata: {"done":true}\n\n')
    assert end_of(fed(raw, [], after_id=7)) is StreamEnd.FINISHED
    assert end_of(fed(raw, [], after_id=6)) is StreamEnd.GARBLED
    assert end_of(fed(raw, [], after_id=8)) is StreamEnd.GARBLED


@pytest.mark.parametrize(
    ("status", "end"),
    [(429, StreamEnd.REFUSED), (503, StreamEnd.REFUSED), (529, StreamEnd.REFUSED), (401, StreamEnd.REJECTED)],
)
def test_a_status_is_refused_or_rejected(status: int, end: StreamEnd) -> None:
    reply = fed(b"HTTP/1.1 %d X\r\ncontent-length: 2\r\nretry-after: 3\r\n\r\n{}" % status, [])
    assert (reply.whole, reply.headers["retry-after"]) == (True, "3")
    assert end_of(reply) is end


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"error":"all 5 streams are in use","type":"overloaded_error"}', "503 all 5 streams are in use"),
        (b'{"type":"error","error":{"type":"api_error","message":"no\\n  more"}}', "503 no more"),
        (b"<html>", "503"),
        (b"[1]", "503"),
        (b'{"error":{"message":7}}', "503"),
        (b'{"error":"' + b"x" * 9000, "503"),
        (json.dumps({"error": "x" * 500}).encode(), "503 " + "x" * 100),
    ],
)
def test_a_refusal_is_told_in_the_services_words(body: bytes, told: str) -> None:
    head = b"HTTP/1.1 503 X\r\ncontent-length: %d\r\n\r\n" % len(body)
    assert fed(head + body, list(range(0, len(head + body), 100))).refusal == told


def test_an_answer_that_is_let_in_is_no_refusal() -> None:
    assert fed(WHOLE, []).refusal == fed(b"", []).refusal == ""


def test_an_announcement_before_the_answer_is_not_the_answer() -> None:
    reply = fed(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + WHOLE, [30, 60])
    assert (reply.status, reply.contents) == (200, 2)
    assert end_of(reply) is StreamEnd.FINISHED


def test_what_follows_an_answer_is_none_of_it() -> None:
    assert end_of(fed(WHOLE + b"nonsense", [])) is StreamEnd.FINISHED
    assert fed(WHOLE + WHOLE, []).contents == 2
    assert fed(WHOLE + WHOLE, [len(WHOLE)]).contents == 2


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    reply = fed(b'HTTP/1.1 200 OK\r\n\r\ndata: {"text":"x"}\n\ndata: {"done":true}\n\n', [])
    assert (reply.contents, reply.finished, reply.whole) == (1, True, False)


def test_an_answer_without_body_is_whole_with_its_head() -> None:
    assert fed(b"HTTP/1.1 204 No Content\r\n\r\n", []).whole


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 ok\r\n\r\n",
        HEAD + b"zz\r\n",
        HEAD + b"f" * 100,
        HEAD + b"5\r\nhello, and more\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"a" * (MAX_HEAD_BYTES + 1),
    ],
)
def test_what_is_no_response_is_garbled(raw: bytes) -> None:
    with pytest.raises(Garbled):
        fed(raw, [])


def test_an_error_in_the_stream_is_a_failure() -> None:
    reply = fed(HEAD + chunked(b'id: 1\ndata: {"error":"x","type":"overloaded_error"}\n\n'), [])
    assert end_of(reply) is StreamEnd.FAILED


@pytest.mark.parametrize(
    ("protocol", "event", "what"),
    [
        (PLAIN, b'id: 1\ndata: {"thinking":"x"}', What.CONTENT),
        (PLAIN, b": keep-alive", What.OTHER),
        (MESSAGES, b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0}', What.CONTENT),
        (MESSAGES, b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0}', What.CONTENT),
        (MESSAGES, b'event: ping\ndata: {"type": "ping"}', What.OTHER),
        (MESSAGES, b'event: message_stop\ndata: {"type":"message_stop"}', What.LAST),
        (MESSAGES, b'event: error\ndata: {"type":"error","error":{}}', What.ERROR),
        (CHAT, b'data: {"type":"text-delta","id":"1","delta":"x"}', What.CONTENT),
        (CHAT, b'data: {"type":"finish"}', What.OTHER),
        (CHAT, b"id: 9\ndata: [DONE]", What.LAST),
        (CHAT, b'data: {"type":"error","errorText":"x"}', What.ERROR),
    ],
)
def test_events_are_told_apart(protocol: Protocol, event: bytes, what: What) -> None:
    assert protocol.what(event) is what


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))
def test_a_request_says_its_length_and_carries_the_key(protocol: Protocol) -> None:
    question = Question(protocol, "h:1", "Grüße", "m", 9, "secret", {"x-more": "1"}, "/base")
    head, _, body = question.ask("chat-1", resumable=False).partition(b"\r\n\r\n")
    assert head.startswith(f"POST /base{protocol.path} HTTP/1.1\r\n".encode())
    assert f"content-length: {len(body)}".encode() in head
    assert b"authorization: Bearer secret" in head
    assert b"x-more: 1" in head
    assert json.loads(body)["max_tokens"] == 9
    assert "secret" not in repr(question)
