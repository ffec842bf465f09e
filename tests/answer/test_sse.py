"""The SSE decoder against WHATWG HTML, section 9.2: under any split it says what the whole input says."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.answer.sse import (
    MAX_EVENT_LINES,
    NO_NAME,
    EventTooLarge,
    Settling,
    SseDecoder,
    begins_stream,
    numbered,
    settled,
)

# Pieces that matter to the grammar, so that random streams are full of near misses.
PIECES = [
    b"data: a", b"data:b", b"data:  c", b"data", b"data:", b"event: x", b"event:y", b"event: ", b"event", b"id: 1",
    b"retry: 5", b": note", b":", b"datax: 1", b" data: 2", b"data: :", b"data: \xe2\x82\xac", b"\xef\xbb\xbf", b"",
    b"\n", b"\n", b"\n\n", b"\r", b"\r\n", b"\r\n\r\n", b"\r\r", b"\n\r", b"\x00",
]  # fmt: skip

streams = st.lists(st.sampled_from(PIECES) | st.binary(max_size=3)).map(b"".join)
cuts = st.lists(st.integers(0, 200), max_size=12)


def by_the_book(stream: bytes) -> list[tuple[bytes, bytes]]:
    """Section 9.2.6, line by line, on the whole input: the reference that is simple because it is slow."""
    stream = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[tuple[bytes, bytes]] = []
    name, data = b"", b""
    for line in stream.split(b"\n")[:-1]:
        if not line:
            if data:
                events.append((name or b"message", data.removesuffix(b"\n")))
            name, data = b"", b""
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            name = value
        elif field == b"data":
            data += value + b"\n"
    return events


def decoded(chunks: list[bytes]) -> list[tuple[bytes, bytes]]:
    decoder = SseDecoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def split(stream: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(stream)) for place in at), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


@settings(deadline=None)
@given(streams, cuts)
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [8, 9, 10])
@example(b"data: a\r\r\ndata: b\n\n", [8, 9])
@example(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", [1, 2, 3, 4])
@example(b"event: \ndata: a\n\nevent: x\ndata: \n\nevent: x\ndata: a\nevent: y\n\n", [])
def test_any_split_gives_what_the_specification_says_of_the_whole(stream: bytes, at: list[int]) -> None:
    assert decoded(split(stream, at)) == by_the_book(stream)


@settings(deadline=None)
@given(streams)
def test_one_byte_at_a_time_gives_the_same(stream: bytes) -> None:
    assert decoded([bytes([byte]) for byte in stream]) == by_the_book(stream)


lines = st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b"").replace(b"\r", b""))


@settings(deadline=None)
@given(
    st.lists(st.tuples(lines.filter(bool), st.lists(lines, min_size=1, max_size=3))),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.booleans(),
    cuts,
)
def test_what_was_encoded_comes_back(
    events: list[tuple[bytes, list[bytes]]], end: bytes, bom: bool, at: list[int]
) -> None:
    stream = b"\xef\xbb\xbf" if bom else b""
    for name, data in events:
        stream += b"event: " + name + end + b"".join(b"data: " + line + end for line in data) + end
    assert decoded(split(stream, at)) == [(name, b"\n".join(data)) for name, data in events]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [(b"message", b"a")]),
        (b"event: x\ndata: a\n\n", [(b"x", b"a")]),
        (b"event: x\ndata: a\ndata: b\n\n", [(b"x", b"a\nb")]),
        (b"data: a\nevent: x\n\n", [(b"x", b"a")]),
        (b"data:a\n\ndata: a\n\ndata:  a\n\n", [(b"message", b"a"), (b"message", b"a"), (b"message", b" a")]),
        (b"data\n\ndata\ndata\n\ndata:", [(b"message", b""), (b"message", b"\n")]),  # an example of the specification
        (b"event: x\ndata: \n\n", [(b"x", b"")]),
        (b"event: \ndata: a\n\n", [(b"message", b"a")]),
        (b"event: x\n\ndata: a\n\n", [(b"message", b"a")]),  # a name without data does not outlive its block
        (b": note\n\ndata: a\n: note\nid: 1\nretry: 2\n\n", [(b"message", b"a")]),
        (b"\n\n\ndata: a\n\n\n\n", [(b"message", b"a")]),
        (b"data: a\n\ndata: cut", [(b"message", b"a")]),
        (b"data: a\n\ndata: cut\n", [(b"message", b"a")]),
        (b"", []),
    ],
)
def test_the_cases_of_the_specification(stream: bytes, events: list[tuple[bytes, bytes]]) -> None:
    assert decoded([stream]) == events


def test_an_event_is_given_as_soon_as_its_last_byte_is_there() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: a\n") == []
    assert decoder.feed(b"\n") == [(b"message", b"a")]
    assert decoder.feed(b"data: b\r\n\r") == [(b"message", b"b")]
    assert decoder.feed(b"\ndata: c\n\n") == [(b"message", b"c")]


def test_a_byte_order_mark_is_dropped_at_the_start_only() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"\xef") == decoder.feed(b"") == decoder.feed(b"\xbb") == []
    assert decoder.feed(b"\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n") == [(b"message", b"a")]


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 20))
def test_an_event_without_an_end_is_refused_above_the_bound(bound: int, size: int, chunk: int) -> None:
    decoder = SseDecoder(max_event_bytes=bound)
    stream = b"x" * size
    held = 0
    for start in range(0, size, chunk):
        piece = stream[start : start + chunk]
        held += len(piece)
        if held > bound:
            with pytest.raises(EventTooLarge, match=f"above {bound} bytes"):
                decoder.feed(piece)
            return
        assert decoder.feed(piece) == []


def test_the_bound_is_for_one_event_not_for_the_stream() -> None:
    decoder = SseDecoder(max_event_bytes=16)
    for _ in range(100):
        assert decoder.feed(b"data: 1234") == []
        assert decoder.feed(b"56\n\n") == [(b"message", b"123456")]


def test_the_bound_counts_what_is_held_after_a_byte_order_mark_and_whole_events() -> None:
    decoder = SseDecoder(max_event_bytes=4)
    assert decoder.feed(b"\xef\xbb") == []
    assert decoder.feed(b"\xbfdata: long enough\n\nabcd") == [(b"message", b"long enough")]
    with pytest.raises(EventTooLarge):
        decoder.feed(b"e")


def test_a_frame_is_numbered_in_front_and_still_one_event() -> None:
    assert numbered(7, b"data: a\n\n") == b"id: 7\ndata: a\n\n"
    assert decoded([numbered(7, b"data: a\n\n")]) == [(b"message", b"a")]


@pytest.mark.parametrize(
    ("said", "begins"),
    [
        (b"", None),
        (b"\n\r\n", None),
        (b": hello", None),
        (b": hello\ndat", None),
        (b"\xef\xbb", None),
        (b"\xef\xbb\xbfdata", None),
        (b"data:", True),
        (b": hello\rid: 1", True),
        (b"retry: 9", True),
        (b"\xef\xbb\xbf\n\nevent: x", True),
        (b"data\n", False),
        (b"database: gone", False),
        (b" data: x", False),
        (b'{"data": 1}', False),
        (b": hello\n\n<html>", False),
    ],
)
def test_a_body_is_a_stream_by_its_first_line_that_says_anything(said: bytes, begins: bool | None) -> None:
    assert begins_stream(said) is begins


@pytest.mark.parametrize("line", [b": comment\n", b"data:\n", b"id: 1\r\n", b"x\n"])
def test_an_event_has_so_many_lines_and_no_more(line: bytes) -> None:
    """Ten million of them would hold all other streams for seconds."""
    decoder = SseDecoder()
    for _ in range(MAX_EVENT_LINES // 1024):
        assert decoder.feed(line * 1024) == []
    with pytest.raises(EventTooLarge, match="lines"):
        decoder.feed(line)


def test_lines_of_events_that_have_ended_do_not_count() -> None:
    decoder = SseDecoder()
    assert len(decoder.feed(b"data: 1\n\n" * MAX_EVENT_LINES)) == MAX_EVENT_LINES
    assert decoder.feed(b": comment\n" * (MAX_EVENT_LINES - 1)) == []
    assert decoder.feed(b"data: 2\n\n") == [(NO_NAME, b"2")]
    assert decoder.feed(b": comment\n" * MAX_EVENT_LINES) == []


@pytest.mark.parametrize(
    ("said", "left"),
    [
        (b"", b""),
        (b"id: 1\ndata: {}\n\n", b""),
        (b"id: 1\ndata: {}\n\nid: 2\ndata", b"id: 2\ndata"),
        (b": keep-alive\n", b""),
        (b": keep-al", b": keep-al"),
        (b": keep-alive\n: keep-alive\n:", b":"),
        (b"id: 1\ndata: {}\n\n: keep-alive\n", b""),
        (b"id: 1\ndata: {}\n\n: keep-alive\nid: 2\n", b"id: 2\n"),
        (b": keep-alive\nid: 2\ndata: {}\n\nid", b"id"),
        (b"id: 1\n: within an event\n", b"id: 1\n: within an event\n"),
    ],
)
def test_all_but_an_event_that_has_begun_is_settled(said: bytes, left: bytes) -> None:
    assert settled(said) == (said[: len(said) - len(left)], left)


@given(
    st.lists(st.sampled_from([b"id: 1\ndata: {}\n\n", b": keep-alive\n", b"data: a\n: b\ndata: c\n\n"]), max_size=8),
    st.data(),
)
def test_whatever_it_is_split_into_nothing_whole_is_kept_back(parts: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(parts)
    ends = {0, *itertools.accumulate(map(len, parts))}
    gone, at, settling = b"", 0, Settling()
    while at < len(stream):
        until = data.draw(st.integers(at + 1, len(stream)))
        gone, at = gone + settling.feed(stream[at:until]), until
        assert len(gone) == max(end for end in ends if end <= at)
    assert gone == stream


@pytest.mark.parametrize("packet", [b"x" * 64, b":" * 64, b"data: x\n" * 8, b":\ndata: x\n" + b"x" * 54])
def test_no_more_of_what_is_not_settled_is_held_than_an_event_may_be(packet: bytes) -> None:
    settling = Settling(64 * 16)
    for _ in range(16):
        assert settling.feed(packet) in (b"", b":\n")  # the first one's comment
    with pytest.raises(EventTooLarge):
        settling.feed(packet)


def test_what_is_settled_is_not_held() -> None:
    assert len(Settling(1024).feed(b"data: x\n\n" * 1024)) == 9 * 1024
