"""What processes, streams and keys are called."""

from __future__ import annotations

import re

import pytest

from app.fleet.names import Keys, digest, id_prefix, new_incarnation, owner_of
from app.streams.terms import new_stream_id


def test_every_incarnation_has_a_name_of_its_own_and_its_streams_name_it() -> None:
    names = {new_incarnation() for _ in range(1000)}
    assert len(names) == 1000
    for name in names:
        assert re.fullmatch("[a-z2-7]{8}", name)
        assert owner_of(new_stream_id(id_prefix(12, name))) == name


@pytest.mark.parametrize(
    "stream_id",
    ["", "st0_x", "st0_abcdefgh", "st0_abcdefgh.", "st0_ABCDEFGH.x", "st0_abcdefgh.x}", "st0_abcdefgh.x/y", "xst0_abcdefgh.x",
     "st0_abcdefgh.x\n", "st0_abcdefg1.x"],
)  # fmt: skip
def test_no_other_id_names_an_owner(stream_id: str) -> None:
    assert owner_of(stream_id) is None


def test_an_id_made_without_a_fleet_names_no_owner() -> None:
    assert owner_of(new_stream_id()) is None


def test_all_that_one_process_writes_is_in_one_slot_of_a_cluster_and_callers_names_are_in_no_key() -> None:
    keys = Keys("slw")
    stream = keys.stream(id_prefix(0, "abcdefgh") + "x")
    tags = {re.search("{(.*?)}", key)[1] for key in (*stream, keys.lease("abcdefgh"), keys.place("abcdefgh"))}  # type: ignore[index]
    assert tags == {"abcdefgh"}
    assert len({*stream, keys.lease("abcdefgh"), keys.place("abcdefgh"), keys.secret, keys.born}) == 6
    assert "acme" not in keys.name("acme", "", "chat}1")
    assert len({keys.name(*of) for of in (("a", "", "1"), ("a", "", "2"), ("b", "", "2"), ("a", "u", "2"))}) == 4
    assert digest("\ud800") != digest("")
