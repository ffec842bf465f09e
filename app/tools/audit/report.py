"""The audit's report in words, and its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .run import KindResult, Recording

_COLUMNS = 3
_INK, _BLUE, _ORANGE = "#1f2328", "#1f6feb", "#bc4c00"


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %"


def report(results: Sequence[KindResult], recordings: Sequence[Recording], *, streams: int, seed: int) -> str:
    """The report as Markdown."""
    lines = [
        "# Audit of the ledger",
        "",
        f"{streams} simulated streams a repetition, seeds from {seed}; sums over the streams aborted after 50 had finished.",
        "Errors are estimate against truth; in brackets the worst single repetition.",
        "",
        "| lengths | repetitions | aborted | generated | avoided, expected | repetitions within 10 % "
        "| avoided, naive | 90 % interval covers | its half width | upper bound | targets |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for v in results:
        targets = {True: "met", False: "MISSED", None: "none: the assumption fails"}[v.passed]
        lines.append(
            f"| {v.name} | {v.repeats} | {v.aborted} | {_percent(v.generated)} ({100 * v.worst_generated:.1f} %) "
            f"| {_percent(v.expected)} ({100 * v.worst_expected:.1f} %) | {v.within_target_of_100:.0f} of 100 "
            f"| {_percent(v.naive)} | {v.covered_of_100:.0f} of 100 | ±{100 * v.half_width:.1f} % "
            f"| {v.upper:.1f} × truth | {targets} |"
        )
    lines += [
        "",
        "Naive is the mean length of the finished answers less what was generated, at least 0.",
        "Where leaving depends on the answer's length, Kaplan-Meier's assumption fails and the estimate is biased by what",
        "the table shows; no data of the ledger's own can reveal it.",
    ]
    if recordings:
        lines += _recordings(recordings)
    return "\n".join(lines) + "\n"


def _recordings(recordings: Sequence[Recording]) -> list[str]:
    counted = [r for r in recordings if not r.broken]
    exact, estimated = sum(r.exact for r in counted), sum(r.estimated for r in counted)
    off = sum(abs(r.estimated - r.exact) for r in counted)
    seen = sum(r.exact_when_seen for r in recordings)
    return [
        "",
        "## Recorded answers, each estimated by what the others taught",
        "",
        f"Total {_percent(estimated / exact - 1)}, mean absolute error {off / exact:.0%} of the tokens; "
        f"exact with usage seen: {seen} of {len(recordings)}.",
        "",
        "| recording | exact | estimated | error |",
        "|---|---|---|---|",
        *(
            f"| {r.name} | {r.exact} | {r.estimated} | {_percent(r.estimated / r.exact - 1) if r.exact else '–'}"
            f"{' (broken on purpose, not counted)' if r.broken else ''} |"
            for r in recordings
        ),
    ]


def picture(
    paths: Mapping[str, Sequence[tuple[float, float, float, float, float]]], results: Sequence[KindResult], file: Path
) -> None:
    """Draws, for the first repetition of each kind, the estimate and its interval as the aborted streams come in.

    Args:
        paths: by kind, cumulated (truth, expected, low, high, naive) after each aborted stream.
        results: the same kinds, judged over all repetitions.
        file: the PNG to write.
    """
    import matplotlib  # takes a second, so for the drawing alone

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt  # chooses its backend on import

    rows = (len(results) + _COLUMNS) // _COLUMNS  # one place more than kinds, for the legend
    figure, grid = plt.subplots(rows, _COLUMNS, figsize=(4.3 * _COLUMNS, 3.5 * rows), squeeze=False)
    axes = list(grid.flat)
    for axis, result in zip(axes, results, strict=False):
        path = [point for point in paths[result.name] if point[0] > 0]
        count = range(1, len(path) + 1)
        off = [[100 * (point[i] / point[0] - 1) for point in path] for i in range(5)]
        axis.axhspan(-10, 10, color="#eaeef2", lw=0, label="±10 %, the target")
        axis.axhline(0, color=_INK, lw=1, label="truth")
        axis.fill_between(count, off[2], off[3], color=_BLUE, alpha=0.2, lw=0, label="90 % interval of the total")
        axis.plot(count, off[1], color=_BLUE, lw=1.8, label="expected (Kaplan-Meier)")
        axis.plot(count, off[4], color=_ORANGE, lw=1.2, ls="--", label="naive: mean length − generated")
        axis.set(ylim=(-100, 100), xlabel="aborted streams", ylabel="off the truth (%)")
        axis.set_title(result.name.replace(", ", ",\n"), fontsize=10, color=_INK)
        note = f"truth: {path[-1][0]:,.0f} tokens avoided\n" if path else ""
        note += f"{result.repeats} repetitions: {result.expected:+.1%}, covered in {result.covered_of_100:.0f} %"
        axis.annotate(note, (0.97, 0.96), xycoords="axes fraction", ha="right", va="top", fontsize=8, color=_INK)
        axis.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    for axis in axes[len(results) :]:
        axis.axis("off")
    axes[-1].legend(handles, labels, loc="center", frameon=False, fontsize=10)
    figure.suptitle("Avoided tokens: the ledger's estimate against the truth, first repetition", color=_INK)
    figure.tight_layout()
    figure.savefig(file, dpi=100)
    plt.close(figure)
