"""A body's JSON is counted as it arrives, however it is cut; what is within strings does not count."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadRequest
from app.web.http.json_shape import MOST_DEPTH, JsonShape

VALUES = st.recursive(
    st.none() | st.text(alphabet='a",:[{}]\\é') | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='a",[\\'), inner),
    max_leaves=30,
)


def before_values(raw: bytes) -> int:
    """By the plainest count there is."""
    without = re.sub(rb'"(\\.|[^"\\])*"', b"", raw)
    return sum(without.count(sign) for sign in (b",", b":", b"[", b"{"))


def fits(raw: bytes, most: int, cuts: list[int]) -> bool:
    shape = JsonShape(most)
    places = sorted({0, *(cut % (len(raw) + 1) for cut in cuts), len(raw)})
    try:
        for start, end in zip(places, places[1:], strict=False):  # noqa: RUF007
            shape.feed(raw[start:end])
    except BadRequest:
        return False
    return True


@given(VALUES, st.lists(st.integers(0, 10_000)))
def test_values_are_counted_outside_strings_however_the_body_is_cut(value: Any, cuts: list[int]) -> None:
    raw = json.dumps(value, ensure_ascii=False).encode()
    count = before_values(raw)
    assert fits(raw, count, cuts)
    assert not count or not fits(raw, count - 1, cuts)


@given(st.binary(), st.lists(st.integers(0, 300)))
def test_what_is_no_json_is_counted_without_a_fault(raw: bytes, cuts: list[int]) -> None:
    fits(raw, 5, cuts)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"[":'])
def test_what_is_nested_without_end_is_refused(opening: bytes) -> None:
    with pytest.raises(BadRequest, match="more than 200 levels"):
        JsonShape(10**9).feed(opening * 100_000)


def test_siblings_and_strings_are_not_depth() -> None:
    shape = JsonShape(10**9)
    shape.feed(b"[" + b"[[]]," * 100_000 + b'"' + b"[" * 100_000 + b'"]')
    shape.feed(b"[" * MOST_DEPTH)
    with pytest.raises(BadRequest):
        shape.feed(b"[")


def test_a_backslash_between_two_slices_escapes_what_follows() -> None:
    for cut in range(12):
        assert fits(rb'["\\\",,,,\\"]', 1, [cut])
