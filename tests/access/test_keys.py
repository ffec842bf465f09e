"""The keys that a setting names: each a caller of its own, or a named caller's."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.access.keys import Keys

KEYS = Keys(["first-key", "second-key"])


@pytest.mark.parametrize("given_key", ["first-key2", "First-key", "first-ke", "", "\udcff\udcfe"])
def test_another_key_is_nobodys(given_key: str) -> None:
    assert KEYS.caller_of(given_key) is None


def test_a_key_that_is_no_utf8_is_a_key_like_any_other() -> None:
    assert Keys(["k\udcff"]).caller_of("k\udcff")


def test_callers_are_told_apart_by_names_that_give_no_key_away() -> None:
    first, second = KEYS.caller_of("first-key"), KEYS.caller_of("second-key")
    assert first is not None
    assert first != second
    assert "key" not in first
    assert first == Keys(["first-key"]).caller_of("first-key")  # the same after a restart
    assert first == hashlib.sha256(b"first-key").hexdigest()[:16]  # and after an upgrade


def test_several_keys_of_one_name_are_one_caller() -> None:
    keys = Keys(["acme:old", "acme:new", "other:third"])
    assert [keys.caller_of(key) for key in ("old", "new", "third", "acme:old")] == ["acme", "acme", "other", None]


@pytest.mark.parametrize("whole", ["-acme:key", "a b:key", "acme:", ":key", "é:key", "a" * 65 + ":key"])
def test_what_is_no_name_before_a_colon_is_part_of_the_key(whole: str) -> None:
    keys = Keys([whole])
    assert keys.caller_of(whole) == hashlib.sha256(whole.encode()).hexdigest()[:16]
    assert keys.caller_of("key") is None


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
    found = Keys(["first-key", "second-key", "third-key"]).caller_of(given_key)
    assert (found is None) == (given_key == "unknown")
    digest = hashlib.sha256(given_key.encode()).digest()
    assert len(compared) == 3
    assert all(a == digest and len(b) == 32 for a, b in compared)


def test_no_repr_shows_a_key() -> None:
    assert "first" not in repr(KEYS)
    assert "first" not in str(vars(KEYS))


printable = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"), min_size=1, max_size=12)


@settings(deadline=None)
@given(st.lists(printable, min_size=1, max_size=4), printable)
def test_only_a_configured_key_is_somebodys(configured: list[str], tried: str) -> None:
    assert (Keys(configured).caller_of(tried) is not None) == (tried in configured)


def test_a_key_has_an_id_that_is_worth_nothing_without_the_pepper() -> None:
    keys = Keys(["acme:old", "bare"])
    told = keys.id_of("old", b"pepper")
    assert told is not None
    assert (keys.caller_of_id(told, b"pepper"), keys.caller_of_id(told, b"another")) == ("acme", None)
    assert hashlib.sha256(b"old").hexdigest()[:16] not in told
    assert keys.caller_of_id(keys.id_of("bare", b"pepper") or "", b"pepper") == keys.caller_of("bare")
    assert (keys.id_of("unknown", b"pepper"), Keys([]).caller_of_id(told, b"pepper")) == (None, None)
