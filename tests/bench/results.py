"""A bench's results: as JSON, as a table for people, as a picture."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.figure

from tests.bench.ratios import BASE, Middle, Summary

_COLOURS = {BASE: "#8a8f98", "sluiceway": "#0b7db8", "sluiceway, 200 ms window": "#3f8f4f"}
_OTHER_COLOUR = "#d1671c"


def machine() -> dict[str, Any]:
    """What kind of machine this is; nothing that names it."""
    model = "unknown CPU"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.M)):
        model = found[1].strip()
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": re.sub(r"[^0-9.].*", "", platform.release()),
        "python": platform.python_version(),
    }


def slug(kind: Mapping[str, Any]) -> str:
    """The machine's kind as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", f"{kind['cores']} core {kind['cpu']}".lower()).strip("-")


@dataclass(slots=True)
class Results:
    """Everything one bench found.

    Attributes:
        date: of the run, in ISO 8601.
        quick: a short run, whose figures are only a smoke test.
        machine: its kind.
        paced: by streams, the contenders at 50 tokens/s a stream.
        bulk: the contenders at full speed.
        memory_kb: by state, for each stream.
        thrown_out: rounds in which the load generator fell behind, by measure.
        missing: what was not measured, and why.
    """

    date: str
    quick: bool
    machine: dict[str, Any] = field(default_factory=machine)
    paced: dict[int, list[Summary]] = field(default_factory=dict)
    bulk: list[Summary] = field(default_factory=list)
    memory_kb: dict[str, Middle] = field(default_factory=dict)
    thrown_out: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "date": self.date,
            "quick": self.quick,
            "machine": self.machine,
            "paced": {str(streams): [one.as_json() for one in found] for streams, found in self.paced.items()},
            "bulk": [one.as_json() for one in self.bulk],
            "memory_kb": {
                state: {"median": kb.median, "low": kb.low, "high": kb.high} for state, kb in self.memory_kb.items()
            },
            "thrown_out": self.thrown_out,
            "missing": self.missing,
        }

    def table(self) -> str:
        """The results in Markdown; medians, and from where to where in brackets."""
        kind = self.machine
        lines = [
            f"# Bench of {self.date[:10]}{' (quick: a smoke test, not a measurement)' if self.quick else ''}",
            "",
            f"{kind['cores']} cores, {kind['cpu']}, Linux {kind['kernel']}, Python {kind['python']}. Medians of rounds, "
            "and from where to where; ratios are to nginx's pass-through in the same round.",
        ]
        for streams, found in self.paced.items():
            lines += ["", f"## {streams:,} streams of 50 tokens/s", "", *_paced(found)]
        if self.bulk:
            lines += ["", f"## {self.bulk[0].streams} streams as fast as they go", "", *_bulk(self.bulk)]
        if self.memory_kb:
            lines += ["", "## Memory of the service for each stream", "", "| stream | kB |", "|---|---|"]
            lines += [f"| {state} | {kb} |" for state, kb in self.memory_kb.items()]
        for measure, count in self.thrown_out.items():
            lines += ["", f"Thrown out at {measure}: {count} rounds in which the load generator fell behind."]
        if self.missing:
            lines += ["", "Not measured: " + "; ".join(self.missing) + "."]
        return "\n".join(lines) + "\n"

    def picture(self, path: Path) -> None:
        """Draws CPU a token and times to the first token, contender beside contender, with their spread."""
        figure = matplotlib.figure.Figure(figsize=(11, 4.2), layout="constrained")
        cpu, ttft = figure.subplots(1, 2)
        kinds = list(dict.fromkeys(one.contender for found in self.paced.values() for one in found))
        at_streams = list(self.paced)
        for axes, name, title in ((cpu, "cpu_us", "CPU a token, µs"), (ttft, "ttft_p99_ms", "TTFT p99, ms")):
            for place, kind in enumerate(kinds):
                width = 0.8 / len(kinds)
                for group, streams in enumerate(at_streams):
                    one = next((one for one in self.paced[streams] if one.contender == kind), None)
                    if one is None:
                        continue
                    middle = one.figures[name]
                    axes.bar(
                        group + (place - (len(kinds) - 1) / 2) * width,
                        middle.median,
                        width * 0.92,
                        yerr=[[middle.median - middle.low], [middle.high - middle.median]],
                        color=_COLOURS.get(kind, _OTHER_COLOUR),
                        ecolor="#1c2024",
                        capsize=3,
                        label=kind if group == _first_group(self, kind) else None,
                    )
            axes.set_xticks(range(len(at_streams)), [f"{streams:,} streams" for streams in at_streams])
            axes.set_title(title, loc="left")
            axes.spines[["top", "right"]].set_visible(False)
        if kinds:
            cpu.legend(frameon=False)
        figure.suptitle(f"{self.machine['cores']} cores, {self.machine['cpu']}, {self.date[:10]}", fontsize=9)
        figure.savefig(path, dpi=110)

    def write(self, folder: Path) -> Path:
        """Writes all three; returns the table's path."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"{self.date[:10]}-{slug(self.machine)}{'-quick' if self.quick else ''}"
        stem.with_suffix(".json").write_text(json.dumps(self.as_json(), indent=2) + "\n", "utf-8")
        table = stem.with_suffix(".md")
        table.write_text(self.table(), "utf-8")
        if self.paced:
            self.picture(stem.with_suffix(".png"))
        return table


def _first_group(results: Results, kind: str) -> int:
    return next(
        group for group, found in enumerate(results.paced.values()) if any(one.contender == kind for one in found)
    )


def _paced(found: list[Summary]) -> list[str]:
    lines = [
        "| | CPU a token, µs | × nginx | delivered | TTFT p50, ms | p99 | gap p50, ms | p99 | bytes a token | rounds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        figures = one.figures
        times = [str(figures[name]) for name in ("ttft_p50_ms", "ttft_p99_ms", "gap_p50_ms", "gap_p99_ms")]
        cells = [
            one.contender, str(figures["cpu_us"]), str(one.ratio or "–"), f"{figures['delivered'].low:.2%}", *times,
            f"{figures['wire_bytes'].median:.1f}", str(one.rounds),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _bulk(found: list[Summary]) -> list[str]:
    lines = ["| | tokens/s | CPU a token, µs | delivered |", "|---|---|---|---|"]
    for one in found:
        speed, cpu = one.figures["tokens_per_s"], one.figures["cpu_us"]
        spoken = f"{speed.median:,.0f} ({speed.low:,.0f}–{speed.high:,.0f})"
        lines.append(f"| {one.contender} | {spoken} | {cpu} | {one.figures['delivered'].low:.2%} |")
    return lines
