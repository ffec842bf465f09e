"""The audit itself: that it feeds the real ledger, knows the truth, and would notice a wrong estimate."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from app.answer.events import Delta, Event
from app.money.entry import Avoided, Total
from app.tools.audit.run import KINDS, Kind, Run, events_of, judge, leave_one_out, main, simulate
from tests.support.answers import ANSWERS, BEGIN_TWICE, WRITTEN


def chars_of(length: int, until: int, seed: int) -> int:
    events = events_of(length, until, random.Random(seed))
    return sum(len(event.text) for event in events if isinstance(event, Delta))


def run_of(truth: int, expected: float, variance: float, naive: float = 0.0, generated: int = 100) -> Run:
    total = Total().plus(Avoided(expected=expected, upper=1e9, variance=variance))
    return Run(1, generated, 100, truth, naive, total)


@pytest.mark.parametrize("seed", range(8))
def test_usage_comes_only_with_the_whole_answer(seed: int) -> None:
    whole = [event for event in events_of(500, 500, random.Random(seed)) if isinstance(event, Event)]
    cut = [event for event in events_of(500, 499, random.Random(seed)) if isinstance(event, Event)]
    assert [event.data["usage"]["output_tokens"] for event in whole if event.type == "message_delta"] == [500]
    assert not any(event.type == "message_delta" for event in cut)


@pytest.mark.parametrize("seed", range(8))
def test_an_answer_cut_later_has_more_characters(seed: int) -> None:
    lengths = [chars_of(2000, until, seed) for until in (0, 200, 1000, 2000)]
    assert lengths[0] == 0
    assert lengths[1] < lengths[2] < lengths[3]


def test_the_same_seed_gives_the_same_run() -> None:
    assert simulate(KINDS[0], 200, 3) == simulate(KINDS[0], 200, 3)
    assert simulate(KINDS[0], 200, 3) != simulate(KINDS[0], 200, 4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.assumption_holds], ids=lambda kind: kind.name)
def test_a_few_repetitions_are_near_the_truth_and_beat_the_naive(kind: Kind) -> None:
    verdict = judge(kind, [simulate(kind, 800, seed) for seed in range(4)])
    assert abs(verdict.generated) < 0.05
    assert abs(verdict.expected) < 0.20
    assert abs(verdict.expected) < abs(verdict.naive)


def test_leaving_that_depends_on_length_is_reported_without_a_target() -> None:
    kind = next(kind for kind in KINDS if not kind.assumption_holds)
    assert judge(kind, [simulate(kind, 400, 0)]).passed is None


def test_the_picture_s_path_ends_at_the_sums() -> None:
    run = simulate(KINDS[0], 300, 0, keep_path=True)
    sums = [float(run.avoided_truth), run.total.expected, run.total.low, run.total.high, run.naive]
    assert list(run.path[-1]) == sums
    assert len(run.path) == run.streams


def test_targets_are_met_only_by_good_estimates() -> None:
    kind = KINDS[0]
    good = [run_of(1000, 1000, 100)] * 9 + [run_of(1000, 1050, 100)]
    assert judge(kind, good).passed is True
    assert judge(kind, [run_of(1000, 1200, 100)] * 10).passed is False, "too much is expected"
    assert judge(kind, [run_of(1000, 1000, 100)] * 10).passed is False, "the interval is too wide: it always covers"
    assert judge(kind, [replace(run, generated=110) for run in good]).passed is False, "too much is generated"
    assert judge(kind, [replace(run, naive=1001.0) for run in good]).passed is False, "the naive one is better"


@pytest.mark.slow
def test_recordings_are_estimated_by_the_others_and_exact_when_usage_came() -> None:
    recordings = leave_one_out(ANSWERS.values())
    assert [recording.name for recording in recordings] == [path.name for path in ANSWERS.values()]
    assert all(recording.exact_when_seen for recording in recordings)
    assert [r.name for r in recordings if r.broken] == [ANSWERS[name].name for name in BEGIN_TWICE]


@pytest.mark.real
def test_the_program_writes_report_figures_and_picture(tmp_path: Path) -> None:
    """Two small repetitions miss the target for coverage, as they must, and the exit says so."""
    folder = WRITTEN["long"].parent
    words = ["--streams", "250", "--repeats", "2", "--out", str(tmp_path), "--transcripts", str(folder)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1, done.output
    assert "missed a target" in done.output
    figures = json.loads((tmp_path / "audit.json").read_text())
    assert [kind["name"] for kind in figures["kinds"]] == [kind.name for kind in KINDS]
    assert [recording["name"] for recording in figures["recordings"]] == [path.name for path in WRITTEN.values()]
    text = (tmp_path / "audit.md").read_text()
    assert all(kind.name in text for kind in KINDS)
    assert (tmp_path / "audit.png").read_bytes().startswith(b"\x89PNG")
