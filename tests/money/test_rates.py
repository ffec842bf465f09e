"""Tokens a character, learned."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
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


def test_estimates_are_within_a_twentieth_after_fifty_answers() -> None:
    rng = random.Random(3)

    def answer() -> tuple[Features, int]:
        chars, rate = rng.randint(100, 8000), 0.33 * rng.lognormvariate(0, 0.15)
        return (chars, 0, 0, 0, 0), round(chars * rate)

    rates = taught(*(answer() for _ in range(50)))
    fresh = [answer() for _ in range(500)]
    estimated = sum(rates.estimate(received) for received, _ in fresh)
    assert estimated == pytest.approx(sum(tokens for _, tokens in fresh), rel=0.05)


def test_one_strange_answer_moves_the_rate_no_further_than_the_bound() -> None:
    rates = taught(*[((1000, 0, 0, 0, 0), 250)] * 50)
    before = rates.tokens_each[0]
    rates.learn((1000, 0, 0, 0, 0), 100_000, now=0.0)
    assert before < rates.tokens_each[0] <= before * (1 + (OUTLIER - 1) / 40)


def test_another_tokenizer_is_learned_through_the_bound() -> None:
    assert taught(*[((1000, 0, 0, 0, 0), 800)] * 200).tokens_each[0] == pytest.approx(0.8, rel=0.05)


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


@given(st.lists(st.tuples(features, st.integers(0, 60_000)), max_size=30), features)
def test_estimates_are_never_negative_and_grow_with_what_was_received(
    answers: list[tuple[Features, int]], more: Features
) -> None:
    rates = taught(*answers)
    one, two = rates.estimate(more), rates.estimate([value + 10 for value in more])
    assert 0 <= one <= two


@given(st.lists(st.tuples(features, st.integers(0, 60_000)), max_size=10), features)
def test_restored_from_their_json_rates_say_the_same(answers: list[tuple[Features, int]], received: Features) -> None:
    rates = taught(*answers)
    restored = TokenRates.restore(json.loads(json.dumps(rates.dump(now=0.0))), 7 * DAY_S, now=99.0)
    assert restored.dump(now=99.0) == rates.dump(now=0.0)
    assert restored.estimate(received) == pytest.approx(rates.estimate(received))


def test_a_dump_of_other_features_is_refused() -> None:
    data = TokenRates(DAY_S).dump(now=0.0) | {"weighted": [1.0]}
    with pytest.raises(ValueError, match="features"):
        TokenRates.restore(data, DAY_S, now=0.0)
