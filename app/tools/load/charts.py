"""Line charts as inline SVG, for a report that stays one file. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 640, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 22, 12, 28  # margins
_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class Line:
    """One series.

    Attributes:
        points: (seconds, value); None where there is no value: the line is broken there.
    """

    name: str
    points: Sequence[tuple[float, float | None]]


def ticks(top: float, most: int = 5) -> list[float]:
    """Round numbers from 0 to at least `top`, no more than `most` steps."""
    if top <= 0:
        return [0.0, 1.0]
    raw = top / most
    scale = 10 ** math.floor(math.log10(raw))
    step = next(factor * scale for factor in _STEPS if factor * scale >= raw * 0.999999)
    return [round(step * number, 12) for number in range(math.ceil(top / step * 0.999999) + 1)]


def chart(title: str, unit: str, lines: Iterable[Line]) -> str:
    """A chart over time with its legend, as `<figure>`; it says so where there is nothing to show."""
    shown = [line for line in lines if any(value is not None for _, value in line.points)]
    caption = f"<figcaption>{escape(title)} <small>{escape(unit)}</small></figcaption>"
    if not shown:
        return f"<figure>{caption}<p>Not measured.</p></figure>"
    x_ticks = ticks(max(at for line in shown for at, _ in line.points), 8)
    y_ticks = ticks(max(value for line in shown for _, value in line.points if value is not None))
    x_scale = (_WIDTH - _LEFT - _RIGHT) / x_ticks[-1]
    y_scale = (_HEIGHT - _TOP - _BOTTOM) / y_ticks[-1]
    bottom = _HEIGHT - _BOTTOM
    parts = []
    for tick in y_ticks:
        y = bottom - tick * y_scale
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x = _LEFT + tick * x_scale
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g} s</text>')
    for place, line in enumerate(shown):
        for piece in _pieces(line.points):
            points = [f"{_LEFT + at * x_scale:.1f},{bottom - value * y_scale:.1f}" for at, value in piece]
            # A point without neighbours would be a line of no length.
            drawn = points if len(points) > 1 else points * 2
            parts.append(f'<polyline class="c{place}" points="{" ".join(drawn)}"/>')
    keys = "".join(f'<span class="key k{place}">{escape(line.name)}</span>' for place, line in enumerate(shown))
    picture = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg>'
    return f"<figure>{caption}{picture}<div>{keys}</div></figure>"


def _pieces(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """The line cut where values are missing."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for at, value in points:
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append((at, value))
    return [piece for piece in pieces if piece]
