"""A proof is for one request to one process."""

from __future__ import annotations

import pytest

from app.fleet.proof import is_proof, proof

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
