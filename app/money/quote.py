"""What a running answer has cost so far, in whole nano-dollars: exact where usage came, else estimated. Pure.

It is asked once a batch, so it looks up prices only where usage has changed. What it says may fall, since usage may come
to less than was estimated. What the table has no price for at all (a tier of service that the answer turns out to be of)
is taken at the model's own price: the ledger tells of it, and a budget must not be passed by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..answer.tally import Tally
from .allowance import NANO, nano
from .bill import bill
from .prices import Prices

# Characters of a prompt in JSON that a token stands for at least, as a rule: some 4 in English, fewer in code.
_BYTES_A_TOKEN = 3
# A file in base64 is no text: a picture is at most some 5,000 tokens, a page of a PDF some 3,000 in 60 kB or more.
_FILE_BYTES_A_TOKEN, _FILE_TOKENS = 20, 2000
_FILE_MARK, _DATA_MARK = b'"base64"', b'"data"'
# More than this is in no model's context.
_MOST_INPUT_TOKENS = 1_000_000


def input_tokens(asked: bytes) -> int:
    """About how many tokens a request's body is, not less as a rule. It takes microseconds, whatever its size.

    Args:
        asked: the Messages API's request, in JSON.
    """
    text_bytes, tokens, at = len(asked), 0, 0
    if _FILE_MARK in asked:
        while (at := asked.find(_DATA_MARK, at)) >= 0:
            begin = asked.find(b'"', at + len(_DATA_MARK)) + 1
            end = asked.find(b'"', begin) if begin else -1
            if end < 0:
                break
            if end - begin > 1000:
                text_bytes -= end - begin
                tokens += max(_FILE_TOKENS, (end - begin) // _FILE_BYTES_A_TOKEN)
            at = end + 1
    return min(_MOST_INPUT_TOKENS, tokens + text_bytes // _BYTES_A_TOKEN + 1)


class Quote:
    """One answer's cost, while it grows.

    Args:
        prices: the table.
        tokens_each: asked for the model's tokens a character, as known now.
        model: asked for; one without a price costs nothing here.
        asked: the request.

    Attributes:
        each: an output token.
        input: the input side, as estimated before it is told.
    """

    __slots__ = ("_fixed", "_prices", "_tokens_each", "_usage", "each", "input", "model")

    def __init__(
        self, prices: Prices, tokens_each: Callable[[str], tuple[float, ...]], model: str, asked: bytes
    ) -> None:
        self._prices = prices
        self._tokens_each = tokens_each
        self.model = model
        self._usage: Mapping[str, Any] | None = None  # the one that was looked at last
        self._fixed = 0  # all but the answer's own output, by that usage
        tokens = input_tokens(asked)
        # The tier of so long a prompt; what else there is to pay for is told with the answer's first event.
        rate = prices.rate(model, {"input_tokens": tokens})
        self.each = self.input = 0
        if rate is not None:
            self.each = _nano_per_token(rate.output)
            self.input = tokens * _nano_per_token(rate.cache_write_5m if b'"cache_control"' in asked else rate.input)

    def tokens(self, tally: Tally) -> int:
        """Output tokens so far, rounded as the ledger rounds them, so that fifty answers come to the same in both."""
        counted: int = tally.usage["output_tokens"] if tally.exact else 0
        if tally.exact and not tally.since_usage:
            return counted
        each = self._tokens_each(self.model)
        since = zip(each, tally.features, tally.at_usage, strict=True)
        return counted + round(sum(rate * (now - then) for rate, now, then in since))

    def cost(self, tally: Tally, tokens: int) -> int:
        """Nano-dollars so far; nothing before the answer has begun."""
        if tally.usage is not self._usage:
            self._usage = tally.usage
            served = tally.model or self.model
            model = served if self._prices.find(served) is not None else self.model
            known = bill(self._prices, model, tally.usage)
            if not known.priced:
                words = {name for name, value in tally.usage.items() if isinstance(value, str)}
                known = bill(self._prices, model, {k: v for k, v in tally.usage.items() if k not in words})
            self.each = round(known.output_usd_per_token * NANO)
            self._fixed = nano(known.cost.total)
        return self._fixed + tokens * self.each


def _nano_per_token(usd_per_mtok: float) -> int:
    return round(usd_per_mtok * NANO / 1_000_000)
