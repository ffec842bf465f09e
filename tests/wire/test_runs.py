"""Text as a reader is to see it: neighbours in one piece, no character in two, nothing lost or out of order."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from app.answer.events import ClaudeEvent, Delta, DeltaKind, Event
from app.answer.surrogates import ends_in_half, mended
from app.wire.runs import Runs

OTHER = Event("brand_new", b"{}", {})


def stop(index: int) -> Event:
    return Event("content_block_stop", b"{}", {"index": index})


def told(*batches: list[ClaudeEvent]) -> list[ClaudeEvent]:
    """What comes out of these batches, and is left at the end."""
    runs = Runs()
    return [event for batch in batches for event in runs.of(batch)] + list(runs.rest())


def test_neighbours_of_one_block_and_kind_are_one_whatever_else_was_in_them() -> None:
    events: list[ClaudeEvent] = [
        Delta(0, "text", "a", raw=b"{}"),
        Delta(0, "text", "b"),
        Delta(0, "text", "c", 0, b""),
        Delta(0, "thinking", "d", raw=b"{}"),
        Delta(1, "thinking", "e"),
        OTHER,
        Delta(1, "thinking", "f"),
    ]
    assert told(events) == [
        Delta(0, "text", "abc"),
        Delta(0, "thinking", "d", raw=b"{}"),
        Delta(1, "thinking", "e"),
        OTHER,
        Delta(1, "thinking", "f"),
    ]


def test_half_a_character_waits_behind_other_blocks_and_batches() -> None:
    batches: list[list[ClaudeEvent]] = [
        [Delta(0, "text", "a\ud83d")],
        [Delta(1, "text", "b"), OTHER],
        [Delta(0, "thinking", "c")],
        [Delta(0, "text", "\ude00d")],
    ]
    assert told(*batches) == [
        Delta(0, "text", "a"),
        Delta(1, "text", "b"),
        OTHER,
        Delta(0, "thinking", "c"),
        Delta(0, "text", "😀d"),
    ]


def test_half_a_character_whose_other_half_never_comes_is_told_when_its_block_ends_or_at_last() -> None:
    batch: list[ClaudeEvent] = [
        Delta(0, "text", "\ud83d"),
        Delta(1, "text", "\ud83d"),
        stop(0),
        Delta(0, "text", "\ude00"),
    ]
    assert told(batch) == [
        Delta(0, "text", ""),
        Delta(1, "text", ""),
        Delta(0, "text", "\ud83d"),
        stop(0),
        Delta(0, "text", "\ude00"),
        Delta(1, "text", "\ud83d"),
    ]


kinds: st.SearchStrategy[DeltaKind] = st.sampled_from(["text", "thinking", "input_json"])
texts = st.text(max_size=3) | st.sampled_from(["\ud83d", "\ude00", "a\ud83d", "\ude00b"])
deltas = st.builds(Delta, st.integers(0, 2), kinds, texts, raw=st.none() | st.just(b"{}"))


@given(st.lists(st.lists(deltas | st.just(OTHER), max_size=8), max_size=6))
def test_each_blocks_text_is_what_was_said_and_no_character_is_split(batches: list[list[ClaudeEvent]]) -> None:
    out = told(*batches)
    assert [event for event in out if event is OTHER] == [
        OTHER for batch in batches for event in batch if event is OTHER
    ]
    for key in {(event.index, event.kind) for batch in batches for event in batch if isinstance(event, Delta)}:

        def of(events: list[ClaudeEvent], key: tuple[int, DeltaKind] = key) -> list[str]:
            return [e.text for e in events if isinstance(e, Delta) and (e.index, e.kind) == key]

        said = "".join(of([event for batch in batches for event in batch]))
        assert "".join(mended(piece) for piece in of(out)) == mended(said)
        for former, latter in pairwise(of(out)):
            assert not (ends_in_half(former) and "\udc00" <= latter[:1] <= "\udfff")
