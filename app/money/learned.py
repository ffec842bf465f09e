"""What is known of one model from its answers: tokens a character, and how long answers of each kind are. Pure."""

from __future__ import annotations

from typing import Any

from .rates import TokenRates
from .survival import Curve

# Answers are told apart by classes of `max_tokens`, because who asks for at most 256 tokens wants another kind of
# answer.
MAX_TOKENS_CLASSES = (256, 1024, 4096, 16384, 65536)


class Learned:
    """What is known of one model.

    Args:
        half_life_s: age in seconds at which what was learned counts half.

    Attributes:
        rates: its tokens a character.
    """

    def __init__(self, half_life_s: float) -> None:
        self._half_life_s = half_life_s
        self.rates = TokenRates(half_life_s)
        self._curves: dict[tuple[int, bool], Curve] = {}

    def curve(self, max_tokens: int, hidden: bool) -> Curve:
        """The curve of answers with about this bound. Those with hidden thinking have one of visible tokens."""
        kind = sum(max_tokens > bound for bound in MAX_TOKENS_CLASSES)
        if (curve := self._curves.get((kind, hidden))) is None:
            curve = self._curves[kind, hidden] = Curve(self._half_life_s)
        return curve

    def join(self, theirs: Learned, base: Learned, now: float) -> None:
        """Adds what others learned since all had `base`: `theirs` less that. Both may be changed."""
        self.rates.join(theirs.rates, base.rates, now)
        for key, curve in theirs._curves.items():
            mine = self._curves.setdefault(key, Curve(self._half_life_s))
            mine.join(curve, base._curves.get(key) or Curve(self._half_life_s), now)

    def dump(self, now: float) -> dict[str, Any]:
        """What is known, as plain JSON."""
        curves = [
            {"class": kind, "hidden": hidden, **curve.dump(now)} for (kind, hidden), curve in self._curves.items()
        ]
        return {"rates": self.rates.dump(now), "curves": curves}

    @classmethod
    def restore(cls, data: dict[str, Any], half_life_s: float, now: float) -> Learned:
        """The inverse of `dump`.

        Raises:
            KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError: the data are not what it gives.
        """
        model = cls(half_life_s)
        model.rates = TokenRates.restore(data["rates"], half_life_s, now)
        for saved in data["curves"]:
            key = int(saved["class"]), bool(saved["hidden"])
            if not 0 <= key[0] <= len(MAX_TOKENS_CLASSES):
                raise ValueError(f"no class {key[0]} of max_tokens")
            model._curves[key] = Curve.restore(saved, half_life_s, now)
        return model
