"""What answers of a Claude that is not simulated may cost at most. Pure."""

from __future__ import annotations

from ...money.prices import Prices, Rate

# A request has this many tokens beside its prompt, a generous guess, because the cap must hold.
_OVERHEAD_TOKENS = 100


def most_usd(prices: Prices, model: str, prompt: str, max_tokens: int) -> float:
    """The most that one answer may cost, in US dollars: it cannot have more tokens than it may, nor a prompt more than bytes.

    Args:
        prices: the price table.
        model: who answers; one without a price is taken for the dearest that has one.
        prompt: the question.
        max_tokens: the most output tokens.
    """
    usage = {"input_tokens": len(prompt.encode()) + _OVERHEAD_TOKENS}
    rate = prices.rate(model, usage)
    rates: list[Rate] = [rate] if rate is not None else [price.usd_per_mtok for price in prices.models.values()]
    return max(one.cost(usage, max_tokens).total for one in rates)
