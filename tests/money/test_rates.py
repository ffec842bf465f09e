"""Tokens a character, learned."""

from __future__ import annotations

import json
import math
import random
import statistics
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.answer.tally import Features
from app.money.rates import OUTLIER, PRIOR_TOKENS, TokenRates

DAY_S = 86400.0
features = st.tuples(*[st.integers(0, 50_000)] * 3, st.integers(0, 20), st.integers(0, 50_000))


def taught(*answers: tuple[Features, int]) -> TokenRates:
    rates = TokenRates(7 * DAY_S)
    for received, tokens in answers:
        rates.learn(received, tokens, now=0.0)
    return rates


def test_without_answers_the_prior_speaks() -> None:
    assert TokenRates(DAY_S).estimate((1000, 0, 0, 0, 0)) == pytest.approx(1000 * PRIOR_TOKENS[0])


def test_text_alone_comes_out_as_all_tokens_over_all_characters() -> None:
    rng, answers = random.Random(1), []
    for _ in range(500):
        chars = rng.randint(50, 8000)
        answers.append(((chars, 0, 0, 0, 0), round(chars * rng.uniform(0.2, 0.34))))
    ratio = sum(tokens for _, tokens in answers) / sum(received[0] for received, _ in answers)
    assert taught(*answers).tokens_each[0] == pytest.approx(ratio, rel=0.005)


def test_each_kind_is_learned_apart_from_mixed_answers() -> None:
    rng, truth, answers = random.Random(2), (0.22, 0.35, 0.42, 55.0, 0.6), []
    for _ in range(2000):
        received = (
            rng.randint(0, 3000),
            rng.randint(0, 3000),
            rng.randint(0, 2000),
            rng.randint(0, 4),
            rng.randint(0, 900),
        )
        tokens = sum(value * rate for value, rate in zip(received, truth, strict=True))
        answers.append((received, round(tokens * rng.gauss(1, 0.05))))
    assert taught(*answers).tokens_each == pytest.approx(truth, rel=0.08)


def some(rng: random.Random, rate: float, scatter: float) -> tuple[Features, int]:
    """An answer of text, of so many tokens a character, give or take."""
    chars = rng.randint(100, 8000)
    return (chars, 0, 0, 0, 0), round(chars * rate * rng.lognormvariate(0, scatter))


def test_estimates_are_within_a_twentieth_after_fifty_answers() -> None:
    squares = []
    for seed in range(20):
        rng = random.Random(seed)
        rates = taught(*(some(rng, 0.33, 0.15) for _ in range(50)))
        fresh = [some(rng, 0.33, 0.15) for _ in range(500)]
        estimated = sum(rates.estimate(received) for received, _ in fresh)
        squares.append((estimated / sum(tokens for _, tokens in fresh) - 1) ** 2)
    assert statistics.fmean(squares) ** 0.5 < 0.03  # the fifty's own scatter, and little more


# One odd answer, and many that agree.


def test_one_strange_answer_moves_the_rate_no_further_than_the_bound() -> None:
    rates = taught(*[((1000, 0, 0, 0, 0), 250)] * 50)
    before = rates.tokens_each[0]
    rates.learn((1000, 0, 0, 0, 0), 100_000, now=0.0)
    assert before < rates.tokens_each[0] <= before * (1 + (OUTLIER - 1) / 40)


rates_of_text = st.floats(1.5, 25).map(lambda chars_a_token: 1 / chars_a_token)


@settings(deadline=None)
@given(rates_of_text, st.integers(20, 4000), st.integers(1, 500_000), st.floats(0, 2**53), st.integers(20, 100))
def test_no_single_answer_whatever_its_size_moves_an_estimate_by_a_twentieth(
    rate: float, tokens: int, odd_chars: int, odd_tokens: float, known: int
) -> None:
    assume(known * tokens >= 3000)
    rates = taught(*[((round(tokens / rate), 0, 0, 0, 0), tokens)] * known)
    before = rates.estimate((1000, 0, 0, 0, 0))
    rates.learn((odd_chars, 0, 0, 0, 0), odd_tokens, now=0.0)
    assert rates.estimate((1000, 0, 0, 0, 0)) == pytest.approx(before, rel=0.05)


kinds_of_answer = st.sampled_from([(1, 0, 0, 0, 0), (0, 1, 0, 0, 0), (0, 0, 1, 0, 0)])


@given(rates_of_text, rates_of_text, kinds_of_answer, st.integers(60, 3000), st.integers(0, 400))
def test_sixty_alike_are_followed_from_any_tokenizer_to_any_other(
    rate: float, before: float, shape: Features, tokens: int, known: int
) -> None:
    def alike(rate: float) -> tuple[Features, int]:
        chars = round(tokens / rate)
        return (chars * shape[0], chars * shape[1], chars * shape[2], 0, 0), tokens

    rates = taught(*[alike(before)] * known, *[alike(rate)] * 60)
    assert rates.estimate(alike(rate)[0]) == pytest.approx(tokens, rel=0.05)


def test_sixty_of_wide_characters_are_followed_and_text_is_left() -> None:
    plain, wide = ((2000, 0, 0, 0, 0), 500), ((900, 0, 0, 0, 900), 300)
    rates = taught(*[plain] * 100, *[((900, 0, 0, 0, 900), 800)] * 100, *[wide] * 60)
    assert rates.estimate(wide[0]) == pytest.approx(300, rel=0.05)
    assert rates.estimate(plain[0]) == pytest.approx(500, rel=0.05)


@pytest.mark.parametrize("rate", [1 / 1.5, 0.35, 1 / 9, 1 / 25])
def test_sixty_that_scatter_are_followed_after_a_thousand_others(rate: float) -> None:
    rng = random.Random(7)
    rates = taught(*(some(rng, 0.27, 0.1) for _ in range(1000)), *(some(rng, rate, 0.1) for _ in range(60)))
    assert rates.tokens_each[0] == pytest.approx(rate, rel=0.05)
    assert rates.began_again


def test_answers_that_scatter_and_agree_with_what_is_known_change_nothing() -> None:
    rng = random.Random(11)
    rates = taught(*(some(rng, 0.3, 0.2) for _ in range(1500)))
    assert rates.began_again == 0
    assert rates.tokens_each[0] == pytest.approx(0.3 * 1.02, rel=0.02)  # a lognormal's mean is above its middle


def test_a_few_that_are_odd_together_are_not_followed() -> None:
    rates = taught(*[((1000, 0, 0, 0, 0), 250)] * 100, *[((1000, 0, 0, 0, 0), 2500)] * 7)
    assert rates.began_again == 0
    assert rates.tokens_each[0] == pytest.approx(0.25, rel=0.05)


def test_another_rate_of_tool_calls_leaves_that_of_text() -> None:
    words, call = ((2000, 0, 0, 0, 0), 500), ((0, 0, 1000, 1, 0), 1500)
    rates = taught(*[words] * 200, *[call] * 60)
    assert rates.estimate(words[0]) == pytest.approx(500, rel=0.02)
    assert rates.estimate(call[0]) == pytest.approx(1500, rel=0.05)


def test_an_answer_among_many_hostile_ones_stays_a_number() -> None:
    rates = taught(*[((1, 0, 0, 0, 0), 2**53 - 1)] * 100, *[((2**40, 0, 0, 0, 0), 0)] * 100)
    assert all(math.isfinite(value) and value >= 0 for value in (*rates.tokens_each, rates.scatter))
    for _ in range(60):
        rates.learn((1000, 0, 0, 0, 0), 250, now=0.0)
    assert rates.tokens_each[0] == pytest.approx(0.25, rel=0.05)


def test_scatter_falls_where_answers_agree_and_rises_where_they_do_not() -> None:
    agreeing = taught(*[((4000, 0, 0, 0, 0), 1080)] * 50)
    differing = taught(*[((4000, 0, 0, 0, 0), 800), ((4000, 0, 0, 0, 0), 1400)] * 25)
    assert agreeing.scatter < 0.06 < TokenRates(DAY_S).scatter < differing.scatter


def test_what_was_learned_fades_back_to_the_prior() -> None:
    rates = taught(*[((1000, 0, 0, 0, 0), 500)] * 50)
    rates.learn((0, 0, 100, 0, 0), 35, now=1000 * DAY_S)
    assert rates.tokens_each[0] == pytest.approx(PRIOR_TOKENS[0], rel=0.01)


def test_an_empty_answer_teaches_nothing() -> None:
    rates = taught(((0, 0, 0, 0, 0), 500))
    assert rates.learned == 0
    assert rates.tokens_each == PRIOR_TOKENS
    assert rates.dump(now=1.0) == TokenRates(DAY_S).dump(now=0.0)


@given(st.lists(st.tuples(features, st.integers(0, 60_000)), max_size=30), features)
def test_estimates_are_never_negative_and_grow_with_what_was_received(
    answers: list[tuple[Features, int]], more: Features
) -> None:
    rates = taught(*answers)
    one, two = rates.estimate(more), rates.estimate([value + 10 for value in more])
    assert 0 <= one <= two


@settings(deadline=None)
@given(st.lists(st.tuples(features, st.integers(0, 60_000)), max_size=40), features)
def test_restored_from_their_json_rates_say_the_same(answers: list[tuple[Features, int]], received: Features) -> None:
    rates = taught(*answers)
    restored = TokenRates.restore(json.loads(json.dumps(rates.dump(now=0.0))), 7 * DAY_S, now=99.0)
    assert restored.dump(now=99.0) == rates.dump(now=0.0)
    assert restored.estimate(received) == pytest.approx(rates.estimate(received))


def test_restored_rates_learn_on_as_if_nothing_had_happened() -> None:
    rng = random.Random(3)
    rates = taught(*(some(rng, 0.2, 0.1) for _ in range(45)))
    restored = TokenRates.restore(json.loads(json.dumps(rates.dump(now=0.0))), 7 * DAY_S, now=0.0)
    for received, tokens in [some(rng, 0.4, 0.1) for _ in range(60)]:
        rates.learn(received, tokens, now=1.0)
        restored.learn(received, tokens, now=1.0)
    assert restored.dump(now=1.0) == rates.dump(now=1.0)


def test_what_an_earlier_version_kept_is_read() -> None:
    rng = random.Random(5)
    rates = taught(*(some(rng, 0.3, 0.1) for _ in range(80)))
    kept = {name: value for name, value in rates.dump(now=0.0).items() if name in EARLIER}
    restored = TokenRates.restore(json.loads(json.dumps(kept)), 7 * DAY_S, now=9.0)
    assert restored.tokens_each == pytest.approx(rates.tokens_each)
    for received, tokens in [some(rng, 0.06, 0.1) for _ in range(60)]:
        restored.learn(received, tokens, now=9.0)
    assert restored.tokens_each[0] == pytest.approx(0.06, rel=0.05)


EARLIER = ("precision", "weighted", "seen", "squares", "learned")


@pytest.mark.parametrize(
    "odd",
    [
        {"weighted": [1.0]},
        {"weighted": [1.0, 2.0, math.nan, 0.0, 0.0]},
        {"precision": [[0.0] * 5] * 4},
        {"precision": {}},
        {"precision": [[-1.0] * 5] * 5},
        {"seen": math.inf},
        {"squares": -1.0},
        {"learned": -5},
        {"recent": []},
        {"recent": [[[1.0]], [], [], []]},
        {"recent": [[[math.nan] * 6], [], [], []]},
        {"recent": [[[1.0, 0.0, 0.0, 0.0, 0.0, -1.0]], [], [], []]},
        {"shift": [0.0]},
        {"came": [1, 2]},
    ],
)
def test_a_dump_that_is_damaged_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"features|below zero"):
        TokenRates.restore(TokenRates(DAY_S).dump(now=0.0) | odd, DAY_S, now=0.0)


# Learned by several workers, put together.


def test_what_two_learned_apart_comes_to_what_one_would_have_learned() -> None:
    rng = random.Random(8)
    before, mine, theirs = ([some(rng, 0.3, 0.1) for _ in range(40)] for _ in range(3))
    joined, base = taught(*before, *mine), taught(*before)
    joined.join(taught(*before, *theirs), base, now=0.0)
    together = taught(*before, *mine, *theirs)
    assert joined.learned == together.learned == 120
    assert joined.tokens_each == pytest.approx(together.tokens_each, rel=0.002)
    assert joined.scatter == pytest.approx(together.scatter, rel=0.02)


def test_a_rate_of_nothing_is_left_with_the_next_answers() -> None:
    """As a saved one may have, whose sums came out below zero."""
    answer: Features = (1000, 0, 0, 0, 0)
    damaged = taught(*[(answer, 250)] * 20).dump(now=0.0)
    damaged["weighted"][0] = -1e9
    rates = TokenRates.restore(damaged, 7 * DAY_S, now=0.0)
    assert rates.estimate(answer) == 0
    for _ in range(4):
        rates.learn(answer, 250, now=0.0)
    assert rates.estimate(answer) == pytest.approx(250, rel=0.05)


@pytest.mark.parametrize("who", ["mine", "theirs"])
def test_who_began_again_is_followed(who: str) -> None:
    before, alike = [((1000, 0, 0, 0, 0), 250)] * 100, [((1000, 0, 0, 0, 0), 50)] * 60
    mine, theirs = (alike, before[:2]) if who == "mine" else (before[:2], alike)
    joined = taught(*before, *mine)
    joined.join(taught(*before, *theirs), taught(*before), now=0.0)
    assert joined.tokens_each[0] == pytest.approx(0.05, rel=0.05)
    assert joined.learned == 162
    assert joined.began_again == taught(*before, *alike).began_again > taught(*before).began_again


def test_rates_that_do_not_hold_what_all_had_change_nothing() -> None:
    joined = taught(*[((1000, 0, 0, 0, 0), 250)] * 50)
    before = joined.dump(now=0.0)
    joined.join(taught(((1000, 0, 0, 0, 0), 900)), taught(*[((1000, 0, 0, 0, 0), 250)] * 50), now=0.0)
    assert joined.dump(now=0.0) == before


def test_sums_that_contradict_each_other_still_give_numbers() -> None:
    data = TokenRates(DAY_S).dump(now=0.0) | {"precision": [[0.0, *[1e20] * 4]] * 5, "weighted": [-1e20] * 5}
    rates = TokenRates.restore(data, DAY_S, now=0.0)
    assert all(0 <= value < 10_000 for value in rates.tokens_each)
    assert math.isfinite(rates.estimate((1000, 1000, 1000, 5, 1000)))
