"""Who calls: keys in both headers, and what the callers file says of whoever has them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.access.callers import Caller, Roster
from app.access.guard import Guard, Known
from app.access.key_form import new_key
from app.access.key_ring import KeyRecord, KeyRing, digest_of
from app.errors import Unauthorized

GUARD = Guard(["acme:first-key", "second-key"])


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
    assert GUARD.identify(headers, 0).name == "acme"


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
        ({"x-api-key": "acme:first-key"}, "not known"),
        ({"x-api-key": "\udcff\udcfe"}, "not known"),  # bytes that are no UTF-8, as aiohttp hands them on
    ],
)
def test_no_key_or_an_unknown_one_is_refused_without_repeating_it(headers: dict[str, str], told: str) -> None:
    with pytest.raises(Unauthorized, match=told) as refused:
        GUARD.identify(headers, 0)
    assert refused.value.status == 401
    assert "unknown" not in str(refused.value)
    assert "first" not in str(refused.value)


def test_with_neither_keys_nor_a_callers_file_anyone_may_call_and_is_not_bounded() -> None:
    guard = Guard()
    assert not guard.demands_keys
    assert guard.identify({}, 0) == guard.identify({"x-api-key": "whatever"}, 0) == Caller()


def test_with_a_callers_file_a_key_is_demanded_even_where_there_is_none() -> None:
    guard = Guard((), Known())
    assert guard.demands_keys
    with pytest.raises(Unauthorized):
        guard.identify({}, 0)


def test_a_caller_may_what_its_table_says_and_one_without_a_table_what_the_default_says() -> None:
    acme, default = Caller(name="acme", max_tokens=7), Caller(max_tokens=9)
    guard = Guard(["acme:first", "other:second", "bare"], Known(Roster({"acme": acme}, default)))
    assert guard.identify({"x-api-key": "first"}, 0) is acme
    assert guard.identify({"x-api-key": "second"}, 0) == replace(default, name="other")
    bare = guard.identify({"x-api-key": "bare"}, 0)
    assert (len(bare.name), bare.max_tokens) == (16, 9)


def test_what_is_replaced_holds_from_the_next_request_on() -> None:
    guard = Guard(["acme:old"])
    guard.replace(["acme:new"])
    guard.learn(Known(Roster({"acme": Caller(name="acme", streams=1)})))
    assert guard.identify({"x-api-key": "new"}, 0).streams == 1
    with pytest.raises(Unauthorized):
        guard.identify({"x-api-key": "old"}, 0)


def test_a_made_key_is_its_callers_while_that_caller_is_in_the_file() -> None:
    key, stranger = new_key(), new_key()
    ring = KeyRing.of([KeyRecord(key.key_id, "acme", digest_of(key, b"p"), 1)], b"p")
    used: list[tuple[str, float]] = []
    guard = Guard(
        [],
        Known(Roster({"acme": Caller(name="acme", streams=3)}), ring),
        lambda record, now: used.append((record.key_id, now)),
    )
    assert guard.identify({"Authorization": f"Bearer {key.text}"}, 5.0).streams == 3
    with pytest.raises(Unauthorized, match="not known"):
        guard.identify({"x-api-key": stranger.text}, 6.0)
    guard.learn(Known(Roster(), ring))
    with pytest.raises(Unauthorized, match="not known"):
        guard.identify({"x-api-key": key.text}, 7.0)
    assert used == [(key.key_id, 5.0)]
