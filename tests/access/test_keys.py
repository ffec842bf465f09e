"""Who may call: keys in both headers."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.access.keys import Keys
from app.errors import Unauthorized

KEYS = Keys(["first-key", "second-key"])


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-key"},
        {"Authorization": "bearer first-key"},
        {"Authorization": "BEARER   first-key "},
        {"x-api-key": "first-key"},
        {"Authorization": "Basic dXNlcjpwYXNz", "x-api-key": "first-key"},
        {"Authorization": "Bearer first-key", "x-api-key": "unknown"},
    ],
)
def test_a_known_key_is_taken_as_bearer_and_as_x_api_key(headers: dict[str, str]) -> None:
    assert KEYS.check(headers) == KEYS.check({"x-api-key": "first-key"})


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, "a key is needed"),
        ({"Authorization": ""}, "a key is needed"),
        ({"Authorization": "Bearer"}, "a key is needed"),
        ({"Authorization": "Bearer  "}, "a key is needed"),
        ({"Authorization": "first-key"}, "a key is needed"),
        ({"Authorization": "Basic first-key"}, "a key is needed"),
        ({"x-api-key": ""}, "a key is needed"),
        ({"Authorization": "Bearer unknown"}, "not known"),
        ({"Authorization": "Bearer unknown", "x-api-key": "first-key"}, "not known"),
        ({"x-api-key": "first-key2"}, "not known"),
        ({"x-api-key": "First-key"}, "not known"),
        ({"x-api-key": "first-ke"}, "not known"),
        ({"x-api-key": "\udcff\udcfe"}, "not known"),  # bytes that are no UTF-8, as aiohttp hands them on
    ],
)
def test_no_key_or_an_unknown_one_is_refused_without_repeating_it(headers: dict[str, str], told: str) -> None:
    with pytest.raises(Unauthorized, match=told) as refused:
        KEYS.check(headers)
    assert refused.value.status == 401
    assert "unknown" not in str(refused.value)
    assert "first" not in str(refused.value)


def test_a_key_that_is_no_utf8_is_a_key_like_any_other() -> None:
    assert Keys(["k\udcff"]).check({"x-api-key": "k\udcff"})


def test_callers_are_told_apart_by_names_that_give_no_key_away() -> None:
    first, second = KEYS.check({"x-api-key": "first-key"}), KEYS.check({"x-api-key": "second-key"})
    assert first != second
    assert "key" not in first
    assert first == Keys(["first-key"]).check({"Authorization": "Bearer first-key"})  # the same after a restart


def test_without_keys_anyone_may_call() -> None:
    assert not Keys([])
    assert KEYS
    assert Keys([]).check({}) == Keys([]).check({"x-api-key": "whatever"}) == ""


@pytest.mark.parametrize("given_key", ["first-key", "third-key", "unknown"])
def test_every_key_is_compared_in_constant_time_whichever_is_given(
    given_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []
    real = hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    keys = Keys(["first-key", "second-key", "third-key"])
    try:
        keys.check({"x-api-key": given_key})
    except Unauthorized:
        assert given_key == "unknown"
    digest = hashlib.sha256(given_key.encode()).digest()
    assert len(compared) == 3
    assert all(a == digest and len(b) == 32 for a, b in compared)


def test_no_repr_shows_a_key() -> None:
    assert "first" not in repr(KEYS)
    assert "first" not in str(vars(KEYS))


printable = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)


@settings(deadline=None)
@given(st.lists(printable, min_size=1, max_size=4), printable)
def test_only_a_configured_key_is_let_in(configured: list[str], tried: str) -> None:
    try:
        Keys(configured).check({"Authorization": f"Bearer {tried}"})
    except Unauthorized:
        assert tried not in configured
    else:
        assert tried in configured
