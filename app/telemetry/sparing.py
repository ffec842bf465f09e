"""Which lines of a flood are said: the first of each kind, and then one a while with how many were not. Pure."""

from __future__ import annotations

# Kinds that are told apart. What comes beyond is one kind, so that a Claude with ever new words fills neither log nor memory.
_MOST_KINDS = 64


class Sparing:
    """Decides what is said of a flood.

    Args:
        quiet_s: for how long a kind is not said again, in seconds.
    """

    def __init__(self, quiet_s: float = 60.0) -> None:
        self._quiet_s = quiet_s
        self._said: dict[str, tuple[float, int]] = {}  # by kind: when it was said last, and how many came since

    def due(self, kind: str, now: float) -> int | None:
        """How many more of its kind have come since it was said last; None: it is not to be said now.

        Args:
            kind: as it would be said.
            now: in seconds.
        """
        if kind not in self._said and len(self._said) >= _MOST_KINDS:
            self._said = {kept: last for kept, last in self._said.items() if now - last[0] < self._quiet_s}
            kind = kind if len(self._said) < _MOST_KINDS else ""
        last = self._said.get(kind)
        if last is not None and now - last[0] < self._quiet_s:
            self._said[kind] = last[0], last[1] + 1
            return None
        self._said[kind] = now, 0
        return last[1] if last is not None else 0
