"""What a load test makes of its figures: percentiles, thresholds, tables and the page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from app.tools.load.charts import Line, chart, ticks
from app.tools.load.figures import Figures, Spread, Stream, StreamEnd, merged
from app.tools.load.findings import Findings, Judgement, Measure, ThresholdStatus, exit_status, judge
from app.tools.load.plan import Kind, Plan
from app.tools.load.report import balance, page, reader_columns, reader_rows, running, tables
from app.tools.load.service import Sample, parse, summed
from app.tools.load.subject import Shown, Subject

DURATIONS = st.lists(st.floats(1e-5, 1e4), min_size=1)


def spread(*seconds: float) -> Spread:
    found = Spread()
    for one in seconds:
        found.add(one)
    return found


def findings(
    *,
    late_s: float = 0.001,
    cpu: float = 0.1,
    samples: Sequence[Sample] = (),
    where: str = "http://h",
    gap_s: float = 0.1,
) -> Findings:
    figures = Figures()
    for number in range(10):
        figures.asked(Kind.FAST)
        figures.first(Kind.FAST, 0.02)
        figures.gap(Kind.FAST, gap_s)
        figures.gap(Kind.SLOW, 5.0)
        figures.lagged(late_s)
        end = (StreamEnd.FINISHED, StreamEnd.FINISHED, StreamEnd.REFUSED, StreamEnd.CUT)[number % 4]
        refusal = "503 full" if end is StreamEnd.REFUSED else ""
        figures.ended(Kind.FAST, end, Stream(3, 0, 90, answered=not refusal, refusal=refusal))
        figures.tick()
    return Findings("2026-11-22T10:00:00+00:00", where, "plain", Plan(), figures, samples, 10.0, cpu, ("a note",))


SAMPLES = (
    Sample(0.0, memory_bytes=100 * 2**20, cpu_s=5, generated=1000, wasted=10),
    Sample(1.0, memory_bytes=140 * 2**20, cpu_s=5.5, generated=2000, wasted=60, avoided=30, stalled=4, pauses=7),
    Sample(2.0, memory_bytes=110 * 2**20, cpu_s=6, generated=3000, wasted=90, avoided=40, pauses=9),
)


@given(st.lists(st.floats(1e-5, 1e4), min_size=1, max_size=30), st.floats(0.01, 1))
def test_a_percentile_is_within_one_per_cent_of_the_true_one(seconds: list[float], share: float) -> None:
    true = sorted(seconds)[math.ceil(share * len(seconds) - 1e-9) - 1]
    found = spread(*seconds).at(share)
    assert found is not None
    assert true * 0.99 <= found <= true * 1.01


@given(DURATIONS, DURATIONS)
def test_merged_spreads_are_the_spread_of_all(one: list[float], other: list[float]) -> None:
    whole, joined = spread(*one, *other), merged([spread(*one), spread(*other)])
    assert [whole.at(share) for share in (0.1, 0.5, 0.99, 1)] == [joined.at(share) for share in (0.1, 0.5, 0.99, 1)]
    assert (whole.count, whole.most_s) == (joined.count, joined.most_s)


def test_nothing_measured_has_no_percentile() -> None:
    assert Spread().at(0.5) is None


def test_only_fast_readers_count_for_the_thresholds_on_time() -> None:
    [judged] = judge(findings(), {Measure.GAP_P99_MS: 150})
    assert judged.verdict is ThresholdStatus.KEPT
    assert judged.value == pytest.approx(100, rel=0.01)


def test_errors_and_refusals_are_counted_apart() -> None:
    values = {one.measure: one.value for one in judge(findings(), {Measure.ERRORS: 0, Measure.REFUSED: 0})}
    assert values == {Measure.ERRORS: 2, Measure.REFUSED: 2}


@pytest.mark.parametrize(
    ("measure", "value"),
    [(Measure.MEMORY_ADDED_MB, 40), (Measure.WASTED_TOKENS, 80), (Measure.TTFT_P50_MS, 20), (Measure.TTFT_P99_MS, 20)],
)
def test_a_threshold_is_kept_up_to_its_limit(measure: Measure, value: float) -> None:
    found = findings(samples=SAMPLES)
    for limit, verdict in ((value * 1.02, ThresholdStatus.KEPT), (value * 0.98, ThresholdStatus.EXCEEDED)):
        assert [one.verdict for one in judge(found, {measure: limit})] == [verdict]


@pytest.mark.parametrize("measure", [Measure.MEMORY_ADDED_MB, Measure.WASTED_TOKENS])
def test_what_was_not_measured_is_not_judged(measure: Measure) -> None:
    assert judge(findings(), {measure: 1e9})[0].verdict is ThresholdStatus.UNCLEAR


@pytest.mark.parametrize("late", [{"late_s": 0.05}, {"cpu": 0.95}])
def test_a_load_tester_that_is_late_itself_judges_no_times_but_says_so(late: dict[str, float]) -> None:
    found = findings(gap_s=1.0, **late)  # type: ignore[arg-type]
    verdicts = {one.measure: one.verdict for one in judge(found, {Measure.GAP_P99_MS: 150, Measure.ERRORS: 0})}
    assert verdicts == {Measure.GAP_P99_MS: ThresholdStatus.UNCLEAR, Measure.ERRORS: ThresholdStatus.EXCEEDED}
    assert "The load tester was the bottleneck" in page(found, [])
    assert "The load tester was the bottleneck" in printed(found, [])


NOBODY = None
HAPPENED, MISSED, UNTOLD = (Shown(Subject.HELD, happened, "") for happened in (True, False, None))


@pytest.mark.parametrize(
    ("verdicts", "subject", "status"),
    [
        ([], NOBODY, 0),
        ([ThresholdStatus.KEPT], HAPPENED, 0),
        ([ThresholdStatus.KEPT, ThresholdStatus.UNCLEAR], HAPPENED, 3),
        ([ThresholdStatus.KEPT], UNTOLD, 3),
        ([ThresholdStatus.UNCLEAR, ThresholdStatus.KEPT], MISSED, 4),
        ([], MISSED, 4),
        ([ThresholdStatus.UNCLEAR, ThresholdStatus.EXCEEDED], MISSED, 1),
    ],
)
def test_the_exit_status_tells_exceeded_from_missed_from_unclear(
    verdicts: list[ThresholdStatus], subject: Shown | None, status: int
) -> None:
    judged = [Judgement(Measure.ERRORS, 0, 1, verdict) for verdict in verdicts]
    assert exit_status(judged, subject) == status


def printed(found: Findings, judged: Sequence[Judgement]) -> str:
    console = Console(width=140, record=True, quiet=True)
    with console.capture() as capture:
        console.quiet = False
        console.print(tables(found, judged))
    return capture.get()


def test_the_tables_tell_the_errors_the_tokens_and_the_verdicts() -> None:
    found = findings(samples=SAMPLES)
    text = printed(found, judge(found, {Measure.ERRORS: 0}))
    for told in (
        "2 cut off",
        "503 full",
        "+40.0 MiB",
        "80 (4.0% of those generated)",
        "40 expected",
        "EXCEEDED",
        "a note",
    ):
        assert told in text


def test_the_first_line_tells_how_the_subject_fared() -> None:
    found = replace(findings(samples=SAMPLES), subject=Subject.HELD)
    told = "Producers were NOT held: no slow reader was answered."
    assert printed(found, []).splitlines()[0] == told
    assert page(found, []).index(told) < page(found, []).index("streams started")
    assert found.as_json()["shown"]["held"] == {"happened": False, "told": told}


def test_every_row_of_readers_adds_up_to_what_was_started() -> None:
    figures = findings().figures
    columns = reader_columns(figures)
    ends = slice(2, columns.index("TTFT p50"))
    assert columns[:2] == ("readers", "started")
    for row in reader_rows(figures):
        assert int(row[1]) == sum(map(int, row[ends]))
    assert balance(figures) == "10 streams started, 10 ended: 6 finished, 2 refused, 2 cut off."


def test_the_page_needs_nothing_else_and_survives_hostile_words() -> None:
    found = findings(samples=SAMPLES, where="h</script><b>&")
    text = page(found, judge(found, {Measure.ERRORS: 0, Measure.WASTED_TOKENS: 100}))
    assert not re.search(r"https?://|src=|href=|@import|url\(", text)
    assert "<b>" not in text
    assert text.count("<svg") == 8
    [data] = re.findall(r'<script type="application/json" id="findings">(.*?)</script>', text, re.S)
    told: dict[str, Any] = json.loads(data)
    assert told["where"] == "h</script><b>&"
    assert told["service"]["tokens_wasted"] == 80


def test_the_page_says_what_was_not_measured() -> None:
    assert page(findings(), []).count("Not measured.") == 4


def test_progress_can_be_shown_from_the_first_second_on() -> None:
    console = Console(width=100)
    for figures, sample in ((Figures(), None), (findings().figures, SAMPLES[1])):
        with console.capture() as capture:
            console.print(running(1.0, figures, sample))
        assert "own lag" in capture.get()


@given(st.floats(1e-6, 1e9))
def test_ticks_are_few_and_cover_the_top(top: float) -> None:
    found = ticks(top)
    assert found[0] == 0
    assert found[-1] >= top * 0.999
    assert 2 <= len(found) <= 7


def test_a_line_is_broken_where_values_are_missing() -> None:
    drawn = chart("t", "u", [Line("a", [(0, 1), (1, 2), (2, None), (3, 1)]), Line("b", [(0, None)])])
    assert drawn.count("<polyline") == 2
    assert ">b<" not in drawn


METRICS = """\
# HELP process_cpu_seconds_total Total user and system CPU time spent in seconds.
process_cpu_seconds_total 1.5
process_resident_memory_bytes 1.048576e+06
sluiceway_streams_active 3.0
sluiceway_wasted_tokens_total{model="a"} 5.0
sluiceway_wasted_tokens_total{model="other"} 2.0
sluiceway_streams_total{model="a",outcome="completed",phase="done"} 2.0
sluiceway_streams_total{model="a",outcome="vanished",phase="text"} 1.0
sluiceway_streams_total{model="a",outcome="stopped",phase="text"} 0.0
sluiceway_refused_total{reason="lag"} 4.0
sluiceway_refused_total{reason="auth"} 0.0
"""


def test_the_metrics_of_all_workers_are_added_up() -> None:
    sample = summed([parse(METRICS, 7.0), parse(METRICS, 7.0)], 7.0)
    assert (sample.at_s, sample.cpu_s, sample.memory_bytes, sample.streams, sample.wasted) == (7, 3, 2**21, 6, 14)
    assert (sample.outcomes, sample.refused) == ({"completed": 4, "vanished": 2}, {"lag": 8})


def test_counters_are_told_as_what_was_added_and_gauges_as_they_are() -> None:
    before = parse(METRICS, 1.0)
    change = summed([before, before], 2.0).since(before)
    assert (change.cpu_s, change.memory_bytes, change.streams, change.wasted) == (1.5, 2**21, 6, 7)
    assert (change.outcomes, change.refused) == ({"completed": 2, "vanished": 1}, {"lag": 4})
