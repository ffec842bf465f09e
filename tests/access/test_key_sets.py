"""When an issuer's published keys are asked for, and how seldom."""

from __future__ import annotations

import pytest

from app.access.key_sets import KeySets, KeysNeeded
from app.errors import KeysUnreachable, Unauthorized

URL = "https://team.example/jwks"


def needs(sets: KeySets, key_id: str, now: float) -> bool:
    try:
        sets.key(URL, key_id, now)
    except KeysNeeded:
        return True
    except (Unauthorized, KeysUnreachable):
        return False
    return False


def test_a_flood_of_ids_asks_again_once_in_30_s() -> None:
    sets = KeySets()
    asked = 0
    for tenth in range(1000):  # a hundred seconds
        now = tenth / 10
        if needs(sets, f"made-up-{tenth}", now):
            asked += 1
            sets.fetched(URL, {"real": 1}, None, now)
        assert sets.key(URL, "real", now) == 1
    assert asked == 4


def test_a_new_key_is_found_once_it_is_asked_for_again() -> None:
    sets = KeySets()
    sets.fetched(URL, {"old": 1}, None, 0)
    with pytest.raises(Unauthorized, match="not known to its issuer"):
        sets.key(URL, "new", 29)
    assert needs(sets, "new", 30)
    sets.fetched(URL, {"old": 1, "new": 2}, None, 30)
    assert sets.key(URL, "new", 30) == 2


@pytest.mark.parametrize(("max_age_s", "kept_s"), [(None, 3600), (0, 60), (1e9, 86_400), (600, 600)])
def test_a_set_is_kept_as_long_as_it_says_within_bounds(max_age_s: float | None, kept_s: float) -> None:
    sets = KeySets()
    sets.fetched(URL, {"k": 1}, max_age_s, 0)
    assert not needs(sets, "k", kept_s - 1)
    assert needs(sets, "k", kept_s)


def test_while_the_issuer_is_away_its_keys_stand_for_a_day_and_it_is_asked_every_5_s() -> None:
    sets = KeySets()
    sets.fetched(URL, {"k": 1}, 60, 0)
    assert needs(sets, "k", 60)
    sets.failed(URL, 60)
    assert sets.key(URL, "k", 64) == 1
    assert needs(sets, "k", 65)
    sets.failed(URL, 86_399)
    assert sets.key(URL, "k", 86_399) == 1
    sets.failed(URL, 86_400)
    with pytest.raises(KeysUnreachable) as away:
        sets.key(URL, "k", 86_400)
    assert (away.value.status, away.value.retry_after_s) == (503, 5.0)


def test_whoever_comes_second_does_not_ask_again() -> None:
    sets = KeySets()
    assert sets.may_ask(URL, 0)
    sets.fetched(URL, {"k": 1}, None, 0)
    assert not sets.may_ask(URL, 29)
    assert sets.may_ask("https://another.example", 0)
