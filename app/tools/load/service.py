"""The service as its own `/metrics` tell of it: memory, CPU, held producers, tokens wasted and avoided. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

from prometheus_client.parser import text_string_to_metric_families

# What is read, by the name of the attribute; labels are summed over.
_SERIES = {
    "process_resident_memory_bytes": "memory_bytes",
    "process_cpu_seconds_total": "cpu_s",
    "sluiceway_streams_active": "streams",
    "sluiceway_upstreams_active": "upstreams",
    "sluiceway_readers_stalled": "stalled",
    "sluiceway_producer_paused_seconds_total": "paused_s",
    "sluiceway_producer_pauses_total": "pauses",
    "sluiceway_output_tokens_total": "generated",
    "sluiceway_wasted_tokens_total": "wasted",
    "sluiceway_avoided_tokens_total": "avoided",
    "sluiceway_avoided_tokens_upper_total": "avoided_upper",
}
# What is counted by a label, with the attribute and the label.
_BY_LABEL = {"sluiceway_streams_total": ("outcomes", "outcome"), "sluiceway_refused_total": ("refused", "reason")}
_WANTED = (*_SERIES, *_BY_LABEL)
# Gauges are a moment's, everything else has grown since the service started.
_GAUGES = frozenset({"memory_bytes", "streams", "upstreams", "stalled", "at_s"})


@dataclass(slots=True)
class Sample:
    """One look at the service, summed over its workers.

    Attributes:
        at_s: seconds since the test began.
        memory_bytes: resident.
        cpu_s: used since the service started.
        streams, upstreams: sessions, and open answers of Claude, now.
        stalled: readers that accept nothing, now.
        paused_s, pauses: how long and how often producers were held since the start, told when each goes on.
        generated, wasted, avoided, avoided_upper: tokens since the start; avoided ones are an estimate and its bound.
        outcomes: streams that ended since the start, by the service's own word.
        refused: requests that it turned away since the start, by its own word.
    """

    at_s: float = 0.0
    memory_bytes: float = 0.0
    cpu_s: float = 0.0
    streams: float = 0.0
    upstreams: float = 0.0
    stalled: float = 0.0
    paused_s: float = 0.0
    pauses: float = 0.0
    generated: float = 0.0
    wasted: float = 0.0
    avoided: float = 0.0
    avoided_upper: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def since(self, first: Sample) -> Sample:
        """What was added since an earlier look; gauges as they are now."""
        change = Sample(outcomes=self.outcomes - first.outcomes, refused=self.refused - first.refused)
        for part in fields(Sample):
            if part.name not in ("outcomes", "refused"):
                before = 0.0 if part.name in _GAUGES else getattr(first, part.name)
                setattr(change, part.name, getattr(self, part.name) - before)
        return change


def parse(text: str, at_s: float) -> Sample:
    """A sample from what one `/metrics` says."""
    sample = Sample(at_s)
    # Parsing all of it takes the better part of 0.1 s, in which no reader is served; a series at 0 adds nothing.
    wanted = (line for line in text.splitlines() if line.startswith(_WANTED) and not line.endswith((" 0", " 0.0")))
    for family in text_string_to_metric_families("\n".join(wanted) + "\n"):
        for series in family.samples:
            if series.name in _SERIES:
                attribute = _SERIES[series.name]
                setattr(sample, attribute, getattr(sample, attribute) + series.value)
            elif series.name in _BY_LABEL:
                attribute, label = _BY_LABEL[series.name]
                getattr(sample, attribute)[series.labels.get(label, "?")] += int(series.value)
    return sample


def summed(samples: Iterable[Sample], at_s: float) -> Sample:
    """The samples of several workers as one."""
    whole = Sample(at_s)
    for sample in samples:
        whole.outcomes.update(sample.outcomes)
        whole.refused.update(sample.refused)
        for attribute in _SERIES.values():
            setattr(whole, attribute, getattr(whole, attribute) + getattr(sample, attribute))
    return whole
