"""What a key looks like, and how a typing error is told from an unknown key."""

from __future__ import annotations

import re
import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.access.key_form import new_key, parse_key

KEY = new_key()
FORM = r"slw_[0-9A-Za-z]{8}_[0-9A-Za-z]{36}"


def test_a_new_key_has_the_form_and_can_be_read() -> None:
    assert re.fullmatch(FORM, KEY.text)
    read = parse_key(KEY.text)
    assert read == KEY
    assert KEY.key_id == KEY.text[4:12]


def test_its_end_is_the_crc_32_of_all_before_in_base_62() -> None:
    digits = string.digits + string.ascii_uppercase + string.ascii_lowercase
    value = 0
    for digit in KEY.text[-6:]:
        value = value * 62 + digits.index(digit)
    assert value == zlib.crc32(KEY.text[:-6].encode())


def test_no_two_keys_are_the_same() -> None:
    assert len({new_key().text for _ in range(1000)}) == len({new_key().key_id for _ in range(1000)}) == 1000


@given(st.integers(0, len(KEY.text) - 1), st.sampled_from(string.ascii_letters + string.digits + "_-é\n\udcff"))
def test_one_wrong_character_makes_it_none(place: int, other: str) -> None:
    text = KEY.text[:place] + other + KEY.text[place + 1 :]
    assert (parse_key(text) is None) == (text != KEY.text)


@pytest.mark.parametrize(
    "text",
    ["", "slw_", KEY.text[:-1], f"{KEY.text}0", f" {KEY.text}", f"{KEY.text}\n", "sk-ant-x"],
    ids=["empty", "beginning", "cut", "longer", "space", "line", "foreign"],  # every process of a run has other keys
)
def test_what_has_not_the_form_is_none(text: str) -> None:
    assert parse_key(text) is None


def test_no_repr_shows_a_key() -> None:
    assert KEY.text[13:] not in repr(KEY)
