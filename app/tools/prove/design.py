"""How large the experiment must be, and what it may cost. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ...money.prices import Prices, Rate

Arm = Literal["short", "long", "aborted", "paused"]
ARMS: tuple[Arm, ...] = ("short", "long", "aborted", "paused")

# A long arm's tokens, in seconds of the account's refill: deep enough that the bucket is not full again at the reading,
# when only the short arm's share of them was drawn; shallow enough (60 would empty it) for the dither and other traffic.
LONG_REFILL_S = 45.0
SHORT_SHARE = 0.35
# Answers should take about so many seconds: shorter ones need more streams at once, longer ones let more of other
# traffic into a reading.
LONG_S = 7.0
READINGS = 2
READING_GAP_S = 0.4
# Between a reading and the next: for an end of the paused streams to reach the books.
SETTLE_S = 1.0
PROBE_MAX_TOKENS = 1
# Bytes that the API's own framing of a prompt may add; a token is at least a byte of the prompt.
_PROMPT_FRAME_TOKENS = 64


class CannotPlan(Exception):
    """The account or the model does not allow the experiment; the message says why, and what would."""


@dataclass(frozen=True, slots=True)
class MeasuredPace:
    """What calibration found.

    Attributes:
        ttft_s: seconds from the request to the first text.
        tokens_per_s: of one stream.
        tokens_per_char: of this prompt's answers.
    """

    ttft_s: float
    tokens_per_s: float
    tokens_per_char: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One trial of every arm.

    Attributes:
        streams: in a trial, at once.
        long_tokens: `max_tokens` of a long, aborted or paused stream.
        short_tokens: `max_tokens` of a short stream; the aborted and paused are left there.
        dither_tokens: up to so many tokens, of a random number, are drawn by complete streams beside each trial, and
            taken off again: this makes the headers' rounding a random error that averages out.
        read_at_s: seconds from a trial's start to its readings' middle, when even a whole answer is over.
    """

    streams: int
    long_tokens: int
    short_tokens: int
    dither_tokens: int
    read_at_s: float

    @property
    def rest_tokens(self) -> int:
        """Tokens of a trial that an aborted arm does not read."""
        return self.streams * (self.long_tokens - self.short_tokens)

    def most_output_tokens(self, arm: Arm) -> int:
        """The most that a trial can draw, whatever the provider does after an abort; probes apart."""
        tokens = self.short_tokens if arm == "short" else self.long_tokens
        return self.streams * tokens + self.dither_tokens


def plan(limit: int, pace: MeasuredPace, *, streams_max: int, slack: float) -> Plan:
    """The plan for an account and a model.

    Args:
        limit: output tokens a minute.
        streams_max: streams at once, at most.
        slack: the readings come so many times the expected length after the start.

    Raises:
        CannotPlan: the limit is too high for so few streams.
    """
    refill = limit / 60
    streams = max(1, math.ceil(LONG_REFILL_S / LONG_S * refill / pace.tokens_per_s))
    if streams > streams_max:
        raise CannotPlan(
            f"the account's limit of {limit:,} output tokens a minute refills faster than {streams_max} streams of "
            f"{pace.tokens_per_s:.0f} tokens/s can be seen against; it would take {streams}. A workspace of its own "
            "with a limit of 20,000 to 40,000 makes the experiment possible, and cheap"
        )
    whole = round(LONG_REFILL_S * refill / streams)
    long_s = pace.ttft_s + whole / pace.tokens_per_s
    return Plan(
        streams, whole, round(whole * SHORT_SHARE), min(1000, limit // 8), long_s * slack + READINGS * READING_GAP_S / 2
    )


def input_tokens_at_most(prompt: str) -> int:
    """More than the prompt's tokens."""
    return len(prompt.encode()) + _PROMPT_FRAME_TOKENS


class CapReached(Exception):
    """The next request could, in the worst case, cost more than what is left of the cap."""


class SpendingCap:
    """Keeps a spending cap: what is promised is counted at its worst until its usage is known.

    Args:
        prices: the price table.
        model: what is asked.
        cap_usd: never exceeded, at these prices, whatever the provider charges for unfinished answers.

    Attributes:
        worst_usd: what everything so far can have cost at most: finished answers exactly, others whole.
    """

    def __init__(self, prices: Prices, model: str, cap_usd: float) -> None:
        """
        Raises:
            CannotPlan: the model has no price.
        """
        rates = [prices.rate(model, usage) for usage in ({}, {"inference_geo": "us"})]
        known = [rate for rate in rates if rate is not None]
        if not known:
            raise CannotPlan(f"{model} is not in the price table, so no spending cap can be kept")
        # An operator's workspace may choose the geography, and with it the dearer rate.
        self.rate: Rate = max(known, key=lambda rate: rate.output)
        self.cap_usd, self.worst_usd = cap_usd, 0.0

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """US dollars for so many tokens."""
        return self.rate.cost({"input_tokens": input_tokens}, output_tokens).total

    def promise(self, input_tokens: int, output_tokens: int) -> float:
        """Sets the most that requests can cost aside, and returns it, in US dollars.

        Raises:
            CapReached: the cap does not have it.
        """
        usd = self.cost(input_tokens, output_tokens)
        if self.worst_usd + usd > self.cap_usd:
            raise CapReached(f"the next ${usd:.4f} would pass the cap of ${self.cap_usd:g}")
        self.worst_usd += usd
        return usd

    def settle(self, promised_usd: float, usage: Mapping[str, Any]) -> None:
        """A request finished: its usage takes the place of what was promised for it."""
        actual = self.rate.cost(usage, int(usage.get("output_tokens") or 0)).total
        self.worst_usd += actual - promised_usd
