"""What the readings decide, and how surely. Pure statistics.

The experiment is a randomised block design. Every block holds four arms, in random order, that differ in nothing but
this: *short* streams are complete after few tokens, *long* ones complete after many, *aborted* and *paused* ones are
to be long and are left where the short ones end. Every arm's reading is what the account lost over the same span of time. So refill, other
traffic and the headers' rounding fall on all arms alike, and where an aborted stream's reading lies between the two
known ones is the share of the unread rest that was drawn all the same: 0, it stopped; 1, it never did.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from statistics import fmean

# The headers' remaining tokens are rounded to thousands (Messages API, rate limits).
ROUNDED_TO = 1000
# A reading's variance is never taken for less than what rounding alone does.
_ROUNDING_VARIANCE = ROUNDED_TO**2 / 12
# Chance, over all looks at the growing data together, that an interval misses the truth.
ALPHA = 0.02
FEWEST_BLOCKS = 3
# Below the first share of the rest it counts as stopped at once, above the second as all of it.
AT_ONCE_BELOW, WHOLE_ABOVE = 0.2, 0.8
# The known streams must show themselves in the headers with this share of their tokens.
_TRUE_WITHIN = (0.7, 1.3)

Readings = Mapping[str, Sequence[float]]


class Verdict(Enum):
    """Where the share of the unread rest lies."""

    AT_ONCE = "at_once"
    A_WHILE = "a_while"
    WHOLE = "whole"
    UNCLEAR = "could_not_tell"


@dataclass(frozen=True, slots=True)
class Share:
    """Which share of the tokens that nobody read was drawn from the account.

    Attributes:
        estimate: the best guess.
        low, high: the interval's ends; infinite where the data bound nothing.
    """

    estimate: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        if self.high <= AT_ONCE_BELOW:
            return Verdict.AT_ONCE
        if self.low >= WHOLE_ABOVE:
            return Verdict.WHOLE
        if self.low >= AT_ONCE_BELOW and self.high <= WHOLE_ABOVE:
            return Verdict.A_WHILE
        return Verdict.UNCLEAR


UNKNOWN = Share(math.nan, -math.inf, math.inf)


def share(readings: Readings, arm: str, *, overshoot: float, looks: int) -> Share:
    """The share of the unread rest that `arm`'s streams drew, with its interval.

    Fieller's interval for a ratio of differences of means; the variance is what blocks and arms leave unexplained.

    Args:
        readings: tokens lost by the account, of each arm, block by block; `short` and `long` are the known arms.
        arm: the one in question.
        overshoot: tokens received beyond the short arm's, on average of the arm's blocks.
        looks: how often the growing data are looked at, at most; the interval allows for it (Bonferroni).
    """
    blocks = len(readings["short"])
    if blocks < 2:
        return UNKNOWN
    at_short, at_long, at_arm = (fmean(readings[name]) for name in ("short", "long", arm))
    lost, whole = at_arm - at_short - overshoot, at_long - at_short - overshoot
    variance, freedom = _residual_variance(readings)
    spread = student_quantile(1 - ALPHA / looks / 2, freedom) ** 2 * max(variance, _ROUNDING_VARIANCE) / blocks
    # (lost - s * whole)^2 <= spread * (1 + (1 - s)^2 + s^2), solved for s.
    a, b, c = whole**2 - 2 * spread, lost * whole - spread, lost**2 - 2 * spread
    root = b * b - a * c
    if a <= 0 or whole <= 0 or root < 0:
        return UNKNOWN
    return Share(lost / whole, (b - math.sqrt(root)) / a, (b + math.sqrt(root)) / a)


def headers_tell(readings: Readings, known_rest: float) -> float:
    """How much of the known streams' difference the headers show; 1 where they can be trusted.

    Args:
        known_rest: by how many tokens the long arm's streams are longer than the short arm's, by their own usage.
    """
    return (fmean(readings["long"]) - fmean(readings["short"])) / known_rest


def trustworthy(told: float) -> bool:
    """Whether headers that show this share of what is known can be believed for what is not."""
    return _TRUE_WITHIN[0] <= told <= _TRUE_WITHIN[1]


def _residual_variance(readings: Readings) -> tuple[float, int]:
    """Variance of one reading about its arm's and its block's means, and its degrees of freedom."""
    arms = [list(values) for values in readings.values()]
    blocks = len(arms[0])
    of_arm = [fmean(values) for values in arms]
    of_block = [fmean(values[i] for values in arms) for i in range(blocks)]
    overall = fmean(of_arm)
    squares = sum(
        (value - of_arm[a] - of_block[i] + overall) ** 2
        for a, values in enumerate(arms)
        for i, value in enumerate(values)
    )
    freedom = (len(arms) - 1) * (blocks - 1)
    return squares / freedom, freedom


@lru_cache(maxsize=256)
def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t distribution, for a probability of at least one half."""
    low, high = 0.0, 1e6
    while high - low > 1e-9 * (1 + low):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_below(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _student_below(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0: the finite sums for whole degrees of freedom (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    term = cosine if freedom % 2 else 1.0
    total = 0.0
    for i in range(freedom % 2 + 1, freedom, 2):
        total += term
        term *= cosine**2 * i / (i + 1)
    within = 2 / math.pi * (angle + sine * total) if freedom % 2 else sine * total
    return (1 + within) / 2
