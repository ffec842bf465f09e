"""A proof is for one request to one process."""

from __future__ import annotations

import pytest

from app.fleet.names import id_prefix, owner_of
from app.fleet.proof import is_marked, is_proof, mark, proof
from app.streams.terms import new_stream_id

GIVEN = (b"secret" * 6, "abcdefgh", "GET", "/api/stream/x?credits=1")


def test_a_proof_is_taken_for_what_it_was_made_for() -> None:
    assert is_proof(proof(*GIVEN), *GIVEN)


@pytest.mark.parametrize("place", range(4))
def test_and_for_nothing_else(place: int) -> None:
    other = [*GIVEN]
    other[place] = b"another" * 6 if place == 0 else "other"
    assert not is_proof(proof(*GIVEN), *other)  # type: ignore[arg-type]
    assert not is_proof("", *GIVEN)
    assert not is_proof("\udcff", *GIVEN)


def test_an_id_is_told_from_one_that_somebody_made_up() -> None:
    secret, plain = GIVEN[0], new_stream_id(id_prefix(0, "abcdefgh"))
    stream_id = plain + mark(secret, plain)
    assert owner_of(stream_id) == "abcdefgh"
    assert is_marked(stream_id, secret)
    assert not is_marked(stream_id, b"another" * 6)
    for other in (plain, stream_id[:-1], f"{stream_id}x", stream_id.replace("abcdefgh", "abcdefga"), "st0_abcdefgh.x"):
        assert not is_marked(other, secret)


def test_a_mark_is_the_same_in_every_version_of_a_fleet() -> None:
    for _ in range(2):
        assert mark(GIVEN[0], "st0_abcdefgh.x") == "DkxodBTI8R1d"
        assert mark(b"another" * 6, "st0_abcdefgh.x") != "DkxodBTI8R1d"
