"""What a reader is given of a log, by its entries."""

from __future__ import annotations

import pytest

from app.fleet.log_commands import Entry, Gap, after, entries_of
from app.fleet.mirror_rules import END_ID, Ending


def frames(first_id: int, last_id: int) -> bytes:
    return b"".join(b"id: %d\ndata: {}\n\n" % n for n in range(first_id, last_id + 1))


def entry(first_id: int, last_id: int) -> Entry:
    return Entry(first_id, last_id, frames(first_id, last_id))


ENDED = Entry(6, 6, b"", Ending.ENDED)
LOST = Entry(6, 6, b"", Ending.LOST)


@pytest.mark.parametrize(
    ("entries", "sent_id", "given", "ending"),
    [
        ([], 3, (4, 3), None),
        ([entry(1, 3), entry(4, 6)], 0, (1, 6), None),
        ([entry(1, 3), entry(4, 6)], 2, (3, 6), None),
        ([entry(4, 6), ENDED], 5, (6, 6), Ending.ENDED),
        ([ENDED], 6, (7, 6), Ending.ENDED),
        ([entry(1, 4), entry(3, 6)], 0, (1, 6), None),  # one was written again, since it was thought lost
        ([entry(1, 6), entry(3, 5)], 0, (1, 6), None),
        ([entry(4, 6), LOST], 3, (4, 6), Ending.LOST),
        ([LOST], 9, (10, 9), Ending.LOST),  # the reader had what was never written
        ([Entry(5, 4, b""), entry(5, 6)], 4, (5, 6), None),  # the log begins there
    ],
)
def test_a_reader_gets_what_follows_and_nothing_twice(
    entries: list[Entry], sent_id: int, given: tuple[int, int], ending: Ending | None
) -> None:
    found, how = after(entries, sent_id)
    assert b"".join(found) == frames(*given)
    assert how is ending


@pytest.mark.parametrize(
    ("entries", "sent_id"),
    [
        ([entry(4, 6)], 2),
        ([entry(1, 3), entry(5, 6)], 0),
        ([Entry(5, 4, b""), entry(5, 6)], 0),  # the log begins behind what the reader lacks
        ([ENDED], 3),
    ],
)
def test_where_frames_are_missing_it_is_said(entries: list[Entry], sent_id: int) -> None:
    with pytest.raises(Gap):
        after(entries, sent_id)


def test_entries_are_read_as_redis_gives_them() -> None:
    raw = [
        [b"0-1", [b"v", b"1"]],
        [b"3-0", [b"i", b"1", b"f", frames(1, 3)]],
        [b"%d-0" % END_ID, [b"e", b"worker_lost", b"n", b"3"]],
    ]
    assert entries_of(raw) == [Entry(1, 0, b""), entry(1, 3), Entry(3, 3, b"", Ending.LOST)]
