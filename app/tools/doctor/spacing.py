"""How events are spaced on arrival, beside how they were sent: what holds them back shows, whatever the clocks say. Pure.

Two clocks are never compared. Only gaps are: those between sends, by the sender's clock, and those between arrivals, by
ours. Where this process itself was late, what came meanwhile proves nothing and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import median

# Two events came together if the gap between them has shrunk to less than this share of what it was.
_TOGETHER = 0.25
# So many neighbours are needed to say anything, and such a share of them must have come together. A busy machine joins
# some; a buffer joins nearly all.
_LEAST_PAIRS = 5
_LEAST_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event.

    Attributes:
        sent_s: by the sender's clock.
        came_s: by ours.
        size_bytes: of it, as it came.
    """

    sent_s: float
    came_s: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Spacing:
    """What the arrivals show.

    Attributes:
        events: so many arrived.
        pairs: neighbours that could be judged.
        together: of those, how many came together although they were sent apart.
        held_s: how much longer the first one was on its way than the quickest.
        clumps: how many groups the events came in.
        clump_bytes: the median size of a whole group; 0 where there was only one.
    """

    events: int
    pairs: int
    together: int
    held_s: float
    clumps: int
    clump_bytes: int

    @property
    def is_judged(self) -> bool:
        """Whether enough could be judged to say anything."""
        return self.pairs >= _LEAST_PAIRS

    @property
    def is_clumped(self) -> bool:
        """Whether something on the way holds events back and lets them go together."""
        return self.is_judged and self.together >= _LEAST_SHARE * self.pairs


def spacing_of(arrivals: Sequence[Arrival], late: Sequence[tuple[float, float]] = ()) -> Spacing:
    """Judges arrivals.

    Args:
        arrivals: in their order.
        late: when this process could not read, as (from, to) by our clock.
    """
    if not arrivals:
        return Spacing(0, 0, 0, 0.0, 0, 0)
    gaps = [(after.sent_s - before.sent_s, before, after) for before, after in pairwise(arrivals)]
    usual_s = median(gap for gap, _, _ in gaps) if gaps else 0.0
    judged = [
        (after.came_s - before.came_s) < _TOGETHER * gap
        for gap, before, after in gaps
        if gap > usual_s / 2 and not any(begin <= after.came_s and before.came_s - gap <= end for begin, end in late)
    ]
    ways = [one.came_s - one.sent_s for one in arrivals]
    sizes = _clumps(arrivals, usual_s)
    return Spacing(
        len(arrivals),
        len(judged),
        sum(judged),
        ways[0] - min(ways),
        len(sizes),
        round(median(sizes[:-1])) if len(sizes) > 1 else 0,  # the last one is what was left over
    )


def _clumps(arrivals: Sequence[Arrival], usual_s: float) -> list[int]:
    numbers = [0]
    for before, after in pairwise(arrivals):
        numbers.append(numbers[-1] + (after.came_s - before.came_s >= _TOGETHER * usual_s))
    numbered = zip(numbers, arrivals, strict=True)
    return [sum(one.size_bytes for _, one in group) for _, group in groupby(numbered, key=lambda pair: pair[0])]
