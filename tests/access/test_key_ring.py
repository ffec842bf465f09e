"""Whose a made key is: unknown, wrong, expired and revoked ones are nobody's."""

from __future__ import annotations

import hmac
from dataclasses import replace

import pytest

from app.access.key_form import Key, new_key
from app.access.key_ring import KeyRecord, KeyRing, digest_of
from app.errors import Unauthorized

PEPPER = b"p" * 32
KEY = new_key()
RECORD = KeyRecord(KEY.key_id, "acme", digest_of(KEY, PEPPER), created_at=100)
RING = KeyRing.of([RECORD], PEPPER)


def test_a_key_is_its_callers() -> None:
    assert RING.record(KEY, 200) is RECORD


def test_an_unknown_key_one_of_the_same_id_and_one_under_another_pepper_are_nobodys() -> None:
    assert RING.record(new_key(), 200) is None
    assert RING.record(Key(KEY.key_id, new_key().text), 200) is None
    assert KeyRing.of([RECORD], b"q" * 32).record(KEY, 200) is None


@pytest.mark.parametrize(
    ("changed", "at", "told"),
    [
        ({"expires_at": 200}, 199.9, None),
        ({"expires_at": 200}, 200, "has expired"),
        ({"revoked_at": 200}, 200, "was revoked"),
        ({"revoked_at": 201}, 200, None),
        ({"expires_at": 150, "revoked_at": 160}, 200, "was revoked"),
    ],
)
def test_one_that_ended_is_refused_from_that_second_on(changed: dict[str, int], at: float, told: str | None) -> None:
    ring = KeyRing.of([replace(RECORD, **changed)], PEPPER)  # type: ignore[arg-type]
    if told is None:
        assert ring.record(KEY, at) is not None
        return
    with pytest.raises(Unauthorized, match=told) as refused:
        ring.record(KEY, at)
    assert KEY.text[13:] not in str(refused.value)


def test_who_has_not_the_key_is_not_told_that_it_ended() -> None:
    ring = KeyRing.of([replace(RECORD, revoked_at=1)], PEPPER)
    assert ring.record(Key(KEY.key_id, new_key().text), 200) is None


def test_an_unknown_id_costs_as_much_as_a_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    real = hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    for key in (KEY, new_key()):
        RING.record(key, 200)
    assert [len(a) == len(b) == 32 for a, b in compared] == [True, True]


def test_no_repr_shows_a_digest_or_the_pepper() -> None:
    assert RECORD.digest.hex() not in repr(RING)
    assert repr(RECORD.digest) not in repr(RING)
    assert "ppp" not in repr(RING)
