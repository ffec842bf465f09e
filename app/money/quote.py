"""What a running answer has cost so far, in whole nano-dollars: exact where usage came, else estimated. Pure.

It is asked once a batch, so it looks up prices only where usage has changed. What it says may fall, since usage may come
to less than was estimated. What the table has no price for at all (a tier of service that the answer turns out to be of)
is taken at the model's own price: the ledger tells of it, and a budget must not be passed by it.
"""

from __future__ import annotations

import itertools
import re
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
_FILE_MARK, _TEXT_MARK = re.compile(rb'"type"\s*:\s*"base64"'), b'"text'
_DATA = re.compile(rb'"data"\s*:\s*"([A-Za-z0-9+/=]{1000,})"')
# The mark stands in the same object, whose other fields are short.
_BESIDE_BYTES = 150
# So many files are looked at: further ones count as text.
_MOST_FILES = 1000
# What is not in the request itself, but comes to it: what Claude fetches, reads in files, or gets from tools of its own.
_UNMEASURED = (b'"url"', b'"file_id"', b'"mcp_servers"', b'"container"', b"web_search", b"web_fetch", b"code_execution")
# So much of that is held for, in tokens, as far as there is money, until the answer's beginning tells.
_UNMEASURED_TOKENS = 200_000
# More than this is in no model's context.
_MOST_INPUT_TOKENS = 1_000_000


def input_tokens(asked: bytes) -> int:
    """About how many tokens a request's body is, not less as a rule; it is gone through once, some milliseconds for 32 MB.

    Only what stands in base64 beside its mark counts as a file: text that calls itself one would count for a twentieth.

    Args:
        asked: the Messages API's request, in JSON.
    """
    text_bytes, tokens = len(asked), 0
    if b'"base64"' in asked:
        for found in itertools.islice(_DATA.finditer(asked), _MOST_FILES):
            size_bytes = found.end(1) - found.start(1)
            beside = asked[max(0, found.start() - _BESIDE_BYTES) : found.start()]
            beside += asked[found.end() : found.end() + _BESIDE_BYTES]
            if _FILE_MARK.search(beside) and _TEXT_MARK not in beside:
                text_bytes -= size_bytes
                tokens += max(_FILE_TOKENS, size_bytes // _FILE_BYTES_A_TOKEN)
    return min(_MOST_INPUT_TOKENS, tokens + text_bytes // _BYTES_A_TOKEN + 1)


class Quote:
    """One answer's cost, while it grows.

    Args:
        prices: the table.
        tokens_each: asked for the model's tokens a character, as known now.
        model: asked for; one without a price costs nothing here.
        asked: the request.
        max_tokens: the most output tokens.

    Attributes:
        each: an output token.
        input: the input side, as estimated before it is told.
        unmeasured: what may come to it that is not in the request itself.
        most: the whole answer, as far as it can be told from the request.
    """

    __slots__ = ("_fixed", "_prices", "_tokens_each", "_usage", "each", "input", "model", "most", "unmeasured")

    def __init__(
        self,
        prices: Prices,
        tokens_each: Callable[[str], tuple[float, ...]],
        model: str,
        asked: bytes,
        max_tokens: int = 1_000_000,
    ) -> None:
        self._prices = prices
        self._tokens_each = tokens_each
        self.model = model
        self._usage: Mapping[str, Any] | None = None  # the one that was looked at last
        self._fixed = 0  # all but the answer's own output, by that usage
        tokens = input_tokens(asked)
        # The tier of so long a prompt; what else there is to pay for is told with the answer's first event.
        rate = prices.rate(model, {"input_tokens": tokens})
        self.each = self.input = self.unmeasured = 0
        if rate is not None:
            self.each = _nano_per_token(rate.output)
            self.input = tokens * _nano_per_token(rate.cache_write_5m if b'"cache_control"' in asked else rate.input)
            if any(mark in asked for mark in _UNMEASURED):
                self.unmeasured = _UNMEASURED_TOKENS * _nano_per_token(rate.input)
        self.most = self.input + max_tokens * self.each

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
