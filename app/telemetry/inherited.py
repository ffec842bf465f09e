"""What processes have counted whose place this one has, so that no counter falls back when another one takes over. Pure.

Prometheus takes a counter that falls for one that began anew. So each sum here only grows: what a process counted stays
in it as it was last known, whether that process still lives, has left its last figures behind, or was killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

_Labels = tuple[tuple[str, str], ...]
_Counts = dict[tuple[str, _Labels], float]  # by the sample's name and labels

# Gauges of what a process has, not of how it stands: those of all processes of a place that live are one sum.
_HAD = frozenset(
    {
        "sluiceway_streams_active",
        "sluiceway_upstreams_active",
        "sluiceway_readers_stalled",
        "sluiceway_fleet_relayed_readers",
        "sluiceway_fleet_copied_readers",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
    }
)
_GROWING = frozenset({"counter", "histogram", "summary"})


class Inherited:
    """What others have counted, by process."""

    def __init__(self) -> None:
        self._growing: dict[str, dict[str, _Counts]] = {}  # by process and family, as last known
        self._had: dict[str, dict[str, _Counts]] = {}  # only of those that live
        self._ended: set[str] = set()  # whose last figures are known

    def living(self, process: str, text: str) -> None:
        """What a process that lives shows of itself, as Prometheus reads it. Raises ValueError: it is no such text.

        An answer that is read only after its last figures says less than they do, and changes nothing.
        """
        if process in self._ended:
            return
        self._growing[process], self._had[process] = _read(text)

    def gone(self, process: str, text: str | None = None) -> None:
        """It has ended, and this is what it showed last; None: nobody knows more than before."""
        self._had.pop(process, None)
        if text is not None:
            self._growing[process] = _read(text)[0]
            self._ended.add(process)

    def forget_living(self) -> None:
        """Somebody else asks those that live from now on; shown here too, they would be counted twice."""
        for process in self._had:
            del self._growing[process]
        self._had.clear()

    def added_to(self, own: Iterable[Metric]) -> Iterator[Metric]:
        """This process's own families, with what it has inherited of them. What it has no family for is left out."""
        for family in own:
            counts = [
                found[family.name] for found in (*self._growing.values(), *self._had.values()) if family.name in found
            ]
            yield _sum(family, counts) if counts else family


def _read(text: str) -> tuple[dict[str, _Counts], dict[str, _Counts]]:
    growing: dict[str, _Counts] = {}
    had: dict[str, _Counts] = {}
    for family in text_string_to_metric_families(text):
        into = growing if family.type in _GROWING else had if family.name in _HAD else None
        if into is not None:
            into[family.name] = {_key(sample): sample.value for sample in family.samples if not _is_time(sample)}
    return growing, had


def _sum(own: Metric, inherited: Iterable[_Counts]) -> Metric:
    samples = {_key(sample): sample for sample in own.samples}
    for counts in inherited:
        for (name, labels), value in counts.items():
            known = samples.get((name, labels))
            samples[name, labels] = (
                known._replace(value=known.value + value) if known is not None else Sample(name, dict(labels), value)
            )
    family = Metric(own.name, own.documentation, own.type)
    family.samples = list(samples.values())
    return family


def _key(sample: Sample) -> tuple[str, _Labels]:
    return sample.name, tuple(sorted(sample.labels.items()))


def _is_time(sample: Sample) -> bool:
    """When a series began, which is a time and adds up to nothing."""
    return sample.name.endswith("_created")
