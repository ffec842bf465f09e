"""The service as its own `/metrics` tell of it: memory, CPU, held producers, tokens wasted and avoided."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

import aiohttp

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
_LINE = re.compile(r"^([a-z_]+)(\{[^}]*\})? (\S+)", re.M)
_OUTCOME = re.compile(r'outcome="([^"]*)"')
_SCRAPE_TIMEOUT_S = 2.0
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

    def since(self, first: Sample) -> Sample:
        """What was added since an earlier look; gauges as they are now."""
        change = Sample(outcomes=self.outcomes - first.outcomes)
        for part in fields(Sample):
            if part.name != "outcomes":
                before = 0.0 if part.name in _GAUGES else getattr(first, part.name)
                setattr(change, part.name, getattr(self, part.name) - before)
        return change


def parse(texts: Iterable[str], at_s: float) -> Sample:
    """One sample from what the workers' `/metrics` say."""
    sample = Sample(at_s)
    for text in texts:
        for name, labels, value in _LINE.findall(text):
            if name in _SERIES:
                attribute = _SERIES[name]
                setattr(sample, attribute, getattr(sample, attribute) + float(value))
            elif name == "sluiceway_streams_total" and float(value):
                found = _OUTCOME.search(labels)
                sample.outcomes[found[1] if found else "?"] += int(float(value))
    return sample


class Observer:
    """Looks at the service's metrics again and again.

    Args:
        urls: of the workers' `/metrics`.
        session: the HTTP client.

    Attributes:
        samples: all looks, oldest first.
    """

    def __init__(self, urls: Sequence[str], session: aiohttp.ClientSession) -> None:
        self._urls = urls
        self._session = session
        self.samples: list[Sample] = []

    async def look(self, at_s: float) -> Sample | None:
        """Adds a sample; None where a worker did not answer. Cancelling is safe."""
        texts = []
        try:
            async with asyncio.timeout(_SCRAPE_TIMEOUT_S):
                for url in self._urls:
                    async with self._session.get(url) as response:
                        response.raise_for_status()
                        texts.append(await response.text())
        except (aiohttp.ClientError, TimeoutError):
            return None
        sample = parse(texts, at_s)
        self.samples.append(sample)
        return sample
