"""What an event weighs: the unit in which queues and batches are bounded is a byte, whatever the script."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.answer.events import OVERHEAD_BYTES, Delta


@pytest.mark.parametrize(
    ("characters", "text_bytes"),
    [("", 0), ("abc", 3), ("naïve", 6), ("漢字かな", 12), ("🙂", 4), ("a\ud83d", 4), ("\ude00", 3)],
)
def test_a_delta_weighs_its_text_as_utf_8_halves_of_a_pair_too(characters: str, text_bytes: int) -> None:
    delta = Delta(0, "text", characters)
    assert (delta.text_bytes, delta.size_bytes) == (text_bytes, text_bytes + OVERHEAD_BYTES)


@given(st.text())
def test_a_deltas_weight_is_what_it_takes_on_the_wire(characters: str) -> None:
    assert Delta(0, "text", characters).text_bytes == len(characters.encode())
