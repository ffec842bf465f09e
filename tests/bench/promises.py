"""What is promised of a bench's figures, and whether it was kept; and the table of them in `tests/README.md`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.bench.processes import BARE, TLS
from tests.bench.ratios import BASE, OURS, FarSummary, Middle, Summary
from tests.bench.results import Results

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"


@dataclass(frozen=True, slots=True)
class Promise:
    """One figure.

    Attributes:
        about: what it is, with its unit.
        bounds: by way to Claude.
        found: in the results of one way; None where it was not measured.
    """

    about: str
    bounds: Mapping[str, float]
    found: Callable[[Results, str], Middle | None]


def _both(bound: float) -> Mapping[str, float]:
    return {TLS: bound, BARE: bound}


def _paced(streams: int, figure: Callable[[Summary], Middle | None]) -> Callable[[Results, str], Middle | None]:
    def found(results: Results, way: str) -> Middle | None:
        ours = _named(results, way, streams, OURS)
        return figure(ours) if ours is not None else None

    return found


def _memory(state: str) -> Callable[[Results, str], Middle | None]:
    return lambda results, way: results.memory_kb.get(way, {}).get(state)


def _far(distance: str, figure: Callable[[FarSummary], Middle]) -> Callable[[Results, str], Middle | None]:
    def found(results: Results, way: str) -> Middle | None:
        one = results.far.get(way, {}).get(distance)
        return figure(one) if one is not None else None

    return found


def _named(results: Results, way: str, streams: int, name: str) -> Summary | None:
    those = results.paced.get(way, {}).get(streams, [])
    return next((one for one in those if one.contender == name), None)


NEAR, FAR = "1,000 tokens/s, 80 ms away", "400 tokens/s, 200 ms away"
PROMISES = (
    Promise("CPU a token, × nginx, 100 streams of 50 tokens/s", _both(1.3), _paced(100, lambda one: one.ratio)),
    Promise("CPU a token, × nginx, 400 streams", _both(1.1), _paced(400, lambda one: one.ratio)),
    Promise(
        "first token, median, ms above nginx, 400 streams", _both(3), _paced(400, lambda one: one.ttft_p50_more_ms)
    ),
    Promise("first token, 99th percentile, ms above nginx", _both(25), _paced(400, lambda one: one.ttft_p99_more_ms)),
    Promise("gap, 99th percentile, ms, 400 streams", _both(150), _paced(400, lambda one: one.figures["gap_p99_ms"])),
    Promise("memory of an idle stream, kB", _both(45), _memory("idle")),
    Promise("memory of a streaming one, kB", _both(50), _memory("streaming")),
    Promise("memory of a stalled one, kB", {TLS: 90, BARE: 52}, _memory("stalled")),
    Promise(f"whole answer, × straight: {FAR}", _both(1.05), _far(FAR, lambda one: one.ratio)),
    Promise(f"whole answer, × straight: {NEAR}", _both(1.05), _far(NEAR, lambda one: one.ratio)),
    Promise("first byte, s, 200 ms away", _both(0.43), _far(FAR, lambda one: one.first_s[OURS])),
)


def broken_promises(results: Results) -> list[str]:
    """The bounds that the results do not keep; what was not measured is not broken."""
    broken = []
    for promise in PROMISES:
        for way, bound in promise.bounds.items():
            found = promise.found(results, way)
            if found is not None and found.median > bound:
                broken.append(f"{promise.about}, {way}: {found}, bound {bound:g}")
    for way, sizes in results.paced.items():
        ours = {streams: one for streams in sizes if (one := _named(results, way, streams, OURS)) is not None}
        for streams, one in ours.items():
            if one.figures["delivered"].low < 1:
                broken.append(f"delivered at {streams} streams, {way}: {one.figures['delivered'].low:.4%}")
            if one.figures["failed"].high:
                broken.append(f"failed at {streams} streams, {way}: {one.figures['failed']}")
        # More streams must not make a token dearer.
        for fewer, more in zip(sorted(ours), sorted(ours)[1:], strict=False):
            dearer, before = ours[more].figures["cpu_us"], ours[fewer].figures["cpu_us"]
            if dearer.median > before.high:
                broken.append(f"CPU a token at {more} streams, {way}, µs: {dearer}, at {fewer} {before}")
    return broken


def readme_table(results: Results) -> str:
    """The promised figures beside their bounds, and what peers cost."""
    lines = ["| | promised | Claude behind TLS | plainly |", "|---|---|---|---|"]
    for promise in PROMISES:
        bounds = " / ".join(dict.fromkeys(f"{bound:g}" for bound in promise.bounds.values()))
        cells = (str(promise.found(results, way) or "–") for way in (TLS, BARE))
        lines.append(f"| {promise.about} | ≤ {bounds} | {' | '.join(cells)} |")
    peers = {one.contender for found in results.paced.get(TLS, {}).values() for one in found} - {BASE, OURS}
    for name in sorted(peers):
        streams, one = _smallest(results, TLS, name)
        lines.append(f"| {name}: CPU a token, × nginx, {streams} streams | | {one.ratio or '–'} | – |")
    lacking = f" Not measured: {'; '.join(results.missing)}." if results.missing else ""
    return "\n".join(
        [*lines, "", f"{results.about} {results.date[:10]}; medians, and from where to where.{lacking}", ""]
    )


def _smallest(results: Results, way: str, name: str) -> tuple[int, Summary]:
    return next(
        (streams, one)
        for streams, found in sorted(results.paced[way].items())
        for one in found
        if one.contender == name
    )


def placed(readme: str, results: Results, stem: str) -> str:
    """`tests/README.md` with table and picture between their marks; `stem` is the path of the results without its ending."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{readme_table(results)}\n![The bench's figures]({stem}.png)\n{END}{after}"
