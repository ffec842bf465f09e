"""What a load test found, and whether that is good enough. Pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .figures import Figures, Spread, StreamEnd
from .plan import Kind, Plan
from .service import Sample
from .subject import Shown, Subject, shown, subjects_of

# Above either of these, the readers measured the load tester and not the service.
LAG_P99_LIMIT_S = 0.02
CPU_LIMIT = 0.9
# Below this share of a core the machine makes the load tester late, and not its own work.
CPU_BUSY = 0.4


@dataclass(frozen=True, slots=True)
class Findings:
    """One load test, over.

    Attributes:
        began_at: when, in ISO 8601.
        where: the service's URL.
        protocol: the one spoken.
        plan: what was done.
        figures: what the readers met.
        samples: what the service's metrics said; empty where they could not be read.
        elapsed_s: from the first reader to the last one's end, in seconds.
        own_cpu: the load tester's CPU time as a share of that.
        notes: what a reader of the report must know.
        subject: what the test was to show; None: nothing in particular.
    """

    began_at: str
    where: str
    protocol: str
    plan: Plan
    figures: Figures
    samples: Sequence[Sample]
    elapsed_s: float
    own_cpu: float
    notes: Sequence[str] = field(default_factory=tuple)
    subject: Subject | None = None

    @property
    def shown(self) -> list[Shown]:
        """How the subject fared, first, and what else the plan's readers can show."""
        return [shown(one, self.plan, self.figures, self.service) for one in subjects_of(self.plan, self.subject)]

    @property
    def bottleneck(self) -> str:
        """Why the load tester itself was too slow to measure; empty if it was not."""
        lag_s = self.figures.lag.at(0.99) or 0.0
        if lag_s > LAG_P99_LIMIT_S:
            others = (
                ""
                if self.own_cpu > CPU_BUSY
                else f", though it used {self.own_cpu:.0%} of a core: others keep it waiting"
            )
            return f"its event loop was {lag_s * 1000:.0f} ms late at the 99th percentile{others}"
        if self.own_cpu > CPU_LIMIT:
            return f"it used {self.own_cpu:.0%} of a core"
        return ""

    @property
    def service(self) -> Sample | None:
        """What was added over the test by the service's own count, and its gauges at the end; None: not measured."""
        return self.samples[-1].since(self.samples[0]) if len(self.samples) > 1 else None

    @property
    def memory_peak_bytes(self) -> float | None:
        return max((sample.memory_bytes for sample in self.samples), default=None)

    @property
    def memory_added_bytes(self) -> float | None:
        """How much more the service held at its fullest than before the first reader came."""
        peak = self.memory_peak_bytes
        return None if peak is None else peak - self.samples[0].memory_bytes

    @property
    def fast(self) -> tuple[Spread, Spread]:
        """Time to the first token, and gaps, of the fast readers: the others are late of their own will."""
        figures = self.figures.of(Kind.FAST)
        return figures.ttft, figures.gaps

    def as_json(self) -> dict[str, Any]:
        """Everything but the plots, as values JSON knows; times in milliseconds."""
        return {
            "began_at": self.began_at,
            "where": self.where,
            "protocol": self.protocol,
            "streams": self.plan.streams,
            "elapsed_s": round(self.elapsed_s, 3),
            "shown": {one.subject.value: {"happened": one.happened, "told": one.sentence} for one in self.shown},
            "readers": {
                kind.value: {
                    "started": figures.started,
                    "answered": figures.answered,
                    "ends": {end.value: count for end, count in sorted(figures.ends.items(), key=lambda x: x[0].value)},
                    "ttft_ms": _percentiles(figures.ttft),
                    "gap_ms": _percentiles(figures.gaps),
                    "contents": figures.contents,
                    "wire_bytes": figures.wire_bytes,
                    "held": figures.held,
                    "held_s": round(figures.held_s, 3),
                    "came_back": figures.back,
                }
                for kind, figures in self.figures.kinds.items()
            },
            "refusals": dict(self.figures.refusals.most_common()),
            "service": None if self.service is None else self._service_as_json(self.service),
            "own": {"lag_ms": _percentiles(self.figures.lag), "cpu": round(self.own_cpu, 3), "late": self.bottleneck},
            "notes": list(self.notes),
        }

    def _service_as_json(self, service: Sample) -> dict[str, Any]:
        return {
            "cpu_s": round(service.cpu_s, 3),
            "memory_peak_bytes": self.memory_peak_bytes,
            "memory_added_bytes": self.memory_added_bytes,
            "tokens_generated": service.generated,
            "tokens_wasted": service.wasted,
            "tokens_avoided_expected": round(service.avoided, 1),
            "tokens_avoided_upper": service.avoided_upper,
            "producers_paused_s": round(service.paused_s, 3),
            "producers_pauses": service.pauses,
            "outcomes": dict(service.outcomes),
            "refused": dict(service.refused),
        }


def _percentiles(spread: Spread) -> dict[str, float | int | None]:
    found: dict[str, float | int | None] = {"count": spread.count}
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)):
        found[name] = None if (at := spread.at(share)) is None else round(at * 1000, 2)
    return found


class Measure(enum.Enum):
    """What a threshold can be set on; the value is the option's name without `--max-`."""

    TTFT_P50_MS = "ttft-p50-ms"
    TTFT_P99_MS = "ttft-p99-ms"
    GAP_P99_MS = "gap-p99-ms"
    ERRORS = "errors"
    REFUSED = "refused"
    MEMORY_ADDED_MB = "memory-added-mb"
    WASTED_TOKENS = "wasted-tokens"

    @property
    def is_time(self) -> bool:
        """Whether a load tester that is late itself spoils it."""
        return self.value.endswith("-ms")

    @property
    def about(self) -> str:
        return _ABOUT[self]

    def value_of(self, found: Findings) -> float | None:
        """The measured value; None where it was not measured."""
        ttft, gaps = found.fast
        service = found.service
        seconds: Mapping[Measure, float | None] = {
            Measure.TTFT_P50_MS: ttft.at(0.5),
            Measure.TTFT_P99_MS: ttft.at(0.99),
            Measure.GAP_P99_MS: gaps.at(0.99),
        }
        if self in seconds:
            return None if (value := seconds[self]) is None else value * 1000
        match self:
            case Measure.ERRORS:
                return found.figures.errors
            case Measure.REFUSED:
                return found.figures.count(StreamEnd.REFUSED)
            case Measure.MEMORY_ADDED_MB:
                return None if (added := found.memory_added_bytes) is None else added / 2**20
        return None if service is None else service.wasted


# What nobody planned is a failure where nobody has said how much of it is none.
MOST_ERRORS = 0.0
_ABOUT = {
    Measure.TTFT_P50_MS: "Median time to the first token, of fast readers.",
    Measure.TTFT_P99_MS: "99th percentile of the time to the first token, of fast readers.",
    Measure.GAP_P99_MS: "99th percentile of the time between two batches, of fast readers.",
    Measure.ERRORS: "Streams that failed, were cut, rejected, garbled, timed out or not connected [0].",
    Measure.REFUSED: "Streams refused with 429, 503 or 529.",
    Measure.MEMORY_ADDED_MB: "What the service's memory grew by at its fullest, in MiB.",
    Measure.WASTED_TOKENS: "Tokens generated that reached no reader, by the service's metrics.",
}


class ThresholdStatus(enum.Enum):
    """How a threshold fared; the value is the exit status it asks for."""

    KEPT = 0
    EXCEEDED = 1
    UNCLEAR = 3  # not measured, or exceeded while the load tester itself was late


@dataclass(frozen=True, slots=True)
class Judgement:
    """One threshold against what was found.

    Attributes:
        limit: the largest value allowed.
        value: the measured one; None where it was not measured.
    """

    measure: Measure
    limit: float
    value: float | None
    verdict: ThresholdStatus


def judge(found: Findings, limits: Mapping[Measure, float]) -> list[Judgement]:
    """Holds the findings against thresholds."""
    judged = []
    for measure, limit in limits.items():
        value = measure.value_of(found)
        if value is None:
            verdict = ThresholdStatus.UNCLEAR
        elif value <= limit:
            verdict = ThresholdStatus.KEPT
        else:
            verdict = ThresholdStatus.UNCLEAR if measure.is_time and found.bottleneck else ThresholdStatus.EXCEEDED
        judged.append(Judgement(measure, limit, value, verdict))
    return judged


# The preset's subject was not met: the test has proved nothing.
NOT_SHOWN = 4


def exit_status(judged: Sequence[Judgement], subject: Shown | None) -> int:
    """1 if a threshold was exceeded, else 4 if the subject did not happen, else 3 if something could not be told, else 0."""
    verdicts = {one.verdict for one in judged}
    if ThresholdStatus.EXCEEDED in verdicts:
        return ThresholdStatus.EXCEEDED.value
    if subject is not None and subject.happened is False:
        return NOT_SHOWN
    unclear = ThresholdStatus.UNCLEAR in verdicts or (subject is not None and subject.happened is None)
    return ThresholdStatus.UNCLEAR.value if unclear else ThresholdStatus.KEPT.value
