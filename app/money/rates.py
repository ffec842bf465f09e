"""Tokens an answer's characters stand for, learned online from one model's finished answers. Pure.

The estimate is linear in the tally's features: so many tokens a character of text, of thinking, of tool JSON, so many a
tool call (its name and frame never show as JSON), and so many more for a character outside ASCII. It is a Bayesian
regression: the prior counts as about one answer of 300 tokens, and old answers fade by half a half-life and with their
number. An answer's weight falls with its expected size, which makes a text-only history come out as all its tokens over
all its characters: unbiased for totals, which is what the ledger adds up.

1. One odd answer does not move it: it counts as at most `OUTLIER` times its estimate, and as at most a tenth of what is
   known, whatever its size: once 3,000 tokens are known, it moves the estimate of its kind by no more than 4.5 %.
2. Consistent evidence does, however far off: the latest answers of each kind are kept, and where they leave the estimate
   together, beyond their own scatter, it begins again from them. Another tokenizer is known after some twenty answers.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Sequence
from typing import Any

# Means and standard deviations of the prior, in tokens: from public recordings of several models, deliberately vague.
PRIOR_TOKENS = (0.27, 0.27, 0.35, 38.0, 0.45)
PRIOR_SD = (0.08, 0.15, 0.12, 20.0, 0.30)
# Variance of an answer's tokens about the estimate is this many times its tokens.
_DISPERSION = 16.0
# How far off an answer's estimate is until errors are known, as a share; worth so many tokens of answers.
_PRIOR_SCATTER, _PRIOR_SEEN = 0.2, 1500.0
# What the prior is worth, in tokens of answers, and the most that one answer adds, as a share of what is known.
_PRIOR_TOKENS_SEEN, _MOST_SHARE = 300.0, 0.1
# A finished answer counts as at most this many times its estimate, and at least the inverse.
OUTLIER = 1.5
# After this many further answers one weighs half, so that a slow change is followed within a few thousand.
_HALF_ANSWERS = 1000.0
_N = len(PRIOR_TOKENS)
# Kinds of answers, by what most of their tokens stand for, as features: text, thinking, tool calls, wide characters.
_KINDS = ((0,), (1,), (2, 3), (4,))
# The latest answers of each kind are kept: enough to tell a change of 30 % from answers that scatter by 20 %, few
# enough that sixty alike replace them all. They are looked at once there are eight, and at every fourth.
RECENT = 32
_FEWEST, _LOOK_EVERY = 8, 4
# They have left the estimate when they are off together by more than so many standard errors, and by more than 2 %.
_ERRORS, _LEAST = 4.0, 0.02
# A number above this in a restored file is no sum of what answers hold, so the file is refused.
_MOST = 1e24
# The most that a rate leaves the prior by, as a factor: from 185 characters a token to 13 tokens a character.
_MOST_SHIFT = 50.0


class TokenRates:
    """What is known of one model's tokens a character.

    Args:
        half_life_s: age in seconds at which an answer counts half.

    Attributes:
        learned: how many finished answers were learned from, faded ones included.
        began_again: how often it did so.
    """

    __slots__ = (
        "_as_of", "_came", "_deviations", "_half_life_s", "_means", "_precision", "_recent", "_seen", "_shift", "_solved", "_squares",
        "_weighted", "began_again", "learned",
    )  # fmt: skip

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self._as_of: float | None = None
        self._recent: list[deque[list[float]]] = [deque(maxlen=RECENT) for _ in _KINDS]  # features, then tokens
        self._came = [0] * len(_KINDS)  # how many of each kind
        self.learned = self.began_again = 0
        self._forget()
        self._moved([0.0] * _N)  # by how much each of the prior's means is off, as a logarithm
        self._solved: tuple[float, ...] | None = PRIOR_TOKENS  # None: to be solved again

    def _forget(self) -> None:
        self._precision = [[0.0] * _N for _ in range(_N)]  # what the data say, without the prior
        self._weighted = [0.0] * _N
        self._seen = self._squares = 0.0  # estimated tokens of what was learned from; their errors, squared, by them
        self._solved = None

    @property
    def tokens_each(self) -> tuple[float, ...]:
        """Tokens for one of each feature; never negative."""
        if self._solved is None:
            most = (mean * _MOST_SHIFT for mean in PRIOR_TOKENS)
            self._solved = tuple(min(max(0.0, value), bound) for value, bound in zip(self._solve(), most, strict=True))
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
        if not any(features):
            return
        self._fade(now, answers=1)
        kind = _kind_of(features)
        recent = self._recent[kind]
        recent.append([*map(float, features), float(tokens)])
        self._came[kind] += 1
        self.learned += 1
        if len(recent) >= _FEWEST and self._came[kind] % _LOOK_EVERY == 0 and _left(recent, self.tokens_each):
            self._begin_again(kind)
        else:
            self._take(features, tokens, self.estimate(features))

    def _take(self, features: Sequence[float], tokens: float, known: float) -> None:
        """Adds an answer's evidence, where `known` tokens were expected of it."""
        tokens = min(max(tokens, known / OUTLIER), known * OUTLIER)
        share = min(1.0, max(_PRIOR_TOKENS_SEEN, _MOST_SHARE * self._seen) / max(known, 1.0))
        self._seen += share * known
        self._squares += share * (tokens - known) ** 2 / max(known, 1.0)
        expected = _dot(features, self._means)
        weight = share / (_DISPERSION * max(expected, 1.0))
        for i, left in enumerate(features):
            if left:
                self._weighted[i] += weight * left * tokens
                row = self._precision[i]
                for j, right in enumerate(features):
                    row[j] += weight * left * right
        self._solved = None

    def _begin_again(self, kind: int) -> None:
        """Learns anew, from the kept answers alone; those of this kind say where the rate of theirs is now."""
        each, recent, own = list(self.tokens_each), self._recent[kind], _KINDS[kind]
        for i in own:
            each[i] = max(each[i], PRIOR_TOKENS[i] / _MOST_SHIFT)
        known = [_dot(answer, each) for answer in recent]
        middle = statistics.median((answer[_N] + 1) / (told + 1) for answer, told in zip(recent, known, strict=True))
        # What else is in such answers keeps its rate, so that their own changes by more than the whole.
        part = sum(answer[i] * each[i] for answer in recent for i in own) / sum(known)
        factor = max(1 / _MOST_SHIFT, 1.0 + (middle - 1.0) / part)
        shift = list(self._shift)
        for i in own:
            shift[i] = math.log(min(max(each[i] * factor / PRIOR_TOKENS[i], 1 / _MOST_SHIFT), _MOST_SHIFT))
            each[i] = PRIOR_TOKENS[i] * math.exp(shift[i])
        self._moved(shift)
        self._forget()
        self.began_again += 1
        for kept in self._recent:
            for *features, tokens in kept:
                self._take(features, tokens, _dot(features, each))

    def join(self, theirs: TokenRates, base: TokenRates, now: float) -> None:
        """Adds what others learned since all had `base`: `theirs` less that. Both may be changed.

        What began again since stands alone: what was before it is of another tokenizer.
        """
        if theirs.learned < base.learned:
            return  # they never had what this one had, so the file is of another time
        since = theirs.learned - base.learned
        for rates, answers in ((self, since), (theirs, 0), (base, since)):
            rates._fade(now, answers)  # base as it is in theirs, and this one as theirs would have made it
        new = [own - before for own, before in zip(self._came, base._came, strict=True)]
        if self.began_again == base.began_again != theirs.began_again:
            self._precision, self._weighted = theirs._precision, theirs._weighted
            self._seen, self._squares = theirs._seen, theirs._squares
            self._moved(theirs._shift)
        elif self.began_again == base.began_again:
            self._add(theirs, 1.0)
            self._add(base, -1.0)
        for kept, more, count in zip(self._recent, theirs._recent, new, strict=True):
            own = list(kept)[len(kept) - min(count, len(kept)) :]
            kept.clear()
            kept.extend([*more, *own])
        self._came = [came + count for came, count in zip(theirs._came, new, strict=True)]
        self.learned += since
        self.began_again += theirs.began_again - base.began_again
        self._solved = None

    def _add(self, other: TokenRates, sign: float) -> None:
        self._precision = [
            [mine + sign * more for mine, more in zip(row, rest, strict=True)]
            for row, rest in zip(self._precision, other._precision, strict=True)
        ]
        self._weighted = [mine + sign * more for mine, more in zip(self._weighted, other._weighted, strict=True)]
        self._seen = max(0.0, self._seen + sign * other._seen)
        self._squares = max(0.0, self._squares + sign * other._squares)

    def _moved(self, shift: list[float]) -> None:
        """The prior's means are off by so much; its deviations go with them."""
        factors = [math.exp(value) for value in shift]
        self._shift = shift
        self._means = [mean * factor for mean, factor in zip(PRIOR_TOKENS, factors, strict=True)]
        self._deviations = [sd * factor for sd, factor in zip(PRIOR_SD, factors, strict=True)]
        self._solved = None

    def _fade(self, now: float, answers: int = 0) -> None:
        factor = 0.5 ** (answers / _HALF_ANSWERS)
        if self._as_of is not None and now > self._as_of:
            aged = 0.5 ** ((now - self._as_of) / self._half_life_s)
            factor *= aged
            if any(self._shift):
                self._moved([value * aged for value in self._shift])
        self._as_of = now if self._as_of is None else max(now, self._as_of)
        if factor < 1:
            self._precision = [[value * factor for value in row] for row in self._precision]
            self._weighted = [value * factor for value in self._weighted]
            self._seen, self._squares = self._seen * factor, self._squares * factor
            self._solved = None

    def _solve(self) -> list[float]:
        """Solves (data + prior) x = right side by Gauss; the prior makes the matrix positive definite: no pivoting.

        In units of the prior's standard deviations, since a tool call and a character differ a thousandfold.
        """
        means, sds = self._means, self._deviations
        rows = []
        for i, row in enumerate(self._precision):
            scaled = [value * sds[i] * sds[j] + (i == j) for j, value in enumerate(row)]
            rows.append([*scaled, self._weighted[i] * sds[i] + means[i] / sds[i]])
        for i in range(_N):
            rows[i][i] = max(1.0, rows[i][i])  # the prior makes it so; what was restored may be anything
            for k in range(i + 1, _N):
                factor = rows[k][i] / rows[i][i]
                for j in range(i, _N + 1):
                    rows[k][j] -= factor * rows[i][j]
        answer = [0.0] * _N
        for i in reversed(range(_N)):
            known = sum(rows[i][j] * answer[j] for j in range(i + 1, _N))
            answer[i] = (rows[i][_N] - known) / rows[i][i]
        return [value * sd for value, sd in zip(answer, sds, strict=True)]

    def dump(self, now: float) -> dict[str, Any]:
        """What was learned, as plain JSON; the clock's origin is not in it."""
        self._fade(now)
        return {
            "precision": [list(row) for row in self._precision],
            "weighted": list(self._weighted),
            "seen": self._seen,
            "squares": self._squares,
            "learned": self.learned,
            "began_again": self.began_again,
            "shift": list(self._shift),
            "came": list(self._came),
            "recent": [[list(answer) for answer in kept] for kept in self._recent],
        }

    @classmethod
    def restore(cls, data: dict[str, Any], half_life_s: float, now: float) -> TokenRates:
        """The inverse of `dump`.

        Raises:
            KeyError, ValueError, TypeError, OverflowError: the data are not what `dump` gives.
        """
        rates = cls(half_life_s)
        rates._precision = [_finite(row, _N) for row in _rows(data["precision"], _N)]
        rates._weighted = _finite(data["weighted"], _N)
        rates._seen, rates._squares = _finite([data["seen"], data["squares"]], 2)
        rates.learned = int(_finite([data["learned"]], 1)[0])
        if min(*(rates._precision[i][i] for i in range(_N)), rates._seen, rates._squares, rates.learned) < 0:
            raise ValueError("a sum of squares below zero")
        if "recent" in data:  # a file of before they were kept has none
            most = math.log(_MOST_SHIFT)
            rates._moved([min(max(shift, -most), most) for shift in _finite(data["shift"], _N)])
            rates.began_again = int(_finite([data["began_again"]], 1)[0])
            rates._came = [int(came) for came in _finite(data["came"], len(_KINDS))]
            for kept, saved in zip(rates._recent, _rows(data["recent"], len(_KINDS)), strict=True):
                kept.extend(_finite(answer, _N + 1) for answer in saved[-RECENT:])
            if any(value < 0 for kept in rates._recent for answer in kept for value in answer):
                raise ValueError("an answer of less than nothing: below zero")
        rates._as_of, rates._solved = now, None
        return rates


def _dot(features: Sequence[float], each: Sequence[float]) -> float:
    """Tokens that features stand for; what follows them is not looked at."""
    return sum(map(float.__mul__, each, map(float, features)))


def _kind_of(features: Sequence[float]) -> int:
    tokens = [float(value) * prior for value, prior in zip(features, PRIOR_TOKENS, strict=True)]
    sums = [sum(tokens[i] for i in kind) for kind in _KINDS]
    return sums.index(max(sums))


def _left(recent: Sequence[Sequence[float]], each: Sequence[float]) -> bool:
    """Whether these answers have left the estimate together.

    Three in four are off to the same side, and their sum is off by more than their own scatter explains: that of each
    about the others (leave-one-out residuals), so that one long answer is no evidence.
    """
    known = [_dot(answer, each) for answer in recent]
    off = [min(max(a[_N], told / OUTLIER), told * OUTLIER) - told for a, told in zip(recent, known, strict=True)]
    above, total = sum(error > 0 for error in off), sum(known)
    if total <= 0:
        return True
    if max(above, len(off) - above) < 0.75 * len(off):
        return False
    mean = sum(off) / total
    squares = sum(
        ((error - mean * told) / max(1e-3, 1 - told / total)) ** 2 for error, told in zip(off, known, strict=True)
    )
    return abs(mean) > max(_LEAST, _ERRORS * math.sqrt(squares) / total)


def _rows(value: Any, length: int) -> list[list[Any]]:
    if not isinstance(value, list) or len(value) != length or not all(isinstance(row, list) for row in value):
        raise ValueError(f"expected rates of {_N} features")
    return value


def _finite(values: Any, length: int) -> list[float]:
    numbers = [float(value) for value in values]
    if len(numbers) != length or not all(abs(number) < _MOST for number in numbers):
        raise ValueError(f"expected rates of {_N} features, each a finite number")
    return numbers
