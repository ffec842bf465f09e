"""The picture of a bench: CPU a token, memory a stream, answers from afar."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.ratios import BASE, Middle
from tests.bench.results import Results

if TYPE_CHECKING:
    import matplotlib.axes

_COLOURS = {BASE: "#8a8f98", "sluiceway": "#0b7db8", "TLS": "#0b7db8", "plain": "#7fb8d6"}
_PEERS, _ERROR_COLOUR = ("#d1671c", "#e8a33d"), "#1c2024"

# A bar's place on the axis and in the legend, and its height.
Bar = tuple[str, str, Middle]


def draw(results: Results, path: Path) -> None:
    """Writes the picture as PNG; what was not measured stays empty."""
    import matplotlib.figure  # takes a second, so for the drawing alone

    figure = matplotlib.figure.Figure(figsize=(12, 4), layout="constrained")
    cpu, memory, far = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    _bars(cpu, "CPU a token, µs", _cpu(results))
    _bars(memory, "memory of a stream, kB", _memory(results))
    _bars(far, "far away: time, × straight", _far(results))
    far.axhline(1, color=_ERROR_COLOUR, linewidth=0.8)
    figure.suptitle(f"{results.about} {results.date[:10]}", fontsize=8)
    figure.savefig(path, dpi=110)


def _cpu(results: Results) -> Iterable[Bar]:
    for way, sizes in results.paced.items():
        for streams, found in sizes.items():
            for one in found:
                yield f"{streams:,} streams\n{way}", one.contender, one.figures["cpu_us"]


def _memory(results: Results) -> Iterable[Bar]:
    for way, states in results.memory_kb.items():
        for state, kb in states.items():
            yield state, way, kb


def _far(results: Results) -> Iterable[Bar]:
    for way, distances in results.far.items():
        for distance, one in distances.items():
            yield distance.replace(", ", "\n"), way, one.ratio


def _bars(axes: matplotlib.axes.Axes, title: str, bars: Iterable[Bar]) -> None:
    """Bars side by side in groups, with their spread."""
    found = list(bars)
    groups = list(dict.fromkeys(group for group, _, _ in found))
    kinds = list(dict.fromkeys(kind for _, kind, _ in found))
    peers = [kind for kind in kinds if kind not in _COLOURS]
    colours = _COLOURS | dict(zip(peers, itertools.cycle(_PEERS), strict=False))
    named: set[str] = set()
    for group, kind, middle in found:
        # Each group is as wide as it has bars, so that a peer of one group leaves no holes in the others.
        own = [one for place, one, _ in found if place == group]
        width = 0.8 / len(kinds)
        at = groups.index(group) + (own.index(kind) - (len(own) - 1) / 2) * width
        spread = [[middle.median - middle.low], [middle.high - middle.median]]
        label = None if kind in named else kind
        axes.bar(at, middle.median, width * 0.92, yerr=spread, color=colours[kind], ecolor=_ERROR_COLOUR, label=label)
        named.add(kind)
    axes.set_xticks(range(len(groups)), groups, fontsize=8)
    axes.set_title(title, loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if named:
        axes.legend(frameon=False, fontsize=8)
