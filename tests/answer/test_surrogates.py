"""Halves of surrogate pairs: put together where they belong together, and carried or replaced where they do not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.answer.events import Delta
from app.answer.surrogates import ends_in_half, mended, paired
from app.answer.tally import Tally
from app.answer.transcript import Transcript

halves = st.text(st.sampled_from("\ud83d\ude00a😀é"), max_size=8)


@pytest.mark.parametrize(
    ("text", "whole", "replaced", "half"),
    [
        ("", "", "", False),
        ("a", "a", "a", False),
        ("\ud83d\ude00", "😀", "😀", False),
        ("😀\ud83d", "😀\ud83d", "😀\ufffd", True),
        ("\ude00\ud83d", "\ude00\ud83d", "\ufffd\ufffd", True),
        ("\ude00", "\ude00", "\ufffd", False),
    ],
)
def test_what_becomes_of_halves(text: str, whole: str, replaced: str, half: bool) -> None:
    assert (paired(text), mended(text), ends_in_half(text)) == (whole, replaced, half)


@given(halves)
def test_any_encoding_carries_what_is_mended(text: str) -> None:
    assert mended(text).encode().decode() == mended(text)
    assert len(mended(text)) == len(paired(text))


@given(st.lists(halves, max_size=5))
def test_characters_count_the_same_however_their_pairs_are_split(parts: list[str]) -> None:
    apart, together = Tally(), Tally()
    for part in parts:
        apart.see(Delta(0, "text", part))
    together.see(Delta(0, "text", paired("".join(parts))))

    assert (apart.chars, apart.wide_chars) == (together.chars, together.wide_chars)
    assert sum(Delta(0, "text", part).chars for part in parts) == together.chars["text"]


def test_a_transcript_can_be_sent_whatever_was_said() -> None:
    transcript = Transcript()
    for text in ("a\ud83d", "\ude00b", "\ud83d"):
        transcript.see(Delta(0, "text", text))

    assert transcript.text == "a😀b\ufffd"
