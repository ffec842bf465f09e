"""How long answers are: a Kaplan-Meier curve of lengths in tokens, and what an aborted one would still have cost. Pure.

A finished answer is an event at its length; one that was aborted, failed or ran into its `max_tokens` is censored: it
would have been longer, nobody knows by how much. Lengths fall into bins, exact to 32 tokens and 3 % wide above, so that
memory is bounded whatever comes; observations fade with age.

1. Beyond the longest finished answer the curve goes on as an exponential through its last point (Brown, Hollander and
   Korwar 1974), and every mean is restricted to the stream's `max_tokens`. A constant there, the other textbook choice,
   would book tens of thousands of tokens on one long aborted answer.
2. In a bin wider than one token half of the censored count as gone before its events (the actuarial rule).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ENOUGH_FINISHED = 50
_EXACT_TOKENS = 32  # below, a bin is one length
_STEP = math.log(1.03)
_BINS = _EXACT_TOKENS + 360  # the last one begins at 1.3 million tokens and holds all beyond
_FADE_STEP = 1 / 200  # of a half-life: fading touches every bin, so it is done in steps
_COLUMNS = ("_events", "_tokens", "_censored", "_censored_tokens", "_aborted")
_MOST = 1e18  # a weight above this is no sum of observations, because answers are below 2**53 tokens
# Half the width of a 90 % interval of a total, in standard deviations: Student's t with ten degrees of freedom, not the
# normal's 1.645. The variance is itself an estimate, and the errors that dominate a total stem from its first streams,
# judged by some fifty answers of very unequal length. Chosen on simulated streams; `make audit` shows what it covers.
T_90 = 1.8125


def bin_of(tokens: float) -> int:
    """The bin that a length falls into."""
    if tokens < _EXACT_TOKENS:
        return int(tokens)
    return min(_BINS - 1, _EXACT_TOKENS + int(math.log(tokens / _EXACT_TOKENS) / _STEP))


@dataclass(frozen=True, slots=True)
class Remaining:
    """What an aborted answer would still have generated; tokens.

    Attributes:
        mean: expected value.
        low, high: the middle 90 % of this one answer.
        variance: what this answer adds to the variance of the total over all that were asked of this curve: its own
            scatter, and the curve's error, which it shares with those before it.
    """

    mean: float
    low: float
    high: float
    variance: float


class Curve:
    """The lengths of one kind of answer.

    Args:
        half_life_s: age in seconds at which an observation counts half.
    """

    __slots__ = ("_aborted", "_as_of", "_at_risk", "_censored", "_censored_tokens", "_events", "_fresh", "_half_life_s",
                 "_last", "_mass", "_mass_x", "_mass_xx", "_steps", "_survival", "_tail_hazard", "_tokens")  # fmt: skip

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._as_of: float | None = None
        self._events = [0.0] * _BINS  # weight of finished answers, by bin
        self._tokens = [0.0] * _BINS  # the sum of their lengths: a bin's events stand at their mean
        self._censored = [0.0] * _BINS
        self._censored_tokens = [0.0] * _BINS
        self._aborted = [0.0] * _BINS  # those that `remaining` was asked for, for the covariance
        self._fresh = False  # what follows is derived, by `_derive`, and True says it is of these observations

    @property
    def finished(self) -> float:
        """Weight of the finished answers: their number, faded by age."""
        return sum(self._events)

    @property
    def enough(self) -> bool:
        """Whether there are enough finished answers to expect anything."""
        return self.finished >= ENOUGH_FINISHED

    def observe(self, tokens: float, finished: bool, now: float, unsure: float = 0.0) -> None:
        """Takes in an answer that came to this length, finished or cut there.

        Args:
            tokens: its length.
            finished: it ended by itself; False means it would have been longer.
            now: seconds, on the ledger's clock.
            unsure: standard deviation of `tokens`, where a cut answer's length is an estimate. It is then shared out
                over two lengths: left where it seems to be, an overestimate would stand among answers longer than
                itself and make all of them look longer (by some 3 % of what was avoided, measured).
        """
        self._fade(now)
        if finished:
            j = bin_of(tokens)
            self._events[j] += 1
            self._tokens[j] += tokens
        else:
            for length, share in self._two_lengths(tokens, unsure):
                j = bin_of(length)
                self._censored[j] += share
                self._censored_tokens[j] += share * length
        self._fresh = False

    def _two_lengths(self, tokens: float, unsure: float) -> Sequence[tuple[float, float]]:
        """The lengths an uncertain one may be, a deviation off, each as likely as answers reach it."""
        if not unsure:
            return ((tokens, 1.0),)
        self._derive()
        less, more = max(0.0, tokens - unsure), tokens + unsure
        reach_less, reach_more = self._mass[self._after(less)], self._mass[self._after(more)]
        share = reach_less / (reach_less + reach_more) if reach_less else 0.5
        return ((less, share), (more, 1.0 - share))

    def remaining(self, generated: float, max_tokens: int, unsure: float = 0.0) -> Remaining:
        """What an answer cut at `generated` tokens would still have generated, E[min(L, max_tokens) - g | L > g].

        Each call counts as one aborted answer in the covariance of the total. Observe the answer itself first.

        Args:
            generated: tokens it had.
            max_tokens: the most it could have had.
            unsure: standard deviation of `generated`, where that is an estimate: the mean is then taken over it, and
                what it differs by there adds to the variance.
        """
        self._derive()
        g, cap = float(generated), float(max_tokens)
        if cap <= g:
            return Remaining(0.0, 0.0, 0.0, 0.0)
        start, end = self._after(g), self._after(cap)
        alive = self._mass[start]
        mean, square = self._moments(start, end, g, cap)
        variance = max(0.0, square - mean * mean) + self._shared_error(start, end, cap, alive)
        if unsure:
            (less, share), (more, _) = self._two_lengths(g, unsure)
            mean_less, mean_more = (
                self._moments(self._after(x), end, x, cap)[0] for x in (min(less, cap), min(more, cap))
            )
            mean = share * mean_less + (1.0 - share) * mean_more
            variance += share * (1.0 - share) * (mean_less - mean_more) ** 2
        self._aborted[min(start, _BINS - 1)] += 1
        return Remaining(
            mean,
            self._quantile(start, alive, 0.05, g, cap) - g,
            self._quantile(start, alive, 0.95, g, cap) - g,
            variance,
        )

    def mean_left(self, generated: float, max_tokens: int) -> float:
        """The mean of `remaining` for an answer that still runs; nothing is counted.

        Args:
            generated: tokens it has.
            max_tokens: the most it can have.
        """
        self._derive()
        g, cap = float(generated), float(max_tokens)
        return self._moments(self._after(g), self._after(cap), g, cap)[0] if g < cap else 0.0

    def survival(self, tokens: float) -> float:
        """The share of answers longer than this, or than the longest observed; 1 without observations."""
        self._derive()
        return self._mass[self._after(tokens)]

    def _position(self, j: int) -> float:
        return self._tokens[j] / self._events[j]

    def _after(self, tokens: float) -> int:
        """The first bin whose events lie beyond this length."""
        j = bin_of(tokens)
        return j if self._events[j] > 0 and self._position(j) > tokens else j + 1

    def _derive(self) -> None:
        """Computes the curve from the observations: masses of events and their moments, summed from the far end."""
        if self._fresh:
            return
        self._fresh = True
        events, censored = self._events, self._censored
        at_risk = sum(events) + sum(censored)
        survival, self._last = 1.0, 0.0
        self._survival = [1.0] * (_BINS + 1)  # before each bin's events
        self._steps: list[tuple[int, float, float]] = []  # bin, position, variance of its hazard
        masses: list[tuple[int, float, float]] = []
        for j in range(_BINS):
            self._survival[j] = survival
            d, c = events[j], censored[j]
            if d > 0:
                exposed = at_risk - (c / 2 if j >= _EXACT_TOKENS else 0.0)
                hazard = min(1.0, d / exposed)
                x = self._tokens[j] / d
                masses.append((j, x, survival * hazard))
                self._steps.append((j, x, d / (exposed * (exposed - d)) if exposed - d > 1e-9 else 0.0))
                survival *= 1.0 - hazard
            if d + c > 0:
                self._last = (self._tokens[j] + self._censored_tokens[j]) / (d + c)
            at_risk -= d + c
        if survival < 1e-9:
            survival = 0.0
        self._survival[_BINS] = survival
        self._tail_hazard = -math.log(survival) / self._last if 0 < survival < 1 and self._last > 0 else 0.0
        self._sum_up(masses, survival)

    def _sum_up(self, masses: Sequence[tuple[int, float, float]], survival: float) -> None:
        # Entry j of each: over the events in bin j and beyond; the mass includes the tail, the moments do not.
        self._mass = [survival] * (_BINS + 1)
        self._mass_x = [0.0] * (_BINS + 1)
        self._mass_xx = [0.0] * (_BINS + 1)
        m, mx, mxx, upper = survival, 0.0, 0.0, _BINS
        for j, x, p in reversed(masses):
            for i in range(j + 1, upper + 1):
                self._mass[i], self._mass_x[i], self._mass_xx[i] = m, mx, mxx
            m, mx, mxx, upper = m + p, mx + p * x, mxx + p * x * x, j
        for i in range(upper + 1):
            self._mass[i], self._mass_x[i], self._mass_xx[i] = m, mx, mxx

    def _tail(self, origin: float, cap: float) -> tuple[float, float, float]:
        """Of the answers beyond the last observation: where they begin, and first and second moment of how far."""
        begin = min(max(self._last, origin), cap)
        room, hazard = cap - begin, self._tail_hazard
        if hazard * room < 1e-9:
            return begin, room, room * room
        gone = -math.expm1(-hazard * room)
        return begin, gone / hazard, max(0.0, 2 * (gone - hazard * room * math.exp(-hazard * room)) / hazard**2)

    def _moments(self, start: int, end: int, g: float, cap: float) -> tuple[float, float]:
        alive = self._mass[start]
        if alive <= 0:  # this one was longer than the longest known, which had finished, so nothing is known
            return 0.0, 0.0
        within = alive - self._mass[end]
        x = self._mass_x[start] - self._mass_x[end]
        xx = self._mass_xx[start] - self._mass_xx[end]
        tail = self._survival[_BINS]
        capped = self._mass[end] - tail  # events known to lie beyond the cap: cut at it
        begin, far, far_square = self._tail(g, cap)
        offset = begin - g
        first = (x - g * within) + capped * (cap - g) + tail * (offset + far)
        second = (xx - 2 * g * x + g * g * within) + capped * (cap - g) ** 2
        second += tail * (offset * offset + 2 * offset * far + far_square)
        return first / alive, second / alive

    def _shared_error(self, start: int, end: int, cap: float, alive: float) -> float:
        """The curve's own error in this mean, and twice its covariance with all means given before (Greenwood).

        A mean given early used fewer answers; what its error shares with today's is today's variance, since today's
        curve contains those answers.
        """
        if alive <= 0:
            return 0.0
        begin, far, _ = self._tail(0.0, cap)
        beyond = (self._mass[end] - self._survival[_BINS]) * cap + self._survival[_BINS] * (begin + far)
        total = before = 0.0
        reached = 0
        for j, x, hazard_variance in self._steps:
            for i in range(reached, j + 1):
                if self._aborted[i] and self._mass[i]:
                    before += self._aborted[i] / self._mass[i]
            reached = j + 1
            if j >= end:
                break
            if j >= start:
                # What the answers longer than x have yet to come: the integral of the curve from x to the cap.
                area = self._mass_x[j + 1] - self._mass_x[end] + beyond - x * self._mass[j + 1]
                total += hazard_variance * area * area * (2 * before + 1 / alive)
        return total / alive

    def _quantile(self, start: int, alive: float, share: float, g: float, cap: float) -> float:
        """The length that this share of the answers alive at bin `start` does not pass."""
        left = alive * (1.0 - share)
        if alive <= 0:
            return cap
        for j, x, _ in self._steps:
            if j >= start and self._mass[j + 1] <= left:
                return min(x, cap)
        tail = self._survival[_BINS]
        if self._tail_hazard == 0.0 or left <= 0:
            return cap
        return min(cap, max(self._last, g) + math.log(tail / left) / self._tail_hazard)

    def join(self, theirs: Curve, base: Curve, now: float) -> None:
        """Adds what others observed since all had `base`: `theirs` less that. Both may be changed."""
        for curve in (self, theirs, base):
            curve._fade(now, at_once=True)
        for name in _COLUMNS:
            columns = (getattr(curve, name) for curve in (self, theirs, base))
            sums = [own + more - less for own, more, less in zip(*columns, strict=True)]
            setattr(self, name, [weight if weight > 0 else 0.0 for weight in sums])
        self._fresh = False

    def _fade(self, now: float, *, at_once: bool = False) -> None:
        if self._as_of is None:
            self._as_of = now
        elif now - self._as_of >= (0.0 if at_once else self._half_life_s * _FADE_STEP):
            factor = 0.5 ** ((now - self._as_of) / self._half_life_s)
            for name in _COLUMNS:
                # A weight too small to count is dropped, so that nothing lingers as a denormal number.
                setattr(self, name, [value * factor if value > 1e-6 else 0.0 for value in getattr(self, name)])
            self._as_of, self._fresh = now, False

    def dump(self, now: float) -> dict[str, Any]:
        """The observations as plain JSON, only bins in use; the clock's origin is not in it."""
        self._fade(now)
        columns = zip(*(getattr(self, name) for name in _COLUMNS), strict=True)
        rows = {str(j): list(row) for j, row in enumerate(columns) if any(row)}
        return {"bins": rows, "faded_to_s": 0.0 if self._as_of is None else max(0.0, now - self._as_of)}

    @classmethod
    def restore(cls, data: dict[str, Any], half_life_s: float, now: float) -> Curve:
        """The inverse of `dump`.

        Raises:
            KeyError, ValueError, TypeError, AttributeError, OverflowError: the data are not what `dump` gives.
        """
        curve = cls(half_life_s)
        columns = [getattr(curve, name) for name in _COLUMNS]
        for key, weights in data["bins"].items():
            j = int(key)
            if not 0 <= j < _BINS:
                raise ValueError(f"no bin {key}")
            for column, weight in zip(columns, weights, strict=True):
                if not 0 <= weight < _MOST:
                    raise ValueError(f"a weight that is none in bin {key}")
                column[j] = float(weight)
        faded_s = float(data["faded_to_s"])
        if not 0 <= faded_s < math.inf:
            raise ValueError("faded to a time to come")
        curve._as_of = now - faded_s
        return curve
