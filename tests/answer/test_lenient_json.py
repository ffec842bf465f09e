"""JSON that comes all the same."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.answer.lenient_json import TooDeep, read_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


@given(values)
def test_json_is_read_as_it_was_written(value: object) -> None:
    assert read_json(json.dumps(value).encode()) == value


def test_what_the_standard_does_not_allow_is_read_too() -> None:
    read = read_json(
        b'{"a": NaN, "b": Infinity, "c": -Infinity, "d": "\\ud83d", "e": %b, "f": -%b}' % (b"9" * 400, b"9" * 9000)
    )
    assert math.isnan(read["a"])
    assert (read["b"], read["c"], read["d"], read["e"], read["f"]) == (
        math.inf,
        -math.inf,
        "\ud83d",
        10**400 - 1,
        math.inf,
    )


@pytest.mark.parametrize("raw", [b"", b"{", b"<html>", b'{"a": 1} x', b'"\xff"', b"[" * 100_000, b'{"a":' * 100_000])
def test_anything_else_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds, which callers do not tell apart
        read_json(raw)


@pytest.mark.parametrize("part", [b'{"a":{}}', b"1", b"[]", b'"a"'])
def test_what_has_more_parts_than_anyone_would_write_is_not_read(part: bytes) -> None:
    with pytest.raises(TooDeep, match="too many parts"):
        read_json(b"[" + b",".join([part] * 600_000) + b"]")


def test_a_long_text_with_all_its_commas_is_read() -> None:
    text = "word, " * 400_000
    assert read_json(json.dumps([text]).encode()) == [text]
