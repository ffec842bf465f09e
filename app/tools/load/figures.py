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


class StreamEnd(enum.Enum):
    """What became of one stream, as its reader saw it: every stream that is asked for comes to exactly one of these."""

    FINISHED = "finished"  # to the last event of a good answer
    LEFT = "left"  # by the reader, as planned
    STALLED = "stalled"  # given up by the service, or a proxy before it, while the reader took nothing, as planned
    VANISHED = "vanished"  # the reader fell silent, as planned
    RUN_OVER = "cut by the run's end"  # it still ran when the test's time was over
    REFUSED = "refused"  # with 429, 503 or 529: try again later
    REJECTED = "rejected"  # with any other status than 200
    FAILED = "failed"  # an error came in the stream
    CUT = "cut off"  # the connection ended before the last event
    UNREACHABLE = "unreachable"  # it could not be connected
    TIMED_OUT = "timed out"  # not over within the time a stream is given
    GARBLED = "garbled"  # frames lost or repeated, or no HTTP at all

    @property
    def is_error(self) -> bool:
        """Whether nobody planned it; a refusal is the service's good right."""
        return self not in _NO_ERRORS

    @property
    def is_turned_away(self) -> bool:
        """Whether the stream never began."""
        return self in (StreamEnd.REFUSED, StreamEnd.REJECTED, StreamEnd.UNREACHABLE)


_NO_ERRORS = frozenset(
    {StreamEnd.FINISHED, StreamEnd.LEFT, StreamEnd.STALLED, StreamEnd.VANISHED, StreamEnd.RUN_OVER, StreamEnd.REFUSED}
)
# A producer that waited this long was held by its reader, not by the turn of a batch, in seconds.
HELD_S = 1.0
# So many ways to be refused are told apart; what comes after them is one.
_MOST_REFUSALS = 20


@dataclass(slots=True)
class Stream:
    """What one stream came to.

    Attributes:
        contents, words: events with content, and how often the question's word stood in them.
        wire_bytes: read from the sockets, with heads and framing.
        answered: it was let in: the status was 200.
        held_s: how long its producer was held, as far as the service told; None: it told nothing.
        was_away: its reader lost the connection.
        refusal: why it was turned away, in the service's words; empty where it was not.
    """

    contents: int = 0
    words: int = 0
    wire_bytes: int = 0
    answered: bool = False
    held_s: float | None = None
    was_away: bool = False
    refusal: str = ""


@dataclass(slots=True)
class KindFigures:
    """What the readers of one kind met.

    Attributes:
        started: streams that were asked for; at the test's end as many as `ends` has.
        ends: what became of them.
        ttft: from asking to the first content.
        gaps: between two reads with content.
        contents, words: events with content, and how often the question's word stood in them.
        wire_bytes: read from the sockets, with heads and framing.
        answered: streams that were let in.
        watched: those whose producer the service told of.
        held: those whose producer was held for `HELD_S` or longer.
        held_s: how long all of them were, in seconds.
        away, back: readers that lost their connection, and those of them that came back and missed nothing.
    """

    started: int = 0
    ends: Counter[StreamEnd] = field(default_factory=Counter)
    ttft: Spread = field(default_factory=Spread)
    gaps: Spread = field(default_factory=Spread)
    contents: int = 0
    words: int = 0
    wire_bytes: int = 0
    answered: int = 0
    watched: int = 0
    held: int = 0
    held_s: float = 0.0
    away: int = 0
    back: int = 0

    def add(self, stream: Stream, end: StreamEnd) -> None:
        """One more has come to its end."""
        self.ends[end] += 1
        self.contents += stream.contents
        self.words += stream.words
        self.wire_bytes += stream.wire_bytes
        self.answered += stream.answered
        self.away += stream.was_away
        self.back += stream.was_away and end is StreamEnd.FINISHED
        if stream.held_s is not None:
            self.watched += 1
            self.held += stream.held_s >= HELD_S
            self.held_s += stream.held_s


@dataclass(slots=True)
class Second:
    """One second of the test.

    Attributes:
        asked, ended: streams that began and that were over.
        live: streams that ran at its end.
        held: streams whose producer was held when it was looked at last; None: not looked at.
        ttft, gaps: of the fast readers.
        lag: of the load tester's own event loop.
    """

    asked: int = 0
    ended: int = 0
    live: int = 0
    held: int | None = None
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
        held: producers that are held now; None where the service is not asked.
        arrived_s: when the last reader came for the first time, in seconds from the beginning.
        refusals: why streams were turned away, by status and the service's words.
    """

    def __init__(self) -> None:
        self.kinds: dict[Kind, KindFigures] = {}
        self.seconds: list[Second] = [Second()]
        self.lag = Spread()
        self.live = 0
        self.held: int | None = None
        self.arrived_s = 0.0
        self.refusals: Counter[str] = Counter()

    def of(self, kind: Kind) -> KindFigures:
        """What the readers of this kind met; all zero where none came."""
        return self.kinds.get(kind) or KindFigures()

    def _of(self, kind: Kind) -> KindFigures:
        return self.kinds.setdefault(kind, KindFigures())

    def tick(self) -> None:
        """A second is over."""
        self.seconds[-1].live, self.seconds[-1].held = self.live, self.held
        self.seconds.append(Second())

    def asked(self, kind: Kind) -> None:
        """A stream is asked for."""
        self._of(kind).started += 1
        self.live += 1
        self.seconds[-1].asked += 1

    def first(self, kind: Kind, seconds: float) -> None:
        """The first content came `seconds` after asking."""
        self._of(kind).ttft.add(seconds)
        if kind is Kind.FAST:
            self.seconds[-1].ttft.add(seconds)

    def gap(self, kind: Kind, seconds: float) -> None:
        """Content came `seconds` after the content before it."""
        self._of(kind).gaps.add(seconds)
        if kind is Kind.FAST:
            self.seconds[-1].gaps.add(seconds)

    def ended(self, kind: Kind, end: StreamEnd, stream: Stream) -> None:
        """A stream is over; once for each that was asked for."""
        self._of(kind).add(stream, end)
        if stream.refusal and end in (StreamEnd.REFUSED, StreamEnd.REJECTED):
            known = stream.refusal in self.refusals or len(self.refusals) < _MOST_REFUSALS
            self.refusals[stream.refusal if known else "other"] += 1
        self.live -= 1
        self.seconds[-1].ended += 1

    def lagged(self, seconds: float) -> None:
        """A timer of the load tester ran this late."""
        self.lag.add(seconds)
        self.seconds[-1].lag.add(seconds)

    def count(self, *ends: StreamEnd) -> int:
        """How many streams came to one of these ends."""
        return sum(self.ends[end] for end in ends)

    @property
    def errors(self) -> int:
        """Streams that came to an end that nobody planned; refusals are not errors."""
        return self.count(*(end for end in StreamEnd if end.is_error))

    @property
    def started(self) -> int:
        """Streams that were asked for, of all kinds."""
        return sum(figures.started for figures in self.kinds.values())

    @property
    def ends(self) -> Counter[StreamEnd]:
        """What became of them: at the test's end as many as were started."""
        return sum((figures.ends for figures in self.kinds.values()), Counter())
