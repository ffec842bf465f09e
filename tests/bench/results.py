"""A bench's results: as JSON, as tables for people; `picture.py` draws them."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.bench.ratios import STRAIGHT, FarSummary, Middle, Summary

# Above so many processes that want to run, before the bench itself began, a machine is not quiet.
_QUIET_LOAD = 0.5


def machine() -> dict[str, Any]:
    """What kind of machine this is, and how busy; nothing that names it."""
    model = "unknown CPU"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists() and (found := re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.M)):
        model = found[1].strip()
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": re.sub(r"[^0-9.].*", "", platform.release()),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def slug(kind: Mapping[str, Any]) -> str:
    """The machine's kind as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", f"{kind['cores']} core {kind['cpu']}".lower()).strip("-")


@dataclass(slots=True)
class Results:
    """Everything one bench found; by way to Claude, under TLS and plainly.

    Attributes:
        date: of the run, in ISO 8601.
        quick: a short run, whose figures are only a smoke test.
        machine: its kind, and its load before the run.
        paced: by streams, the contenders at 50 tokens/s a stream.
        bulk: the contenders at full speed.
        memory_kb: by state, for each stream.
        far: by distance, beside straight answers.
        thrown_out: rounds in which the load generator fell behind, by measure.
        missing: what was not measured, and why.
    """

    date: str
    quick: bool
    machine: dict[str, Any] = field(default_factory=machine)
    paced: dict[str, dict[int, list[Summary]]] = field(default_factory=dict)
    bulk: dict[str, list[Summary]] = field(default_factory=dict)
    memory_kb: dict[str, dict[str, Middle]] = field(default_factory=dict)
    far: dict[str, dict[str, FarSummary]] = field(default_factory=dict)
    thrown_out: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """What `as_json` gave, read again."""
        return cls(
            date=found["date"],
            quick=found["quick"],
            machine=found["machine"],
            paced={
                way: {int(streams): [Summary.from_json(one) for one in those] for streams, those in sizes.items()}
                for way, sizes in found["paced"].items()
            },
            bulk={way: [Summary.from_json(one) for one in those] for way, those in found["bulk"].items()},
            memory_kb={
                way: {state: Middle(**kb) for state, kb in states.items()} for way, states in found["memory_kb"].items()
            },
            far={
                way: {distance: FarSummary.from_json(one) for distance, one in distances.items()}
                for way, distances in found["far"].items()
            },
            thrown_out=found["thrown_out"],
            missing=found["missing"],
        )

    @property
    def about(self) -> str:
        """The machine and the day, in a sentence."""
        kind = self.machine
        busy = "" if kind["load"] <= _QUIET_LOAD else f", not quiet: its load was {kind['load']:g} before it began"
        return f"{kind['cores']} cores, {kind['cpu']}, Linux {kind['kernel']}, Python {kind['python']}{busy}."

    def table(self) -> str:
        """The results in Markdown; medians, and from where to where in brackets."""
        lines = [
            f"# Bench of {self.date[:10]}{' (quick: a smoke test, not a measurement)' if self.quick else ''}",
            "",
            f"{self.about} Medians of rounds, and from where to where; ratios are to nginx's pass-through the same way, "
            "in the same round.",
        ]
        for way, sizes in self.paced.items():
            for streams, found in sizes.items():
                lines += ["", f"## {streams:,} streams of 50 tokens/s, {way} to Claude", "", *_paced(found)]
        for way, found in self.bulk.items():
            lines += ["", f"## {found[0].streams} streams as fast as they go, {way} to Claude", "", *_bulk(found)]
        if self.memory_kb:
            lines += ["", "## Memory of the service for each stream, kB", "", *_memory(self.memory_kb)]
        if self.far:
            lines += ["", "## Far away, beside straight answers over the same link", "", *_far(self.far)]
        for measure, count in self.thrown_out.items():
            lines += ["", f"Thrown out at {measure}: {count} rounds in which the load generator fell behind."]
        if self.missing:
            lines += ["", "Not measured: " + "; ".join(self.missing) + "."]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> Path:
        """Writes JSON and table; returns the table's path."""
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"{self.date[:10]}-{slug(self.machine)}{'-quick' if self.quick else ''}"
        stem.with_suffix(".json").write_text(json.dumps(self.as_json(), indent=1) + "\n", "utf-8")
        table = stem.with_suffix(".md")
        table.write_text(self.table(), "utf-8")
        return table


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _heading(*cells: str) -> list[str]:
    return [_row(*cells), "|---" * len(cells) + "|"]


def _paced(found: list[Summary]) -> list[str]:
    times = ("TTFT p50, ms", "p99", "gap p50, ms", "p99")
    lines = _heading("", "CPU a token, µs", "× nginx", "delivered", "failed", *times, "bytes a token", "rounds")
    for one in found:
        figures = one.figures
        spans = [figures[name] for name in ("ttft_p50_ms", "ttft_p99_ms", "gap_p50_ms", "gap_p99_ms")]
        delivered, wire = f"{figures['delivered'].low:.2%}", f"{figures['wire_bytes'].median:.1f}"
        came = (delivered, figures["failed"])
        lines.append(_row(one.contender, figures["cpu_us"], one.ratio or "–", *came, *spans, wire, one.rounds))
    return lines


def _bulk(found: list[Summary]) -> list[str]:
    lines = _heading("", "tokens/s", "CPU a token, µs", "delivered", "failed")
    for one in found:
        speed, delivered = one.figures["tokens_per_s"], one.figures["delivered"]
        spoken = f"{speed.median:,.0f} ({speed.low:,.0f}–{speed.high:,.0f})"
        lines.append(_row(one.contender, spoken, one.figures["cpu_us"], f"{delivered.low:.2%}", one.figures["failed"]))
    return lines


def _memory(found: Mapping[str, Mapping[str, Middle]]) -> list[str]:
    states = dict.fromkeys(state for those in found.values() for state in those)
    lines = _heading("", *found)
    return lines + [_row(state, *(those.get(state, "–") for those in found.values())) for state in states]


def _far(found: Mapping[str, Mapping[str, FarSummary]]) -> list[str]:
    lines = _heading("", "who", "first byte, s", "in all, s", "× straight", "× straight, from the first byte on")
    for way, distances in found.items():
        for one in distances.values():
            for who in one.all_s:
                ratios = (one.ratio, one.flow_ratio) if who != STRAIGHT else ("–", "–")
                lines.append(_row(f"{one.distance}, {way}", who, one.first_s[who], one.all_s[who], *ratios))
    return lines
