"""Slow is not stalled, idle is not vanished: judged from samples alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.streams.liveness import Finding, Liveness, Sample

NOTHING = Sample(waiting_bytes=0, taken_bytes=100, silent_s=500.0, in_flight=False)


def watch(liveness: Liveness, samples: list[Sample], every_s: float = 1.0) -> list[Finding | None]:
    return [liveness.look(sample, 1000 + place * every_s) for place, sample in enumerate(samples)]


def test_a_reader_that_takes_nothing_is_stalled_after_its_time() -> None:
    findings = watch(Liveness(5.0, 3.0), [Sample(4000, 100, 0.1, False)] * 8)
    assert findings == [None] * 5 + [Finding.STALLED] * 3


def test_a_reader_that_takes_a_byte_now_and_then_is_not_stalled() -> None:
    samples = [Sample(4000, 100 + place // 4, 0.1, False) for place in range(100)]
    assert set(watch(Liveness(5.0, 3.0), samples)) == {None}


def test_progress_shows_also_where_the_kernels_overhead_makes_the_count_negative() -> None:
    """Over a unix socket small writes wait as whole kernel buffers."""
    slow = [Sample(16_000 - place, place - 15_000, None, False) for place in range(20)]
    assert set(watch(Liveness(5.0, 3.0), slow)) == {None}
    writes = [Sample(1000 + 768 * place, -728 * place, None, False) for place in range(8)]
    assert watch(Liveness(5.0, 3.0), writes)[-1] is Finding.STALLED, "our own writing is no progress"


def test_who_has_everything_is_neither() -> None:
    assert set(watch(Liveness(5.0, 3.0), [NOTHING] * 50)) == {None}


def test_stuck_ends_when_all_is_taken() -> None:
    liveness = Liveness(5.0, 3.0)
    watch(liveness, [Sample(10, 0, 0.0, False)] * 4)
    assert liveness.stuck_s(1003) == 3.0
    liveness.look(NOTHING, 1004)
    assert liveness.stuck_s(1010) == 0.0


def test_silence_counts_from_when_something_went_out() -> None:
    idle_then_cut = [NOTHING] * 3 + [Sample(14, 100, 500.0 + place, True) for place in range(6)]
    findings = watch(Liveness(60.0, 3.0), idle_then_cut)
    assert findings == [None] * 6 + [Finding.VANISHED] * 3


def test_who_acknowledges_has_not_vanished_however_much_is_in_flight() -> None:
    samples = [Sample(9000, 100 * place, 0.9, True) for place in range(100)]
    assert set(watch(Liveness(60.0, 3.0), samples)) == {None}


@pytest.mark.parametrize("silent_s", [None, 0.0])
def test_where_nothing_is_acknowledged_nobody_vanishes_but_stalls(silent_s: float | None) -> None:
    findings = watch(Liveness(5.0, 3.0), [Sample(4000, 100, silent_s, False)] * 7)
    assert findings[-1] is Finding.STALLED
    assert Finding.VANISHED not in findings


LATE = Sample(waiting_bytes=0, taken_bytes=100, silent_s=None, in_flight=False, late=True)


def test_a_page_that_does_not_speak_when_it_said_it_would_has_vanished_whatever_is_taken_for_it() -> None:
    taken = [Sample(0, 100 * place, None, False, late=place > 2) for place in range(8)]
    assert watch(Liveness(60.0, 3.0), taken) == [None] * 6 + [Finding.VANISHED] * 2


def test_a_page_is_late_by_looks_alone_so_that_its_words_are_read_after_a_pause_of_ours() -> None:
    liveness = Liveness(60.0, 3.0)
    assert [liveness.look(LATE, 1000), liveness.look(NOTHING, 1090), liveness.look(LATE, 1180)] == [None] * 3


def test_a_look_that_finds_one_vanished_by_its_page_still_sees_that_nothing_is_out() -> None:
    looks = [LATE, *(Sample(0, 100, None, in_flight=out, late=True) for out in (True, True, False))]
    found = watch(Liveness(60.0, 3.0), [*looks, Sample(0, 100, 3.0, in_flight=True)])
    assert found == [None] * 3 + [Finding.VANISHED, None]


samples = st.builds(
    Sample, st.integers(0, 100), st.integers(-50, 50), st.none() | st.floats(0, 20), st.booleans(), st.booleans()
)


@given(st.lists(samples, max_size=60))
def test_nothing_is_found_before_its_deadline_has_passed_without_a_break(seen: list[Sample]) -> None:
    findings = watch(Liveness(5.0, 3.0), seen)
    for place, finding in enumerate(findings):
        if finding is Finding.STALLED:
            last = seen[place - 5 : place + 1]
            assert len(last) == 6
            assert all(sample.waiting_bytes > 0 for sample in last)
            assert all(b.taken_bytes <= a.taken_bytes for a, b in zip(last, last[1:], strict=False))  # noqa: RUF007
        if finding is Finding.VANISHED:
            last = seen[place - 3 : place + 1]
            assert len(last) == 4
            unanswered = all(sample.in_flight for sample in last) and seen[place].silent_s is not None
            assert unanswered or all(sample.late for sample in last)
