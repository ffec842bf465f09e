"""The text of a running answer: whole up to its bound, and nothing beyond it."""

from __future__ import annotations

import pytest

from app.answer.events import Delta, Event
from app.answer.transcript import MOST_CHARS, Transcript


def text_of(*said: str) -> str | None:
    transcript = Transcript()
    for part in said:
        transcript.see(Delta(0, "text", part))
    return transcript.text


def test_all_that_was_said_is_its_text() -> None:
    transcript = Transcript()
    for event in (Event("ping", b"{}", {}), Delta(0, "thinking", "hm "), Delta(1, "text", "so")):
        transcript.see(event)
    assert transcript.text == "hm so"


def test_where_nothing_was_said_there_is_none() -> None:
    assert text_of() is None
    assert text_of("", "") is None


@pytest.mark.parametrize("parts", [1, 2, 8])
def test_what_is_as_long_as_the_bound_is_whole_and_one_character_more_is_none(parts: int) -> None:
    part = "x" * (MOST_CHARS // parts)
    assert text_of(*[part] * parts) == part * parts
    assert text_of(*[part] * parts, "y") is None
    assert text_of(*[part] * parts, "y", "y") is None
