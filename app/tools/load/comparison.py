"""Two services under the same readers, side by side. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .figures import Spread, StreamEnd
from .findings import Findings
from .plan import Kind

Row = tuple[str, ...]

_MIB = 2**20


def comparison(one: Findings, other: Findings) -> list[Row]:
    """A row for each thing that both were asked for: what it is, the one's, the other's, and the other's by the one's."""
    rows: list[Row] = [("", one.where, other.where, "the second, × the first")]
    for name, of, unit in _FIGURES:
        values = of(one), of(other)
        if values != (None, None):
            rows.append((name, *(_told(value, unit) for value in values), _ratio(*values)))
    return rows


def doubts(one: Findings, other: Findings) -> list[str]:
    """Why the two may not be held against each other; empty where nothing speaks against it."""
    found = [
        f"The load tester was the bottleneck in front of {each.where}: {each.bottleneck}."
        for each in (one, other)
        if each.bottleneck
    ]
    mean = [_contents_each(each) for each in (one, other)]
    if mean[0] and mean[1] and max(mean) > 1.2 * min(mean):
        found.append(
            "The answers differed in length: the second's readers who wanted all of it got "
            f"{mean[1] / mean[0]:.2f} × as much content each."
        )
    return found


def _contents_each(found: Findings) -> float:
    fast = found.figures.of(Kind.FAST)
    return fast.words / fast.ends[StreamEnd.FINISHED] if fast.ends[StreamEnd.FINISHED] and fast.words else 0.0


def _milliseconds(spread: Spread, share: float) -> float | None:
    return None if (at := spread.at(share)) is None else at * 1000


def _each(found: Findings, total: float | None) -> float | None:
    answered = sum(kind.answered for kind in found.figures.kinds.values())
    return None if total is None or not answered else total / answered


def _held(found: Findings) -> float | None:
    watched = sum(kind.watched for kind in found.figures.kinds.values())
    return sum(kind.held for kind in found.figures.kinds.values()) if watched else None


def _told(value: float | None, unit: str) -> str:
    if value is None:
        return "not measured"
    return f"{value:,.0f}{unit}" if value >= 100 or value == int(value) else f"{value:,.2f}{unit}"


def _ratio(one: float | None, other: float | None) -> str:
    return f"{other / one:.2f}" if one and other is not None else "–"


_FIGURES: Sequence[tuple[str, Callable[[Findings], float | None], str]] = (
    ("readers", lambda found: found.figures.started, ""),
    ("finished", lambda found: found.figures.count(StreamEnd.FINISHED), ""),
    ("refused", lambda found: found.figures.count(StreamEnd.REFUSED), ""),
    ("errors", lambda found: found.figures.errors, ""),
    ("TTFT p50, fast readers", lambda found: _milliseconds(found.fast[0], 0.5), " ms"),
    ("TTFT p99, fast readers", lambda found: _milliseconds(found.fast[0], 0.99), " ms"),
    ("gap p50, fast readers", lambda found: _milliseconds(found.fast[1], 0.5), " ms"),
    ("gap p99, fast readers", lambda found: _milliseconds(found.fast[1], 0.99), " ms"),
    ("bytes on the wire", lambda found: sum(kind.wire_bytes for kind in found.figures.kinds.values()), ""),
    ("streams whose producer was held", _held, ""),
    (
        "memory added, MiB",
        lambda found: None if found.memory_added_bytes is None else found.memory_added_bytes / _MIB,
        "",
    ),
    ("CPU a stream, ms", lambda found: None if found.service is None else _each(found, found.service.cpu_s * 1000), ""),
    ("tokens wasted", lambda found: None if found.service is None else found.service.wasted, ""),
)
