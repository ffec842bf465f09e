"""Usage cleansed where it enters: what is kept, what is left out and named, and what a later one changes."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.answer.usage import MOST, cleansed, count, merged, plain, word


def clean(usage: Any) -> tuple[dict[str, Any], list[str]]:
    names: list[str] = []
    return cleansed(usage, names.append), names


@pytest.mark.parametrize(("value", "counted"), [(0, 0), (7, 7), (7.0, 7), (MOST - 1, MOST - 1), (0.0, 0), (-0.0, 0)])
def test_a_whole_number_is_a_count_however_it_is_written(value: Any, counted: int) -> None:
    assert count(value) == counted
    assert type(count(value)) is int


@pytest.mark.parametrize(
    "value", [-1, -1.0, 0.5, MOST, 10**400, 1e300, math.nan, math.inf, -math.inf, True, False, "7", None, [], {}, [7]]
)
def test_anything_else_counts_nothing(value: Any) -> None:
    assert count(value) is None


def test_a_usage_of_the_api_passes_as_it_is() -> None:
    usage = {
        "input_tokens": 10,
        "cache_creation_input_tokens": None,
        "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 2},
        "server_tool_use": {"web_search_requests": 1},
        "output_tokens_details": {"thinking_tokens": 3},
        "service_tier": "standard",
        "iterations": [{"type": "message", "model": "claude-x", "input_tokens": 10, "output_tokens": 2}],
        "of_tomorrow": {"kind": ["x", 1, -0.5, True, None]},
    }
    assert clean(usage) == (usage, [])


def test_what_cannot_be_read_is_left_out_and_named() -> None:
    usage = {
        "input_tokens": -5,
        "output_tokens": "ten",
        "cache_read_input_tokens": math.nan,
        "cache_creation": 7,
        "output_tokens_details": "many",
        "server_tool_use": {"web_search_requests": [1], "web_fetch_requests": 2},
        "service_tier": ["batch"],
        "iterations": {"type": "message"},
        "of_tomorrow": math.inf,
        "of_the_day_after": [10**400],
    }
    readable, names = clean(usage)
    assert readable == {"server_tool_use": {"web_fetch_requests": 2}}
    assert names == [
        "usage.input_tokens", "usage.output_tokens", "usage.cache_read_input_tokens", "usage.cache_creation",
        "usage.output_tokens_details", "usage.server_tool_use.web_search_requests", "usage.service_tier",
        "usage.iterations", "usage.of_tomorrow", "usage.of_the_day_after",
    ]  # fmt: skip


def test_of_odd_iterations_the_others_stay() -> None:
    usage = {"iterations": [None, 7, {"type": ["x"], "input_tokens": 3, "output_tokens": -1}, {"type": "message"}]}
    readable, names = clean(usage)
    assert readable == {"iterations": [{"input_tokens": 3}, {"type": "message"}]}
    assert names == ["usage.iterations"] * 2 + ["usage.iterations.type", "usage.iterations.output_tokens"]


@pytest.mark.parametrize("usage", [7, "x", [], True, math.nan])
def test_a_usage_that_is_no_object_is_none(usage: Any) -> None:
    assert clean(usage) == ({}, ["usage"])


def test_no_usage_is_nothing_to_complain_of() -> None:
    assert clean(None) == ({}, [])


def deep(key: str | None, depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = [value] if key is None else {key: [value] if key == "iterations" else value}
    return value


@pytest.mark.parametrize("key", [None, "cache_creation", "iterations", "of_tomorrow"])
def test_what_is_nested_without_end_is_left_out(key: str | None) -> None:
    readable, names = clean({"of_tomorrow": deep(key, 900), "iterations": [deep(key, 900)], "input_tokens": 1})
    assert readable["input_tokens"] == 1
    assert names
    assert len(json.dumps(readable)) < 1000


def test_what_is_long_without_end_is_left_out() -> None:
    usage = {
        "iterations": [{"type": "message"}] * 2000,
        "of_tomorrow": [0] * 2000,
        "cache_creation": dict.fromkeys(map(str, range(2000)), 0),
    }
    assert clean(usage) == ({}, ["usage.iterations", "usage.of_tomorrow", "usage.cache_creation"])


def test_a_name_that_is_told_is_short() -> None:
    assert [len(name) for name in clean({"x" * 10_000 + "_tokens": -1})[1]] == [60]


def test_words_are_strings() -> None:
    names: list[str] = []
    assert [word(value, names.append, "model") for value in ("x", None, ["x"], 7)] == ["x", None, None, None]
    assert names == ["model", "model"]


def test_any_json_that_every_reader_takes_is_plain() -> None:
    names: list[str] = []
    assert plain({"a": [1, "b", None, True, 0.5]}, names.append, "x") == {"a": [1, "b", None, True, 0.5]}
    assert plain({"a": [math.nan]}, names.append, "x") is None
    assert names == ["x"]


# A later usage of the same answer.


def test_the_later_value_stands_since_each_is_cumulative() -> None:
    assert merged({"input_tokens": 10, "a": 1}, {"input_tokens": 4, "b": 2}) == {"input_tokens": 4, "a": 1, "b": 2}


def test_a_nought_at_the_end_erases_nothing() -> None:
    known = {"input_tokens": 2413, "server_tool_use": {"web_search_requests": 2}, "iterations": [{"type": "message"}]}
    later = {
        "input_tokens": 0, "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0}, "iterations": [],
        "cache_read_input_tokens": 0,
    }  # fmt: skip
    assert merged(known, later) == known | {
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0}, "cache_read_input_tokens": 0,
    }  # fmt: skip


def test_a_null_erases_nothing_and_is_filled() -> None:
    assert merged({"a": 1, "b": None}, {"a": None, "b": 2, "c": None}) == {"a": 1, "b": 2, "c": None}


def test_merging_changes_neither() -> None:
    known: dict[str, Any] = {"server_tool_use": {"web_search_requests": 1}}
    later: dict[str, Any] = {"server_tool_use": {"web_search_requests": 2}}
    merged(known, later)
    assert (known, later) == (
        {"server_tool_use": {"web_search_requests": 1}},
        {"server_tool_use": {"web_search_requests": 2}},
    )


FIELDS = [
    "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation",
    "ephemeral_1h_input_tokens", "server_tool_use", "web_search_requests", "output_tokens_details", "thinking_tokens",
    "iterations", "type", "model", "service_tier", "inference_geo", "speed", "of_tomorrow",
]  # fmt: skip
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=20,
)


@given(values, values)
def test_whatever_comes_every_reader_can_take_what_is_left(one: Any, two: Any) -> None:
    first, second = clean(one)[0], clean(two)[0]
    both = merged(first, second)
    for usage in (first, second, both):
        assert json.loads(msgspec.json.encode(usage)) == usage
        assert clean(usage) == (usage, [])
