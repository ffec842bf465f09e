"""Kaplan-Meier by bins against the textbook's, written out naively."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.money.survival import ENOUGH_FINISHED, T_90, Curve, bin_of

DAY_S = 86400.0
LIFELINES = json.loads(Path(__file__).with_name("lifelines_values.json").read_text("utf-8"))
Answers = list[tuple[int, bool]]
short_answers = st.lists(st.tuples(st.integers(0, 31), st.booleans()), min_size=1, max_size=25)
answers_of_any_length = st.lists(st.tuples(st.integers(0, 60_000), st.booleans()), min_size=1, max_size=40)


def curve_of(answers: Sequence[tuple[float, bool]]) -> Curve:
    curve = Curve(7 * DAY_S)
    for length, finished in answers:
        curve.observe(length, finished, now=0.0)
    return curve


def textbook_steps(answers: Answers) -> list[tuple[float, float]]:
    """Kaplan-Meier: after each time of an event, the share that survives; the censored at a tie are still at risk."""
    survival, steps = 1.0, []
    for t in sorted({length for length, finished in answers if finished}):
        at_risk = sum(length >= t for length, _ in answers)
        died = sum(length == t and finished for length, finished in answers)
        survival *= 1 - died / at_risk
        steps.append((float(t), survival))
    return steps


def textbook_survival(answers: Answers, t: float) -> float:
    return next((survival for time, survival in reversed(textbook_steps(answers)) if time <= t), 1.0)


def textbook_mean(answers: Answers, g: float, cap: float) -> float:
    """The integral of the curve from g to the cap over its height at g; exponential beyond the last observation."""
    last = float(max(length for length, _ in answers))
    height = textbook_survival(answers, last)
    hazard = -math.log(height) / last if 0 < height < 1 and last > 0 else 0.0

    def survival(t: float) -> float:
        return textbook_survival(answers, t) if t <= last else height * math.exp(-hazard * (t - last))

    area = 0.0
    cuts = sorted(
        {g, cap, *(t for t, _ in textbook_steps(answers) if g < t < cap), *([last] if g < last < cap else [])}
    )
    for begin, end in itertools.pairwise(cuts):
        if begin >= last and hazard > 0:
            area += height * (math.exp(-hazard * (begin - last)) - math.exp(-hazard * (end - last))) / hazard
        else:
            area += survival(begin) * (end - begin)
    return area / survival(g) if survival(g) > 0 else 0.0


@pytest.mark.parametrize("case", LIFELINES["cases"], ids=lambda case: f"{len(case['answers'])} up to {case['cap']}")
def test_the_curve_is_that_of_lifelines_exactly_below_32_tokens_and_closely_above(case: dict[str, Any]) -> None:
    """Golden values of a library for survival analysis; `lifelines_values.py` made them. Above, a bin is 3 % wide."""
    curve = curve_of([(length, finished) for length, finished in case["answers"]])
    exact = case["cap"] < 32
    for tokens, share in case["survival"]:
        assert curve.survival(tokens) == pytest.approx(share, abs=1e-9 if exact else 0.005)
    for tokens, mean in case["remaining"]:
        assert curve.remaining(tokens, case["cap"]).mean == pytest.approx(mean, rel=1e-9 if exact else 0.03)


@settings(deadline=None)
@given(short_answers, st.integers(0, 40))
def test_survival_is_the_textbooks_where_bins_are_exact(answers: Answers, t: int) -> None:
    assume(t <= max(length for length, _ in answers))
    assert curve_of(answers).survival(t) == pytest.approx(textbook_survival(answers, t), abs=1e-9)


@settings(deadline=None)
@given(short_answers, st.integers(0, 35), st.integers(1, 60))
def test_expected_remainder_is_the_textbooks_where_bins_are_exact(answers: Answers, g: int, room: int) -> None:
    remaining = curve_of(answers).remaining(g, g + room)
    assert remaining.mean == pytest.approx(textbook_mean(answers, g, g + room), rel=1e-6, abs=1e-6)
    assert curve_of(answers).mean_left(g, g + room) == remaining.mean


@settings(deadline=None)
@given(answers_of_any_length, st.integers(0, 60_000))
def test_survival_of_long_answers_is_the_textbooks_within_a_bin(answers: Answers, t: int) -> None:
    """Wide bins blur lengths by 3 %, and count half of a bin's censored as gone before its events."""
    lengths = [length for length, _ in answers]
    assume(len({bin_of(length) for length in lengths}) == len(lengths))
    assume(t <= max(lengths) and bin_of(t) not in {bin_of(length) for length in lengths})
    assert curve_of(answers).survival(t) == pytest.approx(textbook_survival(answers, t), abs=1e-9)


@settings(deadline=None)
@given(answers_of_any_length, st.integers(0, 70_000), st.integers(0, 70_000), st.floats(0, 5000))
def test_remainder_stays_between_nothing_and_the_bound(answers: Answers, g: int, cap: int, unsure: float) -> None:
    remaining = curve_of(answers).remaining(g, cap, unsure)
    room = max(0, cap - g)
    assert -1e-6 <= remaining.low <= remaining.high <= room + 1e-6
    assert -1e-6 <= remaining.mean <= room + unsure + 1e-6
    assert remaining.variance >= 0


@settings(deadline=None)
@given(answers_of_any_length, st.integers(0, 5000), st.integers(1, 5000), st.integers(0, 5000))
def test_a_larger_bound_never_expects_less(answers: Answers, g: int, room: int, more: int) -> None:
    curve = curve_of(answers)
    assert curve.remaining(g, g + room + more).mean >= curve.remaining(g, g + room).mean - 1e-6


def test_censored_answers_lengthen_the_expectation() -> None:
    finished = [(length, True) for length in range(10, 60)]
    alone = curve_of(finished).remaining(0, 1000).mean
    assert alone == pytest.approx(34.5, rel=0.02)
    assert curve_of([*finished, *[(30, False)] * 50]).remaining(0, 1000).mean > alone + 5


def test_longest_answer_censored_restricts_the_mean_to_max_tokens() -> None:
    curve = curve_of([(10, True), (20, False)])
    hazard = math.log(2) / 20
    expected = 10 + 0.5 * 10 + 0.5 * (1 - math.exp(-hazard * 980)) / hazard
    assert curve.remaining(0, 1000).mean == pytest.approx(expected)
    assert curve.remaining(0, 25).mean == pytest.approx(10 + 5 + 0.5 * (1 - math.exp(-hazard * 5)) / hazard)


def test_answers_that_all_ran_into_their_bound_expect_the_bound() -> None:
    curve = curve_of([(1000, False)] * 100)
    assert curve.remaining(400, 1000).mean == pytest.approx(600)


def test_nothing_is_expected_beyond_the_longest_where_all_had_finished() -> None:
    assert curve_of([(10, True), (20, True)]).remaining(25, 1000).mean == 0


def test_bound_already_reached_leaves_nothing() -> None:
    remaining = curve_of([(10, True)]).remaining(100, 100)
    assert (remaining.mean, remaining.low, remaining.high, remaining.variance) == (0, 0, 0, 0)


def test_variance_holds_the_scatter_and_the_curves_own_error() -> None:
    """Lengths 1, 2, 3: variance 2/3, of their mean 2/9; a second one shares the first one's error."""
    curve = curve_of([(1, True), (2, True), (3, True)])
    first, second = curve.remaining(0, 100), curve.remaining(0, 100)
    assert first.mean == pytest.approx(2)
    assert first.variance == pytest.approx(2 / 3 + 2 / 9)
    assert second.variance == pytest.approx(2 / 3 + 3 * 2 / 9)


def test_variance_is_that_of_the_lengths_up_to_the_bound() -> None:
    """Of so many answers that the curve's own error is nothing."""
    known = curve_of([*[(10, True)] * 2000, *[(20, True)] * 2000])
    assert known.remaining(5, 15).variance == pytest.approx(2.5**2, rel=0.01)  # they go on for 5, or for 10

    longer = curve_of([*[(10, True)] * 2000, *[(20, False)] * 2000])
    hazard, room = math.log(2) / 20, 40.0  # half of all outlive 20 tokens, and half of those 20 more
    beyond = (1 - math.exp(-hazard * room)) / hazard
    beyond_square = 2 * (1 - math.exp(-hazard * room) * (1 + hazard * room)) / hazard**2
    mean, square = (10 + 20 + beyond) / 2, (10**2 + 20**2 + 2 * 20 * beyond + beyond_square) / 2
    assert longer.remaining(0, 60).mean == pytest.approx(mean, rel=0.01)
    assert longer.remaining(0, 60).variance == pytest.approx(square - mean**2, rel=0.01)


def test_an_unsure_length_is_averaged_over_as_likely_as_answers_reach_it() -> None:
    """All four answers reach 70 tokens and one reaches 110: the odds are four to one."""
    answers: Answers = [(100, True), (100, True), (100, True), (2000, True)]
    sure, unsure = curve_of(answers).remaining(90, 4000), curve_of(answers).remaining(90, 4000, unsure=20)
    assert unsure.mean == pytest.approx(0.8 * (30 + 0.25 * 1900) + 0.2 * 1890)
    assert unsure.variance > sure.variance


def test_an_unsure_cut_answer_is_shared_out_over_two_lengths() -> None:
    curve = curve_of([(100, True), (100, True), (100, True), (2000, True)])
    curve.observe(90, False, now=0.0, unsure=20)
    bins = curve.dump(now=0.0)["bins"]
    assert bins[str(bin_of(70))][2:4] == pytest.approx([0.8, 0.8 * 70])
    assert bins[str(bin_of(110))][2:4] == pytest.approx([0.2, 0.2 * 110])


def test_errors_of_the_lengths_cancel_instead_of_lengthening_every_answer() -> None:
    """Cut answers of 300 to 400 tokens among such that all end at 420, their lengths a fifth too much or too little."""
    rng, curve = random.Random(5), Curve(7 * DAY_S)
    naive = Curve(7 * DAY_S)
    for _ in range(2000):
        length, stays = rng.gauss(420, 60), rng.expovariate(1 / 500)
        seen = length if length <= stays else stays * rng.lognormvariate(0, 0.2)
        curve.observe(max(1.0, seen), length <= stays, now=0.0, unsure=0.2 * seen)
        naive.observe(max(1.0, seen), length <= stays, now=0.0)
    assert abs(curve.remaining(0, 4000).mean - 420) < abs(naive.remaining(0, 4000).mean - 420)


@pytest.mark.parametrize(("longest", "low", "high"), [(4, 1, 4), (20, 1, 19)])
def test_interval_of_one_answer_is_the_middle_of_the_curve(longest: int, low: int, high: int) -> None:
    remaining = curve_of([(length, True) for length in range(1, longest + 1)]).remaining(0, 1000)
    assert (remaining.low, remaining.high) == (low, high)


@pytest.mark.slow
def test_interval_of_a_total_covers_the_truth_as_often_as_it_says() -> None:
    rng, covered = random.Random(7), 0
    for _ in range(100):
        curve, expected, truth, variance = Curve(7 * DAY_S), 0.0, 0.0, 0.0
        for i in range(400):
            length, stays = rng.gammavariate(2, 100), rng.expovariate(1 / 300)
            curve.observe(min(length, stays), length <= stays, now=0.0)
            if length > stays and i > 100:
                remaining = curve.remaining(stays, 4000)
                expected, variance = expected + remaining.mean, variance + remaining.variance
                truth += length - stays
        covered += abs(expected - truth) <= T_90 * math.sqrt(variance)
    assert 82 <= covered <= 96


def test_enough_means_fifty_finished_whatever_was_aborted() -> None:
    curve = curve_of([(10, True)] * (ENOUGH_FINISHED - 1) + [(20, False)] * 100)
    assert not curve.enough
    curve.observe(10, True, now=0.0)
    assert curve.enough


def test_observations_fade_with_age_until_they_are_not_enough() -> None:
    curve = curve_of([(10, True)] * 80)
    curve.observe(1000, True, now=7 * DAY_S)
    assert curve.finished == pytest.approx(41)
    assert not curve.enough


def test_new_answers_outweigh_old_ones() -> None:
    curve = curve_of([(100, True)] * 100)
    for _ in range(100):
        curve.observe(1000, True, now=70 * DAY_S)
    assert curve.remaining(0, 4000).mean == pytest.approx(1000, rel=0.01)


def test_a_clock_that_steps_back_fades_nothing() -> None:
    curve = curve_of([(10, True)] * 10)
    curve.observe(10, True, now=-DAY_S)
    assert curve.finished == 11


@settings(deadline=None)
@given(answers_of_any_length, st.integers(0, 10_000))
def test_restored_from_its_json_a_curve_says_the_same(answers: Answers, g: int) -> None:
    curve = curve_of(answers)
    curve.remaining(5, 10_000)
    data = json.loads(json.dumps(curve.dump(now=0.0)))
    restored = Curve.restore(data, 7 * DAY_S, now=500.0)
    assert restored.dump(now=500.0) == curve.dump(now=0.0)
    assert restored.remaining(g, 20_000) == curve.remaining(g, 20_000)


@pytest.mark.parametrize("row", [[-1.0, 0.0, 0.0, 0.0, 0.0], [1.0, 2.0], [math.nan] * 5, [math.inf] * 5, [10**400] * 5])
def test_a_dump_with_wrong_weights_is_refused(row: list[float]) -> None:
    with pytest.raises(ValueError, match=r"a weight that is none|shorter"):
        Curve.restore({"bins": {"3": row}, "faded_to_s": 0.0}, DAY_S, now=0.0)


@pytest.mark.parametrize("faded_s", [-1.0, math.inf, math.nan])
def test_a_dump_from_a_time_to_come_is_refused(faded_s: float) -> None:
    with pytest.raises(ValueError, match="time to come"):
        Curve.restore({"bins": {}, "faded_to_s": faded_s}, DAY_S, now=0.0)


lengths = st.lists(st.tuples(st.integers(1, 100_000), st.booleans()), max_size=20)


@settings(deadline=None)
@given(lengths, lengths, lengths)
def test_what_two_observed_apart_comes_to_what_one_would_have_observed(
    before: list[tuple[int, bool]], mine: list[tuple[int, bool]], theirs: list[tuple[int, bool]]
) -> None:
    def observed(*seen: list[tuple[int, bool]]) -> Curve:
        curve = Curve(7 * DAY_S)
        for length, finished in itertools.chain(*seen):
            curve.observe(length, finished, now=0.0)
        return curve

    joined = observed(before, mine)
    joined.join(observed(before, theirs), observed(before), now=0.0)
    one, other = joined.dump(0.0)["bins"], observed(before, mine, theirs).dump(0.0)["bins"]
    assert one.keys() == other.keys()
    assert all(one[j] == pytest.approx(other[j]) for j in one)


def test_memory_does_not_grow_with_observations() -> None:
    rng, curve = random.Random(1), Curve(7 * DAY_S)
    for _ in range(20_000):
        curve.observe(rng.lognormvariate(6, 2), rng.random() < 0.7, now=0.0)
    assert len(curve.dump(now=0.0)["bins"]) < 400


@settings(deadline=None)
@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_bins_keep_the_order_of_lengths(a: float, b: float) -> None:
    assert (bin_of(a) <= bin_of(b)) or a > b
