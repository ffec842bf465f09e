"""What a bench's rounds amount to: rounds that can be believed, ratios to nginx within a round, their median and spread. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

# Tokens come every 20 ms. A reader of nginx's that sees them later at the median was late itself.
NGINX_GAP_LIMIT_MS = 22.0
BASE = "nginx"
OURS = "sluiceway"
STRAIGHT = "straight"  # from Claude itself, over the same long link


@dataclass(frozen=True, slots=True)
class Cost:
    """One contender, once: what passing the tokens on cost, and when they came.

    Attributes:
        contender: its name.
        streams: at the same time.
        failed: those of them that did not come to a good end.
        cpu_us: CPU a token generated, in microseconds.
        tokens_per_s: generated.
        delivered: share of the tokens generated that readers got.
        wire_bytes: read from the sockets a token.
        ttft_p50_ms, ttft_p99_ms, gap_p50_ms, gap_p99_ms: as readers saw it.
        own_lag_p99_ms: how late the load generator was itself.
    """

    contender: str
    streams: int
    failed: int
    cpu_us: float
    tokens_per_s: float
    delivered: float
    wire_bytes: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    gap_p50_ms: float
    gap_p99_ms: float
    own_lag_p99_ms: float


# One cost of each contender, measured one right after the other.
Round = Mapping[str, Cost]


def believable(round_: Round) -> bool:
    """Whether the load generator kept up, as nginx's own gaps show, and nginx served everyone."""
    base = round_.get(BASE)
    return base is None or (base.gap_p50_ms <= NGINX_GAP_LIMIT_MS and not base.failed)


@dataclass(frozen=True, slots=True)
class Middle:
    """The median of some figures, and from where to where they went."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Middle:
        """Raises ValueError where there are none."""
        found = list(values)
        if not found:
            raise ValueError("no figures")
        return cls(statistics.median(found), min(found), max(found))

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.median:.3g}"
        return f"{self.median:.3g} ({self.low:.3g}–{self.high:.3g})"


@dataclass(frozen=True, slots=True)
class Summary:
    """A contender over all rounds that count.

    Attributes:
        rounds: how many those were.
        figures: by the name of the figure.
        ratio: CPU a token to nginx's in the same round; None where nginx did not run.
        ttft_p50_more_ms, ttft_p99_more_ms: time to the first token above nginx's in the same round.
    """

    contender: str
    streams: int
    rounds: int
    figures: Mapping[str, Middle]
    ratio: Middle | None
    ttft_p50_more_ms: Middle | None
    ttft_p99_more_ms: Middle | None

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` gave, read again."""
        more = ("ratio", "ttft_p50_more_ms", "ttft_p99_more_ms")
        figures = {name: Middle(**middle) for name, middle in found["figures"].items()}
        middles = {name: Middle(**found[name]) if found[name] is not None else None for name in more}
        return cls(found["contender"], found["streams"], found["rounds"], figures, **middles)


_FIGURES = tuple(name for name in Cost.__dataclass_fields__ if name not in ("contender", "streams"))


def summarise(rounds: Sequence[Round]) -> list[Summary]:
    """One summary a contender, nginx first; rounds that cannot be believed are left out.

    Raises:
        ValueError: no round can be believed.
    """
    kept = [round_ for round_ in rounds if believable(round_)]
    if not kept:
        raise ValueError("the load generator fell behind in every round")
    found = []
    for name in sorted(kept[0], key=lambda name: (name != BASE, name)):
        costs = [round_[name] for round_ in kept]
        figures = {figure: Middle.of(getattr(cost, figure) for cost in costs) for figure in _FIGURES}
        ratio = ttft_p50 = ttft_p99 = None
        if BASE in kept[0] and name != BASE:
            pairs = [(round_[name], round_[BASE]) for round_ in kept]
            ratio = Middle.of(one.cpu_us / base.cpu_us for one, base in pairs)
            ttft_p50 = Middle.of(one.ttft_p50_ms - base.ttft_p50_ms for one, base in pairs)
            ttft_p99 = Middle.of(one.ttft_p99_ms - base.ttft_p99_ms for one, base in pairs)
        found.append(Summary(name, costs[0].streams, len(kept), figures, ratio, ttft_p50, ttft_p99))
    return found


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        first_s: from asking, with connecting where that was needed, to its first byte, in seconds.
        all_s: to its last byte.
    """

    first_s: float
    all_s: float


@dataclass(frozen=True, slots=True)
class FarSummary:
    """How the service's answers were beside straight ones.

    Attributes:
        distance: in words.
        ratio: of the whole times, within a pair.
        flow_ratio: of the times from the first byte on, where a warm connection hides nothing.
        first_s: time to the first byte by who was asked, in seconds; a straight one connects anew.
        all_s: the whole time.
    """

    distance: str
    ratio: Middle
    flow_ratio: Middle
    first_s: Mapping[str, Middle]
    all_s: Mapping[str, Middle]

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` gave, read again."""
        first_s, all_s = ({who: Middle(**one) for who, one in found[name].items()} for name in ("first_s", "all_s"))
        return cls(found["distance"], Middle(**found["ratio"]), Middle(**found["flow_ratio"]), first_s, all_s)


Pair = Mapping[str, Answer]


def summarise_far(distance: str, pairs: Sequence[Pair]) -> FarSummary:
    """Raises ValueError where there are no pairs."""

    def flow_s(answer: Answer) -> float:
        return answer.all_s - answer.first_s

    return FarSummary(
        distance=distance,
        ratio=Middle.of(pair[OURS].all_s / pair[STRAIGHT].all_s for pair in pairs),
        flow_ratio=Middle.of(flow_s(pair[OURS]) / flow_s(pair[STRAIGHT]) for pair in pairs),
        first_s={who: Middle.of(pair[who].first_s for pair in pairs) for who in (STRAIGHT, OURS)},
        all_s={who: Middle.of(pair[who].all_s for pair in pairs) for who in (STRAIGHT, OURS)},
    )
