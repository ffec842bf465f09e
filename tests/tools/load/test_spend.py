"""What a load test of a real Claude may cost at most."""

from __future__ import annotations

import pytest

from app.money.prices import SHIPPED, Prices, load_prices
from app.tools.load.spend import most_usd


@pytest.fixture
def prices() -> Prices:
    return load_prices(SHIPPED)


def test_an_answer_costs_at_most_its_tokens_and_its_prompts_bytes(prices: Prices) -> None:
    """Opus 4.8: 5 USD a million tokens in, 25 out; ten bytes of prompt and a hundred tokens beside them."""
    assert most_usd(prices, "claude-opus-4-8", "ten bytes ", 4000) == pytest.approx((110 * 5 + 4000 * 25) / 1e6)


def test_a_model_without_a_price_is_taken_for_the_dearest(prices: Prices) -> None:
    dearest = max(most_usd(prices, model, "x", 1000) for model in prices.models)
    assert most_usd(prices, "a-model-of-tomorrow", "x", 1000) == pytest.approx(dearest)
