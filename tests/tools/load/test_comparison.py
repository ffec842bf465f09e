"""Two services under the same readers, side by side."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from app.tools.load.comparison import comparison, doubts
from app.tools.load.figures import Figures, Stream, StreamEnd
from app.tools.load.findings import Findings
from app.tools.load.plan import Kind, Plan, PlanError
from app.tools.load.presets import planned
from app.tools.load.report import page, side_by_side
from app.tools.load.service import Sample


def findings(where: str, *, ttft_s: float = 0.02, words: int = 50, lag_s: float = 0.001) -> Findings:
    figures = Figures()
    for _ in range(4):
        figures.asked(Kind.FAST)
        figures.first(Kind.FAST, ttft_s)
        figures.lagged(lag_s)
        figures.ended(Kind.FAST, StreamEnd.FINISHED, Stream(3, words, 90, answered=True))
    return Findings("2026-11-26T10:00:00+00:00", where, "plain", Plan(), figures, (), 10.0, 0.1)


SAMPLES = (Sample(0.0, memory_bytes=100 * 2**20, cpu_s=5), Sample(2.0, memory_bytes=140 * 2**20, cpu_s=6))


def test_each_figure_stands_beside_the_other_ones_with_their_ratio() -> None:
    head, *rows = comparison(findings("http://one"), findings("http://two", ttft_s=0.06))
    assert head[1:3] == ("http://one", "http://two")
    by_name = {row[0]: row[1:] for row in rows}
    assert by_name["readers"] == ("4", "4", "1.00")
    assert float(by_name["TTFT p50, fast readers"][2]) == pytest.approx(3.0, rel=0.1)
    assert by_name["errors"] == ("0", "0", "–")


def test_what_only_one_of_them_tells_is_not_measured_for_the_other_and_what_none_tells_is_left_out() -> None:
    told = replace(findings("http://one"), samples=SAMPLES)
    by_name = {row[0]: row[1:] for row in comparison(told, findings("http://two"))}
    assert by_name["CPU a stream, ms"] == ("250", "not measured", "–")
    assert by_name["memory added, MiB"] == ("40", "not measured", "–")
    assert "CPU a stream, ms" not in {row[0] for row in comparison(findings("http://one"), findings("http://two"))}


def test_answers_of_another_length_and_a_late_load_tester_are_doubts() -> None:
    fine = findings("http://one")
    assert doubts(fine, findings("http://two")) == []
    [shorter] = doubts(fine, findings("http://two", words=20))
    assert "0.40 ×" in shorter
    [late] = doubts(fine, findings("http://two", lag_s=0.5))
    assert "in front of http://two" in late


def test_the_terminal_and_the_page_tell_of_both_and_take_nothing_from_them_for_html() -> None:
    one, two = findings("http://one"), findings("http://<two>", words=20)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(side_by_side(one, two))
    said = console.export_text()
    assert "http://<two>" in said
    assert "differed in length" in said
    html = page(one, [], two)
    assert "Side by side" in html
    assert "<two>" not in html


def test_readers_that_arrive_at_a_fixed_rate_come_once_each_over_the_duration() -> None:
    plan = planned(None, {"arrivals_per_s": 2.5, "duration_s": 20.0})
    assert (plan.streams, plan.ramp_s, plan.duration_s) == (50, 20.0, 0.0)
    assert plan.starts_at_s(1) - plan.starts_at_s(0) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"arrivals_per_s": 5.0}, "--duration"),
        ({"arrivals_per_s": 0.01, "duration_s": 2.0}, "0 readers"),
        ({"arrivals_per_s": 1e9, "duration_s": 60.0}, "1,000,000"),
        ({"arrivals_per_s": 5.0, "duration_s": 2.0, "streams": 5}, "--streams"),
    ],
)
def test_arrivals_that_cannot_be_are_refused(given: dict[str, float], told: str) -> None:
    with pytest.raises(PlanError, match=told):
        planned(None, given)
