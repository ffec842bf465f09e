"""Of a flood, the first of each kind is said, and then one a while with how many were not."""

from __future__ import annotations

from app.telemetry.sparing import Sparing


def test_a_flood_is_said_once_a_while_with_its_count() -> None:
    sparing = Sparing(quiet_s=60)
    said = [(now, more) for now in range(0, 180) if (more := sparing.due("away", float(now))) is not None]
    assert said == [(0, 0), (60, 59), (120, 59)]


def test_each_kind_is_said_for_itself() -> None:
    sparing = Sparing(quiet_s=60)
    assert [sparing.due(kind, 0.0) for kind in ("a", "b", "a", "b")] == [0, 0, None, None]
    assert sparing.due("a", 60.0) == 1


def test_ever_new_kinds_fill_neither_log_nor_memory() -> None:
    sparing = Sparing(quiet_s=60)
    said = [sparing.due(str(number), 1.0) for number in range(10_000)]
    assert said.count(None) == 10_000 - 65, "64 kinds, and one for all beyond"
    assert len(sparing._said) == 65
    assert sparing.due("new", 2.0) is None


def test_a_kind_that_is_long_past_gives_its_place_away() -> None:
    sparing = Sparing(quiet_s=60)
    for number in range(64):
        sparing.due(str(number), 0.0)
    assert [sparing.due(kind, 100.0) for kind in ("new", "new", "other")] == [0, None, 0]
