"""What is counted while a load test runs: spreads of times, what became of each stream, second by second. Pure."""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .plan import Kind

# A hundred buckets to a factor of e: percentiles are off by at most half of one per cent, whatever the range.
_BUCKETS_A_FACTOR = 100
_LEAST_S = 1e-6


class Spread:
    """A histogram of durations in logarithmic buckets: bounded memory, percentiles to within 1 %.

    Attributes:
        count: how many were added.
        total_s: their sum, in seconds.
        most_s: the largest, exactly.
    """

    __slots__ = ("_buckets", "count", "most_s", "total_s")

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.count = 0
        self.total_s = 0.0
        self.most_s = 0.0

    def add(self, seconds: float) -> None:
        self._buckets[math.floor(math.log(max(seconds, _LEAST_S)) * _BUCKETS_A_FACTOR)] += 1
        self.count += 1
        self.total_s += seconds
        self.most_s = max(self.most_s, seconds)

    def merge(self, other: Spread) -> None:
        """Adds all that the other holds."""
        self._buckets.update(other._buckets)
        self.count += other.count
        self.total_s += other.total_s
        self.most_s = max(self.most_s, other.most_s)

    def at(self, share: float) -> float | None:
        """The duration in seconds below which this share (0 to 1) of them lies; None where there is none."""
        if not self.count:
            return None
        wanted, seen = share * self.count, 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= wanted:
                return min(self.most_s, math.exp((bucket + 0.5) / _BUCKETS_A_FACTOR))
        raise AssertionError("the buckets hold as many as were counted")


def merged(spreads: Iterable[Spread]) -> Spread:
    """All of them as one."""
    whole = Spread()
    for spread in spreads:
        whole.merge(spread)
    return whole


class End(enum.Enum):
    """What became of one stream, as its reader saw it."""

    COMPLETE = "complete"  # to the last event of a good answer
    LEFT = "left"  # by the reader, as planned
    REFUSED = "refused"  # with 429, 503 or 529: try again later
    REJECTED = "rejected"  # with any other status than 200
    FAILED = "failed"  # an error came in the stream
    CUT = "cut"  # the connection ended before the last event
    UNREACHABLE = "unreachable"  # it could not be connected
    TIMED_OUT = "timed out"  # not over within the time a stream is given
    GARBLED = "garbled"  # frames lost or repeated, or no HTTP at all

    @property
    def is_error(self) -> bool:
        return self not in (End.COMPLETE, End.LEFT, End.REFUSED)


@dataclass(slots=True)
class KindFigures:
    """What the readers of one kind met.

    Attributes:
        ends: what became of their streams.
        ttft: from asking to the first content.
        gaps: between two reads with content.
        contents, words: events with content, and how often the question's word stood in them.
        wire_bytes: read from the sockets, with heads and framing.
    """

    ends: Counter[End] = field(default_factory=Counter)
    ttft: Spread = field(default_factory=Spread)
    gaps: Spread = field(default_factory=Spread)
    contents: int = 0
    words: int = 0
    wire_bytes: int = 0


@dataclass(slots=True)
class Second:
    """One second of the test.

    Attributes:
        asked, ended: streams that began and that were over.
        live: streams that ran at its end.
        ttft, gaps: of the fast readers.
        lag: of the load tester's own event loop.
    """

    asked: int = 0
    ended: int = 0
    live: int = 0
    ttft: Spread = field(default_factory=Spread)
    gaps: Spread = field(default_factory=Spread)
    lag: Spread = field(default_factory=Spread)


class Figures:
    """Everything that the readers of one test report, added as it happens.

    Attributes:
        kinds: by kind of reader.
        seconds: second by second.
        lag: how late the load tester's own timers ran.
        live: streams that run now.
    """

    def __init__(self) -> None:
        self.kinds: dict[Kind, KindFigures] = {}
        self.seconds: list[Second] = [Second()]
        self.lag = Spread()
        self.live = 0

    def of(self, kind: Kind) -> KindFigures:
        return self.kinds.setdefault(kind, KindFigures())

    def tick(self) -> None:
        """A second is over."""
        self.seconds[-1].live = self.live
        self.seconds.append(Second())

    def asked(self) -> None:
        self.live += 1
        self.seconds[-1].asked += 1

    def first(self, kind: Kind, seconds: float) -> None:
        """The first content came `seconds` after asking."""
        self.of(kind).ttft.add(seconds)
        if kind is Kind.FAST:
            self.seconds[-1].ttft.add(seconds)

    def gap(self, kind: Kind, seconds: float) -> None:
        """Content came `seconds` after the content before it."""
        self.of(kind).gaps.add(seconds)
        if kind is Kind.FAST:
            self.seconds[-1].gaps.add(seconds)

    def ended(self, kind: Kind, end: End, *, contents: int = 0, words: int = 0, wire_bytes: int = 0) -> None:
        figures = self.of(kind)
        figures.ends[end] += 1
        figures.contents += contents
        figures.words += words
        figures.wire_bytes += wire_bytes
        self.live -= 1
        self.seconds[-1].ended += 1

    def lagged(self, seconds: float) -> None:
        """A timer of the load tester ran this late."""
        self.lag.add(seconds)
        self.seconds[-1].lag.add(seconds)

    def count(self, *ends: End) -> int:
        """How many streams came to one of these ends."""
        return sum(figures.ends[end] for figures in self.kinds.values() for end in ends)

    @property
    def errors(self) -> int:
        """Streams that came to an end that nobody planned; refusals are not errors."""
        return self.count(*(end for end in End if end.is_error))
