"""Tokens an answer's characters stand for, learned online from one model's finished answers. Pure.

The estimate is linear in the tally's features: so many tokens a character of text, of thinking, of tool JSON, so many a
tool call (its name and frame never show as JSON), and so many more for a character outside ASCII. It is a Bayesian
regression: the prior counts as about one answer of 300 tokens, and old answers fade by half a half-life. An answer's
weight falls with its expected size, which makes a text-only history come out as all its tokens over all its characters:
unbiased for totals, which is what the ledger adds up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

# Means and standard deviations of the prior, in tokens: from public recordings of several models, deliberately vague.
PRIOR_TOKENS = (0.27, 0.27, 0.35, 38.0, 0.45)
PRIOR_SD = (0.08, 0.15, 0.12, 20.0, 0.30)
# Variance of an answer's tokens about the estimate is this many times its tokens.
_DISPERSION = 16.0
# How far off an answer's estimate is until errors are known, as a share; worth so many tokens of answers.
_PRIOR_SCATTER, _PRIOR_SEEN = 0.2, 1500.0
# A finished answer counts as at most this many times its estimate, and at least the inverse.
OUTLIER = 1.5
_N = len(PRIOR_TOKENS)


class TokenRates:
    """What is known of one model's tokens a character.

    Args:
        half_life_s: age in seconds at which an answer counts half.

    Attributes:
        learned: how many finished answers were learned from, faded ones included.
    """

    __slots__ = ("_as_of", "_half_life_s", "_precision", "_seen", "_solved", "_squares", "_weighted", "learned")

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._precision = [[0.0] * _N for _ in range(_N)]  # what the data say, without the prior
        self._weighted = [0.0] * _N
        self._seen = self._squares = 0.0  # estimated tokens of what was learned from; their errors, squared, by them
        self._as_of: float | None = None
        self._solved: tuple[float, ...] | None = PRIOR_TOKENS  # None: to be solved again
        self.learned = 0

    @property
    def tokens_each(self) -> tuple[float, ...]:
        """Tokens for one of each feature; never negative."""
        if self._solved is None:
            self._solved = tuple(max(0.0, value) for value in self._solve())
        return self._solved

    @property
    def scatter(self) -> float:
        """Standard deviation of one answer's estimate, as a share of it."""
        seen, squares = self._seen + _PRIOR_SEEN, self._squares + _PRIOR_SEEN * _PRIOR_SCATTER**2
        return math.sqrt(squares / seen)

    def estimate(self, features: Sequence[float]) -> float:
        """Tokens that these features stand for."""
        return sum(map(float.__mul__, self.tokens_each, map(float, features)))

    def learn(self, features: Sequence[float], tokens: float, now: float) -> None:
        """Takes in a finished answer, or a part of one, whose tokens are known exactly.

        Args:
            features: what was received of it; all zero teaches nothing.
            tokens: how many tokens it was.
            now: seconds, on the ledger's clock.
        """
        expected = sum(value * prior for value, prior in zip(features, PRIOR_TOKENS, strict=True))
        if expected <= 0:
            return
        self._fade(now)
        # An answer far from what its characters say holds something that does not show; it moves the rates, not more.
        known = self.estimate(features)
        tokens = min(max(tokens, known / OUTLIER), known * OUTLIER)
        self._seen += known
        self._squares += (tokens - known) ** 2 / max(known, 1.0)
        weight = 1.0 / (_DISPERSION * max(expected, 1.0))
        for i, left in enumerate(features):
            if left:
                self._weighted[i] += weight * left * tokens
                row = self._precision[i]
                for j, right in enumerate(features):
                    row[j] += weight * left * right
        self.learned += 1
        self._solved = None

    def _fade(self, now: float) -> None:
        if self._as_of is None or now > self._as_of:
            if self._as_of is not None:
                factor = 0.5 ** ((now - self._as_of) / self._half_life_s)
                self._precision = [[value * factor for value in row] for row in self._precision]
                self._weighted = [value * factor for value in self._weighted]
                self._seen, self._squares = self._seen * factor, self._squares * factor
            self._as_of = now

    def _solve(self) -> list[float]:
        """Solves (data + prior) x = right side by Gauss; the prior makes the matrix positive definite: no pivoting.

        In units of the prior's standard deviations, since a tool call and a character differ a thousandfold.
        """
        rows = []
        for i, row in enumerate(self._precision):
            scaled = [value * PRIOR_SD[i] * PRIOR_SD[j] + (i == j) for j, value in enumerate(row)]
            rows.append([*scaled, self._weighted[i] * PRIOR_SD[i] + PRIOR_TOKENS[i] / PRIOR_SD[i]])
        for i in range(_N):
            for k in range(i + 1, _N):
                factor = rows[k][i] / rows[i][i]
                for j in range(i, _N + 1):
                    rows[k][j] -= factor * rows[i][j]
        answer = [0.0] * _N
        for i in reversed(range(_N)):
            known = sum(rows[i][j] * answer[j] for j in range(i + 1, _N))
            answer[i] = (rows[i][_N] - known) / rows[i][i]
        return [value * sd for value, sd in zip(answer, PRIOR_SD, strict=True)]

    def dump(self, now: float) -> dict[str, Any]:
        """What was learned, as plain JSON; the clock's origin is not in it."""
        self._fade(now)
        return {
            "precision": [list(row) for row in self._precision],
            "weighted": list(self._weighted),
            "seen": self._seen,
            "squares": self._squares,
            "learned": self.learned,
        }

    @classmethod
    def restore(cls, data: dict[str, Any], half_life_s: float, now: float) -> TokenRates:
        """The inverse of `dump`.

        Raises:
            KeyError, ValueError, TypeError: the data are not what `dump` gives.
        """
        rates = cls(half_life_s)
        precision = [[float(value) for value in row] for row in data["precision"]]
        weighted = [float(value) for value in data["weighted"]]
        if len(weighted) != _N or len(precision) != _N or any(len(row) != _N for row in precision):
            raise ValueError(f"expected rates of {_N} features")
        rates._precision, rates._weighted, rates.learned = precision, weighted, int(data["learned"])
        rates._seen, rates._squares = float(data["seen"]), float(data["squares"])
        rates._as_of, rates._solved = now, None
        return rates
