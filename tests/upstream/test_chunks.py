"""Whole chunks of HTTP's chunked coding give their body; anything else gives nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.upstream.chunks import whole_chunks

bodies = st.lists(st.binary(min_size=1, max_size=300), max_size=8)


def coded(*bodies: bytes, size: str = "%x") -> bytes:
    return b"".join((size % len(body)).encode() + b"\r\n" + body + b"\r\n" for body in bodies)


@given(bodies, st.sampled_from(["%x", "%X", "%08x"]))
def test_whole_chunks_give_their_body(bodies: list[bytes], size: str) -> None:
    assert whole_chunks(coded(*bodies, size=size)) == b"".join(bodies)


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=8), st.data())
def test_a_cut_gives_nothing_unless_it_is_between_two_chunks(bodies: list[bytes], data: st.DataObject) -> None:
    whole = coded(*bodies)
    place = data.draw(st.integers(0, len(whole)))
    ends = {len(coded(*bodies[:count])): count for count in range(len(bodies) + 1)}
    expected = b"".join(bodies[: ends[place]]) if place in ends else None
    assert whole_chunks(whole[:place]) == expected


@pytest.mark.parametrize(
    "data",
    [
        b"0\r\n\r\n",
        coded(b"last") + b"0\r\n\r\n",
        b"4;name=value\r\nabcd\r\n",
        b"0x4\r\nabcd\r\n",
        b"+4\r\nabcd\r\n",
        b"1_0\r\n" + b"a" * 16 + b"\r\n",
        b"4\nabcd\n",
        b"4\r\nabcde\r\n",
        b"000000004\r\nabcd\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_anything_else_gives_nothing(data: bytes) -> None:
    assert whole_chunks(data) is None


@given(st.binary(max_size=200))
def test_what_is_taken_for_chunks_is_them(data: bytes) -> None:
    body = whole_chunks(data)
    assert body is None or len(body) <= len(data)
