"""The SSE decoder against WHATWG HTML, section 9.2: under any split it says what the whole input says."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.answer.sse import EventTooLarge, SseDecoder, begins_stream, numbered

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
