"""What a load test does: how many readers of which kind, when each comes, and when it does what. Pure and seeded."""

from __future__ import annotations

import enum
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType


class PlanError(ValueError):
    """A plan that cannot be carried out; the message says which part, and why."""


class Kind(enum.Enum):
    """How a reader behaves."""

    FAST = "fast"  # takes everything as it comes
    SLOW = "slow"  # takes so many bytes a second
    STALLING = "stalling"  # takes nothing for a while in the middle, then reads on to the end
    LEAVING = "leaving"  # closes: before the first token, in the middle, or while it does not read
    VANISHING = "vanishing"  # acknowledges nothing any more, and never closes
    RESUMING = "resuming"  # loses its connection and comes back for the rest

    @property
    def finishes(self) -> bool:
        """Whether such a reader wants the whole answer."""
        return self not in (Kind.LEAVING, Kind.VANISHING)


class Phase(enum.Enum):
    """Where in the answer a leaving reader closes."""

    BEFORE_FIRST = "before the first token"
    STREAMING = "mid-stream"
    BLOCKED = "while it reads nothing"


# How leaving readers spread over the phases where there are many of them.
_PHASES = ((Phase.BEFORE_FIRST, 0.2), (Phase.STREAMING, 0.6), (Phase.BLOCKED, 0.2))
_BLOCKED_S = 2.0  # how long one that closes while it reads nothing has read nothing
_AWAY_S = (0.1, 2.0)  # how long a resuming reader is away
_MOST_ARRIVALS = 1_000_000  # each is a task from the start: some 4 GB


@dataclass(frozen=True, slots=True)
class Plan:
    """A load test.

    Attributes:
        streams: readers at the same time.
        ramp_s: over how long they come, in seconds.
        duration_s: how long the test lasts, in seconds: until then a reader whose stream is over comes again, and what
            still runs then is cut. 0: each comes once, and stays until its stream is over.
        mix: weight of each kind.
        slow_bytes_per_s: how fast slow readers read.
        stall_s: how long stalling readers read nothing, in seconds.
        vanish_s: how long vanished readers keep their dead socket, in seconds.
        turn_s: between which two moments after asking a reader leaves, stalls, vanishes or is cut off, in seconds; none
            stalls before its answer has begun.
        seed: of everything random.
    """

    streams: int = 100
    ramp_s: float = 2.0
    duration_s: float = 0.0
    mix: Mapping[Kind, float] = field(default_factory=lambda: MappingProxyType({Kind.FAST: 1.0}))
    slow_bytes_per_s: int = 200
    stall_s: float = 10.0
    vanish_s: float = 20.0
    turn_s: tuple[float, float] = (0.5, 5.0)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.streams < 1:
            raise PlanError("streams: at least 1")
        if min(self.ramp_s, self.duration_s, self.stall_s, self.vanish_s) < 0:
            raise PlanError("no time may be negative")
        if self.slow_bytes_per_s < 1:
            raise PlanError("slow_bytes_per_s: at least 1")
        if not 0 <= self.turn_s[0] <= self.turn_s[1]:
            raise PlanError("turn_s: the earliest moment comes first")
        if not self.mix or min(self.mix.values()) < 0 or sum(self.mix.values()) <= 0:
            raise PlanError("mix: at least one kind with a weight above 0")

    def arriving(self, readers_per_s: float) -> Plan:
        """The same with readers that come at a fixed rate, each once, however many are still there.

        Readers that wait for one another ask a slow service less than a fast one, which makes it look better than it is.

        Raises:
            PlanError: it does not say for how long, or that comes to none or to too many.
        """
        if not self.duration_s:
            raise PlanError("arrivals: --duration says for how long they come")
        streams = round(readers_per_s * self.duration_s)
        if not 1 <= streams <= _MOST_ARRIVALS:
            raise PlanError(
                f"arrivals: {readers_per_s:g} a second for {self.duration_s:g} s are {streams:,} readers, "
                f"and 1 to {_MOST_ARRIVALS:,} can be"
            )
        return replace(self, streams=streams, ramp_s=self.duration_s, duration_s=0.0)

    def kinds(self) -> list[Kind]:
        """The kind of each of the `streams` readers: the mix's shares to within one reader, in a seeded order."""
        whole = sum(self.mix.values())
        shares = {kind: self.streams * weight / whole for kind, weight in self.mix.items() if weight}
        counts = {kind: int(share) for kind, share in shares.items()}
        # What rounding down left over goes to the largest remainders.
        by_remainder = sorted(shares, key=lambda kind: shares[kind] - counts[kind], reverse=True)
        for kind in by_remainder[: self.streams - sum(counts.values())]:
            counts[kind] += 1
        found = [kind for kind, count in counts.items() for _ in range(count)]
        random.Random(f"{self.seed}/kinds").shuffle(found)
        return found

    def starts_at_s(self, reader: int) -> float:
        """When this reader comes, in seconds from the beginning; `reader` counts from 0."""
        return self.ramp_s * reader / self.streams

    def conduct(self, reader: int, visit: int) -> Conduct:
        """What this reader does on its `visit`th stream, both counted from 0."""
        rng = random.Random(f"{self.seed}/{reader}/{visit}")
        phase = rng.choices([phase for phase, _ in _PHASES], [weight for _, weight in _PHASES])[0]
        turn_s = rng.uniform(*self.turn_s)
        return Conduct(turn_s=turn_s, phase=phase, resets=rng.random() < 0.5, away_s=rng.uniform(*_AWAY_S))


@dataclass(frozen=True, slots=True)
class Conduct:
    """What one reader does on one stream; each kind uses what concerns it.

    Attributes:
        turn_s: when it does it, in seconds after asking; before the first token, a tenth of that.
        phase: where a leaving reader closes.
        resets: it leaves with RST, as a killed browser does, not with FIN, as a closed tab does.
        away_s: how long it is away before it resumes, in seconds.
        blocked_s: how long it has read nothing when it closes while blocked, in seconds.
    """

    turn_s: float
    phase: Phase
    resets: bool
    away_s: float
    blocked_s: float = _BLOCKED_S


def parse_mix(text: str) -> dict[Kind, float]:
    """Reads `fast=5,slow=4,stalling`; a bare kind weighs 1.

    Raises:
        PlanError: a kind that does not exist, one given twice, or a weight that is no number.
    """
    mix: dict[Kind, float] = {}
    for word in text.split(","):
        name, _, weight = word.strip().partition("=")
        try:
            kind = Kind(name.strip())
        except ValueError:
            raise PlanError(f"mix: {name!r} is none of {', '.join(kind.value for kind in Kind)}") from None
        if kind in mix:
            raise PlanError(f"mix: {name} is given twice")
        try:
            mix[kind] = float(weight or 1)
        except ValueError:
            raise PlanError(f"mix: the weight of {name} is no number: {weight!r}") from None
        if not 0 <= mix[kind] < float("inf"):
            raise PlanError(f"mix: the weight of {name} must be 0 or more, not {weight}")
    return mix
